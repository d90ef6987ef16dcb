# SPDX-License-Identifier: Apache-2.0
"""Every device in one guest, on Debian's kernels (for the cloud, generic, i386) and on each transport:
the drivers find them, they do their work, and the kernel complains of nothing.

RF_DEVICES=ENGINE goes through all combinations of kernels, transports and processors under that engine,
with a thousand operations on the share. Nothing here needs a privilege.
"""
import hashlib
import itertools
import os
import socket
import threading
import time

from rftest import (LIMIT, Skip, check, clean_log, find_appliance, find_generic, find_i386, main,
                    start_guest, with_drivers, with_files, workdir, write)
import share

ALL = os.environ.get('RF_DEVICES')
PEER = os.environ.get('RF_VSOCK_PEER', '')
MIB = 1 << 20
BULK = 256 << 10
OPERATIONS = 1000 if ALL else 200

KERNELS = {'cloud': find_appliance, 'generic': find_generic, 'i386': find_i386}
# What `--virtio` says, and what a guest's command line adds. Transitional devices are driven through
# their legacy registers.
TRANSPORTS = {'modern': ('pci-modern', ''), 'legacy': ('pci', ' virtio_pci.force_legacy=1'),
              'mmio': ('mmio', '')}


def appliance(kernel):
    folder = with_drivers(KERNELS[kernel]())
    if not PEER:
        raise Skip('RF_VSOCK_PEER names no program')
    with open(PEER, 'rb') as f:
        return with_files(folder, {'bin/vsock_peer': f.read()})


def digest(data):
    return hashlib.sha256(data).hexdigest()


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s:
        return s.getsockname()[1]


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(LIMIT)
    s.connect(path)
    return s


class Bench:
    """The host's ends of a guest's devices, and the options that connect them."""

    def __init__(self):
        self.at = lambda name: os.path.join(workdir(), name)
        for name in 'vsock', 'port', 'hvc', 'vsock_5000':
            if os.path.exists(self.at(name)):
                os.unlink(self.at(name))
        self.data = {n: os.urandom(MIB) for n in ('vda', 'sda', 'cd')}
        self.disks = {n: write(n, d) for n, d in self.data.items()}
        self.share, self.tools, self.twin = (share.folder(n) for n in ('share', 'tools', 'twin'))
        self.port = free_port()

    def options(self):
        return ['--disk', f'{self.disks["vda"]},serial=rf-serial',
                '--disk', f'{self.disks["sda"]},raw,sda,rw', '--disk', f'{self.disks["cd"]},raw,sdb,r,cdrom',
                '--vif', f'user,hostfwd=tcp:127.0.0.1:{self.port}-:7',
                '--share', f'tag=share,path={self.share}', '--share', f'tag=tools,path={self.tools},access=ro',
                '--vsock', self.at('vsock'), '--console', 'unix:' + self.at('hvc'),
                '--channel', f'name=org.test,connection=socket,path={self.at("port")}',
                '--memory', '192M', '--maxmem', '224M', '--watchdog', 'reset']


def in_background(f, *args):
    threading.Thread(target=f, args=args, daemon=True).start()


def take(conn, answer):
    """All that comes, until the other side ends or is reset."""
    with conn:
        try:
            while piece := conn.recv(65536):
                answer(piece)
        except ConnectionError:
            pass


def take_from_all(listener, echo):
    """Until the listener is closed."""
    while True:
        try:
            conn = listener.accept()[0]
        except OSError:
            return
        in_background(take, conn, conn.sendall if echo else lambda _: None)


def there_and_back(s, data, f=None):
    """What comes back of `data`, which is sent meanwhile."""
    sender = threading.Thread(target=s.sendall, args=(data,), daemon=True)
    sender.start()
    got = (f or s.makefile('rb')).read(len(data))
    sender.join(LIMIT)
    check(got == data, f'{len(got)} bytes came back, or others')


def wait_for_quiet_shell(g):
    """What the kernel says stays out of what commands print."""
    g.wait_for_shell()
    g.run('dmesg -n 1')


def use_disks(g, bench):
    g.run('for i in $(seq 100); do [ -b /dev/sda -a -b /dev/sr0 ] && break; sleep 0.1; done')
    for device, name in ('vda', 'vda'), ('sda', 'sda'), ('sr0', 'cd'):
        check(g.run(f'sha256sum </dev/{device}').split()[0] == digest(bench.data[name]), device, g)
    check(g.run('cat /sys/block/vda/serial').strip() == 'rf-serial', g)
    for device in 'vda', 'sda':
        g.run(f'seq 20000 | dd of=/dev/{device} bs=4k seek=16 conv=fsync 2>/dev/null')
    g.run('! dd if=/dev/zero of=/dev/sr0 bs=2k count=1 2>/dev/null')


def look_at_disks(bench):
    text = ''.join(f'{i}\n' for i in range(1, 20001)).encode()
    for name, written in ('vda', True), ('sda', True), ('cd', False):
        want = bytearray(bench.data[name])
        if written:
            want[65536:65536 + len(text)] = text
        with open(bench.disks[name], 'rb') as f:
            check(f.read() == want, f'{name} is not what was written')


def use_network(g, bench):
    g.run('for i in $(seq 300); do ip -4 addr show eth0 | grep -q "inet 10\\." && break; sleep 0.1; done')
    check('10.0.2.15/24' in g.run('ip addr show eth0'), g)
    check('nameserver 10.0.2.3' in g.run('cat /etc/resolv.conf'), g)
    check(' 0% packet loss' in g.run('ping -c 1 10.0.2.2'), g)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        in_background(take_from_all, listener, True)
        # nc hangs up when its input ends: the sleep lets the answer come.
        out = g.run('(cat /bin/busybox | head -c 200000; sleep 1) | '
                    f'nc 10.0.2.2 {listener.getsockname()[1]} | sha256sum')
        check(out == g.run('head -c 200000 /bin/busybox | sha256sum'), g)
    g.run('(nc -ll -p 7 -e cat >/dev/null 2>&1 &)')
    g.run('for i in $(seq 100); do netstat -ltn | grep -q ":7 " && break; sleep 0.1; done')
    with socket.create_connection(('127.0.0.1', bench.port), timeout=LIMIT) as s:
        there_and_back(s, os.urandom(BULK))


def use_vsock(g, bench):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(bench.at('vsock_5000'))
    listener.listen()
    in_background(take_from_all, listener, True)
    check(g.run(f'vsock_peer send 5000 {BULK}') == f'same {BULK}\n', g)
    listener.close()
    g.type('vsock_peer echo 7000 & wait')
    g.wait_for('listening\r\n')
    with connect(bench.at('vsock')) as s:
        s.sendall(b'CONNECT 7000\n')
        f = s.makefile('rb')
        check(f.readline().startswith(b'OK '))
        there_and_back(s, os.urandom(BULK), f)
        s.shutdown(socket.SHUT_WR)
        check(f.read() == b'')
    g.wait_for('echoed\r\n')
    g.wait_for_shell()


def use_console(g, bench):
    check(g.run('cat /sys/class/virtio-ports/*/name') == 'org.test\n', g)
    device = '/dev/' + g.run('ls /dev | grep vport.p1').strip()
    with connect(bench.at('hvc')) as s, connect(bench.at('port')) as p:
        g.run('echo on the console >/dev/hvc0')
        check(s.recv(100) == b'on the console\r\n')
        p.sendall(b'a line\n')
        check(g.run(f'head -n 1 {device}') == 'a line\n', g)
        g.type(f'seq 20000 >{device}')
        lots = ''.join(f'{i}\n' for i in range(1, 20001)).encode()
        check(p.makefile('rb').read(len(lots)) == lots)
    g.wait_for_shell()


def use_share(g, bench, seed):
    script = share.write_script(bench.tools, seed, OPERATIONS)
    share.on_the_host(os.path.join(find_appliance(), 'root/bin/busybox'), bench.twin, script)
    share.in_the_guest(g)
    share.compare(bench.share, bench.twin)


def use_entropy(g):
    check('virtio_rng' in g.run('cat /sys/class/misc/hw_random/rng_available'), g)
    one, two = (g.run('head -c 256 /dev/hwrng | sha256sum') for _ in range(2))
    check(one != two, one)


def held(g):
    """MiB of the guest's memory that the host holds."""
    with open(f'/proc/{g.p.pid}/status', encoding='ascii') as f:
        line = next(x for x in f if x.startswith('RssShmem'))
    return int(line.split()[1]) >> 10


def use_memory(g):
    """The balloon holds what is beyond --memory; what is freed goes back, and comes again."""
    check(int(g.run("awk '/MemAvailable/{print$2}' /proc/meminfo")) < 192 << 10, g)
    g.run('mkdir -p /big; mount -t tmpfs -o size=90% big /big')
    for _ in range(2):
        g.run('dd if=/dev/zero of=/big/file bs=1M count=64 2>/dev/null')
        full = held(g)
        g.run('rm /big/file')
        end = time.monotonic() + LIMIT
        while held(g) > full - 48:
            check(time.monotonic() < end, full, held(g))
            time.sleep(0.1)
    g.run('umount /big')


def restart_by_watchdog(g):
    check('i6300ESB' in g.run('cat /sys/class/watchdog/watchdog0/identity'), g)
    g.type('watchdog -F -T 2 -t 60 /dev/watchdog')  # it would be fed after a minute
    g.wait_for('Ringfence appliance: init runs')
    wait_for_quiet_shell(g)


def every_device(kernel, transport, vcpus, engine, watchdog=False):
    folder, bench = appliance(kernel), Bench()
    virtio, more = TRANSPORTS[transport]
    with start_guest(folder, '--engine', engine, '--vcpus', vcpus, '--virtio', virtio,
                     '--kernel', folder + '/vmlinuz', '--initrd', folder + '/initrd.img',
                     '--append', 'console=ttyS0' + more, *bench.options()) as g:
        wait_for_quiet_shell(g)
        use_disks(g, bench)
        use_network(g, bench)
        use_vsock(g, bench)
        use_console(g, bench)
        use_entropy(g)
        use_memory(g)
        if kernel != 'cloud':  # it has no 9P
            use_share(g, bench, vcpus)
        clean_log(g.run('dmesg -r'))
        if watchdog:
            restart_by_watchdog(g)
        g.run('lsmod | grep -q pvpanic')
        g.type('echo c >/proc/sysrq-trigger')
        _, err = g.p.communicate(timeout=LIMIT)
        check(g.p.returncode == 3 and b'it announced a panic' in err, g.p.returncode, err)
    look_at_disks(bench)


# Work for every device, for as long as it lasts; the shell's errors say nothing.
ALL_AT_ONCE = """exec </dev/null >/dev/null 2>&1
(while :; do dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync; done) &
(while :; do dd if=/dev/urandom of=/dev/sda bs=64k count=16 conv=fsync; done) &
(while :; do dd if=/dev/sr0 of=/dev/null bs=2k; echo 3 >/proc/sys/vm/drop_caches; done) &
(while :; do nc 10.0.2.2 $1 </dev/zero; done) &
(while :; do vsock_peer send 5000 1000000; done) &
(cat /dev/zero >/dev/$2) &
(cat /dev/zero >/dev/hvc0) &
(while :; do cat /dev/hwrng | head -c 4096; done) &
(while :; do cp /bin/busybox /share/x && cmp /bin/busybox /share/x; done) &
(mkdir -p /big; mount -t tmpfs big /big
while :; do dd if=/dev/zero of=/big/x bs=1M count=32; rm /big/x; sleep 0.1; done) &
wait
"""


def devices_answer(g, bench):
    for device in 'vda', 'sda', 'sr0':
        g.run(f'for i in $(seq 100); do [ -b /dev/{device} ] && break; sleep 0.1; done')
        g.run(f'dd if=/dev/{device} of=/dev/null bs=64k count=4 2>/dev/null')
    g.run('for i in $(seq 300); do ip -4 addr show eth0 | grep -q "inet 10\\." && break; sleep 0.1; done')
    check(' 0% packet loss' in g.run('ping -c 1 10.0.2.2'), g)
    check(g.run(f'vsock_peer send 5000 {BULK}') == f'same {BULK}\n', g)
    g.run('mkdir -p /share; mount -t 9p -o trans=virtio,version=9p2000.L share /share')
    g.run('cp /bin/busybox /share/whole; cmp /bin/busybox /share/whole')
    check(g.run('cat /sys/class/virtio-ports/*/name') == 'org.test\n', g)
    g.run('head -c 64 /dev/hwrng >/dev/null')
    clean_log(g.run('dmesg -r'))


def test_resets_while_every_device_works():
    """The guest resets itself with requests, connections and transfers under way, twice."""
    folder, bench = appliance('generic'), Bench()
    with start_guest(folder, '--engine', 'bt', '--vcpus', '2', *bench.options()) as g, \
            socket.create_server(('127.0.0.1', 0)) as sink, socket.socket(socket.AF_UNIX) as echo:
        echo.bind(bench.at('vsock_5000'))
        echo.listen()
        in_background(take_from_all, sink, False)
        in_background(take_from_all, echo, True)
        with open(os.path.join(bench.tools, 'all'), 'w', encoding='ascii') as f:
            f.write(ALL_AT_ONCE)
        for _ in range(2):
            wait_for_quiet_shell(g)
            devices_answer(g, bench)
            device = g.run('ls /dev | grep vport.p1').strip()
            g.run('mkdir -p /tools; mount -t 9p -o trans=virtio,version=9p2000.L tools /tools')
            for end in 'port', 'hvc':
                in_background(take, connect(bench.at(end)), lambda _: None)
            g.type(f'sh /tools/all {sink.getsockname()[1]} {device} & '
                   'sleep 3; echo b >/proc/sysrq-trigger')
            g.wait_for('Ringfence appliance: init runs')
        wait_for_quiet_shell(g)
        devices_answer(g, bench)
        g.end('poweroff -f', 0)


SOME = (('cloud', 'modern', 2, 'bt'), ('generic', 'legacy', 2, 'bt'), ('generic', 'mmio', 1, 'bt'),
        ('i386', 'modern', 1, 'bt'), ('i386', 'legacy', 2, 'bt'), ('cloud', 'mmio', 1, 'interp'))


def combinations():
    """The combinations, each as a test; the watchdog (of the kernels that know it) in some."""
    chosen = itertools.product(KERNELS, TRANSPORTS, (1, 2), (ALL,)) if ALL else SOME
    for how in chosen:
        watchdog = how[0] != 'cloud' and (ALL or how[1] == 'legacy')
        yield ('test_{}_kernel_{}_{}_vcpus_{}'.format(*how),
               lambda how=how, watchdog=watchdog: every_device(*how, watchdog))


main({**dict(combinations()), **globals()})

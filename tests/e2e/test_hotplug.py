# SPDX-License-Identifier: Apache-2.0
"""A running domain through its control socket: the verbs, and devices that come and go under a guest."""
import json
import os
import select
import signal
import socket
import subprocess
import time

from rftest import (ECHO, HALT, LIMIT, POWER_OFF, check, expect, find_appliance, in8, main, rf,
                    rom, spawn, start_guest, with_drivers, write)

MIB = 1 << 20
NAME = f'e2e-{os.getpid()}'


def appliance():
    return with_drivers(find_appliance())


def guest(*args):
    return start_guest(appliance(), '--engine', 'bt', '--name', NAME, *args)


def ready(g, *modules):
    """A shell on a console that the kernel keeps silent on, and drivers for what is to come."""
    g.wait_for_shell()
    g.run('dmesg -n 1')
    if modules:
        g.run('modprobe -a ' + ' '.join(modules))


def verb(*args):
    """What a verb prints; it must succeed."""
    return expect(rf(*args), 0).out.decode()


def wait_until(what, *args):
    end = time.monotonic() + LIMIT
    while not what():
        check(time.monotonic() < end, *[a() for a in args])
        time.sleep(0.05)


def folder():
    base = os.environ.get('XDG_RUNTIME_DIR')
    if os.geteuid() == 0:
        return '/run/ringfence'
    return base + '/ringfence' if base else f'/tmp/ringfence-{os.geteuid()}'


def connect(name):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(LIMIT)
    here = os.open('.', os.O_RDONLY)
    try:
        os.chdir(os.path.join(folder(), name))  # the path may be longer than an address
        s.connect('control')
    finally:
        os.fchdir(here)
        os.close(here)
    return s


def call(name, method, **params):
    with connect(name) as s, s.makefile('rw') as f:
        f.write(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params}) + '\n')
        f.flush()
        return json.loads(f.readline())


def pids():
    return [d['pid'] for d in json.loads(verb('list', '--json'))]


def idle(name=NAME, code=HALT):
    """A domain that does nothing, with its control socket."""
    p = spawn('run', '--name', name, '--bios', rom(code), '--vif', 'none', '--serial', 'none',
              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: p.pid in pids() or p.poll() is not None)
    check(p.poll() is None, p.returncode, p.stderr)
    return p


def disk_round(g, image, i):
    verb('block-attach', NAME, image, 'raw', 'xvdb')
    wait_until(lambda: 'vda' in g.run('ls /sys/block'), lambda: g.run('dmesg | tail'))
    g.run(f'dd if=/dev/urandom of=/tmp/new bs=64k count=16 2>/dev/null; echo {i} >>/tmp/new')
    g.run(f'dd if=/tmp/new of=/dev/vda bs=64k seek={i * 16} conv=fsync 2>/dev/null')
    g.run('echo 3 >/proc/sys/vm/drop_caches; '
          f'dd if=/dev/vda bs=64k skip={i * 16} count=16 2>/dev/null | cmp -n {MIB} - /tmp/new')
    verb('block-detach', NAME, 'xvdb')
    check('vda' not in g.run('ls /sys/block'), g)
    check(json.loads(verb('block-list', '--json', NAME)) == [], 'still there')


def complaints(g):
    bad = [x for x in g.run('dmesg -r').splitlines()
           if x[:2] == '<' and x[1] in '0123' or 'Call Trace' in x or 'WARNING' in x]
    check(not bad, *bad)


def resources(g):
    """How many threads and descriptors the monitor has, without those of a client that just left."""
    time.sleep(0.1)
    return [len(os.listdir(f'/proc/{g.p.pid}/{what}')) for what in ('task', 'fd')]


def disks_come_and_go(rounds, *args):
    image = write('disk', b'')
    os.truncate(image, 32 * MIB)
    with guest('--vif', 'none', *args) as g:
        ready(g, 'virtio_blk')
        disk_round(g, image, 0)
        before = resources(g)
        for i in range(1, rounds):
            disk_round(g, image, i)
        check(resources(g) == before, before, resources(g))
        complaints(g)
        g.end('poweroff -f', 0)
    with open(image, 'rb') as f:
        check(all(any(f.read(MIB)) for _ in range(rounds)), 'something was not written')


def test_a_disk_comes_and_goes():
    disks_come_and_go(20)


def test_over_modern_pci_with_two_processors():
    disks_come_and_go(20, '--virtio', 'pci-modern', '--vcpus', 2)


def test_detached_at_work():
    """A guest that writes while its disk is taken away gets errors, and goes on."""
    image = write('busy', b'')
    os.truncate(image, 32 * MIB)
    with guest('--vif', 'none', '--vcpus', 2) as g:
        ready(g, 'virtio_blk')
        for _ in range(5):
            verb('block-attach', NAME, image, 'vdev=xvdc')
            wait_until(lambda: 'vda' in g.run('ls /sys/block'))
            g.run('(while dd if=/dev/zero of=/dev/vda bs=64k count=256 oflag=direct; do :; done) '
                  '>/dev/null 2>&1 & sleep 0.2')
            verb('block-detach', NAME, 'xvdc')
            g.run('wait; test ! -e /sys/block/vda')
            g.run('rm -f /dev/vda')
        g.end('poweroff -f', 0)


def test_scsi_and_cd():
    image, cd = write('scsi', bytes(4 * MIB)), write('cd', b'CD001' * 4096 * 4)
    with guest('--vif', 'none') as g:
        ready(g, 'virtio_scsi', 'sd_mod', 'sr_mod')
        verb('block-attach', NAME, image, 'vdev=sdb')
        verb('block-attach', NAME, cd, 'devtype=cdrom')
        wait_until(lambda: {'sda', 'sr0'} <= set(g.run('ls /sys/block').split()), lambda: g)
        g.run('echo hello >/dev/sda; sync')
        check(g.run('head -c 5 /dev/sr0') == 'CD001', g)
        ids = [d['id'] for d in json.loads(verb('block-list', '--json', NAME))]
        check(ids == ['sdb', 'xvda'], ids)
        for x in ids:
            verb('block-detach', NAME, x)
        left = set(g.run('ls /sys/block').split())
        check(not left & {'sda', 'sr0'}, left)
        g.end('poweroff -f', 0)
    with open(image, 'rb') as f:
        check(f.read(5) == b'hello', 'not written')


def test_a_network_interface_comes_and_goes():
    with guest('--vif', 'none', '--virtio', 'pci-modern', '--vcpus', 2) as g:
        ready(g, 'virtio_net')
        for i in range(3):
            mac = f'00:16:3e:00:00:0{i}'
            verb('network-attach', NAME, 'user', f'mac={mac}')
            wait_until(lambda: 'eth0' in g.run('ls /sys/class/net'))
            check(g.run('cat /sys/class/net/eth0/address').strip() == mac, g)
            g.run('ip link set eth0 up; udhcpc -i eth0 -q -n >/dev/null 2>&1')
            check('10.0.2.15' in g.run('ip addr show eth0'), g)
            for up in (False, True):
                check('result' in call(NAME, 'nic.link', id='0', up=up))
                wait_until(lambda: g.run('cat /sys/class/net/eth0/carrier').strip() == str(int(up)))
            check(mac in verb('network-list', NAME), mac)
            verb('network-detach', NAME, mac if i else '0')
            check('eth0' not in g.run('ls /sys/class/net'), g)
        complaints(g)
        g.end('poweroff -f', 0)


def test_memory():
    def held():
        with open(f'/proc/{g.p.pid}/status', encoding='ascii') as f:
            return int(next(x for x in f if x.startswith('RssShmem')).split()[1]) >> 10

    def mem():
        return int(rf('list', NAME).out.split()[8])

    with guest('--vif', 'none', '--memory', '512M', '--vcpus', 2) as g:
        ready(g)
        check(mem() == 512, mem)
        g.run('mkdir -p /big; mount -t tmpfs -o size=90% big /big; '
              'dd if=/dev/zero of=/big/file bs=1M count=200 2>/dev/null')
        before = held()
        check(before > 200, before)
        g.run('rm /big/file')
        verb('mem-set', NAME, '200')
        wait_until(lambda: mem() == 200, mem)
        wait_until(lambda: held() < before - 150, held)
        verb('mem-set', NAME, '512M')
        wait_until(lambda: mem() == 512, mem)
        g.run('dd if=/dev/zero of=/big/file bs=1M count=300 2>/dev/null')
        check(held() > 300, held())
        expect(rf('mem-set', NAME, '1G'), 1, 'memory: not between 2 MiB and')
        g.end('poweroff -f', 0)


def test_a_guest_that_does_not_listen():
    """It stays asked, and the device goes when the machine resets."""
    image = write('deaf', bytes(MIB))
    with guest('--vif', 'none') as g:
        ready(g)
        verb('block-attach', NAME, image)
        # Interrupts of ACPI are off: the guest is deaf.
        g.run('echo disable >/sys/firmware/acpi/interrupts/gpe01')
        expect(rf('block-detach', NAME, 'xvda'), 1, 'the guest has not let go of xvda within 10 s')
        check('detaching' in verb('block-list', NAME))
        g.type('reboot -f')
        wait_until(lambda: 'xvda' not in verb('block-list', NAME))
        ready(g)
        check('vda' not in g.run('ls /sys/block'), g)
        g.end('poweroff -f', 0)


def test_what_is_wrong_with_a_device():
    image = write('wrong', bytes(MIB))
    p = idle()
    for args, status, message in (
            (('block-attach', NAME, '/nonexistent'), 1, '/nonexistent: open: No such file'),
            (('block-attach', NAME, image, 'vdev=floppy'), 2, "vdev 'floppy'"),
            (('block-attach', NAME), 2, 'an argument is missing'),
            (('block-detach', NAME, 'xvdq'), 1, 'there is no disk xvdq'),
            (('network-detach', NAME, '7'), 1, 'there is no network interface 7'),
            (('network-attach', NAME, 'tap=nosuchtap0'), 1, 'nosuchtap0'),
            (('network-attach', NAME, 'none'), 1, 'nothing to attach'),
            (('block-list', NAME + 'x'), 1, f"there is no domain named '{NAME}x'"),
            (('mem-set', NAME, 'lots'), 2, 'lots'),
            (('destroy', '../x'), 1, 'is no name for a domain')):
        expect(rf(*args), status, message)
    verb('block-attach', NAME, image, 'vdev=xvdb')
    expect(rf('block-attach', NAME, image, 'vdev=xvdc'), 1, 'in use by another program')
    expect(rf('block-attach', NAME, write('other', bytes(MIB)), 'vdev=xvdb'), 1,
           'there is a disk xvdb already')
    for i in range(40):
        r = rf('block-attach', NAME, write(f'many{i}', bytes(4096)))
        if r.status:
            break
    expect(r, 1, 'there is no free PCI slot')
    verb('destroy', NAME)
    check(p.wait(LIMIT) == 0, p.returncode)


def test_names():
    p = idle()
    row = verb('list', NAME).splitlines()[1].split()
    check(row[0] == NAME and row[1] == str(p.pid) and row[3] == '1' and row[4] == '-b----', row)
    check(json.loads(verb('list', '-l', str(p.pid)))[0]['config']['name'] == NAME, 'by its ID')
    expect(rf('run', '--name', NAME, '--bios', rom(HALT)), 1,
           f"there is a domain named '{NAME}' already; choose another --name")
    expect(rf('run', '--name', 'a/b', '--bios', rom(HALT)), 1, 'is no name for a domain')
    expect(rf('run', '--name', 'switch', '--bios', rom(HALT)), 1, "cannot be named 'switch'")
    # Its monitor dies: the name is free, and nothing is left.
    p.send_signal(signal.SIGKILL)
    p.wait()
    expect(rf('list', NAME), 1, 'there is no domain')
    p = idle()
    check(p.poll() is None, p)
    p.send_signal(signal.SIGKILL)
    p.wait()
    check(NAME not in verb('list'), 'a dead domain is listed')
    check(not os.path.exists(os.path.join(folder(), NAME)), 'a dead domain left its folder')


def test_names_that_nobody_chose():
    image = rom(HALT)
    ps = [spawn('run', '--bios', image, '--vif', 'none', stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL) for _ in range(3)]
    wait_until(lambda: len({d['name'] for d in json.loads(verb('list', '-l'))
                            if d['pid'] in [p.pid for p in ps]}) == 3)


def test_shutdown():
    # in al,601h; test al,1 (PM1 status: power button); jz in
    p = idle(code=in8(0x601) + b'\xa8\x01\x74\xfb' + POWER_OFF)
    verb('shutdown', '--wait', NAME)
    check(p.wait(LIMIT) == 0, p.returncode)
    expect(rf('shutdown', NAME), 1, 'there is no domain')
    expect(rf('shutdown'), 2, 'names of domains or --all')


def test_bad_clients():
    """Nonsense, floods, half and huge lines, and clients that read nothing or vanish."""
    p = idle(code=ECHO)
    with connect(NAME) as s, s.makefile('rwb') as f:
        for line, code in ((b'{', -32700), (b'\xff\xfe', -32700), (b'[]', -32600), (b'1', -32600),
                           (b'{"jsonrpc":"2.0","id":1,"method":"no.such"}', -32601),
                           (b'{"jsonrpc":"2.0","id":1,"method":"device.list"}', -32602),
                           (b'[' * 60000, -32700), (b'x' * 300000, -32600)):
            f.write(line + b'\n')
            f.flush()
            check(json.loads(f.readline())['error']['code'] == code, line[:80])
        f.write(b'{"jsonrpc":"2.0","method":"domain.info"}\n[{"jsonrpc":"2.0","id":"a","method":'
                b'"domain.info"},{"jsonrpc":"2.0","id":"b","method":"device.list",'
                b'"params":{"kind":"disk"}}]\n')
        f.flush()
        check([x['id'] for x in json.loads(f.readline())] == ['a', 'b'], 'a batch')
    half = [connect(NAME) for _ in range(40)]
    for s in half:
        try:
            s.sendall(b'{"jsonrpc":')
        except OSError:
            pass  # it had to give way
    deaf = connect(NAME)
    deaf.setblocking(False)
    sent = 0
    while select.select([], [deaf], [], 1)[1]:
        sent += deaf.send(b'{"jsonrpc":"2.0","id":1,"method":"domain.info"}\n' * 100)
        check(sent < 64 * MIB, 'it reads for ever')
    start = time.monotonic()
    check(call(NAME, 'domain.info')['result']['name'] == NAME, 'no answer')
    check(time.monotonic() - start < 5, 'late')
    with open(f'/proc/{p.pid}/status', encoding='ascii') as f:
        rss = int(next(x for x in f if x.startswith('RssAnon')).split()[1])
    check(rss < 64 << 10, rss)
    for s in half + [deaf]:
        s.close()
    verb('destroy', NAME)
    check(p.wait(LIMIT) == 0, p.returncode)


main(globals())

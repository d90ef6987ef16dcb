# SPDX-License-Identifier: Apache-2.0
"""Networks: Debian's kernel and busybox with the host, with each other, and with what goes wrong."""
import hashlib
import os
import re
import socket
import struct
import subprocess
import threading

from rftest import (HALT, LIMIT, RF, Guest, Skip, check, expect, find_appliance, main, rf, rom,
                    start_guest, workdir, write)

BULK = 2 << 20
MACS = ('00:16:3e:00:00:01', '00:16:3e:00:00:02')


def appliance():
    folder = find_appliance()
    if not os.path.exists(os.path.join(folder, 'root/etc/udhcpc/default.script')):
        raise Skip(f'the appliance in {folder} was made before it had drivers')
    return folder


def guest(*args, engine='bt'):
    return start_guest(appliance(), '--engine', engine, *args)


def wait_for_address(g, family='-4', address=r'inet 10\.'):
    g.run(f'for i in $(seq 300); do ip {family} addr show eth0 | grep -q "{address}" && break; '
          'sleep 0.2; done')


class Server:
    """Answers one TCP connection: sends `data`, or takes all there is."""

    def __init__(self, data=None, host='127.0.0.1'):
        self.data, self.got = data, b''
        self.sock = socket.create_server((host, 0), family=socket.AF_INET6 if ':' in host
                                         else socket.AF_INET)
        self.sock.settimeout(LIMIT)
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        conn, _ = self.sock.accept()
        conn.settimeout(LIMIT)
        with conn:
            if self.data is not None:
                conn.sendall(self.data)
                conn.shutdown(socket.SHUT_WR)
            while piece := conn.recv(65536):
                self.got += piece

    def finish(self):
        self.thread.join(LIMIT)
        self.sock.close()
        return self.got


def digest(data):
    return hashlib.sha256(data).hexdigest()


def noise(seed):
    return b''.join(hashlib.sha256(b'%d %d' % (seed, i)).digest() for i in range(BULK // 32))


def from_guest(g, to, host):
    g.run(f'dd if=/dev/urandom of=/tmp/out bs=64k count={BULK >> 16} 2>/dev/null')
    s = Server(host=host)
    g.run(f'nc {to} {s.port} </tmp/out')
    got = s.finish()
    check(len(got) == BULK and g.run('sha256sum /tmp/out').startswith(digest(got)), len(got), g)


def to_guest(g, to, host):
    data = noise(1)
    s = Server(data, host=host)
    check(g.run(f'nc {to} {s.port} </dev/null | sha256sum').startswith(digest(data)), g)
    s.finish()


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s:
        return s.getsockname()[1]


def echo_through(address):
    """Sends to a port of the host that the guest's echo service is behind, and gets it back."""
    data = noise(2)
    with socket.create_connection(address, timeout=LIMIT) as s:
        sender = threading.Thread(target=s.sendall, args=(data,), daemon=True)
        sender.start()
        got = b''
        while len(got) < len(data):
            piece = s.recv(65536)
            check(piece, f'only {len(got)} bytes came back')
            got += piece
    check(got == data, 'what came back differs')


def listen(g, port, how):
    g.run(f'(nc {how} &)')
    g.run(f'for i in $(seq 100); do netstat -ltn | grep -q ":{port} " && break; sleep 0.1; done')


def user_network(*args, engine='bt'):
    v4, v6 = free_port(), free_port()
    vif = (f'user,mac={MACS[0]},hostfwd=tcp:127.0.0.1:{v4}-:7,'
           f'hostfwd=tcp:[::1]:{v6}-[fec0::216:3eff:fe00:1]:7')
    with guest('--vif', vif, *args, engine=engine) as g:
        g.wait_for_shell()
        wait_for_address(g)
        check('10.0.2.15/24' in g.run('ip addr show eth0'), g)
        check('via 10.0.2.2' in g.run('ip route'), g)
        check(' 0% packet loss' in g.run('ping -c 2 10.0.2.2'), g)
        from_guest(g, '10.0.2.2', '127.0.0.1')
        to_guest(g, '10.0.2.2', '127.0.0.1')
        wait_for_address(g, '-6', 'inet6 fec0::216:3eff:fe00:1/64 .*dynamic')
        from_guest(g, 'fec0::2', '::1')
        to_guest(g, 'fec0::2', '::1')
        listen(g, 7, '-ll -p 7 -e cat >/dev/null 2>&1')
        echo_through(('127.0.0.1', v4))
        echo_through(('::1', v6))
        check(not re.search(r'eth0.*(error|timed out)|virtio.*(fail|error)', g.run('dmesg')), g)
        g.end('poweroff -f', 0)


def test_user_network():
    user_network()


def test_user_network_with_several_queues_and_processors():
    with guest('--vcpus', '2', '--vif', 'user,queues=2') as g:
        g.wait_for_shell()
        wait_for_address(g)
        check(g.run('ls -d /sys/class/net/eth0/queues/rx-*').count('rx-') == 2, g)
        from_guest(g, '10.0.2.2', '127.0.0.1')
        to_guest(g, '10.0.2.2', '127.0.0.1')
        g.end('poweroff -f', 0)


def copy_between(a, b, to):
    """From guest a to guest b, whose address is `to`."""
    # nc itself would hang up at the end of its own input.
    listen(b, 9, '-l -p 9 -e sh -c "cat >/tmp/in"')
    a.run(f'dd if=/dev/urandom of=/tmp/out bs=64k count={BULK >> 16} 2>/dev/null')
    a.run(f'nc {to} 9 </tmp/out')
    b.run('while pidof cat >/dev/null; do sleep 0.1; done')
    sums = a.run('sha256sum </tmp/out'), b.run('sha256sum </tmp/in')
    check(sums[0] == sums[1], sums, a, b)


def set_address(g, address):
    g.run('killall udhcpc 2>/dev/null; true')
    g.run(f'ip addr flush dev eth0; ip addr add {address} dev eth0; ip link set eth0 up')


def wire(first, second, engines=('bt', 'bt')):
    """Two guests with nobody between them but what `first` and `second` say."""
    with guest('--vif', f'{first},mac={MACS[0]}', engine=engines[0]) as a, \
            guest('--vif', f'{second},mac={MACS[1]}', engine=engines[1]) as b:
        for g, address in ((a, '192.168.5.1/24'), (b, '192.168.5.2/24')):
            g.wait_for_shell()
            set_address(g, address)
        check(' 0% packet loss' in a.run('ping -c 2 -W 10 192.168.5.2'), a)
        copy_between(a, b, '192.168.5.2')
        copy_between(b, a, '192.168.5.1')
        a.end('poweroff -f', 0)
        b.end('poweroff -f', 0)


def test_two_domains_on_a_switch():
    name = f'switch=test{os.getpid()}'
    wire(name, name)


def test_a_switch_whose_gateway_goes():
    vif = f'switch=gate{os.getpid()},nat'
    with guest('--vif', f'{vif},mac={MACS[0]}') as a:
        a.wait_for_shell()
        wait_for_address(a)
        with guest('--vif', f'{vif},mac={MACS[1]}') as b:
            b.wait_for_shell()
            wait_for_address(b)
            check(a.run('hostname -i; ip -4 addr show eth0') != b.run('ip -4 addr show eth0'), a, b)
            check(' 0% packet loss' in b.run('ping -c 2 -W 10 10.0.2.15'), b)
            to_guest(b, '10.0.2.2', '127.0.0.1')
            a.p.kill()
            a.p.wait()
            b.run('for i in $(seq 60); do ping -c 1 -W 1 10.0.2.2 >/dev/null && break; done')
            from_guest(b, '10.0.2.2', '127.0.0.1')
            b.end('poweroff -f', 0)


def test_a_wire_between_two_domains():
    path = os.path.join(workdir(), 'wire')
    wire(f'socket,listen=unix:{path}', f'socket,connect=unix:{path}')


def read_pcap(path):
    """The frames of a capture, after its header is what pcap-savefile(5) wants."""
    with open(path, 'rb') as f:
        data = f.read()
    magic, major, minor, _, _, _, link = struct.unpack('<IHHIIII', data[:24])
    check((magic, major, minor, link) == (0xa1b23c4d, 2, 4, 1), data[:24])
    frames, at = [], 24
    while at < len(data):
        _, nanoseconds, length, original = struct.unpack('<IIII', data[at:at + 16])
        check(nanoseconds < 10**9 and length == original, at)
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


def test_two_interfaces_a_limit_and_a_capture():
    path = os.path.join(workdir(), 'capture')
    with guest('--vif', f'user,pcap={path},rate=1MB/s', '--vif', 'user,net=10.9.0.0/16,mtu=1400') as g:
        g.wait_for_shell()
        wait_for_address(g)
        g.run('ip link set eth1 up; udhcpc -i eth1 -q -n -t 10 -T 1 2>&1')
        check('10.9.0.15/16' in g.run('ip addr show eth1'), g)
        check('mtu 1400' in g.run('ip link show eth1'), g)
        start = int(g.run("cut -d. -f1 /proc/uptime"))
        from_guest(g, '10.0.2.2', '127.0.0.1')
        # 2 MiB at 1 MB/s; a busy machine makes it longer.
        check(int(g.run("cut -d. -f1 /proc/uptime")) - start >= 1, g)
        g.end('poweroff -f', 0)
    frames = read_pcap(path)
    check(sum(map(len, frames)) > BULK, len(frames))
    check(any(b'\x0a\x00\x02\x0f\x0a\x00\x02\x02' in f[26:34] for f in frames), len(frames))


# A name server that knows one answer, for any name.
NAME_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
while True:
    q, peer = s.recvfrom(512)
    end = q.index(0, 12) + 5
    ipv4 = q[end - 4:end - 2] == bytes([0, 1])
    answer = bytes([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]) if ipv4 else b''
    s.sendto(q[:2] + bytes([0x81, 0x80, 0, 1, 0, ipv4, 0, 0, 0, 0]) + q[12:end] + answer, peer)
"""


INSIDE = ['unshare', '-rmn', 'sh', '-ec']  # namespaces in which a user is root


def guest_inside(set_up, *args):
    """A guest in namespaces of its own, after a script has set them up."""
    script = f"""ip link set lo up
        {set_up}
        {RF} run --engine bt {' '.join(args)}
        [ -z "$server" ] || kill $server"""
    return Guest(subprocess.Popen(INSIDE + [script],
                                  env={**os.environ, 'RINGFENCE_APPLIANCE': appliance()},
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE))


def need_inside(command, what):
    if subprocess.run(INSIDE + [command], check=False, capture_output=True).returncode:
        raise Skip(what)


def test_names():
    need_inside('true', 'no user namespaces')
    with guest_inside(f"""mount --bind {write('resolv.conf', 'nameserver 127.0.0.1')} /etc/resolv.conf
            python3 {write('dns.py', NAME_SERVER)} & server=$!""", '--vif user') as g:
        g.wait_for_shell()
        wait_for_address(g)
        check('192.0.2.7' in g.run('nslookup example.com'), g)
        g.end('poweroff -f', 0)


def test_tap_and_bridge():
    need_inside('ip tuntap add dev t0 mode tap', 'no user namespaces, or no tap in them')
    with guest_inside("""ip tuntap add dev t0 mode tap multi_queue; ip link set t0 up
            ip addr add 10.77.0.1/24 dev t0
            ip link add b0 type bridge; ip link set b0 up; ip addr add 10.78.0.1/24 dev b0
            server=""", '--vif tap=t0,queues=2 --vif bridge=b0') as g:
        g.wait_for_shell()
        g.run('killall udhcpc 2>/dev/null; true')
        for n, network in ((0, '10.77.0'), (1, '10.78.0')):
            g.run(f'ip link set eth{n} up; ip addr add {network}.2/24 dev eth{n}')
            check(' 0% packet loss' in g.run(f'ping -c 2 -W 10 {network}.1'), g)
        a_link_that_goes(g)
        g.end('poweroff -f', 0)


def cpu_seconds(g):
    """Of rf, which is the shell's child."""
    used = 0
    with open(f'/proc/{g.p.pid}/task/{g.p.pid}/children', encoding='ascii') as f:
        for pid in f.read().split():
            with open(f'/proc/{pid}/stat', encoding='ascii') as stat:
                used += sum(map(int, stat.read().rpartition(')')[2].split()[11:13]))
    return used / os.sysconf('SC_CLK_TCK')


def a_link_that_goes(g):
    """The host takes the tap down, up again, and away under the guest, which goes on with the rest."""
    def ip(command):
        subprocess.run(['nsenter', '--preserve-credentials', '-t', str(g.p.pid), '-U', '-n', 'ip',
                        *command.split()], check=True)

    def carrier(is_there):
        g.run(f'for i in $(seq 100); do grep -q {is_there} /sys/class/net/eth0/carrier && break; '
              'sleep 0.1; done')
        check(g.run('cat /sys/class/net/eth0/carrier').strip() == is_there, g)

    for command, is_there in (('link set t0 down', '0'), ('link set t0 up', '1')):
        ip(command)
        carrier(is_there)
    check(' 0% packet loss' in g.run('ping -c 2 -W 10 10.77.0.1'), g)
    g.run('(ping -i 0.1 10.77.0.1 >/dev/null 2>&1 &)')  # frames are under way
    ip('link del t0')
    carrier('0')
    check(' 0% packet loss' in g.run('ping -c 2 -W 10 10.78.0.1'), g)
    before = cpu_seconds(g)
    g.run('killall ping; sleep 2')
    check(cpu_seconds(g) - before < 1, cpu_seconds(g) - before, 'seconds of 2 at rest')


def test_what_will_not_do():
    with socket.create_server(('127.0.0.1', 0)) as s:
        port = s.getsockname()[1]
        expect(rf('run', '--vif', f'user,hostfwd=tcp:127.0.0.1:{port}-:22'), 1, f'TCP port {port}',
               'ss -tlnp', 'in use')
        expect(rf('run', '--vif', f'socket,listen=127.0.0.1:{port}'), 1, 'ss -tlnp', 'in use')
    expect(rf('run', '--vif', 'tap=not-there0'), 1, 'no interface not-there0', 'ip tuntap add')
    expect(rf('run', '--vif', 'bridge=not-there0'), 1, 'no bridge not-there0', 'type bridge')
    nobody = expect(rf('run', '--bios', rom(HALT), '--timeout', '3', '--vif', f'socket,connect=127.0.0.1:{port}'),
                    124, 'Connection refused; the guest has no link')
    check(nobody.err.count('refused') == 1, nobody)
    expect(rf('run', '--vif', 'switch=../x'), 1, 'no name for a switch')
    expect(rf('run', '--vif', 'user,pcap=/not/there'), 1, 'pcap', '/not/there')
    for spec, message in (('usr', "did you mean 'user'"), ('user,mac=1', 'address such as'),
                          ('user,tap=x', 'repeat --vif'), ('user,rate=fast', 'rate such as'),
                          ('tap=x,hostfwd=tcp::1-:1', 'goes with user'),
                          ('user,hostfwd=tcp:1', 'tcp::2222-:22'), ('user,model=e1000', 'virtio')):
        expect(rf('run', '--vif', spec), 2, spec.split(',')[-1].split('=')[0], message)


main(globals())

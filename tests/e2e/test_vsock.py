# SPDX-License-Identifier: Apache-2.0
"""Programs of the guest and of the host talk: vsock both ways, the console's ports."""
import os
import socket
import threading

from rftest import (HALT, LIMIT, Skip, check, expect, find_appliance, main, rf, rom, start_guest,
                    with_drivers, with_files, workdir)

PEER = os.environ.get('RF_VSOCK_PEER', '')
BYTES = 1 << 20


def appliance():
    folder = with_drivers(find_appliance())
    if not PEER:
        raise Skip('RF_VSOCK_PEER names no program')
    with open(PEER, 'rb') as f:
        return with_files(folder, {'bin/vsock_peer': f.read()})


def name(what):
    path = os.path.join(workdir(), what)
    if os.path.exists(path):
        os.unlink(path)
    return path


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(LIMIT)
    s.connect(path)
    return s


def echo_once(path):
    """A server of the host."""
    s = socket.socket(socket.AF_UNIX)
    s.bind(name(path))
    s.listen()

    def serve():
        conn, _ = s.accept()
        conn.settimeout(LIMIT)
        with conn:
            while piece := conn.recv(65536):
                conn.sendall(piece)

    threading.Thread(target=serve, daemon=True).start()


def from_the_guest(g, path):
    echo_once(os.path.basename(path) + '_5000')
    check(g.run(f'vsock_peer send 5000 {BYTES}') == f'same {BYTES}\n', g)
    g.run('! vsock_peer send 5001 1 >/tmp/out')
    check(g.run('cat /tmp/out') == 'connect: error 104\n', g)


def from_the_host(g, path):
    g.type('vsock_peer echo 7000 & wait')
    g.wait_for('listening\r\n')
    data = os.urandom(BYTES)
    with connect(path) as s:
        s.sendall(b'CONNECT 7000\n')
        f = s.makefile('rb')
        check(f.readline().startswith(b'OK '))
        sender = threading.Thread(target=s.sendall, args=(data,), daemon=True)
        sender.start()
        got = f.read(BYTES)
        check(got == data, len(got))
        sender.join()
        s.shutdown(socket.SHUT_WR)
        check(f.read() == b'')
    g.wait_for('echoed\r\n')
    with connect(path) as s:
        s.sendall(b'CONNECT 7001\n')
        try:
            check(s.recv(1) == b'')
        except ConnectionResetError:
            pass


def both_ways(engine, vcpus):
    path = name('vsock')
    with start_guest(appliance(), '--engine', engine, '--vcpus', vcpus, '--vif', 'none',
                     '--vsock', path) as g:
        g.wait_for_shell()
        from_the_guest(g, path)
        from_the_host(g, path)
        g.end('poweroff -f', 0)
    check(not os.path.exists(path), 'the socket was left behind')


def test_vsock():
    both_ways('bt', 1)


def test_vsock_with_two_processors():
    both_ways('bt', 2)


def test_vsock_under_the_reference():
    both_ways('interp', 1)


def test_console_and_ports():
    port, hvc = name('port'), name('hvc')
    with start_guest(appliance(), '--vif', 'none', '--console', 'unix:' + hvc,
                     '--channel', f'name=org.test,connection=socket,path={port}') as g:
        g.wait_for_shell()
        check(g.run('cat /sys/class/virtio-ports/*/name') == 'org.test\n', g)
        with connect(hvc) as s:
            g.run('echo on the console >/dev/hvc0')
            check(s.recv(100) == b'on the console\r\n')
            g.run('stty -F /dev/hvc0 -echo; read line </dev/hvc0 & sleep 0.1')
            s.sendall(b'typed\n')
            g.run('wait')
        device = '/dev/' + g.run('ls /dev | grep vport.p1').strip()
        with connect(port) as s:
            s.sendall(b'a line from the host\n')
            check(g.run(f'head -n 1 {device}') == 'a line from the host\n', g)
            g.type(f'seq 20000 >{device}')
            lots = ''.join(f'{i}\n' for i in range(1, 20001)).encode()
            check(s.makefile('rb').read(len(lots)) == lots)
        g.end('poweroff -f', 0)


def test_names_that_are_taken():
    path = name('taken')
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()
    bios = rom(HALT)
    for option in ('--vsock', path), ('--channel', f'name=x,connection=socket,path={path}'):
        expect(rf('run', *option, '--bios', bios, '--vif', 'none'), 1, 'Address already in use')
    s.close()


def test_what_makes_no_sense():
    for option, text in ((('--vsock', 'x,cid=2'), 'cid \'2\' is not a number from 3'),
                         (('--vsock', 'cid=3'), 'there is no path'),
                         (('--channel', 'name=x'), 'connection=socket with path='),
                         (('--channel', 'connection=pty'), 'there is no name=')):
        r = rf('run', '--dry-run', *option)
        check(r.status in (1, 2) and text in r.err, text, r)


main(globals())

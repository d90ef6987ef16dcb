# SPDX-License-Identifier: Apache-2.0
"""The debugger's socket: a small remote-protocol client against running guests, and gdb itself."""
import os
import re
import shutil
import socket
import subprocess

from rftest import (check, LIMIT, loop, main, POWER_OFF, puts, rom, Skip, spawn, SPIN,
                    TRIPLE_FAULT)


class Debugger:
    """rf with --gdb, and a client that is connected to it."""

    def __init__(self, code, *args, client=True):
        self.p = spawn('run', '--gdb', ':0', *args, '--bios', rom(code),
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
        line = b''
        while not line.startswith(b'gdb: target remote'):
            line = self.p.stderr.readline()
            check(line, 'the debugger was not announced')
        self.port = int(re.search(rb':(\d+)$', line.strip()).group(1))
        self.s = socket.create_connection(('localhost', self.port), LIMIT) if client else None

    def send(self, payload):
        data = payload if isinstance(payload, bytes) else payload.encode()
        self.s.sendall(b'$' + data + b'#%02x' % (sum(data) & 255))

    def receive(self):
        data = b''
        while not re.search(rb'\$[^#]*#..', data):
            more = self.s.recv(65536)
            check(more, 'the connection was closed', data)
            data += more
        self.s.sendall(b'+')
        return re.search(rb'\$([^#]*)#', data).group(1).decode('latin-1')

    def ask(self, payload):
        self.send(payload)
        return self.receive()

    def reg(self, n):
        return int.from_bytes(bytes.fromhex(self.ask(f'p{n:x}')), 'little')

    def end(self, status):
        out, err = self.p.communicate(timeout=LIMIT)
        check(self.p.returncode == status, self.p.returncode, err)
        if self.s:
            self.s.close()
        return out, err


RAX, RIP, CS = 0, 16, 18
COUNT = b'\x31\xc0' + loop(b'\x40\x89\x06\x00\x50')  # xor ax,ax; L: inc ax; mov [5000h],ax; jmp L


def test_waits_at_the_reset_vector():
    d = Debugger(POWER_OFF, '--gdb-wait')
    check(d.ask('?') == 'T05thread:1;')
    check(d.reg(RIP) == 0xfff0 and d.reg(CS) == 0xf000)
    check(d.ask('mfffffff0,5') == 'ea000000f0')
    d.send('c')
    check(d.receive() == 'W00')
    d.end(0)


def test_steps_and_breakpoints():
    d = Debugger(COUNT, '--gdb-wait')
    check(d.ask('s') == 'T05thread:1;')
    check(d.reg(RIP) == 0)
    check(d.ask('Z0,f0002,1') == 'OK')
    check(d.ask('c') == 'T05thread:1;')
    check(d.reg(RIP) == 2 and d.reg(RAX) == 0)
    for i in range(1, 4):
        check(d.ask('z0,f0002,1') == 'OK' and d.ask('s').startswith('T05'))
        check(d.ask('Z1,f0002,1') == 'OK')
        check(d.ask('c') == 'T05thread:1;')
        check(d.reg(RAX) == i, d.reg(RAX))
    d.send('k')
    d.end(0)


def test_watchpoints():
    d = Debugger(COUNT, '--gdb-wait')
    check(d.ask('Z2,5000,2') == 'OK')
    for i in range(1, 4):
        check(d.ask('c').startswith('T05watch:5000;'))
        check(d.ask('m5000,2') == f'{i:02x}00')
    check(d.ask('z2,5000,2') == 'OK')
    d.send('k')
    d.end(0)


def test_interrupting_and_changing():
    d = Debugger(puts('>') + SPIN)
    d.ask('?')
    d.send('c')
    check(d.p.stdout.read(1) == b'>')
    d.s.sendall(b'\x03')
    check(d.receive() == 'T02thread:1;')
    rip = d.reg(RIP)
    check(d.ask(f'M{0xf0000 + rip:x},2:9090') == 'OK')  # the jump to itself becomes two nops
    check(d.ask('P0=3412000000000000') == 'OK')
    check(d.ask('s').startswith('T05') and d.reg(RIP) == rip + 1)
    check(d.reg(RAX) == 0x1234)
    check(d.ask('md0000000,10') == 'E14')
    d.send('D')
    check(d.receive() == 'OK')
    d.p.terminate()
    d.end(143)


def test_a_debugger_that_vanishes_lets_the_guest_go_on():
    d = Debugger(puts('x') + POWER_OFF, '--gdb-wait')
    check(d.ask('Z0,f0000,1') == 'OK')
    d.s.close()
    check(d.end(0)[0] == b'x')


def test_one_debugger_at_a_time():
    d = Debugger(SPIN, '--gdb-wait')
    check(d.ask('?') == 'T05thread:1;')
    with socket.create_connection(('localhost', d.port), LIMIT) as second:
        check(second.recv(1) == b'')
    check(d.ask('?') == 'T05thread:1;')
    d.send('k')
    d.end(0)


def test_garbage():
    d = Debugger(SPIN, '--gdb-wait')
    d.s.sendall(bytes(range(256)) * 400 + b'$' + b'x' * 100000 + b'#00' + b'$g#00' + b'\x03' * 100)
    d.s.sendall(b'#00$?#3f')
    seen = b''
    while b'T05thread' not in seen:
        more = d.s.recv(65536)
        check(more, seen)
        seen += more
    d.send('k')
    d.end(0)


def test_crashes_are_seen_first():
    d = Debugger(TRIPLE_FAULT, '--gdb-wait')
    check(d.ask('c') == 'T0bthread:1;')
    check(d.reg(RIP) == 5)
    d.send('D')
    d.receive()
    check(b'triple fault' in d.end(3)[1])


def test_threads_are_processors():
    d = Debugger(SPIN, '--gdb-wait', '--vcpus', '3')
    check(d.ask('qfThreadInfo') == 'm1,2,3')
    info = bytes.fromhex(d.ask('qThreadExtraInfo,3')).decode()
    check(info == 'CPU 2 [waiting for SIPI]', info)
    check(d.ask('vCont;s:1').startswith('T05'))
    check(d.reg(RIP) == 0)
    d.send('k')
    d.end(0)


def test_gdb_itself():
    if not shutil.which('gdb'):
        raise Skip('gdb is not installed')
    d = Debugger(COUNT, '--gdb-wait', client=False)
    commands = [f'target remote localhost:{d.port}', 'break *0xf0002', 'continue', 'delete',
                'stepi', 'p $rip', 'watch *(short *)0x5000', 'continue', 'info threads',
                'p $xmm0', 'p $st0', 'p/x $cr0', 'monitor regs', 'x/4xb 0xfffffff0', 'kill']
    env = {**os.environ, 'LC_ALL': 'C'}
    out = subprocess.run(['gdb', '-nx', '-batch'] + [x for c in commands for x in ('-ex', c)],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT,
                         check=False, env=env).stdout.decode()
    for text in ('Hardware watchpoint 2', 'Old value = 0', 'New value = 1', 'CPU 0 [running]',
                 'v4_float', '0x60000010', 'real mode', '0xea\t0x00'):
        check(text in out, text, out)
    d.end(0)


main(globals())

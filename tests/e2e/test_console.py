# SPDX-License-Identifier: Apache-2.0
"""The console: raw terminals and their restoration, ^], slow readers, closed pipes, ptys, files."""
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

from rftest import (check, ECHO, expect, LIMIT, loop, main, out8, POWER_OFF, puts, rf, rom, spawn,
                    SPIN, WAIT_THR, workdir)


# Under nohup(1), or in a shell's background, these are ignored; rf would rightly ignore them, too.
for ignored in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT:
    signal.signal(ignored, signal.SIG_DFL)


class Session:
    """rf on a terminal of its own."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.p = spawn('run', *args, stdin=slave, stdout=slave, stderr=slave,
                       start_new_session=True)
        self.seen = b''

    def wait_for(self, text):
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            check(ready, f'waiting for {text!r}', self.seen)
            self.seen += os.read(self.master, 4096)

    def type(self, data):
        os.write(self.master, data)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def end(self):
        """The exit status, once the terminal is found to be as before."""
        status = self.p.wait(timeout=LIMIT)
        check(termios.tcgetattr(self.slave) == self.before, 'the terminal was not restored')
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096)
        os.close(self.master)
        os.close(self.slave)
        return status


def test_leaving():
    name = f'web-{os.getpid()}'
    s = Session('--name', name, '--bios', rom(puts('ready') + ECHO))
    s.wait_for(b'ready')
    check(f'Connected to the console of {name}; leave with ^]'.encode() in s.seen, s.seen)
    check(s.is_raw(), 'the terminal is not raw')
    s.type(b'abc\x03\x04\x1a')
    s.wait_for(b'abc\x03\x04\x1a')
    s.type(b'\x1d')
    check(s.end() == 0)


def test_leaving_a_guest_that_does_not_listen():
    s = Session('--bios', rom(puts('ready') + SPIN))
    s.wait_for(b'ready')
    for _ in range(20):
        s.type(b'x' * 1000)
        time.sleep(0.01)
    s.type(b'\x1d')
    check(s.end() == 0)


def test_the_terminal_is_restored():
    s = Session('--bios', rom(puts('ready') + ECHO))
    s.wait_for(b'ready')
    s.type(b'.')
    check(s.end() == 0)
    for sig, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129),
                        (signal.SIGSEGV, -11), (signal.SIGABRT, -6), (signal.SIGQUIT, -3)):
        s = Session('--bios', rom(puts('ready') + SPIN))
        s.wait_for(b'ready')
        check(s.is_raw())
        s.p.send_signal(sig)
        check(s.end() == status, sig)
    s = Session('--timeout', '0.5', '--bios', rom(puts('ready') + SPIN))
    check(s.end() == 124)
    s = Session('--bios', rom(puts('ready') + b'\x0f\x01\x1e\x00\x00\xcc'))
    check(s.end() == 3)
    check(b'triple fault' in s.seen and b'\r\nvCPU 0' in s.seen, s.seen)


def test_the_terminal_is_restored_when_starting_fails():
    s = Session('--bios', '/nonexistent')
    check(s.end() == 1)


def test_stopped_and_continued():
    s = Session('--bios', rom(puts('ready') + ECHO))
    s.wait_for(b'ready')
    s.p.send_signal(signal.SIGTSTP)
    end = time.monotonic() + LIMIT
    while s.is_raw() and time.monotonic() < end:
        time.sleep(0.01)
    check(termios.tcgetattr(s.slave) == s.before, 'stopped with a raw terminal')
    os.waitid(os.P_PID, s.p.pid, os.WSTOPPED | os.WNOWAIT)  # it gives the terminal back before
    s.p.send_signal(signal.SIGCONT)
    while not s.is_raw() and time.monotonic() < end:
        time.sleep(0.01)
    check(s.is_raw(), 'continued without raw mode')
    s.type(b'.')
    check(s.end() == 0)


def test_input_from_a_pipe():
    data = bytes(range(256)).replace(b'.', b'') * 20 + b'.'
    result = expect(rf('run', '--bios', rom(ECHO), stdin=data), 0)
    check(result.out == data, result)


def test_input_from_a_file():
    path = os.path.join(workdir(), 'input')
    with open(path, 'wb') as f:
        f.write(b'from a file.')
    with open(path, 'rb') as f:
        check(expect(rf('run', '--bios', rom(ECHO), stdin=f), 0).out == b'from a file.')


def test_the_end_of_input_is_not_the_end():
    result = expect(rf('run', '--timeout', '1', '--bios', rom(puts('>') + ECHO), stdin=b'abc'), 124)
    check(result.out == b'>abc', result)


LOTS = (b'\xbf\x30\x75'                                   # mov di,30000
        + WAIT_THR + out8(0x3f8, ord('x'))                # put
        + b'\x4f\x75' + bytes([0x100 - (len(WAIT_THR) + len(out8(0x3f8, 0)) + 3)])  # dec di; jnz
        + POWER_OFF)


def test_a_slow_reader_gets_everything():
    many = b'\xbe\x08\x00' + LOTS[:-len(POWER_OFF)]        # mov si,8; 30000 times
    many += b'\x4e\x75' + bytes([0x100 - (len(many) - 3 + 3)]) + POWER_OFF  # dec si; jnz
    p = spawn('run', '--bios', rom(many), stdin=subprocess.DEVNULL,
              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1)
    check(p.poll() is None, 'it did not wait for its reader')
    out = p.stdout.read()
    check(p.wait(timeout=LIMIT) == 0, p.stderr.read())
    check(out == b'x' * 240000, len(out))


def test_a_blocked_reader_does_not_block_the_end():
    p = spawn('run', '--timeout', '1', '--bios',
              rom(loop(WAIT_THR + out8(0x3f8, 65))),
              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    check(p.wait(timeout=LIMIT) == 124)
    p.stdout.close()
    p.stderr.close()


def test_a_closed_pipe_is_no_signal():
    p = spawn('run', '--timeout', '2', '--bios',
              rom(loop(WAIT_THR + out8(0x3f8, 65))),
              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.read(1)
    p.stdout.close()
    err = p.stderr.read()
    check(p.wait(timeout=LIMIT) == 124, err)
    check(b'output is dropped' in err, err)


def test_files():
    serial, debug = (os.path.join(workdir(), n) for n in ('serial', 'debug'))
    code = puts('to serial\n') + b''.join(out8(0xe9, c) for c in b'to debugcon\n') + POWER_OFF
    result = expect(rf('run', '--serial', 'file:' + serial, '--debugcon', 'file:' + debug,
                       '--bios', rom(code)), 0)
    check(result.out == b'', result)
    check(open(serial, 'rb').read() == b'to serial\n')
    check(open(debug, 'rb').read() == b'to debugcon\n')
    both = expect(rf('run', '--debugcon', 'stdio', '--bios', rom(code)), 0)
    check(both.out == b'to serial\nto debugcon\n', both)
    none = expect(rf('run', '--serial', 'none', '--bios', rom(code)), 0)
    check(none.out == b'', none)


def test_a_full_disk():
    result = expect(rf('run', '--serial', 'file:/dev/full', '--bios', rom(LOTS)), 0,
                    '/dev/full: write: No space left on device')
    check(result.err.count('No space left') == 1, result)


def test_a_pty():
    p = spawn('run', '--serial', 'pty', '--bios', rom(puts('lost') + ECHO),
              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = b''
    while b'/dev/pts' not in line:
        line = p.stderr.readline()
        check(line, 'no pty was announced')
    path = re.search(rb'/dev/\S+', line).group().decode()
    for i in range(2):
        time.sleep(0.6)
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        time.sleep(0.6)
        os.write(fd, b'hello%d' % i)
        seen = b''
        while b'hello%d' % i not in seen:
            check(select.select([fd], [], [], LIMIT)[0], 'no echo', seen)
            seen += os.read(fd, 100)
        if i:
            os.write(fd, b'.')
        else:
            os.close(fd)
    check(p.wait(timeout=LIMIT) == 0, p.stderr.read())
    os.close(fd)


main(globals())

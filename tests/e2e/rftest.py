# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: running rf, tiny guests as ROM images, and TAP output.

A guest is real-mode code in a 64 KiB ROM that starts at the reset vector, so these tests need no
kernel. Every function of a test file whose name starts with "test_" is one test point.
"""
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import traceback

RF = sys.argv[1] if len(sys.argv) > 1 else 'build/rf'
# No test waits this long for anything but an error; sanitizers and busy machines take their time.
LIMIT = 60 * float(os.environ.get('RF_TIME_FACTOR', '1'))


class Skip(Exception):
    """The host lacks something that the test needs."""


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def __repr__(self):
        return f'status {self.status}\nstdout: {self.out[-2000:]!r}\nstderr: {self.err[-4000:]}'


def rf(*args, stdin=b'', env=None, **kw):
    """Runs rf to its end; `stdin` is bytes or a file."""
    given = {'input': stdin} if isinstance(stdin, bytes) else {'stdin': stdin}
    p = subprocess.run([RF, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=LIMIT, check=False, env={**os.environ, **(env or {})}, **given, **kw)
    return Result(p.returncode, p.stdout, p.stderr.decode('utf-8', 'replace'))


_spawned = []


def spawn(*args, **kw):
    """Starts rf; it does not outlive the test."""
    p = subprocess.Popen([RF, *map(str, args)], **kw)
    _spawned.append(p)
    return p


def reap():
    while _spawned:
        p = _spawned.pop()
        if p.poll() is None:
            p.kill()
            p.wait()


def check(condition, *what):
    if not condition:
        raise AssertionError('\n'.join(map(str, what)))


def expect(result, status, *in_stderr):
    """The exit status, and texts that standard error must hold."""
    check(result.status == status, f'expected status {status}', result)
    for text in in_stderr:
        check(text in result.err, f'expected on stderr: {text!r}', result)
    return result


# Linux guests.

BAD = re.compile(r'BUG|Oops|unchecked MSR|lockup|\bstall|Call Trace|WARNING')
LATE = re.compile(r'hpet: Lost \d+ RTC interrupts|MP-BIOS bug: 8254')
# The host gave our processor to somebody else meanwhile, which it may do at any load.
AWAY = re.compile(r'hrtimer: interrupt took')


def find_appliance():
    beside = os.path.join(os.path.dirname(os.path.abspath(RF)), 'appliance')
    folder = os.environ.get('RINGFENCE_APPLIANCE') or beside
    if not os.path.exists(os.path.join(folder, 'cmdline')):
        raise Skip(f'no appliance in {folder}')
    return folder


def made_once(name, package):
    """An appliance with another of Debian's kernels, beside the usual one."""
    folder = os.path.join(os.path.dirname(find_appliance()), name)
    if not os.path.exists(os.path.join(folder, 'cmdline')):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../tools/appliance.sh')
        made = subprocess.run(['sh', script, folder, package], check=False,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if made.returncode:
            raise Skip(made.stderr.decode().strip().split('\n')[-1])
    return folder


def with_drivers(folder):
    """That appliance, which must have its kernel's modules."""
    if not os.path.exists(os.path.join(folder, 'root/lib/modules')):
        raise Skip(f'the appliance in {folder} was made before it had drivers')
    return folder


def find_generic():
    """With the kernel that Debian installs on PCs."""
    return made_once('appliance-generic', 'linux-image-amd64')


def find_i386():
    """With the kernel that Debian installs on 32-bit PCs."""
    return made_once('appliance-i386', 'linux-image-686-pae:i386')


def cpio(files):
    """An initramfs of executables, by their paths; to be appended to another one."""
    def entry(path, mode, data=b''):
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
        head = b'070701' + b''.join(b'%08x' % x for x in fields) + path.encode() + b'\0'
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return b''.join(entry(p, 0o100755, d) for p, d in files.items()) + entry('TRAILER!!!', 0)


def with_files(appliance, files):
    """An appliance whose initramfs holds these, too."""
    folder = tempfile.mkdtemp(dir=workdir())
    for f in ('vmlinuz', 'cmdline'):
        os.symlink(os.path.join(os.path.abspath(appliance), f), os.path.join(folder, f))
    with open(os.path.join(appliance, 'initrd.img'), 'rb') as f:
        image = f.read()
    with open(os.path.join(folder, 'initrd.img'), 'wb') as f:
        f.write(image + bytes(-len(image) % 4) + cpio(files))
    return folder


def clean_log(log):
    """`log` is what `dmesg -r` prints: no line at level "warning" or worse, no known bad word. Where
    more threads want the host's processors than there are, a guest may say that it came late."""
    lines = log.splitlines()
    check(len(lines) > 100, 'not a log', log)
    bad = [x for x in lines if (BAD.search(x) or re.match(r'<[0-4]>', x)) and not AWAY.search(x)]
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)) + 1:
        bad = [x for x in bad if not LATE.search(x)]
    check(not bad, *bad)


class Guest:
    """A Linux guest whose console we hold. It is spoken to only when it is known to listen: its serial
    driver empties the chip's FIFO when the console is opened."""

    def __init__(self, p):
        self.p = p
        self.seen = b''
        self.at = 0  # what comes before has been looked at

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            f.close()

    def __repr__(self):
        return self.text()[-4000:]

    def text(self):
        return self.seen.decode('utf-8', 'replace')

    def wait_for(self, pattern):
        """The match of `pattern`, once it has come."""
        end = time.monotonic() + 10 * LIMIT
        while True:
            m = re.compile(pattern.encode()).search(self.seen, self.at)
            if m:
                self.at = m.end()
                return m
            left = end - time.monotonic()
            check(left > 0 and select.select([self.p.stdout], [], [], left)[0],
                  f'waiting for {pattern}', self)
            data = os.read(self.p.stdout.fileno(), 65536)
            check(data, f'the guest ended before {pattern}', self, *([] if data else self.last_words()))
            self.seen += data

    def last_words(self):
        """Of a program whose output has ended: its exit status and what it said of it."""
        _, err = self.p.communicate(timeout=LIMIT)
        return [f'exit status {self.p.returncode}', err.decode('utf-8', 'replace')]

    def wait_for_shell(self):
        self.wait_for(r'ringfence:\S+# ')

    def type(self, line):
        self.p.stdin.write(line.encode() + b'\n')
        self.p.stdin.flush()

    def run(self, command):
        """What a command prints; it must succeed."""
        start = self.at
        self.type(command + '; echo "<$?>"')
        m = self.wait_for(r'<(\d+)>\r\n')
        check(m.group(1) == b'0', command, m.group(), self)
        self.wait_for_shell()
        out = self.seen[start:m.start()].decode('utf-8', 'replace').replace('\r', '')
        return out.rpartition('"<$?>"\n')[2]

    def end(self, command, status):
        self.type(command)
        out, err = self.p.communicate(timeout=LIMIT)
        self.seen += out
        check(self.p.returncode == status, self.p.returncode, self, err.decode())


def start_guest(appliance, *args):
    return Guest(spawn('run', *args, env={**os.environ, 'RINGFENCE_APPLIANCE': appliance},
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


# Tiny guests. Machine code is given as bytes; what it means stands beside it.

def out8(port, value):
    return b'\xba' + port.to_bytes(2, 'little') + bytes([0xb0, value]) + b'\xee'


def out16(port, value):
    return b'\xba' + port.to_bytes(2, 'little') + b'\xb8' + value.to_bytes(2, 'little') + b'\xef'


def in8(port):
    return b'\xba' + port.to_bytes(2, 'little') + b'\xec'


WAIT_THR = in8(0x3fd) + b'\xa8\x20\x74\xfb'  # in al,dx; test al,20h; jz in
WAIT_RX = in8(0x3fd) + b'\xa8\x01\x74\xfb'


def puts(text):
    return b''.join(WAIT_THR + out8(0x3f8, c) for c in text.encode())


def loop(code):
    """Runs code for ever."""
    return code + b'\xe9' + (-(len(code) + 3) & 0xffff).to_bytes(2, 'little')


POWER_OFF = out16(0x604, 0x3400)  # PM1a_CNT: SLP_EN, SLP_TYP 5
RESET = out8(0xcf9, 6)
SPIN = b'\xfa\xeb\xfe'  # cli; jmp $
HALT = b'\xfa' + loop(b'\xf4')  # cli; hlt
TRIPLE_FAULT = b'\x0f\x01\x1e\x00\x00\xcc'  # lidt [0] (the vectors at 0: limit and base 0); int3
# Echoes what comes in, until a '.' comes, which powers off.
ECHO = loop(WAIT_RX + in8(0x3f8) + b'\x88\xc4'              # mov ah,al
            + WAIT_THR + b'\x88\xe0' + b'\xba\xf8\x03\xee'  # mov al,ah; out 3f8,al
            + b'\x3c.\x75' + bytes([len(POWER_OFF)])        # cmp al,'.'; jne over
            + POWER_OFF)


def rom(code):
    """The path of a ROM image that runs `code`."""
    image = bytearray(b'\xf4' * 65536)
    image[0:len(code)] = code
    image[0xfff0:0xfff5] = b'\xea\x00\x00\x00\xf0'  # jmp f000:0000
    path = os.path.join(workdir(), f'rom{len(os.listdir(workdir()))}')
    with open(path, 'wb') as f:
        f.write(image)
    return path


_dir = None


def workdir():
    global _dir
    if not _dir:
        _dir = tempfile.TemporaryDirectory(prefix='rf-e2e-')
    return _dir.name


def write(name, data):
    path = os.path.join(workdir(), name)
    with open(path, 'wb') as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return path


def main(names):
    tests = [(n, f) for n, f in names.items() if n.startswith('test_') and callable(f)]
    failed = 0
    print(f'1..{len(tests)}')
    for i, (name, fn) in enumerate(tests, 1):
        title = name[5:].replace('_', ' ')
        try:
            fn()
            print(f'ok {i} - {title}', flush=True)
        except Skip as why:
            print(f'ok {i} - {title} # SKIP {why}', flush=True)
        except Exception:
            failed += 1
            print(f'not ok {i} - {title}', flush=True)
            for line in traceback.format_exc().splitlines():
                print(f'# {line}', flush=True)
        reap()
    sys.exit(failed > 0)

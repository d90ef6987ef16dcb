# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: running rf, tiny guests as ROM images, and TAP output.

A guest is real-mode code in a 64 KiB ROM that starts at the reset vector, so these tests need no
kernel. Every function of a test file whose name starts with "test_" is one test point.
"""
import os
import subprocess
import sys
import tempfile
import traceback

RF = sys.argv[1] if len(sys.argv) > 1 else 'build/rf'
LIMIT = 60


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


def check(condition, *what):
    if not condition:
        raise AssertionError('\n'.join(map(str, what)))


def expect(result, status, *in_stderr):
    """The exit status, and texts that standard error must hold."""
    check(result.status == status, f'expected status {status}', result)
    for text in in_stderr:
        check(text in result.err, f'expected on stderr: {text!r}', result)
    return result


# Guests. Machine code is given as bytes; what it means stands beside it.

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
    sys.exit(failed > 0)

# SPDX-License-Identifier: Apache-2.0
"""Whoever does the work: this machine, or a guest of QEMU or of rf, behind the same lines of text.

A guest is booted and then waits for its next piece of work, so that contestants can take turns.
"""
import collections
import os
import selectors
import subprocess
import time

READY = b'BENCH-READY'
FIRST_LINE = b'Linux version'
INIT_LINE = b'Ringfence appliance: init runs.'
GUEST_MEMORY_MIB = 512
DISK_MIB = 64  # as in devices.c


class Failed(Exception):
    pass


class Lines:
    """The lines that a process prints, each within a time limit."""

    def __init__(self, process):
        self.process = process
        self.fd = process.stdout.fileno()
        os.set_blocking(self.fd, False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.fd, selectors.EVENT_READ)
        self.pending = b''
        self.last = []

    def next(self, deadline):
        while b'\n' not in self.pending:
            if not self.selector.select(max(0, deadline - time.monotonic())):
                raise Failed('nothing came in time; ' + self.tail())
            some = os.read(self.fd, 65536)
            if not some:
                raise Failed('ended unasked; ' + self.tail())
            self.pending += some
        line, self.pending = self.pending.split(b'\n', 1)
        self.last = self.last[-7:] + [line.rstrip()]
        return line.strip()

    def until(self, word, limit):
        """Lines up to the one that begins with WORD; kernels may print before it on the same line."""
        lines, deadline = [], time.monotonic() + limit
        while True:
            lines.append(self.next(deadline))
            if word in lines[-1]:
                return lines

    def tail(self):
        lines = [l.decode(errors='replace') for l in self.last + [self.pending] if l]
        return 'the last lines were:\n  ' + '\n  '.join(lines)

    def close(self):
        self.selector.close()


class Contestant:
    """One process that serves bench.c's protocol, itself or on its guest's console."""

    def __init__(self, name, command, boot_command=None, env=None):
        self.name, self.command, self.boot_command = name, command, boot_command
        self.env = {**os.environ, **(env or {})}
        self.process = self.lines = None

    def launch(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env=self.env)
        self.lines = Lines(self.process)

    def start(self, limit):
        self.launch(self.command)
        self.lines.until(READY, limit)

    def boot(self, limit):
        """Nanoseconds from the first byte of the kernel's log (its early console) to /init's first."""
        self.launch(self.boot_command)
        try:
            self.lines.until(FIRST_LINE, limit)
            begin = time.monotonic_ns()
            self.lines.until(INIT_LINE, limit)
            return time.monotonic_ns() - begin
        finally:
            self.kill()

    def work(self, name, budget_ms, limit):
        """Returns a dictionary: ns per operation, ns of the first batch, check, and both clocks."""
        begin = time.monotonic_ns()
        self.process.stdin.write(f'{name} {budget_ms}\n'.encode())
        self.process.stdin.flush()
        lines = self.lines.until(b'BENCH-DONE ' + name.encode(), limit)
        host = time.monotonic_ns() - begin
        guest = int(lines[-1].split()[-1])
        for line in lines[:-1]:
            words = line.decode(errors='replace').split()
            if len(words) == 5 and words[:2] == ['BENCH', name]:
                return {'ns': float(words[2]), 'first_ns': int(words[3]), 'check': words[4],
                        'guest_ns': guest, 'host_ns': host}
        raise Failed(f'{name} was not done; ' + self.lines.tail())

    def running(self):
        return self.process is not None

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.lines.close()
        self.process = None

    def overhead_kib(self):
        """Resident memory of the monitor beyond the guest's RAM and the files that it boots, which QEMU
        keeps mapped. RAM is the mapping that has its size."""
        ram_kib, others = GUEST_MEMORY_MIB * 1024, 0
        for m in mappings(self.process.pid):
            is_ram = not m.executable and ram_kib <= m.size_kib < ram_kib + 4096
            if not is_ram and m.path not in self.command:
                others += m.resident_kib
        return others


Mapping = collections.namedtuple('Mapping', 'size_kib resident_kib executable path')


def mappings(pid):
    """What is mapped twice counts once: resident is the PSS."""
    with open(f'/proc/{pid}/smaps', encoding='utf-8', errors='replace') as f:
        for line in f:
            words = line.split(None, 5)
            if words[0] == 'Size:':
                size = int(words[1])
            elif words[0] == 'Pss:':
                yield Mapping(size, int(words[1]), executable, path)
            elif not words[0].endswith(':'):
                executable = 'x' in words[1]
                path = words[5].strip() if len(words) > 5 else None


class Host:
    """The host's side of the guests' devices: a server that they reach over their network, and a disk
    for each contestant."""

    def __init__(self, program, scratch):
        self.scratch = scratch
        self.process = subprocess.Popen([program, 'serve'], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def disk(self, name):
        path = os.path.join(self.scratch, 'disk-' + name)
        with open(path, 'wb') as f:
            f.write(bytes(DISK_MIB << 20))
        return path

    def line(self):
        """For a guest's kernel: it hands what it does not know to the first process's environment."""
        return f'BENCH_HOST=10.0.2.2:{self.port} BENCH_DISK=/dev/vda'

    def env(self, disk):
        """The same for who runs on the host itself."""
        return {'BENCH_HOST': f'127.0.0.1:{self.port}', 'BENCH_DISK': disk}

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def qemu(kernel, initrd, cmdline, disk=None):
    devices = ['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n',
               '-drive', f'file={disk},if=none,id=d,format=raw', '-device', 'virtio-blk-pci,drive=d']
    return ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'max', '-m', str(GUEST_MEMORY_MIB),
            '-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot',
            '-kernel', kernel, '-initrd', initrd, '-append', cmdline] + (devices if disk else [])


def rf(program, engine, kernel, initrd, cmdline, disk=None):
    return [program, 'run', '--engine', engine, '--memory', f'{GUEST_MEMORY_MIB}M',
            '--kernel', kernel, '--initrd', initrd, '--append', cmdline] + \
        (['--vif', 'user', '--disk', f'{disk},raw,vda,rw'] if disk else [])

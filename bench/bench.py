#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares engines: the same guest and the same program natively, under QEMU's TCG and under rf.

Every round runs each contestant once, in turn, so that the host's noise falls on all of them alike; the
table shows medians over the rounds. A boot is timed from the first byte of the kernel's log (its early
console, so the kernel's own start and not the firmware's or the loader's) to the first line of /init.
"""
import argparse
import gzip
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FIRST_LINE = b'Linux version'
INIT_LINE = b'Ringfence appliance: init runs.'
KERNEL_LINE = 'earlyprintk=serial,ttyS0,115200'

# name, what it is, unit, nanoseconds per unit
WORKS = [
    ('boot', 'kernel start to /init', 's', 1e9),
    ('start', 'command to /init', 's', 1e9),
    ('xorshift', 'xorshift step (registers)', 'ns', 1),
    ('qsort', 'qsort, per item of 100 000', 'ns', 1),
    ('matrix', '256^3 matrix product (SSE2)', 'ms', 1e6),
    ('sin', 'sin + sqrt', 'ns', 1),
    ('syscall', 'getppid', 'ns', 1),
    ('fork', 'fork + exit + wait', 'us', 1e3),
    ('exec', 'fork + exec + wait', 'us', 1e3),
    ('fault', 'anonymous page fault', 'us', 1e3),
    ('pipe', 'pipe round trip', 'us', 1e3),
]

# The guest measures itself for this long per work; slow engines need longer for one batch anyway.
BUDGET_MS = 300

RC = f'#!/bin/sh\n/bin/guest-bench {BUDGET_MS}\necho BENCH-END\n'


class Failed(Exception):
    pass


def make_initrd(appliance, program, folder):
    """The appliance's initramfs with a second archive behind it that brings the benchmark."""
    root = os.path.join(folder, 'root')
    os.makedirs(os.path.join(root, 'bin'))
    os.makedirs(os.path.join(root, 'etc'))
    shutil.copy(program, os.path.join(root, 'bin', 'guest-bench'))
    rc = os.path.join(root, 'etc', 'appliance.rc')
    with open(rc, 'w', encoding='ascii') as f:
        f.write(RC)
    os.chmod(rc, 0o755)
    names = b'bin\nbin/guest-bench\netc\netc/appliance.rc\n'
    archive = subprocess.run(['cpio', '-o', '-H', 'newc', '-R', '0:0', '--quiet'], cwd=root,
                             input=names, stdout=subprocess.PIPE, check=True).stdout
    path = os.path.join(folder, 'initrd.img')
    with open(path, 'wb') as out:
        with open(os.path.join(appliance, 'initrd.img'), 'rb') as base:
            out.write(base.read())
        out.write(gzip.compress(archive, 1))
    return path


def read_results(lines):
    results = {}
    for line in lines:
        words = line.decode(errors='replace').split()
        if len(words) == 3 and words[0] == 'BENCH':
            results[words[1]] = float(words[2])
    return results


def run_native(program):
    out = subprocess.run([program, str(BUDGET_MS)], check=True, stdout=subprocess.PIPE).stdout
    return read_results(out.splitlines())


def run_guest(command, limit):
    """Boots, times the boot from outside, and lets the guest power itself off."""
    start = time.monotonic()
    first = init = None
    lines = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as p:
        timer = subprocess.Popen(['sh', '-c', f'sleep {limit}; kill {p.pid}'])
        try:
            for line in p.stdout:
                now = time.monotonic()
                lines.append(line)
                if first is None and FIRST_LINE in line:
                    first = now
                if init is None and INIT_LINE in line:
                    init = now
            p.wait()
        finally:
            timer.kill()
            timer.wait()
    if first is None or init is None or not any(b'BENCH-END' in l for l in lines):
        tail = b''.join(lines[-12:]).decode(errors='replace')
        raise Failed(f'ended after {time.monotonic() - start:.0f} s with status {p.returncode}, '
                     f'unfinished:\n{tail}')
    return dict(read_results(lines), boot=(init - first) * 1e9,
                start=(init - start) * 1e9)


def contestants(args, kernel, initrd, cmdline):
    """name -> function that returns {work: nanoseconds}"""
    program = os.path.join(args.build, 'bench', 'guest-bench')
    qemu = ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'max', '-m', '512', '-nodefaults',
            '-display', 'none', '-serial', 'stdio', '-no-reboot',
            '-kernel', kernel, '-initrd', initrd, '-append', cmdline]
    runs = {'native': lambda: run_native(program)}
    if not args.no_tcg:
        runs['tcg'] = lambda: run_guest(qemu, args.limit)
    for engine in args.engine or ['interp']:
        rf = [os.path.join(args.build, 'rf'), 'run', '--engine', engine, '--memory', '512M',
              '--kernel', kernel, '--initrd', initrd, '--append', cmdline]
        runs[engine] = lambda rf=rf: run_guest(rf, args.limit)
    return runs


def ratio(results, work, a, b):
    x, y = results[a].get(work), results[b].get(work)
    return x / y if x and y else None


def cell(value, form='{:.2f}'):
    return '-' if value is None else form.format(value)


def table(results):
    names = list(results)
    pairs = [(n, 'native') for n in names if n != 'native']
    if 'tcg' in results:
        pairs += [(n, 'tcg') for n in names if n not in ('native', 'tcg')]
    rows = [['work', 'unit'] + names + [f'{a}/{b}' for a, b in pairs]]
    ratios = {p: [] for p in pairs}
    for work, text, unit, scale in WORKS:
        row = [text, unit]
        for n in names:
            value = results[n].get(work)
            row.append(cell(None if value is None else value / scale))
        for p in pairs:
            r = ratio(results, work, *p)
            if r and work not in ('boot', 'start'):
                ratios[p].append(r)
            row.append(cell(r, '{:.2f}x'))
        rows.append(row)
    means = [cell(math.exp(statistics.fmean(map(math.log, v))) if v else None, '{:.2f}x')
             for v in ratios.values()]
    rows.append(['geometric mean of the programs', ''] + [''] * len(names) + means)
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        cells = [r[0].ljust(widths[0]), r[1].ljust(widths[1])]
        print('  '.join(cells + [c.rjust(w) for c, w in zip(r[2:], widths[2:])]))


def progress(text):
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)


def measure(runs, rounds):
    samples = {name: [] for name in runs}
    failures = {}
    for i in range(rounds):
        for name, run in runs.items():
            if name in failures:
                continue
            progress(f'round {i + 1} of {rounds}: {name}')
            try:
                samples[name].append(run())
            except (Failed, OSError, subprocess.CalledProcessError) as e:
                failures[name] = e
    progress('')
    medians = {}
    for name, runs_of in samples.items():
        works = {w for s in runs_of for w in s}
        if name not in failures:
            medians[name] = {w: statistics.median(s[w] for s in runs_of if w in s)
                             for w in works}
    return medians, failures


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--build', default='build', help="meson's build folder")
    ap.add_argument('--engine', action='append', help='engine of rf to measure (default interp)')
    ap.add_argument('--rounds', type=int, default=3)
    ap.add_argument('--limit', type=int, default=300, help='seconds that one guest may take')
    ap.add_argument('--no-tcg', action='store_true', help="leave QEMU's TCG out")
    args = ap.parse_args()

    subprocess.run(['ninja', '-C', args.build, 'bench/guest-bench'], check=True,
                   stdout=subprocess.DEVNULL)
    appliance = os.path.join(args.build, 'appliance')
    with open(os.path.join(appliance, 'cmdline'), encoding='ascii') as f:
        cmdline = f'{f.read().strip()} {KERNEL_LINE}'
    with tempfile.TemporaryDirectory() as folder:
        initrd = make_initrd(appliance, os.path.join(args.build, 'bench', 'guest-bench'), folder)
        runs = contestants(args, os.path.join(appliance, 'vmlinuz'), initrd, cmdline)
        results, failures = measure(runs, args.rounds)
    print(f'Medians of {args.rounds} rounds on {os.cpu_count()} host processors; guests have one '
          'vCPU and 512 MiB. Ratios of time: lower is faster.')
    table(results)
    for name, why in failures.items():
        print(f'{name}: {why}', file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()

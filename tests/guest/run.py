#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one bare-metal guest under one engine and turns what it reports on COM1 into TAP.

An engine is one of rf's, or, as a second opinion on a guest, qemu-tcg or qemu-kvm. A disagreement
may be the guest's mistake as well as the engine's: look it up in the SDM. Those of QEMU 7.2's TCG
that were looked up so far are TCG's: it checks no segment limits, no alignment (#AC), no reserved
bits of CRs and MSRs and no MXCSR exceptions, raises #GP for #SS, leaves P out of error codes with
RSVD, saves no RF, knows no INT1 and no TSS T bit, and has no PDPTE registers.

A guest that ends without DONE (which is right for those that crash or hang on purpose: --status) fails one more
test point. Exit status 77 when the engine is not there.
"""
import argparse
import re
import subprocess
import sys

LINE = re.compile(r'^(PASS|FAIL|SKIP) ([^:\r]+)(?:: (.*?))?\r?$')
DONE_STATUS = 1  # guest_done() writes 0 to the debug exit port
ABSENT = 77


def command(args):
    if args.engine.startswith('qemu-'):
        accel = args.engine.split('-')[1]
        return ['qemu-system-x86_64', '-accel', accel, '-cpu', 'max', '-smp', str(args.vcpus),
                '-m', str(args.memory), '-kernel', args.guest, '-display', 'none', '-nodefaults',
                '-no-reboot', '-serial', 'stdio', '-device',
                'isa-debug-exit,iobase=0xf4,iosize=4']
    return [args.rf, 'run', '--engine', args.engine, '--kernel', args.guest, '--debug-exit',
            '--serial', 'stdio', '--vcpus', str(args.vcpus), '--memory', str(args.memory),
            '--timeout', str(args.timeout), '--code-cache', args.code_cache]


def run(args):
    """What the guest wrote, what rf said, and the exit status (a signal's is negative)."""
    try:
        p = subprocess.run(command(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=args.timeout + 20, check=False)
    except subprocess.TimeoutExpired as e:
        return (e.stdout or b'').decode(errors='replace'), 'no end', None
    return p.stdout.decode(errors='replace'), p.stderr.decode(errors='replace'), p.returncode


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('rf')
    ap.add_argument('guest')
    ap.add_argument('--engine', default='interp')
    ap.add_argument('--vcpus', type=int, default=1)
    ap.add_argument('--memory', type=int, default=64, help='MiB')
    ap.add_argument('--timeout', type=float, default=60)
    ap.add_argument('--code-cache', default='128M')
    ap.add_argument('--status', type=int, default=DONE_STATUS, help="rf's exit status")
    args = ap.parse_args()

    out, err, status = run(args)
    # `interp` runs everywhere: if it doesn't, that is a failure.
    if args.engine != 'interp' and not out and err.startswith('rf: engine '):
        print(err, end='')
        sys.exit(ABSENT)
    points = 0
    for line in out.splitlines():
        m = LINE.match(line)
        if m:
            points += 1
            verdict = 'not ok' if m[1] == 'FAIL' else 'ok'
            skip = f' # SKIP {m[3]}' if m[1] == 'SKIP' else ''
            print(f'{verdict} {points} - {m[2]}{skip}')
        if not m or (m[1] == 'FAIL' and m[3]):
            print('# ' + line.rstrip())
    good = status == args.status and (status != DONE_STATUS or 'DONE' in out.split())
    points += 1
    print(f'{"ok" if good else "not ok"} {points} - ends with status {args.status}')
    if not good:
        print(f'# ended with {status}')
        print(''.join(f'# {line}\n' for line in err.splitlines()), end='')
    print(f'1..{points}')


if __name__ == '__main__':
    main()

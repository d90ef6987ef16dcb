# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel, from power-on to power-off, while its processors are moved between the engines.

The program is rf-switched (tests/engine): rf with an engine that is two; each vCPU runs under one
of them, and is moved to the other thousands of times a second.
"""
import os
import re

from rftest import LIMIT, RF, check, find_appliance, main, start_guest

MOVES = re.compile(r'^vCPU (\d+) moved (\d+) times$', re.M)
WORK = ('i=0; while [ $i -lt 300 ]; do i=$((i+1)); (exit $((i & 63))) || s=$((s+$?)); done; '
        'echo $s; dd if=/dev/zero bs=64k count=64 2>/dev/null | sha256sum')
SUM = sum(i & 63 for i in range(1, 301))
# Not what a slow host makes a kernel say: that an interrupt took long, or a timer's were lost.
BAD = re.compile(r'BUG|Oops|unchecked MSR|Call Trace|WARNING|segfault|general protection')
ZEROS = 'bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8'

os.environ.setdefault('RINGFENCE_APPLIANCE',
                      os.path.join(os.path.dirname(os.path.abspath(RF)), '../../appliance'))


def boot(vcpus):
    with start_guest(find_appliance(), '--vcpus', vcpus) as g:
        g.wait_for_shell()
        g.run('dmesg -n 1')
        out = g.run(WORK).split()
        check(str(SUM) in out and ZEROS in out, out)
        log = g.run('dmesg')
        check('Linux version' in log and not BAD.search(log), log)
        g.type('poweroff -f')
        err = g.p.communicate(timeout=LIMIT)[1].decode()
        check(g.p.returncode == 0, g.p.returncode, g, err)
    moves = [int(m[1]) for m in MOVES.findall(err)]
    check(len(moves) == vcpus and min(moves) > 20, err)


def test_one_processor():
    boot(1)


def test_two_processors():
    boot(2)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel and busybox, the demonstration appliance, from power-on to power-off."""
import hashlib
import os
import re
import sys

from rftest import Skip, check, expect, main, rf

import rftest

rftest.LIMIT = 300
APPLIANCE = os.environ.get('RINGFENCE_APPLIANCE') or os.path.join(
    os.path.dirname(os.path.abspath(sys.argv[1])), 'appliance')
BAD = re.compile(rb'BUG|Oops|unchecked MSR|lockup|stall|Call Trace|ACPI Error|WARNING')

SCRIPT = b"""
uname -a
grep -c ^processor /proc/cpuinfo
ls -R /sys >/dev/null; echo sys $?
sha256sum /bin/busybox
cat /proc/interrupts
dmesg | grep -v '^$' >/dev/null; dmesg
"""


def boot(*args, script=SCRIPT, last=b'poweroff -f\n'):
    if not os.path.exists(os.path.join(APPLIANCE, 'cmdline')):
        raise Skip(f'no appliance in {APPLIANCE}')
    return rf('run', '--timeout', '200', *args, stdin=script + last,
              env={'RINGFENCE_APPLIANCE': APPLIANCE})


def clean(result):
    bad = [line for line in result.out.splitlines() if BAD.search(line)]
    check(not bad, *bad)


def test_one_processor():
    result = expect(boot('--memory', '512M'), 0)
    clean(result)
    check(b'\r\n1\r\n' in result.out and b'sys 0' in result.out, result)
    with open(os.path.join(APPLIANCE, 'root/bin/busybox'), 'rb') as f:
        digest = hashlib.sha256(f.read()).hexdigest().encode()
    check(digest + b'  /bin/busybox' in result.out, digest, result)


def test_two_processors():
    result = expect(boot('--memory', '1G', '--vcpus', '2'), 0)
    clean(result)
    check(b'\r\n2\r\n' in result.out and b'CPU1' in result.out, result)


def test_reboot():
    result = expect(boot('on_reboot=destroy', script=b'', last=b'reboot -f\n'), 0)
    check(b'reboot: Restarting system' in result.out, result)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels and busybox, the demonstration appliance, from power-on to power-off."""
import hashlib
import os
import re

from rftest import (check, clean_log, expect, find_appliance, find_generic, main, rf, start_guest,
                    write)



def look_around(appliance, vcpus, memory):
    """What the README tells everybody to try."""
    with start_guest(appliance, '--vcpus', vcpus, '--memory', memory) as g:
        g.wait_for_shell()
        check(g.run('uname -a').startswith('Linux ringfence '), g)
        cpus = g.run('cat /proc/cpuinfo')
        check(len(re.findall(r'^processor\s*:', cpus, re.M)) == vcpus, cpus)
        g.run('ls -R /sys >/dev/null')
        with open(os.path.join(appliance, 'root/bin/busybox'), 'rb') as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        check(digest in g.run('sha256sum /bin/busybox'), digest, g)  # the kernel may speak between
        check(f'CPU{vcpus - 1}' in g.run('cat /proc/interrupts'), g)
        clean_log(g.run('dmesg -r'))
        g.end('poweroff -f', 0)


def test_cloud_kernel():
    look_around(find_appliance(), 1, '512M')


def test_cloud_kernel_on_two_processors():
    look_around(find_appliance(), 2, '1G')


def test_generic_kernel():
    look_around(find_generic(), 1, '1G')


def test_generic_kernel_on_two_processors():
    look_around(find_generic(), 2, '1G')


def test_what_is_piped_in_before_linux_listens_is_not_lost():
    lines = [f'echo $(({i}+1000))' for i in range(100)] + ['poweroff -f']
    env = {'RINGFENCE_APPLIANCE': find_appliance()}
    text = ''.join(line + '\n' for line in lines)
    out = expect(rf('run', stdin=text.encode(), env=env), 0).out
    check(re.findall(rb'^(1\d{3})\r$', out, re.M) == [b'%d' % (i + 1000) for i in range(100)], out)


def test_reboot():
    with start_guest(find_appliance(), 'on_reboot=destroy') as g:
        g.wait_for_shell()
        g.end('reboot -f', 0)
        check('reboot: Restarting system' in g.text(), g)


def test_reboot_in_place():
    with start_guest(find_appliance()) as g:
        g.wait_for_shell()
        g.type('reboot -f')
        g.wait_for(r'reboot: Restarting system')
        g.wait_for_shell()
        g.end('poweroff -f', 0)


def test_a_kernel_without_its_root_panics_and_restarts_no_more():
    kernel = os.path.join(find_appliance(), 'vmlinuz')
    result = expect(rf('run', '--kernel', kernel, '--append', 'console=ttyS0 panic=-1',
                       'on_reboot=destroy'), 0)
    check(b'Kernel panic - not syncing: VFS: Unable to mount root fs' in result.out, result)


def test_kernels_that_are_cut_short():
    with open(os.path.join(find_appliance(), 'vmlinuz'), 'rb') as f:
        kernel = f.read()
    for n, message in ((600, 'not a kernel'), (20000, 'truncated'), (len(kernel) // 2, 'truncated')):
        path = write(f'cut{n}', kernel[:n])
        result = expect(rf('run', '--engine', 'interp', '--kernel', path), 1, path, message)
        check(result.err.count('\n') == 1, result)


def test_what_does_not_fit():
    kernel = os.path.join(find_appliance(), 'vmlinuz')
    initrd = write('big', b'')
    os.truncate(initrd, 300 << 20)
    expect(rf('run', '--kernel', kernel, '--initrd', initrd, '--memory', '256M'), 1, initrd,
           'memory')
    expect(rf('run', '--kernel', kernel, '--memory', '16M'), 1, kernel, 'memory')


main(globals())

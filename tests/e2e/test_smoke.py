# SPDX-License-Identifier: Apache-2.0
"""What sanitizers get to see of a whole machine: a boot with two processors, some work on both, the end."""
from rftest import Skip, check, expect, find_appliance, main, rf, start_guest


def two_processors(engine):
    with start_guest(find_appliance(), '--engine', engine, '--vcpus', '2') as g:
        g.wait_for_shell()
        check(g.run('grep -c ^processor /proc/cpuinfo').strip() == '2', g)
        g.run('sha256sum /bin/busybox & sha256sum /bin/busybox; wait')
        g.end('poweroff -f', 0)


def test_two_processors_of_interp():
    two_processors('interp')


def test_two_processors_of_bt():
    if b'engine bt         usable' not in expect(rf('check'), 0).out:
        raise Skip('bt does not work here')
    two_processors('bt')


main(globals())

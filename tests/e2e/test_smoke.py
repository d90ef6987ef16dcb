# SPDX-License-Identifier: Apache-2.0
"""What sanitizers get to see of a whole machine: a boot with two processors, some work on both, the end."""
from rftest import check, find_appliance, main, start_guest


def test_two_processors():
    with start_guest(find_appliance(), '--engine', 'interp', '--vcpus', '2') as g:
        g.wait_for_shell()
        check(g.run('grep -c ^processor /proc/cpuinfo').strip() == '2', g)
        g.run('sha256sum /bin/busybox & sha256sum /bin/busybox; wait')
        g.end('poweroff -f', 0)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""Memory that a guest doesn't use goes back to the host, and comes again when it does."""
import time

from rftest import LIMIT, check, expect, find_appliance, main, rf, start_guest, with_drivers


def appliance():
    return with_drivers(find_appliance())


def guest(*args):
    return start_guest(appliance(), '--vif', 'none', *args)


def held(g):
    """MiB of the guest's memory that the host holds."""
    with open(f'/proc/{g.p.pid}/status', encoding='ascii') as f:
        line = next(x for x in f if x.startswith('RssShmem'))
    return int(line.split()[1]) >> 10


def wait_until(what, *args):
    end = time.monotonic() + LIMIT
    while not what():
        check(time.monotonic() < end, *[a() for a in args])
        time.sleep(0.2)


def mem(g, field):
    return int(g.run(f"awk '/{field}/{{print$2}}' /proc/meminfo")) >> 10


def use(g, mib):
    """A file in memory of that size."""
    g.run('mkdir -p /big; mount -t tmpfs -o size=90% big /big; '
          f'dd if=/dev/zero of=/big/file bs=1M count={mib} 2>/dev/null')


def test_free_pages_are_reported():
    with guest('--memory', '512M', '--engine', 'bt') as g:
        g.wait_for_shell()
        before = held(g)
        for _ in range(2):
            use(g, 200)
            check(held(g) > before + 150, before, held(g))
            g.run('rm /big/file; umount /big')
            wait_until(lambda: held(g) < before + 60, lambda: before, lambda: held(g))
        g.end('poweroff -f', 0)


def balloon(engine, vcpus):
    with guest('--memory', '160M', '--maxmem', '480M', '--engine', engine, '--vcpus', vcpus) as g:
        g.wait_for_shell()
        wait_until(lambda: mem(g, 'MemAvailable') < 150, lambda: mem(g, 'MemAvailable'))
        check(held(g) < 200, held(g))
        # More than there is: the balloon gives way rather than that a process dies.
        use(g, 180)
        check(held(g) > 180, held(g))
        g.run('test $(stat -c %s /big/file) = 188743680')
        g.run('! dmesg | grep -q "Out of memory"')
        g.end('poweroff -f', 0)


def test_balloon():
    balloon('bt', 1)


def test_balloon_under_the_reference_with_two_processors():
    balloon('interp', 2)


def test_maxmem():
    expect(rf('run', '--dry-run', '--memory', '512M', '--maxmem', '256M'), 1, 'maxmem: it is less')


main(globals())

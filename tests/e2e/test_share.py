# SPDX-License-Identifier: Apache-2.0
"""Folders of the host in a guest: after the same random operations the files are the same on both
sides. Debian's cloud kernel has no 9P, so this is the kernel that Debian installs on PCs."""
import os
import shutil

from rftest import check, expect, find_generic, main, rf, start_guest, with_drivers
from share import compare, folder, in_the_guest, on_the_host, write_script

# A thousand and more by hand: RF_SHARE_OPERATIONS=1500.
OPERATIONS = int(os.environ.get('RF_SHARE_OPERATIONS', '250'))


def appliance():
    return with_drivers(find_generic())


def random_operations(seed, *options):
    kernel, top, twin, tools = appliance(), folder('share'), folder('twin'), folder('tools')
    script = write_script(tools, seed, OPERATIONS)
    on_the_host(os.path.join(kernel, 'root/bin/busybox'), twin, script)
    with start_guest(kernel, '--memory', '512M', '--vif', 'none', '--share', f'tag=share,path={top}',
                     '--share', f'tag=tools,path={tools},access=ro', *options) as g:
        g.wait_for_shell()
        in_the_guest(g)
        g.end('poweroff -f', 0)
    compare(top, twin)
    check(os.listdir(tools) == ['script'], os.listdir(tools))


def test_random_operations():
    random_operations(1, '--engine', 'bt')


def test_random_operations_on_two_processors():
    random_operations(2, '--engine', 'bt', '--vcpus', '2')


def test_random_operations_under_the_reference():
    random_operations(3, '--engine', 'interp')


def test_owners_are_mapped():
    share = folder('owned')
    with open(os.path.join(share, 'file'), 'w', encoding='utf-8') as f:
        f.write('text')
    with start_guest(appliance(), '--memory', '512M', '--vif', 'none', '--engine', 'bt',
                     '--share', f'path={share},tag=owned,uid=1234,gid=99') as g:
        g.wait_for_shell()
        g.run('mkdir /m; mount -t 9p -o trans=virtio,version=9p2000.L owned /m')
        check(g.run('stat -c "%u %g" /m/file') == '1234 99\n', g)
        # The folder goes away under the guest: errors, and the guest goes on.
        shutil.rmtree(share)
        g.run('! cat /m/file; ! touch /m/new')
        g.end('poweroff -f', 0)


def test_what_makes_no_sense():
    for spec, text in (('/nonexistent', 'No such file or directory'),
                       ('/etc/passwd', 'Not a directory')):
        r = rf('run', '--share', spec, '--vif', 'none', env={'RINGFENCE_APPLIANCE': appliance()})
        expect(r, 1, text, 'share')
    closed = folder('closed')
    os.chmod(closed, 0)
    if not os.access(closed, os.R_OK):  # who is root may
        expect(rf('run', '--share', closed, '--vif', 'none'), 1, 'Permission denied', 'share')
    for spec, text in (('path=/tmp,uid=x', "uid: 'x' is not GUEST[:HOST[:COUNT]]"),
                       ('tag=x', 'there is no folder'),
                       ('/tmp,access=sometimes', "access 'sometimes' is none of rw, ro"),
                       ('/tmp,what=1', 'is none of tag=, path=')):
        r = rf('run', '--dry-run', '--share', spec)
        check(r.status in (1, 2) and text in r.err, text, r)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""Folders of the host in a guest: after the same random operations the files are the same on both
sides. Debian's cloud kernel has no 9P, so this is the kernel that Debian installs on PCs."""
import os
import random
import shutil
import stat
import subprocess

from rftest import Skip, check, expect, find_generic, main, rf, start_guest, workdir

# A thousand and more by hand: RF_SHARE_OPERATIONS=1500.
OPERATIONS = int(os.environ.get('RF_SHARE_OPERATIONS', '250'))
NAMES = ('a', 'b', 'c', 'with space', 'ü')


def appliance():
    folder = find_generic()
    if not os.path.exists(os.path.join(folder, 'root/lib/modules')):
        raise Skip(f'the appliance in {folder} was made before it had drivers')
    return folder


def folder(what):
    path = os.path.join(workdir(), what)
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path)
    return path


def operations(seed, count):
    """Lines for a shell that is in the folder. Each may fail, on both sides alike."""
    r = random.Random(seed)

    def path():
        return '"' + '/'.join(r.choice(NAMES) for _ in range(r.choice((1, 1, 2, 3)))) + '"'

    kinds = (
        lambda: f'mkdir {path()}',
        lambda: f'mkdir -p {path()}',
        lambda: f'seq {r.randrange(5000)} >{path()}',
        lambda: f'seq {r.randrange(50)} >>{path()}',
        lambda: f'dd if=/dev/zero of={path()} bs=1000 seek={r.randrange(99)} count=3 conv=notrunc',
        lambda: f'truncate -s {r.randrange(9999)} {path()}',
        lambda: f'mv {path()} {path()}',
        lambda: f'cp -a {path()} {path()}',
        lambda: f'ln {path()} {path()}',
        lambda: f'ln -s {r.choice(("a", "nowhere", "../b"))} {path()}',
        lambda: f'rm -f {path()}',
        lambda: f'rm -rf {path()}' if r.random() < .3 else f'rmdir {path()}',
        lambda: f'chmod {r.choice(("600", "644", "750", "755"))} {path()}',
        lambda: f'touch -d @{r.randrange(10 ** 9)} {path()}',
        lambda: f'mkfifo {path()}',
        lambda: f'sha256sum {path()}/* | wc -l',
    )
    return ''.join(r.choice(kinds)() + '\n' for _ in range(count))


def describe(top):
    """Everything below a folder that both sides must agree on."""
    found = {}
    for at, folders, files in os.walk(top):
        for n in folders + files:
            p = os.path.join(at, n)
            st = os.lstat(p)
            what = [oct(st.st_mode), st.st_nlink]
            if stat.S_ISREG(st.st_mode):
                with open(p, 'rb') as f:
                    what.append(f.read())
            elif stat.S_ISLNK(st.st_mode):
                what.append(os.readlink(p))
            found[os.path.relpath(p, top)] = what
    return found


# Opening a FIFO would wait; the shell's own errors are none of the test's business.
PROLOGUE = 'umask 022\nexec </dev/null 2>/dev/null\n'


def on_the_host(busybox, top, script):
    subprocess.run([busybox, 'sh', '-c', PROLOGUE + script], cwd=top, check=False,
                   stdout=subprocess.DEVNULL, env={'PATH': bin_of(busybox)}, timeout=60)


def bin_of(busybox):
    """busybox's own programs, whatever the host has."""
    path = os.path.join(workdir(), 'bin')
    if not os.path.exists(path):
        os.mkdir(path)
        subprocess.run([busybox, '--install', '-s', path], check=True)
    return path


def random_operations(seed, *options):
    kernel, share, twin, tools = appliance(), folder('share'), folder('twin'), folder('tools')
    script = operations(seed, OPERATIONS).replace('mkfifo', 'true mkfifo')
    with open(os.path.join(tools, 'script'), 'w', encoding='utf-8') as f:
        f.write(PROLOGUE + script)
    on_the_host(os.path.join(kernel, 'root/bin/busybox'), twin, script)
    with start_guest(kernel, '--memory', '512M', '--vif', 'none', '--share', share,
                     '--share', f'tag=tools,path={tools},access=ro', *options) as g:
        g.wait_for_shell()
        g.run('mkdir /share /tools; for t in share tools; do '
              'mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 $t /$t; done')
        g.run('cd /share; sh /tools/script >/dev/null; cd /')
        g.run('! touch /tools/new && ! rm /tools/script')
        g.run('sync; umount /share')
        g.end('poweroff -f', 0)
    here, there = describe(share), describe(twin)
    check(len(there) > 10, 'too little to compare', sorted(there))
    for n in sorted(set(here) | set(there)):
        check(here.get(n) == there.get(n), n, str(here.get(n))[:300], str(there.get(n))[:300])
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
    for spec, text in (('path=/tmp,uid=x', "uid: 'x' is not GUEST[:HOST[:COUNT]]"),
                       ('tag=x', 'there is no folder'),
                       ('/tmp,access=sometimes', "access 'sometimes' is none of rw, ro"),
                       ('/tmp,what=1', 'is none of tag=, path=')):
        r = rf('run', '--dry-run', '--share', spec)
        check(r.status in (1, 2) and text in r.err, text, r)


main(globals())

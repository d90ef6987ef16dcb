# SPDX-License-Identifier: Apache-2.0
"""Random operations on a shared folder: in a guest, and in a twin of it on the host by the same
programs (busybox's). Afterwards both must be the same."""
import os
import random
import stat
import subprocess
import tempfile

from rftest import check, workdir

NAMES = ('a', 'b', 'c', 'with space', 'ü')
# Files that a script has dated are from before; what was made or changed since is not comparable.
LONG_AGO = 10**9


def folder(what):
    return tempfile.mkdtemp(prefix=what, dir=workdir())


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
        lambda: f'touch -d @{r.randrange(LONG_AGO)} {path()}',
        lambda: f'mkfifo {path()}',
        lambda: f'sha256sum {path()}/* | wc -l',
    )
    script = ''.join(r.choice(kinds)() + '\n' for _ in range(count))
    # Opening a FIFO would wait.
    return script.replace('mkfifo', 'true mkfifo')


def describe_one(path):
    st = os.lstat(path)
    what = [oct(st.st_mode), st.st_nlink]
    if not stat.S_ISLNK(st.st_mode):
        what.append(min(st.st_mtime_ns, LONG_AGO * 10**9))
    if stat.S_ISREG(st.st_mode):
        with open(path, 'rb') as f:
            what.append(f.read())
    elif stat.S_ISLNK(st.st_mode):
        what.append(os.readlink(path))
    elif stat.S_ISDIR(st.st_mode):
        os.chmod(path, 0o700)  # for those who are not root
    return what


def describe(top):
    """Everything below a folder that both sides must agree on."""
    found = {}
    for at, folders, files in os.walk(top):
        for n in folders + files:
            p = os.path.join(at, n)
            found[os.path.relpath(p, top)] = describe_one(p)
    return found


# The shell's own errors are none of the test's business.
PROLOGUE = 'umask 022\nexec </dev/null 2>/dev/null\n'


def write_script(folder_, seed, count):
    """Puts it where the guest finds it; returns its path."""
    path = os.path.join(folder_, 'script')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(PROLOGUE + operations(seed, count))
    return path


def on_the_host(busybox, top, script):
    subprocess.run([busybox, 'sh', script], cwd=top, check=False, stdout=subprocess.DEVNULL,
                   env={'PATH': bin_of(busybox)}, timeout=120)


def in_the_guest(g):
    """Mounts the shares "share" and "tools" (which is read-only), and runs the script."""
    for tag in 'share', 'tools':
        g.run(f'mkdir -p /{tag}; mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 {tag} /{tag}')
    g.run('cd /share; sh /tools/script >/dev/null; cd /')
    g.run('! touch /tools/new && ! rm /tools/script')
    g.run('sync; umount /share')


def compare(top, twin):
    here, there = describe(top), describe(twin)
    check(len(there) > 4, 'too little to compare', sorted(there))
    check(any(len(w) > 2 and w[2] != LONG_AGO * 10**9 for w in there.values()), 'no dates')
    for n in sorted(set(here) | set(there)):
        check(here.get(n) == there.get(n), n, str(here.get(n))[:300], str(there.get(n))[:300])


def bin_of(busybox):
    """busybox's own programs, whatever the host has."""
    path = os.path.join(workdir(), 'bin')
    if not os.path.exists(path):
        os.mkdir(path)
        subprocess.run([busybox, '--install', '-s', path], check=True)
    return path

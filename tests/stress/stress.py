#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hours of mixed work in a guest: compiler, Python, SQLite, forks, stress-ng --verify.

The guest's programs are Debian's packages, downloaded and unpacked on top of the appliance. Every
result is compared with the host's own, the kernel's log must hold no complaint, and the monitor's
memory must not grow once the guest has touched all of its own. Not part of make test.

usage: tests/stress/stress.py --rf build/rf --appliance build/appliance --seconds 3600
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = ['tcc', 'libc6-dev', 'linux-libc-dev', 'python3.11-minimal', 'libpython3.11-stdlib',
            'sqlite3', 'stress-ng']
COMPLAINT = re.compile(r'^<[0-4]>|BUG|Oops|lockup|\bstall|Call Trace|WARNING')
# What only graphics and installing would use.
UNUSED = re.compile(r'perl|debconf|dpkg|tar$|libperl|install-info|.*-mesa|libx11-data|libdrm-c|'
                    r'lib(krb|gss|k5|nsl|tirpc|db5|gdbm)|mailcap|m(edia|ime)-')
# What stress-ng's signals make the kernel say of it; PCI without memory-mapped configuration; a host
# that is late.
HARMLESS = re.compile(r'MMCONFIG|stress-ng|traps: |oom_score_adj|interrupt took|Lost .* RTC')
SLACK = 64 << 10  # KiB that the monitor may grow between the middle and the end


def say(*words):
    print('stress:', *words, flush=True)


# ---- the guest's programs ----


def closure(names):
    """The packages with all that they depend on, without what only graphics would use."""
    text = subprocess.run(['apt-cache', 'depends', '--recurse', '--no-recommends', '--no-suggests',
                           '--no-conflicts', '--no-breaks', '--no-replaces', '--no-enhances',
                           *names], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {line for line in text.split('\n') if re.match(r'[a-z0-9][a-z0-9.+-]*$', line)}
    known = subprocess.run(['apt-cache', 'policy', *sorted(found)], check=True,
                           stdout=subprocess.PIPE, text=True, env={**os.environ, 'LC_ALL': 'C'})
    real = re.findall(r'^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))', known.stdout, re.M)
    return [p for p in real if not UNUSED.match(p)]


def download(folder, names):
    os.makedirs(folder, exist_ok=True)
    missing = [n for n in names if not glob.glob(f'{folder}/{n}_*.deb')]
    if missing:
        subprocess.run(['apt-get', '-q', 'download', *missing], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [glob.glob(f'{folder}/{n}_*.deb')[0] for n in names]


def merge(root):
    """Debian's packages still name /bin, /lib and /lib64 themselves: their files go below /usr."""
    for name in ('lib', 'lib64'):
        path = os.path.join(root, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.copytree(path, os.path.join(root, 'usr', name), symlinks=True,
                            dirs_exist_ok=True)
            shutil.rmtree(path)
        os.symlink('usr/' + name, path)


def make_initrd(o):
    root, image = os.path.join(o.work, 'root'), os.path.join(o.work, 'initrd.img')
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(os.path.join(o.appliance, 'root'), root, symlinks=True)
    for deb in download(os.path.join(o.work, 'debs'), closure(PACKAGES)):
        subprocess.run(['dpkg-deb', '-x', deb, root], check=True)
    merge(root)
    for unused in ('usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/share/i18n',
                   'usr/lib/x86_64-linux-gnu/dri', 'usr/lib/llvm-14', 'usr/share/zoneinfo'):
        shutil.rmtree(os.path.join(root, unused), ignore_errors=True)
    for big in glob.glob(os.path.join(root, 'usr/lib/x86_64-linux-gnu/lib[Lm]*LLVM*')):
        os.unlink(big)
    if not os.path.lexists(os.path.join(root, 'usr/bin/python3')):
        os.symlink('python3.11', os.path.join(root, 'usr/bin/python3'))
    os.makedirs(os.path.join(root, 'stress'))
    for f in ('sums.c', 'work.sql', 'work.py'):
        shutil.copy(os.path.join(HERE, f), os.path.join(root, 'stress'))
    shutil.copy(os.path.join(HERE, 'work.sh'), os.path.join(root, 'etc/appliance.rc'))
    os.chmod(os.path.join(root, 'etc/appliance.rc'), 0o755)
    subprocess.run(f'find . | cpio -o -H newc -R 0:0 --quiet | gzip -1 >{image}', shell=True,
                   cwd=root, check=True)
    return root, image


# ---- what the host says ----


def host_results(root):
    """The programs' output on the host, from the guest's own files."""
    def run(*argv, stdin=None):
        loader = os.path.join(root, 'usr/lib64/ld-linux-x86-64.so.2')
        path = os.path.join(root, 'usr/lib/x86_64-linux-gnu')
        return subprocess.run([loader, '--library-path', path, *argv], check=True, stdin=stdin,
                              stdout=subprocess.PIPE, text=True,
                              env={'PYTHONHOME': os.path.join(root, 'usr'),
                                   'PYTHONDONTWRITEBYTECODE': '1'}).stdout
    with open(os.path.join(HERE, 'work.sql'), encoding='utf-8') as sql:
        query = run(os.path.join(root, 'usr/bin/sqlite3'), ':memory:', stdin=sql)
    interpret = run(os.path.join(root, 'usr/bin/python3.11'), os.path.join(HERE, 'work.py'))
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, 'sums')
        subprocess.run(['cc', '-O0', '-o', program, os.path.join(HERE, 'sums.c')], check=True)
        sums = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {'query': query.splitlines(), 'interpret': interpret.splitlines(),
            'compile': sums.splitlines(), 'fork_storm': [f'forks {sum(i * i for i in range(201))}']}


# ---- the run ----


def resident(pid):
    """KiB of the monitor that are its own: without the guest's memory, which is shared."""
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        fields = dict(re.findall(r'^(\w+):\s+(\d+) kB', f.read(), re.M))
    return int(fields['RssAnon'])


def watch(p, o):
    """The guest's lines, and (seconds, KiB) samples."""
    lines, memory, start, last = [], [], time.monotonic(), 0.0
    for raw in p.stdout:
        line = raw.decode(errors='replace').rstrip()
        lines.append(line)
        now = time.monotonic() - start
        if line.startswith('@round') or now - last > 30:
            last = now
            memory.append((now, resident(p.pid)))
            say(f'{now:.0f} s, monitor {memory[-1][1]} KiB: {line[:100]}')
        elif line.startswith('@bad'):
            say(line)
    return lines, memory


def check_results(lines, expected):
    bad = [x for x in lines if x.startswith('@bad')]
    for name, want in expected.items():
        got = [x[len(name) + 2:] for x in lines if x.startswith(f'@{name} ')]
        if got[:len(want)] != want:
            bad.append(f'{name}: the guest says {got}, the host {want}')
    return bad


def check_log(lines):
    log = [x[5:] for x in lines if x.startswith('@log ')]
    if not log:
        return ['no kernel log']
    return [x for x in log if COMPLAINT.search(x) and not HARMLESS.search(x)]


def check_memory(memory):
    """From the middle on, when every kind of work has been seen."""
    late = [kib for at, kib in memory if at > memory[-1][0] / 2] if memory else []
    if late and max(late) > late[0] + SLACK:
        return [f'the monitor grew from {late[0]} to {max(late)} KiB']
    return []


def options():
    p = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    p.add_argument('--rf', default='build/rf')
    p.add_argument('--appliance', default='build/appliance')
    p.add_argument('--work', default='build/stress', help='packages and the initramfs go there')
    p.add_argument('--engine', default='bt')
    p.add_argument('--vcpus', default='2')
    p.add_argument('--memory', default='1500M')
    p.add_argument('--seconds', type=int, default=600)
    p.add_argument('--log', help="the guest's console goes there")
    o = p.parse_args()
    o.work = os.path.abspath(o.work)
    return o


def main():
    o = options()
    os.makedirs(o.work, exist_ok=True)
    root, image = make_initrd(o)
    expected = host_results(root)
    argv = [o.rf, 'run', '--engine', o.engine, '--vcpus', o.vcpus, '--memory', o.memory,
            '--kernel', os.path.join(o.appliance, 'vmlinuz'), '--initrd', image, '--append',
            f'console=ttyS0 quiet stress.seconds={o.seconds}',
            '--timeout', str(o.seconds * 2 + 600)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as p:
        lines, memory = watch(p, o)
    if o.log:
        with open(o.log, 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines))
    bad = check_results(lines, expected) + check_log(lines) + check_memory(memory)
    if p.returncode != 0 or not any(x.startswith('@end') for x in lines):
        bad.append(f'ended with status {p.returncode}: {lines[-3:]}')
    for line in bad:
        say('bad:', line)
    rounds = sum(1 for x in lines if x.startswith('@round'))
    say(f'{rounds} rounds, {len(bad)} bad; monitor {memory[0][1] if memory else 0} to '
        f'{memory[-1][1] if memory else 0} KiB')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The guest of the benchmark: a folder of Debian's programs, and the initramfs that has it at /bench.

The same folder serves natively: every program runs through the dynamic linker and the libraries in it,
so both sides execute the same files.
"""
import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = '/usr/bin/python3'  # Debian's, whatever PATH says
LINKER = '/lib64/ld-linux-x86-64.so.2'

RC = '''#!/bin/sh
dmesg -n 1
mkdir -p /dev/shm
mount -t tmpfs none /dev/shm
exec /bench/bin/guest-bench /bench /dev/shm </dev/console >/dev/console 2>&1
'''

# What Python has loaded when it has done its work, and where from.
LIST_MODULES = '''
import runpy, sys
stdout, sys.stdout = sys.stdout, sys.stderr
runpy.run_path(sys.argv[1])
import encodings.utf_8, encodings.ascii
for m in list(sys.modules.values()):
    f = getattr(m, "__file__", None)
    if f and f.endswith(".py") and "/lib/python" in f:
        print(f, file=stdout)
    elif f and f.endswith(".so"):
        print(f, file=stdout)
'''

COMPILE_MODULE = 'import py_compile, sys; py_compile.compile(sys.argv[1], cfile=sys.argv[2], ' \
                 'dfile=sys.argv[1], doraise=True)'


class Missing(Exception):
    pass


def output(command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL, **more).stdout


def find_program(name, *places):
    for p in places:
        if p and os.path.exists(p):
            return os.path.realpath(p)
    raise Missing(f'{name} is not installed: see the bench lines of tools/packages.txt')


def libraries(path):
    """The shared libraries that the dynamic linker finds for a program or a library."""
    found = []
    for line in output(['ldd', path]).splitlines():
        if '=>' in line:
            found.append(line.split('=>')[1].split()[0])
    return found


def put(source, folder, name=None):
    os.makedirs(folder, exist_ok=True)
    shutil.copy(os.path.realpath(source), os.path.join(folder, name or os.path.basename(source)))


def put_linked(source, root, name):
    put(source, os.path.join(root, 'bin'), name)
    for lib in libraries(source):
        put(lib, os.path.join(root, 'lib'))


def put_modules(root):
    """Python's library, as far as the work needs it: compiled, so that no date decides what is read."""
    work = os.path.join(HERE, 'work', 'work.py')
    for f in output([PYTHON, '-S', '-E', '-c', LIST_MODULES, work]).split():
        inside = os.path.join(root, f[f.index('/lib/python') + 1:])
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if f.endswith('.so'):
            put(f, os.path.dirname(inside))
            continue
        subprocess.run([PYTHON, '-c', COMPILE_MODULE, f, inside + 'c'], check=True)


def put_work(root):
    """The programs' input. The compiler's is this benchmark's own source, as Debian's headers make it."""
    work = os.path.join(root, 'work')
    for name in ('work.py', 'work.sql', 'work.sh'):
        put(os.path.join(HERE, 'work', name), work)
    with open(os.path.join(work, 'work.i'), 'wb') as out:
        subprocess.run(['gcc', '-E', '-P', '-D_GNU_SOURCE', os.path.join(HERE, 'compute.c')],
                       check=True, stdout=out)


def make_programs(root, appliance, program):
    shutil.rmtree(root, ignore_errors=True)
    put(LINKER, os.path.join(root, 'lib'))
    put_linked(find_program('python3', PYTHON), root, 'python3')
    put_linked(find_program('sqlite3', '/usr/bin/sqlite3'), root, 'sqlite3')
    put_linked(find_program('cc1', output(['gcc', '-print-prog-name=cc1']).strip()), root, 'cc1')
    put(os.path.join(appliance, 'root', 'bin', 'busybox'), os.path.join(root, 'bin'))
    put(program, os.path.join(root, 'bin'), 'guest-bench')
    put_modules(root)
    put_work(root)


def archive(folder):
    names = output(['find', '.', '-mindepth', '1'], cwd=folder)
    names = '\n'.join(sorted(names.split())) + '\n'
    return subprocess.run(['cpio', '-o', '-H', 'newc', '-R', '0:0', '--quiet'], cwd=folder,
                          input=names.encode(), stdout=subprocess.PIPE, check=True).stdout


def make_initrd(path, appliance, tree):
    """The appliance's initramfs with a second archive behind it, which is not compressed: nobody's
    time goes into unpacking it. An archive in plain sight starts at a multiple of four bytes."""
    with open(os.path.join(appliance, 'initrd.img'), 'rb') as f:
        base = f.read()
    with open(path + '.new', 'wb') as out:
        out.write(base)
        out.write(bytes(-len(base) % 512))
        out.write(archive(tree))
    os.replace(path + '.new', path)


def newest(paths):
    return max(os.stat(p).st_mtime for p in paths)


def sources():
    work = os.path.join(HERE, 'work')
    return [os.path.join(work, n) for n in os.listdir(work)] + \
        [os.path.join(HERE, n) for n in ('programs.py', 'compute.c')]


def prepare(cache, appliance, program):
    """Returns the folder for native runs and the initramfs; both are kept until something is newer."""
    tree = os.path.join(cache, 'tree')
    root = os.path.join(tree, 'bench')
    initrd = os.path.join(cache, 'initrd.img')
    made_of = sources() + [program, os.path.join(appliance, 'initrd.img')]
    if os.path.exists(initrd) and os.stat(initrd).st_mtime > newest(made_of):
        return root, initrd
    os.makedirs(tree, exist_ok=True)
    make_programs(root, appliance, program)
    rc = os.path.join(tree, 'etc', 'appliance.rc')
    os.makedirs(os.path.dirname(rc), exist_ok=True)
    with open(rc, 'w', encoding='ascii') as f:
        f.write(RC)
    os.chmod(rc, 0o755)
    make_initrd(initrd, appliance, tree)
    return root, initrd

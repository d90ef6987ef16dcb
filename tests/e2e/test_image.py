# SPDX-License-Identifier: Apache-2.0
"""rf image: every verb, qemu-img's view of the same files where it is installed, mistakes, and a guest on
a qcow2 disk with a backing file."""
import json
import os
import random
import shutil
import subprocess

from rftest import (RF, Skip, check, expect, find_appliance, main, rf, start_guest, with_drivers,
                    workdir, write)

MIB = 1 << 20


def path(name):
    return os.path.join(workdir(), name)


def image(*args, status=0):
    return expect(rf('image', *args), status)


def info(file, *args):
    return json.loads(image('info', '--json', *args, file).out)


def qemu_img(*args):
    if not shutil.which('qemu-img'):
        return None
    return subprocess.run(['qemu-img', *map(str, args)], check=True, stdout=subprocess.PIPE).stdout


def sample(name, mib=8):
    """Data that compresses, data that does not, and holes."""
    rng = random.Random(7)
    parts = [rng.randbytes(MIB), bytes(MIB), b'all the same ' * (MIB // 13), bytes(MIB)]
    data = b''.join(parts * (mib // 4 + 1))[:mib * MIB]
    return write(name, data)


KINDS = [[], ['-o', 'compat=0.10'], ['-o', 'cluster_size=512'], ['-o', 'cluster_size=2M'],
         ['-o', 'extended_l2=on'], ['-o', 'refcount_bits=1'], ['-o', 'lazy_refcounts=on'], ['-c'],
         ['-c', '-o', 'compression_type=zstd']]


def test_convert_there_and_back():
    raw = sample('there.raw')
    for kind in KINDS:
        there, back = path('there.qcow2'), path('back.raw')
        image('convert', '--force', *kind, raw, there)
        image('check', there)
        image('compare', raw, there)
        image('convert', '--force', '-O', 'raw', there, back)
        with open(raw, 'rb') as a, open(back, 'rb') as b:
            check(a.read() == b.read(), kind)
        check(os.stat(back).st_blocks * 512 <= 5 * MIB, 'zeroes were written', kind)


def test_the_same_as_qemu_img():
    if not qemu_img('--version'):
        raise Skip('no qemu-img')
    raw = sample('q.raw')
    for kind in KINDS:
        ours, theirs = path('ours.qcow2'), path('theirs.qcow2')
        image('convert', '--force', *kind, raw, ours)
        qemu_img('check', ours)
        qemu_img('compare', raw, ours)
        qemu_img('convert', '-O', 'qcow2', *kind, raw, theirs)
        image('check', theirs)
        image('compare', raw, theirs)
        check(info(theirs)['qcow2'] == info(ours)['qcow2'], kind)
    qemu_img('snapshot', '-c', 'theirs', ours)
    image('snapshot', 'create', ours, 'mine')
    names = [s['name'] for s in json.loads(image('snapshot', 'list', '--json', ours).out)]
    check(names == ['theirs', 'mine'], names)
    image('snapshot', 'apply', ours, 'theirs')
    image('snapshot', 'delete', ours, 'theirs')
    qemu_img('snapshot', '-d', 'mine', ours)
    qemu_img('check', ours)
    image('check', ours)
    qemu_img('compare', raw, ours)


# Formats of other hypervisors: ours, qemu-img's name and options for the same, whether it checks them.
OTHERS = [('vdi', 'dynamic', 'vdi', 'static=off', True), ('vdi', 'fixed', 'vdi', 'static=on', True),
          ('vhd', 'dynamic', 'vpc', 'subformat=dynamic,force_size=on', False),
          ('vhd', 'fixed', 'vpc', 'subformat=fixed,force_size=on', False),
          ('vmdk', 'monolithicSparse', 'vmdk', 'subformat=monolithicSparse', True),
          ('vmdk', 'monolithicFlat', 'vmdk', 'subformat=monolithicFlat', False),
          ('vmdk', 'twoGbMaxExtentFlat', 'vmdk', 'subformat=twoGbMaxExtentFlat', False),
          ('vmdk', 'streamOptimized', 'vmdk', 'subformat=streamOptimized', True)]


def test_formats_of_others():
    raw, copy = sample('o.raw'), path('copy.raw')
    for ours, subformat, theirs, options, checks in OTHERS:
        file, from_qemu = path('ours.' + ours), path('theirs.' + ours)
        image('convert', '--force', '-O', ours, '-o', 'subformat=' + subformat, raw, file)
        got = info(file)
        check(got['format'] == ours and got['size'] == 8 * MIB, got)
        check(got[ours]['subformat'] == subformat, got)
        image('compare', raw, file)
        check(json.loads(image('map', '--json', file).out), file)
        if subformat in ('dynamic', 'monolithicSparse'):
            image('check', file)
        if qemu_img('--version'):
            if checks:
                qemu_img('check', '-f', theirs, file)
            qemu_img('compare', '-f', 'raw', '-F', theirs, raw, file)
            qemu_img('convert', '-O', theirs, '-o', options, raw, from_qemu)
            image('compare', raw, from_qemu)
        image('convert', '--force', '-O', 'raw', file, copy)
        with open(raw, 'rb') as a, open(copy, 'rb') as b:
            check(a.read() == b.read(), ours, subformat)


def test_what_other_formats_cannot():
    for ours in 'vdi', 'vhd':
        file, fixed = path('cannot.' + ours), path('fixed.' + ours)
        image('create', '-f', ours, file, '8M')
        image('create', '-f', ours, '-o', 'subformat=fixed', fixed, '8M')
        check(info(file)['allocated'] <= 2 * MIB, info(file))
        image('resize', file, '+8M')
        check(info(file)['size'] == 16 * MIB)
        for args, status, message in [
                (('resize', '--shrink', file, '4M'), 1, 'cannot be made smaller'),
                (('resize', fixed, '16M'), 1, 'size'),
                (('snapshot', 'create', file, 'x'), 1, f'a {ours} image has no snapshots'),
                (('rebase', '-b', file, '-F', ours, file), 1, f'a {ours} image has no backing file'),
                (('create', '-f', ours, '-b', file, '-F', ours, path('n')), 1, 'cannot be made'),
                (('create', '-f', ours, '-o', 'cluster_size=4096', path('n'), '1M'), 1,
                 'no option but subformat'),
                (('create', '-o', 'subformat=fixed', path('n'), '1M'), 1, 'has no subformats'),
                (('create', '-o', 'subformat=round', path('n'), '1M'), 2, "a subformat 'round'"),
                (('create', '-f', ours, path('n'), '99T'), 1, 'too large'),
                (('convert', '-c', '-O', ours, file, path('n')), 1, 'cannot be compressed')]:
            expect(rf('image', *args), status, message)
            check(not os.path.exists(path('n')), 'left behind', args)
        image('check', file)


def test_a_vmdk_of_several_files():
    raw, folder = sample('f.raw'), path('vmdk')
    os.mkdir(folder)
    file = folder + '/d.vmdk'
    flat = ['-O', 'vmdk', '-o', 'subformat=monolithicFlat']
    image('convert', *flat, raw, file)
    check(sorted(os.listdir(folder)) == ['d-flat.vmdk', 'd.vmdk'], os.listdir(folder))
    os.unlink(file)
    expect(rf('image', 'convert', *flat, raw, file), 1, 'd-flat.vmdk: is there already')
    check(os.listdir(folder) == ['d-flat.vmdk'], os.listdir(folder))
    image('convert', '--force', *flat, raw, file)
    expect(rf('image', 'convert', '--force', *flat, file, file), 1, 'in use')
    image('compare', raw, file)
    expect(rf('image', 'check', file), 1, 'nothing to be checked')
    expect(rf('image', 'resize', file, '+1M'), 1, 'cannot change its size')
    image('create', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentFlat', folder + '/big.vmdk', '5G')
    check(info(folder + '/big.vmdk')['size'] == 5120 * MIB)
    check(info(folder + '/big.vmdk')['vmdk']['extents'] == 3)
    if qemu_img('--version'):
        got = json.loads(qemu_img('info', '--output=json', folder + '/big.vmdk'))
        check(got['virtual-size'] == 5120 * MIB, got)
        qemu_img('convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, path('s.vmdk'))
        image('compare', raw, path('s.vmdk'))
        check({x['kind'] for x in json.loads(image('map', '--json', path('s.vmdk')).out)} ==
              {'compressed', 'zero'})


def test_chains():
    base, top = path('base.qcow2'), path('top.qcow2')
    raw = sample('chain.raw')
    image('convert', '--force', raw, base)
    image('create', '-b', 'base.qcow2', '-F', 'qcow2', top)
    image('compare', raw, top)
    chain = info(top, '--backing-chain')
    check([os.path.basename(x['file']) for x in chain] == ['top.qcow2', 'base.qcow2'], chain)
    check(json.loads(image('map', '--json', top).out)[0]['depth'] == 1)
    image('rebase', '-b', '', top)
    check('backing_file' not in info(top))
    os.unlink(base)
    image('compare', raw, top)
    image('check', top)


def test_commit():
    base, top = path('cb.qcow2'), path('ct.qcow2')
    image('create', base, '16M')
    image('create', '-b', base, '-F', 'qcow2', top)
    image('resize', top, '+16M')
    image('commit', top)
    image('compare', base, top)
    check(info(base)['size'] == 32 * MIB)


def test_sizes():
    file = path('size.qcow2')
    image('create', file, '10M')
    image('resize', file, '+1G')
    check(info(file)['size'] == 1034 * MIB)
    expect(rf('image', 'resize', file, '5M'), 1, 'would be lost: --shrink does that')
    image('resize', '--shrink', file, '5M')
    check(info(file)['size'] == 5 * MIB)
    image('check', file)
    need = json.loads(image('measure', '--json', '--size', '1G').out)
    check(need['required'] < MIB < 1024 * MIB <= need['fully_allocated'], need)


def test_check_says_what_it_found():
    file = path('damaged.qcow2')
    image('convert', '--force', sample('damaged.raw'), file)
    with open(file, 'r+b') as f:
        f.seek(65536)
        f.write(bytes(8))
    found = json.loads(image('check', '--json', file, status=1).out)
    check(found['corruptions'] > 0, found)
    image('check', '--repair', file)
    image('check', file)
    image('compare', path('damaged.raw'), file)


def test_mistakes():
    there = write('there', b'x' * 512)
    qcow2 = path('mistakes.qcow2')
    image('create', qcow2, '1M')
    shutil.copy(qcow2, path('mistakes.img'))
    for args, status, message in [
            ((), 2, 'which verb?'),
            (('craete',), 2, "did you mean 'create'?"),
            (('create',), 2, 'image create [OPTIONS] FILE [SIZE]'),
            (('create', there, '1M'), 1, 'is there already; --force overwrites it'),
            (('create', path('n')), 1, 'a size is needed'),
            (('create', '-f', 'vdx', path('n'), '1M'), 2, "format 'vdx' is none of raw, qcow2"),
            (('create', '-o', 'cluster_size=3', path('n'), '1M'), 1, 'a power of two from 512 to 2M'),
            (('create', '-o', 'colour=red', path('n'), '1M'), 2, 'options: colour'),
            (('create', '-b', '/nonexistent', '-F', 'raw', path('n')), 1, 'No such file or directory'),
            (('create', '-b', there, path('n')), 1, 'its format must be given'),
            (('create', path('n'), '9999999T'), 1, 'too large'),
            (('info', '/nonexistent'), 1, 'open: No such file or directory'),
            (('convert', path('mistakes.img'), path('n')), 1, "may be a guest's"),
            (('convert', '-f', 'qcow2', there, path('n')), 1, 'not a qcow2 image'),
            (('snapshot', 'apply', qcow2, 'none'), 1, "there is no snapshot 'none'"),
            (('snapshot', 'list', there), 1, 'a raw image has no snapshots'),
            (('commit', qcow2), 1, 'there is no backing file'),
            (('check', there), 1, 'nothing to be checked')]:
        expect(rf('image', *args), status, message)
        check(not os.path.exists(path('n')), 'left behind', args)


def test_a_full_disk():
    """Where the host's disk is full (here: a limit on files), there is a message and no half image."""
    raw, to = sample('full.raw'), path('full.qcow2')
    result = subprocess.run(['sh', '-c', 'trap "" XFSZ; ulimit -f 2048; exec "$@"', 'sh',
                             RF, 'image', 'convert', raw, to], check=False,
                            stderr=subprocess.PIPE)
    check(result.returncode == 1 and b'File too large' in result.stderr, result)
    check(not os.path.exists(to), 'left behind')


def test_what_is_overwritten_stays_until_the_end():
    folder = path('overwritten')
    os.mkdir(folder)
    raw, to, link = sample('small.raw', 4), folder + '/to.qcow2', path('link.qcow2')
    image('convert', raw, to)
    os.symlink(to, link)
    subprocess.run(['sh', '-c', 'trap "" XFSZ; ulimit -f 1024; exec "$@"', 'sh', RF, 'image',
                    'convert', '--force', sample('large.raw', 16), to], stderr=subprocess.DEVNULL)
    image('compare', raw, to)
    check(os.listdir(folder) == ['to.qcow2'], os.listdir(folder))
    expect(rf('image', 'convert', raw, to), 1, '--force overwrites it')
    image('convert', '--force', '-O', 'raw', to, raw + '.new')
    image('convert', '--force', '-c', raw, link)
    check(os.path.islink(link) and os.listdir(folder) == ['to.qcow2'])
    image('compare', raw, to)
    expect(rf('image', 'convert', '--force', to, to), 1, 'in use')


def guest(*args):
    return start_guest(with_drivers(find_appliance()), '--engine', 'bt', '--vcpus', 2, '--vif',
                       'none', *args)


def ext4(name):
    mkfs = shutil.which('mkfs.ext4', path=os.environ['PATH'] + ':/usr/sbin:/sbin')
    if not mkfs:
        raise Skip('no mkfs.ext4')
    raw = write(name + '.raw', b'')
    os.truncate(raw, 64 * MIB)
    subprocess.run([mkfs, '-q', '-F', raw], check=True)
    image('convert', raw, path(name))
    return path(name)


def fill(g):
    g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
    g.run('dd if=/dev/urandom of=/mnt/a bs=64k count=256 2>/dev/null; sync')
    return g.run('sha256sum /mnt/a').split()[0]


def test_a_guest_on_a_chain():
    """It fills, reboots, reads again; the backing file is as it was."""
    base, top = ext4('gb.qcow2'), path('gt.qcow2')
    with open(base, 'rb') as f:
        before = f.read()
    image('create', '-b', base, '-F', 'qcow2', top)
    with guest('--disk', top) as g:
        g.wait_for_shell()
        digest = fill(g)
        expect(rf('image', 'check', '--repair', top), 1, 'in use by process')
        g.type('reboot -f')
        g.wait_for_shell()
        g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
        check(g.run('sha256sum /mnt/a').split()[0] == digest, g)
        g.run('rm /mnt/a; fstrim /mnt; umount /mnt')
        g.end('poweroff -f', 0)
    image('check', top)
    with open(base, 'rb') as f:
        check(f.read() == before, 'the backing file has changed')
    qemu_img('check', top)


def test_what_is_thrown_away():
    base = ext4('snap.qcow2')
    with open(base, 'rb') as f:
        before = f.read()
    with guest('--disk', base + ',snapshot') as g:
        g.wait_for_shell()
        fill(g)
        g.end('poweroff -f', 0)
    with open(base, 'rb') as f:
        check(f.read() == before, 'the image has changed')


def test_a_monitor_that_is_killed():
    """What the guest had flushed is there."""
    disk = ext4('killed.qcow2')
    with guest('--disk', disk) as g:
        g.wait_for_shell()
        digest = fill(g)
        g.type('while :; do dd if=/dev/urandom of=/mnt/b bs=64k count=64 conv=fsync 2>/dev/null; done')
        g.p.kill()
        g.p.wait()
    found = json.loads(rf('image', 'check', '--json', disk).out)
    check(found['corruptions'] == 0, found)
    with guest('--disk', disk) as g:
        g.wait_for_shell()
        g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
        check(g.run('sha256sum /mnt/a').split()[0] == digest, g)
        g.end('poweroff -f', 0)


main(globals())

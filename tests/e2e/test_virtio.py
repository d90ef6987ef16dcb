# SPDX-License-Identifier: Apache-2.0
"""Virtio's transports, disks and entropy: Debian's kernel with its own drivers."""
import hashlib
import os
import re
import shutil
import subprocess

from rftest import (HALT, LIMIT, Skip, check, expect, find_appliance, in8, main, rf, rom,
                    start_guest, with_drivers, workdir, write)

MIB = 1 << 20
CMDLINE = 'console=ttyS0 '


def appliance():
    return with_drivers(find_appliance())


def tool(name):
    found = shutil.which(name, path=os.environ['PATH'] + ':/usr/sbin:/sbin')
    if not found:
        raise Skip(f'no {name}')
    return found


def ext4_image(name, size=64 * MIB):
    path = write(name, b'')
    os.truncate(path, size)
    subprocess.run([tool('mkfs.ext4'), '-q', '-F', path], check=True)
    return path


def guest(*args, engine='bt', transport='pci', vcpus=1):
    return start_guest(appliance(), '--engine', engine, '--vcpus', vcpus, '--virtio', transport,
                       '--vif', 'none', *args)


def no_complaints(log):
    """No warning or worse about these devices; what a busy host makes a kernel say of time is not ours."""
    bad = [x for x in log.splitlines() if re.match(r'<[0-4]>', x)
           and re.search(r'virtio|vda|EXT4|I/O|pci|MMCONFIG|irq', x, re.I)]
    check(not bad, *bad)


def fill(g, folder, mib):
    """Writes, copies, and reads back what isn't in the page cache any more."""
    g.run(f'dd if=/dev/urandom of={folder}/a bs=64k count={mib * 16} 2>/dev/null')
    g.run(f'cp {folder}/a {folder}/b; sync; echo 3 >/proc/sys/vm/drop_caches')
    g.run(f'cmp {folder}/a {folder}/b')
    return g.run(f'sha256sum {folder}/a').split()[0]


def use(image, mib=4, legacy=False, **how):
    """A guest fills the file system on the image; the host finds the same in it."""
    extra = []
    if legacy:
        folder = appliance()
        extra = ['--kernel', folder + '/vmlinuz', '--initrd', folder + '/initrd.img', '--append',
                 CMDLINE + 'virtio_pci.force_legacy=1']
    with guest('--disk', f'{image},serial=rf-{mib}', *extra, **how) as g:
        g.wait_for_shell()
        check(g.run('cat /sys/block/vda/serial').strip() == f'rf-{mib}', g)
        queues = g.run('ls /sys/block/vda/mq').split()
        check(len(queues) == how.get('vcpus', 1), queues, g)
        check(g.run('cat /sys/block/vda/queue/write_cache').strip() == 'write back', g)
        version_1 = g.run('cut -c33 /sys/bus/virtio/devices/virtio0/features').strip()
        check(version_1 == ('0' if legacy else '1'), version_1, g)
        g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
        digest = fill(g, '/mnt', mib)
        g.run('umount /mnt')
        no_complaints(g.run('dmesg -r'))
        g.end('poweroff -f', 0)
    subprocess.run([tool('e2fsck'), '-fn', image], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    copy = os.path.join(workdir(), 'copy')
    subprocess.run([tool('debugfs'), '-R', f'dump /b {copy}', image], check=True,
                   stderr=subprocess.DEVNULL)
    with open(copy, 'rb') as f:
        check(hashlib.sha256(f.read()).hexdigest() == digest, 'the host reads something else')


def test_ext4_over_pci():
    use(ext4_image('pci'), 16)


def test_ext4_over_pci_on_two_processors():
    use(ext4_image('pci2'), 16, vcpus=2)


def test_ext4_over_modern_pci():
    use(ext4_image('modern'), 8, transport='pci-modern', vcpus=2)


def test_ext4_over_legacy_pci():
    use(ext4_image('legacy'), 8, legacy=True)


def test_ext4_over_mmio():
    use(ext4_image('mmio'), 8, transport='mmio', vcpus=2)


def test_ext4_under_interp():
    use(ext4_image('interp'), 1, engine='interp')


def test_ext4_under_interp_on_two_processors():
    use(ext4_image('interp2'), 1, engine='interp', vcpus=2)


def test_interrupt_pins():
    """Without messages there are only the four lines of the bus."""
    folder = appliance()
    with guest('--disk', ext4_image('pins'), '--kernel', folder + '/vmlinuz', '--initrd',
               folder + '/initrd.img', '--append', CMDLINE + 'pci=nomsi', vcpus=2) as g:
        g.wait_for_shell()
        check('IO-APIC' in g.run('grep virtio0 /proc/interrupts'), g)
        g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
        fill(g, '/mnt', 4)
        g.run('umount /mnt')
        g.end('poweroff -f', 0)


def test_discard_and_zeroes():
    image = write('discard', b'x' * (16 * MIB))
    before = os.stat(image).st_blocks
    with guest('--disk', image) as g:
        g.wait_for_shell()
        check(int(g.run('cat /sys/block/vda/queue/discard_max_bytes')) > 0, g)
        g.run('blkdiscard -o 1M -l 8M /dev/vda')
        check(g.run('tail -c 7340032 /dev/vda | tr -d x | wc -c').strip() == '0', g)
        check(g.run('head -c 9437184 /dev/vda | tr -d "\\0" | wc -c').strip() == str(MIB), g)
        g.end('poweroff -f', 0)
    check(os.stat(image).st_blocks < before, 'nothing was given back')


def test_read_only_disk():
    image = ext4_image('ro')
    with guest('--disk', f'{image},raw,xvda,ro') as g:
        g.wait_for_shell()
        check(g.run('cat /sys/block/vda/ro').strip() == '1', g)
        g.run('! dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null')
        g.run('mkdir -p /mnt && mount -t ext4 -o ro /dev/vda /mnt && ls /mnt/lost+found')
        g.end('poweroff -f', 0)


def test_a_reset_in_the_middle():
    """The guest reboots while it writes; the next boot finds the same disk in order."""
    image = ext4_image('reset')
    with guest('--disk', image, vcpus=2) as g:
        for _ in range(2):
            g.wait_for_shell()
            g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt')
            g.type('(while :; do dd if=/dev/urandom of=/mnt/x bs=1M count=8 conv=fsync; done) '
                   '>/dev/null 2>&1 & sleep 1; reboot -f')
            g.wait_for('reboot: Restarting system')
        g.wait_for_shell()
        g.run('mkdir -p /mnt && mount -t ext4 /dev/vda /mnt && umount /mnt')
        g.end('poweroff -f', 0)


def test_a_disk_that_shrinks():
    """The host takes half of the disk away: errors in the guest, which goes on."""
    image = write('shrinks', b'y' * (8 * MIB))
    with guest('--disk', image) as g:
        g.wait_for_shell()
        g.run('dd if=/dev/vda of=/dev/null bs=64k count=1 2>/dev/null')
        os.truncate(image, 4 * MIB)
        g.run('! dd if=/dev/vda of=/dev/null bs=64k skip=100 count=4 2>/dev/null')
        g.run('dd if=/dev/vda of=/dev/null bs=64k count=60 2>/dev/null')
        check('I/O error' in g.run('dmesg'), g)
        g.end('poweroff -f', 0)


def test_several_disks():
    images = [write(f'd{i}', bytes([65 + i]) * MIB) for i in range(6)]
    args = [x for i in images for x in ('--disk', i)]
    with guest(*args, vcpus=2) as g:
        g.wait_for_shell()
        for i, letter in enumerate('abcdef'):
            check(g.run(f'head -c 2 /dev/vd{letter}') == chr(65 + i) * 2, letter, g)
        g.end('poweroff -f', 0)


def test_entropy():
    with guest() as g:
        g.wait_for_shell()
        check('virtio_rng' in g.run('cat /sys/class/misc/hw_random/rng_available'), g)
        one, two = (g.run('head -c 512 /dev/hwrng | sha256sum') for _ in range(2))
        check(one != two, one)
        g.end('poweroff -f', 0)


def test_a_panic_is_announced():
    with guest() as g:
        g.wait_for_shell()
        g.run('lsmod | grep -q pvpanic')
        g.type('echo c >/proc/sysrq-trigger')
        _, err = g.p.communicate(timeout=LIMIT)
        check(g.p.returncode == 3 and b'it announced a panic' in err, g.p.returncode, err)
    expect(rf('run', '--bios', rom(in8(0x505) + b'\xee' + HALT)), 3, 'it announced a panic')


def test_disks_that_will_not_do():
    image = write('image', bytes(MIB))
    qcow2 = write('q.img', b'QFI\xfb' + bytes(508))
    for spec, *messages in (
            ('/nonexistent', 'disk: /nonexistent: open: No such file or directory'),
            ('/dev/null', 'neither a file nor a block device'),
            (write('empty', b''), 'the disk is empty'),
            (qcow2, 'the content is that of a qcow2 image', 'give its format')):
        expect(rf('run', '--bios', '/dev/null', '--disk', spec), 1, *messages)
    for spec, message in ((f'{image},qcow3', "disk: format 'qcow3' is none of raw, qcow2"),
                          (f'{image},raw,floppy', "vdev 'floppy'"),
                          (f'{image},raw,vda,maybe', "access 'maybe' is none of rw, w, ro, r"),
                          (f'{image},sreial=1', "'sreial' is none of target="),
                          ('', 'there is no file')):
        result = rf('run', '--disk', spec)
        check(result.status == 2 and message in result.err, spec, result)


def test_a_disk_in_use():
    image = write('used', bytes(MIB))
    with guest('--disk', image) as g:
        g.wait_for_shell()
        expect(rf('run', '--disk', image), 1, 'in use by process')
        g.end('poweroff -f', 0)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""SCSI disks and CD drives: Debian's drivers find, read, write and trim them."""
import hashlib
import os

from rftest import check, find_appliance, main, start_guest, with_drivers, workdir


def appliance():
    return with_drivers(find_appliance())


def image(name, data):
    path = os.path.join(workdir(), name)
    with open(path, 'wb') as f:
        f.write(data)
    return path


def disk_and_cd(engine, vcpus):
    data, medium = os.urandom(8 << 20), os.urandom(3 << 20)
    disk, cd = image('disk', data), image('cd.iso', medium)
    with start_guest(appliance(), '--engine', engine, '--vcpus', vcpus, '--vif', 'none',
                     '--disk', f'{disk},raw,sda,rw', '--disk', f'{cd},raw,sdb,r,cdrom') as g:
        g.wait_for_shell()
        g.run('for i in $(seq 100); do [ -b /dev/sda -a -b /dev/sr0 ] && break; sleep 0.1; done')
        check(g.run('cat /sys/block/sda/device/model').strip() == 'DISK', g)
        check(g.run('sha256sum </dev/sda').split()[0] == hashlib.sha256(data).hexdigest(), g)
        check(g.run('sha256sum </dev/sr0').split()[0] == hashlib.sha256(medium).hexdigest(), g)
        g.run('seq 200000 | dd of=/dev/sda bs=64k seek=16 conv=fsync 2>/dev/null')
        g.run('! dd if=/dev/zero of=/dev/sr0 bs=2k count=1 2>/dev/null')
        g.run('blkdiscard -o 4194304 -l 1048576 /dev/sda || true')
        g.run('! dmesg | grep -i -E "sense key|I/O error"')
        g.end('poweroff -f', 0)
    with open(disk, 'rb') as f:
        after = f.read()
    text = ''.join(f'{i}\n' for i in range(1, 200001)).encode()
    check(after[:1 << 20] == data[:1 << 20])
    check(after[1 << 20:(1 << 20) + len(text)] == text)
    check(after[6 << 20:] == data[6 << 20:])
    with open(cd, 'rb') as f:
        check(f.read() == medium)


def test_disk_and_cd():
    disk_and_cd('bt', 1)


def test_disk_and_cd_under_the_reference_with_two_processors():
    disk_and_cd('interp', 2)


main(globals())

# SPDX-License-Identifier: Apache-2.0
"""The machine that was measured, and the versions of what was measured on it."""
import os
import platform
import subprocess
import time


def first_line(*command, **more):
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             check=True, **more).stdout
        return out.splitlines()[0].strip() if out else ''
    except (OSError, subprocess.CalledProcessError):
        return ''


def cpuinfo():
    fields = {}
    with open('/proc/cpuinfo', encoding='ascii', errors='replace') as f:
        for line in f:
            key, _, value = line.partition(':')
            fields.setdefault(key.strip(), value.strip())
    return fields


def memory_gib():
    with open('/proc/meminfo', encoding='ascii') as f:
        return round(int(f.readline().split()[1]) / 2**20)


def guest_kernel(appliance):
    """A bzImage's header says where its version stands (boot protocol 2.00 and later)."""
    with open(os.path.join(appliance, 'vmlinuz'), 'rb') as f:
        image = f.read(1 << 16)
    at = int.from_bytes(image[0x20e:0x210], 'little') + 0x200
    return image[at:image.index(0, at)].decode('ascii', 'replace').split()[0]


def describe(build):
    cpu = cpuinfo()
    flags = cpu.get('flags', '').split()
    here = os.path.dirname(os.path.abspath(__file__))
    return {
        'date': time.strftime('%Y-%m-%d'),
        'processor': cpu.get('model name', '?'),
        'cpu_family_model_stepping': '-'.join(cpu.get(k, '?')
                                              for k in ('cpu family', 'model', 'stepping')),
        'processors': os.cpu_count(),
        'memory_gib': memory_gib(),
        'virtual': 'hypervisor' in flags,
        'vmx_or_svm': 'vmx' in flags or 'svm' in flags,
        'host_kernel': platform.release(),
        'guest_kernel': guest_kernel(os.path.join(build, 'appliance')),
        'qemu': first_line('qemu-system-x86_64', '--version'),
        'ringfence': first_line('git', 'describe', '--always', '--dirty', '--exclude', '*',
                                 cwd=here),
    }

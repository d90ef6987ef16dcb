# SPDX-License-Identifier: Apache-2.0
"""What is measured, what it is called, and what the project wants of it."""
import collections

Item = collections.namedtuple('Item', 'name text group unit scale')

NS, US, MS, S = ('ns', 1), ('us', 1e3), ('ms', 1e6), ('s', 1e9)


def items_of(group, *rows):
    return [Item(name, text, group, *unit) for name, text, unit in rows]


# The groups: user-mode work, kernel paths, devices; the boot and the monitor's memory are neither.
ITEMS = items_of(
    'user',
    ('xorshift', 'registers: a xorshift step', NS),
    ('qsort', 'sorting: qsort, per item', NS),
    ('tree', 'trees: red-black, insert + find + free', NS),
    ('matrix', 'matrix: 256^3 product, SSE2', MS),
    ('libm', 'libm: sin + sqrt', NS),
    ('x87', 'x87: a long double step', NS),
    ('memcpy', 'memcpy: 16 KiB', NS),
    ('memcpy-small', 'memcpy: 1 to 256 bytes', NS),
    ('bytecode', 'a bytecode interpreter: primes', US),
    ('sha256', 'SHA-256: 1 KiB', US),
    ('zlib', 'zlib: 1 KiB there and back', US),
    ('sqlite', 'SQLite: a script in memory', MS),
    ('python', 'Python: objects, text, JSON', MS),
    ('compiler', 'C compiler: cc1 -O1', MS),
) + items_of(
    'kernel',
    ('syscall', 'system call: getppid', NS),
    ('fork', 'fork + exit + wait', US),
    ('exec', 'fork + exec + wait', US),
    ('fault', 'page fault, anonymous', NS),
    ('switch', 'context switch by futex', NS),
    ('pipe', 'pipe: a byte there and back', NS),
    ('stream', 'pipe: 64 KiB to a reader', US),
    ('signal', 'signal to itself', NS),
    ('write', 'file: write 4 KiB', NS),
    ('copy', 'file: copy 1 MiB', US),
    ('stat', 'file: stat', NS),
    ('script', 'shell script: small processes', MS),
) + items_of(
    'devices',
    ('tcp-out', 'TCP: 64 KiB to the host', US),
    ('tcp-in', 'TCP: 64 KiB from the host', US),
    ('tcp-byte', 'TCP: a byte there and back', US),
    ('packets', 'UDP: 64 bytes to the host', US),
    ('disk-read', 'disk: read 1 MiB', US),
    ('disk-write', 'disk: write 1 MiB', US),
    ('block-read', 'disk: read 4 KiB at random', US),
    ('block-write', 'disk: write 4 KiB at random', US),
    ('block-depth', 'the same, 32 at a time: read', US),
) + items_of(
    'boot',
    ('boot', 'kernel start to /init', S),
)

BY_NAME = {i.name: i for i in ITEMS}

# Against TCG: each at most this part of its time.
TCG_BOUND = 0.6
TCG_BOUND_ITEMS = ('syscall', 'exec', 'fault', 'switch', 'copy', 'boot')
TCG_MEAN_BOUND = 1 / 3
# Nothing slower: where both run at the bare processor's speed, 2 % are noise.
TCG_SLOWER_BOUND = 1.02
# Against the bare processor.
NATIVE_USER_BOUND = 3.0
NATIVE_REGISTERS_BOUND = 1.1
# A guest's clock that strays further from the host's makes its measurements worthless.
CLOCK_BOUND = 0.02

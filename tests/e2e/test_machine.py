# SPDX-License-Identifier: Apache-2.0
"""How runs end: power-off, reset, crash, debug exit, time limits, signals; and hostile guests."""
import json
import os
import resource
import signal
import subprocess
import time

from rftest import (check, expect, HALT, in8, LIMIT, loop, main, out8, POWER_OFF, puts, RESET, rf,
                    rom, spawn, SPIN, TRIPLE_FAULT)


def test_power_off():
    result = expect(rf('run', '--bios', rom(puts('bye\n') + POWER_OFF)), 0)
    check(result.out == b'bye\n', result)


def test_debug_exit():
    for value in (0, 1, 0x31, 0x7f):
        expect(rf('run', '--debug-exit', '--bios', rom(out8(0xf4, value))), value << 1 | 1)
    expect(rf('run', '--bios', rom(out8(0xf4, 1) + POWER_OFF)), 0)


# Counts starts in CMOS byte 0x40, which survives a reset, and powers off at the third.
COUNT = (out8(0x70, 0x40) + in8(0x71) + b'\xfe\xc0\x88\xc4'   # inc al; mov ah,al
         + b'\xba\x71\x00\xee' + b'\x80\xfc\x03\x75' + bytes([len(POWER_OFF)]) + POWER_OFF)


def test_reset_restarts_in_place():
    for reset in (RESET, out8(0x64, 0xfe), out8(0x92, 1)):
        result = expect(rf('run', '--bios', rom(puts('*') + COUNT + reset + HALT), '--stats',
                           '--json'), 0)
        check(result.out == b'***', reset, result)
        check(json.loads(result.err[result.err.index('{'):])['restarts'] == 2, result)


def test_reset_ends_where_the_policy_says_so():
    result = expect(rf('run', '--bios', rom(puts('*') + RESET + HALT), 'on_reboot=destroy'), 0)
    check(result.out == b'*', result)


def test_triple_fault():
    name = f'victim-{os.getpid()}'
    result = expect(rf('run', '--bios', rom(puts('last words\n\x1b[2J') + TRIPLE_FAULT),
                       '--name', name), 3,
                    f'{name}: the guest crashed: triple fault on vCPU 0', 'real mode', 'RIP=',
                    'RAX=', 'CR0=', 'IDTR', '<cc>', 'last words', '\\x1b[2J')
    check('\x1b' not in result.err, 'escape sequences reached the report', result)


def test_a_crash_may_restart():
    expect(rf('run', '--bios', rom(COUNT + TRIPLE_FAULT), 'on_crash=restart'), 0)


def test_timeout():
    for code in (SPIN, HALT, loop(out8(0x80, 1))):
        start = time.monotonic()
        expect(rf('run', '--timeout', '0.7', '--bios', rom(code)), 124, 'timed out after 0.7 s')
        check(0.7 <= time.monotonic() - start < 10)


def test_an_idle_guest_costs_nothing():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open('/dev/null', 'rb') as null:
        expect(rf('run', '--timeout', '2', '--vcpus', '2', '--bios', rom(HALT), stdin=null), 124)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    check(used < 0.6, f'{used} s of processor time')


def start(*args, **kw):
    p = spawn(*args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
              stderr=subprocess.PIPE, **kw)
    check(p.stdout.read(1) == b'>', 'the guest did not start')
    return p


def test_signals_end_in_order():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p = start('run', '--bios', rom(puts('>') + SPIN))
        p.send_signal(sig)
        p.communicate(timeout=LIMIT)
        check(p.returncode == 128 + sig, sig, p.returncode)


# Reads, then writes, every port but those that end the run: the answer to all is "nothing happened".
ALL_PORTS = (b'\x31\xd2'                       # xor dx,dx
             + b'\xec\x42\x75\xfc'             # in al,dx; inc dx; jnz
             + b'\xed\x42\x75\xfc'             # in ax,dx
             + b'\x66\xed\x42\x75\xfb')        # in eax,dx


def test_every_port_can_be_read():
    result = expect(rf('run', '--testdev', '--bios', rom(ALL_PORTS + puts('done') + POWER_OFF)), 0)
    check(result.out.endswith(b'done'), result)


def test_every_port_can_be_written():
    for al in (b'\xb0\x00', b'\xb0\xff', b'\xb0\x55'):
        one = b'\x31\xd2' + al + b'\xee\x42\x75\xfc'          # xor dx,dx; mov al; out dx,al; …
        expect(rf('run', '--timeout', '2', '--testdev', '--bios', rom(b'\xfa' + loop(one))), 124)


# In big real mode there is all of the address space to read from: 4 KiB steps up to 4 GiB.
BIG_REAL = (b'\xfa\x2e\x0f\x01\x16\x00\x02'                    # cli; lgdt cs:[200h]
            + b'\x0f\x20\xc0\x0c\x01\x0f\x22\xc0'              # cr0.pe = 1
            + b'\xb8\x08\x00\x8e\xd8'                          # ds = flat
            + b'\x0f\x20\xc0\x24\xfe\x0f\x22\xc0'              # cr0.pe = 0
            + b'\x66\x31\xf6'                                  # xor esi,esi
            + b'\x67\x66\x8b\x06'                              # mov eax,[esi]
            + b'\x66\x81\xc6\x00\x10\x00\x00\x75\xf3')         # add esi,1000h; jnz


def big_real(code):
    image = bytearray(0x300)
    image[0:len(code)] = code
    image[0x200:0x206] = b'\x0f\x00\x10\x02\x0f\x00'           # GDT at f0210
    image[0x218:0x220] = b'\xff\xff\x00\x00\x00\x92\xcf\x00'
    return bytes(image)


def test_all_of_memory_can_be_read():
    result = expect(rf('run', '--bios', rom(big_real(BIG_REAL + puts('done') + POWER_OFF))), 0)
    check(result.out == b'done', result)


# The same with writes, from 2 MiB on: RAM, nothing, the chips, the ROM.
BIG_REAL_WRITE = (BIG_REAL[:BIG_REAL.index(b'\x66\x31\xf6')]
                  + b'\x66\x31\xc0'                           # xor eax,eax
                  + b'\x66\xbe\x00\x00\x20\x00'               # mov esi,200000h
                  + b'\x67\x66\x89\x06'                       # mov [esi],eax
                  + b'\x66\x81\xc6\x00\x10\x00\x00\x75\xf3')  # add esi,1000h; jnz


def test_all_of_memory_can_be_written():
    result = expect(rf('run', '--memory', '4M', '--bios',
                       rom(big_real(BIG_REAL_WRITE + puts('done') + POWER_OFF))), 0)
    check(result.out == b'done', result)


def test_stats():
    result = expect(rf('run', '--engine', 'interp', '--stats', '--bios', rom(POWER_OFF)), 0,
                    'instructions', 'MIPS', 'exits')
    check('interp, 1 vCPU\n' in result.err, result)


def test_many_processors():
    expect(rf('run', '--vcpus', '32', '--bios', rom(puts('x') + POWER_OFF)), 0)
    expect(rf('run', '--vcpus', '254', '--memory', '16M', '--bios', rom(POWER_OFF)), 0)


main(globals())

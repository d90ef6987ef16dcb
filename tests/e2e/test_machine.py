# SPDX-License-Identifier: Apache-2.0
"""How runs end: power-off, reset, crash, debug exit, time limits, signals; and hostile guests."""
import json
import os
import re
import resource
import signal
import subprocess
import time

from rftest import (check, expect, HALT, in8, LIMIT, loop, main, out8, POWER_OFF, puts, RESET, rf,
                    rom, spawn, SPIN, TRIPLE_FAULT, workdir)


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


def test_stats_of_every_engine():
    for engine in ('interp', 'bt'):
        args = ('run', '--engine', engine, '--stats', '--vcpus', '2', '--bios', rom(COUNT + POWER_OFF))
        err = expect(rf(*args), 0, "where the vCPUs' time went", 'waiting for locks',
                     '\nreference engine\n').err
        counters = err[err.index('\ntranslation\n' if engine == 'bt' else '\nreference engine\n'):]
        for line in counters.splitlines():
            m = re.match(r'  .{35} *(\d+)(\.\d)?$', line)
            check(not line.startswith(' ') or m.end(1) == 51, 'aligned', line)
        stats = json.loads(expect(rf(*args, '--json'), 0).err)
        spent, each = stats['vcpu_time'], stats['each_vcpu']
        check(len(each) == 2 and all(v['exits'] > 0 for v in each[:1]), stats)
        check(abs(sum(spent.values()) - 2 * stats['host_seconds']) < 0.1 * stats['host_seconds'] + 0.05, stats)
        check(stats['counters']['reference_engine']['blocks_decoded'] > 0, stats)
        check(('translation' in stats['counters']) == (engine == 'bt'), stats)
        check(stats['instructions_exact'] == (engine == 'interp'), stats)


def rom32(code, more):
    """A ROM that runs 32-bit code at 4 GiB - 64 KiB + 100h, where a translator takes it."""
    start = (b'\xfa\x2e\x66\x0f\x01\x16\x00\x02'          # cli; lgdt cs:[200h]
             + b'\x0f\x20\xc0\x0c\x01\x0f\x22\xc0'        # mov eax,cr0; or al,1; mov cr0,eax
             + b'\x66\xea\x00\x01\xff\xff\x08\x00')       # jmp 8:0ffff0100h
    gdt = (b'\x17\x00\x10\x02\x0f\x00'.ljust(16, b'\0')  # at f0210
           + bytes(8) + b'\xff\xff\x00\x00\x00\x9a\xcf\x00' + b'\xff\xff\x00\x00\x00\x92\xcf\x00')
    check(len(code) <= 0x100, 'code is too long')
    path = rom(start.ljust(0x100, b'\xf4') + code.ljust(0x100, b'\xf4') + gdt)
    with open(path, 'r+b') as f:
        for offset, data in more.items():
            f.seek(offset)
            f.write(data)
    return path


def test_trace():
    for engine in ('interp', 'bt'):
        path = os.path.join(workdir(), 'trace')
        code = (b'\x31\xc0\x8e\xd8'                        # xor ax,ax; mov ds,ax
                + b'\xc7\x06\x00\x02\x00\x05'              # mov word [200h],500h
                + b'\xc7\x06\x02\x02\x00\x00'              # mov word [202h],0
                + b'\xc6\x06\x00\x05\xcf'                  # mov byte [500h],iret
                + b'\x8e\xd0\xbc\x00\x70\xcd\x80'          # mov ss,ax; mov sp,7000h; int 80h
                + puts('x') + b'\x0f\x20\xc0\x66\x83\xc8\x02\x0f\x22\xc0')  # CR0.MP = 1
        expect(rf('run', '--engine', engine, '--trace', 'int,mode,in_asm,exec,io', '--trace-file', path,
                  '--bios', rom(code + POWER_OFF)), 0)
        with open(path, encoding='ascii') as f:
            text = f.read()
        for line in text.splitlines():
            check(re.match(r' *\d+\.\d{6} v0 ', line), line)
        for what in (' software interrupt 0x80 at f000:0x', ' mode real, no paging, cpl 0',
                     ' cr0 0x60000010 -> 0x60000012 at f000:0x', ' block 0x500 physical 0x500 bytes 1 cpl 0',
                     ' 0x00000500  cf                    iret', ' exec 0000:0x500 cpl 0',
                     ' port write 0x3f8 size 1 value 0x78 at f000:0x'):
            check(what in text, what, text)


def test_a_trace_has_each_entry():
    code = (b'\x66\xb8\x10\x00\x8e\xd8\x8e\xd0\xbc\x00\x70\x00\x00'  # mov ax,10h; to ds, ss; mov esp,7000h
            + b'\xb9\x32\x00\x00\x00')                             # mov ecx,50
    code += b'\xe8' + (0x1000 - 0x100 - len(code) - 5).to_bytes(4, 'little')  # call another page
    code += b'\xeb\x00\x49\x75\xf6'                                 # jmp .+0; dec ecx; jnz to the call
    code += b'\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef'              # power off
    path = os.path.join(workdir(), 'entries')
    for engine in ('interp', 'bt'):
        expect(rf('run', '--engine', engine, '--trace', 'exec', '--trace-file', path, '--bios',
                  rom32(code, {0x1000: b'\xc3'})), 0)
        with open(path, encoding='ascii') as f:
            check(f.read().count(' exec 0008:0xffff1000 cpl 0\n') == 50, engine)


def test_a_trace_that_cannot_be_written_stops_nobody():
    result = expect(rf('run', '--trace', 'exec', '--trace-file', '/dev/full', '--bios',
                       rom(COUNT + puts('done') + POWER_OFF)), 0, 'No space left on device')
    check(result.out == b'done' and result.err.count('trace: write') == 1, result)
    expect(rf('run', '--trace', 'int', '--trace-file', '/nowhere/trace', '--bios', rom(POWER_OFF)), 1,
           'trace file /nowhere/trace: No such file or directory')


def test_a_trace_on_standard_error():
    result = expect(rf('run', '--trace', 'io', '--bios', rom(puts('x') + POWER_OFF)), 0,
                    'port write 0x3f8 size 1 value 0x78')
    check(result.out == b'x', result)


def test_rom_cannot_change_under_code():
    out_al = b'\x66\xba\xf8\x03\xee'                          # mov dx,3f8h; out dx,al
    head = (b'\x66\xb8\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0'      # mov ax,10h; to ds, es, ss
            + b'\xbc\x00\x70\x00\x00\xb9\xe8\x03\x00\x00')   # mov esp,7000h; mov ecx,1000
    target = 0xffff0100 + len(head) + 7 + 7 + 1               # R, below
    at = target.to_bytes(4, 'little')
    loop = (b'\xc6\x05' + at + b'N'                            # mov byte [R],'N'
            + b'\xf0\xfe\x05' + at                            # lock inc byte [R]
            + b'\xb0R\x49')                                    # mov al,'R'; dec ecx
    loop += b'\x75' + bytes([256 - len(loop) - 2]) + out_al     # jnz to the start
    call = lambda at, code: b'\xe8' + ((at - 0xffff0100 - code - 5) & 0xffffffff).to_bytes(4, 'little')
    code = head + loop
    code += b'\xb0N\xbf' + at + b'\xb9\x10\x00\x00\x00\xf3\xaa'  # mov al,'N'; rep stosb over R
    code += call(0xffff0ffe, len(code)) + out_al              # 'O', from two pages
    code += b'\xc7\x05\x00\x00\x00\x00\xb0M\xc3\x00'         # mov dword [0]: mov al,'M'; ret
    code += call(0xfffffffe, len(code)) + out_al              # behind 4 GiB there is 0
    code += b'\x8a\x05' + at + out_al                          # mov al,[R]
    code += b'\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef'  # power off
    path = rom32(code, {0xffe: b'\xb8O\0\0\0\xc3', 0xfffe: b'\x90\x90'})
    for engine in ('interp', 'bt'):
        result = expect(rf('run', '--engine', engine, '--bios', path, '--timeout', '20'), 0)
        check(result.out == b'ROMR', engine, result)


def test_many_processors():
    expect(rf('run', '--vcpus', '32', '--bios', rom(puts('x') + POWER_OFF)), 0)
    expect(rf('run', '--vcpus', '254', '--memory', '16M', '--bios', rom(POWER_OFF)), 0)


main(globals())

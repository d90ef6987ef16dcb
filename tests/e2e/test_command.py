# SPDX-License-Identifier: Apache-2.0
"""The command line: help, versions, mistakes, configurations, and files that cannot be run."""
import gzip
import json
import os
import shutil
import subprocess

from rftest import (LIMIT, POWER_OFF, RF, Result, SPIN, Skip, check, expect, main, rf, rom, workdir, write)


def test_version_and_help():
    check(rf('--version').out.startswith(b'rf (Ringfence) '))
    for args in [('--help',), ('-h',), ('run', '--help'), ('check', '--help'), ('help', '--help'),
                 ('help', 'run'), ('help',)]:
        result = expect(rf(*args), 0)
        check(b'usage: rf' in result.out, args, result)
        check(result.err == '', args, result)


def test_usage_mistakes():
    for args, message in [
            ((), 'usage: rf VERB'),
            (('rnu',), "unknown verb 'rnu'; did you mean 'run'?"),
            (('--versoin',), "unknown option '--versoin'; did you mean '--version'?"),
            (('help', 'chekc'), "there is no verb 'chekc'; did you mean 'check'?"),
            (('run', '--memroy', '1G'), "unknown option '--memroy'; did you mean '--memory'?"),
            (('run', '--memory'), "option '--memory' needs a value"),
            (('run', '--memory=lots'), "memory: 'lots' is not a size"),
            (('run', '--memory=1'), "'1' is too small"),
            (('run', '--vcpus', '0'), 'vcpus: 0 is out of range: 1 to 254'),
            (('run', '--engine', 'qemu'), "engine: 'qemu' is none of auto|interp|bt|kvm"),
            (('run', '--serial', 'tcp:1'), "'tcp:1' is none of stdio, pty, file:FILE, unix:SOCKET, none"),
            (('run', '--disk', 'x.img,colour=red'), "disk: 'colour' is none of target="),
            (('run', '--vif', 'usr'), "vif: unknown key 'usr'; did you mean 'user'?"),
            (('run', '--trace', 'int,interrupts'), "trace: 'interrupts' is none of int, mode, block, exec, io"),
            (('run', '--debug-exit=1'), "option '--debug-exit' takes no value"),
            (('run', 'memroy=1G'), "unknown key 'memroy'; did you mean 'memory'?"),
            (('run', 'a', 'b'), "more than one FILE: 'a' and 'b'"),
            (('check', 'x'), 'takes no arguments')]:
        expect(rf(*args), 2, message)


def test_each_message_says_what_to_type_next():
    expect(rf('run', '--nonsense'), 2, 'Try: rf run --help')
    expect(rf('nonsense'), 2, 'Try: rf --help')


def test_check():
    table = expect(rf('check'), 0)
    for word in (b'vmx', b'svm', b'/dev/kvm', b'engine interp', b'memory', b'user namespaces'):
        check(word in table.out, word, table)
    info = json.loads(expect(rf('check', '--json'), 0).out)
    check(info['flags']['lm'] is True, info)
    check([e for e in info['engines'] if e['name'] == 'interp' and e['usable']], info)
    check(info['kvm']['present'] == os.path.exists('/dev/kvm'), info)


def test_dry_run_and_override_order():
    kernel = write('k', 'x')
    cfg = write('web.cfg', f"""
# a comment
name = 'web'
kernel = "{kernel}"   # quoted
memory = 1024
extra = 'quiet'
vcpus = 2
on_reboot = 'destroy'
""")
    c = json.loads(expect(rf('run', '--dry-run', cfg), 0).out)
    check((c['name'], c['memory'], c['vcpus'], c['cmdline']) == ('web', 1024, 2, 'quiet'), c)
    check(c['on_reboot'] == 'destroy' and c['engine'] == 'auto', c)
    c = json.loads(expect(rf('run', '--vcpus', '3', cfg, 'memory=64', '--dry-run'), 0).out)
    check((c['memory'], c['vcpus']) == (64, 3), c)


def test_names_come_from_the_file():
    kernel = write('k2', 'x')
    cfg = write('some.guest.cfg', f'kernel = "{kernel}"')
    check(json.loads(rf('run', '--dry-run', cfg).out)['name'] == 'some.guest')
    check(json.loads(rf('run', '--dry-run', cfg, '--name', 'other').out)['name'] == 'other')


def test_unknown_keys_are_named_and_ignored():
    cfg = write('u.cfg', f'bios = "{rom(POWER_OFF)}"\nmemroy = 1\n')
    expect(rf('run', cfg), 0, "u.cfg: line 2: unknown key 'memroy'; did you mean 'memory'?")


def test_configuration_mistakes():
    for text, message in [
            ('name = web', "line 1: 'web' is not a number (strings need quotes)"),
            ('\nname = "web', 'line 2: a string that starts with " does not end'),
            ('disk = ["x.img,raw,colour=red"]', "line 1: disk: 'colour' is none of target="),
            ('type = "pv"', "'pv' is none of hvm|pvh"),
            ('memory = 100000000', 'is too large'),
            ('vcpus = 1', 'there is nothing to run')]:
        expect(rf('run', write('bad.cfg', text), env={'RINGFENCE_APPLIANCE': '/nonexistent'}), 1,
               message)


def test_files_that_are_no_guests():
    mbr = bytearray(4096)
    mbr[510:512] = b'\x55\xaa'
    iso = bytearray(40000)
    iso[32769:32774] = b'CD001'
    arm, riscv = bytearray(4096), bytearray(4096)
    arm[0:2], arm[56:60] = b'MZ', b'ARM\x64'
    riscv[48:56], riscv[56:60] = b'RISCV\0\0\0', b'RSC\x05'
    for name, data, message in [
            ('arm', bytes(arm), 'built for AArch64, not for x86-64'),
            ('riscv', bytes(riscv), 'built for RISC-V, not for x86-64'),
            ('e', b'', 'empty'),
            ('q', b'QFI\xfb' + bytes(500), 'a qcow2 disk, which this version cannot boot from'),
            ('m', bytes(mbr), 'a disk with a boot sector'),
            ('i', bytes(iso), 'an ISO image'),
            ('b', bytes(range(256)) * 8, 'neither a kernel nor a domain configuration'),
            ('elf', b'\x7fELF\x02\x01\x01' + bytes(9) + b'\x02\x00\xb7\x00' + bytes(500), 'AArch64'),
            ('gz', gzip.compress(b'nothing'), '')]:
        expect(rf('run', write(name, data)), 1, message)
    expect(rf('run', '/nonexistent/x'), 1, '/nonexistent/x', 'No such file or directory')
    expect(rf('run', workdir()), 1, workdir())


def test_unreadable_files():
    path = write('secret', 'x')
    os.chmod(path, 0)
    if os.geteuid() == 0:
        # root reads everything, but for what it may not.
        if not shutil.which('setpriv'):
            raise Skip('setpriv is not installed')
        p = subprocess.run(['setpriv', '--bounding-set=-dac_override,-dac_read_search', RF, 'run',
                            path], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                           stdin=subprocess.DEVNULL, timeout=LIMIT, check=False)
        result = Result(p.returncode, p.stdout, p.stderr.decode())
    else:
        result = rf('run', path)
    expect(result, 1, path, 'Permission denied')


def engines():
    """Names of those that this build has: True where they work here."""
    return {e['name']: e['usable'] for e in json.loads(rf('check', '--json').out)['engines']}


def test_what_this_host_cannot_give():
    path = rom(SPIN)
    expect(rf('run', '--bios', path, '--memory', '1T'), 1, 'more than this host has')
    for engine in {'bt', 'kvm'} - set(engines()):
        expect(rf('run', '--bios', path, '--engine', engine), 1,
               f'engine {engine}: this build does not have it')
    expect(rf('run', '--bios', path, '--cpu', 'z80'), 1, 'z80')
    expect(rf('run', '--bios', path, '--cpu', 'host,+warp'), 1, 'warp')
    expect(rf('run', '--bios', path, '--cpu', 'host,+warp', '--dry-run'), 1, 'cpu host,+warp: ')
    expect(rf('run', '--kernel', path, '--bios', path), 1, 'exclude each other')
    expect(rf('run', '--bios', '/nonexistent'), 1, 'No such file or directory')
    expect(rf('run', '--bios', path, '--serial', 'file:/nonexistent/x'), 1, '/nonexistent/x')
    expect(rf('run', '--bios', path, '--gdb', '1234'), 1, 'not [HOST]:PORT')
    expect(rf('run', '--bios', path, '--gdb', 'nonexistent.invalid:1'), 1, 'gdb')


def test_the_choice_of_engine_is_explained():
    best = next(name for name, usable in engines().items() if usable)
    expect(rf('run', '--bios', rom(POWER_OFF)), 0, f'engine {best}:')
    check('engine' not in rf('run', '--engine', 'interp', '--bios', rom(POWER_OFF)).err)


def test_the_appliance_is_looked_for():
    empty = os.path.join(workdir(), 'no-appliance')
    os.makedirs(empty, exist_ok=True)
    expect(rf('run', env={'RINGFENCE_APPLIANCE': empty}), 1, 'make run')
    folder = os.path.join(workdir(), 'appliance')
    os.makedirs(folder, exist_ok=True)
    for name, text in [('vmlinuz', 'no kernel'), ('initrd.img', 'x'), ('cmdline', 'a=b quiet\n')]:
        write('appliance/' + name, text)
    c = json.loads(rf('run', '--dry-run', env={'RINGFENCE_APPLIANCE': folder}).out)
    check(c['name'] == 'appliance' and c['cmdline'] == 'a=b quiet', c)
    check(c['kernel'] == folder + '/vmlinuz' and c['ramdisk'] == folder + '/initrd.img', c)


main(globals())

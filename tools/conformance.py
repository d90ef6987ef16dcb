#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs test suites that others wrote under rf's engines and TCG, and writes docs/conformance.md.

The suites are fetched and built outside the repository, as docs/conformance.md says. Each DIR is
given by an option; a suite without one keeps the results it has. Results are kept in a JSON file,
so that a single test or a single side can be run again. The "why" column is written by hand: it
is taken over from the table that is being replaced.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

SIDES = {'interp': '`interp`', 'bt': '`bt`', 'tcg': 'QEMU TCG'}  # rf's engines, and TCG
DEFAULT_TIMEOUT = 90  # seconds, as in kvm-unit-tests' scripts/runtime.bash
DEFAULT_MEMORY = 128  # MiB, QEMU's

# Tests of ours: one of theirs with a different environment. Their APIC tests end at a hypercall of
# KVM's, which they leave out without a test device.
VARIANTS = {'x2apic': 'x2apic-no-hypercall', 'xapic': 'xapic-no-hypercall'}

# ---- running a program ----


def run(argv, seconds):
    """Returns the exit status (124 when the time was up), standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = 124
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors='replace').replace('\r', ''))
    return status, texts[0], texts[1]


# ---- kvm-unit-tests ----


def kut_tests(folder, arch):
    """The tests of x86/unittests.cfg that are for this architecture, as dictionaries."""
    tests = []
    with open(os.path.join(folder, 'x86/unittests.cfg'), encoding='utf-8') as f:
        for line in f:
            section = re.match(r'\[(.+)\]', line)
            value = re.match(r'(\w+)\s*=\s*(.*?)\s*$', line)
            if section:
                tests.append({'name': section.group(1)})
            elif value and tests:
                tests[-1][value.group(1)] = value.group(2)
    only = [t for t in tests if t.get('arch', arch) == arch]
    only += [dict(t, name=VARIANTS[t['name']], device='0') for t in only if t['name'] in VARIANTS]
    return [t for t in only if os.path.exists(kut_file(folder, t))]


def kut_file(folder, test):
    return os.path.join(folder, 'x86', test['file'])


def kut_args(test):
    text = test.get('test_args', '')
    if text[:1] in ('"', "'"):
        text = text[1:-1]
    return text.replace('`date +%s`', str(int(time.time())))


def kut_seconds(test, factor):
    return float(re.match(r'\d+', test.get('timeout', str(DEFAULT_TIMEOUT))).group()) * factor


def option_of(params, name):
    return params[params.index(name) + 1] if name in params else None


def kut_memory(params):
    """In MiB."""
    text = option_of(params, '-m')
    if not text:
        return DEFAULT_MEMORY
    return int(text[:-1]) * 1024 if text[-1] in 'gG' else int(text)


def rf_cpu(params, known):
    """The configuration's additions to and removals from a processor, those that rf has. `max` has
    what rf offers only when it is asked for."""
    model, *words = (option_of(params, '-cpu') or '').split(',')
    if model == 'max':
        words = ['+pku', '+pks'] + words
    return ','.join(['host'] + [w for w in words if w[:1] in '+-' and known(w)])


def rf_knows(o, kernel):
    """Whether a run with this change to the processor gets so far as to run out of time."""
    def known(word):
        if word not in o.known:
            argv = [o.rf, 'run', '--engine', 'interp', '--kernel', kernel, '--cpu', 'host,' + word,
                    '--serial', 'none', '--timeout', '1']
            o.known[word] = run(argv, 10)[0] != 1
        return o.known[word]
    return known


def kut_environment(test):
    """What the tests would read from QEMU's fw_cfg, which rf does not have."""
    memory = kut_memory(shlex.split(test.get('qemu_params', '')))
    return (f"NR_CPUS={test.get('smp', '1')}\nMEMSIZE={memory}\n"
            f"TEST_DEVICE={test.get('device', '1')}\n")


def kut_rf(o, folder, test, env, engine):
    params, kernel = shlex.split(test.get('qemu_params', '')), kut_file(folder, test)
    argv = [o.rf, 'run', '--engine', engine, '--kernel', kernel,
            '--initrd', env, '--append', kut_args(test), '--vcpus', test.get('smp', '1'),
            '--memory', f'{kut_memory(params)}M', '--cpu', rf_cpu(params, rf_knows(o, kernel)),
            '--debug-exit', '--testdev']
    return run(argv, kut_seconds(test, o.factor))


def kut_tcg(o, folder, test, env):
    params = shlex.split(test.get('qemu_params', ''))
    params = [p.replace(',kernel-irqchip=split', '') for p in params if p != '-enable-kvm']
    params = [re.sub(r'^host(?=,|$)', 'max', p) for p in params]
    argv = [o.qemu, '-no-reboot', '-nodefaults', '-accel', 'tcg', '-display', 'none',
            '-serial', 'stdio', '-device', 'pc-testdev',
            '-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4', '-device', 'pci-testdev',
            '-kernel', kut_file(folder, test), '-append', kut_args(test),
            '-initrd', env, '-smp', test.get('smp', '1')] + params
    return run(argv, kut_seconds(test, o.factor))


def kut_side(o, folder, test, env, side):
    if side == 'tcg':
        return kut_tcg(o, folder, test, env)
    return kut_rf(o, folder, test, env, side)


def kut_verdict(status, out, err):
    """A test ends with (code << 1) | 1; code 38 says that it was skipped."""
    if status == 124:
        return 'timeout'
    if not out.strip():
        return 'fail' if not err.strip() else 'not started'
    return {1: 'pass', 77: 'skip'}.get(status, 'fail')


def kut_detail(status, out):
    lines = [line for line in out.splitlines() if line.startswith('FAIL')]
    return {'status': status, 'failed': lines[:20]}


# ---- test386.asm ----


def t386_reference(folder):
    with open(os.path.join(folder, 'test386-EE-reference.txt'), encoding='ascii') as f:
        return f.read().split()


def t386_run(o, rom, side, output):
    argv = [o.rf, 'run', '--engine', side, '--bios', rom, '--debugcon', 'file:' + output,
            '--serial', 'none', '--timeout', str(o.t386_seconds)]
    if side == 'tcg':
        argv = [o.qemu, '-accel', 'tcg', '-display', 'none', '-nodefaults', '-bios', rom,
                '-debugcon', 'file:' + output]
    run(argv, o.t386_seconds + 5)
    if not os.path.exists(output):
        return b''
    with open(output, 'rb') as f:
        return f.read()


def t386_side(o, folder, side):
    """POST codes and results come out of one port: codes up to 0xee, results as text, 0xff."""
    with tempfile.TemporaryDirectory() as work:
        got = t386_run(o, os.path.join(folder, 'test386.bin'), side, os.path.join(work, 'out'))
    codes, begun, rest = got.partition(b'\xee')
    text, ended, _ = rest.partition(b'\xff')
    post = 0xff if ended else 0xee if begun else codes[-1] if codes else None
    words, want = text.decode(errors='replace').split(), t386_reference(folder)
    same = sum(1 for g, w in zip(words, want) if g == w)
    verdict = 'pass' if ended and words == want else 'fail'
    return {'verdict': verdict, 'post': post, 'same': same, 'of': len(want)}


# ---- results ----


def load(path):
    if path and os.path.exists(path):
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    return {}


def store(path, results):
    with open(path + '.new', 'w', encoding='utf-8') as f:
        json.dump(results, f, indent=1, sort_keys=True)
    os.replace(path + '.new', path)


def keep_log(o, suite, name, side, out, err):
    if not o.logs:
        return
    os.makedirs(o.logs, exist_ok=True)
    with open(os.path.join(o.logs, f'{suite}.{name}.{side}'), 'w', encoding='utf-8') as f:
        f.write(out + err)


def run_kut(o, suite, folder, arch, results):
    table = results.setdefault(suite, {})
    order = [t['name'] for t in kut_tests(folder, arch)]
    for test in kut_tests(folder, arch):
        name = test['name']
        if o.only and name not in o.only:
            continue
        row = table.setdefault(name, {})
        row['order'] = order.index(name)
        for side in o.sides:
            began = time.monotonic()
            with tempfile.NamedTemporaryFile('w', suffix='.env') as env:
                env.write(kut_environment(test))
                env.flush()
                status, out, err = kut_side(o, folder, test, env.name, side)
            row[side] = kut_verdict(status, out, err)
            row[side + '_detail'] = kut_detail(status, out)
            keep_log(o, suite, name, side, out, err)
            store(o.results, results)
            print(f'{suite} {name} {side}: {row[side]} ({status}) '
                  f'{time.monotonic() - began:.1f} s', *row[side + '_detail']['failed'][:3],
                  flush=True)


def run_t386(o, results):
    for side in o.sides:
        row = t386_side(o, o.test386, side)
        results.setdefault('test386', {})[side] = row
        store(o.results, results)
        print(f'test386 {side}: {row}', flush=True)


# ---- the tables ----


def old_reasons(text, heading):
    """The last column of the table under this heading, by test."""
    part = section_of(text, heading)
    return dict(re.findall(r'^\| (\S+) \|.*\| ([^|]*) \|$', part, re.M))


def section_of(text, heading):
    begin = text.find(heading + '\n')
    if begin < 0:
        return ''
    end = text.find('\n## ', begin + 1)
    return text[begin:end if end >= 0 else len(text)]


def count(rows, side, verdict):
    return sum(1 for r in rows if r.get(side) == verdict)


def kut_table(table, reasons):
    rows = sorted(table.items(), key=lambda item: item[1]['order'])
    out = ['| | pass | fail or timeout | skip | not started |', '| --- | --- | --- | --- | --- |']
    for side, title in SIDES.items():
        values = [r for _, r in rows]
        bad = count(values, side, 'fail') + count(values, side, 'timeout')
        out.append(f"| {title} | {count(values, side, 'pass')} | {bad} | "
                   f"{count(values, side, 'skip')} | {count(values, side, 'not started')} |")
    out += ['', '| test | `interp` | `bt` | TCG | why not |', '| --- | --- | --- | --- | --- |']
    for name, row in rows:
        cells = [row.get(side, 'not run') for side in SIDES]
        why = reasons.get(name, '').strip()
        out.append(f"| {name} | {' | '.join(cells)} | {why} |")
    return '\n'.join(out) + '\n'


def t386_table(sides):
    out = ['| | last POST code | equal words of the output |', '| --- | --- | --- |']
    for side, title in SIDES.items():
        row = sides.get(side)
        post = 'none' if not row or row['post'] is None else f"0x{row['post']:02x}"
        equal = f"{row['same']:,} of {row['of']:,}" if row else 'not run'
        out.append(f'| {title} | {post} | {equal} |')
    return '\n'.join(out) + '\n'


def replace_table(text, heading, new):
    """Puts `new` where this heading's tables are: from the first row to the last."""
    old = section_of(text, heading)
    table = re.search(r'^\|.*^\|[^\n]*\n', old, re.M | re.S)
    if not table:
        return text
    return text.replace(old, old[:table.start()] + new + old[table.end():])


def write_tables(path, results):
    with open(path, encoding='utf-8') as f:
        text = f.read()
    for suite, heading in HEADINGS.items():
        if suite in results:
            new = kut_table(results[suite], old_reasons(text, heading))
            text = replace_table(text, heading, new)
    if 'test386' in results:
        text = replace_table(text, '## test386.asm', t386_table(results['test386']))
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)


HEADINGS = {'kut64': '## kvm-unit-tests, x86_64', 'kut32': '## kvm-unit-tests, i386'}


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kut64', metavar='DIR', help='kvm-unit-tests, built for x86_64')
    p.add_argument('--kut32', metavar='DIR', help='kvm-unit-tests, built for i386')
    p.add_argument('--test386', metavar='DIR',
                   help='test386.asm, built with both of its ports 0xe9')
    p.add_argument('--rf', default='build/rf')
    p.add_argument('--qemu', default=shutil.which('qemu-system-x86_64') or 'qemu-system-x86_64')
    p.add_argument('--engine', dest='sides', action='append', choices=SIDES,
                   help='one of rf\'s engines, or tcg; may be repeated; default: all')
    p.add_argument('--only', nargs='+', metavar='TEST')
    p.add_argument('--factor', type=float, default=1, help='stretches the time limits')
    p.add_argument('--t386-seconds', type=int, default=30)
    p.add_argument('--results', default='conformance.json', metavar='FILE')
    p.add_argument('--logs', metavar='DIR', help="keep each test's output here")
    p.add_argument('--write', metavar='FILE', help='put the tables into this document')
    o = p.parse_args()
    o.sides = o.sides or list(SIDES)
    o.known = {}
    return o


def main():
    o = options()
    results = load(o.results)
    if o.kut64:
        run_kut(o, 'kut64', o.kut64, 'x86_64', results)
    if o.kut32:
        run_kut(o, 'kut32', o.kut32, 'i386', results)
    if o.test386:
        run_t386(o, results)
    if o.write:
        write_tables(o.write, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What the samples say: a table, verdicts, docs/performance.md."""
import json
import math
import os
import statistics

import items
import plot


class Results:
    """BEST: the least over the rounds instead of medians, for a look on a machine that is busy."""

    def __init__(self, raw, best=False):
        self.raw, self.best = raw, best
        self.names = list(raw['samples'])
        self.ours = [n for n in self.names if n not in ('native', 'tcg')]
        self.pairs = [(n, 'native') for n in self.names if n != 'native']
        if 'tcg' in self.names:
            self.pairs += [(n, 'tcg') for n in self.ours]

    def times(self, who, item):
        return [s and s['ns'] for s in self.raw['samples'][who].get(item, [])]

    def time(self, who, item):
        have = [t for t in self.times(who, item) if t]
        if not have:
            return None
        return min(have) if self.best else statistics.median(have)

    def ratio(self, pair, item):
        """(median, least, most) of the ratios within each round."""
        a, b = (self.times(who, item) for who in pair)
        have = [x / y for x, y in zip(a, b) if x and y]
        if not have:
            return None
        middle = self.time(pair[0], item) / self.time(pair[1], item) if self.best \
            else statistics.median(have)
        return middle, min(have), max(have)

    def items(self, group=None):
        return [i for i in items.ITEMS if group in (None, i.group)
                and any(self.time(n, i.name) for n in self.names)]

    def mean(self, pair, group=None):
        have = [self.ratio(pair, i.name) for i in self.items(group)
                if group or i.group != 'devices']  # whose time is in part the host's
        have = [r[0] for r in have if r]
        return math.exp(statistics.fmean(map(math.log, have))) if have else None

    def memory_mib(self, who):
        have = self.raw['memory_kib'].get(who)
        return statistics.median(have) / 1024 if have else None

    def clock_error(self, who):
        """How far the contestant's clock was from ours, over all its work."""
        guest = host = 0
        for name, samples in self.raw['samples'][who].items():
            for s in samples:
                if s and 'guest_ns' in s:
                    guest += s['guest_ns']
                    host += s['host_ns']
        return guest / host - 1 if host else None

    def wrong(self, who):
        """Work whose result differs from the bare processor's; None when nothing could be compared."""
        bad, compared = [], False
        for name, samples in self.raw['samples'][who].items():
            right = {s['check'] for s in self.raw['samples'].get('native', {}).get(name, [])
                     if s and 'check' in s}
            got = {s['check'] for s in samples if s and 'check' in s}
            compared = compared or bool(right and got)
            if right and got - right:
                bad.append(name)
        return bad if compared else None


def number(x):
    if x is None:
        return '-'
    return f'{x:.0f}' if x >= 100 else f'{x:.1f}' if x >= 10 else f'{x:.2f}'


def times_cell(r):
    return '-' if r is None else f'{number(r)}x'


def spread_cell(r):
    if r is None:
        return '-'
    return f'{number(r[0])}x' + (f' ({number(r[1])}-{number(r[2])})' if r[1] < r[2] else '')


def rows(res):
    yield ['work', 'unit'] + res.names + [f'{a}/{b}' for a, b in res.pairs]
    for i in res.items():
        values = [res.time(n, i.name) for n in res.names]
        yield [i.text, i.unit] + [number(v and v / i.scale) for v in values] + \
            [spread_cell(res.ratio(p, i.name)) for p in res.pairs]
    blank = [''] * (len(res.names) + 1)
    for text, group in (('mean of user-mode work', 'user'), ('mean of kernel paths', 'kernel'),
                        ('mean of devices', 'devices'),
                        ('mean of all but devices', None)):
        yield [text] + blank + [times_cell(res.mean(p, group)) for p in res.pairs]
    memory = [res.memory_mib(n) for n in res.names]
    if any(memory):
        yield ['memory beyond the guest\'s', 'MiB'] + [number(m) for m in memory] + \
            [times_cell(divide(res.memory_mib(a), res.memory_mib(b))) for a, b in res.pairs]


def divide(a, b):
    return a / b if a and b else None


def verdict(met, text):
    return ('met     ' if met else 'NOT MET ') + text


def beyond(res, pair, names, bound):
    """The items whose ratio is above the bound, the worst first."""
    bad = [(res.ratio(pair, n), n) for n in names]
    bad = sorted(((r[0], n) for r, n in bad if r and r[0] > bound), reverse=True)
    return ', '.join(f'{n} {times_cell(r)}' for r, n in bad)


def all_within(res, pair, names, bound, text):
    measured = [n for n in names if res.ratio(pair, n)]
    if not measured:
        return []
    bad = beyond(res, pair, measured, bound)
    return [verdict(not bad, text + (f'; not: {bad}' if bad else ''))]


def against_tcg(res, engine):
    pair = (engine, 'tcg')
    mean = res.mean(pair)
    if mean:
        yield verdict(mean <= items.TCG_MEAN_BOUND,
                      f'{engine}: all work at least 3x faster than TCG in the mean '
                      f'(it is {number(1 / mean)}x)')
    for what, group in ('nothing', 'user'), ('no kernel path', 'kernel'), ('no device', 'devices'):
        yield from all_within(res, pair, [i.name for i in res.items(group)],
                              items.TCG_SLOWER_BOUND,
                              f'{engine}: {what} slower than TCG (by more than 2 %)')
    yield from all_within(res, pair, items.TCG_BOUND_ITEMS, items.TCG_BOUND,
                          f'{engine}: {", ".join(items.TCG_BOUND_ITEMS)} '
                          f'at most {items.TCG_BOUND}x of TCG\'s time')


def against_native(res, engine):
    pair = (engine, 'native')
    yield from all_within(res, pair, [i.name for i in res.items('user')], items.NATIVE_USER_BOUND,
                          f'{engine}: user-mode work at most {items.NATIVE_USER_BOUND:.0f}x '
                          'native time')
    yield from all_within(res, pair, ['xorshift'], items.NATIVE_REGISTERS_BOUND,
                          f'{engine}: registers only at most {items.NATIVE_REGISTERS_BOUND}x '
                          'native time')


def soundness(res):
    for n in res.names:
        if n == 'native':
            continue
        bad = res.wrong(n)
        if bad is not None:
            yield verdict(not bad, f'{n}: every result is the bare processor\'s'
                          + (f'; not: {", ".join(bad)}' if bad else ''))
        error = res.clock_error(n)
        if error is not None:
            yield verdict(abs(error) <= items.CLOCK_BOUND,
                          f'{n}: the guest\'s clock goes with the host\'s '
                          f'({100 * error:+.1f} % over all work)')


def verdicts(res):
    out = []
    for engine in res.ours:
        if engine == 'interp':
            continue  # the reference is not for speed
        if 'tcg' in res.names:
            out += against_tcg(res, engine)
        if 'native' in res.names:
            out += against_native(res, engine)
    return out + list(soundness(res))


def aligned(table):
    table = list(table)
    widths = [max(len(r[i]) for r in table) for i in range(len(table[0]))]
    for r in table:
        cells = [r[0].ljust(widths[0]), r[1].ljust(widths[1])]
        yield '  '.join(cells + [c.rjust(w) for c, w in zip(r[2:], widths[2:])]).rstrip()


def how(res):
    raw = res.raw
    return (f'{raw["rounds"]} rounds, {raw["budget_ms"]} ms for each piece of work; guests have one '
            f'vCPU and {raw["guest_memory_mib"]} MiB; load of the host when rounds began: '
            + ', '.join(f'{l:.1f}' for l in raw['loads']) + '.')


def meaning(res):
    what = 'Times are the least over the rounds and ratios those of these times, because the machine ' \
        'was busy with other things' if res.best else \
        'Times are medians over the rounds, ratios medians of the ratios within a round'
    return f'{what}; in parentheses the least and the most of the ratios within a round.'


def text(raw, best=False):
    res = Results(raw, best)
    lines = [how(res), meaning(res) + ' Lower is faster.', '']
    lines += aligned(rows(res))
    lines += [''] + verdicts(res)
    for who, failed in raw['failures'].items():
        lines += [f'FAILED  {who}: {item}' for item in failed]
    return '\n'.join(lines)


PAGE = '''# Performance

`make bench` compares engines on your machine: the same work natively, under QEMU's TCG and under `rf`. This page
is its record of one run, made by `make bench ARGS="--record"`; every number and verdict below comes from that run.

![Time over the bare processor's]({plot})

## The machine

{machine}

## Times and ratios

{how}

{table}

{meaning} Means are geometric
means of the ratios. Memory is what of the monitor is resident at the end of a round besides the guest's RAM. {clocks} All samples are in [performance.json](performance.json).

## Against what the project wants

{verdicts}

## How it is measured

- Work is done by one static program (`bench/bench.c`), the same file natively and in guests, and by Debian's own `sqlite3`,
  `python3`, `cc1` and busybox, which run from one folder with their libraries, the same files natively and in guests (there
  in the initramfs). Guests run Debian's cloud kernel, the same for every engine: `qemu-system-x86_64 -accel tcg -cpu max`, and
  `rf run`.
- In each round every contestant is booted; then each piece of work goes once round all of them, in an order that changes from
  round to round, before the next begins. Contestants that wait are halted, so that they take nothing from the one that works.
- A piece of work runs in a process of its own. One batch warms up (translation falls into it), then the same batch repeats until
  the budget of time is spent, at least once; the median of the batches counts. `--json` keeps the first batch's time as well.
- Each batch's result is checked against the others', and against the bare processor's. The clock is the guest's own,
  CLOCK_MONOTONIC; over all of a contestant's work it is compared with the host's.
- Devices: guests have a virtio network interface with libslirp behind it (QEMU's and ours use the same library) and a virtio disk, a raw
  file of the host's in a tmpfs, through the host's page cache. The other end of a connection is a process on the host. The guest's
  own page cache is left out (O_DIRECT). Natively it is the loopback interface and the file itself.
- Files lie in a tmpfs, on both sides. Kernel paths run on one processor, so that it is the engine that is measured and not how the
  host's scheduler places two processes.
- The C library chooses its code by what CPUID says, so `libm` and `memcpy` are the library's best for each contestant's
  processor, not the same instructions. SHA-256 is plain C for that reason.
- The boot is timed on the host, from the first line of the kernel's log (its early console) to the first of `/init`: the kernel's own
  start, without the firmware's or the loader's.

What each is, by the name that `--items` takes:

{what}

`make bench ARGS="--help"` has the options: engines, items, rounds, `--quick`, and `--json` for all samples.
'''


def markdown_table(table):
    table = list(table)
    lines = ['| ' + ' | '.join(table[0]) + ' |',
             '| --- | --- |' + ' ---: |' * (len(table[0]) - 2)]
    return '\n'.join(lines + ['| ' + ' | '.join(r) + ' |' for r in table[1:]])


def machine_list(m):
    kind = 'a virtual machine' if m['virtual'] else 'bare'
    vt = 'with' if m['vmx_or_svm'] else 'without'
    return '\n'.join([
        f'- {m["processor"]} (family-model-stepping {m["cpu_family_model_stepping"]}), {m["processors"]} '
        f'processors, {m["memory_gib"]} GiB; {kind}, {vt} VT-x or AMD-V',
        f'- Host: Linux {m["host_kernel"]}; guest: Linux {m["guest_kernel"]}',
        f'- {m["qemu"]}; Ringfence at commit {m["ringfence"]}',
        f'- Measured on {m["date"]}'])


def clocks(res):
    errors = [(n, res.clock_error(n)) for n in res.names if n != 'native']
    said = ', '.join(f'{n} by {100 * e:+.1f} %' for n, e in errors if e is not None)
    return f'The guests\' clocks differed from the host\'s over all their work: {said}.' if said else ''


def record(raw, best=False):
    res = Results(raw, best)
    docs = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'docs')
    page = PAGE.format(
        plot='performance.svg', machine=machine_list(raw['machine']), how=how(res),
        meaning=meaning(res), table=markdown_table(rows(res)), clocks=clocks(res),
        verdicts='\n'.join(f'- {v}' for v in verdicts(res)),
        what='\n'.join(f'- `{i.name}`: {i.text}' for i in res.items()))
    for name, content in (('performance.md', page), ('performance.svg', plot.svg(res)),
                          ('performance.json', json.dumps(raw, separators=(',', ':')) + '\n')):
        with open(os.path.join(docs, name), 'w', encoding='utf-8') as f:
            f.write(content)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares engines: the same work natively, under QEMU's TCG and under rf, in turns.

In each round every contestant is booted, and then each piece of work goes once round all of them before
the next begins, so that the host's noise falls on all alike. A ratio is the median over the rounds of
the ratios within a round; its spread is the least and the most of them. docs/performance.md says
what the work is.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

import contestants
import items
import machine
import programs
import report

KERNEL_LINE = 'earlyprintk=serial,ttyS0,115200'


def progress(text):
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)


def make_contestants(args, scratch, host):
    build = os.path.realpath(args.build)
    appliance = os.path.join(build, 'appliance')
    program = os.path.join(build, 'bench', 'guest-bench')
    root, initrd = programs.prepare(os.path.join(build, 'bench-guest'), appliance, program)
    kernel = os.path.join(appliance, 'vmlinuz')
    plain = os.path.join(appliance, 'initrd.img')
    with open(os.path.join(appliance, 'cmdline'), encoding='ascii') as f:
        cmdline = f'{f.read().strip()} {KERNEL_LINE}'
    line = f'{cmdline} {host.line()}'
    out = [contestants.Contestant('native', [program, root, scratch], env=host.env(host.disk('native')))]
    if not args.no_tcg:
        out.append(contestants.Contestant('tcg',
                                          contestants.qemu(kernel, initrd, line, host.disk('tcg')),
                                          contestants.qemu(kernel, plain, cmdline)))
    rf = os.path.join(build, 'rf')
    for engine in args.engine:
        out.append(contestants.Contestant(engine, contestants.rf(rf, engine, kernel, initrd, line,
                                                                 host.disk(engine)),
                                          contestants.rf(rf, engine, kernel, plain, cmdline)))
    return out


class Run:
    """The measurements: samples[contestant][item] is a list with a place for each round."""

    def __init__(self, args, who):
        self.args, self.who = args, who
        self.samples = {c.name: {} for c in who}
        self.memory = {c.name: [] for c in who}
        self.loads = []
        self.failures = {}

    def fail(self, c, item, why):
        self.failures.setdefault(c.name, {})[item] = str(why)
        print(f'{c.name}: {item}: {why}', file=sys.stderr)
        c.kill()

    def add(self, c, item, round_, sample):
        self.samples[c.name].setdefault(item, [None] * self.args.rounds)[round_] = sample

    def failed(self, c, item):
        return item in self.failures.get(c.name, {})

    def boot_all(self, round_):
        for c in self.turn(round_):
            if c.boot_command and not self.failed(c, 'boot'):
                progress(f'round {round_ + 1} of {self.args.rounds}: boot under {c.name}')
                try:
                    self.add(c, 'boot', round_, {'ns': c.boot(self.args.limit)})
                except (contestants.Failed, OSError) as e:
                    self.fail(c, 'boot', e)

    def turn(self, round_):
        """The order changes from round to round: whoever comes after a slow one may be at a loss."""
        shift = round_ % len(self.who)
        return self.who[shift:] + self.who[:shift]

    def work_one(self, c, item, round_):
        if self.failed(c, item) or self.failed(c, 'start'):
            return
        progress(f'round {round_ + 1} of {self.args.rounds}: {item} under {c.name}')
        step = 'start'
        try:
            if not c.running():
                c.start(self.args.limit)
            step = item
            self.add(c, item, round_, c.work(item, self.args.budget, self.args.limit))
        except (contestants.Failed, OSError) as e:
            self.fail(c, step, e)

    def round(self, round_):
        self.loads.append(os.getloadavg()[0])
        if 'boot' in self.args.items:
            self.boot_all(round_)
        for item in self.args.items:
            if items.BY_NAME[item].group != 'boot':
                for c in self.turn(round_):
                    self.work_one(c, item, round_)
        for c in self.who:
            if c.running() and c.boot_command:
                self.memory[c.name].append(c.overhead_kib())
            c.kill()

    def all(self):
        try:
            for i in range(self.args.rounds):
                self.round(i)
        finally:
            for c in self.who:
                c.kill()
            progress('')
        return {'samples': self.samples, 'memory_kib': self.memory, 'loads': self.loads,
                'failures': self.failures, 'rounds': self.args.rounds,
                'budget_ms': self.args.budget, 'machine': machine.describe(self.args.build),
                'guest_memory_mib': contestants.GUEST_MEMORY_MIB}


def choose_items(text):
    names = text.split(',')
    for n in names:
        if n not in items.BY_NAME and n not in ('user', 'kernel', 'devices'):
            raise argparse.ArgumentTypeError(f'{n}: choose from user, kernel, devices, '
                                             + ', '.join(items.BY_NAME))
    return [i.name for i in items.ITEMS if i.name in names or i.group in names]


def parse():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument('--build', default='build', help="meson's build folder")
    ap.add_argument('--engine', action='append',
                    help='an engine of rf to measure; may be repeated (default bt)')
    ap.add_argument('--items', type=choose_items, default=[i.name for i in items.ITEMS],
                    help='what to measure, by commas: names, or the groups user, kernel,\ndevices, boot')
    ap.add_argument('--rounds', type=int, help='default 5')
    ap.add_argument('--budget', type=int, help='milliseconds for each piece of work (default 300)')
    ap.add_argument('--quick', action='store_true', help='1 round, 50 ms: a look, not a measurement')
    ap.add_argument('--limit', type=int, default=180, help='seconds that one piece of work may take')
    ap.add_argument('--no-tcg', action='store_true', help="leave QEMU's TCG out")
    ap.add_argument('--json', metavar='FILE', help='keep all samples')
    ap.add_argument('--from', dest='source', metavar='FILE',
                    help='measure nothing: report on what --json kept')
    ap.add_argument('--best', action='store_true',
                    help='on a busy machine: the least over the rounds, not medians')
    ap.add_argument('--record', action='store_true', help='write docs/performance.md and its plot')
    args = ap.parse_args()
    args.engine = args.engine or ['bt']
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.budget = args.budget or (50 if args.quick else 300)
    return args


def measure(args):
    subprocess.run(['ninja', '-C', args.build, 'rf', 'bench/guest-bench'], check=True,
                   stdout=subprocess.DEVNULL)
    shm = '/dev/shm' if os.path.isdir('/dev/shm') else None
    scratch = tempfile.mkdtemp(prefix='ringfence-bench-', dir=shm)
    host = contestants.Host(os.path.join(os.path.realpath(args.build), 'bench', 'guest-bench'), scratch)
    try:
        return Run(args, make_contestants(args, scratch, host)).all()
    finally:
        host.close()
        shutil.rmtree(scratch)


def main():
    args = parse()
    if args.source:
        with open(args.source, encoding='utf-8') as f:
            results = json.load(f)
    else:
        try:
            results = measure(args)
        except programs.Missing as e:
            sys.exit(f'bench: {e}')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(results, f, indent=1)
    print(report.text(results, args.best))
    if args.record:
        report.record(results, args.best)
    sys.exit(1 if results['failures'] else 0)


if __name__ == '__main__':
    main()

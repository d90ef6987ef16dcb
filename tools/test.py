#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that meson knows, by suite, and ends with one line: N passed, N failed, N skipped.

A test program that prints TAP (cmocka's do: they are asked to) counts by its test points, any other
as one test by its exit status (77: skipped). With --totals FILE the counts are appended to FILE
instead of the closing line, so that several runs can be summed with --sum FILE.
"""
import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time

POINT = re.compile(r'^(not )?ok\b *(\d*)(.*)$')
PLAN = re.compile(r'^1\.\.(\d+)')
SKIP_STATUS = 77
LINES_SHOWN = 200


class Result:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.output = ''
        self.why = ''

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped'


def count_points(text, result):
    """Counts TAP test points; returns whether the text is TAP and how many are planned."""
    planned, is_tap = 0, False
    for line in text.splitlines():
        plan, point = PLAN.match(line), POINT.match(line)
        if plan:
            is_tap, planned = True, planned + int(plan.group(1))
        elif point:
            is_tap = True
            # cmocka marks a skipped test "not ok N # SKIP".
            if re.search(r'#\s*skip', point.group(3), re.I):
                result.skipped += 1
            elif point.group(1):
                result.failed += 1
            else:
                result.passed += 1
    return is_tap, planned


def judge(result, status):
    """Turns output and exit status into counts."""
    is_tap, planned = count_points(result.output, result)
    if status is None:
        result.failed += 1
    elif not is_tap:
        result.passed += status == 0
        result.skipped += status == SKIP_STATUS
        result.failed += status not in (0, SKIP_STATUS)
    else:
        seen = result.passed + result.failed + result.skipped
        if seen < planned:
            result.failed += planned - seen
            result.why = result.why or f'{planned - seen} tests did not report'
        elif status != 0 and not result.failed:
            result.failed += 1
    if status is not None and status < 0:
        result.why = signal.Signals(-status).name
    elif status and not result.why:
        result.why = f'exit status {status}'


def run_one(test, build, factor):
    result = Result()
    try:
        execute(test, build, factor, result)
    except OSError as e:
        result.failed, result.why = 1, str(e)
    return result


def execute(test, build, factor, result):
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT='TAP', RF_TIME_FACTOR=str(factor), **test['env'])
    limit = test['timeout'] * factor if test['timeout'] > 0 else None
    # meson names programs relative to the build folder.
    with subprocess.Popen(test['cmd'], env=env, cwd=test['workdir'] or build,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True) as p:
        try:
            out, _ = p.communicate(timeout=limit)
            status = p.returncode
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            out, _ = p.communicate()
            status, result.why = None, f'no end after {limit:.0f} s'
    result.output = out.decode(errors='replace')
    judge(result, status)


def interesting(output):
    """Without the test points that passed, and no more than anyone reads."""
    lines = [line for line in output.splitlines() if not line.startswith('ok ')]
    if len(lines) > LINES_SHOWN:
        lines = lines[:LINES_SHOWN] + [f'... and {len(lines) - LINES_SHOWN} more lines']
    return '\n'.join(lines)


def run_suite(suite, tests, args):
    total, start = Result(), time.monotonic()
    parallel = [t for t in tests if t['is_parallel']]
    serial = [t for t in tests if not t['is_parallel']]

    def report(test, result):
        total.add(result)
        if args.verbose:
            print(f'  {suite}/{test["name"]}: {result}', flush=True)
        if result.failed:
            print(f'--- {suite}/{test["name"]}: {result.why or "failed"}')
            print(interesting(result.output))
            print('---', flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(run_one, t, args.build, args.timeout_factor): t for t in parallel}
        for job in concurrent.futures.as_completed(jobs):
            report(jobs[job], job.result())
    for t in serial:
        report(t, run_one(t, args.build, args.timeout_factor))
    label = f'{args.label}{suite}'
    print(f'{label:<16} {total} ({time.monotonic() - start:.0f} s)', flush=True)
    return total


def introspect(build):
    text = subprocess.run(['meson', 'introspect', '--tests', build], check=True,
                          stdout=subprocess.PIPE).stdout
    suites = {}
    for t in json.loads(text):
        # meson writes "project:suite".
        name = t['suite'][0].split(':')[-1] if t['suite'] else 'other'
        suites.setdefault(name, []).append(t)
    return suites


def sum_totals(path):
    total = Result()
    with open(path, encoding='ascii') as f:
        for line in f:
            total.passed, total.failed, total.skipped = (
                a + int(b) for a, b in zip((total.passed, total.failed, total.skipped),
                                           line.split()))
    return total


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('build', nargs='?', help="meson's build folder")
    ap.add_argument('--suite', action='append', help='only this suite (repeatable)')
    ap.add_argument('--test', action='append', help='only the tests of this name (repeatable)')
    ap.add_argument('--label', default='', help='put before the names of suites')
    ap.add_argument('--jobs', type=int, default=os.cpu_count())
    ap.add_argument('--timeout-factor', type=float, default=1)
    ap.add_argument('--verbose', action='store_true', help='a line for each program')
    ap.add_argument('--totals', metavar='FILE', help='append the counts to FILE')
    ap.add_argument('--sum', metavar='FILE', help='print the sum of FILE and nothing else')
    args = ap.parse_args()

    total = Result()
    if args.sum:
        total = sum_totals(args.sum)
    else:
        for suite, tests in introspect(args.build).items():
            if args.test:
                tests = [t for t in tests if t['name'] in args.test]
            if tests and (not args.suite or suite in args.suite):
                total.add(run_suite(suite, tests, args))
    if args.totals:
        with open(args.totals, 'a', encoding='ascii') as f:
            f.write(f'{total.passed} {total.failed} {total.skipped}\n')
    else:
        print(total)
    sys.exit(1 if total.failed or total.passed + total.skipped == 0 else 0)


if __name__ == '__main__':
    main()

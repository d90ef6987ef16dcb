#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""That --trace exec has each entry into code: hostile.c calls what lies 3 bytes behind the start of its
first page 100 times at CPL 3, and nothing else there begins at that address."""
import os
import subprocess
import sys
import tempfile

rf, guest, engine = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'trace')
    p = subprocess.run([rf, 'run', '--engine', engine, '--kernel', guest, '--debug-exit', '--vcpus', '2',
                        '--memory', '64', '--timeout', '100', '--trace', 'exec', '--trace-file', path],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=120, check=False)
    if engine != 'interp' and not p.stdout and p.stderr.startswith(b'rf: engine '):
        sys.exit(77)
    with open(path, encoding='ascii') as f:
        entries = sum(line.endswith(' exec 002b:0x1000003 cpl 3\n') for line in f)
if p.returncode != 1 or entries != 100:
    sys.exit(f'{entries} entries, status {p.returncode}\n{p.stderr.decode()}')

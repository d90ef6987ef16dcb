#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the direction of includes: a file includes only its own floor or what lies below."""
import pathlib
import re
import sys

FLOORS = [
    {'base'},
    {'mem', 'block', 'net', 'ui'},
    {'cpu', 'dev', 'virtio'},
    {'boot', 'machine'},
    {'domain'},
    {'cmd'},
]
FLOOR = {folder: n for n, folders in enumerate(FLOORS) for folder in folders}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def complaints(src, path):
    folder = path.relative_to(src).parts[0]
    if folder not in FLOOR:
        yield f'{path}: folder {folder} is on no floor (tools/floors.py)'
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        name = found.group(1)
        where = f'{path}:{number}: "{name}"'
        if not (src / name).is_file():
            yield f'{where} is not a path below src/'
        elif FLOOR.get(name.split('/')[0], 99) > FLOOR[folder]:
            yield f'{where} is on a higher floor than {folder}/'


def main():
    src = pathlib.Path(__file__).resolve().parent.parent / 'src'
    found = [c for p in sorted(src.rglob('*.[chS]')) for c in complaints(src, p)]
    print('\n'.join(found), end='\n' if found else '')
    sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()

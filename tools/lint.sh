#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Everything that can be said about the code without running it. One line per check, its complaints first.
#
# usage: tools/lint.sh BUILD [CHECK...]     checks: format header floors cppcheck tidy shell man
# With RF_TOTALS=FILE the counts are appended there (see tools/test.py).
set -u

cd "$(dirname "$0")/.." || exit 1
build=${1:?usage: tools/lint.sh BUILD [CHECK...]}
shift
jobs=$(nproc)
passed=0
failed=0

# What git knows or would add, so that build folders and editors' files stay out.
files() {
    git ls-files -co --exclude-standard -- "$@" | while read -r f; do
        [ -f "$f" ] && printf '%s\n' "$f"
    done
}

check_format() {
    local bad
    bad=$(files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror 2>&1 |
        sed -n 's/:[0-9]*:[0-9]*: error.*/ is not formatted: clang-format -i/p' | sort -u)
    [ -z "$bad" ] || { printf '%s\n' "$bad" && return 1; }
}

# Each header compiles alone.
check_header() {
    files 'src/*.h' 'include/*.h' | xargs -r -P "$jobs" -I{} \
        gcc -std=gnu17 -fsyntax-only -Wall -Wextra -Werror -D_GNU_SOURCE -Isrc -Iinclude -x c {}
}

check_floors() {
    python3 tools/floors.py
}

check_cppcheck() {
    mkdir -p "$build/cppcheck"
    cppcheck --quiet -j "$jobs" --std=c11 --language=c --enable=warning,performance,portability \
        --inline-suppr --suppressions-list=tools/cppcheck.txt --error-exitcode=1 \
        --cppcheck-build-dir="$build/cppcheck" -D__x86_64__ -D__GNUC__=12 -D__cppcheck__ -Isrc src
}

# clang's own warnings come with it, as errors. A file that has passed is not looked at again until it, a header
# or the set of checks changes.
check_tidy() {
    [ -e "$build/clang/build.ninja" ] || CC=clang meson setup "$build/clang" >/dev/null || return 1
    ninja -C "$build/clang" build.ninja >/dev/null || return 1
    mkdir -p "$build/tidy"
    local all
    all=$(files '*.h' .clang-tidy 'meson.build' | xargs sha256sum | sha256sum)
    # shellcheck disable=SC2016 # for the inner shell
    python3 -c '
import json, os, sys
for e in json.load(open(sys.argv[1])):
    f = os.path.relpath(os.path.join(e["directory"], e["file"]))
    if f.endswith(".c"):
        print(f)
' "$build/clang/compile_commands.json" | sort -u |
        ALL="$all" xargs -r -P "$jobs" -n 1 bash -c '
            mark=$0/tidy/$(cat "$1" - <<<"$ALL" | sha256sum | cut -c 1-40)
            [ -e "$mark" ] && exit 0
            clang-tidy --quiet -p "$0/clang" "$1" 2>&1 && touch "$mark"
        ' "$build"
}

check_shell() {
    files '*.sh' .ci/run tools/appliance/init | xargs -r shellcheck
}

check_man() {
    files 'man/*.1' | xargs -r mandoc -T lint -W warning
}

[ $# -gt 0 ] || set -- format header floors cppcheck tidy shell man
for c in "$@"; do
    start=$SECONDS
    if out=$("check_$c" 2>&1); then
        passed=$((passed + 1))
        echo "lint $c: ok ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        printf '%s\n' "$out"
        echo "lint $c: FAILED ($((SECONDS - start)) s)"
    fi
done
[ -z "${RF_TOTALS:-}" ] || echo "$passed $failed 0" >>"$RF_TOTALS"
[ "$failed" -eq 0 ]

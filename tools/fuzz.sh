#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every libFuzzer target of a build for some seconds each, from the seeds in tests/fuzz/seeds/NAME.
# What it finds new stays in BUILD/corpus/NAME; an input that fails is left in BUILD/crashes.
#
# usage: tools/fuzz.sh BUILD SECONDS
set -eu

build=$1
seconds=$2
here=$(cd "$(dirname "$0")" && pwd)
failed=0
ran=0

mkdir -p "$build/crashes"
for target in "$build"/tests/fuzz/fuzz_*; do
    if [ ! -f "$target" ] || [ ! -x "$target" ]; then
        continue
    fi
    name=${target##*/fuzz_}
    corpus=$build/corpus/$name
    seeds=$here/../tests/fuzz/seeds/$name
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    ran=$((ran + 1))
    # shellcheck disable=SC2086 # no seeds, no argument
    if "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$build/crashes/$name-" "$corpus" $seeds >"$build/$name.log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log")
        echo "fuzz $name: $runs runs, nothing found"
    else
        tail -n 40 "$build/$name.log"
        echo "fuzz $name: FAILED, see $build/crashes and $build/$name.log"
        failed=$((failed + 1))
    fi
done
echo "$ran fuzz targets, $failed failed"
[ "$ran" -gt 0 ] && [ "$failed" -eq 0 ]

#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's side of stress.py: rounds of mixed work until the time is up, each checked against
# what the same program said in the first round; the script compares that with the host's.
# shellcheck shell=dash
export PATH=/bin:/usr/bin:/usr/local/bin HOME=/root PYTHONDONTWRITEBYTECODE=1
# shellcheck disable=SC2013 # one line of words
for word in $(cat /proc/cmdline); do
    case $word in stress.seconds=*) seconds=${word#*=} ;; esac
done
mount -t tmpfs -o size=60% tmp /tmp
cd /tmp || exit 1

compile() {
    tcc -O2 -o "sums.$1" /stress/sums.c && "./sums.$1"
    tcc -c -o "again.$1" /stress/sums.c && sha256sum <"again.$1"
    rm -f "sums.$1" "again.$1"
}

query() {
    sqlite3 :memory: </stress/work.sql
}

interpret() {
    python3 /stress/work.py
}

# Processes that come and go, and pass on what they count.
fork_storm() {
    i=0
    sum=0
    while [ $i -lt 200 ]; do
        i=$((i + 1))
        sum=$((sum + $(echo $((i * i)) | cat | cat)))
    done
    echo "forks $sum"
    # shellcheck disable=SC2016 # for the shell that xargs starts
    seq 1 40 | xargs -P 8 -n 1 /bin/sh -c 'dd if=/dev/zero bs=4k count=$0 2>/dev/null | sha256sum' |
        sort | sha256sum
}

stress() {
    stress-ng --verify --timeout 12s --quiet --temp-path /tmp "$@" >stress.log 2>&1 ||
        { echo "@bad stress-ng $*"; cat stress.log; }
}

# $1: which of two that run at the same time.
each() {
    for work in compile query interpret fork_storm; do
        out=$work.$1
        $work "$1" >"$out" 2>&1 || echo "@bad $work: status $?"
        if [ ! -f $work.first ]; then
            cp "$out" $work.first
            sed "s/^/@$work /" $work.first
        elif ! cmp -s $work.first "$out"; then
            echo "@bad $work: other output"
            cat "$out"
        fi
        rm -f "$out"
    done
}

round=0
while [ "$(cut -d. -f1 /proc/uptime)" -lt "$seconds" ]; do
    round=$((round + 1))
    each a &
    one=$!
    [ $round -gt 1 ] && each b
    wait $one
    case $((round % 4)) in
    0) stress --cpu 2 --cpu-ops 400 ;;
    1) stress --vm 2 --vm-bytes 48m --vm-ops 20000 ;;
    2) stress --sigsegv 1 --sigfpe 1 --sigq 1 --signest 1 --sigtrap 1 --sigpending 1 ;;
    3) stress --switch 2 --futex 2 --pipe 1 --mmap 1 --mmap-bytes 16m --clone 1 --schedpolicy 1 ;;
    esac
    echo "@round $round $(cut -d' ' -f1 /proc/uptime)"
done
dmesg -r | sed 's/^/@log /'
echo "@end $round"

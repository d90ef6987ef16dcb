/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engine bt counts. Nothing in translated code does, so hits of the inline TLB, linked jumps
 * and instructions that run in place are not seen: a vCPU's counters move when it enters and calls
 * out, a domain's when it translates, writes over code or stops the world.
 */
#ifndef RINGFENCE_CPU_BT_STATS_H
#define RINGFENCE_CPU_BT_STATS_H

#include <Zydis/Zydis.h>
#include <stdint.h>

#include "cpu/engine.h"

/* Why translated code came to a way out. */
enum bt_exit_kind {
    BT_EXIT_NEAR,   /* a jump within its page that is not linked */
    BT_EXIT_FAR,    /* a jump out of its page that the jump table does not have */
    BT_EXIT_VECTOR, /* what follows wants the guest's vector registers in the host's */
    BT_EXIT_X87,    /* or its x87 state */
    BT_EXIT_SINGLE, /* accesses that lie together straddle two pages */
    BT_EXIT_RESUME, /* no exit of a block: the mode or the privilege changed */
    BT_EXITS,
};

/* One vCPU's; only its thread writes them. */
struct bt_stats {
    uint64_t entered;   /* from the loop; jumps from block to block are not seen */
    uint64_t filled[3]; /* entries of the inline TLB: supervisor's, user's, supervisor's with AC */
    uint64_t walked[2]; /* misses of translated code that took a page walk; [1]: for writing */
    uint64_t attended;  /* times round the loop for an event, a breakpoint or a step */
    uint64_t interpreted; /* blocks in modes that are not translated, or written all the time */
    uint64_t exits[BT_EXITS];
    uint64_t
        called[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* instructions executed by the reference engine */
};

/* A domain's; any thread. */
struct bt_world_stats {
    _Atomic uint64_t translated, translate_ns, guest_bytes, host_bytes;
    _Atomic uint64_t linked;
    _Atomic uint64_t code_bytes, record_bytes; /* in the cache now */
    _Atomic uint64_t killed_pages, killed_blocks;
    _Atomic uint64_t written_by_devices; /* of killed_pages */
    _Atomic uint64_t hot_pages;          /* given to the reference engine for a while */
    _Atomic uint64_t evicted, evicted_blocks;
    _Atomic uint64_t stopped, stop_ns;
};

/* Tells all of it; `vcpus` of `each`. */
void bt_stats_report(const struct bt_world_stats *world, const struct bt_stats *const *each,
                     unsigned vcpus, engine_stat_fn *fn, void *arg);

#endif

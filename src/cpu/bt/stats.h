/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engine bt counts. Nothing in translated code does: a vCPU's counters move when it enters and
 * calls out, a domain's when it translates, writes over code or stops the world.
 */
#ifndef RINGFENCE_CPU_BT_STATS_H
#define RINGFENCE_CPU_BT_STATS_H

#include <Zydis/Zydis.h>
#include <stdint.h>

#include "cpu/engine.h"

/* One vCPU's; only its thread writes them. */
struct bt_stats {
    uint64_t entered; /* from the loop; jumps from block to block are not seen */
    uint64_t filled;  /* entries of the inline TLB */
    uint64_t walked;  /* misses of translated code that took a page walk */
    uint64_t
        called[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* instructions executed by the reference engine */
};

/* A domain's; any thread. */
struct bt_world_stats {
    _Atomic uint64_t translated, translate_ns;
    _Atomic uint64_t code_bytes, record_bytes; /* in the cache now */
    _Atomic uint64_t killed_pages, killed_blocks;
    _Atomic uint64_t hot_pages; /* given to the reference engine for a while */
    _Atomic uint64_t evicted;
    _Atomic uint64_t stopped, stop_ns;
};

/* Tells all of it; `vcpus` of `each`. */
void bt_stats_report(const struct bt_world_stats *world, const struct bt_stats *const *each,
                     unsigned vcpus, engine_stat_fn *fn, void *arg);

#endif

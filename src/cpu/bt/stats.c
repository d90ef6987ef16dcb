/* SPDX-License-Identifier: Apache-2.0 */
/* Adding up what the vCPUs counted, and telling it. */
#include "cpu/bt/stats.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

#define MNEMONICS_TOLD 16u

struct rank {
    uint64_t count;
    unsigned mnemonic;
};

static int by_count(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

static void report_called(const struct bt_stats *const *each, unsigned vcpus, engine_stat_fn *fn,
                          void *arg) {
    struct rank *rank = xcalloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof *rank);
    uint64_t total = 0;
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        rank[m].mnemonic = m;
        for (unsigned n = 0; n < vcpus; n++)
            rank[m].count += each[n]->called[m];
        total += rank[m].count;
    }
    qsort(rank, ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof *rank, by_count);
    fn(arg, "called out", total);
    for (unsigned n = 0; n < MNEMONICS_TOLD && rank[n].count; n++) {
        char name[64];
        snprintf(name, sizeof name, "called out %s",
                 ZydisMnemonicGetString((ZydisMnemonic)rank[n].mnemonic));
        fn(arg, name, rank[n].count);
    }
    free(rank);
}

void bt_stats_report(const struct bt_world_stats *world, const struct bt_stats *const *each,
                     unsigned vcpus, engine_stat_fn *fn, void *arg) {
    uint64_t entered = 0, filled = 0;
    for (unsigned n = 0; n < vcpus; n++) {
        entered += each[n]->entered;
        filled += each[n]->filled;
    }
    fn(arg, "blocks translated", world->translated);
    fn(arg, "microseconds translating", world->translate_ns / 1000);
    fn(arg, "KiB of code", world->code_bytes >> 10);
    fn(arg, "KiB of records", world->record_bytes >> 10);
    fn(arg, "code pages written", world->killed_pages);
    fn(arg, "blocks killed", world->killed_blocks);
    fn(arg, "hot code pages", world->hot_pages);
    fn(arg, "evictions", world->evicted);
    fn(arg, "world stops", world->stopped);
    fn(arg, "microseconds stopping", world->stop_ns / 1000);
    fn(arg, "code entered", entered);
    fn(arg, "tlb fills", filled);
    report_called(each, vcpus, fn, arg);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Adding up what the vCPUs counted, and telling it. */
#include "cpu/bt/stats.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

#define MNEMONICS_TOLD 10u

static struct bt_stats *add_up(const struct bt_stats *const *each, unsigned vcpus) {
    struct bt_stats *sum = xcalloc(1, sizeof *sum);
    for (unsigned n = 0; n < vcpus; n++) {
        const uint64_t *from = (const uint64_t *)(const void *)each[n];
        uint64_t *to = (uint64_t *)(void *)sum;
        for (size_t at = 0; at < sizeof *sum / sizeof *to; at++)
            to[at] += from[at];
    }
    return sum;
}

static double percent(uint64_t part, uint64_t of) {
    return of ? 100.0 * (double)part / (double)of : 0;
}

/* ---- instructions that the reference engine executed ---- */

struct rank {
    uint64_t count;
    unsigned mnemonic;
};

static int by_count(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

static void report_called(const struct bt_stats *sum, engine_stat_fn *fn, void *arg) {
    const char *group = "calls out, by instruction";
    struct rank *rank = xcalloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof *rank);
    uint64_t total = 0, told = 0;
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        rank[m] = (struct rank){sum->called[m], m};
        total += rank[m].count;
    }
    qsort(rank, ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof *rank, by_count);
    for (unsigned n = 0; n < MNEMONICS_TOLD && rank[n].count; n++) {
        fn(arg, group, ZydisMnemonicGetString((ZydisMnemonic)rank[n].mnemonic),
           (double)rank[n].count);
        told += rank[n].count;
    }
    fn(arg, group, "all others", (double)(total - told));
    fn(arg, group, "together", (double)total);
    free(rank);
}

/* ---- the rest ---- */

static void report_translation(const struct bt_world_stats *w, engine_stat_fn *fn, void *arg) {
    const char *group = "translation";
    fn(arg, group, "regions translated", (double)w->translated);
    fn(arg, group, "guest code, KiB", (double)w->guest_bytes / 1024);
    fn(arg, group, "host code, KiB", (double)w->host_bytes / 1024);
    fn(arg, group, "time, ms", (double)w->translate_ns / 1e6);
    fn(arg, group, "jumps linked", (double)w->linked);
    fn(arg, group, "code in the cache, KiB", (double)w->code_bytes / 1024);
    fn(arg, group, "records in the cache, KiB", (double)w->record_bytes / 1024);
}

static void report_lost(const struct bt_world_stats *w, engine_stat_fn *fn, void *arg) {
    const char *group = "translations lost";
    fn(arg, group, "regions whose code was written", (double)w->killed_blocks);
    fn(arg, group, "such writes by vCPUs", (double)(w->killed_pages - w->written_by_devices));
    fn(arg, group, "such writes by devices", (double)w->written_by_devices);
    fn(arg, group, "pages interpreted for a while", (double)w->hot_pages);
    fn(arg, group, "regions evicted", (double)w->evicted_blocks);
    fn(arg, group, "evictions", (double)w->evicted);
    fn(arg, group, "stops of all vCPUs", (double)w->stopped);
    fn(arg, group, "time to stop them, ms", (double)w->stop_ns / 1e6);
}

static void report_tlb(const struct bt_stats *sum, engine_stat_fn *fn, void *arg) {
    const char *group = "misses of the inline TLB (hits are not seen)";
    uint64_t filled = sum->filled[0] + sum->filled[1] + sum->filled[2];
    uint64_t walked = sum->walked[0] + sum->walked[1];
    fn(arg, group, "entries filled for supervisors", (double)(sum->filled[0] + sum->filled[2]));
    fn(arg, group, "entries filled for users", (double)sum->filled[1]);
    fn(arg, group, "page walks for reads", (double)sum->walked[0]);
    fn(arg, group, "page walks for writes", (double)sum->walked[1]);
    fn(arg, group, "found in the vCPU's TLB, %", percent(filled - MIN(filled, walked), filled));
}

static void report_exits(const struct bt_stats *sum, engine_stat_fn *fn, void *arg) {
    static const char *const names[BT_EXITS] = {
        [BT_EXIT_NEAR] = "jumps not linked yet",      [BT_EXIT_FAR] = "jumps not in the jump table",
        [BT_EXIT_VECTOR] = "vector registers wanted", [BT_EXIT_X87] = "x87 registers wanted",
        [BT_EXIT_SINGLE] = "accesses over two pages", [BT_EXIT_RESUME] = "no exit known",
    };
    const char *group = "ways out of translated code";
    for (unsigned n = 0; n < BT_EXITS; n++)
        fn(arg, group, names[n], (double)sum->exits[n]);
    fn(arg, group, "entered from the loop", (double)sum->entered);
    fn(arg, group, "events attended to", (double)sum->attended);
    fn(arg, group, "blocks interpreted", (double)sum->interpreted);
}

void bt_stats_report(const struct bt_world_stats *world, const struct bt_stats *const *each,
                     unsigned vcpus, engine_stat_fn *fn, void *arg) {
    struct bt_stats *sum = add_up(each, vcpus);
    report_translation(world, fn, arg);
    report_lost(world, fn, arg);
    report_tlb(sum, fn, arg);
    report_exits(sum, fn, arg);
    report_called(sum, fn, arg);
    free(sum);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What both software engines count: page walks, decoded blocks, events by vector. */
#include <stdio.h>

#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"

static void add(struct x86_counts *sum, const struct x86_counts *each) {
    const uint64_t *from = (const uint64_t *)(const void *)each;
    uint64_t *to = (uint64_t *)(void *)sum;
    for (size_t n = 0; n < sizeof *sum / sizeof *to; n++)
        to[n] += from[n];
}

static void report_vectors(const char *group, const uint64_t *counts, unsigned vectors,
                           engine_stat_fn *fn, void *arg) {
    for (unsigned n = 0; n < vectors; n++) {
        char name[32];
        if (!counts[n])
            continue;
        snprintf(name, sizeof name, "vector 0x%02x%s%s", n, vectors == 32 ? " " : "",
                 vectors == 32 ? exc_name(n) : "");
        fn(arg, group, name, (double)counts[n]);
    }
}

void interp_stats(struct engine_vm *vm, engine_stat_fn *fn, void *arg) {
    struct x86_counts sum = {0};
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            add(&sum, &vm->cpus[n]->counts);
    fn(arg, "reference engine", "page walks", (double)sum.walks);
    fn(arg, "reference engine", "blocks decoded", (double)sum.decoded);
    report_vectors("exceptions", sum.exceptions, 32, fn, arg);
    report_vectors("interrupts", sum.interrupts, 256, fn, arg);
    report_vectors("software interrupts", sum.software, 256, fn, arg);
}

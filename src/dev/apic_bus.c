/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interrupt message bus: SDM 3A chapter 11 (APIC), "Determining IPI destination" and "Lowest
 * priority delivery mode". The arbitration itself is instantaneous.
 */
#include "dev/apic_bus.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/util.h"
#include "dev/lapic.h"

struct apic_bus {
    struct lapic **member;
    unsigned count;
    apic_eoi_fn *eoi;
    void *eoi_arg;
    _Atomic unsigned
        turn; /* where the search for the lowest priority starts, so that ties rotate */
};

struct apic_bus *apic_bus_new(void) {
    return xcalloc(1, sizeof(struct apic_bus));
}

void apic_bus_free(struct apic_bus *b) {
    if (b)
        free(b->member);
    free(b);
}

void apic_bus_add(struct apic_bus *b, struct lapic *l) {
    struct lapic **bigger = xcalloc(b->count + 1u, sizeof(struct lapic *));

    for (unsigned i = 0; i < b->count; i++)
        bigger[i] = b->member[i];
    bigger[b->count] = l;
    free(b->member);
    b->member = bigger;
    b->count++;
}

void apic_bus_set_eoi(struct apic_bus *b, apic_eoi_fn *fn, void *arg) {
    b->eoi = fn;
    b->eoi_arg = arg;
}

void apic_bus_eoi(struct apic_bus *b, uint8_t vector) {
    if (b->eoi)
        b->eoi(b->eoi_arg, vector);
}

static bool addressed(const struct apic_msg *m, const struct lapic *l, bool all) {
    return all || lapic_matches(l, m);
}

static bool send_lowest(struct apic_bus *b, const struct apic_msg *m, const struct lapic *but,
                        bool all) {
    struct lapic *best = NULL;
    unsigned start = atomic_fetch_add(&b->turn, 1);

    for (unsigned i = 0; i < b->count; i++) {
        struct lapic *l = b->member[(start + i) % b->count];
        if (l == but || !lapic_enabled(l) || !addressed(m, l, all))
            continue;
        if (!best || lapic_priority(l) < lapic_priority(best))
            best = l;
    }
    return best && lapic_accept(best, m);
}

static bool send_each(struct apic_bus *b, const struct apic_msg *m, const struct lapic *but,
                      bool all) {
    bool accepted = false;

    for (unsigned i = 0; i < b->count; i++) {
        struct lapic *l = b->member[i];
        if (l != but && addressed(m, l, all))
            accepted |= lapic_accept(l, m);
    }
    return accepted;
}

bool apic_bus_send(struct apic_bus *b, const struct apic_msg *m) {
    if (m->mode == APIC_LOWEST)
        return send_lowest(b, m, NULL, false);
    return send_each(b, m, NULL, false);
}

bool apic_bus_send_all(struct apic_bus *b, const struct apic_msg *m, const struct lapic *but) {
    if (m->mode == APIC_LOWEST)
        return send_lowest(b, m, but, true);
    return send_each(b, m, but, true);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reclamation of what readers without locks may still look at. A reader brackets its look with
 * epoch_enter and epoch_leave (two plain stores); a writer unpublishes an object, then retires it,
 * and it is freed once every reader that could have seen it has left. Nobody ever waits.
 */
#ifndef RINGFENCE_BASE_EPOCH_H
#define RINGFENCE_BASE_EPOCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

/* First member of an object from malloc that will be retired; free() releases it. */
struct epoch_item {
    struct epoch_item *next;
    uint64_t epoch;
};

/* One per thread; made on first use, reused after the thread's end. */
struct epoch_reader {
    _Atomic uint64_t active; /* the epoch in which the thread entered; 0 outside */
    struct epoch_reader *next;
    int used;
} __attribute__((aligned(64)));

extern _Thread_local struct epoch_reader *epoch_self;
extern _Atomic uint64_t epoch_now;
struct epoch_reader *epoch_register(void);

/* Keep the time between the two short: what is retired meanwhile stays. Nests; pass on the result.
 */
static inline uint64_t epoch_enter(void) {
    struct epoch_reader *r = epoch_self;

    if (unlikely(!r))
        r = epoch_register();
    uint64_t outer = atomic_load_explicit(&r->active, memory_order_relaxed);
    if (!outer)
        atomic_store_explicit(&r->active, atomic_load_explicit(&epoch_now, memory_order_acquire),
                              memory_order_release);
    /* Light half of the barrier in epoch_reclaim: it sees `active`, or we see what was published.
     */
    atomic_signal_fence(memory_order_seq_cst);
    return outer;
}

static inline void epoch_leave(uint64_t outer) {
    atomic_store_explicit(&epoch_self->active, outer, memory_order_release);
}

/* The object is no longer reachable for readers that enter from now on. Any thread, readers too. */
void epoch_retire(struct epoch_item *it);

/* Frees now what can be freed. */
void epoch_reclaim(void);

/* How many objects wait to be freed. */
size_t epoch_pending(void);

#endif

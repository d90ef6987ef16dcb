/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A `struct clock` that a test moves by hand, in place of base/clock.c: the linker takes these
 * definitions and leaves the archive's alone. Timers run inside fake_clock_advance, in order.
 * Included by one file per test.
 */
#ifndef RINGFENCE_TESTS_FAKE_CLOCK_H
#define RINGFENCE_TESTS_FAKE_CLOCK_H

#include <stdlib.h>

#include "base/clock.h"
#include "base/util.h"

#define FAKE_TSC_HZ 2000000000ull

struct clock {
    uint64_t now;
    uint64_t wall; /* at guest time 0 */
    struct timer *timers;
};

struct timer {
    struct clock *clock;
    struct timer *next;
    timer_fn *fn;
    void *arg;
    uint64_t at; /* UINT64_MAX: disarmed */
};

uint64_t clock_now(const struct clock *c) {
    return c->now;
}

uint64_t clock_wall(const struct clock *c) {
    return c->wall + c->now;
}

uint64_t clock_tsc_hz(const struct clock *c) {
    (void)c;
    return FAKE_TSC_HZ;
}

uint64_t clock_tsc(const struct clock *c) {
    return c->now * (FAKE_TSC_HZ / NS_PER_S);
}

uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc) {
    uint64_t ns = tsc / (FAKE_TSC_HZ / NS_PER_S) + tsc % (FAKE_TSC_HZ / NS_PER_S);

    return MAX(ns, c->now);
}

struct timer *timer_new(struct clock *c, timer_fn *fn, void *arg) {
    struct timer *t = xcalloc(1, sizeof(*t));

    *t = (struct timer){.clock = c, .next = c->timers, .fn = fn, .arg = arg, .at = UINT64_MAX};
    c->timers = t;
    return t;
}

void timer_free(struct timer *t) {
    struct timer **p = &t->clock->timers;

    while (*p != t)
        p = &(*p)->next;
    *p = t->next;
    free(t);
}

void timer_arm(struct timer *t, uint64_t ns) {
    t->at = ns;
}

void timer_disarm(struct timer *t) {
    t->at = UINT64_MAX;
}

/* Moves time on; every timer that is due on the way runs at its time. */
static inline void fake_clock_advance(struct clock *c, uint64_t ns) {
    uint64_t end = c->now + ns;

    for (;;) {
        struct timer *first = NULL;
        for (struct timer *t = c->timers; t; t = t->next)
            if (t->at <= end && (!first || t->at < first->at))
                first = t;
        if (!first)
            break;
        c->now = MAX(c->now, first->at);
        first->at = UINT64_MAX;
        first->fn(first->arg);
    }
    c->now = end;
}

/* Moves time on as a busy host does: no timer runs. */
static inline void fake_clock_stall(struct clock *c, uint64_t ns) {
    c->now += ns;
}

#endif

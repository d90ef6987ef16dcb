/* SPDX-License-Identifier: Apache-2.0 */
/* Time that a test moves, for whole machines: what tests/unit/fake_clock.h leaves out. */
#include "../unit/fake_clock.h"
#include "twin.h"

#define WALL_AT_START (1700000000ull * NS_PER_S)

struct clock *clock_new(struct loop *loop) {
    struct clock *c = xcalloc(1, sizeof(*c));
    (void)loop;
    c->wall = WALL_AT_START;
    return c;
}

void clock_free(struct clock *c) {
    free(c);
}

void clock_pause(struct clock *c) {
    (void)c;
}

void clock_resume(struct clock *c) {
    (void)c;
}

bool clock_tsc_is_host(const struct clock *c) {
    (void)c;
    return false;
}

int64_t clock_tsc_offset(const struct clock *c) {
    (void)c;
    return 0;
}

void twin_clock_advance(struct clock *c, uint64_t ns) {
    fake_clock_advance(c, ns);
}

uint64_t twin_clock_next(const struct clock *c) {
    uint64_t first = UINT64_MAX;
    for (const struct timer *t = c->timers; t; t = t->next)
        first = MIN(first, t->at);
    return first;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IA-PC HPET specification 1.0a: a 64-bit counter at 100 MHz and three timers, all of them 64 bits
 * wide and able to count periodically, with legacy replacement routing. Left out: FSB (MSI)
 * delivery, which capabilities say is not there.
 */
#include "dev/hpet.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum {
    REG_CAP = 0x000,
    REG_CONF = 0x010,
    REG_STATUS = 0x020,
    REG_COUNTER = 0x0f0,
    REG_TIMERS = 0x100
};
enum { TIMER_CONF = 0x00, TIMER_COMPARATOR = 0x08 };

#define TIMERS 3
/* Period in fs, vendor Intel, legacy routing, 64 bits, number of the last timer, revision 1. */
#define CAPABILITIES                                                                               \
    (HPET_PERIOD_NS * 1000000ull << 32 | 0x8086ull << 16 | 1u << 15 | 1u << 13 |                   \
     (TIMERS - 1) << 8 | 1)

enum { CONF_ENABLE = 0x1, CONF_LEGACY = 0x2 };
enum {
    T_LEVEL = 1u << 1,
    T_ENABLE = 1u << 2,
    T_PERIODIC = 1u << 3,
    T_PERIODIC_CAP = 1u << 4,
    T_SIZE_CAP = 1u << 5,
    T_VAL_SET = 1u << 6,
    T_32BIT = 1u << 8,
    T_ROUTE = 31u << 9,
};
#define T_WRITABLE (T_LEVEL | T_ENABLE | T_PERIODIC | T_VAL_SET | T_32BIT | T_ROUTE)
/* I/O APIC pins 20 to 23, which nothing else is wired to. */
#define ROUTES 0x00f00000u
#define T_CAPABILITIES ((uint64_t)ROUTES << 32 | T_PERIODIC_CAP | T_SIZE_CAP)

/* A guest that asks for interrupts closer than this gets them this far apart. */
#define MIN_TIMER_NS 10000
/* How fast ticks that are owed follow each other, and how many may be. */
#define CATCH_UP_NS 200000
#define OWED_MAX 1000

struct hpet_timer {
    struct hpet *hpet;
    struct timer *timer;
    uint64_t conf; /* without the capabilities */
    uint64_t comparator, period;
    unsigned owed; /* ticks of a periodic timer that the host was too late for */
    uint64_t due;  /* counter value (64 bits, not wrapped) of the next match */
    bool armed;
};

struct hpet {
    struct device dev;
    struct mem *mem;
    struct clock *clock;
    struct region *region;
    struct irq_line pit, rtc, gsi;

    uint64_t conf, status;
    uint64_t counter;    /* while halted */
    uint64_t started_ns; /* while enabled: guest time at which the counter was 0 (modulo 2^64) */
    bool pit_level, rtc_level;
    struct hpet_timer t[TIMERS];
};

static bool enabled(const struct hpet *h) {
    return h->conf & CONF_ENABLE;
}

static uint64_t counter_now(const struct hpet *h) {
    if (!enabled(h))
        return h->counter;
    return h->counter + (clock_now(h->clock) - h->started_ns) / HPET_PERIOD_NS;
}

static unsigned index_of(const struct hpet_timer *t) {
    return (unsigned)(t - t->hpet->t);
}

static uint64_t width_mask(const struct hpet_timer *t) {
    return t->conf & T_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* --- interrupts --- */

static void drive(struct hpet_timer *t, bool level) {
    struct hpet *h = t->hpet;
    unsigned route = (unsigned)(t->conf & T_ROUTE) >> 9;

    if (h->conf & CONF_LEGACY && index_of(t) < 2)
        irq_set(index_of(t) == 0 ? &h->pit : &h->rtc, level);
    else if (ROUTES & 1u << route && h->gsi.set)
        h->gsi.set(h->gsi.arg, route, level);
}

/* An edge is left high, so that a request stays until it was seen; the next one begins with the
 * fall. */
static void interrupt(struct hpet_timer *t) {
    uint64_t bit = 1ull << index_of(t);

    if (t->conf & T_LEVEL) {
        t->hpet->status |= bit;
        if (t->conf & T_ENABLE)
            drive(t, true);
    } else if (t->conf & T_ENABLE) {
        drive(t, false);
        drive(t, true);
    }
}

static void drive_level(struct hpet_timer *t) {
    bool active = t->hpet->status & 1ull << index_of(t);

    drive(t, (t->conf & T_LEVEL) && (t->conf & T_ENABLE) && active);
}

/* --- comparators --- */

/* The counter value at which the timer matches next after `now`. */
static uint64_t next_match(const struct hpet_timer *t, uint64_t now) {
    uint64_t mask = width_mask(t), ahead = (t->comparator - now) & mask;

    if (ahead == 0)
        ahead = mask == UINT64_MAX ? UINT64_MAX : mask + 1;
    return now + ahead < now ? UINT64_MAX : now + ahead;
}

static void arm_at(struct hpet_timer *t, uint64_t due, uint64_t now) {
    uint64_t at = clock_now(t->hpet->clock), ahead = due - now;

    t->due = due;
    t->armed = true;
    if (ahead > (UINT64_MAX - at) / HPET_PERIOD_NS)
        timer_disarm(t->timer);
    else
        timer_arm(t->timer, at + ahead * HPET_PERIOD_NS);
}

/* A periodic timer, for its next tick; while ticks are owed, for one of those if that is sooner. */
static void rearm(struct hpet_timer *t, uint64_t now) {
    uint64_t due = t->due, sooner = now + CATCH_UP_NS / HPET_PERIOD_NS;
    uint64_t at = MAX(due, now + MIN_TIMER_NS / HPET_PERIOD_NS);

    arm_at(t, t->owed ? MIN(at, sooner) : at, now);
    t->due = due;
}

static void arm(struct hpet_timer *t) {
    uint64_t now = counter_now(t->hpet);

    t->owed = 0;

    if (!enabled(t->hpet)) {
        t->armed = false;
        timer_disarm(t->timer);
        return;
    }
    arm_at(t, next_match(t, now), now);
}

/*
 * Periodic: the comparator moves to the first multiple of the period after now. Ticks that a busy
 * host let pass are delivered late, one by one: a kernel that counts on them as time (Linux tests
 * its timer so before it trusts it) must find them all.
 */
static void advance(struct hpet_timer *t, uint64_t now) {
    uint64_t mask = width_mask(t);

    if (!(t->conf & T_PERIODIC) || t->period == 0) {
        arm_at(t, next_match(t, now), now);
        return;
    }
    uint64_t steps = (now - t->due) / t->period + 1;
    uint64_t due = t->due + steps * t->period;
    bool edge = !(t->conf & T_LEVEL);
    t->owed = edge ? (unsigned)MIN(t->owed + steps - 1, (uint64_t)OWED_MAX) : 0;
    t->comparator = due & mask;
    t->due = due;
    rearm(t, now);
}

static void catch_up(struct hpet_timer *t, uint64_t now) {
    t->owed--;
    interrupt(t);
    rearm(t, now);
}

/*
 * Does what is due. Before a timer is set anew too: a match that its callback has not seen yet (it
 * waits for the lock) must not be lost.
 */
static void settle(struct hpet_timer *t) {
    uint64_t now = counter_now(t->hpet);

    if (!t->armed || !enabled(t->hpet) || now < t->due)
        return;
    interrupt(t);
    advance(t, now);
}

static void match(void *arg) {
    struct hpet_timer *t = arg;

    mem_io_lock(t->hpet->mem);
    uint64_t now = counter_now(t->hpet);
    if (t->owed && t->armed && enabled(t->hpet) && now < t->due)
        catch_up(t, now);
    else
        settle(t);
    mem_io_unlock(t->hpet->mem);
}

/* --- registers --- */

static void write_conf(struct hpet *h, uint64_t v) {
    bool was = enabled(h), legacy_was = h->conf & CONF_LEGACY, now = v & CONF_ENABLE;

    for (unsigned i = 0; i < TIMERS; i++)
        settle(&h->t[i]);
    if (was && !now)
        h->counter = counter_now(h);
    if (!was && now)
        h->started_ns = clock_now(h->clock);
    h->conf = v & (CONF_ENABLE | CONF_LEGACY);
    for (unsigned i = 0; i < TIMERS; i++)
        if (was != now)
            arm(&h->t[i]);
    if (legacy_was && !(v & CONF_LEGACY)) {
        irq_set(&h->pit, h->pit_level);
        irq_set(&h->rtc, h->rtc_level);
    } else if (!legacy_was && (v & CONF_LEGACY)) {
        irq_set(&h->pit, false);
        irq_set(&h->rtc, false);
    }
}

static void write_counter(struct hpet *h, uint64_t v) {
    /* Only while it is halted. */
    if (!enabled(h))
        h->counter = v;
}

/* A timer's line is let go before its routing, its trigger or its enable changes. */
static void write_timer_conf(struct hpet_timer *t, uint64_t v) {
    settle(t);
    drive(t, false);
    t->conf = v & T_WRITABLE;
    if (t->conf & T_32BIT) {
        t->comparator &= UINT32_MAX;
        t->period &= UINT32_MAX;
    }
    drive_level(t);
    arm(t);
}

/* In periodic mode VAL_SET says that the comparator itself is meant too; it is good for one write.
 */
static void write_comparator(struct hpet_timer *t, uint64_t v) {
    bool periodic = t->conf & T_PERIODIC;

    settle(t);
    v &= width_mask(t);
    if (!periodic || (t->conf & T_VAL_SET))
        t->comparator = v;
    if (periodic)
        t->period = v;
    t->conf &= ~(uint64_t)T_VAL_SET;
    arm(t);
}

static void clear_status(struct hpet *h, uint64_t v) {
    uint64_t cleared = h->status & v;

    h->status &= ~v;
    for (unsigned i = 0; i < TIMERS; i++)
        if (cleared & 1ull << i)
            drive_level(&h->t[i]);
}

static uint64_t read_reg(const struct hpet *h, uint64_t reg) {
    uint64_t i = (reg - REG_TIMERS) / 0x20;

    if (reg == REG_CAP)
        return CAPABILITIES;
    if (reg == REG_CONF)
        return h->conf;
    if (reg == REG_STATUS)
        return h->status;
    if (reg == REG_COUNTER)
        return counter_now(h);
    if (reg < REG_TIMERS || i >= TIMERS)
        return 0;
    if ((reg & 0x1f) == TIMER_CONF)
        return h->t[i].conf | T_CAPABILITIES;
    return (reg & 0x1f) == TIMER_COMPARATOR ? h->t[i].comparator : 0;
}

static void write_reg(struct hpet *h, uint64_t reg, uint64_t v) {
    uint64_t i = (reg - REG_TIMERS) / 0x20;

    if (reg == REG_CONF)
        write_conf(h, v);
    else if (reg == REG_STATUS)
        clear_status(h, v);
    else if (reg == REG_COUNTER)
        write_counter(h, v);
    else if (reg >= REG_TIMERS && i < TIMERS && (reg & 0x1f) == TIMER_CONF)
        write_timer_conf(&h->t[i], v);
    else if (reg >= REG_TIMERS && i < TIMERS && (reg & 0x1f) == TIMER_COMPARATOR)
        write_comparator(&h->t[i], v);
}

static uint64_t hpet_read(void *dev, uint64_t off, unsigned size) {
    uint64_t v = read_reg(dev, off & ~7ull);

    return size == 8 ? v : v >> (off & 4) * 8 & UINT32_MAX;
}

/* A 32-bit write leaves the other half as it is, but for status, where that would clear. */
static void hpet_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct hpet *h = dev;
    uint64_t reg = off & ~7ull;
    unsigned shift = (unsigned)(off & 4) * 8;

    if (size == 8) {
        write_reg(h, reg, value);
        return;
    }
    uint64_t half = (uint64_t)UINT32_MAX << shift;
    uint64_t other = reg == REG_STATUS ? 0 : read_reg(h, reg) & ~half;
    write_reg(h, reg, other | (value << shift & half));
}

static const struct io_ops hpet_io = {
    .read = hpet_read,
    .write = hpet_write,
    .min_size = 4,
    .max_size = 8,
};

void hpet_pit_in(void *hpet, unsigned pin, bool level) {
    struct hpet *h = hpet;

    (void)pin;
    h->pit_level = level;
    if (!(h->conf & CONF_LEGACY))
        irq_set(&h->pit, level);
}

void hpet_rtc_in(void *hpet, unsigned pin, bool level) {
    struct hpet *h = hpet;

    (void)pin;
    h->rtc_level = level;
    if (!(h->conf & CONF_LEGACY))
        irq_set(&h->rtc, level);
}

/* --- device --- */

static void hpet_reset(struct device *d) {
    struct hpet *h = (struct hpet *)d;

    for (unsigned i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->t[i];
        drive(t, false);
        t->conf = 0;
        t->comparator = UINT64_MAX;
        t->period = 0;
        t->owed = 0;
        t->armed = false;
        timer_disarm(t->timer);
    }
    h->conf = h->status = h->counter = 0;
}

static void hpet_save(const struct device *d, struct record_writer *w) {
    const struct hpet *h = (const struct hpet *)d;

    rec_put_u64(w, h->conf);
    rec_put_u64(w, h->status);
    rec_put_u64(w, h->counter);
    rec_put_u64(w, h->started_ns);
    rec_put_u8(w, h->pit_level);
    rec_put_u8(w, h->rtc_level);
    for (unsigned i = 0; i < TIMERS; i++) {
        rec_put_u64(w, h->t[i].conf);
        rec_put_u64(w, h->t[i].comparator);
        rec_put_u64(w, h->t[i].period);
        rec_put_u64(w, h->t[i].due);
        rec_put_u8(w, h->t[i].armed);
    }
}

static int hpet_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    uint64_t conf = rec_get_u64(r), status = rec_get_u64(r);
    if (conf & ~(uint64_t)(CONF_ENABLE | CONF_LEGACY))
        return err_set(e, 0, "hpet: configuration 0x%llx", (unsigned long long)conf);
    if (status >> TIMERS)
        return err_set(e, 0, "hpet: status 0x%llx", (unsigned long long)status);
    rec_get_u64(r);
    rec_get_u64(r);
    rec_get_u8(r);
    rec_get_u8(r);
    for (unsigned i = 0; i < TIMERS; i++) {
        if (rec_get_u64(r) & ~(uint64_t)T_WRITABLE)
            return err_set(e, 0, "hpet: reserved bits of timer %u", i);
        for (unsigned field = 0; field < 3; field++)
            rec_get_u64(r);
        rec_get_u8(r);
    }
    return rec_done(r, e);
}

static void hpet_load(struct device *d, struct record_reader *r) {
    struct hpet *h = (struct hpet *)d;

    h->conf = rec_get_u64(r);
    h->status = rec_get_u64(r);
    h->counter = rec_get_u64(r);
    h->started_ns = rec_get_u64(r);
    h->pit_level = rec_get_u8(r);
    h->rtc_level = rec_get_u8(r);
    for (unsigned i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->t[i];
        t->conf = rec_get_u64(r);
        t->comparator = rec_get_u64(r);
        t->period = rec_get_u64(r);
        t->due = rec_get_u64(r);
        t->armed = rec_get_u8(r);
        uint64_t now = counter_now(h);
        if (t->armed)
            arm_at(t, t->due, MIN(now, t->due));
    }
}

static void hpet_destroy(struct device *d) {
    struct hpet *h = (struct hpet *)d;

    if (h->region)
        mem_del_region(h->mem, h->region);
    for (unsigned i = 0; i < TIMERS; i++)
        timer_free(h->t[i].timer);
    free(h);
}

static const struct device_ops hpet_ops = {
    .name = "hpet",
    .version = 1,
    .reset = hpet_reset,
    .save = hpet_save,
    .check = hpet_check,
    .load = hpet_load,
    .destroy = hpet_destroy,
};

struct hpet *hpet_new(struct mem *m, struct clock *c, struct irq_line pit, struct irq_line rtc,
                      struct irq_line gsi, struct err *e) {
    struct hpet *h = xcalloc(1, sizeof(*h));

    h->dev.ops = &hpet_ops;
    h->mem = m;
    h->clock = c;
    h->pit = pit;
    h->rtc = rtc;
    h->gsi = gsi;
    for (unsigned i = 0; i < TIMERS; i++) {
        h->t[i].hpet = h;
        h->t[i].timer = timer_new(c, match, &h->t[i]);
    }
    h->region = mem_add_mmio(m, GPA(PC_HPET_BASE), PC_HPET_SIZE, "hpet", &hpet_io, h, e);
    if (!h->region) {
        hpet_destroy(&h->dev);
        return NULL;
    }
    hpet_reset(&h->dev);
    return h;
}

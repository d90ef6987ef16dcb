/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8254 programmable interval timer (Intel 8254 data sheet, 231164-005): ports 0x40 to 0x43, and
 * port B at 0x61 with the gate of counter 2, its output, and the refresh toggle.
 *
 * Nothing ticks: a counter's value and output are computed from the clocks since it was loaded.
 * Only counter 0, which drives an interrupt, has a timer. There is no speaker behind counter 2.
 */
#include "dev/pit8254.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"

enum { CW_BCD = 0x01, CW_MODE = 0x0e, CW_RW = 0x30 };
enum { RW_LATCH, RW_LSB, RW_MSB, RW_BOTH };
enum { RB_NO_COUNT = 0x20, RB_NO_STATUS = 0x10 };
enum { STATUS_OUT = 0x80, STATUS_NULL = 0x40 };
enum { PORTB_GATE2 = 0x01, PORTB_WRITABLE = 0x0f, PORTB_REFRESH = 0x10, PORTB_OUT2 = 0x20 };

/* DRAM refresh every 15.085 us: counter 1 as firmware sets it. */
#define REFRESH_NS 15085

/* Timers closer than this would only keep the host busy. */
#define MIN_TIMER_NS 20000
/* How fast ticks that are owed follow each other, and how many may be. */
#define CATCH_UP_NS 200000
#define OWED_MAX 1000

struct counter {
    uint8_t control; /* RW, mode and BCD as last written */
    bool gate;
    bool loaded;      /* CE holds a count that runs, or would if the gate let it */
    bool running;     /* false: stopped at `elapsed` by the gate or half a count */
    bool pending;     /* CR holds a count that CE has not got yet: null count */
    uint32_t initial; /* clocks that CE was loaded with, 1 to 65536 */
    uint16_t cr;
    uint8_t cr_low; /* the first byte of two */
    bool write_msb, read_msb;
    uint8_t latched; /* bytes of the latched count left to read */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
    uint64_t start;   /* clock (since guest time 0) at which CE was loaded */
    uint64_t elapsed; /* clocks since then, while not running */
    uint64_t take;    /* clock at which a running CE takes what is pending (modes 2 and 3) */
};

struct pit8254 {
    struct device dev;
    struct mem *mem;
    struct clock *clock;
    struct region *region[2];
    struct irq_line irq0;
    struct timer *timer;
    uint64_t due;  /* clock of counter 0's next rise; UINT64_MAX: there is none */
    unsigned owed; /* rises of a periodic counter 0 that the host was too late for */
    uint8_t portb;
    struct counter c[3];
};

static uint64_t clocks_now(const struct pit8254 *p) {
    return (uint64_t)((unsigned __int128)clock_now(p->clock) * PIT8254_HZ / NS_PER_S);
}

/* The first nanosecond at which clocks_now() is `clocks`. */
static uint64_t clocks_to_ns(uint64_t clocks) {
    return (uint64_t)(((unsigned __int128)clocks * NS_PER_S + PIT8254_HZ - 1) / PIT8254_HZ);
}

static unsigned mode_of(const struct counter *c) {
    unsigned m = (c->control & CW_MODE) >> 1;
    return m > 5 ? m - 4 : m;
}

static bool periodic(const struct counter *c) {
    return mode_of(c) == 2 || mode_of(c) == 3;
}

/* In modes 1 and 5 the gate starts the count; in the others it lets it go on. */
static bool triggered(const struct counter *c) {
    return mode_of(c) == 1 || mode_of(c) == 5;
}

static unsigned rw_of(const struct counter *c) {
    return (c->control & CW_RW) >> 4;
}

/* --- counting --- */

static uint32_t from_cr(const struct counter *c) {
    unsigned v = c->cr;

    if (!(c->control & CW_BCD))
        return v ? v : 0x10000;
    v = (v >> 12 & 15) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
    return v ? v : 10000;
}

static uint16_t to_ce(const struct counter *c, uint64_t value) {
    if (!(c->control & CW_BCD))
        return (uint16_t)value;
    unsigned v = (unsigned)(value % 10000);
    return (uint16_t)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static uint64_t elapsed(const struct counter *c, uint64_t now) {
    if (!c->running)
        return c->elapsed;
    return (int64_t)(now - c->start) > 0 ? now - c->start : 0;
}

static void load_ce(struct counter *c, uint64_t at) {
    c->initial = from_cr(c);
    c->start = at;
    c->elapsed = 0;
    c->loaded = true;
    c->pending = false;
    c->running = triggered(c) || c->gate;
}

static uint64_t high_half(uint64_t n) {
    return (n + 1) / 2;
}

static bool takes_at_half(const struct counter *c) {
    return mode_of(c) == 3 && (c->take - c->start) % c->initial != 0;
}

/* A count written while mode 2 runs is taken at the end of the period, in mode 3 of the half. */
static void take_later(struct counter *c, uint64_t now) {
    uint64_t t = elapsed(c, now), n = c->initial, into = t % n;
    bool at_half = mode_of(c) == 3 && into < high_half(n);

    c->take = c->start + t - into + (at_half ? high_half(n) : n);
}

static void catch_up(struct counter *c, uint64_t now) {
    if (!c->loaded || !c->pending || !periodic(c) || !c->running || now < c->take)
        return;
    bool at_half = takes_at_half(c);
    load_ce(c, c->take);
    /* The low half of a period that began before, maybe before guest time did. */
    if (at_half)
        c->start -= high_half(c->initial);
}

static bool output(const struct counter *c, uint64_t now) {
    uint64_t t = elapsed(c, now), n = c->initial;
    unsigned mode = mode_of(c);

    if (!c->loaded)
        return mode != 0;
    switch (mode) {
    case 0:
    case 1:
        return t >= n;
    case 2:
        return !c->running || t % n != n - 1 || n == 1;
    case 3:
        return !c->running || t % n < high_half(n);
    default:
        return t != n;
    }
}

static uint16_t count(const struct counter *c, uint64_t now) {
    uint64_t t = elapsed(c, now), n = c->initial;

    if (!c->loaded)
        return c->cr;
    switch (mode_of(c)) {
    case 2:
        return to_ce(c, n - t % n);
    case 3: {
        uint64_t half = high_half(n), into = t % n;
        /* An odd count is loaded less one; the high half is one clock longer. */
        return to_ce(c, (n & ~1ull) - 2 * (into >= half ? into - half : into));
    }
    default: {
        uint64_t wrap = c->control & CW_BCD ? 10000 : 0x10000;
        return to_ce(c, (n + wrap - t % wrap) % wrap);
    }
    }
}

/* --- counter 0's interrupt --- */

/* The clock of the next rising edge of OUT after clock `now`, or UINT64_MAX. */
static uint64_t next_rise(const struct counter *c, uint64_t now) {
    uint64_t t = elapsed(c, now), n = c->initial;

    if (!c->loaded || !c->running)
        return UINT64_MAX;
    if (periodic(c) && c->pending)
        return takes_at_half(c) ? c->take + from_cr(c) / 2 : c->take;
    if (periodic(c))
        return c->start + (t / n + 1) * n;
    if (mode_of(c) >= 4)
        return t <= n ? c->start + n + 1 : UINT64_MAX;
    return t < n ? c->start + n : UINT64_MAX;
}

/* For the next rise; while some are owed, for one of those if that is sooner. */
static void rearm(struct pit8254 *p) {
    uint64_t now = clock_now(p->clock), sooner = now + CATCH_UP_NS;

    if (p->due == UINT64_MAX) {
        timer_disarm(p->timer);
        return;
    }
    uint64_t at = MAX(clocks_to_ns(p->due), now + MIN_TIMER_NS);
    timer_arm(p->timer, p->owed ? MIN(at, sooner) : at);
}

static void arm(struct pit8254 *p) {
    p->owed = 0;
    p->due = next_rise(&p->c[0], clocks_now(p));
    rearm(p);
}

/*
 * The line stays high between the pulses of modes 2 to 5: if it fell with OUT, a request would be
 * withdrawn from a guest whose processor did not run just then.
 */
static void rise(struct pit8254 *p) {
    if (periodic(&p->c[0]) || mode_of(&p->c[0]) >= 4)
        irq_set(&p->irq0, false);
    irq_set(&p->irq0, true);
}

/*
 * Does what is due. Before counter 0 is programmed anew too: a rise that the callback has not seen
 * yet (it waits for the lock) must not be lost. Rises that a busy host let pass are delivered late,
 * one by one: kernels count them as time.
 */
static void settle(struct pit8254 *p) {
    struct counter *c = &p->c[0];
    uint64_t now = clocks_now(p), was = p->due;

    if (now < was)
        return;
    rise(p);
    catch_up(c, now);
    p->due = next_rise(c, now);
    if (periodic(c))
        p->owed = (unsigned)MIN(p->owed + (p->due - was) / c->initial - 1, (uint64_t)OWED_MAX);
    rearm(p);
}

static void rise_fired(void *arg) {
    struct pit8254 *p = arg;

    mem_io_lock(p->mem);
    if (p->owed && clocks_now(p) < p->due) {
        p->owed--;
        rise(p);
        rearm(p);
    } else {
        settle(p);
    }
    mem_io_unlock(p->mem);
}

static void drive(struct pit8254 *p) {
    irq_set(&p->irq0, periodic(&p->c[0]) || output(&p->c[0], clocks_now(p)));
}

/* After anything that may have changed counter 0. */
static void changed(struct pit8254 *p, unsigned i) {
    if (i != 0)
        return;
    drive(p);
    arm(p);
}

/* --- registers --- */

static void set_gate(struct pit8254 *p, unsigned i, bool gate) {
    struct counter *c = &p->c[i];
    uint64_t now = clocks_now(p);
    bool rises = gate && !c->gate;

    catch_up(c, now);
    if (triggered(c)) {
        if (rises && (c->loaded || c->pending))
            load_ce(c, now + 1);
    } else if (!gate && c->running) {
        c->elapsed = elapsed(c, now);
        c->running = false;
    } else if (rises && c->loaded) {
        /* Modes 2 and 3 start over; modes 0 and 4 go on. */
        c->start = periodic(c) ? now + 1 : now - c->elapsed;
        c->running = true;
        if (periodic(c) && c->pending) {
            c->gate = true;
            load_ce(c, now + 1);
        }
    }
    c->gate = gate;
    changed(p, i);
}

static void new_count(struct pit8254 *p, unsigned i, uint16_t v) {
    struct counter *c = &p->c[i];
    uint64_t now = clocks_now(p);

    c->cr = v;
    c->pending = true;
    if (periodic(c) && c->loaded && c->running)
        take_later(c, now);
    else if (!triggered(c) && !(periodic(c) && c->loaded))
        load_ce(c, now + 1);
    /* Otherwise with the next trigger. */
}

static void write_count(struct pit8254 *p, unsigned i, uint8_t v) {
    struct counter *c = &p->c[i];

    if (i == 0)
        settle(p);
    catch_up(c, clocks_now(p));
    switch (rw_of(c)) {
    case RW_LSB:
        new_count(p, i, v);
        break;
    case RW_MSB:
        new_count(p, i, (uint16_t)(v << 8));
        break;
    default:
        if (c->write_msb) {
            new_count(p, i, (uint16_t)(v << 8 | c->cr_low));
        } else {
            c->cr_low = v;
            /* Mode 0: the first byte stops the count and takes OUT low. */
            if (mode_of(c) == 0)
                c->loaded = c->running = false;
        }
        c->write_msb = !c->write_msb;
    }
    changed(p, i);
}

static void latch_count(struct pit8254 *p, struct counter *c) {
    if (c->latched)
        return;
    catch_up(c, clocks_now(p));
    c->latch = count(c, clocks_now(p));
    c->latched = rw_of(c) == RW_BOTH ? 2 : 1;
}

static void latch_status(struct pit8254 *p, struct counter *c) {
    uint64_t now = clocks_now(p);

    if (c->status_latched)
        return;
    catch_up(c, now);
    c->status = c->control & (CW_RW | CW_MODE | CW_BCD);
    if (output(c, now))
        c->status |= STATUS_OUT;
    if (c->pending || !c->loaded)
        c->status |= STATUS_NULL;
    c->status_latched = true;
}

static void read_back(struct pit8254 *p, uint8_t v) {
    for (unsigned i = 0; i < 3; i++) {
        if (!(v & 2u << i))
            continue;
        if (!(v & RB_NO_COUNT))
            latch_count(p, &p->c[i]);
        if (!(v & RB_NO_STATUS))
            latch_status(p, &p->c[i]);
    }
}

static void write_control(struct pit8254 *p, uint8_t v) {
    unsigned i = v >> 6;

    if (i == 3) {
        read_back(p, v);
        return;
    }
    struct counter *c = &p->c[i];
    if ((v & CW_RW) >> 4 == RW_LATCH) {
        latch_count(p, c);
        return;
    }
    if (i == 0)
        settle(p);
    *c = (struct counter){.control = v & 0x3f, .gate = c->gate, .cr = c->cr, .initial = 1};
    changed(p, i);
}

static void pit8254_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pit8254 *p = dev;

    (void)size;
    if (off == 3)
        write_control(p, (uint8_t)value);
    else
        write_count(p, (unsigned)off, (uint8_t)value);
}

static uint8_t read_count(struct pit8254 *p, struct counter *c) {
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    catch_up(c, clocks_now(p));
    uint16_t v = c->latched ? c->latch : count(c, clocks_now(p));
    bool msb = rw_of(c) == RW_MSB || (rw_of(c) == RW_BOTH && c->read_msb);
    if (c->latched)
        c->latched--;
    if (rw_of(c) == RW_BOTH)
        c->read_msb = !c->read_msb;
    return (uint8_t)(msb ? v >> 8 : v);
}

static uint64_t pit8254_read(void *dev, uint64_t off, unsigned size) {
    struct pit8254 *p = dev;

    (void)size;
    return off == 3 ? 0xff : read_count(p, &p->c[off]);
}

static const struct io_ops pit8254_io = {
    .read = pit8254_read,
    .write = pit8254_write,
    .min_size = 1,
    .max_size = 1,
};

static uint64_t portb_read(void *dev, uint64_t off, unsigned size) {
    struct pit8254 *p = dev;
    uint8_t v = p->portb;

    (void)off;
    (void)size;
    catch_up(&p->c[2], clocks_now(p));
    if (clock_now(p->clock) / REFRESH_NS & 1)
        v |= PORTB_REFRESH;
    if (output(&p->c[2], clocks_now(p)))
        v |= PORTB_OUT2;
    return v;
}

static void portb_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pit8254 *p = dev;

    (void)off;
    (void)size;
    p->portb = value & PORTB_WRITABLE;
    set_gate(p, 2, value & PORTB_GATE2);
}

static const struct io_ops portb_io = {
    .read = portb_read,
    .write = portb_write,
    .min_size = 1,
    .max_size = 1,
};

/* --- device --- */

static void pit8254_reset(struct device *d) {
    struct pit8254 *p = (struct pit8254 *)d;

    p->portb = 0;
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (struct counter){.control = RW_BOTH << 4, .gate = i != 2, .initial = 1};
    changed(p, 0);
}

static void pit8254_save(const struct device *d, struct record_writer *w) {
    const struct pit8254 *p = (const struct pit8254 *)d;

    rec_put_u8(w, p->portb);
    rec_put_u64(w, p->due);
    rec_put_u32(w, p->owed);
    for (unsigned i = 0; i < 3; i++) {
        const struct counter *c = &p->c[i];
        const uint8_t flags[] = {c->control, c->gate,           c->loaded,    c->running,
                                 c->pending, c->cr_low,         c->write_msb, c->read_msb,
                                 c->latched, c->status_latched, c->status};
        rec_put_bytes(w, flags, sizeof(flags));
        rec_put_u32(w, c->initial);
        rec_put_u16(w, c->cr);
        rec_put_u16(w, c->latch);
        rec_put_u64(w, c->start);
        rec_put_u64(w, c->elapsed);
        rec_put_u64(w, c->take);
    }
}

static void get_counter(struct counter *c, struct record_reader *rr) {
    c->control = rec_get_u8(rr);
    c->gate = rec_get_u8(rr);
    c->loaded = rec_get_u8(rr);
    c->running = rec_get_u8(rr);
    c->pending = rec_get_u8(rr);
    c->cr_low = rec_get_u8(rr);
    c->write_msb = rec_get_u8(rr);
    c->read_msb = rec_get_u8(rr);
    c->latched = rec_get_u8(rr);
    c->status_latched = rec_get_u8(rr);
    c->status = rec_get_u8(rr);
    c->initial = rec_get_u32(rr);
    c->cr = rec_get_u16(rr);
    c->latch = rec_get_u16(rr);
    c->start = rec_get_u64(rr);
    c->elapsed = rec_get_u64(rr);
    c->take = rec_get_u64(rr);
}

static int pit8254_check(const struct device *d, struct record_reader *rr, struct err *e) {
    (void)d;
    rec_get_u8(rr);
    rec_get_u64(rr);
    if (rec_get_u32(rr) > OWED_MAX)
        return err_set(e, 0, "pit8254: impossibly many ticks are owed");
    for (unsigned i = 0; i < 3; i++) {
        struct counter c;
        get_counter(&c, rr);
        if (c.control > 0x3f || rw_of(&c) == RW_LATCH || c.latched > 2 || c.initial == 0 ||
            c.initial > 0x10000)
            return err_set(e, 0, "pit8254: counter %u: impossible state", i);
    }
    return rec_done(rr, e);
}

static void pit8254_load(struct device *d, struct record_reader *rr) {
    struct pit8254 *p = (struct pit8254 *)d;

    p->portb = rec_get_u8(rr) & PORTB_WRITABLE;
    p->due = rec_get_u64(rr);
    p->owed = rec_get_u32(rr);
    for (unsigned i = 0; i < 3; i++)
        get_counter(&p->c[i], rr);
    drive(p);
    rearm(p);
}

static void pit8254_destroy(struct device *d) {
    struct pit8254 *p = (struct pit8254 *)d;

    for (unsigned i = 0; i < ARRAY_LEN(p->region); i++)
        if (p->region[i])
            mem_del_region(p->mem, p->region[i]);
    timer_free(p->timer);
    free(p);
}

static const struct device_ops pit8254_ops = {
    .name = "pit8254",
    .version = 1,
    .reset = pit8254_reset,
    .save = pit8254_save,
    .check = pit8254_check,
    .load = pit8254_load,
    .destroy = pit8254_destroy,
};

struct pit8254 *pit8254_new(struct mem *m, struct clock *c, struct irq_line irq0, struct err *e) {
    struct pit8254 *p = xcalloc(1, sizeof(*p));

    p->dev.ops = &pit8254_ops;
    p->mem = m;
    p->clock = c;
    p->irq0 = irq0;
    p->timer = timer_new(c, rise_fired, p);
    p->region[0] = mem_add_port(m, 0x40, 4, "pit8254", &pit8254_io, p, e);
    if (p->region[0])
        p->region[1] = mem_add_port(m, 0x61, 1, "port B", &portb_io, p, e);
    if (!p->region[1]) {
        pit8254_destroy(&p->dev);
        return NULL;
    }
    pit8254_reset(&p->dev);
    return p;
}

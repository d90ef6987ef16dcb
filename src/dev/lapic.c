/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC in xAPIC and x2APIC mode (Intel SDM volume 3A, chapter "Advanced Programmable
 * Interrupt Controller"), six LVT entries, directed EOI, TSC-deadline timer.
 *
 * Left out: CMCI, SMM (an SMI is passed on and dropped), performance and thermal interrupts (their
 * LVT entries hold what is written), remote read, and level-triggered IPIs, which newer processors
 * treat as edge.
 */
#include "dev/lapic.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "dev/apic_bus.h"
#include "dev/device.h"
#include "mem/mem.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_X2APIC_END = 0x8ff };
enum { BASE_BSP = 1u << 8, BASE_EXTD = 1u << 10, BASE_EN = 1u << 11 };

/* Registers: offset in the page >> 4, and MSR - 0x800. */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum {
    LVT_VECTOR = 0xff,
    LVT_MODE = 7u << 8,
    LVT_STATUS = 1u << 12,
    LVT_REMOTE_IRR = 1u << 14,
    LVT_LEVEL = 1u << 15,
    LVT_MASK = 1u << 16,
    LVT_PERIODIC = 1u << 17,
    LVT_DEADLINE = 1u << 18,
    LVT_TIMER_MODE = 3u << 17,
};
#define LVT_READ_ONLY (LVT_STATUS | LVT_REMOTE_IRR)

static const uint32_t lvt_bits[LVT_COUNT] = {0x710ff, 0x117ff, 0x117ff, 0x1f7ff, 0x1f7ff, 0x110ff};

/* Five is the number of the last LVT entry; bit 24: EOI broadcasts can be suppressed. */
#define VERSION (0x14u | (LVT_COUNT - 1u) << 16 | 1u << 24)

enum { SVR_ENABLE = 1u << 8, SVR_NO_EOI_BROADCAST = 1u << 12, SVR_BITS = 0x13ff };
enum { ESR_SEND_VECTOR = 1u << 5, ESR_RECEIVE_VECTOR = 1u << 6, ESR_REGISTER = 1u << 7 };
enum { ICR_LOGICAL = 1u << 11, ICR_ASSERT = 1u << 14, ICR_LEVEL = 1u << 15 };
enum { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS }; /* ICR bits 18 and 19 */
#define ICR_LOW_BITS 0x000ccfffu
#define DIVIDE_BITS 0x0bu
#define FIRST_VECTOR 16

/* A guest that asks for a shorter period gets this one: it only drowns the host. */
#define MIN_PERIOD_NS 10000

typedef _Atomic uint32_t bitmap256[8];

struct lapic {
    struct device dev;
    struct lapic_config cf;
    struct vcpu *vcpu;
    struct timer *timer;
    int (*pic_ack)(void *pic);
    void *pic;
    struct irq_line ferr;

    /* Read by any thread. Only the vCPU's own writes them, but for IRR and TMR. */
    _Atomic uint64_t base;
    _Atomic uint32_t id, ldr, dfr, svr, tpr;
    bitmap256 irr, isr, tmr;
    _Atomic uint32_t errors;         /* since ESR was last written */
    _Atomic uint32_t lint;           /* levels of the two pins */
    _Atomic bool extint;             /* an ExtINT message came */
    _Atomic uint32_t lvt[LVT_COUNT]; /* written under the lock */

    uint32_t esr;
    uint64_t icr;

    pthread_mutex_t lock; /* LVT writes, pin transitions, and the timer: */
    uint32_t divide, initial;
    bool running;      /* the count has not ended (one-shot) or been stopped */
    uint64_t start;    /* guest ns at which the count was `initial` */
    uint64_t deadline; /* guest TSC; 0: none */
    uint64_t expiry;   /* guest ns; UINT64_MAX: none */
};

/* --- 256-bit registers --- */

static uint32_t bit_of(uint8_t vector) {
    return 1u << (vector & 31);
}

static void set_bit(bitmap256 *b, uint8_t vector) {
    atomic_fetch_or(&(*b)[vector >> 5], bit_of(vector));
}

static void clear_bit(bitmap256 *b, uint8_t vector) {
    atomic_fetch_and(&(*b)[vector >> 5], ~bit_of(vector));
}

static bool test_bit(const bitmap256 *b, uint8_t vector) {
    return atomic_load(&(*b)[vector >> 5]) & bit_of(vector);
}

static int highest_bit(const bitmap256 *b) {
    for (int i = 7; i >= 0; i--) {
        uint32_t w = atomic_load_explicit(&(*b)[i], memory_order_relaxed);
        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

static void clear_bitmap(bitmap256 *b) {
    for (int i = 0; i < 8; i++)
        atomic_store(&(*b)[i], 0);
}

/* --- state that others ask for --- */

static uint64_t base_of(const struct lapic *l) {
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}

static bool globally_enabled(const struct lapic *l) {
    return base_of(l) & BASE_EN;
}

static bool x2apic(const struct lapic *l) {
    return (base_of(l) & (BASE_EN | BASE_EXTD)) == (BASE_EN | BASE_EXTD);
}

bool lapic_enabled(const struct lapic *l) {
    return globally_enabled(l) && (atomic_load(&l->svr) & SVR_ENABLE);
}

static uint32_t ppr(const struct lapic *l) {
    uint32_t tpr = atomic_load_explicit(&l->tpr, memory_order_relaxed);
    int isrv = highest_bit(&l->isr);

    if (isrv < 0 || (tpr & 0xf0) >= ((uint32_t)isrv & 0xf0))
        return tpr;
    return (uint32_t)isrv & 0xf0;
}

unsigned lapic_priority(const struct lapic *l) {
    return ppr(l);
}

static uint32_t apr(const struct lapic *l) {
    uint32_t tpr = atomic_load(&l->tpr);
    uint32_t irrv = (uint32_t)MAX(highest_bit(&l->irr), 0) & 0xf0;
    uint32_t isrv = (uint32_t)MAX(highest_bit(&l->isr), 0) & 0xf0;

    if ((tpr & 0xf0) >= irrv && (tpr & 0xf0) > isrv)
        return tpr;
    return MAX(MAX(tpr & 0xf0 & isrv, irrv), isrv);
}

/* The x2APIC logical ID follows from the ID (SDM, "Logical destination mode in x2APIC mode"). */
static uint32_t x2apic_ldr(uint32_t id) {
    return (id >> 4) << 16 | 1u << (id & 15);
}

static bool matches_logical(const struct lapic *l, uint32_t dest) {
    uint32_t ldr = atomic_load(&l->ldr);

    if (x2apic(l)) {
        ldr = x2apic_ldr(l->cf.id);
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    ldr >>= 24;
    if (dest > 0xff)
        return false;
    if (atomic_load(&l->dfr) >> 28 == 0xf)
        return dest & ldr;
    /* Cluster model: cluster 15 is all of them. */
    return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && (dest & ldr & 0xf);
}

bool lapic_matches(const struct lapic *l, const struct apic_msg *m) {
    if (m->dest == (m->wide ? UINT32_MAX : 0xff))
        return true;
    if (m->logical)
        return matches_logical(l, m->dest);
    return m->dest == (x2apic(l) ? l->cf.id : atomic_load(&l->id));
}

/* --- accepting interrupts --- */

static void raise_event(struct lapic *l, uint32_t event) {
    if (l->vcpu)
        vcpu_raise(l->vcpu, event);
}

static bool accept_vector(struct lapic *l, uint8_t vector, bool level);

/* The error interrupt's own vector may be illegal too: that is recorded, not raised again. */
static void record_error(struct lapic *l, uint32_t error) {
    uint32_t had = atomic_fetch_or(&l->errors, error);
    uint32_t lvt = atomic_load(&l->lvt[LVT_ERROR]);

    if (had & error || lvt & LVT_MASK)
        return;
    if ((lvt & LVT_VECTOR) < FIRST_VECTOR)
        atomic_fetch_or(&l->errors, ESR_RECEIVE_VECTOR);
    else
        accept_vector(l, (uint8_t)lvt, false);
}

static bool accept_vector(struct lapic *l, uint8_t vector, bool level) {
    if (vector < FIRST_VECTOR) {
        record_error(l, ESR_RECEIVE_VECTOR);
        return false;
    }
    if (!lapic_enabled(l))
        return false;
    if (level)
        set_bit(&l->tmr, vector);
    else
        clear_bit(&l->tmr, vector);
    set_bit(&l->irr, vector);
    raise_event(l, VCPU_EVENT_INTR);
    return true;
}

static bool accept_extint(struct lapic *l) {
    if (!lapic_enabled(l))
        return false;
    atomic_store(&l->extint, true);
    raise_event(l, VCPU_EVENT_INTR);
    return true;
}

bool lapic_accept(struct lapic *l, const struct apic_msg *m) {
    if (!globally_enabled(l))
        return false;
    switch (m->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        return accept_vector(l, m->vector, m->level);
    case APIC_SMI:
        raise_event(l, VCPU_EVENT_SMI);
        return true;
    case APIC_NMI:
        raise_event(l, VCPU_EVENT_NMI);
        return true;
    case APIC_INIT:
        raise_event(l, VCPU_EVENT_INIT);
        return true;
    case APIC_SIPI:
        if (l->vcpu)
            atomic_store(&l->vcpu->sipi_vector, m->vector);
        raise_event(l, VCPU_EVENT_SIPI);
        return true;
    case APIC_EXTINT:
        return accept_extint(l);
    default:
        return false;
    }
}

/* --- the processor's side --- */

/* ExtINT has no priority: the 8259s decide. With the APIC off, LINT0 is the processor's INTR pin.
 */
static bool extint_pending(const struct lapic *l) {
    bool lint0 = atomic_load(&l->lint) & 1;

    if (!globally_enabled(l))
        return lint0;
    if (atomic_load_explicit(&l->extint, memory_order_relaxed))
        return true;
    return lint0 && (atomic_load(&l->lvt[LVT_LINT0]) & (LVT_MASK | LVT_MODE)) == APIC_EXTINT << 8;
}

/* The vector in IRR that the processor's priority lets through, or -1. */
static int deliverable(const struct lapic *l) {
    int irrv = highest_bit(&l->irr);

    if (irrv < 0 || !globally_enabled(l) || ((uint32_t)irrv & 0xf0) <= (ppr(l) & 0xf0))
        return -1;
    return irrv;
}

static bool lapic_pending(void *apic) {
    return extint_pending(apic) || deliverable(apic) >= 0;
}

/* After anything on the own thread that may have let a held-back interrupt through. */
static void recheck(struct lapic *l) {
    if (lapic_pending(l))
        raise_event(l, VCPU_EVENT_INTR);
}

static int ack_extint(struct lapic *l) {
    atomic_store(&l->extint, false);
    return l->pic_ack ? l->pic_ack(l->pic) : -1;
}

static int lapic_ack(void *apic) {
    struct lapic *l = apic;
    int vector;

    if (extint_pending(l)) {
        vector = ack_extint(l);
    } else {
        vector = deliverable(l);
        if (vector >= 0) {
            set_bit(&l->isr, (uint8_t)vector);
            clear_bit(&l->irr, (uint8_t)vector);
        }
    }
    recheck(l);
    return vector;
}

/* --- LINT pins --- */

static bool is_level_pin(uint32_t lvt) {
    return (lvt & LVT_MODE) == APIC_FIXED << 8 && (lvt & LVT_LEVEL);
}

/*
 * What a pin does now that it, or its LVT entry, changed. `rose`: it just went high. With the lock
 * held; returns what is to be accepted once it isn't.
 */
static bool pin_message(struct lapic *l, unsigned pin, bool rose, struct apic_msg *m) {
    uint32_t lvt = atomic_load(&l->lvt[LVT_LINT0 + pin]);
    bool high = atomic_load(&l->lint) >> pin & 1;

    if (lvt & LVT_MASK || !high)
        return false;
    *m = (struct apic_msg){.mode = lvt >> 8 & 7, .vector = (uint8_t)lvt};
    if (m->mode == APIC_EXTINT)
        return false; /* not latched: extint_pending() looks at the pin */
    if (!is_level_pin(lvt))
        return rose;
    if (lvt & LVT_REMOTE_IRR)
        return false;
    m->level = true;
    atomic_store(&l->lvt[LVT_LINT0 + pin], lvt | LVT_REMOTE_IRR);
    return true;
}

static void deliver_pin(struct lapic *l, unsigned pin, bool rose) {
    struct apic_msg m;

    pthread_mutex_lock(&l->lock);
    bool deliver = pin_message(l, pin, rose, &m);
    pthread_mutex_unlock(&l->lock);
    if (deliver && m.mode != APIC_LOWEST && m.mode != APIC_SIPI)
        lapic_accept(l, &m);
    if (extint_pending(l))
        raise_event(l, VCPU_EVENT_INTR);
}

void lapic_set_lint(void *lapic, unsigned pin, bool level) {
    struct lapic *l = lapic;
    uint32_t bit = 1u << pin;
    uint32_t was = level ? atomic_fetch_or(&l->lint, bit) : atomic_fetch_and(&l->lint, ~bit);
    bool rose = level && !(was & bit);

    if (!level)
        return;
    if (globally_enabled(l))
        deliver_pin(l, pin, rose);
    else if (pin == 0)
        raise_event(l, VCPU_EVENT_INTR);
    else if (rose)
        raise_event(l, VCPU_EVENT_NMI);
}

/* --- timer --- */

static unsigned divide_shift(const struct lapic *l) {
    /* Bits 0, 1 and 3: 2, 4, … 128, and 1 for all ones. */
    unsigned v = (l->divide & 3) | (l->divide & 8) >> 1;
    return (v + 1) & 7;
}

static uint32_t timer_mode(const struct lapic *l) {
    return atomic_load(&l->lvt[LVT_TIMER]) & LVT_TIMER_MODE;
}

static uint64_t guest_tsc(const struct lapic *l) {
    uint64_t offset = l->vcpu ? (uint64_t)atomic_load(&l->vcpu->tsc_offset) : 0;

    return clock_tsc(l->cf.clock) + offset;
}

static uint32_t current_count(const struct lapic *l, uint64_t now) {
    uint64_t elapsed = now > l->start ? (now - l->start) >> divide_shift(l) : 0;

    if (!l->running || timer_mode(l) == LVT_DEADLINE)
        return 0;
    if (timer_mode(l) == LVT_PERIODIC)
        return l->initial - (uint32_t)(elapsed % l->initial);
    return elapsed >= l->initial ? 0 : l->initial - (uint32_t)elapsed;
}

static uint64_t count_expiry(const struct lapic *l, uint64_t now) {
    uint64_t period = (uint64_t)l->initial << divide_shift(l);

    if (!l->running)
        return UINT64_MAX;
    if (timer_mode(l) != LVT_PERIODIC)
        return l->start + period;
    uint64_t passed = now > l->start ? (now - l->start) / period : 0;
    return MAX(l->start + (passed + 1) * period, now + MIN_PERIOD_NS);
}

static uint64_t deadline_expiry(const struct lapic *l) {
    uint64_t tsc = guest_tsc(l);

    if (!l->deadline)
        return UINT64_MAX;
    if (l->deadline <= tsc)
        return 0;
    uint64_t machine = clock_tsc(l->cf.clock), ahead = l->deadline - tsc;
    if (ahead > UINT64_MAX - machine)
        return UINT64_MAX;
    return clock_tsc_to_ns(l->cf.clock, machine + ahead);
}

/* With the lock held. What has become due since timer_expired() looked fires at once. */
static void arm_timer(struct lapic *l) {
    if (timer_mode(l) == LVT_DEADLINE)
        l->expiry = deadline_expiry(l);
    else
        l->expiry = count_expiry(l, clock_now(l->cf.clock));
    if (l->expiry == UINT64_MAX)
        timer_disarm(l->timer);
    else
        timer_arm(l->timer, l->expiry);
}

/* Whether the timer has run out; if so, what follows is set up. With the lock held. */
static bool timer_expired(struct lapic *l) {
    if (timer_mode(l) == LVT_DEADLINE) {
        if (!l->deadline || guest_tsc(l) < l->deadline)
            return false;
        l->deadline = 0;
        return true;
    }
    if (!l->running || clock_now(l->cf.clock) < l->expiry)
        return false;
    if (timer_mode(l) != LVT_PERIODIC)
        l->running = false;
    return true;
}

/* Looks at the timer and arms it anew. Any thread. */
static void run_timer(void *lapic) {
    struct lapic *l = lapic;

    pthread_mutex_lock(&l->lock);
    bool expired = timer_expired(l);
    uint32_t lvt = atomic_load(&l->lvt[LVT_TIMER]);
    arm_timer(l);
    pthread_mutex_unlock(&l->lock);
    if (expired && !(lvt & LVT_MASK))
        accept_vector(l, (uint8_t)lvt, false);
}

/* Moves the start so that `count` is left now, whatever the divider and mode have become. */
static void rebase_count(struct lapic *l, uint32_t count, uint64_t now) {
    l->running = count != 0;
    l->start = now - ((uint64_t)(l->initial - count) << divide_shift(l));
    arm_timer(l);
}

/* The timer is about to be set anew: an expiry that the callback has not seen yet is not lost. */
static void settle_timer(struct lapic *l) {
    pthread_mutex_lock(&l->lock);
    bool overdue = l->running && clock_now(l->cf.clock) >= l->expiry;
    pthread_mutex_unlock(&l->lock);
    if (overdue)
        run_timer(l);
}

static void write_initial(struct lapic *l, uint32_t v) {
    settle_timer(l);
    pthread_mutex_lock(&l->lock);
    if (timer_mode(l) != LVT_DEADLINE) {
        l->initial = v;
        l->running = v != 0;
        l->start = clock_now(l->cf.clock);
        arm_timer(l);
    }
    pthread_mutex_unlock(&l->lock);
}

static void write_divide(struct lapic *l, uint32_t v) {
    settle_timer(l);
    pthread_mutex_lock(&l->lock);
    uint64_t now = clock_now(l->cf.clock);
    uint32_t count = current_count(l, now);
    l->divide = v & DIVIDE_BITS;
    if (timer_mode(l) != LVT_DEADLINE)
        rebase_count(l, count, now);
    pthread_mutex_unlock(&l->lock);
}

/* A change to or from TSC-deadline mode disarms the timer; between the others the count goes on. */
static void write_lvt_timer(struct lapic *l, uint32_t v) {
    settle_timer(l);
    pthread_mutex_lock(&l->lock);
    uint64_t now = clock_now(l->cf.clock);
    uint32_t count = current_count(l, now), was = timer_mode(l);
    atomic_store(&l->lvt[LVT_TIMER], v);
    uint32_t mode = v & LVT_TIMER_MODE;
    if (mode != was && (mode == LVT_DEADLINE || was == LVT_DEADLINE)) {
        l->deadline = 0;
        l->initial = 0;
        l->running = false;
        arm_timer(l);
    } else if (mode != was) {
        rebase_count(l, count, now);
    }
    pthread_mutex_unlock(&l->lock);
}

static void write_deadline(struct lapic *l, uint64_t v) {
    pthread_mutex_lock(&l->lock);
    bool deadline_mode = timer_mode(l) == LVT_DEADLINE;
    if (deadline_mode)
        l->deadline = v;
    pthread_mutex_unlock(&l->lock);
    /* One that has passed fires here and now. */
    if (deadline_mode)
        run_timer(l);
}

static uint64_t read_deadline(struct lapic *l) {
    pthread_mutex_lock(&l->lock);
    uint64_t v = timer_mode(l) == LVT_DEADLINE ? l->deadline : 0;
    pthread_mutex_unlock(&l->lock);
    return v;
}

static void lapic_tsc_changed(void *apic) {
    struct lapic *l = apic;

    if (timer_mode(l) == LVT_DEADLINE)
        run_timer(l);
}

/* --- register writes --- */

static void end_level_pin(struct lapic *l, unsigned pin, uint8_t vector) {
    pthread_mutex_lock(&l->lock);
    uint32_t lvt = atomic_load(&l->lvt[LVT_LINT0 + pin]);
    bool ends = (lvt & LVT_REMOTE_IRR) && (lvt & LVT_VECTOR) == vector;
    if (ends)
        atomic_store(&l->lvt[LVT_LINT0 + pin], lvt & ~LVT_REMOTE_IRR);
    pthread_mutex_unlock(&l->lock);
    if (ends)
        deliver_pin(l, pin, false);
}

static void write_eoi(struct lapic *l) {
    int vector = highest_bit(&l->isr);

    if (vector < 0)
        return;
    clear_bit(&l->isr, (uint8_t)vector);
    if (test_bit(&l->tmr, (uint8_t)vector)) {
        for (unsigned pin = 0; pin < 2; pin++)
            end_level_pin(l, pin, (uint8_t)vector);
        if (!(atomic_load(&l->svr) & SVR_NO_EOI_BROADCAST))
            apic_bus_eoi(l->cf.bus, (uint8_t)vector);
    }
    recheck(l);
}

static void write_tpr(struct lapic *l, uint32_t v) {
    atomic_store(&l->tpr, v & 0xff);
    recheck(l);
}

static void write_lvt(struct lapic *l, unsigned i, uint32_t v) {
    v &= lvt_bits[i] & ~LVT_READ_ONLY;
    /* While the APIC is disabled by software, the mask bits can't be cleared. */
    if (!(atomic_load(&l->svr) & SVR_ENABLE))
        v |= LVT_MASK;
    if (i == LVT_TIMER) {
        write_lvt_timer(l, v);
        return;
    }
    pthread_mutex_lock(&l->lock);
    uint32_t remote_irr = is_level_pin(v) ? atomic_load(&l->lvt[i]) & LVT_REMOTE_IRR : 0;
    atomic_store(&l->lvt[i], v | remote_irr);
    pthread_mutex_unlock(&l->lock);
    if (i == LVT_LINT0 || i == LVT_LINT1)
        deliver_pin(l, i - LVT_LINT0, false);
}

static void write_svr(struct lapic *l, uint32_t v) {
    atomic_store(&l->svr, v & SVR_BITS);
    if (v & SVR_ENABLE)
        return;
    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_fetch_or(&l->lvt[i], LVT_MASK);
    pthread_mutex_unlock(&l->lock);
}

/* The write shows what was detected since the last one. */
static void write_esr(struct lapic *l) {
    l->esr = atomic_exchange(&l->errors, 0);
}

static void send_to(struct lapic *l, unsigned shorthand, const struct apic_msg *m) {
    switch (shorthand) {
    case TO_SELF:
        lapic_accept(l, m);
        break;
    case TO_ALL:
        apic_bus_send_all(l->cf.bus, m, NULL);
        break;
    case TO_OTHERS:
        apic_bus_send_all(l->cf.bus, m, l);
        break;
    default:
        apic_bus_send(l->cf.bus, m);
    }
}

static void send_ipi(struct lapic *l) {
    uint32_t low = (uint32_t)l->icr, high = (uint32_t)(l->icr >> 32);
    struct apic_msg m = {
        .dest = x2apic(l) ? high : high >> 24,
        .wide = x2apic(l),
        .logical = low & ICR_LOGICAL,
        .mode = low >> 8 & 7,
        .vector = (uint8_t)low,
    };

    /* INIT level de-assert synchronised arbitration IDs once. */
    if (m.mode == APIC_INIT && (low & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
        return;
    /* An I/O APIC may send ExtINT, a processor may not. */
    if (m.mode == APIC_EXTINT)
        return;
    if (m.mode <= APIC_LOWEST && m.vector < FIRST_VECTOR) {
        record_error(l, ESR_SEND_VECTOR);
        return;
    }
    send_to(l, low >> 18 & 3, &m);
}

static void write_icr_low(struct lapic *l, uint32_t v) {
    l->icr = (l->icr & ~(uint64_t)UINT32_MAX) | (v & ICR_LOW_BITS);
    send_ipi(l);
}

static void self_ipi(struct lapic *l, uint8_t vector) {
    if (vector < FIRST_VECTOR)
        record_error(l, ESR_SEND_VECTOR);
    else
        accept_vector(l, vector, false);
}

/* What both modes have. False: there is no such register, or it can't be written. */
static bool write_reg(struct lapic *l, unsigned reg, uint32_t v) {
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
        write_lvt(l, reg - REG_LVT, v);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        write_tpr(l, v);
        return true;
    case REG_EOI:
        write_eoi(l);
        return true;
    case REG_SVR:
        write_svr(l, v);
        return true;
    case REG_ESR:
        write_esr(l);
        return true;
    case REG_TIMER_INITIAL:
        write_initial(l, v);
        return true;
    case REG_DIVIDE:
        write_divide(l, v);
        return true;
    default:
        return false;
    }
}

static bool read_only(unsigned reg) {
    return reg == REG_VERSION || reg == REG_APR || reg == REG_PPR || reg == REG_RRD ||
           reg == REG_TIMER_CURRENT || (reg >= REG_ISR && reg < REG_ESR);
}

static void write_xapic(struct lapic *l, unsigned reg, uint32_t v) {
    switch (reg) {
    case REG_ID:
        atomic_store(&l->id, v >> 24);
        break;
    case REG_LDR:
        atomic_store(&l->ldr, v & 0xff000000u);
        break;
    case REG_DFR:
        atomic_store(&l->dfr, v | 0x0fffffffu);
        break;
    case REG_ICR:
        write_icr_low(l, v);
        break;
    case REG_ICR_HIGH:
        l->icr = (uint32_t)l->icr | (uint64_t)(v & 0xff000000u) << 32;
        break;
    default:
        if (!write_reg(l, reg, v) && !read_only(reg))
            record_error(l, ESR_REGISTER);
    }
}

/* --- register reads --- */

static uint32_t read_bitmap(const bitmap256 *b, unsigned i) {
    return atomic_load(&(*b)[i]);
}

static uint32_t read_count(struct lapic *l) {
    pthread_mutex_lock(&l->lock);
    uint32_t v = current_count(l, clock_now(l->cf.clock));
    pthread_mutex_unlock(&l->lock);
    return v;
}

/* False: there is no such register in either mode. */
static bool read_reg(struct lapic *l, unsigned reg, uint32_t *v) {
    if (reg >= REG_ISR && reg < REG_TMR)
        *v = read_bitmap(&l->isr, reg - REG_ISR);
    else if (reg >= REG_TMR && reg < REG_IRR)
        *v = read_bitmap(&l->tmr, reg - REG_TMR);
    else if (reg >= REG_IRR && reg < REG_ESR)
        *v = read_bitmap(&l->irr, reg - REG_IRR);
    else if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
        *v = atomic_load(&l->lvt[reg - REG_LVT]);
    else if (reg == REG_VERSION)
        *v = VERSION;
    else if (reg == REG_TPR)
        *v = atomic_load(&l->tpr);
    else if (reg == REG_PPR)
        *v = ppr(l);
    else if (reg == REG_SVR)
        *v = atomic_load(&l->svr);
    else if (reg == REG_ESR)
        *v = l->esr;
    else if (reg == REG_TIMER_INITIAL)
        *v = l->initial;
    else if (reg == REG_TIMER_CURRENT)
        *v = read_count(l);
    else if (reg == REG_DIVIDE)
        *v = l->divide;
    else
        return false;
    return true;
}

static uint32_t read_xapic(struct lapic *l, unsigned reg) {
    uint32_t v = 0;

    switch (reg) {
    case REG_ID:
        return atomic_load(&l->id) << 24;
    case REG_APR:
        return apr(l);
    case REG_EOI:
    case REG_RRD:
        return 0;
    case REG_LDR:
        return atomic_load(&l->ldr);
    case REG_DFR:
        return atomic_load(&l->dfr);
    case REG_ICR:
        return (uint32_t)l->icr;
    case REG_ICR_HIGH:
        return (uint32_t)(l->icr >> 32);
    default:
        if (!read_reg(l, reg, &v))
            record_error(l, ESR_REGISTER);
        return v;
    }
}

/* --- the page: 32-bit registers, 16 bytes apart; other accesses are undefined and do nothing ---
 */

static uint64_t lapic_mmio_read(void *apic, uint64_t off, unsigned size) {
    unsigned at = off & 15;

    if (at >= 4 || (size < 8 && at + size > 4))
        return 0;
    uint32_t v = read_xapic(apic, (unsigned)(off >> 4) & 0xff);
    return (uint64_t)v >> at * 8 & (size >= 4 ? UINT32_MAX : (1u << size * 8) - 1);
}

static void lapic_mmio_write(void *apic, uint64_t off, unsigned size, uint64_t value) {
    if ((off & 15) == 0 && size >= 4)
        write_xapic(apic, (unsigned)(off >> 4) & 0xff, (uint32_t)value);
}

static uint64_t lapic_mmio_base(void *apic) {
    uint64_t base = base_of(apic);

    return (base & (BASE_EN | BASE_EXTD)) == BASE_EN ? base & ~(uint64_t)PAGE_MASK : UINT64_MAX;
}

/* --- MSRs --- */

static bool read_x2apic(struct lapic *l, unsigned reg, uint64_t *value) {
    uint32_t v;

    if (reg == REG_ID)
        *value = l->cf.id;
    else if (reg == REG_LDR)
        *value = x2apic_ldr(l->cf.id);
    else if (reg == REG_ICR)
        *value = l->icr;
    else if (read_reg(l, reg, &v))
        *value = v;
    else
        return false;
    return true;
}

/* The bits that a register has; the others raise #GP when they are set. */
static uint32_t x2apic_bits(unsigned reg) {
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
        return lvt_bits[reg - REG_LVT];
    switch (reg) {
    case REG_EOI:
    case REG_ESR:
        return 0;
    case REG_SVR:
        return SVR_BITS;
    case REG_TIMER_INITIAL:
        return UINT32_MAX;
    case REG_DIVIDE:
        return DIVIDE_BITS;
    default:
        return 0xff; /* TPR and SELF IPI */
    }
}

static bool write_x2apic(struct lapic *l, unsigned reg, uint64_t v) {
    if (reg == REG_ICR) {
        if ((uint32_t)v & ~ICR_LOW_BITS)
            return false;
        l->icr = v;
        send_ipi(l);
        return true;
    }
    if (v & ~(uint64_t)x2apic_bits(reg))
        return false;
    if (reg == REG_SELF_IPI) {
        self_ipi(l, (uint8_t)v);
        return true;
    }
    return write_reg(l, reg, (uint32_t)v);
}

static void reset_registers(struct lapic *l);

/* SDM, "x2APIC states": x2APIC mode is entered from xAPIC mode and left by disabling only. */
static bool write_base(struct lapic *l, uint64_t v) {
    uint64_t was = base_of(l), modes = BASE_EN | BASE_EXTD;
    uint64_t address = ((1ull << l->cf.phys_bits) - 1) & ~(uint64_t)PAGE_MASK;

    if (v & ~(address | modes | BASE_BSP))
        return false;
    if ((v & modes) == BASE_EXTD)
        return false;
    if ((was & modes) == modes && (v & modes) == BASE_EN)
        return false;
    if (!(was & BASE_EN) && (v & modes) == modes)
        return false;
    /* Whether this is the boot processor was decided at power-up. */
    atomic_store(&l->base, (v & ~(uint64_t)BASE_BSP) | (was & BASE_BSP));
    if ((was & BASE_EN) && !(v & BASE_EN)) {
        reset_registers(l);
        atomic_store(&l->id, l->cf.id); /* as at power-up, which INIT does not do */
    }
    if ((v & modes) == modes && !(was & BASE_EXTD)) {
        atomic_store(&l->id, l->cf.id);
        l->icr = (uint32_t)l->icr;
    }
    recheck(l);
    return true;
}

static bool lapic_read_msr(void *apic, uint32_t msr, uint64_t *value) {
    struct lapic *l = apic;

    if (msr == MSR_APIC_BASE)
        *value = base_of(l);
    else if (msr == MSR_TSC_DEADLINE)
        *value = read_deadline(l);
    else
        return x2apic(l) && msr >= MSR_X2APIC && msr <= MSR_X2APIC_END &&
               read_x2apic(l, msr - MSR_X2APIC, value);
    return true;
}

static bool lapic_write_msr(void *apic, uint32_t msr, uint64_t value) {
    struct lapic *l = apic;

    if (msr == MSR_APIC_BASE)
        return write_base(l, value);
    if (msr != MSR_TSC_DEADLINE)
        return x2apic(l) && msr >= MSR_X2APIC && msr <= MSR_X2APIC_END &&
               write_x2apic(l, msr - MSR_X2APIC, value);
    write_deadline(l, value);
    return true;
}

static uint8_t lapic_get_cr8(void *apic) {
    const struct lapic *l = apic;

    return (uint8_t)(atomic_load(&l->tpr) >> 4);
}

static void lapic_set_cr8(void *apic, uint8_t value) {
    write_tpr(apic, (uint32_t)(value & 15) << 4);
}

static void lapic_ferr(void *apic, bool level) {
    struct lapic *l = apic;

    mem_io_lock(l->cf.mem);
    irq_set(&l->ferr, level);
    mem_io_unlock(l->cf.mem);
}

const struct x86_irqchip_ops lapic_irqchip_ops = {
    .pending = lapic_pending,
    .ack = lapic_ack,
    .get_cr8 = lapic_get_cr8,
    .set_cr8 = lapic_set_cr8,
    .read_msr = lapic_read_msr,
    .write_msr = lapic_write_msr,
    .mmio_base = lapic_mmio_base,
    .mmio_read = lapic_mmio_read,
    .mmio_write = lapic_mmio_write,
    .ferr = lapic_ferr,
    .tsc_changed = lapic_tsc_changed,
};

/* --- device --- */

static void reset_timer(struct lapic *l) {
    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_store(&l->lvt[i], LVT_MASK);
    l->divide = l->initial = 0;
    l->running = false;
    l->deadline = 0;
    arm_timer(l);
    pthread_mutex_unlock(&l->lock);
}

/* SDM, "Local APIC state after power-up or reset". */
static void reset_registers(struct lapic *l) {
    clear_bitmap(&l->irr);
    clear_bitmap(&l->isr);
    clear_bitmap(&l->tmr);
    atomic_store(&l->extint, false);
    atomic_store(&l->errors, 0);
    atomic_store(&l->tpr, 0);
    atomic_store(&l->ldr, 0);
    atomic_store(&l->dfr, UINT32_MAX);
    atomic_store(&l->svr, 0xff);
    l->esr = 0;
    l->icr = 0;
    reset_timer(l);
}

void lapic_init(struct lapic *l) {
    reset_registers(l);
}

static void lapic_reset(struct device *d) {
    struct lapic *l = (struct lapic *)d;

    atomic_store(&l->base, 0xfee00000u | BASE_EN | (l->cf.bsp ? BASE_BSP : 0));
    atomic_store(&l->id, l->cf.id);
    reset_registers(l);
    if (!l->cf.virtual_wire)
        return;
    atomic_store(&l->svr, SVR_ENABLE | 0xff);
    if (l->cf.bsp)
        atomic_store(&l->lvt[LVT_LINT0], APIC_EXTINT << 8);
    atomic_store(&l->lvt[LVT_LINT1], APIC_NMI << 8);
}

static void put_bitmap(struct record_writer *w, const bitmap256 *b) {
    for (unsigned i = 0; i < 8; i++)
        rec_put_u32(w, atomic_load(&(*b)[i]));
}

static void get_bitmap(bitmap256 *b, struct record_reader *r) {
    for (unsigned i = 0; i < 8; i++)
        atomic_store(&(*b)[i], rec_get_u32(r));
}

static void lapic_save(const struct device *d, struct record_writer *w) {
    const struct lapic *l = (const struct lapic *)d;

    rec_put_u64(w, atomic_load(&l->base));
    rec_put_u32(w, atomic_load(&l->id));
    rec_put_u32(w, atomic_load(&l->ldr));
    rec_put_u32(w, atomic_load(&l->dfr));
    rec_put_u32(w, atomic_load(&l->svr));
    rec_put_u32(w, atomic_load(&l->tpr));
    put_bitmap(w, &l->irr);
    put_bitmap(w, &l->isr);
    put_bitmap(w, &l->tmr);
    rec_put_u32(w, atomic_load(&l->errors));
    rec_put_u32(w, atomic_load(&l->lint));
    rec_put_u8(w, atomic_load(&l->extint));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        rec_put_u32(w, atomic_load(&l->lvt[i]));
    rec_put_u32(w, l->esr);
    rec_put_u64(w, l->icr);
    rec_put_u32(w, l->divide);
    rec_put_u32(w, l->initial);
    rec_put_u8(w, l->running);
    rec_put_u64(w, l->start);
    rec_put_u64(w, l->deadline);
}

static void get_registers(struct lapic *l, struct record_reader *r) {
    atomic_store(&l->base, rec_get_u64(r));
    atomic_store(&l->id, rec_get_u32(r));
    atomic_store(&l->ldr, rec_get_u32(r));
    atomic_store(&l->dfr, rec_get_u32(r));
    atomic_store(&l->svr, rec_get_u32(r));
    atomic_store(&l->tpr, rec_get_u32(r));
    get_bitmap(&l->irr, r);
    get_bitmap(&l->isr, r);
    get_bitmap(&l->tmr, r);
    atomic_store(&l->errors, rec_get_u32(r));
    atomic_store(&l->lint, rec_get_u32(r));
    atomic_store(&l->extint, rec_get_u8(r));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_store(&l->lvt[i], rec_get_u32(r));
    l->esr = rec_get_u32(r);
    l->icr = rec_get_u64(r);
    l->divide = rec_get_u32(r);
    l->initial = rec_get_u32(r);
    l->running = rec_get_u8(r);
    l->start = rec_get_u64(r);
    l->deadline = rec_get_u64(r);
}

static int lapic_check(const struct device *d, struct record_reader *r, struct err *e) {
    const struct lapic *l = (const struct lapic *)d;
    cleanup_free struct lapic *t = xcalloc(1, sizeof(*t));

    get_registers(t, r);
    uint64_t high = ~((1ull << l->cf.phys_bits) - 1);
    uint64_t modes = base_of(t) & (BASE_EN | BASE_EXTD);
    if ((base_of(t) & high) || (base_of(t) & 0x2ff) || modes == BASE_EXTD)
        return err_set(e, 0, "lapic %u: IA32_APIC_BASE 0x%llx", l->cf.id,
                       (unsigned long long)base_of(t));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        if (atomic_load(&t->lvt[i]) & ~lvt_bits[i])
            return err_set(e, 0, "lapic %u: reserved bits of LVT entry %u", l->cf.id, i);
    if (t->divide & ~DIVIDE_BITS || (t->running && t->initial == 0))
        return err_set(e, 0, "lapic %u: impossible timer", l->cf.id);
    return rec_done(r, e);
}

static void lapic_load(struct device *d, struct record_reader *r) {
    struct lapic *l = (struct lapic *)d;

    get_registers(l, r);
    pthread_mutex_lock(&l->lock);
    arm_timer(l);
    pthread_mutex_unlock(&l->lock);
    run_timer(l);
    recheck(l);
}

static void lapic_destroy(struct device *d) {
    struct lapic *l = (struct lapic *)d;

    timer_free(l->timer);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static const struct device_ops lapic_ops = {
    .name = "lapic",
    .version = 1,
    .reset = lapic_reset,
    .save = lapic_save,
    .check = lapic_check,
    .load = lapic_load,
    .destroy = lapic_destroy,
};

void lapic_attach(struct lapic *l, struct vcpu *v) {
    l->vcpu = v;
    v->irqchip = &lapic_irqchip_ops;
    v->apic = l;
}

void lapic_connect_pic(struct lapic *l, int (*ack)(void *pic), void *pic, struct irq_line ferr) {
    l->pic_ack = ack;
    l->pic = pic;
    l->ferr = ferr;
}

struct lapic *lapic_new(const struct lapic_config *config) {
    struct lapic *l = xcalloc(1, sizeof(*l));

    l->dev.ops = &lapic_ops;
    l->dev.instance = config->id;
    l->cf = *config;
    pthread_mutex_init(&l->lock, NULL);
    l->timer = timer_new(config->clock, run_timer, l);
    lapic_reset(&l->dev);
    apic_bus_add(config->bus, l);
    return l;
}

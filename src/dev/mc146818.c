/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MC146818 real-time clock (Motorola data sheet, ADI-856) with the AT's 128 bytes of CMOS
 * memory, a century byte at 0x32, and memory sizes where firmware looks for them.
 *
 * Time is the host's UTC plus an offset that the guest's setting of the clock changes; the flags of
 * register C are worked out from it when somebody looks. Left out: the square-wave pin, and
 * daylight saving (DSE is kept but has no effect).
 */
#include "dev/mc146818.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum {
    REG_SEC,
    REG_SEC_ALARM,
    REG_MIN,
    REG_MIN_ALARM,
    REG_HOUR,
    REG_HOUR_ALARM,
    REG_WDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    REG_CENTURY = 0x32,
};

enum { A_RATE = 0x0f, A_DIVIDER = 0x70, A_DIVIDER_RUN = 0x20, A_UIP = 0x80 };
enum { B_24H = 0x02, B_BINARY = 0x04, B_UIE = 0x10, B_AIE = 0x20, B_PIE = 0x40, B_SET = 0x80 };
enum { C_UF = 0x10, C_AF = 0x20, C_PF = 0x40, C_IRQF = 0x80, C_FLAGS = C_UF | C_AF | C_PF };
enum { D_VRT = 0x80 };
enum { HOUR_PM = 0x80, ALARM_ANY = 0xc0, INDEX_NMI = 0x80 };

#define CMOS_SIZE 128
#define DAY_S 86400
/* The update cycle announces itself 244 us before it begins. */
#define UIP_NS 244000

struct mc146818 {
    struct device dev;
    struct mem *mem;
    struct clock *clock;
    struct region *region;
    struct irq_line irq;
    struct timer *timer;

    uint8_t index;           /* as written to 0x70 */
    uint8_t cmos[CMOS_SIZE]; /* time registers: alarms always, the others while SET */
    int64_t offset_ns;       /* guest's UTC less the host's */
    uint8_t wday_offset;     /* the guest may count weekdays from another day */
    uint64_t seen_ns;        /* flags are up to date until this UTC */
};

struct rtc_time {
    int64_t year;                        /* four digits */
    unsigned month, day, hour, min, sec; /* month and day from 1 */
};

static uint64_t utc_now(const struct mc146818 *r) {
    return clock_wall(r->clock) + (uint64_t)r->offset_ns;
}

/* --- calendar --- */

/* Days since 1970-01-01 of the proleptic Gregorian calendar; years start in March to put leap days
 * last. */
static int64_t days_of(int64_t year, unsigned month, unsigned day) {
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static struct rtc_time time_of(uint64_t utc_ns) {
    uint64_t s = utc_ns / NS_PER_S;
    uint64_t days = s / DAY_S + 719468;
    unsigned rest = (unsigned)(s % DAY_S);
    unsigned doe = (unsigned)(days % 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    unsigned month = mp < 10 ? mp + 3 : mp - 9;

    return (struct rtc_time){
        .year = (int64_t)(days / 146097 * 400 + yoe) + (month <= 2),
        .month = month,
        .day = doy - (153 * mp + 2) / 5 + 1,
        .hour = rest / 3600,
        .min = rest / 60 % 60,
        .sec = rest % 60,
    };
}

static unsigned weekday(uint64_t utc_ns) {
    return (unsigned)((utc_ns / NS_PER_S / DAY_S + 4) % 7); /* 1970-01-01 was a Thursday */
}

/* --- register formats --- */

static uint8_t encode(const struct mc146818 *r, unsigned v) {
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *r, uint8_t v) {
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct mc146818 *r, unsigned hour) {
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    uint8_t v = encode(r, hour % 12 ? hour % 12 : 12);
    return hour >= 12 ? v | HOUR_PM : v;
}

static unsigned decode_hour(const struct mc146818 *r, uint8_t v) {
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    unsigned hour = decode(r, v & 0x7f) % 12;
    return v & HOUR_PM ? hour + 12 : hour;
}

static bool is_time(unsigned reg) {
    return reg == REG_SEC || reg == REG_MIN || reg == REG_HOUR ||
           (reg >= REG_WDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

static void latch_time(struct mc146818 *r, uint64_t utc) {
    struct rtc_time t = time_of(utc);

    r->cmos[REG_SEC] = encode(r, t.sec);
    r->cmos[REG_MIN] = encode(r, t.min);
    r->cmos[REG_HOUR] = encode_hour(r, t.hour);
    r->cmos[REG_WDAY] = encode(r, (weekday(utc) + r->wday_offset) % 7 + 1);
    r->cmos[REG_DAY] = encode(r, t.day);
    r->cmos[REG_MONTH] = encode(r, t.month);
    r->cmos[REG_YEAR] = encode(r, (unsigned)(t.year % 100));
    r->cmos[REG_CENTURY] = encode(r, (unsigned)(t.year / 100));
}

/* Makes now what the registers say, keeping the fraction of the second. Nonsense carries over. */
static void commit_time(struct mc146818 *r) {
    uint64_t now = utc_now(r);
    int64_t year = decode(r, r->cmos[REG_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]);
    unsigned month = MIN(MAX(decode(r, r->cmos[REG_MONTH]), 1u), 12u);
    unsigned day = MAX(decode(r, r->cmos[REG_DAY]), 1u);
    int64_t s = days_of(year, month, day) * DAY_S;

    s += decode_hour(r, r->cmos[REG_HOUR]) * 3600 + decode(r, r->cmos[REG_MIN]) * 60 +
         decode(r, r->cmos[REG_SEC]);
    /* Years outside 1970 to 2500 don't fit 64 bits of nanoseconds. */
    s = MIN(MAX(s, 0), days_of(2500, 1, 1) * DAY_S);
    uint64_t utc = (uint64_t)s * NS_PER_S + now % NS_PER_S;
    r->offset_ns = (int64_t)((uint64_t)r->offset_ns + (utc - now));
    r->wday_offset = (uint8_t)((decode(r, r->cmos[REG_WDAY]) + 6 + 7 - weekday(utc)) % 7);
    r->seen_ns = utc;
}

/* --- events: each is told by the first time after `t` at which it happens --- */

static bool counting(const struct mc146818 *r) {
    return (r->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUN;
}

static bool updating(const struct mc146818 *r) {
    return counting(r) && !(r->cmos[REG_B] & B_SET);
}

/* Half-cycles of the 32,768 Hz crystal between periodic interrupts; 0: none. */
static unsigned period_cycles(const struct mc146818 *r) {
    unsigned rate = r->cmos[REG_A] & A_RATE;

    if (rate == 0 || !counting(r))
        return 0;
    return rate <= 2 ? 1u << (rate + 6) : 1u << (rate - 1);
}

static uint64_t next_periodic(const struct mc146818 *r, uint64_t t) {
    unsigned cycles = period_cycles(r);

    if (!cycles)
        return UINT64_MAX;
    uint64_t k = (uint64_t)((unsigned __int128)t * 32768 / NS_PER_S) / cycles + 1;
    return (uint64_t)(((unsigned __int128)k * cycles * NS_PER_S + 32767) / 32768);
}

static uint64_t next_update(const struct mc146818 *r, uint64_t t) {
    return updating(r) ? (t / NS_PER_S + 1) * NS_PER_S : UINT64_MAX;
}

/* An alarm that no time of day equals never goes off. */
static bool alarm_possible(const struct mc146818 *r, unsigned reg, unsigned limit) {
    uint8_t alarm = r->cmos[reg];

    return (alarm & ALARM_ANY) == ALARM_ANY || decode(r, alarm & 0x7f) < limit;
}

static bool alarm_matches(const struct mc146818 *r, unsigned reg, unsigned value) {
    uint8_t alarm = r->cmos[reg];

    if ((alarm & ALARM_ANY) == ALARM_ANY)
        return true;
    return value == (reg == REG_HOUR_ALARM ? decode_hour(r, alarm) : decode(r, alarm));
}

/* The first second of the 24 hours after t that matches. Hours and minutes that don't are skipped
 * whole. */
static uint64_t next_alarm(const struct mc146818 *r, uint64_t t) {
    uint64_t s = t / NS_PER_S + 1, end = s + DAY_S;

    if (!updating(r) || !alarm_possible(r, REG_HOUR_ALARM, 24) ||
        !alarm_possible(r, REG_MIN_ALARM, 60) || !alarm_possible(r, REG_SEC_ALARM, 60))
        return UINT64_MAX;
    while (s < end) {
        if (!alarm_matches(r, REG_HOUR_ALARM, (unsigned)(s / 3600 % 24)))
            s = (s / 3600 + 1) * 3600;
        else if (!alarm_matches(r, REG_MIN_ALARM, (unsigned)(s / 60 % 60)))
            s = (s / 60 + 1) * 60;
        else if (!alarm_matches(r, REG_SEC_ALARM, (unsigned)(s % 60)))
            s++;
        else
            return s * NS_PER_S;
    }
    return UINT64_MAX;
}

static void update_irq(struct mc146818 *r) {
    uint8_t *c = &r->cmos[REG_C];
    bool irq = *c & r->cmos[REG_B] & C_FLAGS;

    *c = irq ? *c | C_IRQF : *c & (uint8_t)~C_IRQF;
    irq_set(&r->irq, irq);
}

/* Sets the flags of what happened since the last time. */
static void catch_up(struct mc146818 *r) {
    uint64_t now = utc_now(r), seen = r->seen_ns;
    uint8_t *c = &r->cmos[REG_C];

    if (next_periodic(r, seen) <= now)
        *c |= C_PF;
    if (next_update(r, seen) <= now)
        *c |= C_UF;
    if (!(*c & C_AF) && next_alarm(r, seen) <= now)
        *c |= C_AF;
    r->seen_ns = now;
    update_irq(r);
}

/* The timer runs only for interrupts that are enabled and not pending yet. */
static void arm(struct mc146818 *r) {
    uint8_t wanted = r->cmos[REG_B] & (uint8_t)~r->cmos[REG_C];
    uint64_t now = r->seen_ns, next = UINT64_MAX;

    if (wanted & B_PIE)
        next = next_periodic(r, now);
    if (wanted & B_UIE)
        next = MIN(next, next_update(r, now));
    if (wanted & B_AIE)
        next = MIN(next, next_alarm(r, now));
    if (next == UINT64_MAX)
        timer_disarm(r->timer);
    else
        timer_arm(r->timer, clock_now(r->clock) + (next - now));
}

static void timer_fired(void *arg) {
    struct mc146818 *r = arg;

    mem_io_lock(r->mem);
    catch_up(r);
    arm(r);
    mem_io_unlock(r->mem);
}

/* --- registers --- */

static uint8_t read_a(const struct mc146818 *r) {
    uint8_t v = r->cmos[REG_A];

    if (updating(r) && utc_now(r) % NS_PER_S >= NS_PER_S - UIP_NS)
        v |= A_UIP;
    return v;
}

static uint8_t read_c(struct mc146818 *r) {
    uint8_t v = r->cmos[REG_C];

    r->cmos[REG_C] = 0;
    update_irq(r);
    arm(r);
    return v;
}

static uint8_t read_cmos(struct mc146818 *r, unsigned reg) {
    catch_up(r);
    if (is_time(reg) && !(r->cmos[REG_B] & B_SET))
        latch_time(r, utc_now(r));
    switch (reg) {
    case REG_A:
        return read_a(r);
    case REG_C:
        return read_c(r);
    default:
        return r->cmos[reg];
    }
}

/* While SET is 1 the registers hold what the guest is setting; with its end that becomes the time.
 */
static void write_b(struct mc146818 *r, uint8_t v) {
    bool was = r->cmos[REG_B] & B_SET, set = v & B_SET;

    if (set && !was)
        latch_time(r, utc_now(r));
    r->cmos[REG_B] = set ? v & (uint8_t)~B_UIE : v;
    if (!set && was)
        commit_time(r);
}

static void write_time(struct mc146818 *r, unsigned reg, uint8_t v) {
    bool set = r->cmos[REG_B] & B_SET;

    if (!set)
        latch_time(r, utc_now(r));
    r->cmos[reg] = v;
    if (!set)
        commit_time(r);
}

static void write_cmos(struct mc146818 *r, unsigned reg, uint8_t v) {
    catch_up(r);
    if (is_time(reg))
        write_time(r, reg, v);
    else if (reg == REG_A)
        r->cmos[REG_A] = v & (uint8_t)~A_UIP;
    else if (reg == REG_B)
        write_b(r, v);
    else if (reg != REG_C && reg != REG_D)
        r->cmos[reg] = v;
    update_irq(r);
    arm(r);
}

static uint64_t mc146818_read(void *dev, uint64_t off, unsigned size) {
    struct mc146818 *r = dev;

    (void)size;
    /* The index is write-only. */
    return off == 0 ? 0xff : read_cmos(r, r->index & (CMOS_SIZE - 1));
}

static void mc146818_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct mc146818 *r = dev;

    (void)size;
    if (off == 0)
        r->index = (uint8_t)value;
    else
        write_cmos(r, r->index & (CMOS_SIZE - 1), (uint8_t)value);
}

static const struct io_ops mc146818_io = {
    .read = mc146818_read,
    .write = mc146818_write,
    .min_size = 1,
    .max_size = 1,
};

bool mc146818_nmi_disabled(const struct mc146818 *r) {
    return r->index & INDEX_NMI;
}

/* --- memory sizes --- */

static void put16(uint8_t *at, uint64_t v) {
    v = MIN(v, 0xffff);
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put_sizes(struct mc146818 *r, const struct mc146818_config *cf) {
    uint64_t low_kib = cf->ram_low >> 10;
    uint64_t extended_kib = low_kib > 1024 ? low_kib - 1024 : 0;
    uint64_t above_16m = low_kib > 16384 ? (low_kib - 16384) / 64 : 0;
    uint64_t high = cf->ram_high >> 16;

    put16(&r->cmos[0x15], MIN(low_kib, 640));
    put16(&r->cmos[0x17], extended_kib);
    put16(&r->cmos[0x30], extended_kib);
    put16(&r->cmos[0x34], above_16m);
    put16(&r->cmos[0x5b], high & 0xffff);
    r->cmos[0x5d] = (uint8_t)(high >> 16);
}

/* --- device --- */

/* The battery keeps all but the interrupt enables and flags. */
static void mc146818_reset(struct device *d) {
    struct mc146818 *r = (struct mc146818 *)d;

    catch_up(r);
    r->index = 0;
    r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
    r->cmos[REG_C] = 0;
    update_irq(r);
    arm(r);
}

static void mc146818_save(const struct device *d, struct record_writer *w) {
    const struct mc146818 *r = (const struct mc146818 *)d;

    rec_put_u8(w, r->index);
    rec_put_bytes(w, r->cmos, CMOS_SIZE);
    rec_put_u64(w, (uint64_t)r->offset_ns);
    rec_put_u8(w, r->wday_offset);
}

static int mc146818_check(const struct device *d, struct record_reader *rr, struct err *e) {
    uint8_t cmos[CMOS_SIZE];

    (void)d;
    rec_get_u8(rr);
    rec_get_bytes(rr, cmos, CMOS_SIZE);
    rec_get_u64(rr);
    uint8_t wday = rec_get_u8(rr);
    if (wday > 6 || cmos[REG_A] & A_UIP || cmos[REG_C] & ~(C_FLAGS | C_IRQF))
        return err_set(e, 0, "mc146818: impossible registers");
    return rec_done(rr, e);
}

static void mc146818_load(struct device *d, struct record_reader *rr) {
    struct mc146818 *r = (struct mc146818 *)d;

    r->index = rec_get_u8(rr);
    rec_get_bytes(rr, r->cmos, CMOS_SIZE);
    r->offset_ns = (int64_t)rec_get_u64(rr);
    r->wday_offset = rec_get_u8(rr);
    r->seen_ns = utc_now(r);
    update_irq(r);
    arm(r);
}

static void mc146818_destroy(struct device *d) {
    struct mc146818 *r = (struct mc146818 *)d;

    mem_del_region(r->mem, r->region);
    timer_free(r->timer);
    free(r);
}

static const struct device_ops mc146818_ops = {
    .name = "mc146818",
    .version = 1,
    .reset = mc146818_reset,
    .save = mc146818_save,
    .check = mc146818_check,
    .load = mc146818_load,
    .destroy = mc146818_destroy,
};

struct mc146818 *mc146818_new(struct mem *m, struct clock *c, struct irq_line irq8,
                              const struct mc146818_config *config, struct err *e) {
    struct mc146818 *r = xcalloc(1, sizeof(*r));

    r->dev.ops = &mc146818_ops;
    r->mem = m;
    r->clock = c;
    r->irq = irq8;
    r->region = mem_add_port(m, PC_RTC, 2, "mc146818", &mc146818_io, r, e);
    if (!r->region) {
        free(r);
        return NULL;
    }
    r->timer = timer_new(c, timer_fired, r);
    r->cmos[REG_A] = A_DIVIDER_RUN | 6;
    r->cmos[REG_B] = B_24H;
    r->cmos[REG_D] = D_VRT;
    put_sizes(r, config);
    r->seen_ns = utc_now(r);
    mc146818_reset(&r->dev);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (ACPI 6.4, section 4.8): PM1a event and control blocks, the 24-bit power
 * management timer, a GPE0 block, and the reset control register of Intel's chip
 * sets at 0xcf9.
 *
 * Always in ACPI mode (SCI_EN reads 1; there is no SMM). Of the sleep states only S5 is there.
 */
#include "dev/acpi_pm.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

/* PM1 status and enable (tables 4.11 and 4.12). */
enum { PM1_TMR = 1u << 0, PM1_GBL = 1u << 5, PM1_PWRBTN = 1u << 8, PM1_RTC = 1u << 10 };
#define PM1_EN_BITS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC)
/* Those that are kept; PM1_TMR follows from the timer, and without SMM nobody releases the global
 * lock. */
#define PM1_STS_BITS (PM1_PWRBTN | PM1_RTC)
/* PM1 control (table 4.13). */
enum { CNT_SCI_EN = 1u << 0, CNT_SLP_TYP = 7u << 10, CNT_SLP_EN = 1u << 13 };
#define CNT_BITS (CNT_SLP_TYP | 1u << 1)
/* Reset control register (Intel 82371, section "Reset control register"). */
enum { RCR_SYS_RST = 1u << 1, RCR_RST_CPU = 1u << 2, RCR_FULL_RST = 1u << 3 };
#define RCR_BITS (RCR_SYS_RST | RCR_RST_CPU | RCR_FULL_RST)

/* TMR_STS is set whenever the top bit of the timer changes. */
#define TIMER_BITS 24
#define TIMER_TOP (TIMER_BITS - 1)

struct acpi_pm {
    struct device dev;
    struct mem *mem;
    struct clock *clock;
    struct region *region[2];
    struct irq_line sci;
    struct acpi_pm_events events;
    struct timer *timer;

    uint16_t sts; /* without PM1_TMR, which follows from the next field */
    uint16_t en, cnt, gpe0_sts, gpe0_en;
    uint64_t top_seen; /* changes of the timer's top bit when TMR_STS was last cleared */
    uint8_t rcr;
    bool rtc; /* level of the RTC's interrupt line */
};

static uint64_t ticks(const struct acpi_pm *pm) {
    return (uint64_t)((unsigned __int128)clock_now(pm->clock) * ACPI_PM_TIMER_HZ / NS_PER_S);
}

static uint64_t ticks_to_ns(uint64_t t) {
    unsigned __int128 ns = (unsigned __int128)t * NS_PER_S + ACPI_PM_TIMER_HZ - 1;
    return (uint64_t)(ns / ACPI_PM_TIMER_HZ);
}

static uint16_t status(const struct acpi_pm *pm) {
    bool carried = ticks(pm) >> TIMER_TOP != pm->top_seen;

    return carried ? pm->sts | PM1_TMR : pm->sts;
}

static void update_sci(struct acpi_pm *pm) {
    uint16_t sts = status(pm);

    irq_set(&pm->sci, sts & pm->en || pm->gpe0_sts & pm->gpe0_en);
    if ((pm->en & PM1_TMR) && !(sts & PM1_TMR))
        timer_arm(pm->timer, ticks_to_ns((pm->top_seen + 1) << TIMER_TOP));
    else
        timer_disarm(pm->timer);
}

static void top_changed(void *arg) {
    struct acpi_pm *pm = arg;

    mem_io_lock(pm->mem);
    update_sci(pm);
    mem_io_unlock(pm->mem);
}

static void write_status(struct acpi_pm *pm, uint16_t clear) {
    pm->sts &= (uint16_t)~clear;
    if (clear & PM1_TMR)
        pm->top_seen = ticks(pm) >> TIMER_TOP;
}

static void write_control(struct acpi_pm *pm, uint16_t v) {
    pm->cnt = v & CNT_BITS;
    if ((v & CNT_SLP_EN) && (v & CNT_SLP_TYP) >> 10 == PC_SLP_TYP_S5)
        pm->events.power_off(pm->events.arg);
}

/* The 32 bits that an access of any size lies in. */
static uint32_t read_lane(const struct acpi_pm *pm, uint64_t lane) {
    switch (lane) {
    case PC_PM1A_EVT - PC_PM1A_EVT:
        return status(pm) | (uint32_t)pm->en << 16;
    case PC_PM1A_CNT - PC_PM1A_EVT:
        return pm->cnt | CNT_SCI_EN;
    default:
        return ticks(pm) & ((1u << TIMER_BITS) - 1);
    }
}

static uint32_t size_mask(unsigned size) {
    return size == 4 ? UINT32_MAX : (1u << size * 8) - 1;
}

static uint64_t acpi_pm_read(void *dev, uint64_t off, unsigned size) {
    return read_lane(dev, off & ~3ull) >> (off & 3) * 8 & size_mask(size);
}

static void acpi_pm_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct acpi_pm *pm = dev;
    unsigned shift = (off & 3) * 8;
    uint32_t mask = size_mask(size) << shift, v = (uint32_t)value << shift & mask;

    if ((off & ~3ull) == 0) {
        write_status(pm, (uint16_t)v);
        pm->en = (uint16_t)((pm->en & ~(mask >> 16)) | v >> 16) & PM1_EN_BITS;
        update_sci(pm);
    } else if ((off & ~3ull) == PC_PM1A_CNT - PC_PM1A_EVT) {
        write_control(pm, (uint16_t)((pm->cnt & ~mask) | v));
    }
}

static const struct io_ops acpi_pm_io = {
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .min_size = 1,
    .max_size = 4,
};

/* GPE0: two bytes of status, which a one written clears, then two of enables (4.8.4.1). */
static uint64_t gpe_read(void *dev, uint64_t off, unsigned size) {
    const struct acpi_pm *pm = dev;

    (void)size;
    return (uint8_t)((off < 2 ? pm->gpe0_sts : pm->gpe0_en) >> (off & 1) * 8);
}

static void gpe_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct acpi_pm *pm = dev;

    unsigned shift = (unsigned)(off & 1) * 8;

    (void)size;
    if (off < 2)
        pm->gpe0_sts &= (uint16_t) ~((uint8_t)value << shift);
    else
        pm->gpe0_en = (uint16_t)((pm->gpe0_en & ~(0xffu << shift)) | (uint8_t)value << shift);
    update_sci(pm);
}

static const struct io_ops gpe_io = {
    .read = gpe_read,
    .write = gpe_write,
    .min_size = 1,
    .max_size = 1,
};

void acpi_pm_event(struct acpi_pm *pm, unsigned event) {
    pm->gpe0_sts |= (uint16_t)(1u << event);
    update_sci(pm);
}

void acpi_pm_power_button(struct acpi_pm *pm) {
    mem_io_lock(pm->mem);
    pm->sts |= PM1_PWRBTN;
    update_sci(pm);
    mem_io_unlock(pm->mem);
}

/* RTC_STS is set by the alarm's edge: cleared while the line is still up, it stays clear. */
void acpi_pm_rtc_in(void *arg, unsigned pin, bool level) {
    struct acpi_pm *pm = arg;

    (void)pin;
    if (level && !pm->rtc) {
        pm->sts |= PM1_RTC;
        update_sci(pm);
    }
    pm->rtc = level;
}

uint8_t acpi_pm_reset_read(void *arg) {
    const struct acpi_pm *pm = arg;

    return pm->rcr;
}

/* A change of RST_CPU from 0 to 1 resets. */
void acpi_pm_reset_write(void *arg, uint8_t value) {
    struct acpi_pm *pm = arg;
    bool rises = (value & RCR_RST_CPU) && !(pm->rcr & RCR_RST_CPU);

    pm->rcr = value & RCR_BITS;
    if (rises)
        pm->events.reset(pm->events.arg);
}

/* --- device --- */

static void acpi_pm_reset(struct device *d) {
    struct acpi_pm *pm = (struct acpi_pm *)d;

    pm->sts = pm->en = pm->cnt = pm->gpe0_sts = pm->gpe0_en = 0;
    pm->rcr = 0;
    pm->top_seen = ticks(pm) >> TIMER_TOP;
    update_sci(pm);
}

static void acpi_pm_save(const struct device *d, struct record_writer *w) {
    const struct acpi_pm *pm = (const struct acpi_pm *)d;

    rec_put_u16(w, pm->sts);
    rec_put_u16(w, pm->en);
    rec_put_u16(w, pm->cnt);
    rec_put_u16(w, pm->gpe0_sts);
    rec_put_u16(w, pm->gpe0_en);
    rec_put_u64(w, pm->top_seen);
    rec_put_u8(w, pm->rcr);
    rec_put_u8(w, pm->rtc);
}

static int acpi_pm_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    uint16_t sts = rec_get_u16(r), en = rec_get_u16(r), cnt = rec_get_u16(r);
    if (sts & ~PM1_STS_BITS || en & ~PM1_EN_BITS || cnt & ~CNT_BITS)
        return err_set(e, 0, "acpi_pm: reserved bits: status 0x%x, enable 0x%x, control 0x%x", sts,
                       en, cnt);
    rec_get_u16(r);
    rec_get_u16(r);
    uint64_t top_seen = rec_get_u64(r);
    uint8_t rcr = rec_get_u8(r), rtc = rec_get_u8(r);
    if (rcr & ~RCR_BITS || rtc > 1 || top_seen >> (64 - TIMER_TOP))
        return err_set(e, 0, "acpi_pm: impossible timer, reset control or RTC line");
    return rec_done(r, e);
}

static void acpi_pm_load(struct device *d, struct record_reader *r) {
    struct acpi_pm *pm = (struct acpi_pm *)d;

    pm->sts = rec_get_u16(r);
    pm->en = rec_get_u16(r);
    pm->cnt = rec_get_u16(r);
    pm->gpe0_sts = rec_get_u16(r);
    pm->gpe0_en = rec_get_u16(r);
    pm->top_seen = rec_get_u64(r);
    pm->rcr = rec_get_u8(r);
    pm->rtc = rec_get_u8(r);
    update_sci(pm);
}

static void acpi_pm_destroy(struct device *d) {
    struct acpi_pm *pm = (struct acpi_pm *)d;

    for (unsigned i = 0; i < ARRAY_LEN(pm->region); i++)
        if (pm->region[i])
            mem_del_region(pm->mem, pm->region[i]);
    timer_free(pm->timer);
    free(pm);
}

static const struct device_ops acpi_pm_ops = {
    .name = "acpi_pm",
    .version = 2,
    .reset = acpi_pm_reset,
    .save = acpi_pm_save,
    .check = acpi_pm_check,
    .load = acpi_pm_load,
    .destroy = acpi_pm_destroy,
};

struct acpi_pm *acpi_pm_new(struct mem *m, struct clock *c, struct irq_line sci,
                            const struct acpi_pm_events *events, struct err *e) {
    struct acpi_pm *pm = xcalloc(1, sizeof(*pm));
    uint32_t count = PC_PM_TMR + PC_PM_TMR_LEN - PC_PM1A_EVT;

    pm->dev.ops = &acpi_pm_ops;
    pm->mem = m;
    pm->clock = c;
    pm->sci = sci;
    pm->events = *events;
    pm->timer = timer_new(c, top_changed, pm);
    pm->region[0] = mem_add_port(m, PC_PM1A_EVT, count, "acpi_pm", &acpi_pm_io, pm, e);
    if (pm->region[0])
        pm->region[1] = mem_add_port(m, PC_GPE0, PC_GPE0_LEN, "gpe0", &gpe_io, pm, e);
    if (!pm->region[1]) {
        acpi_pm_destroy(&pm->dev);
        return NULL;
    }
    acpi_pm_reset(&pm->dev);
    return pm;
}

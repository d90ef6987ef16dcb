/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O APIC: Intel 82093AA data sheet (290566-001), 24 pins, with the EOI register of version
 * 0x20 (Intel ICH, "I/O APIC EOI register").
 *
 * Left out: delivery status (messages never wait) and the arbitration bus.
 */
#include "dev/ioapic.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/apic_bus.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { REG_ID = 0x00, REG_VER = 0x01, REG_ARB = 0x02, REG_REDTBL = 0x10 };

#define VERSION (0x20u | (PC_IOAPIC_PINS - 1) << 16)

enum {
    RTE_LOGICAL = 1u << 11,
    RTE_STATUS = 1u << 12,
    RTE_REMOTE_IRR = 1u << 14,
    RTE_LEVEL = 1u << 15,
    RTE_MASK = 1u << 16,
};
#define RTE_READ_ONLY (uint64_t)(RTE_STATUS | RTE_REMOTE_IRR)
#define RTE_WRITABLE (0xff0000000001ffffull & ~RTE_READ_ONLY)

struct ioapic {
    struct device dev;
    struct mem *mem;
    struct region *region;
    struct apic_bus *bus;
    uint8_t id_at_reset;

    uint8_t select;
    uint8_t id;
    uint32_t pins; /* asserted now */
    uint64_t rte[PC_IOAPIC_PINS];
};

static bool send(struct ioapic *a, unsigned pin) {
    uint64_t rte = a->rte[pin];
    const struct apic_msg m = {
        .dest = (uint32_t)(rte >> 56),
        .logical = rte & RTE_LOGICAL,
        .level = rte & RTE_LEVEL,
        .mode = rte >> 8 & 7,
        .vector = (uint8_t)rte,
    };

    return m.mode != APIC_SIPI && apic_bus_send(a->bus, &m);
}

/* A level-triggered pin sends once until the EOI; remote IRR says that one is on its way. */
static void service_level(struct ioapic *a, unsigned pin) {
    uint64_t rte = a->rte[pin];

    if (!(a->pins & 1u << pin) || !(rte & RTE_LEVEL) || rte & (RTE_MASK | RTE_REMOTE_IRR))
        return;
    /* NMI, INIT and ExtINT have no EOI and are always treated as edges (data sheet, 3.2.4). */
    unsigned mode = rte >> 8 & 7;
    if (send(a, pin) && mode <= APIC_LOWEST)
        a->rte[pin] |= RTE_REMOTE_IRR;
}

/* An edge on a masked pin is lost, as the data sheet has it. */
void ioapic_set_irq(void *ioapic, unsigned pin, bool level) {
    struct ioapic *a = ioapic;

    if (pin >= PC_IOAPIC_PINS)
        return;
    bool rose = level && !(a->pins & 1u << pin);
    a->pins = level ? a->pins | 1u << pin : a->pins & ~(1u << pin);
    if (!rose)
        return;
    if (a->rte[pin] & RTE_LEVEL)
        service_level(a, pin);
    else if (!(a->rte[pin] & RTE_MASK))
        send(a, pin);
}

static void end_of_interrupt(struct ioapic *a, uint8_t vector) {
    for (unsigned pin = 0; pin < PC_IOAPIC_PINS; pin++) {
        if ((uint8_t)a->rte[pin] != vector || !(a->rte[pin] & RTE_REMOTE_IRR))
            continue;
        a->rte[pin] &= ~(uint64_t)RTE_REMOTE_IRR;
        service_level(a, pin);
    }
}

static void eoi_broadcast(void *arg, uint8_t vector) {
    struct ioapic *a = arg;

    mem_io_lock(a->mem);
    end_of_interrupt(a, vector);
    mem_io_unlock(a->mem);
}

static void write_rte(struct ioapic *a, unsigned pin, unsigned shift, uint32_t v) {
    uint64_t half = (uint64_t)UINT32_MAX << shift & RTE_WRITABLE;

    a->rte[pin] = (a->rte[pin] & ~half) | ((uint64_t)v << shift & half);
    if (!(a->rte[pin] & RTE_LEVEL))
        a->rte[pin] &= ~(uint64_t)RTE_REMOTE_IRR;
    service_level(a, pin);
}

static void write_window(struct ioapic *a, uint32_t v) {
    unsigned i = a->select - REG_REDTBL;

    if (a->select == REG_ID)
        a->id = v >> 24 & 15;
    else if (a->select >= REG_REDTBL && i < 2 * PC_IOAPIC_PINS)
        write_rte(a, i / 2, i & 1 ? 32 : 0, v);
}

static uint32_t read_window(const struct ioapic *a) {
    unsigned i = a->select - REG_REDTBL;

    if (a->select == REG_ID || a->select == REG_ARB)
        return (uint32_t)a->id << 24;
    if (a->select == REG_VER)
        return VERSION;
    if (a->select >= REG_REDTBL && i < 2 * PC_IOAPIC_PINS)
        return (uint32_t)(a->rte[i / 2] >> (i & 1 ? 32 : 0));
    return 0;
}

static uint64_t ioapic_read(void *dev, uint64_t off, unsigned size) {
    const struct ioapic *a = dev;

    (void)size;
    if (off == IOREGSEL)
        return a->select;
    return off == IOWIN ? read_window(a) : 0;
}

static void ioapic_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct ioapic *a = dev;

    (void)size;
    if (off == IOREGSEL)
        a->select = (uint8_t)value;
    else if (off == IOWIN)
        write_window(a, (uint32_t)value);
    else if (off == IOEOI)
        end_of_interrupt(a, (uint8_t)value);
}

static const struct io_ops ioapic_io = {
    .read = ioapic_read,
    .write = ioapic_write,
    .min_size = 4,
    .max_size = 4,
};

static void ioapic_reset(struct device *d) {
    struct ioapic *a = (struct ioapic *)d;

    a->select = 0;
    a->id = a->id_at_reset;
    for (unsigned pin = 0; pin < PC_IOAPIC_PINS; pin++)
        a->rte[pin] = RTE_MASK;
}

static void ioapic_save(const struct device *d, struct record_writer *w) {
    const struct ioapic *a = (const struct ioapic *)d;

    rec_put_u8(w, a->select);
    rec_put_u8(w, a->id);
    rec_put_u32(w, a->pins);
    for (unsigned pin = 0; pin < PC_IOAPIC_PINS; pin++)
        rec_put_u64(w, a->rte[pin]);
}

static int ioapic_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    rec_get_u8(r);
    uint8_t id = rec_get_u8(r);
    uint32_t pins = rec_get_u32(r);
    if (id > 15 || pins >> PC_IOAPIC_PINS)
        return err_set(e, 0, "ioapic: ID %u, pins 0x%x", id, pins);
    for (unsigned pin = 0; pin < PC_IOAPIC_PINS; pin++)
        if (rec_get_u64(r) & ~(RTE_WRITABLE | RTE_READ_ONLY))
            return err_set(e, 0, "ioapic: reserved bits of redirection entry %u", pin);
    return rec_done(r, e);
}

static void ioapic_load(struct device *d, struct record_reader *r) {
    struct ioapic *a = (struct ioapic *)d;

    a->select = rec_get_u8(r);
    a->id = rec_get_u8(r);
    a->pins = rec_get_u32(r);
    for (unsigned pin = 0; pin < PC_IOAPIC_PINS; pin++)
        a->rte[pin] = rec_get_u64(r);
}

static void ioapic_destroy(struct device *d) {
    struct ioapic *a = (struct ioapic *)d;

    apic_bus_set_eoi(a->bus, NULL, NULL);
    mem_del_region(a->mem, a->region);
    free(a);
}

static const struct device_ops ioapic_ops = {
    .name = "ioapic",
    .version = 1,
    .reset = ioapic_reset,
    .save = ioapic_save,
    .check = ioapic_check,
    .load = ioapic_load,
    .destroy = ioapic_destroy,
};

struct ioapic *ioapic_new(struct mem *m, struct apic_bus *bus, uint8_t id, struct err *e) {
    struct ioapic *a = xcalloc(1, sizeof(*a));

    a->dev.ops = &ioapic_ops;
    a->mem = m;
    a->bus = bus;
    a->id_at_reset = id & 15;
    a->region = mem_add_mmio(m, GPA(PC_IOAPIC_BASE), PAGE_SIZE, "ioapic", &ioapic_io, a, e);
    if (!a->region) {
        free(a);
        return NULL;
    }
    apic_bus_set_eoi(bus, eoi_broadcast, a);
    ioapic_reset(&a->dev);
    return a;
}

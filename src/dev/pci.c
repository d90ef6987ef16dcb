/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI configuration mechanism 1 (PCI Local Bus 3.0, section 3.2.2.3.2), ECAM (PCI Express 3.0,
 * section 7.2.2; the functions are conventional ones, so beyond 256 bytes there is nothing), and
 * bus 0 with its host bridge, which bears the identity of Intel's 440FX so that firmware knows it.
 * BARs are in pci_bar.c, messages in pci_msi.c.
 */
#include "dev/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/pc_layout.h"
#include "dev/pci_bus.h"
#include "mem/mem.h"

#define ADDRESS_ENABLE (1u << 31)
#define ADDRESS_BITS 0x80fffffcu
#define RESET_OFF 1         /* 0xcf9 */
#define COMMAND_BITS 0x0547 /* I/O, memory, master, parity, SERR, INTx off */
#define FIRST_CAP 0x40

/* --- functions --- */

uint32_t pci_config_read(const struct pci_function *f, unsigned off, unsigned size) {
    uint32_t v = 0;

    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++)
        v |= (uint32_t)f->config[off + i] << 8 * i;
    return v;
}

void pci_config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++) {
        uint8_t mask = f->writable[off + i], v = (uint8_t)(value >> 8 * i);
        f->config[off + i] = (uint8_t)((f->config[off + i] & ~mask) | (v & mask));
    }
    if (!f->bus)
        return;
    pci_bars_written(f, off, size);
    pci_msi_written(f, off, size);
    if (pci_overlaps(off, size, PCI_COMMAND, 2))
        pci_intx_update(f);
}

void pci_config_set(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++)
        f->config[off + i] = (uint8_t)(value >> 8 * i);
}

void pci_init(struct pci_function *f, const struct pci_id *id) {
    pci_config_set(f, PCI_VENDOR_ID, 2, id->vendor);
    pci_config_set(f, PCI_DEVICE_ID, 2, id->device);
    pci_config_set(f, PCI_REVISION, 1, id->revision);
    pci_config_set(f, PCI_CLASS, 3, id->class_code);
    pci_config_set(f, PCI_SUBSYSTEM_VENDOR, 2, id->subsystem_vendor);
    pci_config_set(f, PCI_SUBSYSTEM_ID, 2, id->subsystem);
    pci_config_set(f, PCI_INTERRUPT_PIN, 1, id->pin);
    f->writable[PCI_COMMAND] = COMMAND_BITS & 0xff;
    f->writable[PCI_COMMAND + 1] = COMMAND_BITS >> 8;
    f->writable[PCI_CACHE_LINE] = f->writable[PCI_LATENCY] = 0xff;
    f->writable[PCI_INTERRUPT_LINE] = 0xff;
    f->cap_end = FIRST_CAP;
    f->cap_link = PCI_CAPABILITIES;
    pci_msix_init(f);
}

unsigned pci_add_cap(struct pci_function *f, uint8_t id, unsigned size) {
    unsigned at = f->cap_end;

    f->cap_end += (unsigned)align_up(size, 4);
    f->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    f->config[f->cap_link] = (uint8_t)at;
    f->config[at] = id;
    f->cap_link = at + 1;
    return at;
}

/* --- the interrupt pin --- */

void pci_intx_update(struct pci_function *f) {
    struct pci_bus *b = f->bus;
    unsigned pin = f->config[PCI_INTERRUPT_PIN];
    bool off = pci_config_read(f, PCI_COMMAND, 2) & PCI_COMMAND_INTX_OFF;
    bool line = f->intx && !off && !pci_msi_enabled(f) && !pci_msix_enabled(f);

    f->config[PCI_STATUS] =
        (uint8_t)((f->config[PCI_STATUS] & ~PCI_STATUS_INTX) | (f->intx ? PCI_STATUS_INTX : 0));
    if (line == f->line || !b || !pin)
        return;
    f->line = line;
    unsigned gsi = PC_PCI_GSI(PCI_SLOT(f->devfn), pin - 1u), n = gsi - PC_PCI_GSI_FIRST;
    b->lines[n] += line ? 1u : -1u;
    if (b->config.gsi.set)
        b->config.gsi.set(b->config.gsi.arg, gsi, b->lines[n] != 0);
}

void pci_set_intx(struct pci_function *f, bool level) {
    f->intx = level;
    pci_intx_update(f);
}

/* --- mechanism 1 and ECAM --- */

static uint64_t function_read(struct pci_function *f, unsigned off, unsigned size) {
    if (!f || off >= PCI_CONFIG_SIZE)
        return UINT64_MAX;
    return f->read ? f->read(f, off, size) : pci_config_read(f, off, size);
}

static void function_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    if (!f || off >= PCI_CONFIG_SIZE)
        return;
    if (f->write)
        f->write(f, off, size, value);
    else
        pci_config_write(f, off, size, value);
}

static struct pci_function *addressed(const struct pci_bus *b) {
    bool bus0 = (b->address >> 16 & 0xff) == 0;

    return b->address & ADDRESS_ENABLE && bus0 ? b->slot[b->address >> 8 & 0xff] : NULL;
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size) {
    const struct pci_bus *b = dev;

    return function_read(addressed(b), (b->address & 0xfc) + (unsigned)off, size);
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    const struct pci_bus *b = dev;

    function_write(addressed(b), (b->address & 0xfc) + (unsigned)off, size, (uint32_t)value);
}

static const struct io_ops data_io = {
    .read = data_read,
    .write = data_write,
    .min_size = 1,
    .max_size = 4,
};

/* Only a 32-bit access reaches the address register; narrower ones are ordinary port accesses. */
static uint64_t address_read(void *dev, uint64_t off, unsigned size) {
    const struct pci_bus *b = dev;

    if (size == 4)
        return b->address;
    if (size == 1 && off == RESET_OFF)
        return b->config.reset.read(b->config.reset.arg);
    return UINT64_MAX;
}

static void address_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pci_bus *b = dev;

    if (size == 4)
        b->address = (uint32_t)value & ADDRESS_BITS;
    else if (size == 1 && off == RESET_OFF)
        b->config.reset.write(b->config.reset.arg, (uint8_t)value);
}

static const struct io_ops address_io = {
    .read = address_read,
    .write = address_write,
    .min_size = 1,
    .max_size = 4,
};

static uint64_t ecam_read(void *dev, uint64_t off, unsigned size) {
    const struct pci_bus *b = dev;

    return function_read(b->slot[off >> 12 & 0xff], off & 0xfff, size);
}

static void ecam_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    const struct pci_bus *b = dev;

    function_write(b->slot[off >> 12 & 0xff], off & 0xfff, size, (uint32_t)value);
}

static const struct io_ops ecam_io = {
    .read = ecam_read,
    .write = ecam_write,
    .min_size = 1,
    .max_size = 4,
};

/* --- the bus --- */

int pci_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *f) {
    if (bus->slot[devfn])
        return -EBUSY;
    bus->slot[devfn] = f;
    f->bus = bus;
    f->devfn = devfn;
    memcpy(f->reset_config, f->config, sizeof(f->config));
    return 0;
}

void pci_remove(struct pci_bus *bus, uint8_t devfn) {
    struct pci_function *f = bus->slot[devfn];

    if (!f)
        return;
    pci_set_intx(f, false);
    pci_bars_unmap(f);
    f->bus = NULL;
    bus->slot[devfn] = NULL;
    pci_bars_update(bus);
}

struct pci_function *pci_at(struct pci_bus *bus, uint8_t devfn) {
    return bus->slot[devfn];
}

int pci_free_slot(const struct pci_bus *bus) {
    for (int slot = 0; slot < 32; slot++) {
        unsigned used = 0;

        for (unsigned i = 0; i < 8; i++)
            used += bus->slot[PCI_DEVFN(slot, i)] != NULL;
        if (!used)
            return slot;
    }
    return -1;
}

static void init_bridge(struct pci_function *f) {
    pci_config_set(f, PCI_VENDOR_ID, 2, 0x8086);
    pci_config_set(f, PCI_DEVICE_ID, 2, 0x1237);
    pci_config_set(f, PCI_COMMAND, 2, 0x0006);
    pci_config_set(f, PCI_STATUS, 2, 0x0280);
    pci_config_set(f, PCI_REVISION, 1, 0x02);
    pci_config_set(f, PCI_CLASS, 3, 0x060000);
}

/* --- state --- */

void pci_function_reset(struct pci_function *f) {
    pci_bars_unmap(f);
    memcpy(f->config, f->reset_config, sizeof(f->config));
    pci_msix_reset(f);
    pci_set_intx(f, false);
}

static void pci_bus_reset(struct device *d) {
    struct pci_bus *b = (struct pci_bus *)d;

    b->address = 0;
}

static void pci_bus_save(const struct device *d, struct record_writer *w) {
    const struct pci_bus *b = (const struct pci_bus *)d;

    rec_put_u32(w, b->address);
}

static int pci_bus_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    uint32_t address = rec_get_u32(r);
    if (address & ~ADDRESS_BITS)
        return err_set(e, 0, "pci: configuration address 0x%08x", address);
    return rec_done(r, e);
}

static void pci_bus_load(struct device *d, struct record_reader *r) {
    struct pci_bus *b = (struct pci_bus *)d;

    b->address = rec_get_u32(r);
}

/* Functions that outlive the bus are simply no longer on one. */
static void pci_bus_destroy(struct device *d) {
    struct pci_bus *b = (struct pci_bus *)d;

    for (unsigned i = 0; i < ARRAY_LEN(b->slot); i++)
        pci_remove(b, (uint8_t)i);
    for (unsigned i = 0; i < ARRAY_LEN(b->region); i++)
        if (b->region[i])
            mem_del_region(b->mem, b->region[i]);
    free(b);
}

static const struct device_ops pci_bus_ops = {
    .name = "pci",
    .version = 1,
    .reset = pci_bus_reset,
    .save = pci_bus_save,
    .check = pci_bus_check,
    .load = pci_bus_load,
    .destroy = pci_bus_destroy,
};

static bool add_regions(struct pci_bus *b, struct err *e) {
    b->region[0] = mem_add_port(b->mem, PC_PCI_ADDR, 4, "pci address", &address_io, b, e);
    if (b->region[0])
        b->region[1] = mem_add_port(b->mem, PC_PCI_DATA, 4, "pci data", &data_io, b, e);
    if (b->region[1])
        b->region[2] =
            mem_add_mmio(b->mem, GPA(PC_ECAM_BASE), PC_ECAM_SIZE, "pci ecam", &ecam_io, b, e);
    return b->region[2];
}

struct pci_bus *pci_bus_new(struct mem *m, const struct pci_bus_config *config, struct err *e) {
    struct pci_bus *b = xcalloc(1, sizeof(*b));

    b->dev.ops = &pci_bus_ops;
    b->mem = m;
    b->config = *config;
    init_bridge(&b->bridge);
    pci_add(b, PCI_DEVFN(0, 0), &b->bridge);
    if (add_regions(b, e))
        return b;
    pci_bus_destroy(&b->dev);
    return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI configuration mechanism 1 (PCI Local Bus 3.0, section 3.2.2.3.2) and bus 0 with its host
 * bridge, which bears the identity of Intel's 440FX so that firmware knows it.
 */
#include "dev/pci.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"

enum { PORT_ADDRESS = 0xcf8, PORT_DATA = 0xcfc };
#define ADDRESS_ENABLE (1u << 31)
#define ADDRESS_BITS 0x80fffffcu
#define RESET_OFF 1 /* 0xcf9 */

struct pci_bus {
    struct device dev;
    struct mem *mem;
    struct region *region[2];
    struct pci_reset_port reset;
    uint32_t address;
    struct pci_function bridge;
    struct pci_function *slot[256];
};

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
}

void pci_config_set(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++)
        f->config[off + i] = (uint8_t)(value >> 8 * i);
}

/* --- mechanism 1 --- */

static struct pci_function *addressed(const struct pci_bus *b) {
    bool bus0 = (b->address >> 16 & 0xff) == 0;

    return b->address & ADDRESS_ENABLE && bus0 ? b->slot[b->address >> 8 & 0xff] : NULL;
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size) {
    const struct pci_bus *b = dev;
    struct pci_function *f = addressed(b);
    unsigned at = (b->address & 0xfc) + (unsigned)off;

    if (!f)
        return UINT64_MAX;
    return f->read ? f->read(f, at, size) : pci_config_read(f, at, size);
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    const struct pci_bus *b = dev;
    struct pci_function *f = addressed(b);
    unsigned at = (b->address & 0xfc) + (unsigned)off;

    if (!f)
        return;
    if (f->write)
        f->write(f, at, size, (uint32_t)value);
    else
        pci_config_write(f, at, size, (uint32_t)value);
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
        return b->reset.read(b->reset.arg);
    return UINT64_MAX;
}

static void address_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pci_bus *b = dev;

    if (size == 4)
        b->address = (uint32_t)value & ADDRESS_BITS;
    else if (size == 1 && off == RESET_OFF)
        b->reset.write(b->reset.arg, (uint8_t)value);
}

static const struct io_ops address_io = {
    .read = address_read,
    .write = address_write,
    .min_size = 1,
    .max_size = 4,
};

/* --- the bus --- */

int pci_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *f) {
    if (bus->slot[devfn])
        return -EBUSY;
    bus->slot[devfn] = f;
    return 0;
}

void pci_remove(struct pci_bus *bus, uint8_t devfn) {
    bus->slot[devfn] = NULL;
}

static void init_bridge(struct pci_function *f) {
    pci_config_set(f, PCI_VENDOR_ID, 2, 0x8086);
    pci_config_set(f, PCI_DEVICE_ID, 2, 0x1237);
    pci_config_set(f, PCI_COMMAND, 2, 0x0006);
    pci_config_set(f, PCI_STATUS, 2, 0x0280);
    pci_config_set(f, PCI_REVISION, 1, 0x02);
    pci_config_set(f, PCI_CLASS, 3, 0x060000);
}

static void pci_reset(struct device *d) {
    struct pci_bus *b = (struct pci_bus *)d;

    b->address = 0;
}

static void pci_save(const struct device *d, struct record_writer *w) {
    const struct pci_bus *b = (const struct pci_bus *)d;

    rec_put_u32(w, b->address);
}

static int pci_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    uint32_t address = rec_get_u32(r);
    if (address & ~ADDRESS_BITS)
        return err_set(e, 0, "pci: configuration address 0x%08x", address);
    return rec_done(r, e);
}

static void pci_load(struct device *d, struct record_reader *r) {
    struct pci_bus *b = (struct pci_bus *)d;

    b->address = rec_get_u32(r);
}

static void pci_destroy(struct device *d) {
    struct pci_bus *b = (struct pci_bus *)d;

    for (unsigned i = 0; i < ARRAY_LEN(b->region); i++)
        if (b->region[i])
            mem_del_region(b->mem, b->region[i]);
    free(b);
}

static const struct device_ops pci_ops = {
    .name = "pci",
    .version = 1,
    .reset = pci_reset,
    .save = pci_save,
    .check = pci_check,
    .load = pci_load,
    .destroy = pci_destroy,
};

struct pci_bus *pci_bus_new(struct mem *m, const struct pci_reset_port *reset, struct err *e) {
    struct pci_bus *b = xcalloc(1, sizeof(*b));

    b->dev.ops = &pci_ops;
    b->mem = m;
    b->reset = *reset;
    init_bridge(&b->bridge);
    b->slot[PCI_DEVFN(0, 0)] = &b->bridge;
    b->region[0] = mem_add_port(m, PORT_ADDRESS, 4, "pci address", &address_io, b, e);
    if (b->region[0])
        b->region[1] = mem_add_port(m, PORT_DATA, 4, "pci data", &data_io, b, e);
    if (!b->region[1]) {
        pci_destroy(&b->dev);
        return NULL;
    }
    return b;
}

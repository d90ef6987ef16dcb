/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI hot-plug registers for ACPI's methods (the DSDT's part is in boot/acpi.c), with the layout
 * that QEMU documents in "ACPI PCI hotplug interface": per slot of bus 0 a bit each for "a device
 * has come", "please let it go", "may be ejected"; written to, the eject register takes devices
 * away. Bus selection and indexes are left out: there is one bus.
 */
#include "dev/pci_hotplug.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum { REG_UP = 0x00, REG_DOWN = 0x04, REG_EJECT = 0x08, REG_REMOVABLE = 0x0c };

struct pci_hotplug {
    struct device dev;
    struct mem *mem;
    struct region *region;
    struct pci_hotplug_events events;
    uint32_t up, down; /* news that wait to be read; requests that wait to be followed */
    uint32_t removable;
};

static void set_bit(uint32_t *set, unsigned slot, bool on) {
    *set = (*set & ~(1u << slot)) | (uint32_t)on << slot;
}

/* To read that a device has come is to know it. A request stays until it is followed, so that an
 * operating system that was not ready for it finds it again with the next event. */
static uint64_t hotplug_read(void *dev, uint64_t off, unsigned size) {
    struct pci_hotplug *h = dev;
    uint32_t up = h->up;

    (void)size;
    switch (off) {
    case REG_UP:
        h->up = 0;
        return up;
    case REG_DOWN:
        return h->down;
    case REG_REMOVABLE:
        return h->removable;
    default:
        return 0; /* REG_EJECT: the base set of features */
    }
}

static void eject(struct pci_hotplug *h, uint32_t slots) {
    for (unsigned slot = 0; slot < 32; slot++) {
        if (!((slots & h->removable) >> slot & 1))
            continue;
        pci_hotplug_set_removable(h, slot, false);
        h->events.eject(h->events.arg, slot);
    }
}

static void hotplug_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)size;
    if (off == REG_EJECT)
        eject(dev, (uint32_t)value);
}

static const struct io_ops hotplug_io = {
    .read = hotplug_read,
    .write = hotplug_write,
    .min_size = 4,
    .max_size = 4,
};

void pci_hotplug_set_removable(struct pci_hotplug *h, unsigned slot, bool removable) {
    set_bit(&h->removable, slot, removable);
    if (removable)
        return;
    set_bit(&h->up, slot, false);
    set_bit(&h->down, slot, false);
}

void pci_hotplug_added(struct pci_hotplug *h, unsigned slot) {
    pci_hotplug_set_removable(h, slot, true);
    set_bit(&h->up, slot, true);
    h->events.news(h->events.arg);
}

void pci_hotplug_ask(struct pci_hotplug *h, unsigned slot) {
    set_bit(&h->down, slot, true);
    h->events.news(h->events.arg);
}

/* --- device --- */

/* After a reset nobody uses the devices any more that were asked for, and the others are found
 * without news. */
static void hotplug_reset(struct device *d) {
    struct pci_hotplug *h = (struct pci_hotplug *)d;

    eject(h, h->down);
    h->up = h->down = 0;
}

static void hotplug_save(const struct device *d, struct record_writer *w) {
    const struct pci_hotplug *h = (const struct pci_hotplug *)d;

    rec_put_u32(w, h->up);
    rec_put_u32(w, h->down);
}

/* What may be ejected follows from which devices the machine has. */
static int hotplug_check(const struct device *d, struct record_reader *r, struct err *e) {
    const struct pci_hotplug *h = (const struct pci_hotplug *)d;
    uint32_t up = rec_get_u32(r), down = rec_get_u32(r);

    if ((up | down) & ~h->removable)
        return err_set(e, 0, "pci_hotplug: slots 0x%08x, of which 0x%08x can be plugged", up | down,
                       h->removable);
    return rec_done(r, e);
}

static void hotplug_load(struct device *d, struct record_reader *r) {
    struct pci_hotplug *h = (struct pci_hotplug *)d;

    h->up = rec_get_u32(r);
    h->down = rec_get_u32(r);
}

static void hotplug_destroy(struct device *d) {
    struct pci_hotplug *h = (struct pci_hotplug *)d;

    if (h->region)
        mem_del_region(h->mem, h->region);
    free(h);
}

static const struct device_ops hotplug_ops = {
    .name = "pci_hotplug",
    .version = 1,
    .reset = hotplug_reset,
    .save = hotplug_save,
    .check = hotplug_check,
    .load = hotplug_load,
    .destroy = hotplug_destroy,
};

struct pci_hotplug *pci_hotplug_new(struct mem *m, const struct pci_hotplug_events *events,
                                    struct err *e) {
    struct pci_hotplug *h = xcalloc(1, sizeof(*h));

    h->dev.ops = &hotplug_ops;
    h->mem = m;
    h->events = *events;
    h->region =
        mem_add_port(m, PC_PCI_HOTPLUG, PC_PCI_HOTPLUG_LEN, "pci hotplug", &hotplug_io, h, e);
    if (h->region)
        return h;
    hotplug_destroy(&h->dev);
    return NULL;
}

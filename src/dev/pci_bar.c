/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Base address registers (PCI Local Bus 3.0, section 6.2.5): sizing falls out of which of their
 * bits are writable; a BAR is mapped while its space is enabled and nothing else is there.
 */
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/pc_layout.h"
#include "dev/pci_bus.h"
#include "mem/mem.h"

#define BAR_REGS (4u * PCI_BARS)

enum { BAR_IO = 1, BAR_64BIT = 4, BAR_PREFETCHABLE = 8 };

static unsigned reg_of(unsigned index) {
    return PCI_BAR0 + 4 * index;
}

static void set_writable(struct pci_function *f, unsigned off, unsigned bytes, uint64_t mask) {
    for (unsigned i = 0; i < bytes; i++)
        f->writable[off + i] = (uint8_t)(mask >> 8 * i);
}

void pci_set_bar(struct pci_function *f, unsigned index, const struct pci_bar *bar) {
    unsigned wide = bar->kind == PCI_BAR_MEM64, flags = 0;

    f->bar[index] = *bar;
    if (bar->kind == PCI_BAR_IO)
        flags = BAR_IO;
    else
        flags = (wide ? BAR_64BIT : 0) | (bar->prefetchable ? BAR_PREFETCHABLE : 0);
    pci_config_set(f, reg_of(index), 4, flags);
    set_writable(f, reg_of(index), wide ? 8 : 4, ~(bar->size - 1));
}

static uint64_t address_of(const struct pci_function *f, unsigned index) {
    const struct pci_bar *bar = &f->bar[index];
    uint64_t v = pci_config_read(f, reg_of(index), 4);

    if (bar->kind == PCI_BAR_MEM64)
        v |= (uint64_t)pci_config_read(f, reg_of(index + 1), 4) << 32;
    return v & ~(bar->size - 1);
}

/* Address 0 is that of a BAR that nobody has given one. */
static bool wanted(const struct pci_function *f, unsigned index) {
    const struct pci_bar *bar = &f->bar[index];
    uint32_t command = pci_config_read(f, PCI_COMMAND, 2);
    uint64_t at = address_of(f, index);

    if (bar->kind == PCI_BAR_NONE || !at)
        return false;
    if (bar->kind == PCI_BAR_IO)
        return command & PCI_COMMAND_IO && range_within(at, bar->size, 0x10000);
    return command & PCI_COMMAND_MEMORY && range_within(at, bar->size, UINT64_MAX);
}

static void unmap(struct pci_function *f, struct pci_bar *bar) {
    if (bar->region)
        mem_del_region(f->bus->mem, bar->region);
    bar->region = NULL;
}

static void map(struct pci_function *f, unsigned index) {
    struct pci_bar *bar = &f->bar[index];
    struct mem *m = f->bus->mem;

    if (bar->region || !wanted(f, index))
        return;
    bar->at = address_of(f, index);
    bar->region = bar->kind == PCI_BAR_IO ? mem_add_port(m, (uint16_t)bar->at, (uint32_t)bar->size,
                                                         bar->name, bar->ops, bar->dev, NULL)
                                          : mem_add_mmio(m, GPA(bar->at), bar->size, bar->name,
                                                         bar->ops, bar->dev, NULL);
}

static void drop_stale(struct pci_function *f) {
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];

        if (bar->region && (!wanted(f, i) || address_of(f, i) != bar->at))
            unmap(f, bar);
    }
}

/* What lies on something else is not mapped; it may find room when another one moves away. */
void pci_bars_update(struct pci_bus *bus) {
    for (unsigned devfn = 0; devfn < ARRAY_LEN(bus->slot); devfn++)
        for (unsigned i = 0; bus->slot[devfn] && i < PCI_BARS; i++)
            map(bus->slot[devfn], i);
}

void pci_bars_unmap(struct pci_function *f) {
    for (unsigned i = 0; f->bus && i < PCI_BARS; i++)
        unmap(f, &f->bar[i]);
}

void pci_bars_written(struct pci_function *f, unsigned off, unsigned size) {
    if (!pci_overlaps(off, size, PCI_COMMAND, 2) && !pci_overlaps(off, size, PCI_BAR0, BAR_REGS))
        return;
    drop_stale(f);
    pci_bars_update(f->bus);
}

/* --- addresses, where no firmware gives any --- */

struct room {
    uint64_t next, end;
};

static void assign(struct pci_function *f, unsigned index, struct room *room) {
    const struct pci_bar *bar = &f->bar[index];
    uint64_t at = align_up(room->next, bar->size);

    if (!range_within(at, bar->size, room->end))
        return;
    room->next = at + bar->size;
    pci_config_write(f, reg_of(index), 4, (uint32_t)at);
    if (bar->kind == PCI_BAR_MEM64)
        pci_config_write(f, reg_of(index + 1), 4, (uint32_t)(at >> 32));
}

static void assign_function(struct pci_function *f, struct room *io, struct room *memory) {
    uint32_t command = pci_config_read(f, PCI_COMMAND, 2);
    unsigned pin = f->config[PCI_INTERRUPT_PIN];

    for (unsigned i = 0; i < PCI_BARS; i++) {
        enum pci_bar_kind kind = f->bar[i].kind;

        if (kind != PCI_BAR_NONE)
            assign(f, i, kind == PCI_BAR_IO ? io : memory);
        if (kind == PCI_BAR_IO)
            command |= PCI_COMMAND_IO;
        else if (kind != PCI_BAR_NONE)
            command |= PCI_COMMAND_MEMORY;
    }
    if (pin)
        pci_config_write(f, PCI_INTERRUPT_LINE, 1, PC_PCI_GSI(PCI_SLOT(f->devfn), pin - 1u));
    pci_config_write(f, PCI_COMMAND, 2, command);
}

void pci_bus_assign(struct pci_bus *bus) {
    struct room io = {PC_PCI_IO, 0x10000}, memory = {PC_HOLE, PC_PCI_MMIO_END};

    for (unsigned devfn = 0; devfn < ARRAY_LEN(bus->slot); devfn++)
        if (bus->slot[devfn])
            assign_function(bus->slot[devfn], &io, &memory);
}

/* --- state --- */

void pci_function_save(const struct pci_function *f, struct record_writer *w) {
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        rec_put_u8(w, f->config[i] & f->writable[i]);
    rec_put_u8(w, f->intx);
    for (unsigned i = 0; i < f->msix.vectors; i++)
        for (unsigned k = 0; k < 4; k++)
            rec_put_u32(w, f->msix.table[i][k]);
    for (unsigned i = 0; i < (f->msix.vectors + 31) / 32; i++)
        rec_put_u32(w, f->msix.pending[i]);
}

int pci_function_check(const struct pci_function *f, struct record_reader *r, struct err *e) {
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t v = rec_get_u8(r);

        if (v & ~f->writable[i])
            return err_set(e, 0, "pci %02x.%x: register 0x%02x: 0x%02x", f->devfn >> 3,
                           f->devfn & 7u, i, v);
    }
    if (rec_get_u8(r) > 1)
        return err_set(e, 0, "pci: interrupt pin");
    for (unsigned i = 0; i < 4 * f->msix.vectors; i++)
        rec_get_u32(r);
    for (unsigned i = 0; i < (f->msix.vectors + 31) / 32; i++)
        rec_get_u32(r);
    return 0;
}

void pci_function_load(struct pci_function *f, struct record_reader *r) {
    pci_bars_unmap(f);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        f->config[i] = (uint8_t)((f->config[i] & ~f->writable[i]) | rec_get_u8(r));
    f->intx = rec_get_u8(r);
    for (unsigned i = 0; i < f->msix.vectors; i++)
        for (unsigned k = 0; k < 4; k++)
            f->msix.table[i][k] = rec_get_u32(r);
    for (unsigned i = 0; i < (f->msix.vectors + 31) / 32; i++)
        f->msix.pending[i] = rec_get_u32(r);
    if (!f->bus)
        return;
    pci_bars_update(f->bus);
    pci_msi_written(f, 0, PCI_CONFIG_SIZE);
    pci_intx_update(f);
}

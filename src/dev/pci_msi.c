/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI and MSI-X (PCI Local Bus 3.0, section 6.8). Pending bits are set while a vector, or all of
 * them, are masked, and while the function may not write to memory at all.
 */
#include "dev/pci_msi.h"

#include <stdlib.h>

#include "base/util.h"
#include "dev/apic_bus.h"
#include "dev/pci_bus.h"
#include "mem/mem.h"

/* MSI capability with 64-bit addresses and per-vector masks (6.8.1). */
enum {
    MSI_CONTROL = 2,
    MSI_ADDRESS = 4,
    MSI_DATA = 12,
    MSI_MASK = 16,
    MSI_PENDING = 20,
    MSI_BYTES = 24,
    MSI_ENABLE = 0x0001,
    MSI_WIDE = 0x0080,
    MSI_MASKABLE = 0x0100,
};

/* MSI-X capability (6.8.2); the pending bits start in the middle of its BAR. */
enum {
    MSIX_CONTROL = 2,
    MSIX_TABLE = 4,
    MSIX_PBA = 8,
    MSIX_BYTES = 12,
    MSIX_MASK_ALL = 0x4000,
    MSIX_ENABLE = 0x8000,
    MSIX_BAR = 4096,
    MSIX_PBA_AT = 2048,
};
enum { ENTRY_LOW, ENTRY_HIGH, ENTRY_DATA, ENTRY_CONTROL, ENTRY_MASKED = 1 };

struct message {
    uint64_t addr;
    uint32_t data;
};

static void send(const struct pci_function *f, const struct message *m) {
    const struct pci_bus *b = f->bus;

    if (b && b->config.msi)
        b->config.msi(b->config.msi_arg, m->addr, m->data);
}

static bool is_master(const struct pci_function *f) {
    return f->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* --- MSI-X --- */

void pci_msix_init(struct pci_function *f) {
    pthread_mutex_init(&f->msix.lock, NULL);
}

void pci_msix_reset(struct pci_function *f) {
    struct pci_msix *x = &f->msix;

    pthread_mutex_lock(&x->lock);
    x->on = false;
    x->masked = true;
    for (unsigned i = 0; i < x->vectors; i++) {
        x->table[i][ENTRY_LOW] = x->table[i][ENTRY_HIGH] = x->table[i][ENTRY_DATA] = 0;
        x->table[i][ENTRY_CONTROL] = ENTRY_MASKED;
        x->pending[i / 32] = 0;
    }
    pthread_mutex_unlock(&x->lock);
}

void pci_fini(struct pci_function *f) {
    free(f->msix.table);
    free(f->msix.pending);
    pthread_mutex_destroy(&f->msix.lock);
}

bool pci_msix_enabled(struct pci_function *f) {
    struct pci_msix *x = &f->msix;

    if (!x->vectors)
        return false;
    pthread_mutex_lock(&x->lock);
    bool on = x->on;
    pthread_mutex_unlock(&x->lock);
    return on;
}

/* With the lock held: whether the message may go now; otherwise it is remembered. */
static bool take(struct pci_msix *x, unsigned vector, struct message *m) {
    const uint32_t *entry = x->table[vector];
    uint32_t bit = 1u << vector % 32;

    if (x->masked || entry[ENTRY_CONTROL] & ENTRY_MASKED) {
        x->pending[vector / 32] |= bit;
        return false;
    }
    x->pending[vector / 32] &= ~bit;
    *m = (struct message){(uint64_t)entry[ENTRY_HIGH] << 32 | entry[ENTRY_LOW], entry[ENTRY_DATA]};
    return true;
}

void pci_msix_raise(struct pci_function *f, unsigned vector) {
    struct pci_msix *x = &f->msix;
    struct message m;

    if (vector >= x->vectors)
        return;
    pthread_mutex_lock(&x->lock);
    bool go = x->on && take(x, vector, &m);
    pthread_mutex_unlock(&x->lock);
    if (go)
        send(f, &m);
}

/* Sends what is pending and no longer masked. */
static void msix_catch_up(struct pci_function *f) {
    struct pci_msix *x = &f->msix;

    for (unsigned i = 0; i < x->vectors; i++) {
        struct message m;

        pthread_mutex_lock(&x->lock);
        bool go = x->on && x->pending[i / 32] >> i % 32 & 1 && take(x, i, &m);
        pthread_mutex_unlock(&x->lock);
        if (go)
            send(f, &m);
    }
}

static void msix_written(struct pci_function *f) {
    struct pci_msix *x = &f->msix;
    uint32_t control = pci_config_read(f, x->cap + MSIX_CONTROL, 2);

    pthread_mutex_lock(&x->lock);
    x->on = control & MSIX_ENABLE;
    x->masked = control & MSIX_MASK_ALL || !is_master(f);
    pthread_mutex_unlock(&x->lock);
    pci_intx_update(f);
    msix_catch_up(f);
}

static uint64_t msix_read(void *dev, uint64_t off, unsigned size) {
    struct pci_function *f = dev;
    struct pci_msix *x = &f->msix;
    unsigned i = (unsigned)(off / 16), word = (unsigned)(off - MSIX_PBA_AT) / 4;
    uint64_t v = 0;

    (void)size;
    pthread_mutex_lock(&x->lock);
    if (i < x->vectors)
        v = x->table[i][off / 4 % 4];
    else if (off >= MSIX_PBA_AT && word < (x->vectors + 31) / 32)
        v = x->pending[word];
    pthread_mutex_unlock(&x->lock);
    return v;
}

static void msix_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pci_function *f = dev;
    struct pci_msix *x = &f->msix;
    unsigned i = (unsigned)(off / 16), field = off / 4 % 4;

    (void)size;
    if (i >= x->vectors)
        return;
    pthread_mutex_lock(&x->lock);
    x->table[i][field] = (uint32_t)value & (field == ENTRY_CONTROL ? ENTRY_MASKED : UINT32_MAX);
    pthread_mutex_unlock(&x->lock);
    if (field == ENTRY_CONTROL)
        msix_catch_up(f);
}

static const struct io_ops msix_io = {
    .read = msix_read,
    .write = msix_write,
    .min_size = 4,
    .max_size = 4,
};

void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar) {
    const struct pci_bar b = {
        .kind = PCI_BAR_MEM32,
        .size = MSIX_BAR,
        .name = "msix",
        .ops = &msix_io,
        .dev = f,
    };
    struct pci_msix *x = &f->msix;

    x->vectors = MIN(vectors, (unsigned)PCI_MSIX_MAX);
    x->table = xcalloc(x->vectors, sizeof(*x->table));
    x->pending = xcalloc((x->vectors + 31) / 32, sizeof(*x->pending));
    x->cap = pci_add_cap(f, PCI_CAP_MSIX, MSIX_BYTES);
    pci_config_set(f, x->cap + MSIX_CONTROL, 2, x->vectors - 1);
    pci_config_set(f, x->cap + MSIX_TABLE, 4, bar);
    pci_config_set(f, x->cap + MSIX_PBA, 4, MSIX_PBA_AT | bar);
    f->writable[x->cap + MSIX_CONTROL + 1] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;
    pci_set_bar(f, bar, &b);
    pci_msix_reset(f);
}

/* --- MSI --- */

static uint32_t msi_get(const struct pci_function *f, unsigned off, unsigned size) {
    return pci_config_read(f, f->msi.cap + off, size);
}

bool pci_msi_enabled(const struct pci_function *f) {
    return f->msi.vectors && msi_get(f, MSI_CONTROL, 2) & MSI_ENABLE;
}

/* The guest may have enabled fewer vectors than there are; the low bits of the data say which. */
static void msi_send(const struct pci_function *f, unsigned vector) {
    unsigned enabled = 1u << (msi_get(f, MSI_CONTROL, 2) >> 4 & 7);
    uint32_t data = msi_get(f, MSI_DATA, 2);
    struct message m = {
        (uint64_t)msi_get(f, MSI_ADDRESS + 4, 4) << 32 | msi_get(f, MSI_ADDRESS, 4),
        (data & ~(enabled - 1)) | (vector & (enabled - 1)),
    };

    send(f, &m);
}

void pci_msi_raise(struct pci_function *f, unsigned vector) {
    uint32_t pending;

    if (vector >= f->msi.vectors || !pci_msi_enabled(f))
        return;
    if (is_master(f) && !(msi_get(f, MSI_MASK, 4) >> vector & 1)) {
        msi_send(f, vector);
        return;
    }
    pending = msi_get(f, MSI_PENDING, 4);
    pci_config_set(f, f->msi.cap + MSI_PENDING, 4, pending | 1u << vector);
}

static void msi_written(struct pci_function *f) {
    uint32_t pending = msi_get(f, MSI_PENDING, 4);

    pci_config_set(f, f->msi.cap + MSI_PENDING, 4, 0);
    for (unsigned i = 0; i < f->msi.vectors; i++)
        if (pending >> i & 1)
            pci_msi_raise(f, i);
    pci_intx_update(f);
}

void pci_add_msi(struct pci_function *f, unsigned vectors) {
    struct pci_msi *s = &f->msi;
    unsigned log = 0;

    while (1u << log < vectors && log < 5)
        log++;
    s->vectors = 1u << log;
    s->cap = pci_add_cap(f, PCI_CAP_MSI, MSI_BYTES);
    pci_config_set(f, s->cap + MSI_CONTROL, 2, MSI_WIDE | MSI_MASKABLE | log << 1);
    f->writable[s->cap + MSI_CONTROL] = MSI_ENABLE | 0x70;
    f->writable[s->cap + MSI_ADDRESS] = 0xfc;
    for (unsigned i = 1; i < 8; i++)
        f->writable[s->cap + MSI_ADDRESS + i] = 0xff;
    f->writable[s->cap + MSI_DATA] = f->writable[s->cap + MSI_DATA + 1] = 0xff;
    for (unsigned i = 0; i < 4; i++)
        f->writable[s->cap + MSI_MASK + i] = (uint8_t)(((1ull << s->vectors) - 1) >> 8 * i);
}

void pci_msi_written(struct pci_function *f, unsigned off, unsigned size) {
    bool command = pci_overlaps(off, size, PCI_COMMAND, 2);

    if (f->msix.vectors && (command || pci_overlaps(off, size, f->msix.cap, MSIX_BYTES)))
        msix_written(f);
    if (f->msi.vectors && (command || pci_overlaps(off, size, f->msi.cap, MSI_BYTES)))
        msi_written(f);
}

/* --- where messages go --- */

#define MSI_WINDOW 0xfee00000u
#define MSI_WINDOW_MASK 0xfff00000u

void pci_msi_to_apic(void *apic_bus, uint64_t addr, uint32_t data) {
    const struct apic_msg m = {
        .dest = addr >> 12 & 0xff,
        .logical = addr & 4,
        .level = data & 0x8000,
        .mode = data >> 8 & 7,
        .vector = (uint8_t)data,
    };

    if (addr >> 32 || ((uint32_t)addr & MSI_WINDOW_MASK) != MSI_WINDOW || m.mode == APIC_SIPI)
        return;
    apic_bus_send(apic_bus, &m);
}

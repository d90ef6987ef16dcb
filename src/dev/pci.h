/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI bus 0: configuration space through mechanism 1 and ECAM, base address
 * registers, INTx, MSI and MSI-X. A device embeds a struct pci_function,
 * describes itself once (identity, BARs, capabilities) and is plugged in; the
 * bus does the rest. See pci.c.
 *
 * All functions of this header run under the machine's I/O lock, or while no
 * vCPU runs, except where they say otherwise.
 */
#ifndef RINGFENCE_DEV_PCI_H
#define RINGFENCE_DEV_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/irq.h"

struct err;
struct io_ops;
struct mem;
struct pci_bus;
struct pci_function;
struct record_reader;
struct record_writer;
struct region;

#define PCI_CONFIG_SIZE 256
#define PCI_DEVFN(device, function) ((uint8_t)((device) << 3 | (function)))
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_BARS 6
#define PCI_MSIX_MAX 128

/* Offsets of the type 0 header (PCI Local Bus 3.0, section 6.1). */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, /* programming interface, sub-class, class */
    PCI_CACHE_LINE = 0x0c,
    PCI_LATENCY = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM = 0x30,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};

/* Command and status registers (6.2.2, 6.2.3). */
enum {
    PCI_COMMAND_IO = 0x0001,
    PCI_COMMAND_MEMORY = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_INTX_OFF = 0x0400,
    PCI_STATUS_INTX = 0x0008,
    PCI_STATUS_CAPABILITIES = 0x0010,
};

enum { PCI_CAP_MSI = 0x05, PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };

struct pci_id {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 0xccssii: class, sub-class, interface */
    uint8_t revision;
    uint8_t pin; /* INTA 1 to INTD 4; 0: no interrupt pin */
};

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    enum pci_bar_kind kind; /* MEM64 takes the next register, too */
    bool prefetchable;
    uint64_t size; /* a power of two; at least 4 (I/O) or 16 */
    const char *name;
    const struct io_ops *ops; /* as in mem.h, `off` relative to the BAR */
    void *dev;

    struct region *region; /* private: while it is mapped */
    uint64_t at;
};

/* Private: MSI-X table and pending bits; raised from any thread, so under a lock of their own. */
struct pci_msix {
    unsigned vectors, cap;
    pthread_mutex_t lock;
    bool on, masked;
    uint32_t (*table)[4];
    uint32_t *pending;
};

/* Private. */
struct pci_msi {
    unsigned vectors, cap;
};

/*
 * Embedded in a device. Bits of `config` that are set in `writable` are the
 * guest's to write. A function that has more to say on an access brings `read`
 * or `write`, which may call pci_config_read and pci_config_write for the rest;
 * they see sizes 1, 2 and 4, aligned.
 */
struct pci_function {
    uint32_t (*read)(struct pci_function *f, unsigned off, unsigned size);
    void (*write)(struct pci_function *f, unsigned off, unsigned size, uint32_t value);
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE];
    uint8_t reset_config[PCI_CONFIG_SIZE]; /* as it was when the function was
                                              plugged in */

    struct pci_bus *_Atomic bus; /* NULL: not plugged in. MSI(-X) looks from any thread */
    uint8_t devfn;
    struct pci_bar bar[PCI_BARS];
    unsigned cap_end, cap_link; /* where the next capability goes, and its pointer */
    struct pci_msix msix;
    struct pci_msi msi;
    bool intx; /* what the device drives */
    bool line; /* what gets through */
};

/* --- describing a function, before it is plugged in --- */

void pci_init(struct pci_function *f, const struct pci_id *id);
void pci_set_bar(struct pci_function *f, unsigned index, const struct pci_bar *bar);
/* Room for a capability of `size` bytes with its two-byte head; returns its
 * offset. The rest is zero and read-only. */
unsigned pci_add_cap(struct pci_function *f, uint8_t id, unsigned size);
/* MSI with 1 to 32 vectors (a power of two), 64-bit addresses, per-vector
 * masks. */
void pci_add_msi(struct pci_function *f, unsigned vectors);
/* MSI-X; table and pending bits take memory BAR `bar` for themselves. */
void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar);
/* Releases what a function that is not plugged in holds. */
void pci_fini(struct pci_function *f);

uint32_t pci_config_read(const struct pci_function *f, unsigned off, unsigned size);
void pci_config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value);
/* Sets what the guest reads, whatever `writable` says. */
void pci_config_set(struct pci_function *f, unsigned off, unsigned size, uint32_t value);

/* --- a function at work --- */

/* Drives the interrupt pin; it gets through unless the guest has disabled INTx
 * or enabled MSI(-X).
 */
void pci_set_intx(struct pci_function *f, bool level);
/* Whether the guest has enabled them. Any thread. */
bool pci_msix_enabled(struct pci_function *f);
bool pci_msi_enabled(const struct pci_function *f);
/* Sends a vector's message, or keeps it pending while it is masked. MSI-X: any
 * thread, no I/O lock needed; vectors that are not there are ignored. */
void pci_msix_raise(struct pci_function *f, unsigned vector);
void pci_msi_raise(struct pci_function *f, unsigned vector);

/* For the device's operations: header, BARs, MSI and MSI-X. check does not call
 * rec_done. */
void pci_function_reset(struct pci_function *f);
void pci_function_save(const struct pci_function *f, struct record_writer *w);
int pci_function_check(const struct pci_function *f, struct record_reader *r, struct err *e);
void pci_function_load(struct pci_function *f, struct record_reader *r);

/* --- the bus --- */

/* The byte port 0xcf9, which lies within the configuration address register's
 * four bytes. */
struct pci_reset_port {
    uint8_t (*read)(void *arg);
    void (*write)(void *arg, uint8_t value);
    void *arg;
};

struct pci_bus_config {
    struct pci_reset_port reset;
    struct irq_line gsi; /* driven with `pin` PC_PCI_GSI_FIRST to +3; its own is ignored */
    /* A write of `data` to a message address, from any thread. */
    void (*msi)(void *arg, uint64_t addr, uint32_t data);
    void *msi_arg;
};

/* A bus with a host bridge at 00.0. NULL with the error set when its ports or
 * pages are taken. */
struct pci_bus *pci_bus_new(struct mem *m, const struct pci_bus_config *config, struct err *e);

/* Plugs a function in; -EBUSY when the slot is taken. The bus does not own it.
 */
int pci_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *f);
void pci_remove(struct pci_bus *bus, uint8_t devfn);
struct pci_function *pci_at(struct pci_bus *bus, uint8_t devfn);
/* The first slot without functions, or -1. */
int pci_free_slot(const struct pci_bus *bus);

/* What firmware does where there is none: gives every BAR an address and
 * enables the functions. */
void pci_bus_assign(struct pci_bus *bus);

#endif

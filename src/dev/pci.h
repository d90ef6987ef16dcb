/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI bus: configuration space of the functions on bus 0, reached through mechanism 1. See
 * pci.c. All functions of this header run under the I/O lock, or while no vCPU runs.
 */
#ifndef RINGFENCE_DEV_PCI_H
#define RINGFENCE_DEV_PCI_H

#include <stdint.h>

struct err;
struct mem;
struct pci_bus;
struct pci_function;

#define PCI_CONFIG_SIZE 256
#define PCI_DEVFN(device, function) ((uint8_t)((device) << 3 | (function)))

/* Offsets of the type 0 header (PCI Local Bus 3.0, section 6.1). */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, /* programming interface, sub-class, class */
    PCI_HEADER_TYPE = 0x0e,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
};

/*
 * Embedded in a device. Bits of `config` that are set in `writable` are the guest's to write.
 * A function that has more to say on an access brings `read` or `write`, which may call
 * pci_config_read and pci_config_write for the rest; they see sizes 1, 2 and 4, aligned.
 */
struct pci_function {
    uint32_t (*read)(struct pci_function *f, unsigned off, unsigned size);
    void (*write)(struct pci_function *f, unsigned off, unsigned size, uint32_t value);
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE];
};

uint32_t pci_config_read(const struct pci_function *f, unsigned off, unsigned size);
void pci_config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value);
/* Sets what the guest reads, whatever `writable` says. */
void pci_config_set(struct pci_function *f, unsigned off, unsigned size, uint32_t value);

/* The byte port 0xcf9, which lies within the configuration address register's four bytes. */
struct pci_reset_port {
    uint8_t (*read)(void *arg);
    void (*write)(void *arg, uint8_t value);
    void *arg;
};

/* A bus with a host bridge at 00.0. NULL with the error set when the ports are taken. */
struct pci_bus *pci_bus_new(struct mem *m, const struct pci_reset_port *reset, struct err *e);

/* Plugs a function in; -EBUSY when the slot is taken. The bus does not own it. */
int pci_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *f);
void pci_remove(struct pci_bus *bus, uint8_t devfn);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the PCI bus share: its state, and what a write to configuration space sets off.
 */
#ifndef RINGFENCE_DEV_PCI_BUS_H
#define RINGFENCE_DEV_PCI_BUS_H

#include "dev/device.h"
#include "dev/pci.h"

struct pci_bus {
    struct device dev;
    struct mem *mem;
    struct region *region[3];
    struct pci_bus_config config;
    uint32_t address;
    unsigned lines[4]; /* functions that assert each interrupt line */
    struct pci_function bridge;
    struct pci_function *slot[256];
};

/* Bytes [off, off + size) of a plugged-in function's registers were written by the guest. */
void pci_bars_written(struct pci_function *f, unsigned off, unsigned size);
void pci_msi_written(struct pci_function *f, unsigned off, unsigned size);

/* Makes what is mapped, or what gets through to the interrupt line, agree with the registers. */
void pci_bars_update(struct pci_bus *bus);
void pci_bars_unmap(struct pci_function *f);
void pci_intx_update(struct pci_function *f);

void pci_msix_init(struct pci_function *f);
void pci_msix_reset(struct pci_function *f);

static inline bool pci_overlaps(unsigned off, unsigned size, unsigned at, unsigned len) {
    return off < at + len && at < off + size;
}

#endif

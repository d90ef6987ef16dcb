/* SPDX-License-Identifier: Apache-2.0 */
/* Message-signalled interrupts on their way to the local APICs (SDM 3A 11.11). */
#ifndef RINGFENCE_DEV_PCI_MSI_H
#define RINGFENCE_DEV_PCI_MSI_H

#include <stdint.h>

/*
 * A write of `data` to a message address; fits `msi` of struct pci_bus_config, with the struct
 * apic_bus as argument. Any thread. Writes to other addresses are dropped.
 */
void pci_msi_to_apic(void *apic_bus, uint64_t addr, uint32_t data);

#endif

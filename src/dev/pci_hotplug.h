/* SPDX-License-Identifier: Apache-2.0 */
/* The registers through which an operating system learns of PCI slots' news, and ejects. See
 * pci_hotplug.c. */
#ifndef RINGFENCE_DEV_PCI_HOTPLUG_H
#define RINGFENCE_DEV_PCI_HOTPLUG_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct mem;
struct pci_hotplug;

/* Called under the I/O lock, on a vCPU's thread or in a reset. */
struct pci_hotplug_events {
    void (*news)(void *arg); /* raises the general-purpose event */
    /* The operating system has let go of the device in `slot`: it may be taken away. */
    void (*eject)(void *arg, unsigned slot);
    void *arg;
};

/* At PC_PCI_HOTPLUG. NULL with the error set when the ports are taken. */
struct pci_hotplug *pci_hotplug_new(struct mem *m, const struct pci_hotplug_events *events,
                                    struct err *e);

/* Under the I/O lock, or while no vCPU runs, all that follows. */

/* Whether there is a device in the slot that may be ejected. */
void pci_hotplug_set_removable(struct pci_hotplug *h, unsigned slot, bool removable);
/* Tells the operating system that a device has come, or asks it to let one go; again if need be. */
void pci_hotplug_added(struct pci_hotplug *h, unsigned slot);
void pci_hotplug_ask(struct pci_hotplug *h, unsigned slot);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio over PCI. See pci.c. */
#ifndef RINGFENCE_VIRTIO_PCI_H
#define RINGFENCE_VIRTIO_PCI_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct loop;
struct mem;
struct pci_bus;
struct virtio_device;
struct virtio_pci;

struct virtio_pci_config {
    uint8_t devfn;
    bool transitional; /* legacy drivers are served, too */
    struct loop *loop; /* the machine's: drives the interrupt pin for other threads */
};

/*
 * Plugs a device into the bus; owns it from then on, also when it fails. The first member is a
 * struct device, for the machine's list. NULL with the error set when the slot is taken.
 */
struct virtio_pci *virtio_pci_new(struct mem *m, struct pci_bus *bus, struct virtio_device *d,
                                  const struct virtio_pci_config *config, struct err *e);

/*
 * Pulls the device out of its slot while the machine runs, under the I/O lock: it is reset, the
 * guest sees it no more, and it interrupts no more. It does not wait: a vCPU may still be in one of
 * its handlers, and its back end may be at buffers that the guest gave it (virtio_idle tells); it
 * may be destroyed when neither is so any more.
 */
void virtio_pci_pull(struct virtio_pci *p);

#endif

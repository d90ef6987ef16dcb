/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of machine `pc` that differ from domain to domain, with the back ends that they are
 * for. Back ends, and the workers on whose loops they run, outlive the machine's threads but not
 * its devices: whoever opened them stops the workers, closes the back ends, then frees the machine.
 */
#ifndef RINGFENCE_MACHINE_DEVICES_H
#define RINGFENCE_MACHINE_DEVICES_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct err;
struct machine;
struct net;

/* How a virtio device is reached. */
enum machine_transport {
    MACHINE_PCI,         /* virtio 1.x and legacy drivers */
    MACHINE_PCI_MODERN,  /* virtio 1.x only */
    MACHINE_VIRTIO_MMIO, /* announced in the DSDT */
};

struct machine_disk {
    struct block *block;
    const char *serial; /* up to 20 characters, or NULL */
    unsigned queues;    /* 0: one for each vCPU, at most MACHINE_DISK_QUEUES */
};
#define MACHINE_DISK_QUEUES 8

struct machine_nic {
    struct net *net;
    uint8_t mac[6];
    unsigned pairs; /* of queues */
};

struct machine_devices {
    enum machine_transport transport;
    const struct machine_disk *disks;
    unsigned disk_count;
    const struct machine_nic *nics;
    unsigned nic_count;
    bool rng;
};

#define MACHINE_MMIO_MAX                                                                           \
    4 /* virtio-mmio devices, each with an interrupt line; the rest are on PCI */

/* For machine/pc.c: makes them all, in the order in which guests shall find them. */
int machine_add_devices(struct machine *m, struct err *e);

#endif

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
struct loop;
struct machine;
struct net;
struct p9_options;
struct virtio_console_port;

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
    bool scsi, cdrom;   /* behind a SCSI host of its own; as a CD drive */
};
#define MACHINE_DISK_QUEUES 8

struct machine_nic {
    struct net *net;
    uint8_t mac[6];
    unsigned pairs; /* of queues */
};

struct machine_share {
    const char *path, *tag;
    const struct p9_options *options;
    struct loop *loop; /* a worker's */
};

struct machine_vsock {
    const char *path; /* NULL: none */
    uint64_t cid;
    struct loop *loop;
};

/* What follows when the guest lets its watchdog run out. */
enum machine_watchdog { WATCHDOG_NONE, WATCHDOG_RESET, WATCHDOG_POWER_OFF };

struct machine_devices {
    enum machine_transport transport;
    const struct machine_disk *disks;
    unsigned disk_count;
    const struct machine_nic *nics;
    unsigned nic_count;
    const struct machine_share *shares;
    unsigned share_count;
    const struct virtio_console_port *ports; /* their streams are on the machine's loop */
    unsigned port_count;
    struct machine_vsock vsock;
    enum machine_watchdog watchdog; /* none: there isn't one */
    bool rng, balloon;
    uint64_t balloon_target; /* bytes that the guest shall give back at once */
};

/* Virtio-mmio devices, each with an interrupt line; the rest are on PCI. */
#define MACHINE_MMIO_MAX 4

/* For machine/pc.c: makes them all, in the order in which guests shall find them. */
int machine_add_devices(struct machine *m, struct err *e);

#endif

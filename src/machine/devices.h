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
struct virtio_device;
struct virtio_pci;
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

/*
 * Disks and network interfaces on PCI come and go while the machine runs. All that follows is for
 * the loop's thread.
 *
 * Going takes three steps. machine_detach asks the guest. When it lets go (which it may also do
 * unasked, and does by a reset when it was asked), the device disappears from its slot at once, and
 * machine_params.ejected is told when no vCPU looks at it any more. The back end's owner then ends
 * what is under way (machine_plug_idle says when that is), stops the worker, and machine_forget
 * frees the device. The slot is free for another one from the moment the guest lets go; the handle
 * is valid until machine_forget.
 */
struct machine_plug;

/* The slot's device, or NULL with the error set. Plugs it into a free slot and tells the guest. */
struct machine_plug *machine_attach_disk(struct machine *m, const struct machine_disk *disk,
                                         struct err *e);
struct machine_plug *machine_attach_nic(struct machine *m, const struct machine_nic *nic,
                                        struct err *e);
/* The one that machine_new made in front of this back end; NULL when it cannot be detached. */
struct machine_plug *machine_find_plug(const struct machine *m, const void *backend);

unsigned machine_plug_slot(const struct machine_plug *p);
/* Asks the guest to let go; again if it was asked before. */
void machine_detach(struct machine *m, struct machine_plug *p);
/* Whether an ejected device's back end has nothing under way for it any more. */
bool machine_plug_idle(const struct machine_plug *p);
/* Frees an ejected device. Its back end's worker is stopped, the back end is closed or idle. */
void machine_forget(struct machine *m, struct machine_plug *p);

/* For the files of machine/. */

/* A virtio device in its PCI slot, and what is behind it. */
struct machine_socket {
    struct virtio_pci *transport;
    struct virtio_device *device;
    const void *backend;
    unsigned slot;
};

/* Makes a device detachable; and tells the guest that it has come. */
struct machine_plug *machine_plug_new(struct machine *m, const struct machine_socket *s);
void machine_announce(struct machine *m, const struct machine_plug *p);

/* A guest lets go of a slot's device; frees what is ejected and not
 * forgotten. */
void machine_ejected(void *machine, unsigned slot);
void machine_free_plugs(struct machine *m);
/* Bit per PCI slot that is free, or whose device can be detached. */
uint32_t machine_hotplug_slots(const struct machine *m);

#endif

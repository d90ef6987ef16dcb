/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI devices that come and go while the machine runs. The list of them changes on the loop's
 * thread only, under the I/O lock, as a guest's ejecting looks at it from a vCPU's.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pci.h"
#include "dev/pci_hotplug.h"
#include "machine/devices.h"
#include "machine/pc.h"
#include "mem/mem.h"
#include "virtio/pci.h"
#include "virtio/virtio.h"

#define SLOTS 32

struct machine_plug {
    struct machine_plug *next;
    struct machine *machine;
    struct virtio_pci *transport;
    struct virtio_device *device;
    const void *backend;
    unsigned slot;
    bool ejected;
    bool unlisted; /* ejected, and no longer among the machine's devices */
};

struct machine_plug *machine_plug_new(struct machine *m, const struct machine_socket *s) {
    struct machine_plug *p = xcalloc(1, sizeof(*p));

    *p = (struct machine_plug){
        .next = m->plugs,
        .machine = m,
        .transport = s->transport,
        .device = s->device,
        .backend = s->backend,
        .slot = s->slot,
    };
    mem_io_lock(m->mem);
    m->plugs = p;
    pci_hotplug_set_removable(m->hotplug, p->slot, true);
    mem_io_unlock(m->mem);
    return p;
}

static struct machine_plug *in_slot(const struct machine *m, unsigned slot) {
    struct machine_plug *p = m->plugs;

    while (p && (p->slot != slot || p->ejected))
        p = p->next;
    return p;
}

struct machine_plug *machine_find_plug(const struct machine *m, const void *backend) {
    struct machine_plug *p = m->plugs;

    while (p && p->backend != backend)
        p = p->next;
    return p;
}

unsigned machine_plug_slot(const struct machine_plug *p) {
    return p->slot;
}

uint32_t machine_hotplug_slots(const struct machine *m) {
    uint32_t slots = 0;

    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (in_slot(m, slot) || !pci_at(m->pci, PCI_DEVFN(slot, 0)))
            slots |= 1u << slot;
    return slots;
}

void machine_announce(struct machine *m, const struct machine_plug *p) {
    mem_io_lock(m->mem);
    pci_hotplug_added(m->hotplug, p->slot);
    mem_io_unlock(m->mem);
}

void machine_detach(struct machine *m, struct machine_plug *p) {
    mem_io_lock(m->mem);
    if (!p->ejected)
        pci_hotplug_ask(m->hotplug, p->slot);
    mem_io_unlock(m->mem);
}

/* --- the guest lets go --- */

static void unlist(struct machine *m, struct device *d) {
    struct device **at = &m->devices;

    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    if (m->last_device == &d->next)
        m->last_device = at;
}

/* Held once, all vCPUs have left the handlers they were in. One of them may have been setting the
 * device up again, so it is reset anew. */
static void on_ejected(void *arg) {
    struct machine_plug *p = arg;
    struct machine *m = p->machine;

    machine_hold(m);
    mem_io_lock(m->mem);
    virtio_set_status(p->device, 0, false);
    mem_io_unlock(m->mem);
    unlist(m, (struct device *)p->transport);
    p->unlisted = true;
    machine_release(m);
    if (m->params.ejected)
        m->params.ejected(m->params.arg, p);
}

void machine_ejected(void *machine, unsigned slot) {
    struct machine *m = machine;
    struct machine_plug *p = in_slot(m, slot);

    if (!p)
        return;
    p->ejected = true;
    virtio_pci_pull(p->transport);
    loop_call(m->loop, on_ejected, p);
}

bool machine_plug_idle(const struct machine_plug *p) {
    return virtio_idle(p->device);
}

static void destroy(struct machine_plug *p) {
    struct device *d = (struct device *)p->transport;

    if (p->unlisted)
        d->ops->destroy(d);
    free(p);
}

void machine_forget(struct machine *m, struct machine_plug *p) {
    struct machine_plug **at = &m->plugs;

    mem_io_lock(m->mem);
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    mem_io_unlock(m->mem);
    destroy(p);
}

void machine_free_plugs(struct machine *m) {
    while (m->plugs) {
        struct machine_plug *p = m->plugs;

        m->plugs = p->next;
        destroy(p);
    }
}

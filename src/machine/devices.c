/* SPDX-License-Identifier: Apache-2.0 */
/* Plugs the devices that a domain asks for into the machine, in the order in which guests find
 * them. */
#include "machine/devices.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/block.h"
#include "dev/i6300esb.h"
#include "dev/ioapic.h"
#include "dev/pc_layout.h"
#include "dev/pci.h"
#include "machine/pc.h"
#include "mem/mem.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/p9.h"
#include "virtio/p9/server.h"
#include "virtio/pci.h"
#include "virtio/rng.h"
#include "virtio/scsi.h"
#include "virtio/vsock.h"

static int plug_pci(struct machine *m, struct virtio_device *d, struct machine_socket *s,
                    struct err *e) {
    int slot = pci_free_slot(m->pci);
    const struct virtio_pci_config config = {
        .devfn = PCI_DEVFN(slot < 0 ? 0 : slot, 0),
        .transitional = m->params.devices->transport == MACHINE_PCI,
        .loop = m->loop,
    };

    mem_io_lock(m->mem);
    s->device = d;
    s->slot = PCI_SLOT(config.devfn);
    s->transport = virtio_pci_new(m->mem, m->pci, d, &config, e);
    mem_io_unlock(m->mem);
    return machine_add(m, s->transport) ? 0 : -1;
}

/* The next free PCI slot, or the next virtio-mmio transport while there are some. What has a
 * `backend` of its own can be detached from PCI. */
static int plug(struct machine *m, struct virtio_device *d, const void *backend, struct err *e) {
    enum machine_transport how = m->params.devices->transport;
    struct machine_socket s = {.backend = backend};
    unsigned i = m->virtio_mmio;

    if (!d)
        return -1;
    if (how == MACHINE_VIRTIO_MMIO && i < MACHINE_MMIO_MAX) {
        const struct irq_line irq = {ioapic_set_irq, m->ioapic, PC_VIRTIO_MMIO_GSI(i)};
        void *chip = virtio_mmio_new(m->mem, PC_VIRTIO_MMIO(i), irq, m->loop, d, e);

        m->virtio_mmio++;
        return machine_add(m, chip) ? 0 : -1;
    }
    if (plug_pci(m, d, &s, e) < 0)
        return -1;
    if (backend)
        machine_plug_new(m, &s);
    return 0;
}

static int add_rng(struct machine *m, struct err *e) {
    return plug(m, virtio_rng_new(m->mem, m->loop, e), NULL, e);
}

static int add_balloon(struct machine *m, uint64_t target, struct err *e) {
    struct virtio_device *d = virtio_balloon_new(m->mem, m->loop, e);

    if (d && target)
        virtio_balloon_set_target(d, target);
    m->balloon = d;
    return plug(m, d, NULL, e);
}

static struct virtio_device *make_disk(struct machine *m, const struct machine_disk *disk,
                                       struct err *e) {
    const struct virtio_scsi_target target = {disk->block, disk->cdrom, disk->serial};
    unsigned queues = disk->queues ? disk->queues : m->params.vcpus;

    if (disk->scsi)
        return virtio_scsi_new(m->mem, &target, 1, disk->block->loop, e);
    queues = MIN(queues, (unsigned)MACHINE_DISK_QUEUES);
    return virtio_blk_new(m->mem, disk->block, queues, disk->serial, e);
}

static struct virtio_device *make_nic(struct machine *m, const struct machine_nic *nic,
                                      struct err *e) {
    struct virtio_net_config config = {.pairs = nic->pairs};

    memcpy(config.mac, nic->mac, sizeof(config.mac));
    return virtio_net_new(m->mem, nic->net, &config, e);
}

static int add_share(struct machine *m, const struct machine_share *s, struct err *e) {
    struct p9_server *server = p9_server_new(s->path, s->options, e);

    return server ? plug(m, virtio_p9_new(m->mem, server, s->tag, s->loop, e), NULL, e) : -1;
}

static int add_vsock(struct machine *m, const struct machine_vsock *v, struct err *e) {
    return plug(m, virtio_vsock_new(m->mem, v->cid, v->path, v->loop, e), NULL, e);
}

/* What programs of the host and of the guest talk through. */
static int add_channels(struct machine *m, const struct machine_devices *d, struct err *e) {
    for (unsigned i = 0; i < d->share_count; i++)
        if (add_share(m, &d->shares[i], e) < 0)
            return err_wrap(e, "share %s", d->shares[i].tag);
    if (d->port_count &&
        plug(m, virtio_console_new(m->mem, d->ports, d->port_count, m->loop, e), NULL, e) < 0)
        return err_wrap(e, "console");
    if (d->vsock.path && add_vsock(m, &d->vsock, e) < 0)
        return err_wrap(e, "vsock");
    return 0;
}

static void on_watchdog(void *arg) {
    struct machine *m = arg;
    bool reset = m->params.devices->watchdog == WATCHDOG_RESET;

    machine_request(m, reset ? MACHINE_REQ_RESET : MACHINE_REQ_POWER_OFF);
}

static int add_watchdog(struct machine *m, struct err *e) {
    int slot = pci_free_slot(m->pci);
    uint8_t devfn = PCI_DEVFN(slot < 0 ? 0 : slot, 0);

    return machine_add(m, i6300esb_new(m->mem, m->clock, m->pci, devfn, on_watchdog, m, e)) ? 0
                                                                                            : -1;
}

int machine_add_devices(struct machine *m, struct err *e) {
    const struct machine_devices *d = m->params.devices;

    if (!d)
        return 0;
    for (unsigned i = 0; i < d->disk_count; i++)
        if (plug(m, make_disk(m, &d->disks[i], e), d->disks[i].block, e) < 0)
            return err_wrap(e, "disk %u", i);
    for (unsigned i = 0; i < d->nic_count; i++)
        if (plug(m, make_nic(m, &d->nics[i], e), d->nics[i].net, e) < 0)
            return err_wrap(e, "network interface %u", i);
    if (add_channels(m, d, e) < 0)
        return -1;
    if (d->balloon && add_balloon(m, d->balloon_target, e) < 0)
        return err_wrap(e, "balloon");
    if (d->watchdog != WATCHDOG_NONE && add_watchdog(m, e) < 0)
        return err_wrap(e, "watchdog");
    return d->rng ? add_rng(m, e) : 0;
}

/* --- while the machine runs --- */

static int need_slot(const struct machine *m, struct err *e) {
    if (pci_free_slot(m->pci) >= 0)
        return 0;
    return err_set(e, 0, "there is no free PCI slot: detach something first");
}

static struct machine_plug *attach(struct machine *m, struct virtio_device *d, const void *backend,
                                   struct err *e) {
    struct machine_socket s = {.backend = backend};
    struct machine_plug *p;

    if (!d || plug_pci(m, d, &s, e) < 0)
        return NULL;
    p = machine_plug_new(m, &s);
    machine_announce(m, p);
    return p;
}

struct machine_plug *machine_attach_disk(struct machine *m, const struct machine_disk *disk,
                                         struct err *e) {
    return need_slot(m, e) < 0 ? NULL : attach(m, make_disk(m, disk, e), disk->block, e);
}

struct machine_plug *machine_attach_nic(struct machine *m, const struct machine_nic *nic,
                                        struct err *e) {
    return need_slot(m, e) < 0 ? NULL : attach(m, make_nic(m, nic, e), nic->net, e);
}

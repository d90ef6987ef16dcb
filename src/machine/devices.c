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

/* The next free PCI slot, or the next virtio-mmio transport while there are some. */
static int plug(struct machine *m, struct virtio_device *d, struct err *e) {
    enum machine_transport how = m->params.devices->transport;
    unsigned i = m->virtio_mmio;
    struct virtio_pci_config config = {.transitional = how == MACHINE_PCI, .loop = m->loop};

    if (!d)
        return -1;
    if (how == MACHINE_VIRTIO_MMIO && i < MACHINE_MMIO_MAX) {
        const struct irq_line irq = {ioapic_set_irq, m->ioapic, PC_VIRTIO_MMIO_GSI(i)};
        void *chip = virtio_mmio_new(m->mem, PC_VIRTIO_MMIO(i), irq, m->loop, d, e);

        m->virtio_mmio++;
        return machine_add(m, chip) ? 0 : -1;
    }
    int slot = pci_free_slot(m->pci);
    config.devfn = PCI_DEVFN(slot < 0 ? 0 : slot, 0);
    return machine_add(m, virtio_pci_new(m->mem, m->pci, d, &config, e)) ? 0 : -1;
}

static int add_rng(struct machine *m, struct err *e) {
    return plug(m, virtio_rng_new(m->mem, m->loop, e), e);
}

static int add_balloon(struct machine *m, uint64_t target, struct err *e) {
    struct virtio_device *d = virtio_balloon_new(m->mem, m->loop, e);

    if (d && target)
        virtio_balloon_set_target(d, target);
    return plug(m, d, e);
}

static int add_disk(struct machine *m, const struct machine_disk *disk, struct err *e) {
    const struct virtio_scsi_target target = {disk->block, disk->cdrom, disk->serial};
    unsigned queues = disk->queues ? disk->queues : m->params.vcpus;

    if (disk->scsi)
        return plug(m, virtio_scsi_new(m->mem, &target, 1, disk->block->loop, e), e);
    queues = MIN(queues, (unsigned)MACHINE_DISK_QUEUES);
    return plug(m, virtio_blk_new(m->mem, disk->block, queues, disk->serial, e), e);
}

static int add_nic(struct machine *m, const struct machine_nic *nic, struct err *e) {
    struct virtio_net_config config = {.pairs = nic->pairs};

    memcpy(config.mac, nic->mac, sizeof(config.mac));
    return plug(m, virtio_net_new(m->mem, nic->net, &config, e), e);
}

static int add_share(struct machine *m, const struct machine_share *s, struct err *e) {
    struct p9_server *server = p9_server_new(s->path, s->options, e);

    return server ? plug(m, virtio_p9_new(m->mem, server, s->tag, s->loop, e), e) : -1;
}

static int add_vsock(struct machine *m, const struct machine_vsock *v, struct err *e) {
    return plug(m, virtio_vsock_new(m->mem, v->cid, v->path, v->loop, e), e);
}

/* What programs of the host and of the guest talk through. */
static int add_channels(struct machine *m, const struct machine_devices *d, struct err *e) {
    for (unsigned i = 0; i < d->share_count; i++)
        if (add_share(m, &d->shares[i], e) < 0)
            return err_wrap(e, "share %s", d->shares[i].tag);
    if (d->port_count &&
        plug(m, virtio_console_new(m->mem, d->ports, d->port_count, m->loop, e), e) < 0)
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
        if (add_disk(m, &d->disks[i], e) < 0)
            return err_wrap(e, "disk %u", i);
    for (unsigned i = 0; i < d->nic_count; i++)
        if (add_nic(m, &d->nics[i], e) < 0)
            return err_wrap(e, "network interface %u", i);
    if (add_channels(m, d, e) < 0)
        return -1;
    if (d->balloon && add_balloon(m, d->balloon_target, e) < 0)
        return err_wrap(e, "balloon");
    if (d->watchdog != WATCHDOG_NONE && add_watchdog(m, e) < 0)
        return err_wrap(e, "watchdog");
    return d->rng ? add_rng(m, e) : 0;
}

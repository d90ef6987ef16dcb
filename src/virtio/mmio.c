/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over MMIO, version 2 (virtio 1.2, section 4.2). As with PCI the registers are reached
 * without the I/O lock; all but notifications take it here.
 */
#include "virtio/mmio.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/notifier.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

#define MAGIC 0x74726976u
#define VERSION 2
#define VENDOR 0x464e4752u /* "RGNF" */

/* Registers (4.2.2). */
enum {
    MAGIC_VALUE = 0x000,
    VERSION_NUMBER = 0x004,
    DEVICE_ID = 0x008,
    VENDOR_ID = 0x00c,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM_MAX = 0x034,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};

enum { INT_QUEUE = 1, INT_CONFIG = 2 };

struct virtio_mmio {
    struct device dev;
    struct mem *mem;
    struct region *region;
    struct virtio_device *d;
    struct irq_line irq;
    struct notifier *line;

    uint32_t device_select, driver_select, queue_select;
    uint64_t driver_features;
    _Atomic uint8_t status; /* of interrupts */
};

/* --- interrupts --- */

static void move_line(void *arg) {
    struct virtio_mmio *p = arg;

    mem_io_lock(p->mem);
    irq_set(&p->irq, atomic_load(&p->status) != 0);
    mem_io_unlock(p->mem);
}

static void queue_interrupt(void *arg, const struct virtq *q) {
    struct virtio_mmio *p = arg;

    (void)q;
    atomic_fetch_or(&p->status, INT_QUEUE);
    notifier_ring(p->line);
}

static void config_changed(void *arg) {
    struct virtio_mmio *p = arg;

    atomic_fetch_or(&p->status, INT_CONFIG);
    notifier_ring(p->line);
}

static const struct virtio_transport transport = {queue_interrupt, config_changed};

/* --- registers; I/O lock held --- */

static struct virtq *selected(const struct virtio_mmio *p) {
    return p->queue_select < p->d->queue_count ? &p->d->queues[p->queue_select] : NULL;
}

static uint32_t half(uint64_t v, uint32_t select) {
    return select > 1 ? 0 : (uint32_t)(v >> 32 * select);
}

static uint32_t read_register(const struct virtio_mmio *p, unsigned off) {
    const struct virtq *q = selected(p);

    switch (off) {
    case MAGIC_VALUE:
        return MAGIC;
    case VERSION_NUMBER:
        return VERSION;
    case DEVICE_ID:
        return p->d->ops->id;
    case VENDOR_ID:
        return VENDOR;
    case DEVICE_FEATURES:
        return half(virtio_offered(p->d), p->device_select);
    case QUEUE_NUM_MAX:
        return q ? q->max_size : 0;
    case QUEUE_READY:
        return q && q->enabled;
    case INTERRUPT_STATUS:
        return atomic_load(&p->status);
    case STATUS:
        return virtio_status(p->d);
    case CONFIG_GENERATION:
        return atomic_load(&p->d->config_generation);
    default:
        return 0;
    }
}

static void forget(struct virtio_mmio *p) {
    p->device_select = p->driver_select = p->queue_select = 0;
    p->driver_features = 0;
    atomic_store(&p->status, 0);
    irq_set(&p->irq, false);
}

static void write_features(struct virtio_mmio *p, uint32_t value) {
    unsigned shift = 32 * p->driver_select;

    if (p->driver_select > 1)
        return;
    p->driver_features = (p->driver_features & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value
                                                                                       << shift;
    virtio_accept(p->d, p->driver_features);
}

static void write_half(uint64_t *v, bool high, uint32_t value) {
    unsigned shift = high ? 32 : 0;

    *v = (*v & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static void write_queue(struct virtq *q, unsigned off, uint32_t value) {
    uint64_t desc = q->desc, driver = q->driver, device = q->device;
    uint16_t size = q->size;

    if (off == QUEUE_NUM)
        size = value > UINT16_MAX ? 0 : (uint16_t)value;
    else if ((off & ~4u) == QUEUE_DESC)
        write_half(&desc, off & 4, value);
    else if ((off & ~4u) == QUEUE_DRIVER)
        write_half(&driver, off & 4, value);
    else if ((off & ~4u) == QUEUE_DEVICE)
        write_half(&device, off & 4, value);
    virtio_queue_setup(q, size, desc, driver, device);
    if (off == QUEUE_READY && value)
        virtio_queue_enable(q);
    else if (off == QUEUE_READY)
        virtio_queue_disable(q);
}

static void write_register(struct virtio_mmio *p, unsigned off, uint32_t value) {
    struct virtq *q = selected(p);

    switch (off) {
    case DEVICE_FEATURES_SEL:
        p->device_select = value;
        break;
    case DRIVER_FEATURES_SEL:
        p->driver_select = value;
        break;
    case DRIVER_FEATURES:
        write_features(p, value);
        break;
    case QUEUE_SEL:
        p->queue_select = value;
        break;
    case INTERRUPT_ACK:
        atomic_fetch_and(&p->status, (uint8_t)~value);
        irq_set(&p->irq, atomic_load(&p->status) != 0);
        break;
    case STATUS:
        virtio_set_status(p->d, (uint8_t)value, false);
        if (!(uint8_t)value)
            forget(p);
        break;
    default:
        if (q)
            write_queue(q, off, value);
    }
}

/* --- accesses; no lock held --- */

static uint64_t mmio_read(void *dev, uint64_t off, unsigned size) {
    struct virtio_mmio *p = dev;
    uint64_t v = 0;

    mem_io_lock(p->mem);
    if (off >= CONFIG)
        v = virtio_config_read(p->d, (unsigned)off - CONFIG, size);
    else if (size == 4)
        v = read_register(p, (unsigned)off);
    mem_io_unlock(p->mem);
    return v;
}

static void mmio_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct virtio_mmio *p = dev;

    if (off == QUEUE_NOTIFY) {
        virtio_notify(p->d, (uint16_t)value);
        return;
    }
    mem_io_lock(p->mem);
    if (off >= CONFIG)
        virtio_config_write(p->d, (unsigned)off - CONFIG, size, (uint32_t)value);
    else if (size == 4)
        write_register(p, (unsigned)off, (uint32_t)value);
    mem_io_unlock(p->mem);
    if ((off == STATUS || off == QUEUE_READY) && !(uint8_t)value)
        virtio_drain(p->d);
}

static const struct io_ops mmio_io = {
    .read = mmio_read,
    .write = mmio_write,
    .min_size = 1,
    .max_size = 4,
    .unlocked = true,
};

/* --- device --- */

static void virtio_mmio_reset(struct device *dev) {
    struct virtio_mmio *p = (struct virtio_mmio *)dev;

    virtio_set_status(p->d, 0, false);
    forget(p);
    virtio_drain(p->d);
}

static void virtio_mmio_save(const struct device *dev, struct record_writer *w) {
    const struct virtio_mmio *p = (const struct virtio_mmio *)dev;

    rec_put_u32(w, p->device_select);
    rec_put_u32(w, p->driver_select);
    rec_put_u32(w, p->queue_select);
    rec_put_u64(w, p->driver_features);
    rec_put_u8(w, atomic_load(&p->status));
    virtio_save(p->d, w);
}

static int virtio_mmio_check(const struct device *dev, struct record_reader *r, struct err *e) {
    const struct virtio_mmio *p = (const struct virtio_mmio *)dev;

    rec_get_u32(r);
    rec_get_u32(r);
    rec_get_u32(r);
    rec_get_u64(r);
    if (rec_get_u8(r) & ~(INT_QUEUE | INT_CONFIG))
        return err_set(e, 0, "%s: interrupt status", p->d->ops->name);
    if (virtio_check(p->d, r, e) < 0)
        return -1;
    return rec_done(r, e);
}

static void virtio_mmio_load(struct device *dev, struct record_reader *r) {
    struct virtio_mmio *p = (struct virtio_mmio *)dev;

    p->device_select = rec_get_u32(r);
    p->driver_select = rec_get_u32(r);
    p->queue_select = rec_get_u32(r);
    p->driver_features = rec_get_u64(r);
    atomic_store(&p->status, rec_get_u8(r));
    virtio_load(p->d, r);
    irq_set(&p->irq, atomic_load(&p->status) != 0);
}

static void virtio_mmio_destroy(struct device *dev) {
    struct virtio_mmio *p = (struct virtio_mmio *)dev;

    if (p->region)
        mem_del_region(p->mem, p->region);
    p->d->ops->destroy(p->d);
    notifier_free(p->line);
    free(p);
}

static const struct device_ops virtio_mmio_ops = {
    .name = "virtio-mmio",
    .version = 1,
    .reset = virtio_mmio_reset,
    .save = virtio_mmio_save,
    .check = virtio_mmio_check,
    .load = virtio_mmio_load,
    .destroy = virtio_mmio_destroy,
};

struct virtio_mmio *virtio_mmio_new(struct mem *m, uint64_t base, struct irq_line irq,
                                    struct loop *loop, struct virtio_device *d, struct err *e) {
    struct virtio_mmio *p = xcalloc(1, sizeof(*p));

    p->dev.ops = &virtio_mmio_ops;
    p->mem = m;
    p->d = d;
    p->irq = irq;
    virtio_attach(d, &transport, p);
    p->line = notifier_new(loop, move_line, p, e);
    if (p->line)
        p->region = mem_add_mmio(m, GPA(base), VIRTIO_MMIO_SIZE, d->ops->name, &mmio_io, p, e);
    if (p->region)
        return p;
    virtio_mmio_destroy(&p->dev);
    return NULL;
}

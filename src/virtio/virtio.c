/* SPDX-License-Identifier: Apache-2.0 */
/* What all virtio devices share: features, status, configuration space, and the queues' common
 * life. */
#include "virtio/virtio.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"

#define COMMON_FEATURES                                                                            \
    (VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |                         \
     VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_RING_PACKED))
#define STATUS_BITS                                                                                \
    (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK |                  \
     VIRTIO_NEEDS_RESET | VIRTIO_FAILED)

/* --- making and freeing --- */

void virtio_init(struct virtio_device *d, const struct virtio_ops *ops, struct mem *m,
                 uint64_t features, unsigned config_len) {
    d->ops = ops;
    d->mem = m;
    d->features = features | COMMON_FEATURES;
    d->config_len = MIN(config_len, (unsigned)VIRTIO_CONFIG_MAX);
    pthread_mutex_init(&d->config_lock, NULL);
}

int virtio_add_queues(struct virtio_device *d, unsigned count, uint16_t max_size,
                      size_t request_size, struct loop *l, struct err *e) {
    d->queues = xcalloc(count, sizeof(*d->queues));
    for (unsigned i = 0; i < count; i++) {
        d->queue_count++;
        if (virtq_init(&d->queues[i], d, i, max_size, request_size, l, e) < 0)
            return err_wrap(e, "%s: queue %u", d->ops->name, i);
    }
    return 0;
}

void virtio_destroy(struct virtio_device *d) {
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_destroy(&d->queues[i]);
    free(d->queues);
    pthread_mutex_destroy(&d->config_lock);
}

void virtio_attach(struct virtio_device *d, const struct virtio_transport *t, void *arg) {
    d->transport = t;
    d->transport_arg = arg;
}

static void lock_all(struct virtio_device *d) {
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_lock(&d->queues[i]);
}

static void unlock_all(struct virtio_device *d) {
    for (unsigned i = d->queue_count; i-- > 0;)
        virtq_unlock(&d->queues[i]);
}

static void kick_all(struct virtio_device *d) {
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_kick(&d->queues[i]);
}

/* --- configuration space --- */

void virtio_config_set(struct virtio_device *d, unsigned off, unsigned size, uint64_t value) {
    pthread_mutex_lock(&d->config_lock);
    for (unsigned i = 0; i < size && off + i < VIRTIO_CONFIG_MAX; i++)
        d->config[off + i] = (uint8_t)(value >> 8 * i);
    pthread_mutex_unlock(&d->config_lock);
}

uint64_t virtio_config_get(struct virtio_device *d, unsigned off, unsigned size) {
    uint64_t v = 0;

    pthread_mutex_lock(&d->config_lock);
    for (unsigned i = 0; i < size && off + i < VIRTIO_CONFIG_MAX; i++)
        v |= (uint64_t)d->config[off + i] << 8 * i;
    pthread_mutex_unlock(&d->config_lock);
    return v;
}

void virtio_config_changed(struct virtio_device *d) {
    atomic_fetch_add(&d->config_generation, 1);
    if (d->transport && atomic_load(&d->status) & VIRTIO_DRIVER_OK)
        d->transport->config_changed(d->transport_arg);
}

uint32_t virtio_config_read(struct virtio_device *d, unsigned off, unsigned size) {
    if (!range_within(off, size, d->config_len))
        return UINT32_MAX;
    return (uint32_t)virtio_config_get(d, off, size);
}

void virtio_config_write(struct virtio_device *d, unsigned off, unsigned size, uint32_t value) {
    if (!d->ops->config_write || !range_within(off, size, d->config_len))
        return;
    lock_all(d);
    d->ops->config_write(d, off, size, value);
    unlock_all(d);
}

/* --- features and status --- */

void virtio_broken(struct virtio_device *d, const char *fmt, ...) {
    char why[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_guest(&d->limit, "%s: %s; the device needs a reset", d->ops->name, why);
    uint8_t old = atomic_fetch_or(&d->status, VIRTIO_NEEDS_RESET);
    if (!(old & VIRTIO_NEEDS_RESET) && virtio_has(d, VIRTIO_F_VERSION_1))
        virtio_config_changed(d);
}

uint64_t virtio_offered(const struct virtio_device *d) {
    return d->features;
}

void virtio_accept(struct virtio_device *d, uint64_t features) {
    if (atomic_load(&d->status) & (VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK))
        return;
    lock_all(d);
    d->acked = features & d->features;
    unlock_all(d);
}

uint8_t virtio_status(const struct virtio_device *d) {
    return atomic_load(&d->status);
}

static void reset(struct virtio_device *d) {
    if (d->ops->reset)
        d->ops->reset(d);
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_reset(&d->queues[i]);
    d->acked = 0;
    d->legacy = false;
    atomic_store(&d->status, 0);
}

/* A modern driver must accept VERSION_1, which it sees refused when FEATURES_OK stays clear. */
static uint8_t judge(struct virtio_device *d, uint8_t status, bool legacy) {
    if (legacy || virtio_has(d, VIRTIO_F_VERSION_1))
        return status;
    return status & (uint8_t)~VIRTIO_FEATURES_OK;
}

/* NEEDS_RESET may come from another thread at any time and stays until the reset. */
static void change_status(struct virtio_device *d, uint8_t status, bool legacy) {
    uint8_t old = atomic_load(&d->status), new = 0;

    d->legacy = legacy;
    do
        new = judge(d, status & STATUS_BITS & (uint8_t)~VIRTIO_NEEDS_RESET, legacy) |
              (old & VIRTIO_NEEDS_RESET);
    while (!atomic_compare_exchange_weak(&d->status, &old, new));
    if (new & ~old & VIRTIO_DRIVER_OK && d->ops->ready)
        d->ops->ready(d);
}

void virtio_set_status(struct virtio_device *d, uint8_t status, bool legacy) {
    lock_all(d);
    if (status)
        change_status(d, status, legacy);
    else
        reset(d);
    unlock_all(d);
    /* Buffers may have been there before anybody would look at them. */
    if (atomic_load(&d->status) & VIRTIO_DRIVER_OK)
        kick_all(d);
}

void virtio_drain(struct virtio_device *d) {
    for (unsigned i = 0; i < d->queue_count; i++) {
        struct virtq *q = &d->queues[i];

        virtq_lock(q);
        while (q->stale)
            pthread_cond_wait(&q->idle, &q->lock);
        virtq_unlock(q);
    }
}

bool virtio_idle(struct virtio_device *d) {
    bool idle = true;

    for (unsigned i = 0; i < d->queue_count; i++) {
        struct virtq *q = &d->queues[i];

        virtq_lock(q);
        idle &= !q->popped && !q->stale;
        virtq_unlock(q);
    }
    return idle;
}

/* --- queues --- */

void virtio_queue_setup(struct virtq *q, uint16_t size, uint64_t desc, uint64_t driver,
                        uint64_t device) {
    virtq_lock(q);
    if (!q->enabled) {
        q->size = size;
        q->desc = desc;
        q->driver = driver;
        q->device = device;
    }
    virtq_unlock(q);
}

void virtio_queue_enable(struct virtq *q) {
    virtq_lock(q);
    if (!q->enabled) {
        virtq_negotiated(q);
        if (!virtq_enable(q))
            virtio_broken(q->dev, "queue %u: %u entries at 0x%llx, 0x%llx, 0x%llx", q->index,
                          q->size, (unsigned long long)q->desc, (unsigned long long)q->driver,
                          (unsigned long long)q->device);
    }
    virtq_unlock(q);
}

void virtio_queue_disable(struct virtq *q) {
    virtq_lock(q);
    virtq_reset(q);
    virtq_unlock(q);
}

void virtio_notify(struct virtio_device *d, unsigned queue) {
    if (queue < d->queue_count)
        virtq_kick(&d->queues[queue]);
}

/* --- state --- */

void virtio_hold(struct virtio_device *d) {
    atomic_store(&d->held, true);
    for (unsigned i = 0; i < d->queue_count; i++) {
        struct virtq *q = &d->queues[i];

        virtq_lock(q);
        while (q->popped || q->stale)
            pthread_cond_wait(&q->idle, &q->lock);
        virtq_unlock(q);
    }
}

void virtio_resume(struct virtio_device *d) {
    atomic_store(&d->held, false);
    kick_all(d);
}

void virtio_save(const struct virtio_device *d, struct record_writer *w) {
    rec_put_u16(w, d->ops->id);
    rec_put_u16(w, d->ops->version);
    rec_put_u64(w, d->acked);
    rec_put_u8(w, atomic_load(&d->status));
    rec_put_u8(w, d->legacy);
    rec_put_u16(w, (uint16_t)d->queue_count);
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_save(&d->queues[i], w);
    if (d->ops->save)
        d->ops->save(d, w);
}

int virtio_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    uint16_t id = rec_get_u16(r), version = rec_get_u16(r);
    uint64_t acked = rec_get_u64(r);
    uint8_t status = rec_get_u8(r), legacy = rec_get_u8(r);
    uint16_t queues = rec_get_u16(r);

    if (id != d->ops->id || version != d->ops->version || queues != d->queue_count)
        return err_set(e, 0, "%s: the record is of device %u, version %u, with %u queues",
                       d->ops->name, id, version, queues);
    if (acked & ~d->features || status & ~STATUS_BITS || legacy > 1)
        return err_set(e, 0, "%s: features 0x%llx, status 0x%x", d->ops->name,
                       (unsigned long long)acked, status);
    for (unsigned i = 0; i < d->queue_count; i++)
        if (virtq_check(&d->queues[i], r, acked, e) < 0)
            return -1;
    return d->ops->check ? d->ops->check(d, r, e) : 0;
}

void virtio_load(struct virtio_device *d, struct record_reader *r) {
    lock_all(d);
    reset(d);
    rec_get_u16(r);
    rec_get_u16(r);
    d->acked = rec_get_u64(r);
    uint8_t status = rec_get_u8(r);
    d->legacy = rec_get_u8(r);
    rec_get_u16(r);
    for (unsigned i = 0; i < d->queue_count; i++)
        virtq_load(&d->queues[i], r);
    if (d->ops->load)
        d->ops->load(d, r);
    atomic_store(&d->status, status);
    unlock_all(d);
}

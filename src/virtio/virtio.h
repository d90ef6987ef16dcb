/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device (virtio 1.2, chapter 2) without its transport: features, status, configuration
 * space and queues. A device is one file that knows neither PCI nor MMIO; a transport
 * (virtio/pci.h, virtio/mmio.h) knows no devices.
 *
 * Threads: notify() runs on its queue's loop with that queue's lock held. All other operations run
 * with all of the device's queue locks held, on any thread. A device whose queues share one loop
 * therefore needs no lock of its own, if its back end's callbacks come on the same loop and take
 * the lock of a queue. None of them may take the machine's I/O lock, or wait.
 */
#ifndef RINGFENCE_VIRTIO_VIRTIO_H
#define RINGFENCE_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "virtio/queue.h"

struct err;
struct loop;
struct mem;
struct record_reader;
struct record_writer;

/* Device types (chapter 5). */
enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_ENTROPY = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_SCSI = 8,
    VIRTIO_ID_9P = 9,
    VIRTIO_ID_VSOCK = 19,
};

/* Device status (2.1). */
enum {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};

/* Features that are not a device's own (chapter 6); virtio.c offers those that it implements. */
enum {
    VIRTIO_F_NOTIFY_ON_EMPTY = 24,
    VIRTIO_F_ANY_LAYOUT = 27,
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VIRTIO_F_VERSION_1 = 32,
    VIRTIO_F_ACCESS_PLATFORM = 33,
    VIRTIO_F_RING_PACKED = 34,
};
#define VIRTIO_BIT(f) (1ull << (f))

#define VIRTIO_CONFIG_MAX 256
#define VIRTIO_QUEUES_MAX 64

struct virtio_ops {
    const char *name; /* "virtio-blk" */
    uint16_t id;
    uint16_t version;   /* of what save puts */
    uint32_t pci_class; /* 0xccssii: class, sub-class, interface */
    /* The driver notified, or somebody called virtq_kick. Only when the queue is usable. */
    void (*notify)(struct virtio_device *d, struct virtq *q);
    /* The driver has finished set-up: d->acked and the queues are final until the reset. May be
     * NULL. */
    void (*ready)(struct virtio_device *d);
    /*
     * Back to power-on. Buffers that only wait are dropped (virtq_drop); those that a back end is
     * still filling are completed later as always, which then only releases them. The driver does
     * not go on before that. May be NULL.
     */
    void (*reset)(struct virtio_device *d);
    /* The driver writes 1, 2 or 4 bytes (aligned or not) within config_len; NULL: ignored. What
     * shall stick goes to d->config. */
    void (*config_write)(struct virtio_device *d, unsigned off, unsigned size, uint32_t value);
    /* As in dev/device.h, for what is the device's own; no buffer is out there. May be NULL all
     * three. check is not to call rec_done. */
    void (*save)(const struct virtio_device *d, struct record_writer *w);
    int (*check)(const struct virtio_device *d, struct record_reader *r, struct err *e);
    void (*load)(struct virtio_device *d, struct record_reader *r);
    /* Frees the device; virtio_destroy is its last call but free(). No loop or vCPU runs. */
    void (*destroy)(struct virtio_device *d);
};

/* What a transport does for a device; any thread, queue locks may be held. */
struct virtio_transport {
    void (*interrupt)(void *transport, const struct virtq *q); /* used buffers in this queue */
    void (*config_changed)(void *transport);
};

/* Embedded first in every device. */
struct virtio_device {
    const struct virtio_ops *ops;
    struct mem *mem;
    const struct virtio_transport *transport; /* NULL until there is one */
    void *transport_arg;

    uint64_t features; /* offered */
    uint64_t acked;    /* accepted by the driver */
    _Atomic uint8_t status;

    pthread_mutex_t config_lock; /* config, generation; a leaf */
    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned config_len;
    _Atomic uint8_t config_generation;

    struct virtq *queues;
    unsigned queue_count;
    atomic_bool held; /* for saving: nothing is popped */
    bool legacy;      /* the driver set it up by the legacy interface */
    struct log_limit limit;
};

/* For a device's constructor. `features` are its own; the common ones are added. */
void virtio_init(struct virtio_device *d, const struct virtio_ops *ops, struct mem *m,
                 uint64_t features, unsigned config_len);
/*
 * Queues in order of their index; at most `max_size` entries (a power of two, at most
 * VIRTQ_MAX_SIZE). `request_size` is that of the structure that embeds struct virtq_buf first; its
 * own fields are zero when it is popped. A device whose buffers stay out while a back end works
 * must not use the machine's main loop, but a worker's: a reset on the main loop waits for them.
 * Returns a negative value with the error set when the host fails.
 */
int virtio_add_queues(struct virtio_device *d, unsigned count, uint16_t max_size,
                      size_t request_size, struct loop *l, struct err *e);
void virtio_destroy(struct virtio_device *d);

/* Whether the driver has accepted a feature. */
static inline bool virtio_has(const struct virtio_device *d, unsigned feature) {
    return d->acked >> feature & 1;
}

/* Sets bytes of the configuration space, little-endian, without telling the driver. Any thread. */
void virtio_config_set(struct virtio_device *d, unsigned off, unsigned size, uint64_t value);
uint64_t virtio_config_get(struct virtio_device *d, unsigned off, unsigned size);
/* Tells the driver that the configuration space has changed. Any thread. */
void virtio_config_changed(struct virtio_device *d);

/* The guest broke the rules: logs at a bounded rate and sets DEVICE_NEEDS_RESET. A queue's lock
 * held. */
void virtio_broken(struct virtio_device *d, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* --- for transports; the machine's I/O lock held, except where noted --- */

void virtio_attach(struct virtio_device *d, const struct virtio_transport *t, void *arg);
uint64_t virtio_offered(const struct virtio_device *d);
/* The driver's features as a whole; refused ones are dropped. Ignored after FEATURES_OK. */
void virtio_accept(struct virtio_device *d, uint64_t features);
uint8_t virtio_status(const struct virtio_device *d);
/* 0 resets. `legacy`: there is no FEATURES_OK to come. */
void virtio_set_status(struct virtio_device *d, uint8_t status, bool legacy);
/* Waits until no buffer is out there. After a reset, with no lock held, before the driver goes on.
 */
void virtio_drain(struct virtio_device *d);
/* Whether no buffer is out there now; never waits. Any thread, no lock held. */
bool virtio_idle(struct virtio_device *d);
/* Ring areas of a queue that is not enabled yet. */
void virtio_queue_setup(struct virtq *q, uint16_t size, uint64_t desc, uint64_t driver,
                        uint64_t device);
void virtio_queue_enable(struct virtq *q);
/* Back to what it was before the driver set it up. */
void virtio_queue_disable(struct virtq *q);
/* The driver's notification. Any thread, no lock needed. */
void virtio_notify(struct virtio_device *d, unsigned queue);
uint32_t virtio_config_read(struct virtio_device *d, unsigned off, unsigned size);
void virtio_config_write(struct virtio_device *d, unsigned off, unsigned size, uint32_t value);

/* Takes nothing more and waits for what is out there, so that the state can be saved. No lock held.
 * resume looks at all queues again. */
void virtio_hold(struct virtio_device *d);
void virtio_resume(struct virtio_device *d);
void virtio_save(const struct virtio_device *d, struct record_writer *w);
int virtio_check(const struct virtio_device *d, struct record_reader *r, struct err *e);
void virtio_load(struct virtio_device *d, struct record_reader *r);

#endif

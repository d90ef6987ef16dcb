/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtqueues (virtio 1.2, sections 2.6 to 2.8), walked in one place: split and packed rings,
 * indirect descriptors, event index. What a device gets are validated vectors of host memory; every
 * field of a ring is loaded once. A guest that posts nonsense gets DEVICE_NEEDS_RESET, and the
 * queue looks empty from then on.
 *
 * Threads: everything here is called with the queue's lock held, except where it says otherwise.
 * Lock order: the machine's I/O lock, queue locks by index, then those of transports. Whoever holds
 * a queue's lock must not take the I/O lock and must not wait.
 */
#ifndef RINGFENCE_VIRTIO_QUEUE_H
#define RINGFENCE_VIRTIO_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct loop;
struct notifier;
struct record_reader;
struct record_writer;
struct virtio_device;

#define VIRTQ_MAX_SIZE 1024
#define VIRTQ_MAX_CHAIN 1024 /* descriptors in one buffer, an indirect table's included */

/*
 * One buffer that the driver made available. A device that keeps more about a request embeds it
 * first, and says so in virtio_add_queue. The vectors are the guest's memory: bounded, but guests
 * may write to it at any time.
 */
struct virtq_buf {
    struct iovec *out, *in; /* device-readable; device-writable */
    unsigned out_count, in_count;
    size_t out_len, in_len; /* bytes */

    /* Private. */
    struct virtq_buf *next;
    size_t room; /* for elements of vectors */
    uint32_t generation;
    uint16_t id;
    uint16_t descs; /* ring entries that it takes in a packed ring */
};

/* Fields are the business of virtio/, not of devices, except where noted. */
struct virtq {
    struct virtio_device *dev; /* devices may look */
    unsigned index;            /* devices may look */
    pthread_mutex_t lock;
    struct notifier *kick;
    size_t request_size;
    uint16_t max_size;

    /* As the driver set it. */
    uint16_t size;
    bool enabled;
    uint64_t desc, driver, device; /* guest-physical: descriptor, driver and device area */

    /* The areas in host memory, whole; NULL while the queue is not enabled. */
    uint8_t *desc_host, *driver_host, *device_host;
    bool packed, event_idx, indirect;

    uint16_t next_avail; /* split: free-running index; packed: slot */
    uint16_t next_used;  /* likewise: where the next used element goes */
    bool avail_wrap, used_wrap;
    uint16_t staged;                  /* used elements that are written, but not yet visible */
    uint16_t first_slot, first_flags; /* packed: of the first one that is staged */
    uint16_t signalled; /* next_used at the last look at what the driver wants to hear of */
    bool signalled_valid;

    unsigned popped;       /* buffers that are neither completed nor given back */
    unsigned popped_descs; /* ring entries that they take */
    unsigned stale;        /* buffers of before the last reset that a back end still holds */
    pthread_cond_t idle;   /* popped or stale has become 0 */
    uint32_t generation;   /* a buffer of an older one was overtaken by a reset */
    struct virtq_buf *spare;
    struct iovec *scratch;
};

/* Any thread, for completions that don't come through notify(). */
void virtq_lock(struct virtq *q);
void virtq_unlock(struct virtq *q);

/* True when the driver has made everything ready and the device may pop and complete. */
bool virtq_usable(const struct virtq *q);

/* The next buffer, or NULL: none there, or the queue is not usable. It is the device's until it is
 * completed or given back. */
struct virtq_buf *virtq_pop(struct virtq *q);

/*
 * Completes a buffer and releases it: `written` bytes from the start of `in` were written. What was
 * put becomes visible to the driver, all at once, with virtq_flush, which also interrupts it unless
 * it asked not to be. Buffers may be completed in any order. One that a reset has overtaken is only
 * released.
 */
void virtq_put(struct virtq *q, struct virtq_buf *b, uint32_t written);
void virtq_flush(struct virtq *q);
static inline void virtq_complete(struct virtq *q, struct virtq_buf *b, uint32_t written) {
    virtq_put(q, b, written);
    virtq_flush(q);
}

/* Gives back what was popped last, as if it had not been; several in reverse order. */
void virtq_unpop(struct virtq *q, struct virtq_buf *b);
/* Releases a buffer without completing it, for reset(). */
void virtq_drop(struct virtq *q, struct virtq_buf *b);

/* Whether a buffer is there. */
bool virtq_ready(struct virtq *q);

/*
 * Tells the driver whether it shall notify. They start on. While a device looks at the queue anyway
 * it turns them off; virtq_notify_on returns true when a buffer came before it took effect: then
 * look again, no notification will come for it.
 *
 *     do {
 *         virtq_notify_off(q);
 *         while ((b = virtq_pop(q)))
 *             ...
 *     } while (virtq_notify_on(q));
 */
void virtq_notify_off(struct virtq *q);
bool virtq_notify_on(struct virtq *q);

/* Has notify() called soon on the queue's loop, as if the driver had notified. Any thread, with or
 * without the lock. */
void virtq_kick(struct virtq *q);

/* Copies out of `out` and into `in`, at an offset; return how many bytes there were. */
size_t virtq_read(const struct virtq_buf *b, size_t off, void *buf, size_t len);
size_t virtq_write(const struct virtq_buf *b, size_t off, const void *buf, size_t len);

/* For virtio.c. */
int virtq_init(struct virtq *q, struct virtio_device *d, unsigned index, uint16_t max_size,
               size_t request_size, struct loop *l, struct err *e);
void virtq_destroy(struct virtq *q);
void virtq_reset(struct virtq *q);
/* Takes over what the driver accepted, before the queue is enabled. */
void virtq_negotiated(struct virtq *q);
/* Finds the areas in memory; false when they are not all in RAM. */
bool virtq_enable(struct virtq *q);
void virtq_save(const struct virtq *q, struct record_writer *w);
int virtq_check(const struct virtq *q, struct record_reader *r, uint64_t features, struct err *e);
void virtq_load(struct virtq *q, struct record_reader *r);

#endif

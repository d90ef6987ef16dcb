/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entropy device (virtio 1.2, section 5.4): random bytes of the host's kernel. That never waits
 * once the host has booted, and what a guest asks for at once is bounded.
 */
#include "virtio/rng.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/util.h"
#include "virtio/virtio.h"

#define QUEUE_SIZE 64
/* A driver that asks for more gets less, as the specification allows. */
#define ANSWER_MAX 4096u

struct virtio_rng {
    struct virtio_device d;
};

static uint32_t fill(struct virtq_buf *b) {
    uint8_t bytes[ANSWER_MAX];
    ssize_t n = getrandom(bytes, MIN(b->in_len, sizeof(bytes)), 0);

    return n <= 0 ? 0 : (uint32_t)virtq_write(b, 0, bytes, (size_t)n);
}

static void rng_notify(struct virtio_device *d, struct virtq *q) {
    struct virtq_buf *b;

    (void)d;
    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q)))
            virtq_put(q, b, fill(b));
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

static void rng_destroy(struct virtio_device *d) {
    virtio_destroy(d);
    free(container_of(d, struct virtio_rng, d));
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_ENTROPY,
    .version = 1,
    .pci_class = 0x00ff00,
    .notify = rng_notify,
    .destroy = rng_destroy,
};

struct virtio_device *virtio_rng_new(struct mem *m, struct loop *l, struct err *e) {
    struct virtio_rng *r = xcalloc(1, sizeof(*r));

    virtio_init(&r->d, &rng_ops, m, 0, 0);
    if (virtio_add_queues(&r->d, 1, QUEUE_SIZE, sizeof(struct virtq_buf), l, e) == 0)
        return &r->d;
    rng_destroy(&r->d);
    return NULL;
}

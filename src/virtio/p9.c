/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 9P transport over virtio: one queue, a request and the room for its answer in each buffer.
 * Requests are taken under the queue's lock and answered without it, because the host's file system
 * may take its time, while a vCPU may want to reset the device.
 */
#include "virtio/p9.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/notifier.h"
#include "base/record.h"
#include "base/util.h"
#include "virtio/p9/server.h"
#include "virtio/virtio.h"

enum { VIRTIO_9P_MOUNT_TAG = 0 };
enum { QUEUE_SIZE = 128 };

struct request {
    struct virtq_buf buf; /* first */
    struct request *next;
    uint32_t epoch;
};

struct virtio_p9 {
    struct virtio_device d; /* first */
    struct p9_server *server;
    struct notifier *work;
    /* Under the queue's lock. */
    struct request *todo, **last;
    uint32_t epoch;        /* counts resets */
    uint32_t server_epoch; /* the one that the server's fids are of */
};

static void p9_notify(struct virtio_device *d, struct virtq *q) {
    struct virtio_p9 *p = (struct virtio_p9 *)(void *)d;
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            struct request *r = (struct request *)(void *)b;

            r->epoch = p->epoch;
            *p->last = r;
            p->last = &r->next;
        }
    } while (virtq_notify_on(q));
    if (p->todo)
        notifier_ring(p->work);
}

/* The next request; the lock is held. Fids of before a reset go first. */
static struct request *take(struct virtio_p9 *p) {
    struct request *r = p->todo;

    if (p->server_epoch != p->epoch) {
        p9_server_reset(p->server);
        p->server_epoch = p->epoch;
    }
    if (!r)
        return NULL;
    p->todo = r->next;
    if (!p->todo)
        p->last = &p->todo;
    return r;
}

static void on_work(void *arg) {
    struct virtio_p9 *p = arg;
    struct virtq *q = &p->d.queues[0];
    struct request *r;

    virtq_lock(q);
    while ((r = take(p))) {
        const bool overtaken = r->epoch != p->epoch;
        const struct virtq_buf *b = &r->buf;
        size_t n = 0;

        virtq_unlock(q);
        if (!overtaken)
            n = p9_serve(p->server, b->out, b->out_count, b->in, b->in_count);
        virtq_lock(q);
        if (!n && r->epoch == p->epoch)
            virtio_broken(&p->d, "%zu bytes of request, room for %zu of answer", b->out_len,
                          b->in_len);
        virtq_complete(q, &r->buf, (uint32_t)n);
    }
    virtq_unlock(q);
}

static void p9_reset(struct virtio_device *d) {
    struct virtio_p9 *p = (struct virtio_p9 *)(void *)d;

    p->epoch++;
    notifier_ring(p->work);
}

static void p9_save(const struct virtio_device *d, struct record_writer *w) {
    const struct virtio_p9 *p = (const struct virtio_p9 *)(const void *)d;

    /* A reset that nobody has acted on yet leaves nothing of the session. */
    rec_put_u8(w, p->server_epoch == p->epoch);
    if (p->server_epoch == p->epoch)
        p9_server_save(p->server, w);
}

static int p9_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    (void)d;
    return rec_get_u8(r) ? p9_server_check(r, e) : 0;
}

static void p9_load(struct virtio_device *d, struct record_reader *r) {
    struct virtio_p9 *p = (struct virtio_p9 *)(void *)d;

    if (!rec_get_u8(r))
        return;
    p9_server_load(p->server, r);
    p->server_epoch = p->epoch;
}

static void p9_destroy(struct virtio_device *d) {
    struct virtio_p9 *p = (struct virtio_p9 *)(void *)d;

    while (p->todo) {
        struct request *r = p->todo;

        p->todo = r->next;
        virtq_drop(&d->queues[0], &r->buf);
    }
    notifier_free(p->work);
    p9_server_free(p->server);
    virtio_destroy(d);
    free(p);
}

static const struct virtio_ops p9_ops = {
    .name = "virtio-9p",
    .id = VIRTIO_ID_9P,
    .version = 1,
    .pci_class = 0x00ff00,
    .notify = p9_notify,
    .reset = p9_reset,
    .save = p9_save,
    .check = p9_check,
    .load = p9_load,
    .destroy = p9_destroy,
};

struct virtio_device *virtio_p9_new(struct mem *m, struct p9_server *server, const char *tag,
                                    struct loop *l, struct err *e) {
    struct virtio_p9 *p = xcalloc(1, sizeof(*p));
    const size_t len = strlen(tag);

    assert(len && len <= VIRTIO_P9_TAG_MAX);
    p->server = server;
    p->last = &p->todo;
    virtio_init(&p->d, &p9_ops, m, VIRTIO_BIT(VIRTIO_9P_MOUNT_TAG), (unsigned)(2 + len));
    virtio_config_set(&p->d, 0, 2, len);
    for (unsigned i = 0; i < len; i++)
        virtio_config_set(&p->d, 2 + i, 1, (uint8_t)tag[i]);
    p->work = notifier_new(l, on_work, p, e);
    if (!p->work || virtio_add_queues(&p->d, 1, QUEUE_SIZE, sizeof(struct request), l, e) < 0) {
        p9_destroy(&p->d);
        return NULL;
    }
    return &p->d;
}

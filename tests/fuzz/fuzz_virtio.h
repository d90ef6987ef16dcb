/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile driver for any virtio device: the input is a program of register accesses, writes to
 * the rings and to what descriptors name, notifications and resets. Included by one file per
 * device, which gives fuzz_virtio a function that makes it.
 */
#ifndef RINGFENCE_TESTS_FUZZ_VIRTIO_H
#define RINGFENCE_TESTS_FUZZ_VIRTIO_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/record.h"
#include "base/util.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_RAM (1u << 20)
#define FUZZ_QUEUES 4u

struct fuzz_input {
    const uint8_t *p, *end;
};

struct fuzz_guest {
    struct mem *mem;
    struct loop *loop;
    struct virtio_device *d;
    struct fuzz_input in;
    uint16_t avail[FUZZ_QUEUES]; /* split: index; packed: slot */
    bool packed, wrap[FUZZ_QUEUES];
};

static uint64_t fuzz_take(struct fuzz_input *in, unsigned bytes) {
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes && in->p < in->end; i++)
        v |= (uint64_t)*in->p++ << 8 * i;
    return v;
}

static void fuzz_ignore_queue(void *arg, const struct virtq *q) {
    (void)arg;
    (void)q;
}

static void fuzz_ignore(void *arg) {
    (void)arg;
}

static void fuzz_stop(void *loop) {
    loop_stop(loop);
}

static void fuzz_run(struct fuzz_guest *g) {
    for (unsigned i = 0; i < 2; i++) {
        loop_call(g->loop, fuzz_stop, g->loop);
        loop_run(g->loop, NULL);
    }
}

/* Where queue i's rings are, of 16 entries. */
static uint64_t fuzz_ring(unsigned i) {
    return 0x1000 + 0x3000ull * i;
}

static void fuzz_put(struct fuzz_guest *g, uint64_t at, uint64_t v, unsigned bytes) {
    mem_write(g->mem, GPA(at), &v, bytes);
}

static void fuzz_set_up(struct fuzz_guest *g, uint64_t features) {
    struct virtio_device *d = g->d;
    static const uint8_t zeroes[0x3000];

    virtio_set_status(d, 0, false);
    virtio_accept(d, features | VIRTIO_BIT(VIRTIO_F_VERSION_1));
    g->packed = virtio_has(d, VIRTIO_F_RING_PACKED);
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK, false);
    for (unsigned i = 0; i < d->queue_count && i < FUZZ_QUEUES; i++) {
        uint64_t at = fuzz_ring(i);

        mem_write(g->mem, GPA(at), zeroes, sizeof(zeroes));
        virtio_queue_setup(&d->queues[i], 16, at, at + 0x1000, at + 0x2000);
        virtio_queue_enable(&d->queues[i]);
        g->avail[i] = 0;
        g->wrap[i] = true;
    }
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK,
                      false);
}

/* One descriptor: mostly sane, sometimes whatever the input says. */
static void fuzz_desc(struct fuzz_guest *g, uint64_t at, uint16_t third, uint16_t fourth,
                      bool wild) {
    uint64_t addr = wild ? fuzz_take(&g->in, 8) : 0x40000 + (fuzz_take(&g->in, 2) << 3);
    uint32_t len = (uint32_t)fuzz_take(&g->in, wild ? 4 : 2);

    fuzz_put(g, at, addr, 8);
    fuzz_put(g, at + 8, len, 4);
    fuzz_put(g, at + 12, third, 2);
    fuzz_put(g, at + 14, fourth, 2);
}

static void fuzz_post_split(struct fuzz_guest *g, unsigned q, unsigned count, uint8_t writable,
                            bool wild) {
    uint64_t at = fuzz_ring(q);
    unsigned head = g->avail[q] * 5u & 15u;

    for (unsigned i = 0; i < count; i++) {
        unsigned slot = (head + i) & 15u;
        uint16_t flags = (uint16_t)((i + 1 < count) | (writable >> i & 1) << 1 |
                                    (wild ? fuzz_take(&g->in, 1) : 0));
        fuzz_desc(g, at + 16 * slot, flags, (uint16_t)((slot + 1) & 15u), wild);
    }
    fuzz_put(g, at + 0x1004 + 2u * (g->avail[q] & 15u), head, 2);
    fuzz_put(g, at + 0x1002, ++g->avail[q], 2);
}

static void fuzz_post_packed(struct fuzz_guest *g, unsigned q, unsigned count, uint8_t writable,
                             bool wild) {
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags =
            (uint16_t)((i + 1 < count) | (writable >> i & 1) << 1 | (g->wrap[q] ? 0x80 : 0x8000) |
                       (wild ? fuzz_take(&g->in, 1) : 0));
        fuzz_desc(g, fuzz_ring(q) + 16u * g->avail[q], q, flags, wild);
        if (++g->avail[q] == 16) {
            g->avail[q] = 0;
            g->wrap[q] ^= true;
        }
    }
}

/* A buffer of up to eight descriptors; the contents of the first are the input's. */
static void fuzz_post(struct fuzz_guest *g) {
    unsigned q = (unsigned)fuzz_take(&g->in, 1), count = 1 + (q >> 4 & 7);
    uint8_t writable = (uint8_t)fuzz_take(&g->in, 1);
    bool wild = q >> 7;

    q %= MIN(g->d->queue_count, FUZZ_QUEUES);
    if (g->packed)
        fuzz_post_packed(g, q, count, writable, wild);
    else
        fuzz_post_split(g, q, count, writable, wild);
}

static void fuzz_write_memory(struct fuzz_guest *g) {
    uint64_t at = 0x40000 + (fuzz_take(&g->in, 2) << 3);
    unsigned n = (unsigned)fuzz_take(&g->in, 1);

    for (unsigned i = 0; i < n && g->in.p < g->in.end; i++)
        fuzz_put(g, at + i, fuzz_take(&g->in, 1), 1);
}

static void fuzz_write_ring(struct fuzz_guest *g) {
    uint64_t at = 0x1000 + fuzz_take(&g->in, 2);

    fuzz_put(g, at, fuzz_take(&g->in, 2), 2);
}

/* Some of the input, or the device's own, as a saved state: loaded when it passes the check. */
static void fuzz_state(struct fuzz_guest *g) {
    struct record_writer w = {0};
    struct record_reader r, again;
    size_t n = (size_t)fuzz_take(&g->in, 1);

    rec_begin(&w, "virtio", 0, 1);
    if (n) {
        n = MIN(n, (size_t)(g->in.end - g->in.p));
        rec_put_bytes(&w, g->in.p, n);
        g->in.p += n;
    } else {
        virtio_save(g->d, &w);
    }
    rec_end(&w);
    const uint8_t *at = w.buf;
    if (rec_next(&at, w.buf + w.len, &r, NULL) == 1) {
        again = r;
        if (virtio_check(g->d, &r, NULL) == 0 && rec_done(&r, NULL) == 0)
            virtio_load(g->d, &again);
    }
    rec_writer_free(&w);
}

static void fuzz_step(struct fuzz_guest *g) {
    unsigned a, b;

    switch (fuzz_take(&g->in, 1) % 10) {
    case 0:
        fuzz_set_up(g, fuzz_take(&g->in, 8));
        break;
    case 1:
    case 2:
    case 3:
        fuzz_post(g);
        break;
    case 4:
        fuzz_write_memory(g);
        break;
    case 5:
        fuzz_write_ring(g);
        break;
    case 6:
        a = (unsigned)fuzz_take(&g->in, 2);
        b = 1u << fuzz_take(&g->in, 1) % 3;
        virtio_config_write(g->d, a % 300, b, (uint32_t)fuzz_take(&g->in, 4));
        virtio_config_read(g->d, a % 300, b);
        break;
    case 7:
        virtio_set_status(g->d, (uint8_t)fuzz_take(&g->in, 1), false);
        break;
    case 8:
        virtio_notify(g->d, (unsigned)fuzz_take(&g->in, 1) % 8);
        fuzz_run(g);
        break;
    default:
        fuzz_state(g);
    }
}

static int fuzz_virtio(struct virtio_device *(*make)(struct mem *m, struct loop *l),
                       const uint8_t *data, size_t size) {
    static const struct virtio_transport transport = {fuzz_ignore_queue, fuzz_ignore};
    struct fuzz_guest g = {.in = {data, data + size}};

    log_set_level(LOG_ERROR);
    g.mem = mem_new(FUZZ_RAM, 0, NULL);
    g.loop = loop_new(NULL);
    if (!g.mem || !g.loop || mem_add_ram(g.mem, GPA(0), FUZZ_RAM, 0, NULL) < 0)
        abort();
    g.d = make(g.mem, g.loop);
    virtio_attach(g.d, &transport, NULL);
    fuzz_set_up(&g, fuzz_take(&g.in, 8));
    while (g.in.p < g.in.end)
        fuzz_step(&g);
    fuzz_run(&g);
    g.d->ops->destroy(g.d);
    loop_free(g.loop);
    mem_free(g.mem);
    return 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's virtio driver for tests of devices: memory, rings of both kinds, and a transport that
 * counts interrupts. Everything happens on the test's thread, inside vdriver_run.
 */
#ifndef RINGFENCE_TESTS_VIRTIO_DRIVER_H
#define RINGFENCE_TESTS_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/record.h"
#include "base/util.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

#define VDRIVER_RAM (8ull << 20)
#define VDRIVER_HEAP 0x200000ull /* rings are below, buffers above */
#define VDRIVER_QUEUES 8

enum { VDRIVER_SPLIT = 0, VDRIVER_PACKED = 1, VDRIVER_INDIRECT = 2, VDRIVER_EVENT_IDX = 4 };

struct vbuf {
    uint64_t gpa;
    uint32_t len;
};

struct vring {
    uint16_t size;
    uint64_t desc, driver, device;
    uint16_t free_head, free_count; /* split: chained in next[]; packed: count only */
    uint16_t next[VIRTQ_MAX_SIZE];
    uint16_t count[VIRTQ_MAX_SIZE]; /* descriptors of the buffer with that id */
    bool busy[VIRTQ_MAX_SIZE];      /* packed: ids in use */
    uint16_t avail, used, notified;
    bool avail_wrap, used_wrap;
    bool quiet; /* no interrupts are wanted */
};

struct vdriver {
    struct mem *mem;
    struct loop *loop;
    struct virtio_device *d;
    unsigned how;
    uint64_t heap;
    struct vring q[VDRIVER_QUEUES];
    unsigned interrupts[VDRIVER_QUEUES], config_interrupts;
    unsigned notifications;
};

/* --- memory --- */

static inline void *vmem(struct vdriver *v, uint64_t gpa) {
    void *p = mem_ptr_w(v->mem, GPA(gpa), 1);

    assert_non_null(p);
    return p;
}

static inline uint64_t vdriver_alloc(struct vdriver *v, uint64_t len) {
    uint64_t at = v->heap;

    v->heap += align_up(len, 64);
    assert_true(v->heap <= VDRIVER_RAM);
    memset(vmem(v, at), 0, len);
    return at;
}

static inline void vput(struct vdriver *v, uint64_t gpa, uint64_t value, unsigned size) {
    memcpy(vmem(v, gpa), &value, size);
}

static inline uint64_t vget(struct vdriver *v, uint64_t gpa, unsigned size) {
    uint64_t value = 0;

    memcpy(&value, vmem(v, gpa), size);
    return value;
}

/* --- life --- */

static inline struct vdriver *vdriver_new(void) {
    struct vdriver *v = xcalloc(1, sizeof(*v));

    v->mem = mem_new(VDRIVER_RAM, 0, NULL);
    assert_non_null(v->mem);
    assert_int_equal(mem_add_ram(v->mem, GPA(0), VDRIVER_RAM, 0, NULL), 0);
    v->loop = loop_new(NULL);
    assert_non_null(v->loop);
    v->heap = VDRIVER_HEAP;
    return v;
}

/* Frees the device, too. */
static inline void vdriver_free(struct vdriver *v) {
    if (v->d)
        v->d->ops->destroy(v->d);
    loop_free(v->loop);
    mem_free(v->mem);
    free(v);
}

static inline void vdriver_stop_loop(void *loop) {
    loop_stop(loop);
}

/* Runs the loop until what is ready has been answered, and what those answers rang for. */
static inline void vdriver_run(struct vdriver *v) {
    for (unsigned i = 0; i < 4; i++) {
        loop_call(v->loop, vdriver_stop_loop, v->loop);
        assert_int_equal(loop_run(v->loop, NULL), 0);
    }
}

static inline void vdriver_interrupt(void *arg, const struct virtq *q) {
    struct vdriver *v = arg;

    v->interrupts[q->index]++;
}

static inline void vdriver_config_changed(void *arg) {
    struct vdriver *v = arg;

    v->config_interrupts++;
}

static const struct virtio_transport vdriver_transport = {vdriver_interrupt,
                                                          vdriver_config_changed};

static inline void vring_init(struct vdriver *v, unsigned i, uint16_t size) {
    struct vring *r = &v->q[i];

    *r = (struct vring){.size = size, .free_count = size, .avail_wrap = true, .used_wrap = true};
    r->desc = 0x1000 + i * 0x10000ull;
    r->driver = r->desc + 0x5000;
    r->device = r->desc + 0x8000;
    memset(vmem(v, r->desc), 0, 0xf000);
    for (unsigned k = 0; k < size; k++)
        r->next[k] = (uint16_t)(k + 1);
    virtio_queue_setup(&v->d->queues[i], size, r->desc, r->driver, r->device);
    virtio_queue_enable(&v->d->queues[i]);
}

/* Resets the device and sets it up: `features` are its own that shall be accepted. */
static inline void vdriver_start(struct vdriver *v, struct virtio_device *d, uint64_t features,
                                 unsigned how) {
    uint64_t want = features | VIRTIO_BIT(VIRTIO_F_VERSION_1);

    v->d = d;
    v->how = how;
    if (how & VDRIVER_PACKED)
        want |= VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    if (how & VDRIVER_INDIRECT)
        want |= VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
    if (how & VDRIVER_EVENT_IDX)
        want |= VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    virtio_attach(d, &vdriver_transport, v);
    virtio_set_status(d, 0, false);
    virtio_drain(d);
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    assert_int_equal(virtio_offered(d) & want, want);
    virtio_accept(d, want);
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK, false);
    assert_true(virtio_status(d) & VIRTIO_FEATURES_OK);
    for (unsigned i = 0; i < d->queue_count && i < VDRIVER_QUEUES; i++)
        vring_init(v, i, MIN(d->queues[i].max_size, (uint16_t)64));
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK,
                      false);
    vdriver_run(v);
}

/* Moves the state to another device of the same kind in the same memory, which the driver goes on
 * with. */
static inline void vdriver_copy_state(struct vdriver *v, struct virtio_device *to) {
    struct record_writer w = {0}, again = {0};
    struct record_reader r;
    const uint8_t *at;

    virtio_attach(to, &vdriver_transport, v);
    virtio_hold(v->d);
    rec_begin(&w, "virtio", 0, 1);
    virtio_save(v->d, &w);
    rec_end(&w);
    at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    struct record_reader first = r;
    assert_int_equal(virtio_check(to, &first, NULL), 0);
    assert_int_equal(rec_done(&first, NULL), 0);
    virtio_load(to, &r);
    rec_begin(&again, "virtio", 0, 1);
    virtio_save(to, &again);
    rec_end(&again);
    assert_int_equal(w.len, again.len);
    assert_memory_equal(w.buf, again.buf, w.len);
    rec_writer_free(&w);
    rec_writer_free(&again);
    v->d->ops->destroy(v->d);
    v->d = to;
    virtio_resume(to);
    vdriver_run(v);
}

/* --- descriptors --- */

enum { VDESC_NEXT = 1, VDESC_WRITE = 2, VDESC_TABLE = 4, VDESC_AVAIL = 0x80, VDESC_USED = 0x8000 };

static inline void vdesc_put(struct vdriver *v, uint64_t at, uint64_t addr, uint32_t len,
                             uint16_t third, uint16_t fourth) {
    vput(v, at, addr, 8);
    vput(v, at + 8, len, 4);
    vput(v, at + 12, third, 2);
    vput(v, at + 14, fourth, 2);
}

static inline uint16_t vring_packed_flags(const struct vring *r) {
    return r->avail_wrap ? VDESC_AVAIL : VDESC_USED;
}

/* A table of descriptors for VDRIVER_INDIRECT. */
static inline struct vbuf vdriver_table(struct vdriver *v, const struct vbuf *bufs, unsigned out,
                                        unsigned in) {
    unsigned n = out + in;
    struct vbuf table = {vdriver_alloc(v, 16ull * n), 16 * n};

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = (uint16_t)((i >= out ? VDESC_WRITE : 0) | (i + 1 < n ? VDESC_NEXT : 0));
        if (v->how & VDRIVER_PACKED)
            vdesc_put(v, table.gpa + 16 * i, bufs[i].gpa, bufs[i].len, 0, flags & VDESC_WRITE);
        else
            vdesc_put(v, table.gpa + 16 * i, bufs[i].gpa, bufs[i].len, flags, (uint16_t)(i + 1));
    }
    return table;
}

static inline int vring_add_split(struct vdriver *v, struct vring *r, const struct vbuf *bufs,
                                  unsigned out, unsigned n, uint16_t extra) {
    uint16_t head = r->free_head, i = head;

    for (unsigned k = 0; k < n; k++) {
        uint16_t flags = (uint16_t)((k >= out ? VDESC_WRITE : 0) | (k + 1 < n ? VDESC_NEXT : 0));
        vdesc_put(v, r->desc + 16u * i, bufs[k].gpa, bufs[k].len, flags | extra, r->next[i]);
        i = r->next[i];
    }
    r->free_head = i;
    vput(v, r->driver + 4 + 2u * (r->avail & (r->size - 1u)), head, 2);
    vput(v, r->driver + 2, ++r->avail, 2);
    return head;
}

static inline int vring_add_packed(struct vdriver *v, struct vring *r, const struct vbuf *bufs,
                                   unsigned out, unsigned n, uint16_t extra) {
    uint16_t id = 0, first = r->avail, first_flags = 0;

    while (r->busy[id])
        id++;
    r->busy[id] = true;
    for (unsigned k = 0; k < n; k++) {
        uint16_t flags = (uint16_t)((k >= out ? VDESC_WRITE : 0) | (k + 1 < n ? VDESC_NEXT : 0) |
                                    vring_packed_flags(r) | extra);
        vdesc_put(v, r->desc + 16u * r->avail, bufs[k].gpa, bufs[k].len, id, k ? flags : 0);
        if (!k) {
            /* Not available yet. */
            first_flags = flags;
            vput(v, r->desc + 16u * r->avail + 14, r->avail_wrap ? VDESC_USED : VDESC_AVAIL, 2);
        }
        if (++r->avail == r->size) {
            r->avail = 0;
            r->avail_wrap ^= true;
        }
    }
    vput(v, r->desc + 16u * first + 14, first_flags, 2);
    return id;
}

/* Makes a buffer available; its id. `bufs` are `out` readable ones, then `in` writable ones. */
static inline int vq_add(struct vdriver *v, unsigned qi, const struct vbuf *bufs, unsigned out,
                         unsigned in) {
    struct vring *r = &v->q[qi];
    struct vbuf table;
    unsigned n = out + in;
    uint16_t extra = 0;
    int id;

    if (v->how & VDRIVER_INDIRECT) {
        table = vdriver_table(v, bufs, out, in);
        bufs = &table;
        n = 1;
        extra = VDESC_TABLE;
        out = 1;
    }
    assert_true(n <= r->free_count);
    r->free_count = (uint16_t)(r->free_count - n);
    id = v->how & VDRIVER_PACKED ? vring_add_packed(v, r, bufs, out, n, extra)
                                 : vring_add_split(v, r, bufs, out, n, extra);
    r->count[id] = (uint16_t)n;
    return id;
}

/* Whether the device wants to hear of what was added since the last kick. */
static inline bool vq_wants_kick(struct vdriver *v, unsigned qi) {
    struct vring *r = &v->q[qi];
    uint16_t flags = (uint16_t)vget(v, r->device + (v->how & VDRIVER_PACKED ? 2 : 0), 2);

    if (v->how & VDRIVER_PACKED) {
        /* An event for a descriptor is taken for one at once, which is allowed. */
        return flags != 1;
    }
    if (!(v->how & VDRIVER_EVENT_IDX))
        return !(flags & 1);
    uint16_t event = (uint16_t)vget(v, r->device + 4 + 8u * r->size, 2);
    return (uint16_t)(r->avail - event - 1) < (uint16_t)(r->avail - r->notified);
}

static inline void vq_kick(struct vdriver *v, unsigned qi) {
    if (vq_wants_kick(v, qi)) {
        v->notifications++;
        virtio_notify(v->d, qi);
    }
    v->q[qi].notified = v->q[qi].avail;
}

static inline void vring_release(struct vring *r, uint16_t id, bool packed) {
    uint16_t last = id;

    r->free_count = (uint16_t)(r->free_count + r->count[id]);
    r->busy[id] = false;
    if (packed)
        return;
    for (unsigned k = 1; k < r->count[id]; k++)
        last = r->next[last];
    r->next[last] = r->free_head;
    r->free_head = id;
}

static inline bool vq_get_packed(struct vdriver *v, struct vring *r, int *id, uint32_t *len) {
    uint64_t at = r->desc + 16u * r->used;
    uint16_t flags = (uint16_t)vget(v, at + 14, 2);
    bool avail = flags & VDESC_AVAIL, used = flags & VDESC_USED;

    if (avail != used || used != r->used_wrap)
        return false;
    *id = (int)vget(v, at + 12, 2);
    *len = (uint32_t)vget(v, at + 8, 4);
    unsigned next = (unsigned)r->used + r->count[*id];
    r->used_wrap ^= next >= r->size;
    r->used = (uint16_t)(next % r->size);
    return true;
}

/* With event index an interrupt is wanted at the next used buffer, or when the index comes around.
 */
static inline void vring_set_event(struct vdriver *v, struct vring *r) {
    if (v->how & VDRIVER_PACKED) {
        vput(v, r->driver, r->used | (r->used_wrap ? 0x8000 : 0), 2);
        vput(v, r->driver + 2, r->quiet ? 1 : 2, 2);
    } else {
        vput(v, r->driver + 4 + 2u * r->size, r->quiet ? r->used - 1u : r->used, 2);
    }
}

/* Tells the device whether to interrupt. */
static inline void vq_interrupts(struct vdriver *v, unsigned qi, bool on) {
    struct vring *r = &v->q[qi];

    r->quiet = !on;
    if (v->how & VDRIVER_EVENT_IDX)
        vring_set_event(v, r);
    else
        vput(v, r->driver + (v->how & VDRIVER_PACKED ? 2 : 0), on ? 0 : 1, 2);
}

/* The next used buffer, if there is one; otherwise *id and *len are none's. */
static inline bool vq_get(struct vdriver *v, unsigned qi, int *id, uint32_t *len) {
    struct vring *r = &v->q[qi];
    bool packed = v->how & VDRIVER_PACKED;

    *id = -1;
    *len = UINT32_MAX;
    if (packed) {
        if (!vq_get_packed(v, r, id, len))
            return false;
    } else {
        if ((uint16_t)vget(v, r->device + 2, 2) == r->used)
            return false;
        uint64_t at = r->device + 4 + 8u * (r->used++ & (r->size - 1u));
        *id = (int)vget(v, at, 4);
        *len = (uint32_t)vget(v, at + 4, 4);
    }
    assert_in_range(*id, 0, r->size - 1);
    vring_release(r, (uint16_t)*id, packed);
    if (v->how & VDRIVER_EVENT_IDX)
        vring_set_event(v, r);
    return true;
}

/* Adds, notifies, runs, and returns the written length of the one buffer that comes back. */
static inline uint32_t vq_do(struct vdriver *v, unsigned qi, const struct vbuf *bufs, unsigned out,
                             unsigned in) {
    uint32_t len = UINT32_MAX;
    int id = vq_add(v, qi, bufs, out, in), got = -1;

    vq_kick(v, qi);
    vdriver_run(v);
    assert_true(vq_get(v, qi, &got, &len));
    assert_int_equal(got, id);
    return len;
}

#endif

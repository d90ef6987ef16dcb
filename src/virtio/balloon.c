/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon: pages that the driver puts into the balloon, and free pages that it reports, go
 * back to the host at once, as holes in the memory's file; they read as zeroes when the guest uses
 * them again. Deflating needs nothing but the driver's word.
 */
#include "virtio/balloon.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

enum {
    VIRTIO_BALLOON_F_MUST_TELL_HOST = 0,
    VIRTIO_BALLOON_F_STATS_VQ = 1,
    VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 2,
    VIRTIO_BALLOON_F_PAGE_POISON = 4,
    VIRTIO_BALLOON_F_PAGE_REPORTING = 5,
};
enum { CONFIG_NUM_PAGES = 0, CONFIG_ACTUAL = 4, CONFIG_POISON = 12, CONFIG_SIZE = 16 };
enum { INFLATE, DEFLATE, STATS, QUEUES = 5, QUEUE_SIZE = 128 };
#define STAT_BYTES 10 /* { u16 tag; u64 value } */

struct balloon {
    struct virtio_device d; /* first */
    /* Under the statistics queue's lock. */
    struct virtio_balloon_stats stats;
    bool ask;
};

static struct balloon *balloon_of(struct virtio_device *d) {
    return (struct balloon *)(void *)d;
}

/* Whole pages of the memory's file become a hole; what translators know of them is void. */
static void give_back(struct mem *m, uint8_t *host, uint64_t len) {
    const uint64_t from = align_up((uint64_t)(host - m->ram), PAGE_SIZE);
    const uint64_t to = align_down((uint64_t)(host - m->ram) + len, PAGE_SIZE);

    if (from >= to)
        return;
    if (fallocate(m->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(to - from)) == 0)
        mem_wrote(m, m->ram + from, to - from);
}

/* --- the balloon --- */

/* A run of pages, which grows as long as page numbers follow each other, up or down. */
struct run {
    uint64_t first, count;
};

static void give_back_run(struct mem *m, const struct run *r) {
    struct mem_hit hit;

    for (uint64_t at = r->first << PAGE_SHIFT, left = r->count << PAGE_SHIFT, n; left;
         at += n, left -= n) {
        mem_lookup(m, GPA(at), &hit);
        n = MIN(hit.bytes, left);
        if (hit.kind == MEM_RAM)
            give_back(m, hit.host, n);
    }
}

static bool joins(struct run *r, uint32_t page) {
    if (r->count && page == r->first + r->count) {
        r->count++;
        return true;
    }
    if (r->count && page + 1ull == r->first) {
        r->first--;
        r->count++;
        return true;
    }
    return false;
}

static void inflate(struct mem *m, const struct virtq_buf *b) {
    struct run run = {0, 0};
    uint32_t pages[256];
    size_t n;

    for (size_t off = 0; (n = virtq_read(b, off, pages, sizeof(pages)) / 4); off += n * 4)
        for (size_t i = 0; i < n; i++) {
            if (joins(&run, pages[i]))
                continue;
            give_back_run(m, &run);
            run = (struct run){pages[i], 1};
        }
    give_back_run(m, &run);
}

/* --- free pages --- */

/* A driver that fills free pages with a pattern would miss it, were they zeroes. */
static bool may_zero(struct balloon *b) {
    return !virtio_has(&b->d, VIRTIO_BALLOON_F_PAGE_POISON) ||
           virtio_config_get(&b->d, CONFIG_POISON, 4) == 0;
}

static void take_report(struct balloon *balloon, const struct virtq_buf *b) {
    for (unsigned i = 0; i < b->in_count && may_zero(balloon); i++)
        give_back(balloon->d.mem, b->in[i].iov_base, b->in[i].iov_len);
}

/* --- statistics --- */

static void take_stats(struct balloon *balloon, const struct virtq_buf *b) {
    struct virtio_balloon_stats *s = &balloon->stats;
    uint8_t raw[STAT_BYTES];

    s->known = 0;
    for (size_t off = 0; virtq_read(b, off, raw, sizeof(raw)) == sizeof(raw); off += sizeof(raw)) {
        uint16_t tag;

        memcpy(&tag, raw, 2);
        if (tag >= BALLOON_S_NR)
            continue;
        memcpy(&s->value[tag], raw + 2, 8);
        s->known |= 1u << tag;
    }
    s->updates++;
}

/* The driver's one buffer waits in the queue until somebody asks: to give it back is the question.
 */
static void notify_stats(struct balloon *balloon, struct virtq *q) {
    struct virtq_buf *b = virtq_pop(q);

    if (b && !balloon->ask) {
        take_stats(balloon, b);
        virtq_unpop(q, b);
        return;
    }
    if (b) {
        balloon->ask = false;
        virtq_complete(q, b, 0);
    }
    if (virtq_notify_on(q))
        virtq_kick(q);
}

void virtio_balloon_stats(struct virtio_device *d, struct virtio_balloon_stats *s) {
    struct virtq *q = &d->queues[STATS];

    virtq_lock(q);
    *s = balloon_of(d)->stats;
    virtq_unlock(q);
}

void virtio_balloon_ask(struct virtio_device *d) {
    struct virtq *q = &d->queues[STATS];

    virtq_lock(q);
    balloon_of(d)->ask = virtio_has(d, VIRTIO_BALLOON_F_STATS_VQ);
    virtq_unlock(q);
    virtq_kick(q);
}

/* --- the device --- */

/*
 * The free-page queue's number is 4 by the specification. Linux before 6.11 counts only queues
 * that are there, and so comes to 3 (which is nobody's without free-page hints).
 */
static void take_buffer(struct balloon *balloon, const struct virtq *q, const struct virtq_buf *b) {
    if (q->index == INFLATE)
        inflate(balloon->d.mem, b);
    else if (q->index != DEFLATE)
        take_report(balloon, b);
}

static void balloon_notify(struct virtio_device *d, struct virtq *q) {
    struct virtq_buf *b;

    if (q->index == STATS && virtio_has(d, VIRTIO_BALLOON_F_STATS_VQ)) {
        notify_stats(balloon_of(d), q);
        return;
    }
    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            take_buffer(balloon_of(d), q, b);
            virtq_put(q, b, 0);
        }
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

static void balloon_reset(struct virtio_device *d) {
    struct balloon *b = balloon_of(d);

    b->stats = (struct virtio_balloon_stats){0};
    b->ask = false;
    virtio_config_set(d, CONFIG_ACTUAL, 4, 0);
    virtio_config_set(d, CONFIG_POISON, 4, 0);
}

static void balloon_config_write(struct virtio_device *d, unsigned off, unsigned size,
                                 uint32_t value) {
    if (range_within(off - CONFIG_ACTUAL, size, 4) || range_within(off - CONFIG_POISON, size, 4))
        virtio_config_set(d, off, size, value);
}

void virtio_balloon_set_target(struct virtio_device *d, uint64_t bytes) {
    virtio_config_set(d, CONFIG_NUM_PAGES, 4, MIN(bytes >> PAGE_SHIFT, (uint64_t)UINT32_MAX));
    virtio_config_changed(d);
}

uint64_t virtio_balloon_actual(struct virtio_device *d) {
    return virtio_config_get(d, CONFIG_ACTUAL, 4) << PAGE_SHIFT;
}

static uint32_t config32(const struct virtio_device *d, unsigned off) {
    uint32_t v;

    memcpy(&v, d->config + off, 4);
    return v;
}

static void balloon_save(const struct virtio_device *d, struct record_writer *w) {
    rec_put_u32(w, config32(d, CONFIG_NUM_PAGES));
    rec_put_u32(w, config32(d, CONFIG_ACTUAL));
    rec_put_u32(w, config32(d, CONFIG_POISON));
}

/* Any number is one that a guest may have written. */
static int balloon_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    (void)d;
    for (int i = 0; i < 3; i++)
        rec_get_u32(r);
    return r->bad ? err_set(e, 0, "virtio-balloon: the record is too short") : 0;
}

static void balloon_load(struct virtio_device *d, struct record_reader *r) {
    virtio_config_set(d, CONFIG_NUM_PAGES, 4, rec_get_u32(r));
    virtio_config_set(d, CONFIG_ACTUAL, 4, rec_get_u32(r));
    virtio_config_set(d, CONFIG_POISON, 4, rec_get_u32(r));
}

static void balloon_destroy(struct virtio_device *d) {
    virtio_destroy(d);
    free(d);
}

static const struct virtio_ops balloon_ops = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .version = 1,
    .pci_class = 0x00ff00,
    .notify = balloon_notify,
    .reset = balloon_reset,
    .config_write = balloon_config_write,
    .save = balloon_save,
    .check = balloon_check,
    .load = balloon_load,
    .destroy = balloon_destroy,
};

struct virtio_device *virtio_balloon_new(struct mem *m, struct loop *l, struct err *e) {
    struct balloon *b = xcalloc(1, sizeof(*b));
    const uint64_t features =
        VIRTIO_BIT(VIRTIO_BALLOON_F_MUST_TELL_HOST) | VIRTIO_BIT(VIRTIO_BALLOON_F_STATS_VQ) |
        VIRTIO_BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | VIRTIO_BIT(VIRTIO_BALLOON_F_PAGE_POISON) |
        VIRTIO_BIT(VIRTIO_BALLOON_F_PAGE_REPORTING);

    virtio_init(&b->d, &balloon_ops, m, features, CONFIG_SIZE);
    if (virtio_add_queues(&b->d, QUEUES, QUEUE_SIZE, sizeof(struct virtq_buf), l, e) < 0) {
        balloon_destroy(&b->d);
        return NULL;
    }
    return &b->d;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block device (virtio 1.2, section 5.2): several queues, flush, discard, write zeroes,
 * topology and a serial. Left out: geometry, lifetime, secure erase, zones.
 */
#include "virtio/blk.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/record.h"
#include "base/util.h"
#include "block/block.h"
#include "virtio/virtio.h"

#define QUEUE_SIZE 256
#define SECTOR 512u
#define RANGES_MAX 16u                  /* in one discard or write zeroes */
#define RANGE_SECTORS (UINT32_MAX >> 9) /* 4 GiB less a sector, in sectors */

/* Feature bits (5.2.3). */
enum {
    F_SEG_MAX = 2,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
};

/* Configuration (5.2.4). */
enum {
    CAPACITY = 0,
    SEG_MAX = 12,
    BLK_SIZE = 20,
    PHYSICAL_EXP = 24,
    MIN_IO = 26,
    OPT_IO = 28,
    WRITEBACK = 32,
    NUM_QUEUES = 34,
    MAX_DISCARD = 36,
    MAX_DISCARD_SEG = 40,
    DISCARD_ALIGN = 44,
    MAX_ZEROES = 48,
    MAX_ZEROES_SEG = 52,
    ZEROES_UNMAP = 56,
    CONFIG_BYTES = 60,
};

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { FLAG_UNMAP = 1 };

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct range {
    uint64_t sector;
    uint32_t sectors, flags;
};

struct virtio_blk {
    struct virtio_device d;
    struct block *block;
    char serial[VIRTIO_BLK_SERIAL + 1];
    bool notifying; /* loop's thread only: a queue's lock is held */
};

struct request {
    struct virtq_buf buf;
    struct virtq *q;
    struct block_req io;
    uint32_t read;        /* bytes that the guest is given besides the status */
    bool flush_after;     /* the write cache is off */
    struct range *ranges; /* what is left of a discard or write zeroes */
    unsigned range, range_count;
};

static struct virtio_blk *blk_of(struct virtio_device *d) {
    return container_of(d, struct virtio_blk, d);
}

static struct request *request_of(struct block_req *io) {
    return container_of(io, struct request, io);
}

/* --- the end of a request --- */

static void complete(struct request *r, uint8_t status) {
    struct virtq_buf *b = &r->buf;
    uint32_t written = status == S_OK ? r->read + 1 : 1;

    virtq_write(b, b->in_len - 1, &status, 1);
    free(r->ranges);
    virtq_put(r->q, b, written);
}

/* The back end answers within block_submit, which notify() has called, or from the loop. */
static void finish(struct request *r, uint8_t status) {
    struct virtq *q = r->q;

    if (blk_of(q->dev)->notifying) {
        complete(r, status);
        return;
    }
    virtq_lock(q);
    complete(r, status);
    virtq_flush(q);
    virtq_unlock(q);
}

/* --- its parts --- */

static void on_done(struct block_req *io, int result);

static void submit(struct request *r) {
    r->io.done = on_done;
    block_submit(blk_of(r->q->dev)->block, &r->io);
}

static bool next_range(struct request *r) {
    if (r->range == r->range_count)
        return false;
    const struct range *range = &r->ranges[r->range++];
    r->io.off = range->sector * SECTOR;
    r->io.len = (uint64_t)range->sectors * SECTOR;
    r->io.unmap = range->flags & FLAG_UNMAP;
    submit(r);
    return true;
}

static void on_done(struct block_req *io, int result) {
    struct request *r = request_of(io);

    if (result < 0) {
        finish(r, S_IOERR);
    } else if (r->flush_after) {
        r->flush_after = false;
        r->io.op = BLOCK_FLUSH;
        submit(r);
    } else if (!r->ranges || !next_range(r)) {
        finish(r, S_OK);
    }
}

/* Whether it can be an offset in bytes. */
static bool sector_ok(uint64_t sector) {
    return sector <= UINT64_MAX / SECTOR;
}

/* --- kinds of requests; each completes or submits --- */

static void transfer(struct request *r, const struct header *h, bool write) {
    struct virtq_buf *b = &r->buf;
    struct virtio_blk *v = blk_of(r->q->dev);
    uint64_t len = write ? b->out_len - sizeof(*h) : b->in_len - 1;

    if (len % SECTOR || !sector_ok(h->sector)) {
        finish(r, S_IOERR);
        return;
    }
    if (write)
        b->out_count = iov_slice(b->out, b->out_count, sizeof(*h), len, b->out);
    r->io.op = write ? BLOCK_WRITE : BLOCK_READ;
    r->io.off = h->sector * SECTOR;
    r->io.len = len;
    r->io.iov = write ? b->out : b->in;
    r->io.iov_count = write ? b->out_count : b->in_count;
    r->read = write ? 0 : (uint32_t)len;
    r->flush_after = write && !virtio_config_get(&v->d, WRITEBACK, 1);
    submit(r);
}

static void flush(struct request *r) {
    r->io.op = BLOCK_FLUSH;
    submit(r);
}

static void get_id(struct request *r) {
    const struct virtio_blk *v = blk_of(r->q->dev);
    size_t n = MIN(r->buf.in_len - 1, (size_t)VIRTIO_BLK_SERIAL);

    r->read = (uint32_t)virtq_write(&r->buf, 0, v->serial, n);
    finish(r, S_OK);
}

static uint8_t judge_ranges(const struct request *r, bool zeroes) {
    uint32_t known = zeroes ? FLAG_UNMAP : 0;

    for (unsigned i = 0; i < r->range_count; i++) {
        const struct range *range = &r->ranges[i];

        if (range->flags & ~known)
            return S_UNSUPP;
        if (!sector_ok(range->sector) || range->sectors > RANGE_SECTORS)
            return S_IOERR;
    }
    return S_OK;
}

static void clear(struct request *r, bool zeroes) {
    size_t bytes = r->buf.out_len - sizeof(struct header), count = bytes / sizeof(struct range);

    if (!count || count > RANGES_MAX || bytes % sizeof(struct range)) {
        finish(r, S_IOERR);
        return;
    }
    r->ranges = xcalloc(count, sizeof(*r->ranges));
    r->range_count = (unsigned)count;
    virtq_read(&r->buf, sizeof(struct header), r->ranges, bytes);
    uint8_t status = judge_ranges(r, zeroes);
    r->io.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
    if (status != S_OK)
        finish(r, status);
    else
        next_range(r);
}

static void start(struct request *r) {
    struct header h;

    virtq_read(&r->buf, 0, &h, sizeof(h));
    switch (h.type) {
    case T_IN:
        transfer(r, &h, false);
        break;
    case T_OUT:
        transfer(r, &h, true);
        break;
    case T_FLUSH:
        flush(r);
        break;
    case T_GET_ID:
        get_id(r);
        break;
    case T_DISCARD:
        clear(r, false);
        break;
    case T_WRITE_ZEROES:
        clear(r, true);
        break;
    default:
        finish(r, S_UNSUPP);
    }
}

/* --- device --- */

static void handle(struct virtq *q, struct virtq_buf *b) {
    struct request *r = container_of(b, struct request, buf);

    r->q = q;
    if (b->out_len >= sizeof(struct header) && b->in_len) {
        start(r);
        return;
    }
    virtio_broken(q->dev, "queue %u: a request without header or status", q->index);
    virtq_drop(q, b);
}

static void blk_notify(struct virtio_device *d, struct virtq *q) {
    struct virtio_blk *v = blk_of(d);
    struct virtq_buf *b;

    v->notifying = true;
    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q)))
            handle(q, b);
        virtq_flush(q);
    } while (virtq_notify_on(q));
    v->notifying = false;
}

static void blk_config_write(struct virtio_device *d, unsigned off, unsigned size, uint32_t value) {
    if (off == WRITEBACK && size == 1 && virtio_has(d, F_CONFIG_WCE))
        virtio_config_set(d, WRITEBACK, 1, value & 1);
}

/* Without the flush command a driver cannot do with a write cache (5.2.5.2). */
static void blk_ready(struct virtio_device *d) {
    if (!virtio_has(d, F_CONFIG_WCE))
        virtio_config_set(d, WRITEBACK, 1, virtio_has(d, F_FLUSH));
}

static void blk_reset(struct virtio_device *d) {
    virtio_config_set(d, WRITEBACK, 1, blk_of(d)->block->info.write_cache);
}

static void blk_save(const struct virtio_device *d, struct record_writer *w) {
    rec_put_u8(w, d->config[WRITEBACK]);
}

static int blk_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    uint8_t writeback = rec_get_u8(r);

    return writeback > 1 ? err_set(e, 0, "%s: write cache %u", d->ops->name, writeback) : 0;
}

static void blk_load(struct virtio_device *d, struct record_reader *r) {
    virtio_config_set(d, WRITEBACK, 1, rec_get_u8(r));
}

static void blk_destroy(struct virtio_device *d) {
    virtio_destroy(d);
    free(blk_of(d));
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .version = 1,
    .pci_class = 0x010000,
    .notify = blk_notify,
    .ready = blk_ready,
    .reset = blk_reset,
    .config_write = blk_config_write,
    .save = blk_save,
    .check = blk_check,
    .load = blk_load,
    .destroy = blk_destroy,
};

static uint64_t features(const struct block *b, unsigned queues) {
    uint64_t f = VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_FLUSH) |
                 VIRTIO_BIT(F_TOPOLOGY) | VIRTIO_BIT(F_CONFIG_WCE);

    if (queues > 1)
        f |= VIRTIO_BIT(F_MQ);
    if (b->info.read_only)
        return f | VIRTIO_BIT(F_RO);
    if (b->info.discard_align)
        f |= VIRTIO_BIT(F_DISCARD);
    return f | VIRTIO_BIT(F_WRITE_ZEROES);
}

static void fill_config(struct virtio_blk *v, unsigned queues) {
    const struct block_info *i = &v->block->info;
    struct virtio_device *d = &v->d;
    uint32_t exp = (uint32_t)__builtin_ctz(i->physical_block / i->logical_block);

    virtio_config_set(d, CAPACITY, 8, i->size / SECTOR);
    virtio_config_set(d, SEG_MAX, 4, QUEUE_SIZE - 2);
    virtio_config_set(d, BLK_SIZE, 4, i->logical_block);
    virtio_config_set(d, PHYSICAL_EXP, 1, exp);
    virtio_config_set(d, MIN_IO, 2, 1u << exp);
    virtio_config_set(d, OPT_IO, 4, i->optimal_io / i->logical_block);
    virtio_config_set(d, WRITEBACK, 1, i->write_cache);
    virtio_config_set(d, NUM_QUEUES, 2, queues);
    virtio_config_set(d, MAX_DISCARD, 4, RANGE_SECTORS);
    virtio_config_set(d, MAX_DISCARD_SEG, 4, RANGES_MAX);
    virtio_config_set(d, DISCARD_ALIGN, 4, i->discard_align / SECTOR);
    virtio_config_set(d, MAX_ZEROES, 4, RANGE_SECTORS);
    virtio_config_set(d, MAX_ZEROES_SEG, 4, RANGES_MAX);
    virtio_config_set(d, ZEROES_UNMAP, 1, 1);
}

struct virtio_device *virtio_blk_new(struct mem *m, struct block *b, unsigned queues,
                                     const char *serial, struct err *e) {
    struct virtio_blk *v = xcalloc(1, sizeof(*v));

    v->block = b;
    if (serial)
        strncpy(v->serial, serial, VIRTIO_BLK_SERIAL);
    virtio_init(&v->d, &blk_ops, m, features(b, queues), CONFIG_BYTES);
    fill_config(v, queues);
    if (virtio_add_queues(&v->d, queues, QUEUE_SIZE, sizeof(struct request), b->loop, e) == 0)
        return &v->d;
    blk_destroy(&v->d);
    return NULL;
}

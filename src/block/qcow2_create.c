/* SPDX-License-Identifier: Apache-2.0 */
/* A new image, how large one gets, and another size for one that is there. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define CLUSTER_DEFAULT (64u << 10)

struct layout {
    struct qcow2_header h;
    uint64_t cluster, per_block; /* refcounts in a block */
    uint64_t l1_clusters, blocks, used;
};

static bool power_of_two(uint64_t v) {
    return v && !(v & (v - 1));
}

static int judge(const struct volume_create *c, struct layout *l, struct err *e) {
    unsigned bits = c->refcount_bits ? c->refcount_bits : 16;

    l->h.version = c->version ? c->version : 3;
    l->cluster = c->cluster ? c->cluster : CLUSTER_DEFAULT;
    if (!power_of_two(l->cluster) || l->cluster < 512 || l->cluster > 2u << 20)
        return err_set(e, 0, "cluster_size %" PRIu64 ": a power of two from 512 to 2M", l->cluster);
    if (!power_of_two(bits) || bits > 64)
        return err_set(e, 0, "refcount_bits %u: a power of two from 1 to 64", bits);
    if (l->h.version != 2 && l->h.version != 3)
        return err_set(e, 0, "version %u: 2 and 3 are the versions there are", l->h.version);
    if (l->h.version == 2 && (c->lazy_refcounts || c->extended_l2 || c->zstd || bits != 16))
        return err_set(e, 0,
                       "lazy_refcounts, extended_l2, compression_type=zstd and refcount_bits "
                       "need compat=1.1");
    if (c->extended_l2 && l->cluster < 16384)
        return err_set(e, 0, "extended_l2 needs clusters of at least 16K");
    l->h.refcount_order = (uint32_t)__builtin_ctz(bits);
    l->h.cluster_bits = (uint32_t)__builtin_ctzll(l->cluster);
    return 0;
}

/* Header, refcount table, refcount blocks, L1 table, in this order. */
static int lay_out(const struct volume_create *c, struct layout *l, struct err *e) {
    uint64_t covers, l1;

    if (judge(c, l, e) < 0)
        return -1;
    covers = (l->cluster / (c->extended_l2 ? 16 : 8)) << l->h.cluster_bits;
    l1 = c->size / covers + (c->size % covers != 0);
    if (l1 > QCOW2_L1_MAX / 8)
        return err_set(e, 0, "the size is too large for clusters of %" PRIu64 " bytes", l->cluster);
    l->per_block = l->cluster * 8 >> l->h.refcount_order;
    l->l1_clusters = (l1 * 8 + l->cluster - 1) / l->cluster;
    do {
        l->blocks++;
        l->h.reftable_clusters = (uint32_t)((l->blocks * 8 + l->cluster - 1) / l->cluster);
        l->used = 1 + l->h.reftable_clusters + l->blocks + l->l1_clusters;
    } while (l->blocks * l->per_block < l->used);
    l->h.size = c->size;
    l->h.l1_size = (uint32_t)l1;
    l->h.reftable_offset = l->cluster;
    l->h.l1_offset = (l->used - l->l1_clusters) << l->h.cluster_bits;
    l->h.header_length = l->h.version == 2 ? 72 : 112;
    l->h.compression = c->zstd ? QCOW2_ZSTD : QCOW2_ZLIB;
    l->h.incompatible =
        (c->zstd ? QCOW2_COMPRESSION : 0) | (c->extended_l2 ? QCOW2_EXTENDED_L2 : 0);
    l->h.compatible = c->lazy_refcounts ? QCOW2_LAZY_REFCOUNTS : 0;
    return 0;
}

static void count_one(const struct layout *l, uint8_t *block, uint64_t i) {
    unsigned bits = 1u << l->h.refcount_order;

    /* Big-endian: the last byte of a wide one; the lowest bits first of narrow ones. */
    if (bits >= 8)
        block[i * bits / 8 + bits / 8 - 1] = 1;
    else
        block[i * bits / 8] |= (uint8_t)(1u << i * bits % 8);
}

static int write_refs(struct hostfile *file, const struct layout *l) {
    uint64_t first = 1 + l->h.reftable_clusters;
    cleanup_free uint8_t *table = xcalloc(l->h.reftable_clusters, l->cluster);
    int r = 0;

    for (uint64_t b = 0; b < l->blocks && r == 0; b++) {
        cleanup_free uint8_t *block = xcalloc(1, l->cluster);

        for (uint64_t i = 0; i < l->per_block && b * l->per_block + i < l->used; i++)
            count_one(l, block, i);
        r = hostfile_write(file, (first + b) << l->h.cluster_bits, block, l->cluster);
        be64_put(table + b * 8, (first + b) << l->h.cluster_bits);
    }
    if (r == 0)
        r = hostfile_write(file, l->cluster, table, l->h.reftable_clusters * l->cluster);
    return r;
}

int qcow2_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    struct layout l = {0};
    cleanup_free uint8_t *head = NULL, *l1 = NULL;
    int r;

    if (lay_out(c, &l, e) < 0)
        return -1;
    head = xcalloc(1, l.cluster);
    l1 = xcalloc(MAX(l.l1_clusters, 1ull), l.cluster);
    r = qcow2_header_make(&l.h, c->backing, c->backing_format, head);
    if (r < 0)
        return err_set(e, -r, "the backing file's name and format");
    r = write_refs(file, &l);
    if (r == 0)
        r = hostfile_write(file, l.h.l1_offset, l1, l.l1_clusters * l.cluster);
    /* The header last: before it, the file is no image. */
    if (r == 0)
        r = hostfile_write(file, 0, head, l.cluster);
    if (r == 0)
        r = hostfile_sync(file);
    return r < 0 ? err_set(e, -r, "write") : 0;
}

/* Bytes of a file that holds `data` clusters of data. */
static uint64_t file_size(const struct layout *l, uint64_t clusters, uint64_t entries) {
    uint64_t l2s = clusters / entries + (clusters % entries != 0), used, blocks = 0, table = 0;

    do {
        used = 1 + l->l1_clusters + l2s + clusters + blocks + table;
        blocks = (used >> (l->h.cluster_bits + 3 - l->h.refcount_order)) + 1;
        table = (blocks * 8 >> l->h.cluster_bits) + 1;
    } while (1 + l->l1_clusters + l2s + clusters + blocks + table > used);
    return used << l->h.cluster_bits;
}

int qcow2_measure(const struct volume_create *c, uint64_t data, uint64_t *required, uint64_t *full,
                  struct err *e) {
    struct layout l = {0};
    uint64_t entries;

    if (lay_out(c, &l, e) < 0)
        return -1;
    entries = l.cluster / (c->extended_l2 ? 16 : 8);
    *required = file_size(&l, data / l.cluster + (data % l.cluster != 0), entries);
    *full = file_size(&l, c->size / l.cluster + (c->size % l.cluster != 0), entries);
    return 0;
}

/* --- another size --- */

/* A longer L1 table at another place, which the header then names. */
static int move_l1(struct qcow2 *q, uint32_t entries) {
    const struct qcow2_header before = q->h;
    cleanup_free uint8_t *raw = xcalloc(entries, 8);
    uint64_t *l1 = xcalloc(entries, 8), off = 0;
    int r = qcow2_take(q, qcow2_clusters(q, entries * 8ull), &off);

    memcpy(l1, q->l1, (size_t)q->h.l1_size * 8);
    for (uint32_t i = 0; i < q->h.l1_size; i++)
        be64_put(raw + i * 8ull, l1[i]);
    if (r == 0)
        r = hostfile_write(q->file, off, raw, entries * 8ull);
    if (r == 0)
        r = qcow2_sync(q);
    if (r < 0) {
        free(l1);
        return r;
    }
    q->h.l1_offset = off;
    q->h.l1_size = entries;
    r = qcow2_header_switch(q, &before);
    if (r < 0) {
        free(l1);
        return r;
    }
    free(q->l1);
    q->l1 = l1;
    q->l1_from = entries;
    q->l1_to = 0;
    qcow2_drop_later(q, before.l1_offset >> q->cluster_bits,
                     qcow2_clusters(q, before.l1_size * 8ull));
    return 0;
}

static int set_size(struct qcow2 *q, uint64_t size) {
    const struct qcow2_header before = q->h;
    int r;

    q->h.size = size;
    r = qcow2_header_switch(q, &before);
    if (r == 0)
        q->v.size = size;
    return r;
}

/* What was behind the end must not be seen again when the disk grows later. */
static int clear_tail(struct volume *v, uint64_t size) {
    uint64_t cluster = v->cluster, keep = MIN(v->size, align_up(size, cluster));
    int r = qcow2_zero(v, size, keep - size, true);

    /* Whole clusters are given back; a backing file's must stay hidden. */
    return r < 0 ? r : qcow2_zero(v, keep, v->size - keep, true);
}

int qcow2_resize(struct volume *v, uint64_t size, struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    uint64_t covers = (uint64_t)q->entries << q->cluster_bits;
    uint64_t entries = size / covers + (size % covers != 0);
    int r = 0;

    if (q->h.snapshot_count && size < v->size)
        return err_set(e, 0, "an image with snapshots cannot be made smaller");
    if (entries > QCOW2_L1_MAX / 8)
        return err_set(e, 0, "the size is too large for clusters of %" PRIu32 " bytes",
                       q->cluster_size);
    if (size < v->size)
        r = clear_tail(v, size);
    pthread_rwlock_wrlock(&q->gate);
    pthread_mutex_lock(&q->lock);
    if (r == 0 && entries > q->h.l1_size)
        r = move_l1(q, (uint32_t)entries);
    if (r == 0)
        r = qcow2_sync(q);
    if (r == 0)
        r = set_size(q, size);
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    return r < 0 ? err_set(e, -r, "resize") : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Refcounts: which clusters of the file are used, and in which order that gets to disk (spec, "Host
 * cluster management"). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define CACHE_BYTES (4u << 20)
#define FREED_MAX 65536u

/* --- loading --- */

static int write_refblock(void *arg) {
    struct qcow2 *q = arg;

    q->barrier = true;
    return table_cache_write(q->refblocks);
}

int qcow2_refs_load(struct qcow2 *q, struct err *e) {
    uint64_t bytes = (uint64_t)q->h.reftable_clusters << q->cluster_bits;
    cleanup_free uint8_t *raw = xcalloc(1, bytes);
    int r;

    if (q->h.reftable_offset < q->cluster_size || q->h.reftable_offset & (q->cluster_size - 1) ||
        q->h.reftable_offset > INT64_MAX - bytes)
        return err_set(e, 0, "a refcount table at offset %#" PRIx64, q->h.reftable_offset);
    r = hostfile_read(q->file, q->h.reftable_offset, raw, bytes);
    if (r < 0)
        return err_set(e, -r, "refcount table");
    q->reftable_size = (uint32_t)(bytes / 8);
    q->reftable = xcalloc(q->reftable_size, 8);
    for (uint32_t i = 0; i < q->reftable_size; i++)
        q->reftable[i] = be64_get(raw + i * 8ull);
    q->reftable_from = q->reftable_size;
    q->ref_bits = 1u << q->h.refcount_order;
    q->ref_entries = q->cluster_size * 8 / q->ref_bits;
    q->refblocks = table_cache_new(
        q->file, q->cluster_size, MAX(CACHE_BYTES >> q->cluster_bits, 4u), write_refblock, NULL, q);
    return 0;
}

/* --- single refcounts --- */

static uint64_t get(const struct qcow2 *q, const uint8_t *block, uint32_t i) {
    unsigned bit = i * q->ref_bits % 8;

    switch (q->h.refcount_order) {
    case 3:
        return block[i];
    case 4:
        return be16_get(block + i * 2ull);
    case 5:
        return be32_get(block + i * 4ull);
    case 6:
        return be64_get(block + i * 8ull);
    default:
        return block[(uint64_t)i * q->ref_bits / 8] >> bit & ((1u << q->ref_bits) - 1);
    }
}

static void put(const struct qcow2 *q, uint8_t *block, uint32_t i, uint64_t count) {
    unsigned bit = i * q->ref_bits % 8, mask = (1u << q->ref_bits % 32) - 1;
    uint8_t *byte = block + (uint64_t)i * q->ref_bits / 8;

    switch (q->h.refcount_order) {
    case 3:
        *byte = (uint8_t)count;
        break;
    case 4:
        be16_put(byte, (uint16_t)count);
        break;
    case 5:
        be32_put(byte, (uint32_t)count);
        break;
    case 6:
        be64_put(byte, count);
        break;
    default:
        *byte = (uint8_t)((*byte & ~(mask << bit)) | (unsigned)count << bit);
    }
}

static uint64_t most(const struct qcow2 *q) {
    return q->ref_bits == 64 ? UINT64_MAX : (1ull << q->ref_bits) - 1;
}

/* The block for a cluster; `*block` is NULL when there is none, and all it would hold is 0. */
static int block_of(struct qcow2 *q, uint64_t cluster, uint8_t **block, uint64_t *off) {
    uint64_t i = cluster / q->ref_entries;

    *block = NULL;
    if (i >= q->reftable_size || !q->reftable[i])
        return 0;
    *off = q->reftable[i];
    if (!qcow2_place_ok(q, *off, q->cluster_size))
        return qcow2_corrupt(q, "a refcount block at %#" PRIx64, *off);
    return table_cache_get(q->refblocks, *off, block);
}

int qcow2_ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *count) {
    uint8_t *block = NULL;
    uint64_t off = 0;
    int r = block_of(q, cluster, &block, &off);

    if (r == 0)
        *count = block ? get(q, block, (uint32_t)(cluster % q->ref_entries)) : 0;
    return r;
}

/* --- the refcount table --- */

/* A block that holds its own refcount: it is the first cluster of those it counts, which are all
 * free. */
static int make_block(struct qcow2 *q, uint32_t i) {
    uint64_t first = (uint64_t)i * q->ref_entries, off = first << q->cluster_bits;
    uint8_t *block = NULL;
    int r = qcow2_place_ok(q, off, q->cluster_size)
                ? table_cache_make(q->refblocks, off, &block)
                : qcow2_corrupt(q, "no refcounts for the tables at %#" PRIx64, off);

    if (r < 0 || !block)
        return r;
    put(q, block, 0, 1);
    q->reftable[i] = off;
    q->reftable_from = MIN(q->reftable_from, i);
    q->reftable_to = MAX(q->reftable_to, i + 1);
    q->end = MAX(q->end, first + 1);
    return 0;
}

/* Writes the blocks that count the new table's clusters and their own. */
static int write_first_blocks(struct qcow2 *q, uint64_t first, uint64_t blocks, uint64_t used) {
    cleanup_free uint8_t *block = xcalloc(1, q->cluster_size);
    int r = 0;

    for (uint64_t b = 0; b < blocks && r == 0; b++) {
        memset(block, 0, q->cluster_size);
        for (uint32_t i = 0; i < q->ref_entries && b * q->ref_entries + i < used; i++)
            put(q, block, i, 1);
        table_cache_forget(q->refblocks, (first + b) << q->cluster_bits);
        r = hostfile_write(q->file, (first + b) << q->cluster_bits, block, q->cluster_size);
    }
    return r;
}

static int write_new_table(struct qcow2 *q, uint64_t off, const uint64_t *table, uint64_t size) {
    cleanup_free uint8_t *raw = xcalloc(size, 8);

    for (uint64_t i = 0; i < size; i++)
        be64_put(raw + i * 8, table[i]);
    return hostfile_write(q->file, off, raw, size * 8);
}

/* Points the header to the new table, of `clusters` clusters, which is on disk. */
static int switch_table(struct qcow2 *q, uint64_t off, uint32_t clusters) {
    const struct qcow2_header before = q->h;
    int r;

    q->h.reftable_offset = off;
    q->h.reftable_clusters = clusters;
    r = qcow2_header_switch(q, &before);
    if (r < 0)
        return r;
    qcow2_drop_later(q, before.reftable_offset >> q->cluster_bits, before.reftable_clusters);
    return 0;
}

/*
 * A larger table, for clusters from those of block `i` on: blocks, then the table, at the first
 * clusters that the old one cannot count.
 */
static int grow_table(struct qcow2 *q, uint64_t i) {
    uint64_t per = q->cluster_size / 8, first = i * q->ref_entries, clusters, blocks = 1;

    if (i >= QCOW2_REFTABLE_MAX / 8)
        return -EFBIG;
    for (;;) {
        clusters = (i + blocks + MAX(i / 2, 16ull) + per - 1) / per;
        if (blocks * q->ref_entries >= blocks + clusters)
            break;
        blocks++;
    }
    if (clusters > QCOW2_REFTABLE_MAX >> q->cluster_bits)
        return -EFBIG;
    uint64_t size = clusters * per, used = blocks + clusters;
    uint64_t off = (first + blocks) << q->cluster_bits;
    if (!qcow2_place_ok(q, first << q->cluster_bits, used << q->cluster_bits))
        return qcow2_corrupt(q, "tables behind what the refcounts can count");
    uint64_t *table = xcalloc(size, 8);
    memcpy(table, q->reftable, (size_t)q->reftable_size * 8);
    for (uint64_t b = 0; b < blocks; b++)
        table[i + b] = (first + b) << q->cluster_bits;
    int r = write_first_blocks(q, first, blocks, used);
    /* The old table's blocks that are not on disk yet: the new one must not name them before. */
    if (r == 0)
        r = table_cache_write(q->refblocks);
    if (r == 0)
        r = write_new_table(q, off, table, size);
    if (r == 0)
        r = hostfile_sync(q->file);
    if (r == 0)
        r = switch_table(q, off, (uint32_t)clusters);
    if (r < 0) {
        free(table);
        return r;
    }
    free(q->reftable);
    q->reftable = table;
    q->reftable_size = q->reftable_from = (uint32_t)size;
    q->reftable_to = 0;
    q->end = MAX(q->end, first + used);
    return 0;
}

/* Makes sure that the refcount of a cluster has a place. */
static int need_block(struct qcow2 *q, uint64_t cluster) {
    uint64_t i = cluster / q->ref_entries;

    if (i >= q->reftable_size)
        return grow_table(q, i);
    return q->reftable[i] ? 0 : make_block(q, (uint32_t)i);
}

int qcow2_ref_set(struct qcow2 *q, uint64_t cluster, uint64_t count) {
    uint8_t *block = NULL;
    uint64_t off = 0;
    uint32_t i = (uint32_t)(cluster % q->ref_entries);
    int r = need_block(q, cluster);

    if (r == 0)
        r = block_of(q, cluster, &block, &off);
    if (r < 0)
        return r;
    if (!block)
        return qcow2_corrupt(q, "refcounts that have no place");
    put(q, block, i, count);
    table_cache_changed(q->refblocks, off, (uint32_t)((uint64_t)i * q->ref_bits / 8),
                        MAX(q->ref_bits / 8, 1u));
    return 0;
}

static int add_one(struct qcow2 *q, uint64_t cluster, int by) {
    uint64_t count = 0;
    int r = qcow2_ref_get(q, cluster, &count);

    if (r < 0)
        return r;
    if (by < 0 && !count)
        return qcow2_corrupt(q, "cluster %" PRIu64 " is used but not counted", cluster);
    if (by > 0 && count == most(q))
        return -EOVERFLOW;
    return qcow2_ref_set(q, cluster, by < 0 ? count - 1 : count + 1);
}

int qcow2_ref_add(struct qcow2 *q, uint64_t first, uint64_t count, int by) {
    int r = 0;

    if (q->h.compatible & QCOW2_LAZY_REFCOUNTS)
        r = qcow2_set_dirty(q, true);
    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = add_one(q, first + i, by);
        /* All or nothing. */
        for (; r < 0 && i; i--)
            add_one(q, first + i - 1, -by);
        if (r < 0)
            break;
    }
    return r;
}

/* --- free clusters --- */

/* The host clusters that are on their way, and around which the search goes on. */
static const struct qcow2_alloc *reserved_at(const struct qcow2 *q, uint64_t cluster) {
    for (const struct qcow2_alloc *a = q->allocating; a; a = a->next) {
        uint64_t host = a->host >> q->cluster_bits;

        if (!a->reuse && cluster >= host && cluster - host < a->count)
            return a;
    }
    return NULL;
}

static int is_free(struct qcow2 *q, uint64_t cluster) {
    uint64_t count = 0;
    int r;

    if (cluster >= (uint64_t)INT64_MAX >> q->cluster_bits ||
        cluster >= QCOW2_OFFSET >> q->cluster_bits)
        return -EFBIG;
    r = need_block(q, cluster);
    if (r == 0)
        r = qcow2_ref_get(q, cluster, &count);
    if (r < 0)
        return r;
    return !count && !reserved_at(q, cluster);
}

int qcow2_find_free(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first,
                    uint64_t *count, bool *fresh) {
    uint64_t at = q->search, n = 0;

    if (q->broken)
        return -EIO;
    while (n < want) {
        int r = is_free(q, at + n);

        if (r < 0)
            return r;
        if (r == 0 && n >= least && n)
            break;
        if (r == 0) {
            at += n + 1;
            n = 0;
        } else {
            n++;
        }
    }
    *first = at;
    *count = n;
    *fresh = at >= q->end;
    q->search = at + n;
    q->end = MAX(q->end, at + n);
    return 0;
}

int qcow2_take(struct qcow2 *q, uint64_t count, uint64_t *off) {
    uint64_t first, got;
    bool fresh;
    int r = qcow2_find_free(q, count, count, &first, &got, &fresh);

    if (r == 0)
        r = qcow2_ref_add(q, first, count, 1);
    *off = first << q->cluster_bits;
    return r;
}

uint64_t qcow2_entry_clusters(const struct qcow2 *q, uint64_t entry, uint64_t *first) {
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t off, sectors;

    if (!(entry & QCOW2_COMPRESSED)) {
        *first = (entry & QCOW2_OFFSET) >> q->cluster_bits;
        return *first != 0;
    }
    off = entry & ((1ull << x) - 1);
    sectors = (entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x;
    *first = off >> q->cluster_bits;
    return (((off & ~511ull) + (sectors + 1) * 512 - 1) >> q->cluster_bits) - *first + 1;
}

void qcow2_drop_later(struct qcow2 *q, uint64_t first, uint64_t count) {
    struct qcow2_freed *last =
        q->freed && q->freed_count > q->freed_ripe ? &q->freed[q->freed_count - 1] : NULL;

    if (!count)
        return;
    if (last && last->first + last->count == first) {
        last->count += count;
        return;
    }
    if (!q->freed || q->freed_count == q->freed_max) {
        size_t max = MAX(q->freed_max * 2, 64);
        struct qcow2_freed *more = xcalloc(max, sizeof(*more));

        if (q->freed)
            memcpy(more, q->freed, q->freed_count * sizeof(*more));
        free(q->freed);
        q->freed = more;
        q->freed_max = max;
    }
    q->freed[q->freed_count++] = (struct qcow2_freed){first, count};
}

static int drop_one(struct qcow2 *q, uint64_t cluster) {
    uint64_t count = 0, off = cluster << q->cluster_bits;
    int r = qcow2_ref_add(q, cluster, 1, -1);

    if (r == 0)
        r = qcow2_ref_get(q, cluster, &count);
    if (r < 0 || count)
        return r;
    table_cache_forget(q->l2s, off);
    table_cache_forget(q->refblocks, off);
    q->search = MIN(q->search, cluster);
    if (q->zip_at >> q->cluster_bits == cluster)
        q->zip_at = 0;
    return 1;
}

int qcow2_drop_ripe(struct qcow2 *q) {
    size_t i;
    int r = 0;

    for (i = 0; i < q->freed_ripe && r >= 0; i++) {
        uint64_t first = q->freed[i].first, run = 0;

        for (uint64_t n = 0; n < q->freed[i].count && r >= 0; n++) {
            r = drop_one(q, first + n);
            if (r == 1)
                run++;
        }
        /* Giving the space back is a hint. */
        if (r >= 0 && run == q->freed[i].count)
            hostfile_discard(q->file, first << q->cluster_bits, run << q->cluster_bits);
    }
    if (i)
        memmove(q->freed, q->freed + i, (q->freed_count - i) * sizeof(*q->freed));
    q->freed_count -= i;
    q->freed_ripe = 0;
    return MIN(r, 0);
}

/* --- writing back --- */

static int write_reftable(struct qcow2 *q) {
    uint32_t from = q->reftable_from, n = q->reftable_to - from;
    int r;

    if (q->reftable_from >= q->reftable_to)
        return 0;
    r = hostfile_sync(q->file);
    if (r == 0)
        r = write_new_table(q, q->h.reftable_offset + from * 8ull, q->reftable + from, n);
    if (r < 0)
        return r;
    q->reftable_from = q->reftable_size;
    q->reftable_to = 0;
    q->barrier = true;
    return 0;
}

static int write_l1(struct qcow2 *q) {
    uint32_t from = q->l1_from, n = q->l1_to - from;
    int r;

    if (q->l1_from >= q->l1_to)
        return 0;
    r = hostfile_sync(q->file);
    if (r == 0)
        r = write_new_table(q, q->h.l1_offset + from * 8ull, q->l1 + from, n);
    if (r < 0)
        return r;
    q->l1_from = q->h.l1_size;
    q->l1_to = 0;
    return 0;
}

int qcow2_write_tables(struct qcow2 *q) {
    int r = 0;

    if (q->broken)
        return -EIO;
    /* While the dirty bit is set refcounts need not be right. */
    if (!q->dirty) {
        q->barrier |= table_cache_dirty(q->refblocks);
        r = table_cache_write(q->refblocks);
        if (r == 0)
            r = write_reftable(q);
    }
    if (r < 0 || (!table_cache_dirty(q->l2s) && q->l1_from >= q->l1_to))
        return r;
    if (q->barrier)
        r = hostfile_sync(q->file);
    if (r < 0)
        return r;
    q->barrier = false;
    r = table_cache_write(q->l2s);
    return r < 0 ? r : write_l1(q);
}

int qcow2_sync(struct qcow2 *q) {
    int r = qcow2_write_tables(q);

    if (r == 0)
        r = hostfile_sync(q->file);
    if (r < 0)
        return r;
    q->barrier = false;
    q->freed_ripe = q->freed_count;
    return 0;
}

int qcow2_settle(struct qcow2 *q) {
    int r;

    if (!q->dirty)
        return 0;
    q->dirty = false;
    r = qcow2_sync(q);
    q->dirty = true;
    return r < 0 ? r : qcow2_set_dirty(q, false);
}

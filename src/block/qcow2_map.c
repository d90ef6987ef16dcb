/* SPDX-License-Identifier: Apache-2.0 */
/* Where the guest's clusters are: L1 and L2 tables, with and without subclusters (spec, "Cluster
 * mapping", "Extended L2 Entries"). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define CACHE_BYTES (32u << 20)

/* --- entries --- */

struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const uint8_t *l2, uint32_t i) {
    const uint8_t *p = l2 + (size_t)i * q->entry_size;

    return (struct qcow2_entry){be64_get(p), q->subs > 1 ? be64_get(p + 8) : 0};
}

void qcow2_entry_put(const struct qcow2 *q, uint8_t *l2, uint32_t i, struct qcow2_entry entry) {
    uint8_t *p = l2 + (size_t)i * q->entry_size;

    be64_put(p, entry.cluster);
    if (q->subs > 1)
        be64_put(p + 8, entry.subs);
}

enum qcow2_state qcow2_sub_state(const struct qcow2 *q, struct qcow2_entry entry, uint32_t sub) {
    if (entry.cluster & QCOW2_COMPRESSED)
        return QCOW2_PACKED;
    if (q->subs > 1) {
        if (entry.subs >> 32 & 1ull << sub)
            return QCOW2_ZEROES;
        return entry.subs & 1ull << sub ? QCOW2_DATA : QCOW2_ABSENT;
    }
    if (entry.cluster & QCOW2_ZERO && q->h.version >= 3)
        return QCOW2_ZEROES;
    return entry.cluster & QCOW2_OFFSET ? QCOW2_DATA : QCOW2_ABSENT;
}

/* Whether it makes sense by itself. */
bool qcow2_entry_ok(const struct qcow2 *q, struct qcow2_entry entry) {
    uint64_t off = entry.cluster & QCOW2_OFFSET, first, count;

    if (entry.cluster & QCOW2_COMPRESSED) {
        count = qcow2_entry_clusters(q, entry.cluster, &first);
        return qcow2_place_ok(q, first << q->cluster_bits, count << q->cluster_bits);
    }
    if (q->subs > 1 && entry.subs >> 32 & entry.subs)
        return false;
    if (!off)
        return !(uint32_t)entry.subs;
    return qcow2_place_ok(q, off, q->cluster_size);
}

/* --- loading --- */

static int make_room(void *arg) {
    return qcow2_write_tables(arg);
}

/* A table with an entry that leads into the tables would, written through, destroy the image. */
static int check_l2(void *arg, uint64_t off, const uint8_t *l2) {
    struct qcow2 *q = arg;

    for (uint32_t i = 0; i < q->entries; i++) {
        struct qcow2_entry entry = qcow2_entry_get(q, l2, i);

        if (!qcow2_entry_ok(q, entry))
            return qcow2_corrupt(q, "entry %" PRIu32 " of the L2 table at %#" PRIx64 ": %#" PRIx64,
                                 i, off, entry.cluster);
    }
    return 0;
}

int qcow2_l1_read(struct qcow2 *q, uint64_t off, uint32_t size, uint64_t *l1) {
    cleanup_free uint8_t *raw = xcalloc(size, 8);
    int r;

    if (off & (q->cluster_size - 1) || off > INT64_MAX - size * 8ull || (size && !off))
        return -EINVAL;
    r = hostfile_read(q->file, off, raw, size * 8ull);
    for (uint32_t i = 0; i < size; i++)
        l1[i] = be64_get(raw + i * 8ull);
    return r;
}

int qcow2_map_load(struct qcow2 *q, struct err *e) {
    uint64_t covers = (uint64_t)q->entries << q->cluster_bits;
    int r;

    if (q->h.l1_size < q->h.size / covers + (q->h.size % covers != 0))
        return err_set(e, 0, "the L1 table has %" PRIu32 " entries, too few for the size",
                       q->h.l1_size);
    q->l1 = xcalloc(q->h.l1_size, 8);
    r = qcow2_l1_read(q, q->h.l1_offset, q->h.l1_size, q->l1);
    if (r < 0)
        return err_set(e, -r, "L1 table");
    q->l1_from = q->h.l1_size;
    q->l2s = table_cache_new(q->file, q->cluster_size, MAX(CACHE_BYTES >> q->cluster_bits, 4u),
                             make_room, check_l2, q);
    return 0;
}

/* --- L2 tables --- */

uint32_t qcow2_l2_index(const struct qcow2 *q, uint64_t cluster) {
    return (uint32_t)(cluster % q->entries);
}

int qcow2_l2_get(struct qcow2 *q, uint64_t cluster, uint8_t **l2) {
    uint64_t i = cluster / q->entries, off;

    *l2 = NULL;
    if (i >= q->h.l1_size)
        return -EINVAL;
    off = q->l1[i] & QCOW2_OFFSET;
    if (!off)
        return 0;
    if (!qcow2_place_ok(q, off, q->cluster_size))
        return qcow2_corrupt(q, "L1 entry %" PRIu64 ": %#" PRIx64, i, q->l1[i]);
    return table_cache_get(q->l2s, off, l2);
}

static void set_l1(struct qcow2 *q, uint32_t i, uint64_t off) {
    q->l1[i] = off | QCOW2_COPIED;
    q->l1_from = MIN(q->l1_from, i);
    q->l1_to = MAX(q->l1_to, i + 1);
}

/* A table of our own in place of none, or of one that a snapshot has, too. */
static int make_l2(struct qcow2 *q, uint32_t i, uint64_t old_off, const uint8_t *old, uint8_t **l2,
                   uint64_t *l2_off) {
    cleanup_free uint8_t *copy = old ? xcalloc(1, q->cluster_size) : NULL;
    int r;

    if (copy)
        memcpy(copy, old, q->cluster_size);
    r = qcow2_take(q, 1, l2_off);
    if (r == 0)
        r = table_cache_make(q->l2s, *l2_off, l2);
    if (r < 0)
        return r;
    if (copy)
        memcpy(*l2, copy, q->cluster_size);
    set_l1(q, i, *l2_off);
    qcow2_drop_later(q, old_off >> q->cluster_bits, old != NULL);
    return 0;
}

int qcow2_l2_for_write(struct qcow2 *q, uint64_t cluster, uint8_t **l2, uint64_t *l2_off) {
    uint64_t i = cluster / q->entries;
    int r = qcow2_l2_get(q, cluster, l2);

    if (r < 0)
        return r;
    *l2_off = q->l1[i] & QCOW2_OFFSET;
    if (*l2 && q->l1[i] & QCOW2_COPIED)
        return 0;
    return make_l2(q, (uint32_t)i, *l2_off, *l2, l2, l2_off);
}

/* --- looking up --- */

static uint64_t host_of(const struct qcow2 *q, struct qcow2_entry entry, uint64_t off) {
    return (entry.cluster & QCOW2_OFFSET) + (off & (q->cluster_size - 1));
}

/* Whether what is at `off` goes on from a run. */
static bool goes_on(const struct qcow2 *q, const struct qcow2_run *run, struct qcow2_entry entry,
                    uint64_t off) {
    uint32_t sub = (uint32_t)(off & (q->cluster_size - 1)) / q->sub_size;

    if (qcow2_sub_state(q, entry, sub) != run->state)
        return false;
    if (run->state == QCOW2_PACKED)
        return qcow2_cluster_of(q, off) == qcow2_cluster_of(q, off - run->len);
    return run->state != QCOW2_DATA || host_of(q, entry, off) == run->host + run->len;
}

int qcow2_lookup(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_run *run) {
    uint64_t cluster = qcow2_cluster_of(q, off), end = off + len, at = off;
    uint64_t table_end = (cluster - cluster % q->entries + q->entries) << q->cluster_bits;
    struct qcow2_entry entry;
    uint8_t *l2;
    int r = qcow2_l2_get(q, cluster, &l2);

    if (r < 0)
        return r;
    end = MIN(end, table_end);
    *run = (struct qcow2_run){QCOW2_ABSENT, end - off, 0, 0};
    if (!l2)
        return 0;
    entry = qcow2_entry_get(q, l2, qcow2_l2_index(q, cluster));
    run->state = qcow2_sub_state(q, entry, (uint32_t)(off & (q->cluster_size - 1)) / q->sub_size);
    run->host = host_of(q, entry, off);
    run->entry = entry.cluster;
    for (run->len = 0; at < end && goes_on(q, run, entry, at); run->len = at - off) {
        at = MIN(end, align_down(at, q->sub_size) + q->sub_size);
        if (at < end)
            entry = qcow2_entry_get(q, l2, qcow2_l2_index(q, qcow2_cluster_of(q, at)));
        run->len = at - off;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts all references to each cluster of the file anew and compares: too low a refcount is a
 * corruption, too high a one a leak. Repairs by writing refcounts of its own behind the end of the
 * file, where what is there cannot be relied on, or single ones.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define CLUSTERS_MAX (256u << 20) /* 1 GiB of counters */

struct checker {
    struct qcow2 *q;
    struct volume_check *c;
    enum volume_repair how;
    uint32_t *refs; /* found, of each cluster */
    uint64_t clusters;
    uint64_t end; /* cluster behind the last that is used */
    bool rebuild; /* refcount blocks that cannot be used */
};

static void __attribute__((format(printf, 2, 3))) say(struct checker *k, const char *fmt, ...) {
    char line[200];
    va_list ap;

    if (!k->c->say)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    k->c->say(k->c->arg, line);
}

/* --- counting --- */

/* False, and a corruption, when they are not all within the file. */
static bool count(struct checker *k, uint64_t first, uint64_t n, const char *what) {
    if (!range_within(first, n, k->clusters)) {
        say(k, "corrupt: %s at cluster %" PRIu64 " is behind the end of the file", what, first);
        k->c->corruptions++;
        return false;
    }
    for (uint64_t i = first; i < first + n; i++)
        if (k->refs[i] < UINT32_MAX)
            k->refs[i]++;
    if (n)
        k->end = MAX(k->end, first + n);
    return true;
}

static bool count_table(struct checker *k, uint64_t off, uint64_t bytes, const char *what) {
    if (off & (k->q->cluster_size - 1)) {
        say(k, "corrupt: %s at offset %#" PRIx64 " is not at a cluster's start", what, off);
        k->c->corruptions++;
        return false;
    }
    return count(k, off >> k->q->cluster_bits, qcow2_clusters(k->q, bytes), what);
}

static void count_entry(struct checker *k, uint64_t table, uint32_t i, struct qcow2_entry entry,
                        bool active) {
    uint64_t first, n;

    if (!qcow2_entry_ok(k->q, entry)) {
        say(k, "corrupt: entry %" PRIu32 " of the L2 table at %#" PRIx64 ": %#" PRIx64, i, table,
            entry.cluster);
        k->c->corruptions++;
        return;
    }
    n = qcow2_entry_clusters(k->q, entry.cluster, &first);
    if (n)
        count(k, first, n, "data");
    if (active && n) {
        k->c->allocated++;
        k->c->compressed += (entry.cluster & QCOW2_COMPRESSED) != 0;
    }
}

static int count_l2(struct checker *k, uint64_t entry, bool active) {
    cleanup_free uint8_t *l2 = xcalloc(1, k->q->cluster_size);
    uint64_t off = entry & QCOW2_OFFSET;
    int r;

    if (!off)
        return 0;
    if (!qcow2_place_ok(k->q, off, k->q->cluster_size)) {
        say(k, "corrupt: an L2 table at %#" PRIx64, off);
        k->c->corruptions++;
        return 0;
    }
    if (!count_table(k, off, k->q->cluster_size, "an L2 table"))
        return 0;
    r = hostfile_read(k->q->file, off, l2, k->q->cluster_size);
    for (uint32_t i = 0; r == 0 && i < k->q->entries; i++)
        count_entry(k, off, i, qcow2_entry_get(k->q, l2, i), active);
    return r;
}

static int count_l1(struct checker *k, uint64_t off, uint32_t size, bool active) {
    cleanup_free uint64_t *l1 = NULL;
    int r = 0;

    if (!size || !count_table(k, off, size * 8ull, "an L1 table"))
        return 0;
    l1 = xcalloc(size, 8);
    r = qcow2_l1_read(k->q, off, size, l1);
    for (uint32_t i = 0; i < size && r == 0; i++)
        r = count_l2(k, l1[i], active);
    return r;
}

/* Persistent bitmaps: the directory, each one's table, and what that names. */
static int count_bitmap(struct checker *k, uint64_t off, uint32_t size) {
    cleanup_free uint64_t *table = NULL;
    int r = 0;

    if (size > QCOW2_L1_MAX / 8 || !count_table(k, off, size * 8ull, "a bitmap's table"))
        return 0;
    table = xcalloc(size, 8);
    r = qcow2_l1_read(k->q, off, size, table);
    for (uint32_t i = 0; i < size && r == 0; i++)
        if (table[i] & QCOW2_OFFSET)
            count_table(k, table[i] & QCOW2_OFFSET, k->q->cluster_size, "a bitmap");
    return r;
}

static int count_bitmaps(struct checker *k) {
    const struct qcow2_header *h = &k->q->h;
    uint64_t bytes = h->bitmap_directory_bytes, at = 0;
    int r;

    if (!h->bitmap_count)
        return 0;
    if (bytes > QCOW2_SNAPTABLE_MAX ||
        !count_table(k, h->bitmap_directory, bytes, "the bitmaps' directory"))
        return 0;
    cleanup_free uint8_t *raw = xcalloc(1, bytes);
    r = hostfile_read(k->q->file, h->bitmap_directory, raw, bytes);
    for (uint32_t i = 0; i < h->bitmap_count && r == 0 && range_within(at, 24, bytes); i++) {
        const uint8_t *p = raw + at;

        r = count_bitmap(k, be64_get(p), be32_get(p + 8));
        at += align_up(24ull + be16_get(p + 18) + be32_get(p + 20), 8);
    }
    return r;
}

/* All but the refcounts themselves. */
static int count_contents(struct checker *k) {
    struct qcow2 *q = k->q;
    int r;

    count(k, 0, 1, "the header");
    r = count_l1(k, q->h.l1_offset, q->h.l1_size, true);
    for (uint32_t i = 0; i < q->h.snapshot_count && r == 0; i++)
        r = count_l1(k, q->snapshots[i].l1_offset, q->snapshots[i].l1_size, false);
    if (r == 0 && q->h.snapshot_count)
        count_table(k, q->h.snapshots_offset, q->snapshot_bytes, "the snapshot table");
    return r < 0 ? r : count_bitmaps(k);
}

/* Must come last: a block that something else uses, too, cannot be relied on. */
static void count_refcounts(struct checker *k) {
    struct qcow2 *q = k->q;

    count_table(k, q->h.reftable_offset, (uint64_t)q->reftable_size * 8, "the refcount table");
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        uint64_t off = q->reftable[i], cluster = off >> q->cluster_bits;

        if (!off)
            continue;
        if (!qcow2_place_ok(q, off, q->cluster_size) || cluster >= k->clusters) {
            say(k, "corrupt: refcount block %" PRIu32 " at %#" PRIx64, i, off);
            k->c->corruptions++;
            k->rebuild = true;
        } else {
            count(k, cluster, 1, "a refcount block");
            if (k->refs[cluster] == 1)
                continue;
            say(k, "corrupt: refcount block %" PRIu32 " is used for something else, too", i);
            k->c->corruptions++;
            k->rebuild = true;
        }
    }
}

/* --- comparing --- */

static int compare_one(struct checker *k, uint64_t cluster) {
    uint64_t have = 0, want = k->refs[cluster];
    int r = k->rebuild ? 0 : qcow2_ref_get(k->q, cluster, &have);

    if (r < 0 || have == want)
        return r;
    say(k, "%s: cluster %" PRIu64 ": %" PRIu64 " references, counted as %" PRIu64,
        have < want ? "corrupt" : "leak", cluster, want, have);
    if (have < want) {
        k->c->corruptions++;
        /* A new block would go where its first cluster is. */
        if (!k->q->reftable_size || cluster / k->q->ref_entries >= k->q->reftable_size ||
            !k->q->reftable[cluster / k->q->ref_entries])
            k->rebuild = true;
    } else {
        k->c->leaks++;
    }
    return 0;
}

static int compare(struct checker *k) {
    int r = 0;

    for (uint64_t i = 0; i < k->clusters && r == 0 && !k->rebuild; i++)
        r = compare_one(k, i);
    /* Counted behind the end of the file. */
    for (uint64_t i = k->clusters, n = 0;
         i < k->clusters + k->q->ref_entries && r == 0 && !k->rebuild; i++) {
        r = qcow2_ref_get(k->q, i, &n);
        k->c->leaks += n != 0;
    }
    return r;
}

/* The flag that says that a cluster can be written to as it is. 1: it was wrong. */
static int check_flag(struct checker *k, uint64_t *entry, const char *what) {
    uint64_t cluster = (*entry & QCOW2_OFFSET) >> k->q->cluster_bits, right;

    if (*entry & QCOW2_COMPRESSED || !cluster || cluster >= k->clusters)
        return 0;
    right = k->refs[cluster] == 1 ? *entry | QCOW2_COPIED : *entry & ~QCOW2_COPIED;
    if (right == *entry)
        return 0;
    say(k, "corrupt: %s at cluster %" PRIu64 " with %" PRIu32 " references: bit 63 is wrong", what,
        cluster, k->refs[cluster]);
    k->c->corruptions++;
    *entry = right;
    return 1;
}

static int check_l2_flags(struct checker *k, uint64_t off) {
    cleanup_free uint8_t *l2 = xcalloc(1, k->q->cluster_size);
    int r = hostfile_read(k->q->file, off, l2, k->q->cluster_size);
    uint64_t wrong = 0;

    for (uint32_t i = 0; r == 0 && i < k->q->entries; i++) {
        struct qcow2_entry entry = qcow2_entry_get(k->q, l2, i);

        if (qcow2_entry_ok(k->q, entry) && check_flag(k, &entry.cluster, "data")) {
            qcow2_entry_put(k->q, l2, i, entry);
            wrong++;
        }
    }
    if (r < 0 || !wrong || k->how != VOLUME_REPAIR_ALL)
        return r;
    k->c->corruptions_fixed += wrong;
    return hostfile_write(k->q->file, off, l2, k->q->cluster_size);
}

static int check_flags(struct checker *k) {
    struct qcow2 *q = k->q;
    int r = 0;

    for (uint32_t i = 0; i < q->h.l1_size && r == 0; i++) {
        uint64_t off = q->l1[i] & QCOW2_OFFSET, entry = q->l1[i];

        if (!off || !qcow2_place_ok(q, off, q->cluster_size) ||
            off >> q->cluster_bits >= k->clusters)
            continue;
        r = check_l2_flags(k, off);
        if (check_flag(k, &entry, "an L2 table") && k->how == VOLUME_REPAIR_ALL) {
            q->l1[i] = entry;
            q->l1_from = MIN(q->l1_from, i);
            q->l1_to = MAX(q->l1_to, i + 1);
            k->c->corruptions_fixed++;
        }
    }
    return r;
}

/* --- repairing --- */

static int fix_single(struct checker *k) {
    uint64_t have = 0;
    int r = 0;

    for (uint64_t i = 0; i < k->clusters && r == 0; i++) {
        r = qcow2_ref_get(k->q, i, &have);
        if (r < 0 || have == k->refs[i] || (have < k->refs[i] && k->how != VOLUME_REPAIR_ALL))
            continue;
        r = qcow2_ref_set(k->q, i, k->refs[i]);
        k->c->leaks_fixed += have > k->refs[i];
        k->c->corruptions_fixed += have < k->refs[i];
    }
    for (uint64_t i = k->clusters; i < k->clusters + k->q->ref_entries && r == 0; i++) {
        r = qcow2_ref_get(k->q, i, &have);
        if (r < 0 || !have)
            continue;
        r = qcow2_ref_set(k->q, i, 0);
        k->c->leaks_fixed++;
    }
    return r;
}

/* All refcounts anew, behind the end of the file: blocks, then the table. */
static int rebuild(struct checker *k) {
    struct qcow2 *q = k->q;
    uint64_t start = k->clusters, per = q->cluster_size / 8, table = 0, blocks = 0, all;
    int r;

    do {
        all = start + blocks + table;
        blocks = (all + q->ref_entries - 1) / q->ref_entries + 1;
        table = (blocks + per - 1) / per;
    } while (start + blocks + table > all);
    if (table > QCOW2_REFTABLE_MAX >> q->cluster_bits)
        return -EFBIG;
    table_cache_empty(q->refblocks);
    free(q->reftable);
    q->reftable_size = (uint32_t)(table * per);
    q->reftable = xcalloc(q->reftable_size, 8);
    for (uint64_t i = 0; i < blocks; i++)
        q->reftable[i] = (start + i) << q->cluster_bits;
    q->h.reftable_offset = (start + blocks) << q->cluster_bits;
    q->h.reftable_clusters = (uint32_t)table;
    q->end = start + blocks + table;
    r = hostfile_truncate(q->file, q->end << q->cluster_bits);
    for (uint64_t i = 0; i < q->end && r == 0; i++) {
        uint64_t want = i >= start ? 1 : k->refs[i];

        if (want)
            r = qcow2_ref_set(q, i, want);
    }
    q->reftable_from = 0;
    q->reftable_to = q->reftable_size;
    return r;
}

/* The header comes when everything it names is on disk. */
static int repair(struct checker *k) {
    uint64_t found = k->c->corruptions;
    int r;

    if (k->rebuild && k->how == VOLUME_REPAIR_ALL) {
        memset(k->refs, 0, k->clusters * sizeof(*k->refs));
        /* The tables of now are not to be counted, and nothing is said twice. */
        struct volume_check again = {0};
        struct checker quiet = *k;
        quiet.c = &again;
        r = count_contents(&quiet);
        if (r == 0)
            r = rebuild(k);
        k->c->corruptions_fixed = found - MIN(found, again.corruptions);
        k->c->leaks_fixed = k->c->leaks;
    } else {
        r = fix_single(k);
    }
    return r;
}

static int finish(struct checker *k) {
    struct qcow2 *q = k->q;
    bool clean = k->c->corruptions <= k->c->corruptions_fixed;
    int r;

    q->dirty = false;
    q->broken = false;
    r = qcow2_sync(q);
    if (r == 0 && clean && k->how == VOLUME_REPAIR_ALL)
        q->h.incompatible &= ~(uint64_t)(QCOW2_DIRTY | QCOW2_CORRUPT);
    if (r == 0)
        r = qcow2_header_write(q);
    if (r == 0)
        r = hostfile_sync(q->file);
    q->dirty = q->h.incompatible & QCOW2_DIRTY;
    table_cache_empty(q->l2s);
    return r;
}

static int run(struct checker *k) {
    int r = count_contents(k);

    if (r == 0)
        count_refcounts(k);
    if (r == 0)
        r = compare(k);
    if (r == 0 && k->rebuild)
        say(k, "corrupt: the refcounts have to be made anew");
    if (r == 0 && k->how != VOLUME_REPAIR_NONE)
        r = repair(k);
    if (r == 0)
        r = check_flags(k);
    return r < 0 || k->how == VOLUME_REPAIR_NONE ? r : finish(k);
}

int qcow2_check(struct volume *v, enum volume_repair how, struct volume_check *c, struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    struct checker k = {.q = q, .c = c, .how = how};
    uint64_t bytes = 0;
    int r = hostfile_size(q->file, &bytes);

    if (r == 0 && !v->read_only && !q->broken)
        r = qcow2_write_tables(q);
    k.clusters = qcow2_clusters(q, bytes);
    if (r == 0 && k.clusters > CLUSTERS_MAX)
        return err_set(e, 0, "check: a file of %" PRIu64 " clusters: %u are the most", k.clusters,
                       CLUSTERS_MAX);
    if (r < 0)
        return err_set(e, -r, "check");
    k.refs = xcalloc(k.clusters, sizeof(*k.refs));
    c->total = qcow2_clusters(q, q->h.size);
    r = run(&k);
    c->image_end = k.end << q->cluster_bits;
    free(k.refs);
    return r < 0 ? err_set(e, -r, "check") : 0;
}

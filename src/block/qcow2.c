/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 as a volume: opening, closing, and what it says of itself. */
#include "block/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/table_cache.h"

static int qcow2_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    static const enum volume_kind kinds[] = {
        [QCOW2_ABSENT] = VOLUME_ABSENT,
        [QCOW2_ZEROES] = VOLUME_ZERO,
        [QCOW2_DATA] = VOLUME_DATA,
        [QCOW2_PACKED] = VOLUME_COMPRESSED,
    };
    struct qcow2 *q = qcow2_of(v);
    struct qcow2_run run = {0};
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_lookup(q, off, len, &run);
    pthread_mutex_unlock(&q->lock);
    *x = (struct volume_extent){kinds[run.state], run.len, run.state == QCOW2_DATA, run.host};
    return r;
}

static int qcow2_set_backing(struct volume *v, const char *path, const char *format,
                             struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    char *old_name = v->backing_name, *old_format = v->backing_format;
    int r;

    v->backing_name = path ? xstrdup(path) : NULL;
    v->backing_format = path && format ? xstrdup(format) : NULL;
    r = qcow2_header_write(q);
    if (r == 0)
        r = hostfile_sync(q->file);
    if (r == 0) {
        free(old_name);
        free(old_format);
        return 0;
    }
    free(v->backing_name);
    free(v->backing_format);
    v->backing_name = old_name;
    v->backing_format = old_format;
    return err_set(e, -r, "backing file's name");
}

static void qcow2_describe(const struct volume *v, struct json_t *o) {
    const struct qcow2 *q = qcow2_of_const(v);
    const struct qcow2_header *h = &q->h;
    json_t *d = json_pack(
        "{s:s, s:s, s:i, s:b, s:b, s:b, s:b}", "compat", h->version == 2 ? "0.10" : "1.1",
        "compression_type", h->compression == QCOW2_ZSTD ? "zstd" : "zlib", "refcount_bits",
        1 << h->refcount_order, "lazy_refcounts", (h->compatible & QCOW2_LAZY_REFCOUNTS) != 0,
        "extended_l2", (h->incompatible & QCOW2_EXTENDED_L2) != 0, "dirty",
        (h->incompatible & QCOW2_DIRTY) != 0, "corrupt", (h->incompatible & QCOW2_CORRUPT) != 0);

    json_object_set_new(o, "qcow2", d);
}

/* Twice: what is freed when the tables are on disk changes refcounts. */
static int write_back(struct qcow2 *q) {
    int r = 0;

    pthread_mutex_lock(&q->lock);
    do {
        r = qcow2_sync(q);
        if (r == 0)
            r = qcow2_drop_ripe(q);
    } while (r == 0 && (q->freed_count || (!q->dirty && table_cache_dirty(q->refblocks))));
    if (r == 0)
        r = qcow2_settle(q);
    pthread_mutex_unlock(&q->lock);
    return r;
}

static void free_all(struct qcow2 *q) {
    pthread_rwlock_destroy(&q->gate);
    pthread_mutex_destroy(&q->lock);
    pthread_mutex_destroy(&q->zip_lock);
    pthread_cond_destroy(&q->allocated);
    table_cache_free(q->l2s);
    table_cache_free(q->refblocks);
    qcow2_snapshots_unload(q);
    free(q->h.extensions);
    free(q->l1);
    free(q->reftable);
    free(q->freed);
    free(q->unpacked);
    free(q);
}

static int qcow2_close(struct volume *v) {
    struct qcow2 *q = qcow2_of(v);
    int r = 0;

    if (!v->read_only && !q->broken && q->l1)
        r = write_back(q);
    free_all(q);
    return r;
}

static const struct volume_ops ops = {
    .readv = qcow2_readv,
    .writev = qcow2_writev,
    .flush = qcow2_flush,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .extent = qcow2_extent,
    .write_compressed = qcow2_write_compressed,
    .resize = qcow2_resize,
    .check = qcow2_check,
    .set_backing = qcow2_set_backing,
    .describe = qcow2_describe,
    .snapshots = &qcow2_snapshot_ops,
    .close = qcow2_close,
};

static void init_locks(struct qcow2 *q) {
    pthread_rwlockattr_t a;

    /* Else what wants it alone would wait for as long as the guest has requests under way. */
    pthread_rwlockattr_init(&a);
    pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&q->gate, &a);
    pthread_rwlockattr_destroy(&a);
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->zip_lock, NULL);
    pthread_cond_init(&q->allocated, NULL);
}

static void set_geometry(struct qcow2 *q) {
    bool extended = q->h.incompatible & QCOW2_EXTENDED_L2;

    q->cluster_bits = q->h.cluster_bits;
    q->cluster_size = 1u << q->cluster_bits;
    q->entry_size = extended ? 16 : 8;
    q->entries = q->cluster_size / q->entry_size;
    q->subs = extended ? 32 : 1;
    q->sub_size = q->cluster_size / q->subs;
    q->v.size = align_up(q->h.size, 512);
    q->v.cluster = q->cluster_size;
}

static int load(struct qcow2 *q, struct err *e) {
    uint64_t bytes;
    int r = hostfile_size(q->file, &bytes);

    if (r < 0)
        return err_set(e, -r, "size");
    q->end = qcow2_clusters(q, bytes);
    if (qcow2_refs_load(q, e) < 0 || qcow2_map_load(q, e) < 0)
        return -1;
    return qcow2_snapshots_load(q, e);
}

/* What writing to it takes: no corruption, refcounts that are right, nothing left unsaid. */
static int make_writable(struct qcow2 *q, struct err *e) {
    struct volume_check c = {0};

    if (q->h.incompatible & QCOW2_CORRUPT)
        return err_set(e, 0,
                       "the image is marked as corrupt: it can be read only; see: rf image "
                       "check --repair");
    if (q->h.incompatible & QCOW2_DIRTY) {
        log_warn("%s: was not closed; its refcounts are being made anew", q->file->path);
        if (qcow2_check(&q->v, VOLUME_REPAIR_ALL, &c, e) < 0)
            return -1;
        if (c.corruptions > c.corruptions_fixed)
            return err_set(e, 0, "the image is corrupt, and could not be repaired");
    }
    if (!q->h.autoclear)
        return 0;
    q->h.autoclear = 0;
    int r = qcow2_header_write(q);
    return r < 0 ? err_set(e, -r, "header") : 0;
}

static struct volume *qcow2_open(struct hostfile *file, bool for_repair, struct err *e) {
    struct qcow2 *q = xcalloc(1, sizeof(*q));

    q->v = (struct volume){
        .ops = &ops, .format = &volume_qcow2, .file = file, .read_only = file->read_only};
    q->file = file;
    init_locks(q);
    if (qcow2_header_read(file, &q->h, &q->v.backing_name, &q->v.backing_format, e) == 0) {
        set_geometry(q);
        q->dirty = q->h.incompatible & QCOW2_DIRTY;
        if (load(q, e) == 0 && (for_repair || file->read_only || make_writable(q, e) == 0))
            return &q->v;
    }
    q->v.read_only = true; /* nothing to write back */
    volume_close(&q->v);
    return NULL;
}

static bool probe(const uint8_t *head, size_t len) {
    return len >= 4 && be32_get(head) == QCOW2_MAGIC;
}

static const char *const suffixes[] = {"qcow2", "qcow", NULL};

const struct volume_format volume_qcow2 = {
    .name = "qcow2",
    .suffixes = suffixes,
    .probe = probe,
    .open = qcow2_open,
    .create = qcow2_create,
    .measure = qcow2_measure,
};

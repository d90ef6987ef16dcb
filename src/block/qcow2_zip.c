/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressed clusters: raw deflate with a window of 4 KiB, as other readers expect it, or a zstd
 * frame (spec, "Compressed Clusters Descriptor", "compression_type").
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/iov.h"
#include "base/util.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define WINDOW_BITS 12
#define WINDOW_BITS_MAX 15 /* that we can read */

/* --- reading --- */

static int inflate_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len) {
    z_stream z = {.next_out = out, .avail_out = (uInt)out_len};
    int r;

    /* zlib's input is not const without ZLIB_CONST; it only reads. */
    memcpy(&z.next_in, &in, sizeof(in));
    z.avail_in = (uInt)in_len;
    if (inflateInit2(&z, -WINDOW_BITS_MAX) != Z_OK)
        return -ENOMEM;
    r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Z_BUF_ERROR: the cluster is full, and there is padding behind it. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

/* A cluster may be several frames, and what is behind the last is padding. */
static int unzstd_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len) {
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer from = {in, in_len, 0};
    ZSTD_outBuffer to = {out, out_len, 0};
    int result = d ? 0 : -ENOMEM;

    while (result == 0 && to.pos < out_len) {
        size_t in_before = from.pos, out_before = to.pos;
        size_t r = ZSTD_decompressStream(d, &to, &from);

        if (ZSTD_isError(r) || (from.pos == in_before && to.pos == out_before))
            result = -EIO;
    }
    ZSTD_freeDCtx(d);
    return result;
}

/* Into q->unpacked, under zip_lock. */
static int unpack(struct qcow2 *q, uint64_t entry) {
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t off = entry & ((1ull << x) - 1);
    uint64_t sectors = (entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x;
    size_t len = (size_t)((sectors + 1) * 512 - (off & 511));
    cleanup_free uint8_t *packed = xcalloc(1, len);
    int r = hostfile_read(q->file, off, packed, len);

    if (r < 0)
        return r;
    if (!q->unpacked)
        q->unpacked = xcalloc(1, q->cluster_size);
    return q->h.compression == QCOW2_ZSTD
               ? unzstd_cluster(packed, len, q->unpacked, q->cluster_size)
               : inflate_cluster(packed, len, q->unpacked, q->cluster_size);
}

int qcow2_unpack(struct qcow2 *q, uint64_t entry, uint32_t at, struct span s, uint64_t len) {
    int r = 0;

    pthread_mutex_lock(&q->zip_lock);
    if (q->unpacked_entry != entry) {
        q->unpacked_entry = 0;
        r = unpack(q, entry);
        if (r == 0)
            q->unpacked_entry = entry;
    }
    if (r == 0)
        iov_write(s.iov, s.count, s.skip, q->unpacked + at, len);
    pthread_mutex_unlock(&q->zip_lock);
    return r;
}

/* --- writing --- */

/* Bytes, or 0 when it does not get smaller. */
static size_t deflate_cluster(const void *in, size_t len, uint8_t *out) {
    z_stream z = {.next_out = out, .avail_out = (uInt)len - 1};
    size_t bytes = 0;

    memcpy(&z.next_in, &in, sizeof(in));
    z.avail_in = (uInt)len;
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) !=
        Z_OK)
        return 0;
    if (deflate(&z, Z_FINISH) == Z_STREAM_END)
        bytes = len - 1 - z.avail_out;
    deflateEnd(&z);
    return bytes;
}

static size_t pack(const struct qcow2 *q, const void *in, uint8_t *out) {
    size_t r;

    if (q->h.compression == QCOW2_ZLIB)
        return deflate_cluster(in, q->cluster_size, out);
    r = ZSTD_compress(out, q->cluster_size - 1, in, q->cluster_size, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(r) ? 0 : r;
}

/*
 * Room for `len` bytes: behind the last compressed cluster where that fits, else in a new cluster.
 * Each has a reference for each compressed cluster within it.
 */
static int take_bytes(struct qcow2 *q, size_t len, uint64_t *off) {
    uint64_t in_cluster = q->zip_at & (q->cluster_size - 1);
    int r;

    if (q->zip_at && in_cluster && in_cluster + len <= q->cluster_size) {
        *off = q->zip_at;
        r = qcow2_ref_add(q, q->zip_at >> q->cluster_bits, 1, 1);
        if (r != -EOVERFLOW) {
            q->zip_at += r == 0 ? len : 0;
            return r;
        }
    }
    r = qcow2_take(q, 1, off);
    q->zip_at = r == 0 ? *off + len : 0;
    return r;
}

static uint64_t descriptor(const struct qcow2 *q, uint64_t off, size_t len) {
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t sectors = ((off + len - 1) >> 9) - (off >> 9);

    return QCOW2_COMPRESSED | sectors << x | off;
}

/* With `lock` held. */
static int put_packed(struct qcow2 *q, uint64_t cluster, const uint8_t *packed, size_t len) {
    uint32_t i = qcow2_l2_index(q, cluster);
    struct qcow2_entry old, new = {0};
    uint64_t off = 0, l2_off = 0, first, count;
    uint8_t *l2 = NULL;
    int r;

    if (q->broken)
        return -EIO;
    qcow2_wait_allocating(q, cluster, 1);
    r = take_bytes(q, len, &off);
    /* Another cluster may have been packed at the same place. */
    pthread_mutex_lock(&q->zip_lock);
    q->unpacked_entry = 0;
    pthread_mutex_unlock(&q->zip_lock);
    if (r == 0)
        r = hostfile_write(q->file, off, packed, len);
    if (r == 0)
        r = qcow2_l2_for_write(q, cluster, &l2, &l2_off);
    if (r < 0) {
        if (off)
            qcow2_drop_later(q, off >> q->cluster_bits, 1);
        return r;
    }
    old = qcow2_entry_get(q, l2, i);
    new.cluster = descriptor(q, off, len);
    qcow2_entry_put(q, l2, i, new);
    table_cache_changed(q->l2s, l2_off, i * q->entry_size, q->entry_size);
    count = qcow2_entry_clusters(q, old.cluster, &first);
    qcow2_drop_later(q, first, count);
    return 0;
}

int qcow2_write_compressed(struct volume *v, uint64_t off, const void *cluster) {
    struct qcow2 *q = qcow2_of(v);
    cleanup_free uint8_t *packed = xcalloc(1, q->cluster_size);
    size_t len = pack(q, cluster, packed);
    int r;

    if (!len)
        return volume_write(v, off, cluster, MIN((uint64_t)q->cluster_size, v->size - off));
    pthread_rwlock_rdlock(&q->gate);
    pthread_mutex_lock(&q->lock);
    r = put_packed(q, qcow2_cluster_of(q, off), packed, len);
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    return r;
}

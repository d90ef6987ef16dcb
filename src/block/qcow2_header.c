/* SPDX-License-Identifier: Apache-2.0 */
/* The first cluster: header, extensions, the backing file's name (spec, "Header"). */
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

#define V2_BYTES 72u
#define V3_BYTES 104u
#define OUR_BYTES 112u /* with the compression type and padding */
#define EXTENSIONS_MAX (64u << 10)
#define FEATURE_BYTES 48u

/* --- what is understood --- */

static int get_fixed(struct qcow2_header *h, const uint8_t *p, struct err *e) {
    if (be32_get(p) != QCOW2_MAGIC)
        return err_set(e, 0, "not a qcow2 image");
    h->version = be32_get(p + 4);
    if (h->version != 2 && h->version != 3)
        return err_set(e, 0, "qcow2 version %" PRIu32 ": 2 and 3 are understood", h->version);
    h->backing_offset = be64_get(p + 8);
    h->backing_size = be32_get(p + 16);
    h->cluster_bits = be32_get(p + 20);
    h->size = be64_get(p + 24);
    h->crypt_method = be32_get(p + 32);
    h->l1_size = be32_get(p + 36);
    h->l1_offset = be64_get(p + 40);
    h->reftable_offset = be64_get(p + 48);
    h->reftable_clusters = be32_get(p + 56);
    h->snapshot_count = be32_get(p + 60);
    h->snapshots_offset = be64_get(p + 64);
    h->refcount_order = 4;
    h->header_length = V2_BYTES;
    if (h->version == 2)
        return 0;
    h->incompatible = be64_get(p + 72);
    h->compatible = be64_get(p + 80);
    h->autoclear = be64_get(p + 88);
    h->refcount_order = be32_get(p + 96);
    h->header_length = be32_get(p + 100);
    if (h->header_length > V3_BYTES)
        h->compression = p[V3_BYTES];
    return 0;
}

static int judge_numbers(const struct qcow2_header *h, struct err *e) {
    uint64_t cluster;

    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return err_set(e, 0, "clusters of 2^%" PRIu32 " bytes: 2^9 to 2^21 are understood",
                       h->cluster_bits);
    cluster = 1ull << h->cluster_bits;
    if (h->version == 3 &&
        (h->header_length < V3_BYTES || h->header_length % 8 || h->header_length > cluster))
        return err_set(e, 0, "a header of %" PRIu32 " bytes", h->header_length);
    if (h->refcount_order > 6)
        return err_set(e, 0, "refcounts of 2^%" PRIu32 " bits: 64 are the most", h->refcount_order);
    if (h->backing_offset && (h->backing_size > QCOW2_BACKING_MAX ||
                              !range_within(h->backing_offset, h->backing_size, cluster)))
        return err_set(e, 0, "the backing file's name is not within the first cluster");
    if (!h->size || h->size > INT64_MAX - cluster)
        return err_set(e, 0, "a size of %" PRIu64 " bytes", h->size);
    if (h->l1_size > QCOW2_L1_MAX / 8)
        return err_set(e, 0, "an L1 table of %" PRIu32 " entries: %u are the most", h->l1_size,
                       QCOW2_L1_MAX / 8);
    if (!h->reftable_clusters || h->reftable_clusters > QCOW2_REFTABLE_MAX >> h->cluster_bits)
        return err_set(e, 0, "a refcount table of %" PRIu32 " clusters", h->reftable_clusters);
    if (h->snapshot_count > QCOW2_SNAPSHOTS_MAX)
        return err_set(e, 0, "%" PRIu32 " snapshots: %u are the most", h->snapshot_count,
                       QCOW2_SNAPSHOTS_MAX);
    return 0;
}

/* The name that the image itself gives to a feature we do not know, or its number. */
static void feature_name(const struct qcow2_header *h, unsigned bit, char *name, size_t size) {
    uint64_t len;

    snprintf(name, size, "bit %u", bit);
    for (uint64_t at = 0; at < h->extension_bytes; at += 8 + align_up(len, 8)) {
        const uint8_t *p = h->extensions + at;

        len = be32_get(p + 4);
        if (be32_get(p) != QCOW2_EXT_FEATURE_NAMES)
            continue;
        for (uint32_t i = 0; i + FEATURE_BYTES <= len; i += FEATURE_BYTES)
            if (p[8 + i] == 0 && p[9 + i] == bit)
                snprintf(name, size, "%.46s", (const char *)p + 10 + i);
    }
    for (char *c = name; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

static int judge_features(const struct qcow2_header *h, struct err *e) {
    const uint64_t known =
        QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_EXTERNAL_DATA | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2;
    uint64_t unknown = h->incompatible & ~known;
    char name[64];

    if (h->crypt_method)
        return err_set(e, 0, "it is encrypted (%s), which is not supported",
                       h->crypt_method == 1 ? "AES" : "LUKS");
    if (h->incompatible & QCOW2_EXTERNAL_DATA)
        return err_set(e, 0, "its data is in an external data file, which is not supported");
    if (unknown) {
        feature_name(h, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
        return err_set(e, 0, "it needs a feature that is not supported: %s", name);
    }
    if (!(h->incompatible & QCOW2_COMPRESSION) != (h->compression == QCOW2_ZLIB) ||
        h->compression > QCOW2_ZSTD)
        return err_set(e, 0, "compression type %u is not supported", h->compression);
    if (h->incompatible & QCOW2_EXTENDED_L2 && h->cluster_bits < 14)
        return err_set(e, 0, "extended L2 entries with clusters of less than 16 KiB");
    return 0;
}

/* --- extensions --- */

static int take_bitmaps(struct qcow2_header *h, const uint8_t *data, uint32_t len, struct err *e) {
    if (len < 24)
        return err_set(e, 0, "a bitmaps extension of %" PRIu32 " bytes", len);
    h->bitmap_count = be32_get(data);
    h->bitmap_directory_bytes = be64_get(data + 8);
    h->bitmap_directory = be64_get(data + 16);
    return 0;
}

static void keep(struct qcow2_header *h, const uint8_t *p, uint32_t bytes) {
    if (!h->extensions)
        h->extensions = xcalloc(1, EXTENSIONS_MAX);
    memcpy(h->extensions + h->extension_bytes, p, bytes);
    h->extension_bytes += bytes;
}

/* `at` is where they start in the first `size` bytes of the file. */
static int get_extensions(struct qcow2_header *h, const uint8_t *head, uint32_t at, uint32_t size,
                          char **backing_format, struct err *e) {
    /* A backing file's name ends them, where version 2 has no end mark. */
    uint32_t end = h->backing_offset ? (uint32_t)h->backing_offset : size;

    while (at + 8 <= end && be32_get(head + at) != QCOW2_EXT_END) {
        uint32_t type = be32_get(head + at), len = be32_get(head + at + 4);
        uint64_t padded = align_up(len, 8);

        if (!range_within(at + 8, len, end))
            return err_set(e, 0, "header extension %#" PRIx32 " is longer than there is room",
                           type);
        if (type == QCOW2_EXT_BACKING_FORMAT) {
            free(*backing_format);
            *backing_format = xasprintf("%.*s", (int)len, (const char *)head + at + 8);
        } else {
            if (type == QCOW2_EXT_BITMAPS && take_bitmaps(h, head + at + 8, len, e) < 0)
                return -1;
            if (h->extension_bytes + 8 + padded > EXTENSIONS_MAX || at + 8 + padded > size)
                return err_set(e, 0, "header extensions of more than %u bytes", EXTENSIONS_MAX);
            keep(h, head + at, 8 + (uint32_t)padded);
        }
        at += 8 + (uint32_t)padded;
    }
    return 0;
}

int qcow2_header_read(struct hostfile *f, struct qcow2_header *h, char **backing_name,
                      char **backing_format, struct err *e) {
    uint8_t fixed[OUR_BYTES];
    uint64_t bytes = 0;
    int r = hostfile_size(f, &bytes);

    if (r == 0)
        r = hostfile_read(f, 0, fixed, sizeof(fixed));
    if (r < 0)
        return err_set(e, -r, "read");
    if (bytes < V2_BYTES)
        return err_set(e, 0, "not a qcow2 image");
    if (get_fixed(h, fixed, e) < 0 || judge_numbers(h, e) < 0)
        return -1;
    uint32_t cluster = 1u << h->cluster_bits;
    cleanup_free uint8_t *head = xcalloc(1, cluster);
    r = hostfile_read(f, 0, head, cluster);
    if (r < 0)
        return err_set(e, -r, "read");
    if (get_extensions(h, head, h->header_length, cluster, backing_format, e) < 0)
        return -1;
    if (h->backing_offset && h->backing_size)
        *backing_name =
            xasprintf("%.*s", (int)h->backing_size, (const char *)head + h->backing_offset);
    return judge_features(h, e);
}

/* --- writing --- */

static void put_fixed(const struct qcow2_header *h, uint8_t *p) {
    be32_put(p, QCOW2_MAGIC);
    be32_put(p + 4, h->version);
    be32_put(p + 20, h->cluster_bits);
    be64_put(p + 24, h->size);
    be32_put(p + 32, h->crypt_method);
    be32_put(p + 36, h->l1_size);
    be64_put(p + 40, h->l1_offset);
    be64_put(p + 48, h->reftable_offset);
    be32_put(p + 56, h->reftable_clusters);
    be32_put(p + 60, h->snapshot_count);
    be64_put(p + 64, h->snapshots_offset);
    if (h->version == 2)
        return;
    be64_put(p + 72, h->incompatible);
    be64_put(p + 80, h->compatible);
    be64_put(p + 88, h->autoclear);
    be32_put(p + 96, h->refcount_order);
    be32_put(p + 100, h->header_length);
    if (h->header_length > V3_BYTES)
        p[V3_BYTES] = h->compression;
}

int qcow2_header_make(const struct qcow2_header *h, const char *backing_name,
                      const char *backing_format, uint8_t *cluster) {
    uint32_t room = 1u << h->cluster_bits, at = h->header_length;
    size_t format = backing_format ? strlen(backing_format) : 0;
    size_t name = backing_name ? strlen(backing_name) : 0;

    if (at + h->extension_bytes + 8 + align_up(format, 8) + 8 + name > room ||
        name > QCOW2_BACKING_MAX)
        return -ENOSPC;
    put_fixed(h, cluster);
    if (h->extension_bytes)
        memcpy(cluster + at, h->extensions, h->extension_bytes);
    at += h->extension_bytes;
    if (format) {
        be32_put(cluster + at, QCOW2_EXT_BACKING_FORMAT);
        be32_put(cluster + at + 4, (uint32_t)format);
        memcpy(cluster + at + 8, backing_format, format);
        at += 8 + (uint32_t)align_up(format, 8);
    }
    at += 8; /* the end mark */
    if (name) {
        be64_put(cluster + 8, at);
        be32_put(cluster + 16, (uint32_t)name);
        memcpy(cluster + at, backing_name, name);
    }
    return 0;
}

int qcow2_header_write(struct qcow2 *q) {
    cleanup_free uint8_t *cluster = xcalloc(1, q->cluster_size);
    cleanup_free uint8_t *old = xcalloc(1, q->cluster_size);
    int r = hostfile_read(q->file, 0, old, q->cluster_size);

    if (r < 0)
        return r;
    /* Header fields that came after our time are kept. */
    if (q->h.header_length > V3_BYTES)
        memcpy(cluster + V3_BYTES, old + V3_BYTES, q->h.header_length - V3_BYTES);
    r = qcow2_header_make(&q->h, q->v.backing_name, q->v.backing_format, cluster);
    return r < 0 ? r : hostfile_write(q->file, 0, cluster, q->cluster_size);
}

int qcow2_header_switch(struct qcow2 *q, const struct qcow2_header *before) {
    int r = qcow2_header_write(q);

    if (r == 0)
        r = hostfile_sync(q->file);
    if (r < 0)
        q->h = *before;
    return r;
}

int qcow2_set_dirty(struct qcow2 *q, bool dirty) {
    int r;

    if (q->h.version < 3 || q->dirty == dirty)
        return 0;
    q->h.incompatible = (q->h.incompatible & ~(uint64_t)QCOW2_DIRTY) | (dirty ? QCOW2_DIRTY : 0);
    r = qcow2_header_write(q);
    if (r == 0)
        r = hostfile_sync(q->file);
    if (r == 0)
        q->dirty = dirty;
    return r;
}

int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) {
    char what[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    log_guest(&q->limit, "%s: the image is corrupt: %s; see: rf image check", q->file->path, what);
    if (!q->broken && !q->v.read_only && q->h.version >= 3) {
        q->h.incompatible |= QCOW2_CORRUPT;
        qcow2_header_write(q);
    }
    q->broken = true;
    return -EIO;
}

static bool apart(uint64_t off, uint64_t len, uint64_t other, uint64_t other_len) {
    return off + len <= other || other + other_len <= off;
}

bool qcow2_place_ok(const struct qcow2 *q, uint64_t off, uint64_t len) {
    if (off < q->cluster_size || off & (q->cluster_size - 1) || !range_within(off, len, INT64_MAX))
        return false;
    if (!apart(off, len, q->h.l1_offset, (uint64_t)q->h.l1_size * 8) ||
        !apart(off, len, q->h.reftable_offset, (uint64_t)q->h.reftable_clusters << q->cluster_bits))
        return false;
    if (!apart(off, len, q->h.snapshots_offset, q->snapshot_bytes))
        return false;
    for (uint32_t i = 0; q->snapshots && i < q->h.snapshot_count; i++)
        if (!apart(off, len, q->snapshots[i].l1_offset, (uint64_t)q->snapshots[i].l1_size * 8))
            return false;
    return true;
}

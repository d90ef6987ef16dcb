/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMDK images in one file: a header, the descriptor, and grains, which a directory of tables leads
 * to. streamOptimized ones, with compressed grains and the directory behind them, are written once,
 * from the start to the end; else they are read only.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"
#include "block/blocks.h"
#include "block/bytes_le.h"
#include "block/vmdk.h"

#define MAGIC 0x564d444bu /* "KDMV" */
#define TABLE 512u        /* entries of a grain table */
#define TABLE_SECTORS 4u
#define GRAIN_DEFAULT 128u      /* sectors */
#define TEXT_SECTORS 20u        /* of images of ours */
#define OVERHEAD_MAX (1u << 20) /* sectors in front of the grains */
#define AT_END UINT64_MAX
#define FOOTER_FROM_END 1024u

enum { /* offsets in the header */
       AT_VERSION = 4,
       AT_FLAGS = 8,
       AT_CAPACITY = 12,
       AT_GRAIN = 20,
       AT_TEXT = 28,
       AT_TEXT_SIZE = 36,
       AT_TABLE_ENTRIES = 44,
       AT_SECOND_DIRECTORY = 48,
       AT_DIRECTORY = 56,
       AT_OVERHEAD = 64,
       AT_NEWLINES = 73,
       AT_COMPRESSION = 77,
};
enum { SECOND_TABLES = 2, ZERO_GRAINS = 4, COMPRESSED = 1 << 16, MARKERS = 1 << 17 };
enum { DEFLATE = 1, MARKER = 12 };
enum { AT_MARKER_TYPE = 12, MARK_END = 0, MARK_TABLE = 1, MARK_DIRECTORY = 2, MARK_FOOTER = 3 };

struct vmdk {
    struct blocks b;
    uint8_t header[VMDK_SECTOR];
    uint64_t tables;          /* how many */
    uint32_t *first, *second; /* the sectors of tables and of their copies; 0: none */
    char *type;
    bool has_footer;
    uint64_t stream_at;          /* where a stream goes on; 0: nothing is written */
    pthread_mutex_t unpack_lock; /* what follows */
    uint64_t unpacked;           /* grain + 1 */
    uint8_t *grain;
};

static struct vmdk *of_blocks(struct blocks *b) {
    return container_of(b, struct vmdk, b);
}

bool vmdk_sparse_probe(const uint8_t *head, size_t len) {
    return len >= VMDK_SECTOR && le32_get(head) == MAGIC;
}

/* --- tables --- */

static int vmdk_store(struct blocks *b, uint64_t first, uint64_t count) {
    struct vmdk *d = of_blocks(b);
    uint64_t table = first / TABLE, at = first % TABLE * 4;
    uint8_t page[BLOCKS_PAGE * 4];
    int r = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t entry = b->map[first + i];

        le32_put(page + i * 4, entry < BLOCKS_FIRST ? entry : entry - BLOCKS_FIRST);
    }
    if (d->second)
        r = hostfile_write(b->v.file, (uint64_t)d->second[table] * VMDK_SECTOR + at, page,
                           count * 4);
    return r < 0 ? r
                 : hostfile_write(b->v.file, (uint64_t)d->first[table] * VMDK_SECTOR + at, page,
                                  count * 4);
}

static void vmdk_unload(struct blocks *b) {
    struct vmdk *d = of_blocks(b);

    pthread_mutex_destroy(&d->unpack_lock);
    free(d->first);
    free(d->second);
    free(d->type);
    free(d->grain);
}

static const struct blocks_ops block_ops = {.store = vmdk_store, .unload = vmdk_unload};

static void vmdk_describe(const struct volume *v, struct json_t *o) {
    const struct vmdk *d = (const struct vmdk *)(const void *)v;

    json_object_set_new(o, "vmdk", json_pack("{s:s}", "subformat", d->type ? d->type : "unknown"));
}

static const struct volume_ops sparse_ops = {
    .readv = blocks_readv,
    .writev = blocks_writev,
    .flush = blocks_flush,
    .zero = blocks_zero,
    .discard = blocks_discard,
    .extent = blocks_extent,
    .check = blocks_check,
    .describe = vmdk_describe,
    .close = blocks_close,
};

/* --- compressed grains --- */

/* Into d->grain, under its lock. */
static int unpack(struct vmdk *d, uint64_t i) {
    struct blocks *b = &d->b;
    uint64_t at = (uint64_t)(b->map[i] - BLOCKS_FIRST) * VMDK_SECTOR;
    uLongf len = b->v.cluster;
    uint8_t marker[MARKER];
    uint32_t bytes;
    int r = hostfile_read(b->v.file, at, marker, MARKER);

    if (r < 0)
        return r;
    bytes = le32_get(marker + 8);
    if (le64_get(marker) != i * (b->v.cluster / VMDK_SECTOR) || bytes > 2 * b->v.cluster)
        return -EIO;
    cleanup_free uint8_t *packed = xcalloc(1, bytes + 1u);
    r = hostfile_read(b->v.file, at + MARKER, packed, bytes);
    if (r < 0)
        return r;
    if (!d->grain)
        d->grain = xcalloc(1, b->v.cluster);
    r = uncompress(d->grain, &len, packed, bytes);
    if (r != Z_OK)
        return r == Z_MEM_ERROR ? -ENOMEM : -EIO;
    memset(d->grain + len, 0, b->v.cluster - len);
    return 0;
}

static int read_packed(struct vmdk *d, uint64_t i, uint32_t at, struct span s, uint64_t len) {
    int r = 0;

    pthread_mutex_lock(&d->unpack_lock);
    if (d->unpacked != i + 1) {
        d->unpacked = 0;
        r = unpack(d, i);
        if (r == 0)
            d->unpacked = i + 1;
    }
    if (r == 0)
        iov_write(s.iov, s.count, s.skip, d->grain + at, len);
    pthread_mutex_unlock(&d->unpack_lock);
    return r;
}

static int packed_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    struct blocks *b = blocks_of(v);
    uint64_t i = off / v->cluster, end = (i + 1) * v->cluster;
    bool there = b->map[i] >= BLOCKS_FIRST;

    while (end < off + len && (b->map[end / v->cluster] >= BLOCKS_FIRST) == there)
        end += v->cluster;
    *x = (struct volume_extent){.kind = there ? VOLUME_COMPRESSED : VOLUME_ZERO,
                                .len = MIN(len, end - off)};
    return 0;
}

static int packed_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    struct blocks *b = blocks_of(v);
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        uint64_t i = (off + done) / v->cluster;
        uint32_t at = (uint32_t)((off + done) % v->cluster);
        struct span to = span_from(s, done);

        n = MIN(len - done, (uint64_t)v->cluster - at);
        if (b->map[i] >= BLOCKS_FIRST)
            r = read_packed(of_blocks(b), i, at, to, n);
        else
            iov_fill(to.iov, to.count, to.skip, 0, n);
    }
    return r;
}

/* Its volumes are read only. */
static int no_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    (void)v, (void)off, (void)s, (void)len;
    return -EROFS;
}

static int no_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    (void)v, (void)off, (void)len, (void)unmap;
    return -EROFS;
}

static int no_discard(struct volume *v, uint64_t off, uint64_t len) {
    (void)v, (void)off, (void)len;
    return -EROFS;
}

static int no_flush(struct volume *v) {
    (void)v;
    return 0;
}

static const struct volume_ops packed_ops = {
    .readv = packed_readv,
    .writev = no_writev,
    .flush = no_flush,
    .zero = no_zero,
    .discard = no_discard,
    .extent = packed_extent,
    .describe = vmdk_describe,
    .close = blocks_close,
};

/* --- streams --- */

/* A marker and `sectors` of what it announces; the place of that is `*at`. */
static int put_marked(struct vmdk *d, uint32_t type, const void *p, uint64_t sectors,
                      uint64_t *at) {
    uint8_t marker[VMDK_SECTOR] = {0};
    int r;

    le64_put(marker, sectors);
    le32_put(marker + AT_MARKER_TYPE, type);
    r = hostfile_write(d->b.v.file, d->stream_at, marker, VMDK_SECTOR);
    *at = d->stream_at / VMDK_SECTOR + 1;
    if (r == 0 && sectors)
        r = hostfile_write(d->b.v.file, d->stream_at + VMDK_SECTOR, p, sectors * VMDK_SECTOR);
    d->stream_at += (1 + sectors) * VMDK_SECTOR;
    return r;
}

static int put_table(struct vmdk *d, uint64_t t, uint8_t *entry) {
    uint8_t table[TABLE * 4] = {0};
    struct blocks *b = &d->b;
    uint64_t at = 0;
    bool any = false;
    int r;

    for (uint64_t i = 0; i < TABLE && t * TABLE + i < b->count; i++) {
        uint32_t grain = b->map[t * TABLE + i];

        any |= grain >= BLOCKS_FIRST;
        le32_put(table + i * 4, grain >= BLOCKS_FIRST ? grain - BLOCKS_FIRST : 0);
    }
    r = any ? put_marked(d, MARK_TABLE, table, TABLE_SECTORS, &at) : 0;
    le32_put(entry, (uint32_t)at);
    return r;
}

/* What follows the grains: tables, directory, footer, the end. */
static int end_stream(struct vmdk *d) {
    uint64_t sectors = (d->tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR, at;
    cleanup_free uint8_t *directory = xcalloc(sectors, VMDK_SECTOR);
    int r = 0;

    for (uint64_t t = 0; t < d->tables && r == 0; t++)
        r = put_table(d, t, directory + t * 4);
    if (r == 0)
        r = put_marked(d, MARK_DIRECTORY, directory, sectors, &at);
    if (r < 0)
        return r;
    le64_put(d->header + AT_DIRECTORY, at);
    r = put_marked(d, MARK_FOOTER, d->header, 1, &at);
    if (r == 0)
        r = put_marked(d, MARK_END, NULL, 0, &at);
    if (r == 0)
        r = hostfile_truncate(d->b.v.file, d->stream_at);
    return r == 0 ? hostfile_sync(d->b.v.file) : r;
}

/* One grain, with the lock held. */
static int put_grain(struct vmdk *d, uint64_t i, const uint8_t *grain) {
    struct blocks *b = &d->b;
    uLongf len = compressBound(b->v.cluster);
    uint64_t sector, bytes;
    int r;

    if (b->map[i] >= BLOCKS_FIRST)
        return -EROFS;
    cleanup_free uint8_t *out = xcalloc(1, MARKER + len + VMDK_SECTOR);
    if (compress2(out + MARKER, &len, grain, b->v.cluster, Z_DEFAULT_COMPRESSION) != Z_OK)
        return -ENOMEM;
    if (!d->stream_at)
        d->stream_at = b->first;
    sector = d->stream_at / VMDK_SECTOR;
    if (sector >= UINT32_MAX - BLOCKS_FIRST)
        return -EFBIG;
    le64_put(out, i * (b->v.cluster / VMDK_SECTOR));
    le32_put(out + 8, (uint32_t)len);
    bytes = align_up(MARKER + len, VMDK_SECTOR);
    r = hostfile_write(b->v.file, d->stream_at, out, bytes);
    if (r == 0) {
        b->map[i] = (uint32_t)sector + BLOCKS_FIRST;
        d->stream_at += bytes;
    }
    return r;
}

static int stream_write_compressed(struct volume *v, uint64_t off, const void *grain) {
    struct blocks *b = blocks_of(v);
    int r;

    pthread_mutex_lock(&b->lock);
    r = put_grain(of_blocks(b), off / v->cluster, grain);
    pthread_mutex_unlock(&b->lock);
    return r;
}

/* Whole grains only; the last one may be as short as the disk. */
static int stream_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    cleanup_free uint8_t *grain = xcalloc(1, v->cluster);
    int r = off % v->cluster || ((off + len) % v->cluster && off + len != v->size) ? -EROFS : 0;

    for (uint64_t done = 0; done < len && r == 0; done += v->cluster) {
        uint64_t n = MIN(len - done, (uint64_t)v->cluster);

        memset(grain + n, 0, v->cluster - n);
        iov_read(s.iov, s.count, s.skip + done, grain, n);
        r = stream_write_compressed(v, off + done, grain);
    }
    return r;
}

static int stream_close(struct volume *v) {
    struct vmdk *d = of_blocks(blocks_of(v));
    int r = d->stream_at ? end_stream(d) : 0;

    blocks_free(&d->b);
    return r;
}

static const struct volume_ops stream_ops = {
    .readv = packed_readv,
    .writev = stream_writev,
    .flush = no_flush,
    .zero = no_zero,
    .discard = no_discard,
    .extent = packed_extent,
    .write_compressed = stream_write_compressed,
    .describe = vmdk_describe,
    .close = stream_close,
};

/* --- opening --- */

static uint32_t flags_of(const struct vmdk *d) {
    return le32_get(d->header + AT_FLAGS);
}

static int judge(struct vmdk *d, struct err *e) {
    const uint8_t *h = d->header;
    uint64_t capacity = le64_get(h + AT_CAPACITY), grain = le64_get(h + AT_GRAIN);
    uint32_t version = le32_get(h + AT_VERSION), flags = flags_of(d);

    if (!vmdk_sparse_probe(h, VMDK_SECTOR))
        return err_set(e, 0, "not a vmdk image");
    if (version < 1 || version > 3)
        return err_set(e, 0, "vmdk version %u", version);
    if (flags & 1 && memcmp(h + AT_NEWLINES, "\n \r\n", 4) != 0)
        return err_set(e, 0, "a transfer as text has damaged the image");
    if (grain < 8 || grain > 16384 || grain & (grain - 1))
        return err_set(e, 0, "grains of %" PRIu64 " sectors", grain);
    if (!capacity || capacity > VMDK_SIZE_MAX / VMDK_SECTOR)
        return err_set(e, 0, "a size of %" PRIu64 " sectors", capacity);
    if (le32_get(h + AT_TABLE_ENTRIES) != TABLE)
        return err_set(e, 0, "grain tables of %u entries", le32_get(h + AT_TABLE_ENTRIES));
    if (flags & COMPRESSED && (!(flags & MARKERS) || le16_get(h + AT_COMPRESSION) != DEFLATE))
        return err_set(e, 0, "an unknown compression");
    d->b.v.size = capacity * VMDK_SECTOR;
    d->b.v.cluster = (uint32_t)grain * VMDK_SECTOR;
    d->b.unit = VMDK_SECTOR;
    return 0;
}

static int read_text(struct vmdk *d, uint64_t file_size, struct err *e) {
    uint64_t at = le64_get(d->header + AT_TEXT), sectors = le64_get(d->header + AT_TEXT_SIZE);
    int r;

    if (!at || !sectors)
        return 0;
    if (sectors > VMDK_TEXT_MAX / VMDK_SECTOR || at > file_size / VMDK_SECTOR ||
        !range_within(at * VMDK_SECTOR, sectors * VMDK_SECTOR, file_size))
        return err_set(e, 0, "a descriptor of %" PRIu64 " sectors at %" PRIu64, sectors, at);
    cleanup_free char *text = xcalloc(1, sectors * VMDK_SECTOR + 1);
    r = hostfile_read(d->b.v.file, at * VMDK_SECTOR, text, sectors * VMDK_SECTOR);
    if (r < 0)
        return err_set(e, -r, "descriptor");
    d->type = vmdk_value(text, "createType");
    return vmdk_judge_text(text, e);
}

/* A directory: the sectors of its tables. */
static int read_directory(struct vmdk *d, uint64_t sector, uint64_t file_size, uint32_t **to,
                          struct err *e) {
    uint64_t bytes = d->tables * 4;
    int r;

    if (!sector || sector > file_size / VMDK_SECTOR ||
        !range_within(sector * VMDK_SECTOR, bytes, file_size))
        return err_set(e, 0, "a grain directory at sector %" PRIu64, sector);
    *to = xcalloc(d->tables, 4);
    cleanup_free uint8_t *raw = xcalloc(1, bytes);
    r = hostfile_read(d->b.v.file, sector * VMDK_SECTOR, raw, bytes);
    if (r < 0)
        return err_set(e, -r, "grain directory");
    for (uint64_t i = 0; i < d->tables; i++) {
        (*to)[i] = le32_get(raw + i * 4);
        if ((uint64_t)(*to)[i] * VMDK_SECTOR + TABLE * 4 > file_size)
            return err_set(e, 0, "grain table %" PRIu64 " lies behind the end of the file", i);
    }
    return 0;
}

static int read_tables(struct vmdk *d) {
    bool zeroes = flags_of(d) & ZERO_GRAINS;
    uint8_t table[TABLE * 4];
    struct blocks *b = &d->b;
    int r = 0;

    for (uint64_t t = 0; t < d->tables && r == 0; t++) {
        if (!d->first[t])
            continue;
        r = hostfile_read(b->v.file, (uint64_t)d->first[t] * VMDK_SECTOR, table, sizeof(table));
        for (uint64_t i = 0; i < TABLE && t * TABLE + i < b->count && r == 0; i++) {
            uint32_t entry = le32_get(table + i * 4);

            if (entry >= UINT32_MAX - BLOCKS_FIRST)
                r = -EIO;
            else if (entry > 1 || (entry == 1 && !zeroes))
                b->map[t * TABLE + i] = entry + BLOCKS_FIRST;
            else
                b->map[t * TABLE + i] = entry ? BLOCKS_ZERO : BLOCKS_ABSENT;
        }
    }
    return r;
}

/* --- what is written must have a place of its own --- */

static bool claim(uint8_t *taken, uint64_t overhead, uint64_t at, uint64_t sectors) {
    if (!range_within(at, sectors, overhead))
        return false;
    for (uint64_t i = 0; i < sectors; i++)
        if (taken[at + i]++)
            return false;
    return true;
}

static bool claim_tables(const struct vmdk *d, uint8_t *taken, uint64_t overhead, uint64_t at,
                         const uint32_t *tables) {
    if (!claim(taken, overhead, at, (d->tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR))
        return false;
    for (uint64_t i = 0; i < d->tables; i++)
        if (!claim(taken, overhead, tables[i], TABLE_SECTORS))
            return false;
    return true;
}

static int judge_places(const struct vmdk *d, struct err *e) {
    const uint8_t *h = d->header;
    uint64_t overhead = le64_get(h + AT_OVERHEAD);

    if (!overhead || overhead > OVERHEAD_MAX)
        return err_set(e, 0, "tables of %" PRIu64 " sectors", overhead);
    cleanup_free uint8_t *taken = xcalloc(1, overhead);
    if (!claim(taken, overhead, 0, 1) ||
        !claim(taken, overhead, le64_get(h + AT_TEXT), le64_get(h + AT_TEXT_SIZE)) ||
        !claim_tables(d, taken, overhead, le64_get(h + AT_DIRECTORY), d->first) ||
        (d->second &&
         !claim_tables(d, taken, overhead, le64_get(h + AT_SECOND_DIRECTORY), d->second)))
        return err_set(e, 0, "its tables are not all in front of the grains, each in its place");
    return 0;
}

/* --- the rest of opening --- */

static int load_header(struct vmdk *d, uint64_t size, struct err *e) {
    struct hostfile *file = d->b.v.file;
    int r = hostfile_read(file, 0, d->header, VMDK_SECTOR);

    /* Of a stream, the directory's place was known at its end only. */
    d->has_footer = r == 0 && le64_get(d->header + AT_DIRECTORY) == AT_END;
    if (d->has_footer && size > FOOTER_FROM_END)
        r = hostfile_read(file, size - FOOTER_FROM_END, d->header, VMDK_SECTOR);
    return r < 0 ? err_set(e, -r, "read") : judge(d, e);
}

static int load_tables(struct vmdk *d, uint64_t size, struct err *e) {
    bool second = flags_of(d) & SECOND_TABLES && !d->b.v.read_only;
    int r;

    d->tables = (d->b.count + TABLE - 1) / TABLE;
    if (read_text(d, size, e) < 0 ||
        read_directory(d, le64_get(d->header + AT_DIRECTORY), size, &d->first, e) < 0 ||
        (second &&
         read_directory(d, le64_get(d->header + AT_SECOND_DIRECTORY), size, &d->second, e) < 0))
        return -1;
    r = read_tables(d);
    return r < 0 ? err_set(e, -r, "grain tables") : 0;
}

/* Only what is empty can be written. */
static int load_stream(struct vmdk *d, uint64_t size, struct err *e) {
    struct blocks *b = &d->b;
    uint64_t overhead = le64_get(d->header + AT_OVERHEAD);
    bool empty = d->has_footer;

    b->v.ops = &packed_ops;
    if (b->v.read_only)
        return 0;
    for (uint64_t i = 0; i < b->count && empty; i++)
        empty = b->map[i] < BLOCKS_FIRST;
    if (!empty || overhead > OVERHEAD_MAX || overhead * VMDK_SECTOR > size ||
        !range_within(le64_get(d->header + AT_TEXT), le64_get(d->header + AT_TEXT_SIZE), overhead))
        return err_set(e, 0, "a compressed vmdk image that is not empty can be read only");
    b->v.ops = &stream_ops;
    b->v.sequential = true;
    b->first = overhead * VMDK_SECTOR;
    return 0;
}

static int load(struct vmdk *d, bool for_repair, struct err *e) {
    struct blocks *b = &d->b;
    uint64_t size;
    int r = hostfile_size(b->v.file, &size);

    if (r < 0)
        return err_set(e, -r, "size");
    if (load_header(d, size, e) < 0 || blocks_init(b, b->v.file, &volume_vmdk, e) < 0 ||
        load_tables(d, size, e) < 0)
        return -1;
    if (flags_of(d) & COMPRESSED)
        return load_stream(d, size, e);
    b->first = MIN(le64_get(d->header + AT_OVERHEAD), (uint64_t)OVERHEAD_MAX) * VMDK_SECTOR;
    if (!b->v.read_only && judge_places(d, e) < 0)
        return -1;
    return blocks_judge(b, for_repair, e);
}

struct volume *vmdk_sparse_open(struct hostfile *file, bool for_repair, struct err *e) {
    struct vmdk *d = xcalloc(1, sizeof(*d));

    d->b.v.ops = &sparse_ops;
    d->b.v.file = file;
    d->b.ops = &block_ops;
    pthread_mutex_init(&d->b.lock, NULL);
    pthread_mutex_init(&d->unpack_lock, NULL);
    if (load(d, for_repair, e) == 0)
        return &d->b.v;
    d->b.v.read_only = true;
    d->b.v.ops = &sparse_ops;
    volume_close(&d->b.v);
    return NULL;
}

/* --- making --- */

struct layout {
    uint64_t tables, directory_sectors, second, first, overhead;
};

static struct layout lay_out(uint64_t size) {
    uint64_t covers = (uint64_t)GRAIN_DEFAULT * VMDK_SECTOR * TABLE;
    struct layout l = {.tables = size / covers + (size % covers != 0)};

    l.directory_sectors = (l.tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
    l.second = 1 + TEXT_SECTORS;
    l.first = l.second + l.directory_sectors + l.tables * TABLE_SECTORS;
    l.overhead = align_up(l.first + l.directory_sectors + l.tables * TABLE_SECTORS, GRAIN_DEFAULT);
    return l;
}

static void make_header(uint8_t *h, const struct layout *l, uint64_t size) {
    le32_put(h, MAGIC);
    le32_put(h + AT_VERSION, 1);
    le32_put(h + AT_FLAGS, 1 | SECOND_TABLES);
    le64_put(h + AT_CAPACITY, size / VMDK_SECTOR);
    le64_put(h + AT_GRAIN, GRAIN_DEFAULT);
    le64_put(h + AT_TEXT, 1);
    le64_put(h + AT_TEXT_SIZE, TEXT_SECTORS);
    le32_put(h + AT_TABLE_ENTRIES, TABLE);
    le64_put(h + AT_SECOND_DIRECTORY, l->second);
    le64_put(h + AT_DIRECTORY, l->first);
    le64_put(h + AT_OVERHEAD, l->overhead);
    memcpy(h + AT_NEWLINES, "\n \r\n", 4);
}

static int write_directory(struct hostfile *file, const struct layout *l, uint64_t sector) {
    cleanup_free uint8_t *raw = xcalloc(l->tables, 4);

    for (uint64_t i = 0; i < l->tables; i++)
        le32_put(raw + i * 4, (uint32_t)(sector + l->directory_sectors + i * TABLE_SECTORS));
    return hostfile_write(file, sector * VMDK_SECTOR, raw, l->tables * 4);
}

/* An empty stream, of which the end is written anew with the grains. */
static int write_stream(struct hostfile *file, uint8_t *header, uint64_t size) {
    const struct layout l = lay_out(size);
    struct vmdk d = {.tables = l.tables, .stream_at = GRAIN_DEFAULT * VMDK_SECTOR};
    int r;

    le32_put(header + AT_VERSION, 3);
    le32_put(header + AT_FLAGS, 1 | COMPRESSED | MARKERS);
    le64_put(header + AT_SECOND_DIRECTORY, 0);
    le64_put(header + AT_DIRECTORY, AT_END);
    le64_put(header + AT_OVERHEAD, GRAIN_DEFAULT);
    le16_put(header + AT_COMPRESSION, DEFLATE);
    memcpy(d.header, header, VMDK_SECTOR);
    d.b.v.file = file;
    r = end_stream(&d);
    return r == 0 ? hostfile_write(file, 0, header, VMDK_SECTOR) : r;
}

/* The header last: before it, the file is no image. */
static int write_sparse(struct hostfile *file, const uint8_t *header, const struct layout *l) {
    int r = hostfile_truncate(file, l->overhead * VMDK_SECTOR);

    if (r == 0)
        r = write_directory(file, l, l->second);
    if (r == 0)
        r = write_directory(file, l, l->first);
    return r == 0 ? hostfile_write(file, 0, header, VMDK_SECTOR) : r;
}

int vmdk_sparse_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    const struct layout l = lay_out(c->size);
    cleanup_free char *extent =
        xasprintf("RW %" PRIu64 " SPARSE \"%s\"\n", c->size / VMDK_SECTOR, vmdk_name(file, c));
    cleanup_free char *text =
        vmdk_text(c->subformat ? c->subformat : "monolithicSparse", extent, c->size, e);
    uint8_t header[VMDK_SECTOR] = {0};
    int r;

    if (!text)
        return -1;
    make_header(header, &l, c->size);
    r = hostfile_write(file, VMDK_SECTOR, text, strlen(text));
    if (r == 0)
        r = c->subformat && strcmp(c->subformat, "streamOptimized") == 0
                ? write_stream(file, header, c->size)
                : write_sparse(file, header, &l);
    if (r == 0)
        r = hostfile_sync(file);
    return r < 0 ? err_set(e, -r, "write") : 0;
}

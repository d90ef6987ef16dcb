/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VHD ("Virtual Hard Disk Image Format Specification", October 2006): fixed disks, which are raw
 * with a footer; dynamic ones, a table of blocks that begin with a bitmap of their sectors; and
 * differencing ones, whose other sectors are a parent's, to be read only.
 *
 * The footer is at the end of the file, and a dynamic disk's also at its start: the one at the end
 * is moved before a new block takes its place.
 */
#include "block/vhd.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "block/blocks.h"
#include "block/bytes_be.h"

#define SECTOR 512u
#define TABLE_AT 1536u /* of images of ours */
#define BLOCK_DEFAULT (2u << 20)
#define ALIGN (1u << 20)
#define SIZE_MAX_VHD (2040ull << 30) /* the specification's limit */
#define EPOCH 946684800              /* seconds from 1970 to 2000 */
#define NONE 0xffffffffu

enum { FIXED = 2, DYNAMIC = 3, DIFFERENCING = 4 };

enum { /* offsets in the footer */
       AT_FEATURES = 8,
       AT_VERSION = 12,
       AT_DATA = 16,
       AT_TIME = 24,
       AT_CREATOR = 28,
       AT_CREATOR_VERSION = 32,
       AT_HOST = 36,
       AT_ORIGINAL_SIZE = 40,
       AT_SIZE = 48,
       AT_GEOMETRY = 56,
       AT_TYPE = 60,
       AT_SUM = 64,
       AT_UUID = 68,
};

enum { /* offsets in the dynamic disk's header */
       AT_NEXT = 8,
       AT_TABLE = 16,
       AT_HEADER_VERSION = 24,
       AT_COUNT = 28,
       AT_BLOCK = 32,
       AT_HEADER_SUM = 36,
       AT_PARENT_UUID = 40,
       AT_PARENT_NAME = 64,
       HEADER = 1024,
};

struct vhd {
    struct blocks b;
    uint8_t footer[VHD_FOOTER], header[HEADER];
    uint64_t table;
    bool *full; /* blocks that have all sectors */
};

static struct vhd *of_blocks(struct blocks *b) {
    return container_of(b, struct vhd, b);
}

static bool vhd_probe(const uint8_t *at, size_t len) {
    return len >= VHD_FOOTER && memcmp(at, "conectix", 8) == 0;
}

/* The ones' complement of the sum of all other bytes. */
static uint32_t checksum(const uint8_t *p, size_t len, size_t at) {
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += i < at || i >= at + 4 ? p[i] : 0;
    return ~sum;
}

static void seal(struct vhd *d) {
    be32_put(d->footer + AT_SUM, checksum(d->footer, VHD_FOOTER, AT_SUM));
    be32_put(d->header + AT_HEADER_SUM, checksum(d->header, HEADER, AT_HEADER_SUM));
}

static uint32_t type_of(const struct vhd *d) {
    return be32_get(d->footer + AT_TYPE);
}

/* --- blocks --- */

static int write_footer(struct vhd *d, uint64_t at) {
    return hostfile_write(d->b.v.file, at, d->footer, VHD_FOOTER);
}

static int vhd_prepare(struct blocks *b, uint64_t block, uint64_t start) {
    struct vhd *d = of_blocks(b);
    uint64_t end = start + b->head + b->v.cluster;
    cleanup_free uint8_t *bitmap = xcalloc(1, b->head);
    int r = blocks_extend(b, end, VHD_FOOTER);

    memset(bitmap, 0xff, b->head);
    if (r == 0)
        r = write_footer(d, end);
    if (r == 0)
        r = hostfile_write(b->v.file, start, bitmap, b->head);
    d->full[block] = r == 0;
    return r;
}

static int read_bitmap(struct blocks *b, uint64_t block, uint8_t *bitmap) {
    struct vhd *d = of_blocks(b);
    int r = hostfile_read(b->v.file, blocks_start(b, b->map[block]), bitmap, b->head);
    bool full = r == 0;

    for (uint32_t i = 0; i < b->v.cluster / SECTOR / 8 && full; i++)
        full = bitmap[i] == 0xff;
    d->full[block] = full;
    return r;
}

static bool has(const uint8_t *bitmap, uint64_t sector) {
    return bitmap[sector / 8] & 0x80 >> sector % 8;
}

/* A sector that a dynamic disk does not have is zeroes: it gets them, and all bits. */
static int vhd_own(struct blocks *b, uint64_t block) {
    struct vhd *d = of_blocks(b);
    cleanup_free uint8_t *bitmap = NULL;
    uint64_t start = blocks_start(b, b->map[block]);
    int r;

    if (d->full[block])
        return 0;
    bitmap = xcalloc(1, b->head);
    r = read_bitmap(b, block, bitmap);
    for (uint64_t i = 0; i < b->v.cluster / SECTOR && r == 0 && !d->full[block]; i++)
        if (!has(bitmap, i))
            r = hostfile_zero(b->v.file, start + b->head + i * SECTOR, SECTOR, true);
    memset(bitmap, 0xff, b->head);
    if (r == 0 && !d->full[block])
        r = hostfile_write(b->v.file, start, bitmap, b->head);
    d->full[block] = r == 0;
    return r;
}

static int vhd_look(struct blocks *b, uint64_t block, uint32_t at, uint64_t *len, bool *there) {
    struct vhd *d = of_blocks(b);
    cleanup_free uint8_t *bitmap = NULL;
    uint64_t end;
    int r;

    if (d->full[block])
        return 0;
    bitmap = xcalloc(1, b->head);
    r = read_bitmap(b, block, bitmap);
    if (r < 0 || d->full[block])
        return r;
    *there = has(bitmap, at / SECTOR);
    end = align_down(at, SECTOR) + SECTOR;
    while (end < at + *len && has(bitmap, end / SECTOR) == *there)
        end += SECTOR;
    *len = MIN(*len, end - at);
    return 0;
}

static int vhd_store(struct blocks *b, uint64_t first, uint64_t count) {
    struct vhd *d = of_blocks(b);
    uint8_t page[BLOCKS_PAGE * 4];

    for (uint64_t i = 0; i < count; i++)
        be32_put(page + i * 4,
                 b->map[first + i] == BLOCKS_ABSENT ? NONE : b->map[first + i] - BLOCKS_FIRST);
    return hostfile_write(b->v.file, d->table + first * 4, page, count * 4);
}

/* After a full disk or a repair it may be elsewhere than at the end. */
static int vhd_finish(struct blocks *b) {
    struct vhd *d = of_blocks(b);
    uint64_t size;
    int r = hostfile_size(b->v.file, &size);

    if (r == 0)
        r = write_footer(d, b->end);
    if (r == 0 && size > b->end + VHD_FOOTER)
        r = hostfile_truncate(b->v.file, b->end + VHD_FOOTER);
    return r;
}

static void vhd_unload(struct blocks *b) {
    free(of_blocks(b)->full);
}

static const struct blocks_ops block_ops = {
    .prepare = vhd_prepare,
    .own = vhd_own,
    .look = vhd_look,
    .store = vhd_store,
    .finish = vhd_finish,
    .unload = vhd_unload,
};

/* --- the volume --- */

static int grow_table(struct vhd *d, uint64_t count, struct err *e) {
    struct blocks *b = &d->b;

    if (count > BLOCKS_MAX || d->table + count * 4 > b->first)
        return err_set(e, 0, "the block table has no room; convert it to an image of that size");
    bool *full = xcalloc(count, sizeof(*full));
    memcpy(full, d->full, b->count * sizeof(*full));
    free(d->full);
    d->full = full;
    blocks_recount(b, count);
    memset(b->dirty, 1, (count + BLOCKS_PAGE - 1) / BLOCKS_PAGE * sizeof(*b->dirty));
    b->changed = true;
    be32_put(d->header + AT_COUNT, (uint32_t)count);
    return 0;
}

static int vhd_resize(struct volume *v, uint64_t size, struct err *e) {
    struct vhd *d = of_blocks(blocks_of(v));
    int r;

    if (size < v->size)
        return err_set(e, 0, "a vhd image cannot be made smaller");
    if (size > SIZE_MAX_VHD)
        return err_set(e, 0, "a vhd image has 2040G at most");
    if (grow_table(d, size / v->cluster + (size % v->cluster != 0), e) < 0)
        return -1;
    v->size = size;
    be64_put(d->footer + AT_SIZE, size);
    be32_put(d->footer + AT_GEOMETRY, VHD_GEOMETRY);
    seal(d);
    /* The table first: it is good for the smaller disk as well. */
    r = blocks_flush(v);
    if (r == 0)
        r = hostfile_write(v->file, VHD_FOOTER, d->header, HEADER);
    if (r == 0)
        r = write_footer(d, 0);
    if (r == 0)
        r = hostfile_sync(v->file);
    return r < 0 ? err_set(e, -r, "resize") : 0;
}

static void vhd_describe(const struct volume *v, struct json_t *o) {
    const struct vhd *d = (const struct vhd *)(const void *)v;

    json_object_set_new(
        o, "vhd",
        json_pack("{s:s}", "subformat", type_of(d) == DIFFERENCING ? "differencing" : "dynamic"));
}

static const struct volume_ops ops = {
    .readv = blocks_readv,
    .writev = blocks_writev,
    .flush = blocks_flush,
    .zero = blocks_zero,
    .discard = blocks_discard,
    .extent = blocks_extent,
    .resize = vhd_resize,
    .check = blocks_check,
    .describe = vhd_describe,
    .close = blocks_close,
};

/* --- opening --- */

/* At the end of the file; the copy at its start where that is damaged. */
static int read_footer(struct hostfile *file, uint8_t *f, uint64_t *size, struct err *e) {
    int r = hostfile_size(file, size);

    if (r == 0 && *size < VHD_FOOTER)
        return err_set(e, 0, "not a vhd image");
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        r = hostfile_read(file, i ? 0 : *size - VHD_FOOTER, f, VHD_FOOTER);
        if (r == 0 && vhd_probe(f, VHD_FOOTER) &&
            be32_get(f + AT_SUM) == checksum(f, VHD_FOOTER, AT_SUM))
            return 0;
    }
    return r < 0 ? err_set(e, -r, "read")
                 : err_set(e, 0, "not a vhd image, or its footer's checksum is wrong");
}

static int judge(struct vhd *d, uint64_t file_size, struct err *e) {
    const uint8_t *h = d->header;
    uint64_t size = be64_get(d->footer + AT_SIZE), data = be64_get(d->footer + AT_DATA);
    uint32_t block, count;
    int r;

    if (data < VHD_FOOTER || !range_within(data, HEADER, file_size))
        return err_set(e, 0, "a header at %#" PRIx64, data);
    r = hostfile_read(d->b.v.file, data, d->header, HEADER);
    if (r < 0)
        return err_set(e, -r, "read");
    if (memcmp(h, "cxsparse", 8) != 0 ||
        be32_get(h + AT_HEADER_SUM) != checksum(h, HEADER, AT_HEADER_SUM))
        return err_set(e, 0, "the header is damaged");
    block = be32_get(h + AT_BLOCK);
    count = be32_get(h + AT_COUNT);
    d->table = be64_get(h + AT_TABLE);
    if (block < 4096 || block > 256u << 20 || block & (block - 1))
        return err_set(e, 0, "blocks of %u bytes", block);
    if (!size || size > SIZE_MAX_VHD || size % SECTOR || size > (uint64_t)count * block)
        return err_set(e, 0, "a size of %" PRIu64 " bytes, of %u blocks", size, count);
    if (d->table < data + HEADER || !range_within(d->table, count * 4ull, file_size))
        return err_set(e, 0, "a block table at %#" PRIx64, d->table);
    d->b.v.size = size;
    d->b.v.cluster = block;
    d->b.head = (uint32_t)align_up(block / SECTOR / 8, SECTOR);
    d->b.unit = SECTOR;
    d->b.first = align_up(d->table + count * 4ull, SECTOR);
    d->b.trailer = VHD_FOOTER;
    return 0;
}

/* The parent's name is in UTF-16; of an image, nothing is opened that is not beside it. */
static int read_parent(struct vhd *d, struct err *e) {
    char name[257] = "";

    for (unsigned i = 0; i < 256; i++) {
        uint16_t c = be16_get(d->header + AT_PARENT_NAME + i * 2);

        if (c > 126 || (c && c < ' '))
            return err_set(e, 0, "the parent's name is not in ASCII");
        name[i] = (char)c;
        if (!c)
            break;
    }
    for (char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || *p == ':')
            return err_set(e, 0, "the parent '%s' is in another folder", name);
    if (!*name)
        return err_set(e, 0, "the parent has no name");
    if (!d->b.v.read_only)
        return err_set(e, 0, "a differencing image can be read only");
    d->b.v.backing_name = xstrdup(name);
    d->b.v.backing_format = xstrdup("vhd");
    return 0;
}

static int load_map(struct vhd *d) {
    struct blocks *b = &d->b;
    uint8_t page[BLOCKS_PAGE * 4];
    int r = 0;

    for (uint64_t i = 0; i < b->count && r == 0; i += BLOCKS_PAGE) {
        uint64_t n = MIN((uint64_t)BLOCKS_PAGE, b->count - i);

        r = hostfile_read(b->v.file, d->table + i * 4, page, n * 4);
        for (uint64_t k = 0; k < n && r == 0; k++) {
            uint32_t entry = be32_get(page + k * 4);

            b->map[i + k] = entry >= NONE - BLOCKS_FIRST ? BLOCKS_ABSENT : entry + BLOCKS_FIRST;
        }
    }
    return r;
}

/* Where the first block may be: behind the table, which may have room for more. */
static void leave_room(struct vhd *d) {
    struct blocks *b = &d->b;
    uint64_t least = align_up(d->table, ALIGN);

    for (uint64_t i = 0; i < b->count; i++)
        if (b->map[i] >= BLOCKS_FIRST)
            least = MIN(least, blocks_start(b, b->map[i]));
    b->first = MAX(b->first, least);
}

static int load(struct vhd *d, uint64_t size, bool for_repair, struct err *e) {
    struct blocks *b = &d->b;
    int r;

    if (judge(d, size, e) < 0 || blocks_init(b, b->v.file, &volume_vhd, e) < 0)
        return -1;
    d->full = xcalloc(b->count, sizeof(*d->full));
    r = load_map(d);
    if (r < 0)
        return err_set(e, -r, "block table");
    leave_room(d);
    if (blocks_judge(b, for_repair, e) < 0)
        return -1;
    return type_of(d) == DIFFERENCING ? read_parent(d, e) : 0;
}

static struct volume *open_blocks(struct hostfile *file, const uint8_t *footer, uint64_t size,
                                  bool for_repair, struct err *e) {
    struct vhd *d = xcalloc(1, sizeof(*d));

    d->b.v.ops = &ops;
    d->b.v.file = file;
    d->b.ops = &block_ops;
    memcpy(d->footer, footer, VHD_FOOTER);
    pthread_mutex_init(&d->b.lock, NULL);
    if (load(d, size, for_repair, e) == 0)
        return &d->b.v;
    d->b.v.read_only = true;
    volume_close(&d->b.v);
    return NULL;
}

static struct volume *vhd_open(struct hostfile *file, bool for_repair, struct err *e) {
    uint8_t footer[VHD_FOOTER];
    uint64_t size;
    uint32_t type;

    if (read_footer(file, footer, &size, e) == 0) {
        type = be32_get(footer + AT_TYPE);
        if (type == DYNAMIC || type == DIFFERENCING)
            return open_blocks(file, footer, size, for_repair, e);
        if (type == FIXED)
            return vhd_fixed_open(file, be64_get(footer + AT_SIZE), size, e);
        err_set(e, 0, "vhd images of type %u are not supported", type);
    }
    hostfile_close(file);
    return NULL;
}

/* --- making --- */

static int make_footer(uint8_t *f, uint64_t size, uint32_t type, struct err *e) {
    memcpy(f, "conectix", 8);
    be32_put(f + AT_FEATURES, 2);
    be32_put(f + AT_VERSION, 0x00010000);
    be64_put(f + AT_DATA, type == FIXED ? ~0ull : VHD_FOOTER);
    be32_put(f + AT_TIME, (uint32_t)(time(NULL) - EPOCH));
    memcpy(f + AT_CREATOR, "rngf", 4);
    be32_put(f + AT_CREATOR_VERSION, 0x00010000);
    memcpy(f + AT_HOST, "Wi2k", 4);
    be64_put(f + AT_ORIGINAL_SIZE, size);
    be64_put(f + AT_SIZE, size);
    be32_put(f + AT_GEOMETRY, VHD_GEOMETRY);
    be32_put(f + AT_TYPE, type);
    if (getrandom(f + AT_UUID, 16, 0) != 16)
        return err_set(e, errno, "random numbers");
    return 0;
}

static void make_header(uint8_t *h, uint64_t count) {
    memcpy(h, "cxsparse", 8);
    be64_put(h + AT_NEXT, ~0ull);
    be64_put(h + AT_TABLE, TABLE_AT);
    be32_put(h + AT_HEADER_VERSION, 0x00010000);
    be32_put(h + AT_COUNT, (uint32_t)count);
    be32_put(h + AT_BLOCK, BLOCK_DEFAULT);
}

static uint64_t blocks_for(uint64_t size) {
    return size / BLOCK_DEFAULT + (size % BLOCK_DEFAULT != 0);
}

static int write_dynamic(struct hostfile *file, struct vhd *d, uint64_t size) {
    uint64_t count = blocks_for(size), end = align_up(TABLE_AT + count * 4, ALIGN);
    cleanup_free uint8_t *table = xcalloc(1, end - TABLE_AT);
    int r;

    make_header(d->header, count);
    seal(d);
    memset(table, 0xff, end - TABLE_AT);
    r = hostfile_write(file, TABLE_AT, table, end - TABLE_AT);
    if (r == 0)
        r = hostfile_write(file, VHD_FOOTER, d->header, HEADER);
    if (r == 0)
        r = hostfile_write(file, 0, d->footer, VHD_FOOTER);
    return r == 0 ? hostfile_write(file, end, d->footer, VHD_FOOTER) : r;
}

static int vhd_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    bool fixed = c->subformat && strcmp(c->subformat, "fixed") == 0;
    struct vhd d = {0};
    int r;

    if (volume_create_plain(file, c, &volume_vhd, e) < 0)
        return -1;
    if (c->size > SIZE_MAX_VHD)
        return err_set(e, 0, "the size is too large: a vhd image has 2040G at most");
    if (make_footer(d.footer, c->size, fixed ? FIXED : DYNAMIC, e) < 0)
        return -1;
    seal(&d);
    if (fixed)
        r = hostfile_write(file, c->size, d.footer, VHD_FOOTER);
    else
        r = write_dynamic(file, &d, c->size);
    if (r == 0)
        r = hostfile_sync(file);
    return r < 0 ? err_set(e, -r, "write") : 0;
}

static int vhd_measure(const struct volume_create *c, uint64_t data, uint64_t *required,
                       uint64_t *full, struct err *e) {
    uint64_t count = blocks_for(c->size), taken = blocks_for(data);
    uint64_t one = BLOCK_DEFAULT + SECTOR;

    (void)e;
    *required = *full = align_up(TABLE_AT + count * 4, ALIGN) + VHD_FOOTER;
    *required += taken * one;
    *full += count * one;
    return 0;
}

static const char *const suffixes[] = {"vhd", "vpc", NULL};
static const char *const subformats[] = {"dynamic", "fixed", NULL};

const struct volume_format volume_vhd = {
    .name = "vhd",
    .suffixes = suffixes,
    .subformats = subformats,
    .probe = vhd_probe,
    .probe_end = vhd_probe,
    .open = vhd_open,
    .create = vhd_create,
    .measure = vhd_measure,
};

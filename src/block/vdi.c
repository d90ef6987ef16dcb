/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VDI, VirtualBox's format, version 1.1: a header, a table of 32-bit block numbers, blocks. Left
 * out: differencing and undo images, blocks with extra data (refused by name).
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"
#include "block/blocks.h"
#include "block/bytes_le.h"

#define HEADER 512u
#define SIGNATURE 0xbeda107fu
#define VERSION 0x00010001u
#define BLOCK_DEFAULT (1u << 20)
#define ALIGN (1u << 20) /* of the blocks, which leaves room for the table of a larger disk */
#define HEAD_PAGE 4096u

enum { FREE = 0xffffffffu, ZEROES = 0xfffffffeu };
enum { DYNAMIC = 1, FIXED = 2 };

enum { /* offsets in the header */
       AT_SIGNATURE = 0x40,
       AT_VERSION = 0x44,
       AT_HEADER_SIZE = 0x48,
       AT_TYPE = 0x4c,
       AT_MAP = 0x154,
       AT_DATA = 0x158,
       AT_SECTOR = 0x168,
       AT_SIZE = 0x170,
       AT_BLOCK = 0x178,
       AT_BLOCK_EXTRA = 0x17c,
       AT_COUNT = 0x180,
       AT_USED = 0x184,
       AT_UUID = 0x188,
       AT_UUID_SNAPSHOT = 0x198,
};

struct vdi {
    struct blocks b;
    uint8_t header[HEADER];
    uint64_t map, data;
};

static struct vdi *of_blocks(struct blocks *b) {
    return container_of(b, struct vdi, b);
}

static bool vdi_probe(const uint8_t *head, size_t len) {
    return len >= HEADER && le32_get(head + AT_SIGNATURE) == SIGNATURE;
}

static uint32_t to_disk(uint32_t entry) {
    if (entry < BLOCKS_FIRST)
        return entry == BLOCKS_ZERO ? ZEROES : FREE;
    return entry - BLOCKS_FIRST;
}

static void entries_put(const struct blocks *b, uint64_t first, uint64_t count, uint8_t *to) {
    for (uint64_t i = 0; i < count; i++)
        le32_put(to + i * 4, to_disk(b->map[first + i]));
}

/* The start of the table is written with the header, see vdi_finish. */
static int vdi_store(struct blocks *b, uint64_t first, uint64_t count) {
    struct vdi *d = of_blocks(b);
    uint8_t page[BLOCKS_PAGE * 4];

    entries_put(b, first, count, page);
    if (d->map + (first + count) * 4 <= HEAD_PAGE)
        return 0;
    return hostfile_write(b->v.file, d->map + first * 4, page, count * 4);
}

/*
 * The number of blocks must be that of the table: in one page of the file, both are written by one
 * call, which a kill does not divide. Of larger tables, it comes right behind.
 */
static int vdi_finish(struct blocks *b) {
    struct vdi *d = of_blocks(b);
    uint8_t page[HEAD_PAGE] = {0};
    uint64_t bytes = d->map < HEAD_PAGE ? HEAD_PAGE - d->map : 0;
    uint64_t pages = bytes / (BLOCKS_PAGE * 4) * BLOCKS_PAGE, count = MIN(pages, b->count);

    le32_put(d->header + AT_USED, (uint32_t)b->used);
    memcpy(page, d->header, HEADER);
    if (d->map != HEADER || !count)
        return hostfile_write(b->v.file, 0, page, HEADER);
    entries_put(b, 0, count, page + HEADER);
    return hostfile_write(b->v.file, 0, page, HEADER + count * 4);
}

static const struct blocks_ops block_ops = {.store = vdi_store, .finish = vdi_finish};

static int vdi_resize(struct volume *v, uint64_t size, struct err *e) {
    struct blocks *b = blocks_of(v);
    struct vdi *d = of_blocks(b);
    uint64_t count = size / v->cluster + (size % v->cluster != 0), old = b->count;

    if (size < v->size)
        return err_set(e, 0, "a vdi image cannot be made smaller");
    if (le32_get(d->header + AT_TYPE) != DYNAMIC)
        return err_set(e, 0, "the image is of fixed size; convert it to another");
    if (count > BLOCKS_MAX || d->map + count * 4 > d->data)
        return err_set(e, 0,
                       "the block table has no room for %" PRIu64
                       " bytes; convert it to an image of that size",
                       size);
    blocks_recount(b, count);
    memset(b->dirty, 1, (count + BLOCKS_PAGE - 1) / BLOCKS_PAGE * sizeof(*b->dirty));
    b->changed = count != old || size != v->size;
    v->size = size;
    le64_put(d->header + AT_SIZE, size);
    le32_put(d->header + AT_COUNT, (uint32_t)count);
    int r = blocks_flush(v);
    return r < 0 ? err_set(e, -r, "resize") : 0;
}

static void vdi_describe(const struct volume *v, struct json_t *o) {
    const struct vdi *d = (const struct vdi *)(const void *)v;

    json_object_set_new(o, "vdi",
                        json_pack("{s:s}", "subformat",
                                  le32_get(d->header + AT_TYPE) == FIXED ? "fixed" : "dynamic"));
}

static const struct volume_ops ops = {
    .readv = blocks_readv,
    .writev = blocks_writev,
    .flush = blocks_flush,
    .zero = blocks_zero,
    .discard = blocks_discard,
    .extent = blocks_extent,
    .resize = vdi_resize,
    .check = blocks_check,
    .describe = vdi_describe,
    .close = blocks_close,
};

/* --- opening --- */

static int judge(struct vdi *d, struct err *e) {
    const uint8_t *h = d->header;
    uint32_t type = le32_get(h + AT_TYPE), block = le32_get(h + AT_BLOCK);
    uint64_t count;

    if (le32_get(h + AT_SIGNATURE) != SIGNATURE)
        return err_set(e, 0, "not a vdi image");
    if (le32_get(h + AT_VERSION) != VERSION)
        return err_set(e, 0, "vdi version %#x", le32_get(h + AT_VERSION));
    if (type != DYNAMIC && type != FIXED)
        return err_set(e, 0, "differencing and undo images are not supported (type %u)", type);
    if (le32_get(h + AT_SECTOR) != 512)
        return err_set(e, 0, "sectors of %u bytes", le32_get(h + AT_SECTOR));
    if (block < 4096 || block > 256u << 20 || block & (block - 1) || le32_get(h + AT_BLOCK_EXTRA))
        return err_set(e, 0, "blocks of %u bytes and %u more", block, le32_get(h + AT_BLOCK_EXTRA));
    d->b.v.size = le64_get(h + AT_SIZE);
    d->b.v.cluster = block;
    d->map = le32_get(h + AT_MAP);
    d->data = le32_get(h + AT_DATA);
    count = le32_get(h + AT_COUNT);
    /* A block that the size does not cover would be written over. */
    if (!d->b.v.size || count != d->b.v.size / block + (d->b.v.size % block != 0))
        return err_set(e, 0, "a size of %" PRIu64 " bytes, of %" PRIu64 " blocks", d->b.v.size,
                       count);
    if (d->map < HEADER || d->map % 512 || d->data % 512 || d->map + count * 4 > d->data)
        return err_set(e, 0, "a block table at %#" PRIx64 ", blocks at %#" PRIx64, d->map, d->data);
    return 0;
}

static int load_map(struct vdi *d) {
    struct blocks *b = &d->b;
    uint8_t page[BLOCKS_PAGE * 4];
    int r = 0;

    for (uint64_t i = 0; i < b->count && r == 0; i += BLOCKS_PAGE) {
        uint64_t n = MIN((uint64_t)BLOCKS_PAGE, b->count - i);

        r = hostfile_read(b->v.file, d->map + i * 4, page, n * 4);
        for (uint64_t k = 0; k < n && r == 0; k++) {
            uint32_t entry = le32_get(page + k * 4);

            b->map[i + k] = entry == FREE     ? BLOCKS_ABSENT
                            : entry == ZEROES ? BLOCKS_ZERO
                                              : entry + BLOCKS_FIRST;
        }
    }
    return r;
}

static int load(struct vdi *d, struct hostfile *file, bool for_repair, struct err *e) {
    struct blocks *b = &d->b;
    uint64_t size;
    int r = hostfile_size(file, &size);

    if (r == 0)
        r = hostfile_read(file, 0, d->header, HEADER);
    if (r < 0)
        return err_set(e, -r, "read");
    if (judge(d, e) < 0)
        return -1;
    b->first = b->base = d->data;
    b->unit = b->v.cluster;
    b->v.size = align_up(b->v.size, 512);
    if (d->data > size)
        return err_set(e, 0, "the file ends within the block table");
    if (blocks_init(b, file, &volume_vdi, e) < 0)
        return -1;
    r = load_map(d);
    if (r < 0)
        return err_set(e, -r, "block table");
    if (blocks_judge(b, for_repair, e) < 0)
        return -1;
    b->mend = b->used != le32_get(d->header + AT_USED);
    b->changed = b->mend && !for_repair;
    return 0;
}

static struct volume *vdi_open(struct hostfile *file, bool for_repair, struct err *e) {
    struct vdi *d = xcalloc(1, sizeof(*d));

    d->b.v.ops = &ops;
    d->b.v.file = file;
    d->b.ops = &block_ops;
    pthread_mutex_init(&d->b.lock, NULL);
    if (load(d, file, for_repair, e) == 0)
        return &d->b.v;
    d->b.v.read_only = true;
    volume_close(&d->b.v);
    return NULL;
}

/* --- making --- */

static void make_header(uint8_t *h, uint64_t size, uint64_t count, uint64_t data, bool fixed) {
    static const char text[] = "<<< Ringfence VM Disk Image >>>\n";

    memcpy(h, text, sizeof(text));
    le32_put(h + AT_SIGNATURE, SIGNATURE);
    le32_put(h + AT_VERSION, VERSION);
    le32_put(h + AT_HEADER_SIZE, 0x180);
    le32_put(h + AT_TYPE, fixed ? FIXED : DYNAMIC);
    le32_put(h + AT_MAP, HEADER);
    le32_put(h + AT_DATA, (uint32_t)data);
    le32_put(h + AT_SECTOR, 512);
    le64_put(h + AT_SIZE, size);
    le32_put(h + AT_BLOCK, BLOCK_DEFAULT);
    le32_put(h + AT_COUNT, (uint32_t)count);
    le32_put(h + AT_USED, fixed ? (uint32_t)count : 0);
}

static int write_map(struct hostfile *file, uint64_t count, bool fixed) {
    cleanup_free uint8_t *map = xcalloc(count, 4);

    for (uint64_t i = 0; i < count; i++)
        le32_put(map + i * 4, fixed ? (uint32_t)i : FREE);
    return hostfile_write(file, HEADER, map, count * 4);
}

static int vdi_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    uint64_t count = c->size / BLOCK_DEFAULT + (c->size % BLOCK_DEFAULT != 0);
    uint64_t data = align_up(HEADER + count * 4, ALIGN);
    bool fixed = c->subformat && strcmp(c->subformat, "fixed") == 0;
    uint8_t h[HEADER] = {0};
    int r;

    if (volume_create_plain(file, c, &volume_vdi, e) < 0)
        return -1;
    if (count > BLOCKS_MAX)
        return err_set(e, 0, "the size is too large for a vdi image");
    make_header(h, c->size, count, data, fixed);
    if (getrandom(h + AT_UUID, 32, 0) != 32)
        return err_set(e, errno, "random numbers");
    r = hostfile_truncate(file, data + (fixed ? count * BLOCK_DEFAULT : 0));
    if (r == 0)
        r = write_map(file, count, fixed);
    /* The header last: before it, the file is no image. */
    if (r == 0)
        r = hostfile_write(file, 0, h, HEADER);
    if (r == 0)
        r = hostfile_sync(file);
    return r < 0 ? err_set(e, -r, "write") : 0;
}

static int vdi_measure(const struct volume_create *c, uint64_t data, uint64_t *required,
                       uint64_t *full, struct err *e) {
    uint64_t count = c->size / BLOCK_DEFAULT + (c->size % BLOCK_DEFAULT != 0);

    (void)e;
    *required = *full = align_up(HEADER + count * 4, ALIGN);
    *required += align_up(data, BLOCK_DEFAULT);
    *full += count * BLOCK_DEFAULT;
    return 0;
}

static const char *const suffixes[] = {"vdi", NULL};
static const char *const subformats[] = {"dynamic", "fixed", NULL};

const struct volume_format volume_vdi = {
    .name = "vdi",
    .suffixes = suffixes,
    .subformats = subformats,
    .probe = vdi_probe,
    .open = vdi_open,
    .create = vdi_create,
    .measure = vdi_measure,
};

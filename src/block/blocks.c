/* SPDX-License-Identifier: Apache-2.0 */
/* Reading, writing and checking disks that are arrays of blocks. */
#include "block/blocks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"

static uint64_t pages(const struct blocks *b) {
    return (b->count + BLOCKS_PAGE - 1) / BLOCKS_PAGE;
}

static uint64_t whole(const struct blocks *b) {
    return align_up(b->head + (uint64_t)b->v.cluster, b->unit);
}

uint64_t blocks_start(const struct blocks *b, uint32_t entry) {
    return b->base + (uint64_t)(entry - BLOCKS_FIRST) * b->unit;
}

/* --- opening --- */

void blocks_recount(struct blocks *b, uint64_t count) {
    uint32_t *map = xcalloc(count, sizeof(*map));

    if (b->map)
        memcpy(map, b->map, MIN(count, b->count) * sizeof(*map));
    free(b->map);
    free(b->dirty);
    b->map = map;
    b->count = count;
    b->dirty = xcalloc(pages(b), sizeof(*b->dirty));
}

int blocks_init(struct blocks *b, struct hostfile *file, const struct volume_format *f,
                struct err *e) {
    uint64_t count = b->v.size / b->v.cluster + (b->v.size % b->v.cluster != 0);

    if (file->is_device)
        return err_set(e, 0, "a %s image is a file, no device", f->name);
    if (!b->v.size || b->v.size % 512 || count > BLOCKS_MAX)
        return err_set(e, 0, "a size of %" PRIu64 " bytes in blocks of %u", b->v.size,
                       b->v.cluster);
    b->v.format = f;
    b->v.read_only = file->read_only;
    blocks_recount(b, count);
    return 0;
}

void blocks_free(struct blocks *b) {
    if (b->ops && b->ops->unload)
        b->ops->unload(b);
    pthread_mutex_destroy(&b->lock);
    free(b->map);
    free(b->dirty);
    free(b);
}

/* Which blocks start where: by the file's stretches of the size of a block, as there is place for
 * one start in each. */
struct places {
    uint64_t *starts;
    uint64_t count, whole;
};

static bool overlaps(const struct places *p, uint64_t start) {
    uint64_t at = start / p->whole;

    return p->starts[at] || (at && p->starts[at - 1] && p->starts[at - 1] + p->whole > start) ||
           (p->starts[at + 1] && p->starts[at + 1] < start + p->whole);
}

static const char *judge_one(struct blocks *b, const struct places *p, uint64_t size, uint32_t i) {
    uint64_t start = blocks_start(b, b->map[i]);

    if (start < b->first)
        return "lies within the tables";
    /* The last block may be as short as the disk. */
    if (start > size || start + b->head >= size)
        return "lies behind the end of the file";
    if (overlaps(p, start))
        return "lies on top of another";
    return NULL;
}

int blocks_judge(struct blocks *b, bool for_repair, struct err *e) {
    struct places p = {.whole = whole(b)};
    uint64_t size;
    int r = hostfile_size(b->v.file, &size);

    if (r < 0)
        return err_set(e, -r, "size");
    for (uint64_t i = 0; i < b->count; i++)
        if (b->map[i] >= BLOCKS_FIRST && blocks_start(b, b->map[i]) < size)
            p.count = MAX(p.count, blocks_start(b, b->map[i]) / p.whole + 2);
    if (p.count > 2ull * BLOCKS_MAX)
        return err_set(e, 0, "a file of %" PRIu64 " bytes for %" PRIu64 " blocks", size, b->count);
    cleanup_free uint64_t *starts = xcalloc(p.count + 1, sizeof(*starts));
    p.starts = starts;
    b->end = b->first;
    for (uint32_t i = 0; i < b->count; i++) {
        const char *why = b->map[i] < BLOCKS_FIRST ? NULL : judge_one(b, &p, size, i);

        if (why && !for_repair)
            return err_set(e, 0, "block %u %s", i, why);
        b->broken += why != NULL;
        if (why || b->map[i] < BLOCKS_FIRST)
            continue;
        starts[blocks_start(b, b->map[i]) / p.whole] = blocks_start(b, b->map[i]);
        b->end = MAX(b->end, blocks_start(b, b->map[i]) + p.whole);
        b->used++;
    }
    return 0;
}

/* --- reading --- */

/* What `off` lies in, with the lock held. */
static int look(struct blocks *b, uint64_t off, uint64_t len, struct volume_extent *x) {
    uint64_t i = off / b->v.cluster;
    uint32_t at = (uint32_t)(off % b->v.cluster);
    bool there = b->map[i] >= BLOCKS_FIRST;
    int r = 0;

    *x = (struct volume_extent){.len = MIN(len, (uint64_t)b->v.cluster - at)};
    if (there) {
        x->host = blocks_start(b, b->map[i]) + b->head + at;
        if (b->ops->look)
            r = b->ops->look(b, i, at, &x->len, &there);
    }
    x->has_host = there;
    x->kind = there ? VOLUME_DATA : b->map[i] == BLOCKS_ZERO ? VOLUME_ZERO : VOLUME_ABSENT;
    return r;
}

int blocks_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    struct blocks *b = blocks_of(v);
    struct volume_extent next;
    int r;

    pthread_mutex_lock(&b->lock);
    r = look(b, off, len, x);
    /* As far as it goes on in the same way. */
    while (r == 0 && x->len < len && look(b, off + x->len, len - x->len, &next) == 0 &&
           next.kind == x->kind && (!x->has_host || next.host == x->host + x->len))
        x->len += next.len;
    pthread_mutex_unlock(&b->lock);
    return r;
}

int blocks_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    struct volume_extent x = {0};
    int r = 0;

    for (uint64_t done = 0; done < len && r == 0; done += x.len) {
        struct span to = span_from(s, done);

        r = blocks_extent(v, off + done, len - done, &x);
        if (r < 0)
            return r;
        if (x.kind == VOLUME_DATA)
            r = hostfile_readv(v->file, x.host, to, x.len);
        else if (x.kind == VOLUME_ABSENT)
            r = volume_readv_padded(v->backing, off + done, to, x.len);
        else
            iov_fill(to.iov, to.count, to.skip, 0, x.len);
    }
    return r;
}

/* --- writing --- */

int blocks_extend(struct blocks *b, uint64_t off, uint64_t len) {
    uint64_t size;
    int r = hostfile_size(b->v.file, &size);

    if (r == 0 && off < size)
        r = hostfile_zero(b->v.file, off, MIN(len, size - off), true);
    if (r == 0 && size < off + len)
        r = hostfile_truncate(b->v.file, off + len);
    return r;
}

static int allocate(struct blocks *b, uint64_t block, uint32_t at, struct span s, uint64_t len) {
    uint64_t start = b->base + align_up(b->end - b->base, b->unit), entry;
    int r = b->ops->prepare ? b->ops->prepare(b, block, start) : 0;

    /* The format's own tables may have taken what was the end. */
    start = b->base + align_up(b->end - b->base, b->unit);
    entry = (start - b->base) / b->unit + BLOCKS_FIRST;
    if (entry >= UINT32_MAX)
        return -EFBIG;
    if (r == 0)
        r = blocks_extend(b, start + b->head, b->v.cluster);
    if (r == 0)
        r = hostfile_writev(b->v.file, start + b->head + at, s, len);
    if (r < 0)
        return r;
    b->map[block] = (uint32_t)entry;
    b->dirty[block / BLOCKS_PAGE] = b->changed = true;
    b->end = start + whole(b);
    b->used++;
    return 0;
}

/* Within one block. */
static int write_block(struct blocks *b, uint64_t block, uint32_t at, struct span s, uint64_t len) {
    uint64_t host = 0;
    int r = 0;

    pthread_mutex_lock(&b->lock);
    if (b->map[block] < BLOCKS_FIRST) {
        r = allocate(b, block, at, s, len);
    } else {
        host = blocks_start(b, b->map[block]) + b->head + at;
        r = b->ops->own ? b->ops->own(b, block) : 0;
    }
    pthread_mutex_unlock(&b->lock);
    return r == 0 && host ? hostfile_writev(b->v.file, host, s, len) : r;
}

int blocks_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    struct blocks *b = blocks_of(v);
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        uint32_t at = (uint32_t)((off + done) % v->cluster);

        n = MIN(len - done, (uint64_t)v->cluster - at);
        r = write_block(b, (off + done) / v->cluster, at, span_from(s, done), n);
    }
    return r;
}

static int store_pages(struct blocks *b) {
    int r = hostfile_sync(b->v.file);

    for (uint64_t p = 0; p < pages(b) && r == 0; p++) {
        uint64_t first = p * BLOCKS_PAGE;

        if (b->dirty[p])
            r = b->ops->store(b, first, MIN((uint64_t)BLOCKS_PAGE, b->count - first));
    }
    if (r == 0 && b->ops->finish)
        r = b->ops->finish(b);
    return r;
}

int blocks_flush(struct volume *v) {
    struct blocks *b = blocks_of(v);
    int r = 0;

    pthread_mutex_lock(&b->lock);
    if (b->changed)
        r = store_pages(b);
    if (r == 0)
        r = hostfile_sync(v->file);
    if (r == 0 && b->changed) {
        memset(b->dirty, 0, pages(b) * sizeof(*b->dirty));
        b->changed = b->mend = false;
    }
    pthread_mutex_unlock(&b->lock);
    return r;
}

/* Blocks keep their places in the file, which are given back to the host. */
int blocks_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    struct volume_extent x = {0};
    int r = 0;

    for (uint64_t done = 0; done < len && r == 0; done += x.len) {
        r = blocks_extent(v, off + done, len - done, &x);
        if (r == 0 && x.kind == VOLUME_DATA)
            r = hostfile_zero(v->file, x.host, x.len, unmap);
    }
    return r;
}

int blocks_discard(struct volume *v, uint64_t off, uint64_t len) {
    return blocks_zero(v, off, len, true);
}

/* --- checking, closing --- */

static void say(struct volume_check *c, const char *line) {
    if (c->say)
        c->say(c->arg, line);
}

static int repair(struct blocks *b, struct volume_check *c) {
    int r = 0;

    if (c->leaks) {
        r = hostfile_truncate(b->v.file, b->end);
        c->leaks_fixed = r == 0 ? c->leaks : 0;
        b->changed = true;
    }
    if (b->mend) {
        c->corruptions_fixed = 1;
        b->changed = true;
    }
    if (r == 0)
        r = blocks_flush(&b->v);
    return r;
}

int blocks_check(struct volume *v, enum volume_repair how, struct volume_check *c, struct err *e) {
    struct blocks *b = blocks_of(v);
    uint64_t size = 0;
    int r = hostfile_size(v->file, &size);

    c->corruptions = b->broken + b->mend;
    if (size > b->end + b->trailer + b->unit)
        c->leaks = MAX((size - b->end - b->trailer) / v->cluster, 1ull);
    c->allocated = b->used;
    c->total = b->count;
    c->image_end = b->end + b->trailer;
    if (b->broken)
        say(c, "blocks lie within tables, behind the end of the file, or on top of each other");
    if (b->mend)
        say(c, "the number of blocks in use is wrong");
    /* Where one block is on top of another, nothing may be cut off. */
    if (r == 0 && how != VOLUME_REPAIR_NONE && !b->broken)
        r = repair(b, c);
    return r < 0 ? err_set(e, -r, "check") : 0;
}

int blocks_close(struct volume *v) {
    struct blocks *b = blocks_of(v);
    int r = b->changed && !v->read_only ? blocks_flush(v) : 0;

    blocks_free(b);
    return r;
}

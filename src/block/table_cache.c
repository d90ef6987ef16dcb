/* SPDX-License-Identifier: Apache-2.0 */
/* A hash of chains by offset, and a list by last use. Changed tables are on a list of their own. */
#include "block/table_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "block/hostfile.h"

#define SECTOR 512u /* written at least */

struct entry {
    struct entry *chain;         /* same hash */
    struct entry *newer, *older; /* by last use */
    uint64_t off;
    uint32_t from, to; /* changed; none when from >= to */
    uint8_t *table;
};

struct table_cache {
    const struct hostfile *f;
    uint32_t bytes;
    unsigned max, count, mask, dirty;
    table_cache_fn *make_room;
    table_check_fn *check;
    void *arg;
    struct entry **hash;
    struct entry ends; /* newer: the oldest; older: the newest */
};

struct table_cache *table_cache_new(const struct hostfile *f, uint32_t table_bytes, unsigned max,
                                    table_cache_fn *make_room, table_check_fn *check, void *arg) {
    struct table_cache *c = xcalloc(1, sizeof(*c));
    unsigned slots = 1;

    while (slots < max)
        slots *= 2;
    *c = (struct table_cache){
        .f = f,
        .bytes = table_bytes,
        .max = max,
        .mask = slots - 1,
        .make_room = make_room,
        .check = check,
        .arg = arg,
        .hash = xcalloc(slots, sizeof(struct entry *)),
    };
    c->ends.newer = c->ends.older = &c->ends;
    return c;
}

static struct entry **slot_of(struct table_cache *c, uint64_t off) {
    uint64_t n = off / c->bytes;

    return &c->hash[(n ^ n >> 17) & c->mask];
}

static void unlink_use(struct entry *n) {
    n->newer->older = n->older;
    n->older->newer = n->newer;
}

static void link_newest(struct table_cache *c, struct entry *n) {
    n->newer = &c->ends;
    n->older = c->ends.older;
    n->older->newer = n;
    c->ends.older = n;
}

static struct entry *find(struct table_cache *c, uint64_t off) {
    struct entry *n = *slot_of(c, off);

    while (n && n->off != off)
        n = n->chain;
    return n;
}

static void set_clean(struct table_cache *c, struct entry *n) {
    if (n->from < n->to)
        c->dirty--;
    n->from = c->bytes;
    n->to = 0;
}

static void drop(struct table_cache *c, struct entry *n) {
    struct entry **at = slot_of(c, n->off);

    while (*at != n)
        at = &(*at)->chain;
    *at = n->chain;
    set_clean(c, n);
    unlink_use(n);
    free(n->table);
    free(n);
    c->count--;
}

void table_cache_empty(struct table_cache *c) {
    while (c->count)
        drop(c, c->ends.newer);
}

void table_cache_free(struct table_cache *c) {
    if (!c)
        return;
    table_cache_empty(c);
    free(c->hash);
    free(c);
}

/* The oldest goes. */
static int make_room(struct table_cache *c) {
    if (c->count < c->max)
        return 0;
    if (c->ends.newer->from < c->ends.newer->to) {
        int r = c->make_room(c->arg);

        if (r < 0)
            return r;
    }
    drop(c, c->ends.newer);
    return 0;
}

static struct entry *add(struct table_cache *c, uint64_t off, uint8_t *table) {
    struct entry *n = xcalloc(1, sizeof(*n)), **at = slot_of(c, off);

    *n = (struct entry){.chain = *at, .off = off, .from = c->bytes, .table = table};
    *at = n;
    link_newest(c, n);
    c->count++;
    return n;
}

int table_cache_get(struct table_cache *c, uint64_t off, uint8_t **table) {
    struct entry *n = find(c, off);
    uint8_t *fresh;
    int r;

    if (n) {
        unlink_use(n);
        link_newest(c, n);
        *table = n->table;
        return 0;
    }
    r = make_room(c);
    if (r < 0)
        return r;
    fresh = xcalloc(1, c->bytes);
    r = hostfile_read(c->f, off, fresh, c->bytes);
    if (r == 0 && c->check)
        r = c->check(c->arg, off, fresh);
    if (r < 0) {
        free(fresh);
        return r;
    }
    *table = add(c, off, fresh)->table;
    return 0;
}

int table_cache_make(struct table_cache *c, uint64_t off, uint8_t **table) {
    int r;

    table_cache_forget(c, off);
    r = make_room(c);
    if (r < 0)
        return r;
    *table = add(c, off, xcalloc(1, c->bytes))->table;
    table_cache_changed(c, off, 0, c->bytes);
    return 0;
}

void table_cache_changed(struct table_cache *c, uint64_t off, uint32_t at, uint32_t len) {
    struct entry *n = find(c, off);

    if (n->from >= n->to)
        c->dirty++;
    n->from = MIN(n->from, at);
    n->to = MAX(n->to, at + len);
}

bool table_cache_dirty(const struct table_cache *c) {
    return c->dirty != 0;
}

int table_cache_write(struct table_cache *c) {
    for (struct entry *n = c->ends.newer; n != &c->ends && c->dirty; n = n->newer) {
        uint32_t from = (uint32_t)align_down(n->from, SECTOR);
        uint32_t to = (uint32_t)align_up(n->to, SECTOR);
        int r;

        if (n->from >= n->to)
            continue;
        r = hostfile_write(c->f, n->off + from, n->table + from, to - from);
        if (r < 0)
            return r;
        set_clean(c, n);
    }
    return 0;
}

void table_cache_forget(struct table_cache *c, uint64_t off) {
    struct entry *n = find(c, off);

    if (n)
        drop(c, n);
}

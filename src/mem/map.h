/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of src/mem share: the immutable map and the private part of struct mem.
 * A map is read between epoch_enter and epoch_leave, and replaced under map_lock.
 */
#ifndef RINGFENCE_MEM_MAP_H
#define RINGFENCE_MEM_MAP_H

#include <pthread.h>

#include "base/epoch.h"
#include "mem/mem.h"

struct region {
    struct epoch_item retired;
    uint64_t start, end; /* addresses, or ports; end is exclusive */
    enum mem_kind kind;
    bool is_port;
    uint8_t *host;
    const char *name;
    const struct io_ops *ops;
    void *dev;
};

struct mem_map {
    struct epoch_item retired;
    uint32_t count;
    struct span {
        uint64_t start, end;
        struct region *region;
    } spans[]; /* sorted, disjoint */
};

struct mem_priv {
    pthread_mutex_t io_lock;
    pthread_mutex_t map_lock; /* writers of either map, and rom_next */
    _Atomic(struct mem_map *) ports;
    _Atomic uint64_t map_changes; /* bumped after a map was replaced */
    uint64_t rom_next;
    pthread_mutex_t flags_lock; /* who sets page flags; clearing needs no lock */
    _Atomic uint64_t *dirty;    /* bit per backing page */
    bool logging;
    struct code_page *code; /* per backing page */
};

/* What is known of the code in a page with MEM_PAGE_CODE. */
struct code_page {
    _Atomic uint64_t lines;    /* hold code that an engine has decoded */
    _Atomic uint16_t missed;   /* writes that hit none of them */
    _Atomic uint16_t patience; /* how many of those there may be */
};

struct map_hit {
    const struct region *region; /* NULL: a hole */
    uint64_t bytes;              /* to the end of the region or hole */
};

static inline void map_find(const struct mem_map *map, uint64_t addr, struct map_hit *hit) {
    uint32_t at = 0;

    for (uint32_t n = map->count; n;) {
        uint32_t half = n / 2;
        bool right = map->spans[at + half].start <= addr;

        at += right ? half + 1 : 0;
        n = right ? n - half - 1 : half;
    }
    /* `at` is now the first span that starts beyond addr. */
    if (at && addr < map->spans[at - 1].end) {
        hit->region = map->spans[at - 1].region;
        hit->bytes = map->spans[at - 1].end - addr;
        return;
    }
    hit->region = NULL;
    hit->bytes = (at < map->count ? map->spans[at].start : 0) - addr;
    if (!hit->bytes)
        hit->bytes = UINT64_MAX; /* nothing at all, seen from 0 */
}

struct mem_map *map_new_empty(void);
/* For mem_free, when nobody reads any more: frees the map and its regions. */
void map_free(struct mem_map *map);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Regions and the maps that show them: sorted arrays, copied for each change, retired by epochs. */
#include "mem/map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define PORTS 0x10000u

static struct mem_map *map_alloc(uint32_t count) {
    struct mem_map *map = xcalloc(1, sizeof(*map) + count * sizeof(map->spans[0]));

    map->count = count;
    return map;
}

struct mem_map *map_new_empty(void) {
    return map_alloc(0);
}

void map_free(struct mem_map *map) {
    for (uint32_t i = 0; i < map->count; i++)
        free(map->spans[i].region);
    free(map);
}

static _Atomic(struct mem_map *) *map_of(struct mem *m, const struct region *r) {
    return r->is_port ? &m->priv->ports : &m->map;
}

static void replace(struct mem *m, _Atomic(struct mem_map *) *slot, struct mem_map *map) {
    struct mem_map *old = atomic_load(slot);

    atomic_store(slot, map);
    atomic_fetch_add(&m->priv->map_changes, 1);
    epoch_retire(&old->retired);
}

static const char *kind_name(const struct region *r) {
    return r->is_port ? "ports" : "memory";
}

/* With map_lock held: the slot for `r` among the spans, or -1 with the error set. */
static int place(const struct mem_map *map, const struct region *r, uint32_t *at, struct err *e) {
    uint32_t i = 0;

    while (i < map->count && map->spans[i].end <= r->start)
        i++;
    *at = i;
    if (i == map->count || map->spans[i].start >= r->end)
        return 0;

    const struct region *other = map->spans[i].region;
    return err_set(
        e, EEXIST, "%s %s at 0x%" PRIx64 "-0x%" PRIx64 " overlaps %s at 0x%" PRIx64 "-0x%" PRIx64,
        kind_name(r), r->name, r->start, r->end - 1, other->name, other->start, other->end - 1);
}

static int add(struct mem *m, struct region *r, struct err *e) {
    _Atomic(struct mem_map *) *slot = map_of(m, r);
    uint32_t at;

    pthread_mutex_lock(&m->priv->map_lock);
    const struct mem_map *old = atomic_load(slot);
    int ret = place(old, r, &at, e);
    if (ret == 0) {
        struct mem_map *map = map_alloc(old->count + 1);

        memcpy(map->spans, old->spans, at * sizeof(map->spans[0]));
        map->spans[at] = (struct span){r->start, r->end, r};
        memcpy(map->spans + at + 1, old->spans + at, (old->count - at) * sizeof(map->spans[0]));
        replace(m, slot, map);
    }
    pthread_mutex_unlock(&m->priv->map_lock);
    return ret;
}

static struct region *add_copy(struct mem *m, const struct region *r, struct err *e) {
    struct region *copy = xcalloc(1, sizeof(*copy));

    *copy = *r;
    if (add(m, copy, e) < 0) {
        free(copy);
        return NULL;
    }
    return copy;
}

static bool aligned(uint64_t v) {
    return (v & PAGE_MASK) == 0;
}

static int add_backed(struct mem *m, struct region *r, uint64_t backing, uint64_t size,
                      struct err *e) {
    if (!size || !aligned(size) || !aligned(backing) || !aligned(r->start))
        return err_set(e, EINVAL, "memory %s at 0x%" PRIx64 ": not whole pages", r->name, r->start);
    if (size > UINT64_MAX - r->start || !range_within(backing, size, m->ram_bytes))
        return err_set(e, EINVAL, "memory %s at 0x%" PRIx64 ": 0x%" PRIx64 " bytes do not fit",
                       r->name, r->start, size);
    r->end = r->start + size;
    r->host = m->ram + backing;
    return add_copy(m, r, e) ? 0 : -EEXIST;
}

int mem_add_ram(struct mem *m, gpa_t gpa, uint64_t size, uint64_t backing, struct err *e) {
    struct region r = {.start = gpa.v, .kind = MEM_RAM, .name = "RAM"};

    return add_backed(m, &r, backing, size, e);
}

int mem_add_rom(struct mem *m, gpa_t gpa, uint64_t size, uint64_t backing, struct err *e) {
    struct region r = {.start = gpa.v, .kind = MEM_ROM, .name = "ROM"};

    return add_backed(m, &r, backing, size, e);
}

static bool power_of_two_to_8(unsigned v) {
    return v == 1 || v == 2 || v == 4 || v == 8;
}

static bool ops_valid(const struct io_ops *ops, uint64_t size) {
    unsigned min = ops->min_size ? ops->min_size : 1;
    unsigned max = ops->max_size ? ops->max_size : 4;

    return power_of_two_to_8(min) && power_of_two_to_8(max) && min <= max && size % min == 0;
}

static struct region *add_device(struct mem *m, struct region *r, uint64_t size, uint64_t limit,
                                 struct err *e) {
    if (!size || !range_within(r->start, size, limit)) {
        err_set(e, EINVAL, "%s %s at 0x%" PRIx64 ": a size of 0x%" PRIx64 " does not fit",
                kind_name(r), r->name, r->start, size);
        return NULL;
    }
    if (!ops_valid(r->ops, size)) {
        err_set(e, EINVAL, "%s %s: access sizes %u to %u in 0x%" PRIx64 " bytes", kind_name(r),
                r->name, r->ops->min_size, r->ops->max_size, size);
        return NULL;
    }
    r->end = r->start + size;
    return add_copy(m, r, e);
}

struct region *mem_add_mmio(struct mem *m, gpa_t gpa, uint64_t size, const char *name,
                            const struct io_ops *ops, void *dev, struct err *e) {
    struct region r = {.start = gpa.v, .kind = MEM_MMIO, .name = name, .ops = ops, .dev = dev};

    return add_device(m, &r, size, UINT64_MAX, e);
}

struct region *mem_add_port(struct mem *m, uint16_t port, uint32_t count, const char *name,
                            const struct io_ops *ops, void *dev, struct err *e) {
    struct region r = {
        .start = port, .kind = MEM_MMIO, .is_port = true, .name = name, .ops = ops, .dev = dev};

    return add_device(m, &r, count, PORTS, e);
}

void mem_del_region(struct mem *m, struct region *r) {
    _Atomic(struct mem_map *) *slot = map_of(m, r);

    pthread_mutex_lock(&m->priv->map_lock);
    const struct mem_map *old = atomic_load(slot);
    struct mem_map *map = map_alloc(old->count - 1);
    for (uint32_t i = 0, to = 0; i < old->count; i++)
        if (old->spans[i].region != r)
            map->spans[to++] = old->spans[i];
    replace(m, slot, map);
    epoch_retire(&r->retired);
    pthread_mutex_unlock(&m->priv->map_lock);
}

void mem_lookup(const struct mem *m, gpa_t gpa, struct mem_hit *hit) {
    struct map_hit found;

    uint64_t outer = epoch_enter();
    map_find(atomic_load_explicit(&m->map, memory_order_acquire), gpa.v, &found);
    const struct region *r = found.region;
    hit->bytes = found.bytes;
    hit->kind = r ? r->kind : MEM_NONE;
    hit->host = r && r->host ? r->host + (gpa.v - r->start) : NULL;
    epoch_leave(outer);
}

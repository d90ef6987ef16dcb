/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest accesses to memory and ports: cut at the ends of regions, then into what the device takes.
 * No reader's section is open while a handler runs, so handlers may change the map.
 */
#include <string.h>

#include "mem/map.h"

/* What answers at one address, copied out of the map. */
struct target {
    enum mem_kind kind;
    uint8_t *host;
    uint64_t bytes;
    const struct io_ops *ops;
    void *dev;
    uint64_t off;
};

/* One access to a device: `bytes` of the guest's bytes, at `skip` in a `width`-byte access at
 * `off`. */
struct chunk {
    uint64_t off;
    unsigned width, skip, bytes;
};

static void find(const _Atomic(struct mem_map *) *slot, uint64_t addr, struct target *t) {
    struct map_hit hit;

    uint64_t outer = epoch_enter();
    map_find(atomic_load_explicit(slot, memory_order_acquire), addr, &hit);
    *t = (struct target){.kind = MEM_NONE, .bytes = hit.bytes};
    const struct region *r = hit.region;
    if (r) {
        t->kind = r->kind;
        t->off = addr - r->start;
        t->host = r->host ? r->host + t->off : NULL;
        t->ops = r->ops;
        t->dev = r->dev;
    }
    epoch_leave(outer);
}

/*
 * Finds what answers and takes the I/O lock if that wants it. The map may change while we wait for
 * the lock; who removes a region with the lock held must not see its handler start afterwards.
 */
static bool find_and_lock(struct mem *m, const _Atomic(struct mem_map *) *slot, uint64_t addr,
                          struct target *t) {
    for (;;) {
        uint64_t changes = atomic_load(&m->priv->map_changes);

        find(slot, addr, t);
        if (t->kind != MEM_MMIO || t->ops->unlocked)
            return false;
        mem_io_lock(m);
        if (atomic_load(&m->priv->map_changes) == changes)
            return true;
        mem_io_unlock(m);
    }
}

static uint64_t size_mask(unsigned size) {
    return size == 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

static struct chunk chunk_at(const struct io_ops *ops, uint64_t off, unsigned left) {
    unsigned min = ops->min_size ? ops->min_size : 1;
    unsigned width = MIN(left, ops->max_size ? ops->max_size : 4u);

    while (width & (width - 1))
        width &= width - 1;
    while (off & (width - 1))
        width /= 2;
    width = MAX(width, min);
    unsigned skip = (unsigned)(off & (width - 1));
    return (struct chunk){off - skip, width, skip, MIN(left, width - skip)};
}

static uint64_t device_read(const struct target *t, const struct chunk *c) {
    if (!t->ops->read)
        return UINT64_MAX;
    return (t->ops->read(t->dev, c->off, c->width) & size_mask(c->width)) >> (8 * c->skip);
}

static void device_write(const struct target *t, const struct chunk *c, uint64_t value) {
    if (!t->ops->write)
        return;
    uint64_t mask = size_mask(c->bytes) << (8 * c->skip);
    value = (value << (8 * c->skip)) & mask;
    if (c->bytes != c->width && t->ops->read)
        value |= t->ops->read(t->dev, c->off, c->width) & size_mask(c->width) & ~mask;
    t->ops->write(t->dev, c->off, c->width, value);
}

static bool host_aligned(const uint8_t *host, unsigned bytes) {
    return ((uintptr_t)host & (bytes - 1)) == 0;
}

/* Aligned accesses are single ones, as the guest's other processors expect. */
static uint64_t load(const uint8_t *host, unsigned bytes) {
    const void *p = host;
    uint64_t value = 0;

    if (bytes == 8 && host_aligned(host, 8))
        return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
    if (bytes == 4 && host_aligned(host, 4))
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
    if (bytes == 2 && host_aligned(host, 2))
        return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)__atomic_load_n(host + i, __ATOMIC_RELAXED) << (8 * i);
    return value;
}

static void store(uint8_t *host, unsigned bytes, uint64_t value) {
    void *p = host;

    if (bytes == 8 && host_aligned(host, 8))
        __atomic_store_n((uint64_t *)p, value, __ATOMIC_RELAXED);
    else if (bytes == 4 && host_aligned(host, 4))
        __atomic_store_n((uint32_t *)p, (uint32_t)value, __ATOMIC_RELAXED);
    else if (bytes == 2 && host_aligned(host, 2))
        __atomic_store_n((uint16_t *)p, (uint16_t)value, __ATOMIC_RELAXED);
    else
        for (unsigned i = 0; i < bytes; i++)
            __atomic_store_n(host + i, (uint8_t)(value >> (8 * i)), __ATOMIC_RELAXED);
}

/* Reads up to `left` bytes at addr; says how many in *bytes. */
static uint64_t read_some(struct mem *m, const _Atomic(struct mem_map *) *slot, uint64_t addr,
                          unsigned left, unsigned *bytes) {
    struct target t;
    uint64_t value = UINT64_MAX;

    bool locked = find_and_lock(m, slot, addr, &t);
    *bytes = (unsigned)MIN(left, t.bytes);
    if (t.kind == MEM_MMIO) {
        struct chunk c = chunk_at(t.ops, t.off, *bytes);

        *bytes = c.bytes;
        value = device_read(&t, &c);
    } else if (t.host) {
        value = load(t.host, *bytes);
    }
    if (locked)
        mem_io_unlock(m);
    return value & size_mask(*bytes);
}

static unsigned write_some(struct mem *m, const _Atomic(struct mem_map *) *slot, uint64_t addr,
                           unsigned left, uint64_t value) {
    struct target t;

    bool locked = find_and_lock(m, slot, addr, &t);
    unsigned bytes = (unsigned)MIN(left, t.bytes);
    if (t.kind == MEM_MMIO) {
        struct chunk c = chunk_at(t.ops, t.off, bytes);

        bytes = c.bytes;
        device_write(&t, &c, value);
    } else if (t.kind == MEM_RAM) {
        store(t.host, bytes, value);
        mem_wrote(m, t.host, bytes);
    }
    if (locked)
        mem_io_unlock(m);
    return bytes;
}

uint64_t mem_io_read(struct mem *m, gpa_t gpa, unsigned size) {
    uint64_t value = 0;

    for (unsigned done = 0, bytes; done < size; done += bytes)
        value |= read_some(m, &m->map, gpa.v + done, size - done, &bytes) << (8 * done);
    return value;
}

void mem_io_write(struct mem *m, gpa_t gpa, unsigned size, uint64_t value) {
    for (unsigned done = 0; done < size;)
        done += write_some(m, &m->map, gpa.v + done, size - done, value >> (8 * done));
}

/* Beyond the last port there is nothing: the port map's addresses simply go on. */
uint32_t mem_port_read(struct mem *m, uint16_t port, unsigned size) {
    uint64_t value = 0;

    for (unsigned done = 0, bytes; done < size; done += bytes)
        value |= read_some(m, &m->priv->ports, port + done, size - done, &bytes) << (8 * done);
    return (uint32_t)value;
}

void mem_port_write(struct mem *m, uint16_t port, unsigned size, uint32_t value) {
    for (unsigned done = 0; done < size;)
        done += write_some(m, &m->priv->ports, port + done, size - done, value >> (8 * done));
}

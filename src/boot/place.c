/* SPDX-License-Identifier: Apache-2.0 */
/* A first-fit allocator over the usable ranges of the e820 map. Leaves page 0 (the real-mode
 * vectors) alone. */
#include "boot/place.h"

#include "base/err.h"
#include "base/util.h"
#include "boot/e820.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

#define MIB (1ull << 20)

void place_init(struct place *p, struct mem *m, const struct e820_layout *l) {
    p->mem = m;
    p->layout = l;
    p->count = 0;
}

unsigned long long place_advise_mib(uint64_t end) {
    /* Past the hole, the same amount of RAM reaches 1 GiB further. */
    uint64_t bytes = end <= PC_HOLE ? end : end - MIN(end - PC_HOLE, PC_HIGH - PC_HOLE);

    return (align_up(bytes, 64 * MIB) + 64 * MIB) / MIB;
}

int place_check_end(const struct place *p, uint64_t end, const char *what, struct err *e) {
    if (end <= p->layout->low_bytes || end > PC_HOLE)
        return 0;
    return err_set(
        e, 0, "the %s ends at 0x%llx, beyond the guest's %llu MiB of memory; try --memory %lluM",
        what, (unsigned long long)end, (unsigned long long)(p->layout->ram_bytes / MIB),
        place_advise_mib(end));
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
}

/* The index of what overlaps the range, or -1. */
static int find_used(const struct place *p, uint64_t base, uint64_t size) {
    for (unsigned i = 0; i < p->count; i++)
        if (overlaps(base, size, p->used[i].base, p->used[i].size))
            return (int)i;
    return -1;
}

static bool is_usable(const struct place *p, uint64_t base, uint64_t size) {
    for (unsigned i = 0; i < p->layout->map_count; i++) {
        const struct e820_entry *r = &p->layout->map[i];

        if (r->type == E820_RAM && base >= r->base && range_within(base - r->base, size, r->size))
            return true;
    }
    return false;
}

static void *take(struct place *p, uint64_t base, uint64_t size, const char *what) {
    void *host = p->count < PLACE_MAX ? mem_ptr_w(p->mem, GPA(base), size) : NULL;

    if (host) {
        p->used[p->count].base = base;
        p->used[p->count].size = size;
        p->used[p->count++].what = what;
    }
    return host;
}

void *place_at(struct place *p, uint64_t base, uint64_t size, const char *what, struct err *e) {
    unsigned long long first = base, last = base + size - 1;
    int other;
    void *host;

    if (!size || base + size < base) {
        err_set(e, 0, "%s has an impossible size", what);
        return NULL;
    }
    if (place_check_end(p, base + size, what, e) < 0)
        return NULL;
    if (!is_usable(p, base, size)) {
        err_set(e, 0, "%s at 0x%llx-0x%llx is not in usable memory", what, first, last);
        return NULL;
    }
    other = find_used(p, base, size);
    if (other >= 0) {
        err_set(e, 0, "%s at 0x%llx-0x%llx overlaps %s", what, first, last, p->used[other].what);
        return NULL;
    }
    host = take(p, base, size, what);
    if (!host)
        err_set(e, 0, "%s: too many parts", what);
    return host;
}

void *place_low(struct place *p, uint64_t size, uint64_t align, uint64_t lo, uint64_t hi,
                const char *what, uint64_t *base) {
    for (unsigned i = 0; i < p->layout->map_count; i++) {
        const struct e820_entry *r = &p->layout->map[i];
        uint64_t at = align_up(MAX(MAX(r->base, lo), PAGE_SIZE), align);
        uint64_t end = MIN(r->base + r->size, hi);
        int other;

        if (r->type != E820_RAM)
            continue;
        while (at < end && size <= end - at && (other = find_used(p, at, size)) >= 0)
            at = align_up(p->used[other].base + p->used[other].size, align);
        if (at < end && size <= end - at) {
            *base = at;
            return take(p, at, size, what);
        }
    }
    return NULL;
}

void *place_high(struct place *p, uint64_t size, uint64_t align, uint64_t lo, uint64_t hi,
                 const char *what, uint64_t *base) {
    for (unsigned i = p->layout->map_count; i-- > 0;) {
        const struct e820_entry *r = &p->layout->map[i];
        uint64_t start = MAX(MAX(r->base, lo), PAGE_SIZE);
        uint64_t end = MIN(r->base + r->size, hi);

        if (r->type != E820_RAM)
            continue;
        while (end > start && size <= end - start) {
            uint64_t at = align_down(end - size, align);
            int other = at >= start ? find_used(p, at, size) : -1;

            if (at < start)
                break;
            if (other < 0) {
                *base = at;
                return take(p, at, size, what);
            }
            end = p->used[other].base;
        }
    }
    return NULL;
}

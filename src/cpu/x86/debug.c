/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching data: the guest's DR0..DR3 and a debugger's watchpoints. Pages that hold a watched
 * address get no TLB entry for data, so that every access to them comes by here.
 */
#include "cpu/x86/debugreg.h"
#include "cpu/x86/interp.h"

static bool point_is_data(enum debug_point_type t) {
    return t != POINT_EXEC;
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len) {
    return a < b + b_len && b < a + a_len;
}

static bool guest_watches(const struct x86_cpu *c) {
    for (unsigned n = 0; n < 4; n++)
        if (c->s.dr[7] >> (2 * n) & 3 && c->s.dr[7] >> (16 + 4 * n) & 1)
            return true;
    return false;
}

static bool debugger_watches(const struct x86_cpu *c) {
    if (!c->debug || !c->debug->active)
        return false;
    for (uint32_t n = 0; n < c->debug->count; n++)
        if (point_is_data(c->debug->points[n].type))
            return true;
    return false;
}

static bool guest_stops(const struct x86_cpu *c) {
    for (unsigned n = 0; n < 4; n++)
        if (c->s.dr[7] >> (2 * n) & 3 && !(c->s.dr[7] >> (16 + 4 * n) & 3))
            return true;
    return false;
}

static bool debugger_stops(const struct x86_cpu *c) {
    if (!c->debug || !c->debug->active)
        return false;
    for (uint32_t n = 0; n < c->debug->count; n++)
        if (c->debug->points[n].type == POINT_EXEC)
            return true;
    return c->debug->step;
}

void debug_update(struct x86_cpu *c) {
    bool before = c->watching;
    c->watching = guest_watches(c) || debugger_watches(c);
    c->stopping = guest_stops(c) || debugger_stops(c);
    if (before || c->watching)
        mmu_watch_changed(c);
}

bool debug_page_watched(const struct x86_cpu *c, uint64_t lin) {
    uint64_t page = lin & ~PAGE_MASK;
    for (unsigned n = 0; n < 4; n++)
        if (c->s.dr[7] >> (2 * n) & 3 && overlaps(page, PAGE_SIZE, c->s.dr[n] & ~7ull, 16))
            return true;
    if (!c->debug || !c->debug->active)
        return false;
    for (uint32_t n = 0; n < c->debug->count; n++)
        if (point_is_data(c->debug->points[n].type) &&
            overlaps(page, PAGE_SIZE, c->debug->points[n].addr, c->debug->points[n].len))
            return true;
    return false;
}

bool debug_stop_within(const struct x86_cpu *c, uint64_t lin, uint64_t len) {
    for (unsigned n = 0; n < 4; n++)
        if (c->s.dr[7] >> (2 * n) & 3 && c->s.dr[n] - lin < len)
            return true;
    if (!c->debug || !c->debug->active)
        return false;
    for (uint32_t n = 0; n < c->debug->count; n++)
        if (c->debug->points[n].type == POINT_EXEC && c->debug->points[n].addr - lin < len)
            return true;
    return c->debug->step;
}

bool debug_breaks_at(const struct x86_cpu *c, uint64_t lin) {
    if (!c->debug || !c->debug->active)
        return false;
    for (uint32_t n = 0; n < c->debug->count; n++)
        if (c->debug->points[n].type == POINT_EXEC && c->debug->points[n].addr == lin)
            return true;
    return false;
}

static bool type_matches(enum debug_point_type t, bool write) {
    return t == POINT_ACCESS || t == (write ? POINT_WRITE : POINT_READ);
}

void debug_access(struct x86_cpu *c, uint64_t lin, unsigned size, bool write) {
    c->dr6_pending |= debugreg_data_hits(c, lin, size, write);
    for (uint32_t n = 0; c->debug && c->debug->active && n < c->debug->count; n++)
        if (type_matches(c->debug->points[n].type, write) &&
            overlaps(lin, size, c->debug->points[n].addr, c->debug->points[n].len)) {
            c->debug_watch_hit = true;
            c->debug_watch_addr = c->debug->points[n].addr;
        }
    if (c->dr6_pending || c->debug_watch_hit)
        cpu_end_block(c);
}

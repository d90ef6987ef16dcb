/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-linear memory behind the TLB's inline hit paths: fills, page crossings, MMIO and ROM, the
 * local APIC's page, watchpoints, alignment checks and canonical faults. SDM 3A chapters 3.3 and 4.
 */
#include "cpu/x86/mmu.h"

#include "base/where.h"
#include "cpu/x86/debugreg.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/tlb.h"
#include "cpu/x86/trace.h"
#include "cpu/x86/walk.h"

/* Where an access goes. */
struct place {
    uint8_t *host; /* NULL: not memory, or not writable memory for a write */
    uint64_t gpa;
    bool rom;
};

static unsigned current_kind(const struct x86_cpu *c) {
    unsigned kind = (unsigned)((c->tlb - c->tlbs[0]) / TLB_SIZE);
    return kind == TLB_OFF ? TLB_USER : kind;
}

static bool on_apic_page(const struct x86_cpu *c, uint64_t gpa) {
    return (gpa & ~PAGE_MASK) == c->apic_page;
}

/* ---- translation ---- */

static void fill(struct x86_cpu *c, unsigned kind, uint64_t lin, const struct walk *w,
                 const struct mem_hit *hit) {
    struct tlb_entry *e = tlb_slot(c, c->tlbs[kind], lin);
    uint64_t tag = lin >> PAGE_SHIFT | c->asid;
    bool watched = c->watching && debug_page_watched(c, lin);
    e->addend = (uintptr_t)hit->host - lin;
    e->mask = w->global ? TLB_PAGE_BITS | TLB_INVALID : UINT64_MAX;
    e->rd = w->read && !watched ? tag : TLB_INVALID;
    e->wr = w->write && !watched && hit->kind == MEM_RAM ? tag : TLB_INVALID;
    e->ex = w->fetch ? tag : TLB_INVALID;
    tlb_note_used(c, kind, e);
    if (w->global && c->lma && !(lin >> 63))
        c->low_global = true;
    if (w->page_bytes > PAGE_SIZE)
        tlb_note_large(c, lin, w->page_bytes);
}

static noreturn void raise_walk_fault(struct x86_cpu *c, uint64_t lin, uint32_t fault) {
    cpu_raise_pf(c, lin, fault & ~WALK_FAULT);
}

/* Where a walk ended; fills the TLB when that is memory. */
static struct place arrive(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned access,
                           const struct walk *w) {
    struct place p = {.gpa = w->gpa};
    if (on_apic_page(c, w->gpa))
        return p;
    struct mem_hit hit;
    mem_lookup(c->mem, GPA(w->gpa), &hit);
    if (hit.kind != MEM_RAM && hit.kind != MEM_ROM)
        return p;
    p.rom = hit.kind == MEM_ROM;
    if (!(access & WALK_W) || !p.rom)
        p.host = hit.host;
    fill(c, kind, lin, w, &hit);
    return p;
}

static uint32_t walk_tables(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned access,
                            struct walk *w) {
    enum where from = where_go(WHERE_WALK);
    uint32_t fault = walk(c, kind, lin, access, w);
    where_go(from);
    c->counts.walks++;
    return fault;
}

/* One page's worth of an access: raises #PF. */
static struct place locate(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned access) {
    struct walk w;
    uint32_t fault = walk_tables(c, kind, lin, access, &w);
    if (fault)
        raise_walk_fault(c, lin, fault);
    return arrive(c, kind, lin, access, &w);
}

static struct place locate_data(struct x86_cpu *c, unsigned kind, uint64_t lin, bool write) {
    const struct tlb_entry *e = tlb_slot(c, c->tlbs[kind], lin);
    if (tlb_hit(c, e, write ? e->wr : e->rd, lin))
        return (struct place){.host = (uint8_t *)(lin + e->addend)};
    return locate(c, kind, lin, write ? WALK_W : 0);
}

static noreturn void raise_stack_or_gp(struct x86_cpu *c, unsigned seg) {
    cpu_raise_err(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

static bool checks_alignment(const struct x86_cpu *c) {
    return c->tlb == c->tlbs[TLB_OFF];
}

/*
 * Alignment by operand size (SDM 3A table 6-7). Vectors have none here: those that want it raise
 * #GP, and processors check no others.
 */
static unsigned align_mask(unsigned size) {
    switch (size) {
    case 2:
    case 4:
    case 8:
        return size - 1;
    case 10:
        return 7;
    case 14: /* x87 environments and states */
    case 94:
        return 1;
    case 28:
    case 108:
        return 3;
    default:
        return 0;
    }
}

void mmu_check_alignment(struct x86_cpu *c, uint64_t lin, unsigned mask, unsigned seg) {
    if (c->mode64 && !seg_canonical(c, lin))
        raise_stack_or_gp(c, seg);
    if (unlikely(checks_alignment(c)) && lin & mask)
        cpu_raise_err(c, EXC_AC, 0);
}

uint64_t mmu_check_range(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    if (!c->mode64)
        return lin & UINT32_MAX;
    if (!seg_canonical(c, lin) || !seg_canonical(c, lin + size - 1))
        raise_stack_or_gp(c, seg);
    return lin;
}

/* All that precedes translation. */
static uint64_t check_linear(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    mmu_check_alignment(c, lin, align_mask(size), seg);
    return mmu_check_range(c, lin, size, seg);
}

static bool crosses(uint64_t lin, unsigned len) {
    return (lin & PAGE_MASK) + len > PAGE_SIZE;
}

/* Linear addresses are 64 bits wide, or go on at 0 behind 4 GiB. */
static uint64_t second_page(uint64_t lin, bool wide) {
    uint64_t next = (lin | PAGE_MASK) + 1;
    return wide ? next : next & UINT32_MAX;
}

/* ---- accesses within one page ---- */

static uint64_t device_read(struct x86_cpu *c, uint64_t gpa, unsigned size) {
    enum where from = where_go(WHERE_DEVICE);
    uint64_t v = on_apic_page(c, gpa) ? c->v.irqchip->mmio_read(c->v.apic, gpa & PAGE_MASK, size)
                                      : mem_io_read(c->mem, GPA(gpa), size);
    where_go(from);
    if (unlikely(c->traced & TRACE_IO))
        cpu_trace_mmio(c, false, gpa, size, v);
    return v;
}

static void device_write(struct x86_cpu *c, uint64_t gpa, uint64_t v, unsigned size) {
    if (unlikely(c->traced & TRACE_IO))
        cpu_trace_mmio(c, true, gpa, size, v);
    enum where from = where_go(WHERE_DEVICE);
    if (on_apic_page(c, gpa))
        c->v.irqchip->mmio_write(c->v.apic, gpa & PAGE_MASK, size, v);
    else
        mem_io_write(c->mem, GPA(gpa), size, v);
    where_go(from);
}

static uint64_t place_read(struct x86_cpu *c, const struct place *p, unsigned size) {
    return p->host ? guest_ld(p->host, size) : device_read(c, p->gpa, size);
}

static void place_write(struct x86_cpu *c, const struct place *p, uint64_t v, unsigned size) {
    if (p->host) {
        guest_st(p->host, v, size);
        mmu_wrote(c, p->host, size);
    } else if (!p->rom) {
        device_write(c, p->gpa, v, size);
    }
}

static uint64_t load(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned size, bool wide) {
    if (!crosses(lin, size)) {
        struct place p = locate_data(c, kind, lin, false);
        return place_read(c, &p, size);
    }
    unsigned first = (unsigned)(PAGE_SIZE - (lin & PAGE_MASK));
    uint64_t buf[2] = {0, 0};
    struct place a = locate_data(c, kind, lin, false);
    struct place b = locate_data(c, kind, second_page(lin, wide), false);
    for (unsigned n = 0; n < size; n++) {
        struct place at = n < first ? a : b;
        unsigned off = n < first ? n : n - first;
        at.gpa += off;
        at.host = at.host ? at.host + off : NULL;
        ((uint8_t *)buf)[n] = (uint8_t)place_read(c, &at, 1);
    }
    return buf[0];
}

static void store(struct x86_cpu *c, unsigned kind, uint64_t lin, uint64_t v, unsigned size,
                  bool wide) {
    if (!crosses(lin, size)) {
        struct place p = locate_data(c, kind, lin, true);
        place_write(c, &p, v, size);
        return;
    }
    unsigned first = (unsigned)(PAGE_SIZE - (lin & PAGE_MASK));
    struct place a = locate_data(c, kind, lin, true);
    struct place b = locate_data(c, kind, second_page(lin, wide), true);
    for (unsigned n = 0; n < size; n++) {
        struct place at = n < first ? a : b;
        unsigned off = n < first ? n : n - first;
        at.gpa += off;
        at.host = at.host ? at.host + off : NULL;
        place_write(c, &at, v >> (8 * n) & 0xff, 1);
    }
}

/* ---- at the current privilege ---- */

static uint64_t load_current(struct x86_cpu *c, uint64_t lin, unsigned size) {
    uint64_t v = load(c, current_kind(c), lin, size, c->mode64);
    if (c->watching)
        debug_access(c, lin, size, false);
    return v;
}

static void store_current(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size) {
    store(c, current_kind(c), lin, v, size, c->mode64);
    if (c->watching)
        debug_access(c, lin, size, true);
}

uint64_t mmu_ld_slow(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    return load_current(c, check_linear(c, lin, size, seg), size);
}

void mmu_st_slow(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, unsigned seg) {
    store_current(c, check_linear(c, lin, size, seg), v, size);
}

uint64_t mmu_ld_unaligned(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    return load_current(c, mmu_check_range(c, lin, size, seg), size);
}

void mmu_st_unaligned(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, unsigned seg) {
    store_current(c, mmu_check_range(c, lin, size, seg), v, size);
}

static void probe(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned len, bool write,
                  bool wide) {
    locate_data(c, kind, lin, write);
    if (crosses(lin, len))
        locate_data(c, kind, second_page(lin, wide), write);
}

void *mmu_rmw_slow(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    lin = check_linear(c, lin, size, seg);
    if (crosses(lin, size)) {
        probe(c, current_kind(c), lin, size, true, c->mode64);
        return NULL;
    }
    struct place p = locate_data(c, current_kind(c), lin, true);
    if (c->watching && debug_page_watched(c, lin))
        return NULL;
    return p.host;
}

void mmu_probe(struct x86_cpu *c, uint64_t lin, unsigned len, bool write, unsigned seg) {
    lin = check_linear(c, lin, len, seg);
    probe(c, current_kind(c), lin, len, write, c->mode64);
}

/*
 * Long operands are accessed by eight bytes: the alignment that counts is the whole's, so where it
 * is checked (and the TLB's inline paths never hit) the parts must not be.
 */
static uint64_t load_part(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    return checks_alignment(c) ? load_current(c, lin, size) : mmu_ld(c, lin, size, seg);
}

static void store_part(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, unsigned seg) {
    if (checks_alignment(c))
        store_current(c, lin, v, size);
    else
        mmu_st(c, lin, v, size, seg);
}

void mmu_read(struct x86_cpu *c, uint64_t lin, void *buf, unsigned len, unsigned seg) {
    mmu_probe(c, lin, len, false, seg);
    uint8_t *out = buf;
    for (unsigned n = 0; n < len;) {
        unsigned step = len - n >= 8 ? 8 : 1;
        uint64_t v = load_part(c, cpu_wrap(c, lin + n), step, seg);
        memcpy(out + n, &v, step);
        n += step;
    }
}

void mmu_write(struct x86_cpu *c, uint64_t lin, const void *buf, unsigned len, unsigned seg) {
    mmu_probe(c, lin, len, true, seg);
    const uint8_t *in = buf;
    for (unsigned n = 0; n < len;) {
        unsigned step = len - n >= 8 ? 8 : 1;
        uint64_t v = 0;
        memcpy(&v, in + n, step);
        store_part(c, cpu_wrap(c, lin + n), v, step, seg);
        n += step;
    }
}

void *mmu_host(struct x86_cpu *c, uint64_t lin, bool write, unsigned seg, uint64_t *avail) {
    lin = check_linear(c, lin, 1, seg);
    struct place p = locate_data(c, current_kind(c), lin, write);
    if (c->watching && debug_page_watched(c, lin))
        return NULL;
    *avail = PAGE_SIZE - (lin & PAGE_MASK);
    return p.host;
}

bool mmu_fill(struct x86_cpu *c, uint64_t lin, bool write) {
    struct walk w;
    unsigned access = write ? WALK_W : 0, kind = current_kind(c);
    if (c->mode64 && !seg_canonical(c, lin))
        return false;
    return !walk_tables(c, kind, lin, access, &w) && arrive(c, kind, lin, access, &w).host;
}

/* ---- system structures and other privileges ---- */

static uint64_t sys_linear(const struct x86_cpu *c, uint64_t lin) {
    return c->lma ? lin : lin & UINT32_MAX;
}

static void sys_check(struct x86_cpu *c, uint64_t lin) {
    if (c->lma && !seg_canonical(c, lin))
        cpu_raise_err(c, EXC_GP, 0);
}

uint64_t mmu_sys_ld(struct x86_cpu *c, uint64_t lin, unsigned size) {
    sys_check(c, lin);
    return load(c, TLB_SUPER, sys_linear(c, lin), size, c->lma);
}

void mmu_sys_st(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size) {
    sys_check(c, lin);
    store(c, TLB_SUPER, sys_linear(c, lin), v, size, c->lma);
}

void mmu_sys_probe(struct x86_cpu *c, uint64_t lin, unsigned len, bool write) {
    sys_check(c, lin);
    probe(c, TLB_SUPER, sys_linear(c, lin), len, write, c->lma);
}

void mmu_probe_as(struct x86_cpu *c, uint64_t lin, unsigned len, bool write, bool user, bool wide) {
    if (wide && !seg_canonical(c, lin))
        cpu_raise_err(c, EXC_SS, 0);
    probe(c, user ? TLB_USER : TLB_SUPER, lin, len, write, wide);
}

void mmu_st_as(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, bool user, bool wide) {
    if (wide && !seg_canonical(c, lin))
        cpu_raise_err(c, EXC_SS, 0);
    store(c, user ? TLB_USER : TLB_SUPER, lin, v, size, wide);
}

/* ---- instruction fetch ---- */

uint8_t *mmu_fetch(struct x86_cpu *c, uint64_t lin, uint64_t *gpa) {
    const struct tlb_entry *e = tlb_slot(c, c->tlb_fetch, lin);
    if (likely(tlb_hit(c, e, e->ex, lin)))
        return (uint8_t *)(lin + e->addend);
    unsigned kind = c->cpl == 3 ? TLB_USER : TLB_SUPER;
    struct place p = locate(c, kind, lin, WALK_FETCH);
    *gpa = p.gpa;
    return p.host;
}

/* ---- writes that others must hear of; bus lock ---- */

void mmu_wrote_slow(struct x86_cpu *c, const void *host, unsigned size) {
    mem_wrote(c->mem, host, size);
    interp_code_written(c, (uint64_t)((const uint8_t *)host - c->ram) >> PAGE_SHIFT);
}

void mmu_bus_lock(struct x86_cpu *c) {
    interp_bus_lock(c);
}

void mmu_bus_unlock(struct x86_cpu *c) {
    interp_bus_unlock(c);
}

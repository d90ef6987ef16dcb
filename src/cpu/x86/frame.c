/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks during control transfers: inner stacks from the TSS (SDM 3A 5.8.5, 6.12.1, 6.14.4, 7.7),
 * and pushes and pops with their checks.
 */
#include "cpu/x86/frame.h"

#include "cpu/x86/mmu.h"

void frame_current(struct x86_cpu *c, struct frame *f, unsigned size) {
    *f = (struct frame){
        .ss = c->s.seg[SEG_SS],
        .sp = c->s.gpr[RSP] & c->stack_mask,
        .mask = c->stack_mask,
        .size = (uint8_t)size,
        .wide = c->mode64,
        .user = c->cpl == 3,
    };
}

void frame_current64(struct x86_cpu *c, struct frame *f) {
    frame_current(c, f, 8);
    f->sp = c->s.gpr[RSP];
    f->mask = UINT64_MAX;
    f->wide = true;
}

static void check_tss_holds(struct x86_cpu *c, uint32_t last) {
    if (last > c->s.tr.limit)
        seg_fault(c, EXC_TS, c->s.tr.sel);
}

void frame_from_tss(struct x86_cpu *c, struct frame *f, unsigned cpl, unsigned size,
                    struct seg_desc *d) {
    bool tss32 = c->s.tr.attr & 8;
    uint32_t off = tss32 ? cpl * 8 + 4 : cpl * 4 + 2, width = tss32 ? 4 : 2;
    check_tss_holds(c, off + width + 1);
    uint64_t sp = mmu_sys_ld(c, c->s.tr.base + off, width);
    uint16_t sel = (uint16_t)mmu_sys_ld(c, c->s.tr.base + off + width, 2);
    if (sel_is_null(sel))
        seg_fault(c, EXC_TS, sel);
    seg_check_stack(c, sel, cpl, EXC_TS, d);
    *f = (struct frame){.ss = seg_from_desc(d, sel), .error = sel & ~3u, .size = (uint8_t)size};
    f->mask = f->ss.attr & SEG_DB ? UINT32_MAX : 0xffff;
    f->sp = sp & f->mask;
}

void frame_from_tss64(struct x86_cpu *c, struct frame *f, unsigned cpl, unsigned ist) {
    uint32_t off = ist ? 28 + ist * 8 : cpl * 8 + 4;
    check_tss_holds(c, off + 7);
    *f = (struct frame){
        .ss = seg_null((uint16_t)cpl, cpl), .mask = UINT64_MAX, .size = 8, .wide = true};
    f->sp = mmu_sys_ld(c, c->s.tr.base + off, 8);
    if (!seg_canonical(c, f->sp))
        cpu_raise_err(c, EXC_SS, 0);
}

static bool has_room(const struct x86_cpu *c, const struct frame *f, uint64_t off, unsigned size) {
    if (f->wide)
        return seg_canonical(c, off) && seg_canonical(c, off + size - 1);
    return !(f->ss.attr & SEG_UNUSABLE) && seg_within(&f->ss, off, size);
}

static uint64_t linear(const struct frame *f, uint64_t off) {
    return f->wide ? off : (uint32_t)(f->ss.base + off);
}

static void probe_range(struct x86_cpu *c, const struct frame *f, uint64_t off, unsigned size) {
    if (!has_room(c, f, off, size))
        cpu_raise_err(c, EXC_SS, f->error);
    if (f->user)
        mmu_probe(c, linear(f, off), size, true, SEG_SS); /* alignment too */
    else
        mmu_probe_as(c, linear(f, off), size, true, false, f->wide);
}

void frame_probe(struct x86_cpu *c, const struct frame *f, unsigned slots) {
    if (f->wide && !f->user) {
        probe_range(c, f, f->sp - slots * f->size, slots * f->size);
        return;
    }
    /* Slot by slot: a 16- or 32-bit stack pointer may wrap between two. */
    for (unsigned n = 1; n <= slots; n++)
        probe_range(c, f, (f->sp - n * f->size) & f->mask, f->size);
}

void frame_push(struct x86_cpu *c, struct frame *f, uint64_t v) {
    f->sp = (f->sp - f->size) & f->mask;
    mmu_st_as(c, linear(f, f->sp), v, f->size, f->user, f->wide);
}

uint64_t frame_pop(struct x86_cpu *c, struct frame *f) {
    if (!has_room(c, f, f->sp, f->size))
        cpu_raise_err(c, EXC_SS, f->error);
    uint64_t v = mmu_ld(c, linear(f, f->sp), f->size, SEG_SS);
    f->sp = (f->sp + f->size) & f->mask;
    return v;
}

void frame_skip(struct frame *f, uint64_t bytes) {
    f->sp = (f->sp + bytes) & f->mask;
}

/* A 16-bit stack leaves the rest of ESP as it is. */
void frame_set_sp(struct x86_cpu *c, const struct frame *f) {
    uint64_t keep = f->mask == 0xffff ? c->s.gpr[RSP] & ~f->mask : 0;
    c->s.gpr[RSP] = keep | (f->sp & f->mask);
}

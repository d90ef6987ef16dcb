/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor tables, segment register loads and limit checks. SDM 3A chapters 3 and 5, SDM 2 (LLDT,
 * LTR, MOV). The instructions are in segops.c.
 */
#include "cpu/x86/seg.h"

#include "cpu/x86/mmu.h"

void seg_fault(struct x86_cpu *c, unsigned vector, uint16_t sel) {
    cpu_raise_err(c, vector, sel & ~3u);
}

/* ---- limits ---- */

bool seg_within(const struct x86_seg *s, uint64_t ea, unsigned size) {
    uint64_t last = ea + size - 1;
    bool expand_down = (s->attr & (SEG_S | 0xc)) == (SEG_S | 0x4);
    /*
     * The largest limit is none: what passes 4 GiB goes on at 0, as processors do it (SDM 3A 5.3
     * leaves it to them).
     */
    if (!expand_down)
        return last <= s->limit || s->limit == UINT32_MAX;
    return ea > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : 0xffffu);
}

/* In real mode nothing but the limit counts: there CS can be written to. */
static bool access_allowed(const struct x86_cpu *c, const struct x86_seg *s, bool write) {
    if (s->attr & SEG_UNUSABLE)
        return false;
    if (!c->pe || c->vm86)
        return true;
    if (s->attr & 0x8)
        return !write && s->attr & 0x2;
    return !write || s->attr & 0x2;
}

uint64_t seg_linear(struct x86_cpu *c, unsigned seg, uint64_t ea, unsigned size, bool write) {
    const struct x86_seg *s = &c->s.seg[seg];
    if (!access_allowed(c, s, write) || !seg_within(s, ea, size))
        cpu_raise_err(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
    return (uint32_t)(s->base + ea);
}

/* ---- descriptors ---- */

bool seg_fetch(struct x86_cpu *c, uint16_t sel, struct seg_desc *d) {
    uint64_t base = c->s.gdtr.base;
    uint32_t limit = c->s.gdtr.limit;
    if (sel & 4) {
        if (c->s.ldtr.attr & SEG_UNUSABLE)
            return false;
        base = c->s.ldtr.base;
        limit = c->s.ldtr.limit;
    }
    if ((sel | 7u) > limit)
        return false;
    d->lin = base + (sel & ~7u);
    if (!c->lma)
        d->lin = (uint32_t)d->lin;
    uint64_t v = mmu_sys_ld(c, d->lin, 8);
    d->lo = (uint32_t)v;
    d->hi = (uint32_t)(v >> 32);
    return true;
}

void seg_fetch_or_fault(struct x86_cpu *c, uint16_t sel, unsigned vector, struct seg_desc *d) {
    if (!seg_fetch(c, sel, d))
        seg_fault(c, vector, sel);
}

uint64_t seg_fetch_high(struct x86_cpu *c, uint16_t sel, const struct seg_desc *d) {
    uint32_t limit = sel & 4 ? c->s.ldtr.limit : c->s.gdtr.limit;
    if ((sel & ~7u) + 15 > limit)
        seg_fault(c, EXC_GP, sel);
    uint64_t v = mmu_sys_ld(c, d->lin + 8, 8);
    if (v >> 40 & 0x1f)
        seg_fault(c, EXC_GP, sel);
    return v;
}

struct x86_seg seg_from_desc(const struct seg_desc *d, uint16_t sel) {
    uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    return (struct x86_seg){
        .sel = sel,
        .base = d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000),
        .limit = d->hi & 1u << 23 ? limit << 12 | 0xfff : limit,
        .attr = d->hi >> 8 & 0xf0ff,
    };
}

struct x86_seg seg_null(uint16_t sel, unsigned dpl) {
    return (struct x86_seg){.sel = sel, .attr = SEG_UNUSABLE | dpl << 5};
}

/* A store of the one byte: what the processor does locked is only to keep its neighbours from being
 * lost. */
void seg_set_accessed(struct x86_cpu *c, struct seg_desc *d) {
    if (d->hi & 0x100)
        return;
    d->hi |= 0x100;
    mmu_sys_st(c, d->lin + 5, d->hi >> 8 & 0xff, 1);
}

bool seg_set_busy(struct x86_cpu *c, uint64_t desc_lin, bool busy) {
    mmu_sys_probe(c, desc_lin + 5, 1, true);
    mmu_bus_lock(c);
    uint64_t old = mmu_sys_ld(c, desc_lin + 5, 1);
    uint64_t new = busy ? old | DESC_BUSY : old & ~(uint64_t)DESC_BUSY;
    if (new != old)
        mmu_sys_st(c, desc_lin + 5, new, 1);
    mmu_bus_unlock(c);
    return new != old;
}

/* ---- segment registers ---- */

/* Real mode leaves limit and attributes as they are ("unreal" mode lives on that). */
void seg_load_real(struct x86_cpu *c, unsigned sreg, uint16_t sel) {
    struct x86_seg *s = &c->s.seg[sreg];
    s->sel = sel;
    s->base = (uint32_t)sel << 4;
    if (c->vm86) {
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_DPL | SEG_S | 0x3;
    } else if (s->attr & SEG_UNUSABLE) {
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_S | 0x3;
    }
}

void seg_check_stack(struct x86_cpu *c, uint16_t sel, unsigned cpl, unsigned vector,
                     struct seg_desc *d) {
    seg_fetch_or_fault(c, sel, vector, d);
    if ((sel & 3u) != cpl || !desc_is_writable_data(d) || desc_dpl(d) != cpl)
        seg_fault(c, vector, sel);
    if (!desc_present(d))
        seg_fault(c, EXC_SS, sel);
}

static void load_stack(struct x86_cpu *c, uint16_t sel) {
    struct seg_desc d;
    if (sel_is_null(sel)) {
        if (!c->mode64 || c->cpl == 3 || (sel & 3u) != c->cpl)
            cpu_raise_err(c, EXC_GP, 0);
        c->s.seg[SEG_SS] = seg_null(sel, c->cpl);
        return;
    }
    seg_check_stack(c, sel, c->cpl, EXC_GP, &d);
    seg_set_accessed(c, &d);
    c->s.seg[SEG_SS] = seg_from_desc(&d, sel);
}

void seg_load_data(struct x86_cpu *c, unsigned sreg, uint16_t sel, unsigned vector) {
    struct seg_desc d;
    if (sel_is_null(sel)) {
        c->s.seg[sreg] = seg_null(sel, 0);
        return;
    }
    seg_fetch_or_fault(c, sel, vector, &d);
    if (!desc_is_readable(&d))
        seg_fault(c, vector, sel);
    if (!desc_is_conforming(&d) && MAX(c->cpl, sel & 3u) > desc_dpl(&d))
        seg_fault(c, vector, sel);
    if (!desc_present(&d))
        seg_fault(c, EXC_NP, sel);
    seg_set_accessed(c, &d);
    c->s.seg[sreg] = seg_from_desc(&d, sel);
}

void seg_load(struct x86_cpu *c, unsigned sreg, uint16_t sel) {
    if (!c->pe || c->vm86)
        seg_load_real(c, sreg, sel);
    else if (sreg == SEG_SS)
        load_stack(c, sel);
    else
        seg_load_data(c, sreg, sel, EXC_GP);
}

void seg_load_ldtr(struct x86_cpu *c, uint16_t sel, unsigned vector, unsigned absent) {
    struct seg_desc d;
    if (sel_is_null(sel)) {
        c->s.ldtr = seg_null(sel, 0);
        return;
    }
    if (sel & 4)
        seg_fault(c, vector, sel);
    seg_fetch_or_fault(c, sel, vector, &d);
    if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT)
        seg_fault(c, vector, sel);
    uint64_t high = c->lma ? seg_fetch_high(c, sel, &d) : 0;
    if (!desc_present(&d))
        seg_fault(c, absent, sel);
    struct x86_seg s = seg_from_desc(&d, sel);
    s.base |= high << 32;
    if (!seg_canonical(c, s.base))
        seg_fault(c, vector, sel);
    c->s.ldtr = s;
}

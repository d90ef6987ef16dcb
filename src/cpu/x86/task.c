/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches between 16- and 32-bit TSSs, in the order of SDM 3A 7.3 with the faults of
 * table 7-1; the I/O permission and interrupt redirection maps (SDM 1 19.5.2, SDM 3B 20.3.3).
 */
#include "cpu/x86/task.h"

#include "cpu/x86/exc.h"
#include "cpu/x86/frame.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"

/* Where a TSS of either size keeps what a switch saves and loads (SDM 3A figures 7-2 and 7-10). */
struct layout {
    uint8_t width; /* of EIP, EFLAGS and the general registers */
    uint8_t ip, gpr, sreg, sregs, ldt, last;
};

static const struct layout layout16 = {2, 0x0e, 0x12, 0x22, 4, 0x2a, 0x2b};
static const struct layout layout32 = {4, 0x20, 0x28, 0x48, 6, 0x60, 0x67};

enum { TSS_CR3 = 0x1c, TSS_TRAP = 0x64, TSS_IOMAP = 0x66 };

static const struct layout *layout_of(uint32_t attr) {
    return attr & 8 ? &layout32 : &layout16;
}

/* What is loaded. */
struct image {
    const struct layout *l;
    uint64_t cr3, rip, flags;
    uint64_t gpr[8];
    uint16_t sreg[6], ldt;
    bool trap;
};

/* ---- checks on the new TSS ---- */

static void check_tss(struct x86_cpu *c, uint16_t sel, enum task_cause cause, struct seg_desc *d) {
    unsigned vector = cause == TASK_IRET ? EXC_TS : EXC_GP;
    unsigned busy = cause == TASK_IRET ? DESC_BUSY : 0;
    if (sel & 4)
        seg_fault(c, vector, sel);
    seg_fetch_or_fault(c, sel, vector, d);
    bool ok = desc_is_system(d) &&
              ((desc_type(d) ^ busy) == DESC_TSS16 || (desc_type(d) ^ busy) == DESC_TSS32);
    if (!ok)
        seg_fault(c, vector, sel);
    if (!desc_present(d))
        seg_fault(c, EXC_NP, sel);
    struct x86_seg tss = seg_from_desc(d, sel);
    if (tss.limit < layout_of(tss.attr)->last)
        seg_fault(c, EXC_TS, sel);
}

static uint64_t old_desc(const struct x86_cpu *c) {
    return (uint32_t)(c->s.gdtr.base + (c->s.tr.sel & ~7u));
}

/* All that will be written, so that no fault comes up half-way. */
static void probe_writes(struct x86_cpu *c, const struct seg_desc *d, const struct x86_seg *tss) {
    const struct layout *old = layout_of(c->s.tr.attr);
    if (c->s.tr.limit < old->last)
        seg_fault(c, EXC_TS, c->s.tr.sel);
    mmu_sys_probe(c, c->s.tr.base + old->ip, old->last + 1u - old->ip, true);
    mmu_sys_probe(c, tss->base, 2, true);
    mmu_sys_probe(c, d->lin + 5, 1, true);
    mmu_sys_probe(c, old_desc(c) + 5, 1, true);
}

/* ---- memory images ---- */

static void save(struct x86_cpu *c, const struct task_from *from) {
    const struct layout *l = layout_of(c->s.tr.attr);
    uint64_t base = c->s.tr.base;
    uint64_t flags = from->cause == TASK_IRET ? from->flags & ~(uint64_t)FLAG_NT : from->flags;
    mmu_sys_st(c, base + l->ip, from->rip, l->width);
    mmu_sys_st(c, base + l->ip + l->width, flags, l->width);
    for (unsigned n = 0; n < 8; n++)
        mmu_sys_st(c, base + l->gpr + n * l->width, c->s.gpr[n], l->width);
    for (unsigned n = 0; n < l->sregs; n++)
        mmu_sys_st(c, base + l->sreg + n * l->width, c->s.seg[n].sel, 2);
}

static void read_image(struct x86_cpu *c, const struct x86_seg *tss, struct image *m) {
    const struct layout *l = layout_of(tss->attr);
    uint64_t high = l->width == 2 ? 0xffff0000u : 0; /* what processors leave there */
    *m = (struct image){.l = l};
    m->rip = mmu_sys_ld(c, tss->base + l->ip, l->width);
    m->flags = mmu_sys_ld(c, tss->base + l->ip + l->width, l->width);
    for (unsigned n = 0; n < 8; n++)
        m->gpr[n] = mmu_sys_ld(c, tss->base + l->gpr + n * l->width, l->width) | high;
    for (unsigned n = 0; n < l->sregs; n++)
        m->sreg[n] = (uint16_t)mmu_sys_ld(c, tss->base + l->sreg + n * l->width, 2);
    m->ldt = (uint16_t)mmu_sys_ld(c, tss->base + l->ldt, 2);
    if (l == &layout32) {
        m->cr3 = mmu_sys_ld(c, tss->base + TSS_CR3, 4);
        m->trap = mmu_sys_ld(c, tss->base + TSS_TRAP, 2) & 1;
    }
}

/* ---- the new task's state ---- */

static void load_cr3(struct x86_cpu *c, const struct image *m) {
    if (!c->paging || m->l != &layout32)
        return;
    if (c->s.cr4 & CR4_PAE)
        mmu_load_pdptes(c, m->cr3);
    c->s.cr3 = m->cr3;
    mmu_switch_space(c, false);
}

/* Segments hold their selectors, but cannot be used until each one is checked. */
static void load_registers(struct x86_cpu *c, const struct image *m) {
    const uint64_t defined = 0x3f7fd5;
    uint64_t locals = 0x155; /* DR7.L0 to L3 and LE */
    c->s.rip = m->rip;
    c->next = m->rip;
    memcpy(c->s.gpr, m->gpr, sizeof m->gpr);
    cpu_set_flags(c, m->flags & defined);
    for (unsigned n = 0; n < 6; n++)
        c->s.seg[n] = seg_null(m->sreg[n], m->sreg[SEG_CS] & 3);
    c->s.ldtr = seg_null(m->ldt, 0);
    if (c->s.dr[7] & locals) {
        c->s.dr[7] &= ~locals;
        debug_update(c);
    }
    cpu_update_mode(c);
}

static void load_code(struct x86_cpu *c, const struct image *m) {
    struct seg_desc d;
    uint16_t sel = m->sreg[SEG_CS];
    unsigned rpl = sel & 3;
    if (sel_is_null(sel))
        seg_fault(c, EXC_TS, sel);
    seg_fetch_or_fault(c, sel, EXC_TS, &d);
    bool dpl_ok = desc_is_conforming(&d) ? desc_dpl(&d) <= rpl : desc_dpl(&d) == rpl;
    if (!desc_is_code(&d) || !dpl_ok)
        seg_fault(c, EXC_TS, sel);
    if (!desc_present(&d))
        seg_fault(c, EXC_NP, sel);
    seg_set_accessed(c, &d);
    c->s.seg[SEG_CS] = seg_from_desc(&d, sel);
}

static void load_stack(struct x86_cpu *c, const struct image *m) {
    struct seg_desc d;
    uint16_t sel = m->sreg[SEG_SS];
    if (sel_is_null(sel))
        seg_fault(c, EXC_TS, sel);
    seg_check_stack(c, sel, c->cpl, EXC_TS, &d);
    seg_set_accessed(c, &d);
    c->s.seg[SEG_SS] = seg_from_desc(&d, sel);
}

static void load_segments(struct x86_cpu *c, const struct image *m) {
    seg_load_ldtr(c, m->ldt, EXC_TS, EXC_TS);
    if (c->vm86) {
        for (unsigned n = 0; n < 6; n++)
            seg_load_real(c, n, m->sreg[n]);
    } else {
        load_code(c, m);
        load_stack(c, m);
        seg_load_data(c, SEG_ES, m->sreg[SEG_ES], EXC_TS);
        seg_load_data(c, SEG_DS, m->sreg[SEG_DS], EXC_TS);
        seg_load_data(c, SEG_FS, m->sreg[SEG_FS], EXC_TS);
        seg_load_data(c, SEG_GS, m->sreg[SEG_GS], EXC_TS);
    }
    cpu_update_mode(c);
}

static void push_error(struct x86_cpu *c, uint32_t error, unsigned size) {
    struct frame f;
    frame_current(c, &f, size);
    frame_probe(c, &f, 1);
    frame_push(c, &f, error);
    frame_set_sp(c, &f);
}

/* From here on faults are the new task's. */
static void enter(struct x86_cpu *c, const struct image *m, const struct task_from *from) {
    load_registers(c, m);
    load_cr3(c, m);
    load_segments(c, m);
    if (from->has_error)
        push_error(c, from->error, m->l->width);
    if (m->rip > c->s.seg[SEG_CS].limit)
        cpu_raise_err(c, EXC_GP, 0);
    if (m->trap) {
        c->dr6_pending |= DR6_BT;
        cpu_end_block(c);
    }
}

void task_switch(struct x86_cpu *c, uint16_t sel, const struct task_from *from) {
    struct seg_desc d;
    struct image m;
    bool nests = from->cause == TASK_CALL || from->cause == TASK_EVENT;
    check_tss(c, sel, from->cause, &d);
    struct x86_seg tss = seg_from_desc(&d, sel);
    probe_writes(c, &d, &tss);
    read_image(c, &tss, &m);

    if (!nests)
        seg_set_busy(c, old_desc(c), false);
    save(c, from);
    if (nests) {
        mmu_sys_st(c, tss.base, c->s.tr.sel, 2);
        m.flags |= FLAG_NT;
    }
    if (from->cause != TASK_IRET)
        seg_set_busy(c, d.lin, true);
    c->s.cr0 |= CR0_TS;
    tss.attr |= DESC_BUSY;
    c->s.tr = tss;
    enter(c, &m, from);
}

void task_return(struct x86_cpu *c, uint64_t rip) {
    struct task_from from = {.cause = TASK_IRET, .rip = rip, .flags = cpu_flags(c)};
    task_switch(c, (uint16_t)mmu_sys_ld(c, c->s.tr.base, 2), &from);
}

/* ---- maps ---- */

/* Offset of the I/O map; above any limit when this TSS has none. */
static uint32_t iomap_base(struct x86_cpu *c) {
    if (!(c->s.tr.attr & 8) || c->s.tr.limit < TSS_IOMAP + 1)
        return UINT32_MAX;
    return (uint32_t)mmu_sys_ld(c, c->s.tr.base + TSS_IOMAP, 2);
}

/* The processor always reads two bytes, so that an access may straddle them. */
bool task_io_allowed(struct x86_cpu *c, uint16_t port, unsigned size) {
    uint64_t off = (uint64_t)iomap_base(c) + port / 8;
    if (off + 1 > c->s.tr.limit)
        return false;
    unsigned bits = (unsigned)mmu_sys_ld(c, c->s.tr.base + off, 2) >> (port & 7);
    return !(bits & ((1u << size) - 1));
}

bool task_int_redirected(struct x86_cpu *c, uint8_t vector) {
    uint32_t base = iomap_base(c);
    uint64_t off = (uint64_t)base + vector / 8 - 32;
    if (base < 32 || base == UINT32_MAX || off > c->s.tr.limit)
        cpu_raise_err(c, EXC_GP, 0);
    return !(mmu_sys_ld(c, c->s.tr.base + off, 1) >> (vector & 7) & 1);
}

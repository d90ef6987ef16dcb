/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far returns: RET to the same and to outer privilege, and IRET in all modes. SDM 2 under each
 * instruction, SDM 3A 5.8.6, 6.14.3, SDM 3B 20.2 and 20.3.
 */
#include "cpu/x86/far.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/task.h"

static void gp0(struct x86_cpu *c) {
    cpu_raise_err(c, EXC_GP, 0);
}

/* Where a return goes, checked but not yet entered. */
struct target {
    uint64_t rip;
    uint16_t cs_sel, ss_sel;
    uint64_t sp;
    struct seg_desc cs, ss;
};

static void check_code(struct x86_cpu *c, struct target *t) {
    if (sel_is_null(t->cs_sel))
        gp0(c);
    seg_fetch_or_fault(c, t->cs_sel, EXC_GP, &t->cs);
    unsigned rpl = t->cs_sel & 3, dpl = desc_dpl(&t->cs);
    bool dpl_ok = desc_is_conforming(&t->cs) ? dpl <= rpl : dpl == rpl;
    if (!desc_is_code(&t->cs) || rpl < c->cpl || !dpl_ok)
        seg_fault(c, EXC_GP, t->cs_sel);
    far_check_code_size(c, &t->cs, t->cs_sel);
    if (!desc_present(&t->cs))
        seg_fault(c, EXC_NP, t->cs_sel);
}

/* A null SS is fine for 64-bit code at CPL 0 to 2. */
static void check_stack(struct x86_cpu *c, struct target *t) {
    unsigned cpl = t->cs_sel & 3;
    if (!sel_is_null(t->ss_sel)) {
        seg_check_stack(c, t->ss_sel, cpl, EXC_GP, &t->ss);
        return;
    }
    if (!far_is_code64(c, &t->cs) || cpl == 3 || (t->ss_sel & 3u) != cpl)
        gp0(c);
}

static void set_accessed(struct x86_cpu *c, struct target *t, bool with_stack) {
    seg_set_accessed(c, &t->cs);
    if (with_stack && !sel_is_null(t->ss_sel))
        seg_set_accessed(c, &t->ss);
}

/*
 * Segments that the outer level may not use become null, and null selectors with an RPL become 0
 * (SDM 2A, IRET). Processors leave the base as it is, which 64-bit code sees in FS and GS.
 */
static void drop_inner_segments(struct x86_cpu *c, unsigned cpl) {
    static const uint8_t regs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned n = 0; n < ARRAY_LEN(regs); n++) {
        struct x86_seg *s = &c->s.seg[regs[n]];
        bool conforming = (s->attr & 0x1c) == 0x1c;
        if (s->attr & SEG_UNUSABLE) {
            s->sel = 0;
        } else if (!conforming && (s->attr & SEG_DPL) >> 5 < cpl) {
            s->sel = 0;
            s->attr = SEG_UNUSABLE;
        }
    }
}

static void load_stack(struct x86_cpu *c, const struct target *t) {
    unsigned cpl = t->cs_sel & 3;
    bool null = sel_is_null(t->ss_sel);
    c->s.seg[SEG_SS] = null ? seg_null(t->ss_sel, cpl) : seg_from_desc(&t->ss, t->ss_sel);
    struct frame f = {.sp = t->sp, .mask = UINT32_MAX};
    if (far_is_code64(c, &t->cs))
        f.mask = UINT64_MAX;
    else if (!(c->s.seg[SEG_SS].attr & SEG_DB))
        f.mask = 0xffff;
    frame_set_sp(c, &f);
}

static void enter(struct x86_cpu *c, const struct target *t) {
    far_enter(c, &t->cs, t->cs_sel, t->cs_sel & 3, t->rip);
}

/* ---- RET ---- */

static void ret_real(struct x86_cpu *c, const struct frame *f, const struct target *t,
                     uint64_t release) {
    struct frame after = *f;
    if (t->rip > c->s.seg[SEG_CS].limit)
        gp0(c);
    frame_skip(&after, release);
    frame_set_sp(c, &after);
    seg_load_real(c, SEG_CS, t->cs_sel);
    c->next = t->rip;
    cpu_update_mode(c);
}

static void ret_outer(struct x86_cpu *c, struct frame *f, struct target *t, uint64_t release) {
    frame_skip(f, release);
    t->sp = frame_pop(c, f);
    t->ss_sel = (uint16_t)frame_pop(c, f);
    check_stack(c, t);
    far_check_offset(c, &t->cs, t->rip);
    set_accessed(c, t, true);
    t->sp += release;
    drop_inner_segments(c, t->cs_sel & 3);
    load_stack(c, t);
    enter(c, t);
}

void far_op_ret(struct x86_cpu *c, const struct x86_insn *i) {
    struct frame f;
    struct target t;
    uint64_t release = i->flags & INSN_IMM ? i->imm & 0xffff : 0;
    frame_current(c, &f, i->osize);
    t.rip = frame_pop(c, &f);
    t.cs_sel = (uint16_t)frame_pop(c, &f);
    if (!c->pe || c->vm86) {
        ret_real(c, &f, &t, release);
        return;
    }
    check_code(c, &t);
    if ((t.cs_sel & 3u) > c->cpl) {
        ret_outer(c, &f, &t, release);
        return;
    }
    far_check_offset(c, &t.cs, t.rip);
    set_accessed(c, &t, false);
    frame_skip(&f, release);
    frame_set_sp(c, &f);
    enter(c, &t);
}

/* ---- IRET ---- */

/* What IRET may change: by operand size, and privilege before it. */
static uint32_t flags_mask(const struct x86_cpu *c, unsigned osize) {
    uint32_t mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    unsigned iopl = c->s.rflags >> 12 & 3;
    if (osize > 2)
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    if (c->cpl <= iopl)
        mask |= FLAG_IF;
    if (c->cpl == 0)
        mask |= FLAG_IOPL | (osize > 2 && c->pe ? FLAG_VIF | FLAG_VIP : 0);
    return mask;
}

static void load_flags(struct x86_cpu *c, uint64_t v, uint32_t mask) {
    cpu_set_flags(c, (cpu_flags(c) & ~(uint64_t)mask) | (v & mask));
}

static void iret_real(struct x86_cpu *c, const struct x86_insn *i) {
    struct frame f;
    struct target t;
    uint32_t mask = flags_mask(c, i->osize);
    frame_current(c, &f, i->osize);
    t.rip = frame_pop(c, &f);
    t.cs_sel = (uint16_t)frame_pop(c, &f);
    uint64_t flags = frame_pop(c, &f);
    ret_real(c, &f, &t, 0);
    load_flags(c, flags, mask);
    cpu_update_mode(c);
}

/* Below IOPL 3, with the extensions, a 16-bit IRET sees VIF as IF (SDM 3B 20.3.3.4). */
static void iret_v86(struct x86_cpu *c, const struct x86_insn *i) {
    struct frame f;
    struct target t;
    bool virt = (c->s.rflags & FLAG_IOPL) != FLAG_IOPL;
    uint32_t mask = flags_mask(c, i->osize) | (virt ? FLAG_VIF : 0);
    if (virt && (!(c->s.cr4 & CR4_VME) || i->osize != 2))
        gp0(c);
    frame_current(c, &f, i->osize);
    t.rip = frame_pop(c, &f);
    t.cs_sel = (uint16_t)frame_pop(c, &f);
    uint64_t flags = frame_pop(c, &f);
    if (virt) {
        if (flags & FLAG_TF || (flags & FLAG_IF && c->s.rflags & FLAG_VIP))
            gp0(c);
        flags = (flags & 0xffff) | (flags & FLAG_IF ? FLAG_VIF : 0);
    }
    ret_real(c, &f, &t, 0);
    load_flags(c, flags, mask);
    c->s.nmi_blocked = false;
    cpu_update_mode(c);
}

static void iret_to_v86(struct x86_cpu *c, struct frame *f, const struct target *t,
                        uint64_t flags) {
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint16_t sel[ARRAY_LEN(order)];
    uint64_t sp = frame_pop(c, f);
    for (unsigned n = 0; n < ARRAY_LEN(order); n++)
        sel[n] = (uint16_t)frame_pop(c, f);
    if (t->rip > 0xffff)
        gp0(c);
    load_flags(c, flags, flags_mask(c, 4) | FLAG_VM);
    cpu_update_mode(c);
    seg_load_real(c, SEG_CS, t->cs_sel);
    for (unsigned n = 0; n < ARRAY_LEN(order); n++)
        seg_load_real(c, order[n], sel[n]);
    c->s.gpr[RSP] = sp;
    c->next = t->rip;
    cpu_update_mode(c);
}

static void iret_finish(struct x86_cpu *c, struct target *t, uint64_t flags, unsigned osize,
                        bool with_stack) {
    unsigned cpl = t->cs_sel & 3;
    far_check_offset(c, &t->cs, t->rip);
    set_accessed(c, t, with_stack);
    load_flags(c, flags, flags_mask(c, osize));
    if (cpl > c->cpl)
        drop_inner_segments(c, cpl);
    if (with_stack)
        load_stack(c, t);
    enter(c, t);
}

static void iret_protected(struct x86_cpu *c, const struct x86_insn *i) {
    struct frame f;
    struct target t;
    frame_current(c, &f, i->osize);
    t.rip = frame_pop(c, &f);
    t.cs_sel = (uint16_t)frame_pop(c, &f);
    uint64_t flags = frame_pop(c, &f);
    if (flags & FLAG_VM && i->osize == 4 && c->cpl == 0 && !c->lma) {
        iret_to_v86(c, &f, &t, flags);
        return;
    }
    check_code(c, &t);
    bool with_stack = (t.cs_sel & 3u) > c->cpl || c->mode64;
    if (with_stack) {
        t.sp = frame_pop(c, &f);
        t.ss_sel = (uint16_t)frame_pop(c, &f);
        check_stack(c, &t);
    }
    iret_finish(c, &t, flags, i->osize, with_stack);
    if (!with_stack)
        frame_set_sp(c, &f);
}

/* NMIs are unblocked even by an IRET that faults (SDM 3A 6.7.1 counts its execution). */
void far_op_iret(struct x86_cpu *c, const struct x86_insn *i) {
    if (c->vm86) {
        iret_v86(c, i);
        return;
    }
    c->s.nmi_blocked = false;
    if (!c->pe) {
        iret_real(c, i);
    } else if (c->s.rflags & FLAG_NT) {
        if (c->lma)
            gp0(c);
        task_return(c, c->next);
    } else {
        iret_protected(c, i);
    }
}

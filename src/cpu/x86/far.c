/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far transfers: JMP and CALL to code segments and through call gates, task gates and TSSs; INT n
 * and its kin; BOUND and UD. RET and IRET are in farret.c. SDM 2 under each instruction, SDM
 * 3A 5.8.
 */
#include "cpu/x86/far.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/task.h"

static void gp0(struct x86_cpu *c) {
    cpu_raise_err(c, EXC_GP, 0);
}

bool far_is_code64(const struct x86_cpu *c, const struct seg_desc *d) {
    return c->lma && d->hi >> 21 & 1;
}

void far_check_code_size(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel) {
    if (far_is_code64(c, d) && d->hi >> 22 & 1)
        seg_fault(c, EXC_GP, sel);
}

void far_check_offset(struct x86_cpu *c, const struct seg_desc *d, uint64_t rip) {
    bool ok = far_is_code64(c, d) ? seg_canonical(c, rip) : rip <= seg_from_desc(d, 0).limit;
    if (!ok)
        gp0(c);
}

void far_enter(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel, unsigned cpl,
               uint64_t rip) {
    c->s.seg[SEG_CS] = seg_from_desc(d, (uint16_t)((sel & ~3u) | cpl));
    c->next = rip;
    cpu_update_mode(c);
}

/* A far pointer in memory or in the instruction (which decode.c leaves in aux and imm). */
struct far_ptr {
    uint16_t sel;
    uint64_t off;
};

static struct far_ptr load_ptr(struct x86_cpu *c, const struct x86_insn *i) {
    if (!(i->flags & INSN_MEM))
        return (struct far_ptr){.sel = i->aux, .off = i->imm};
    uint64_t lin = insn_linear(c, i, i->osize + 2u, false);
    uint64_t off = mmu_ld(c, lin, i->osize, i->seg);
    uint16_t sel = mmu_ld16(c, cpu_wrap(c, lin + i->osize), i->seg);
    return (struct far_ptr){.sel = sel, .off = off};
}

/* ---- real and virtual-8086 mode ---- */

static void check_real_offset(struct x86_cpu *c, uint64_t off) {
    if (off > c->s.seg[SEG_CS].limit)
        gp0(c);
}

static void jump_real(struct x86_cpu *c, struct far_ptr p) {
    check_real_offset(c, p.off);
    seg_load_real(c, SEG_CS, p.sel);
    c->next = p.off;
    cpu_update_mode(c);
}

/* ---- return addresses ---- */

static void push_return(struct x86_cpu *c, struct frame *f) {
    frame_push(c, f, c->s.seg[SEG_CS].sel);
    frame_push(c, f, c->next);
}

static void call_real(struct x86_cpu *c, struct far_ptr p, unsigned size) {
    struct frame f;
    frame_current(c, &f, size);
    frame_probe(c, &f, 2);
    check_real_offset(c, p.off);
    push_return(c, &f);
    frame_set_sp(c, &f);
    jump_real(c, p);
}

/* ---- code segments ---- */

static void check_direct(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel) {
    unsigned dpl = desc_dpl(d);
    bool ok = desc_is_conforming(d) ? dpl <= c->cpl : (sel & 3u) <= c->cpl && dpl == c->cpl;
    far_check_code_size(c, d, sel);
    if (!ok)
        seg_fault(c, EXC_GP, sel);
    if (!desc_present(d))
        seg_fault(c, EXC_NP, sel);
}

static void jump_code(struct x86_cpu *c, struct seg_desc *d, struct far_ptr p) {
    check_direct(c, d, p.sel);
    far_check_offset(c, d, p.off);
    seg_set_accessed(c, d);
    far_enter(c, d, p.sel, c->cpl, p.off);
}

/* The stack address size is that of the mode CALL was executed in, also when the target is of
 * another size. */
static void call_code(struct x86_cpu *c, struct seg_desc *d, struct far_ptr p, unsigned size) {
    struct frame f;
    check_direct(c, d, p.sel);
    frame_current(c, &f, size);
    frame_probe(c, &f, 2);
    far_check_offset(c, d, p.off);
    seg_set_accessed(c, d);
    push_return(c, &f);
    frame_set_sp(c, &f);
    far_enter(c, d, p.sel, c->cpl, p.off);
}

/* ---- call gates ---- */

struct gate {
    uint16_t sel; /* of the code segment */
    uint64_t off;
    unsigned size;   /* of a stack slot */
    unsigned params; /* slots to copy */
    struct seg_desc code;
};

static void check_gate(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel) {
    if (desc_dpl(d) < MAX(c->cpl, sel & 3u))
        seg_fault(c, EXC_GP, sel);
    if (!desc_present(d))
        seg_fault(c, EXC_NP, sel);
}

/* Reads the gate and the code segment behind it, as far as the checks are the same for JMP and
 * CALL. */
static void open_gate(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel, struct gate *g) {
    bool gate16 = desc_type(d) == DESC_CALL16;
    uint64_t high = c->lma ? seg_fetch_high(c, sel, d) : 0;
    check_gate(c, d, sel);
    g->sel = (uint16_t)(d->lo >> 16);
    g->off = (d->lo & 0xffff) | (gate16 ? 0 : d->hi & 0xffff0000) | high << 32;
    g->size = c->lma ? 8 : gate16 ? 2 : 4;
    g->params = c->lma ? 0 : d->hi & 31;
    if (sel_is_null(g->sel))
        gp0(c);
    seg_fetch_or_fault(c, g->sel, EXC_GP, &g->code);
    bool size_ok = !c->lma || (g->code.hi >> 21 & 3) == 1;
    if (!desc_is_code(&g->code) || desc_dpl(&g->code) > c->cpl || !size_ok)
        seg_fault(c, EXC_GP, g->sel);
}

static void jump_gate(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel) {
    struct gate g;
    open_gate(c, d, sel, &g);
    if (!desc_is_conforming(&g.code) && desc_dpl(&g.code) != c->cpl)
        seg_fault(c, EXC_GP, g.sel);
    if (!desc_present(&g.code))
        seg_fault(c, EXC_NP, g.sel);
    far_check_offset(c, &g.code, g.off);
    seg_set_accessed(c, &g.code);
    far_enter(c, &g.code, g.sel, c->cpl, g.off);
}

static void call_gate_same(struct x86_cpu *c, struct gate *g) {
    struct frame f;
    if (c->lma)
        frame_current64(c, &f);
    else
        frame_current(c, &f, g->size);
    frame_probe(c, &f, 2);
    far_check_offset(c, &g->code, g->off);
    seg_set_accessed(c, &g->code);
    push_return(c, &f);
    frame_set_sp(c, &f);
    far_enter(c, &g->code, g->sel, c->cpl, g->off);
}

/* Parameters lie on the old stack in slots of the gate's size, the first one pushed highest. */
static void read_params(struct x86_cpu *c, const struct gate *g, uint64_t *v) {
    struct frame old;
    frame_current(c, &old, g->size);
    for (unsigned n = 0; n < g->params; n++)
        v[n] = frame_pop(c, &old);
}

static void call_gate_inner(struct x86_cpu *c, struct gate *g) {
    struct frame f;
    struct seg_desc ss;
    uint64_t params[31];
    unsigned cpl = desc_dpl(&g->code);
    if (c->lma)
        frame_from_tss64(c, &f, cpl, 0);
    else
        frame_from_tss(c, &f, cpl, g->size, &ss);
    frame_probe(c, &f, g->params + 4);
    far_check_offset(c, &g->code, g->off);
    read_params(c, g, params);
    seg_set_accessed(c, &g->code);
    if (!c->lma) {
        seg_set_accessed(c, &ss);
        f.ss = seg_from_desc(&ss, f.ss.sel);
    }
    frame_push(c, &f, c->s.seg[SEG_SS].sel);
    frame_push(c, &f, c->s.gpr[RSP]);
    for (unsigned n = g->params; n-- > 0;)
        frame_push(c, &f, params[n]);
    push_return(c, &f);
    c->s.seg[SEG_SS] = f.ss;
    frame_set_sp(c, &f);
    far_enter(c, &g->code, g->sel, cpl, g->off);
}

static void call_gate(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel) {
    struct gate g;
    open_gate(c, d, sel, &g);
    if (!desc_present(&g.code))
        seg_fault(c, EXC_NP, g.sel);
    if (!desc_is_conforming(&g.code) && desc_dpl(&g.code) < c->cpl)
        call_gate_inner(c, &g);
    else
        call_gate_same(c, &g);
}

/* ---- tasks ---- */

static void switch_task(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel, bool call) {
    struct task_from from = {
        .cause = call ? TASK_CALL : TASK_JUMP, .rip = c->next, .flags = cpu_flags(c)};
    if (desc_type(d) == DESC_TASK) {
        check_gate(c, d, sel);
        sel = (uint16_t)(d->lo >> 16);
    } else if (desc_dpl(d) < MAX(c->cpl, sel & 3u)) {
        seg_fault(c, EXC_GP, sel);
    }
    task_switch(c, sel, &from);
}

static void transfer_system(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel, bool call) {
    unsigned type = desc_type(d);
    if (type == DESC_CALL32 || (type == DESC_CALL16 && !c->lma)) {
        if (call)
            call_gate(c, d, sel);
        else
            jump_gate(c, d, sel);
        return;
    }
    bool tss =
        (type & ~(unsigned)DESC_BUSY) == DESC_TSS16 || (type & ~(unsigned)DESC_BUSY) == DESC_TSS32;
    if (c->lma || (!tss && type != DESC_TASK))
        seg_fault(c, EXC_GP, sel);
    switch_task(c, d, sel, call);
}

static void transfer(struct x86_cpu *c, const struct x86_insn *i, bool call) {
    struct seg_desc d;
    struct far_ptr p = load_ptr(c, i);
    if (!c->pe || c->vm86) {
        if (call)
            call_real(c, p, i->osize);
        else
            jump_real(c, p);
        return;
    }
    if (sel_is_null(p.sel))
        gp0(c);
    seg_fetch_or_fault(c, p.sel, EXC_GP, &d);
    if (desc_is_system(&d))
        transfer_system(c, &d, p.sel, call);
    else if (!desc_is_code(&d))
        seg_fault(c, EXC_GP, p.sel);
    else if (call)
        call_code(c, &d, p, i->osize);
    else
        jump_code(c, &d, p);
}

static void op_jmp_far(struct x86_cpu *c, const struct x86_insn *i) {
    transfer(c, i, false);
}

static void op_call_far(struct x86_cpu *c, const struct x86_insn *i) {
    transfer(c, i, true);
}

/* ---- software interrupts, BOUND, UD ---- */

/* SDM 3B table 20-2 */
static void op_int(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t vector = (uint8_t)i->imm;
    if (c->vm86) {
        if (c->s.cr4 & CR4_VME && task_int_redirected(c, vector)) {
            exc_v86_redirect(c, vector);
            return;
        }
        if ((c->s.rflags & FLAG_IOPL) != FLAG_IOPL)
            gp0(c);
    }
    exc_soft(c, vector);
}

static void op_int3(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    exc_soft(c, EXC_BP);
}

static void op_int1(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    exc_int1(c);
}

static void op_into(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    if (c->cc & FLAG_OF)
        exc_soft(c, EXC_OF);
}

static int64_t sign_extend(uint64_t v, unsigned size) {
    return size == 2 ? (int16_t)v : (int32_t)v;
}

static void op_bound(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = insn_linear(c, i, i->osize * 2u, false);
    int64_t low = sign_extend(mmu_ld(c, lin, i->osize, i->seg), i->osize);
    int64_t v = sign_extend(reg_get(c, i->dst, i->osize), i->osize);
    if (v < low) /* without a look at the upper bound */
        cpu_raise(c, EXC_BR);
    int64_t high = sign_extend(mmu_ld(c, (uint32_t)(lin + i->osize), i->osize, i->seg), i->osize);
    if (v > high)
        cpu_raise(c, EXC_BR);
}

static void op_ud(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_raise(c, EXC_UD);
}

/* ---- selection ---- */

static bool select_end(struct x86_insn *i, x86_op_fn *fn) {
    i->fn = fn;
    i->flags |= INSN_END;
    return true;
}

static bool select_transfer(const struct x86_decode *d, struct x86_insn *i, x86_op_fn *fn) {
    return d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && select_end(i, fn);
}

bool select_far(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return select_transfer(d, i, op_jmp_far);
    case ZYDIS_MNEMONIC_CALL:
        return select_transfer(d, i, op_call_far);
    case ZYDIS_MNEMONIC_RET:
        return d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && select_end(i, far_op_ret);
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return select_end(i, far_op_iret);
    case ZYDIS_MNEMONIC_INT:
        return select_end(i, op_int);
    case ZYDIS_MNEMONIC_INT3:
        return select_end(i, op_int3);
    case ZYDIS_MNEMONIC_INT1:
        return select_end(i, op_int1);
    case ZYDIS_MNEMONIC_INTO:
        return select_end(i, op_into);
    case ZYDIS_MNEMONIC_BOUND:
        i->fn = op_bound;
        return true;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return select_end(i, op_ud);
    default:
        return false;
    }
}

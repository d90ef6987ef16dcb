/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions on segment registers and descriptors: moves, far pointer loads, LDTR and TR, LAR,
 * LSL, VERR, VERW, ARPL, FS and GS bases. SDM 2, under each instruction.
 */
#include "cpu/x86/seg.h"
#include "cpu/x86/stack.h"

static void require_protected(struct x86_cpu *c) {
    if (!c->pe || c->vm86)
        cpu_raise(c, EXC_UD);
}

static uint16_t load_rm16(struct x86_cpu *c, const struct x86_insn *i, unsigned reg) {
    if (!(i->flags & INSN_MEM))
        return reg16(c, reg);
    return mmu_ld16(c, insn_linear(c, i, 2, false), i->seg);
}

/* A selector goes to memory as 16 bits, to a register zero-extended to the operand size. */
static void store_selector(struct x86_cpu *c, const struct x86_insn *i, uint16_t sel) {
    if (i->flags & INSN_MEM)
        mmu_st16(c, insn_linear(c, i, 2, true), sel, i->seg);
    else
        reg_set(c, i->dst, i->osize, sel);
}

/* ---- MOV, PUSH, POP ---- */

static void op_mov_from_sreg(struct x86_cpu *c, const struct x86_insn *i) {
    store_selector(c, i, c->s.seg[i->aux].sel);
}

static void load_sreg(struct x86_cpu *c, unsigned sreg, uint16_t sel) {
    seg_load(c, sreg, sel);
    cpu_update_mode(c);
}

static void op_mov_to_sreg(struct x86_cpu *c, const struct x86_insn *i) {
    load_sreg(c, i->aux, load_rm16(c, i, i->src));
    if (i->aux == SEG_SS)
        c->s.shadow_movss = true;
}

/* With a 32-bit operand size processors of today store 16 bits and leave the others (SDM 2B, PUSH).
 */
static void op_push_sreg(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t sp = c->s.gpr[RSP] - i->osize;
    unsigned size = i->osize == 8 ? 8 : 2;
    mmu_st(c, stack_linear(c, sp, size, true), c->s.seg[i->aux].sel, size, SEG_SS);
    stack_set(c, sp);
}

/* The stack pointer is as wide as the stack was before: POP SS may change that. */
static void op_pop_sreg(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t mask = c->stack_mask, sp = c->s.gpr[RSP];
    load_sreg(c, i->aux, (uint16_t)stack_peek(c, 0, i->osize));
    c->s.gpr[RSP] = (sp & ~mask) | ((sp + i->osize) & mask);
    if (i->aux == SEG_SS)
        c->s.shadow_movss = true;
}

/* LDS, LES, LFS, LGS, LSS */
static void op_load_far(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = insn_linear(c, i, i->osize + 2u, false);
    uint64_t off = mmu_ld(c, lin, i->osize, i->seg);
    uint16_t sel = mmu_ld16(c, cpu_wrap(c, lin + i->osize), i->seg);
    load_sreg(c, i->aux, sel);
    reg_set(c, i->dst, i->osize, off);
}

/* ---- LDTR and TR ---- */

static void check_umip(struct x86_cpu *c) {
    require_protected(c);
    if (c->s.cr4 & CR4_UMIP)
        cpu_require_cpl0(c);
}

static void op_sldt(struct x86_cpu *c, const struct x86_insn *i) {
    check_umip(c);
    store_selector(c, i, c->s.ldtr.sel);
}

static void op_str(struct x86_cpu *c, const struct x86_insn *i) {
    check_umip(c);
    store_selector(c, i, c->s.tr.sel);
}

static void op_lldt(struct x86_cpu *c, const struct x86_insn *i) {
    require_protected(c);
    cpu_require_cpl0(c);
    seg_load_ldtr(c, load_rm16(c, i, i->dst), EXC_GP, EXC_NP);
}

static void op_ltr(struct x86_cpu *c, const struct x86_insn *i) {
    struct seg_desc d;
    require_protected(c);
    cpu_require_cpl0(c);
    uint16_t sel = load_rm16(c, i, i->dst);
    if (sel_is_null(sel))
        cpu_raise_err(c, EXC_GP, 0);
    if (sel & 4)
        seg_fault(c, EXC_GP, sel);
    seg_fetch_or_fault(c, sel, EXC_GP, &d);
    bool tss16 = desc_type(&d) == DESC_TSS16 && !c->lma;
    if (!desc_is_system(&d) || (desc_type(&d) != DESC_TSS32 && !tss16))
        seg_fault(c, EXC_GP, sel);
    uint64_t high = c->lma ? seg_fetch_high(c, sel, &d) : 0;
    if (!desc_present(&d))
        seg_fault(c, EXC_NP, sel);
    struct x86_seg s = seg_from_desc(&d, sel);
    s.base |= high << 32;
    s.attr |= DESC_BUSY;
    if (!seg_canonical(c, s.base) || !seg_set_busy(c, d.lin, true))
        seg_fault(c, EXC_GP, sel);
    c->s.tr = s;
}

/* ---- looking at descriptors: never a fault for what the selector names, only ZF ---- */

static void set_zf(struct x86_cpu *c, bool zf) {
    c->cc = (c->cc & ~(uint32_t)FLAG_ZF) | (zf ? FLAG_ZF : 0);
}

static bool fetch_visible(struct x86_cpu *c, uint16_t sel, struct seg_desc *d) {
    if (sel_is_null(sel) || !seg_fetch(c, sel, d))
        return false;
    return desc_is_conforming(d) || MAX(c->cpl, sel & 3u) <= desc_dpl(d);
}

/* Bit n: system type n is valid for the instruction. */
enum {
    LAR_LEGACY = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12,
    LAR_LONG = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12,
    LSL_LEGACY = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11,
    LSL_LONG = 1 << 2 | 1 << 9 | 1 << 11,
};

static bool fetch_typed(struct x86_cpu *c, uint16_t sel, unsigned types, struct seg_desc *d) {
    return fetch_visible(c, sel, d) && (!desc_is_system(d) || types >> desc_type(d) & 1);
}

static void op_lar(struct x86_cpu *c, const struct x86_insn *i) {
    struct seg_desc d;
    require_protected(c);
    bool ok = fetch_typed(c, load_rm16(c, i, i->src), c->lma ? LAR_LONG : LAR_LEGACY, &d);
    set_zf(c, ok);
    if (ok)
        reg_set(c, i->dst, i->osize, d.hi & 0x00ffff00);
}

static void op_lsl(struct x86_cpu *c, const struct x86_insn *i) {
    struct seg_desc d;
    require_protected(c);
    bool ok = fetch_typed(c, load_rm16(c, i, i->src), c->lma ? LSL_LONG : LSL_LEGACY, &d);
    set_zf(c, ok);
    if (ok)
        reg_set(c, i->dst, i->osize, seg_from_desc(&d, 0).limit);
}

static void op_verr(struct x86_cpu *c, const struct x86_insn *i) {
    struct seg_desc d;
    require_protected(c);
    set_zf(c, fetch_visible(c, load_rm16(c, i, i->dst), &d) && desc_is_readable(&d));
}

static void op_verw(struct x86_cpu *c, const struct x86_insn *i) {
    struct seg_desc d;
    require_protected(c);
    set_zf(c, fetch_visible(c, load_rm16(c, i, i->dst), &d) && desc_is_writable_data(&d));
}

/* Memory that does not change need not be writable. */
static void op_arpl(struct x86_cpu *c, const struct x86_insn *i) {
    require_protected(c);
    uint16_t dst = load_rm16(c, i, i->dst), rpl = reg16(c, i->src) & 3;
    uint16_t raised = (uint16_t)((dst & ~3u) | rpl);
    bool raise = (dst & 3) < rpl;
    if (raise && i->flags & INSN_MEM)
        mmu_st16(c, insn_linear(c, i, 2, true), raised, i->seg);
    else if (raise)
        set_reg16(c, i->dst, raised);
    set_zf(c, raise);
}

/* ---- FS and GS bases ---- */

static void require_fsgsbase(struct x86_cpu *c) {
    if (!(c->s.cr4 & CR4_FSGSBASE))
        cpu_raise(c, EXC_UD);
}

static void op_rdbase(struct x86_cpu *c, const struct x86_insn *i) {
    require_fsgsbase(c);
    reg_set(c, i->dst, i->osize, c->s.seg[i->aux].base);
}

static void op_wrbase(struct x86_cpu *c, const struct x86_insn *i) {
    require_fsgsbase(c);
    uint64_t base = reg_get(c, i->dst, i->osize);
    if (!seg_canonical(c, base))
        cpu_raise_err(c, EXC_GP, 0);
    c->s.seg[i->aux].base = base;
    c->base64[i->aux] = base;
}

static void op_swapgs(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_require_cpl0(c);
    uint64_t base = c->s.seg[SEG_GS].base;
    c->s.seg[SEG_GS].base = c->base64[SEG_GS] = c->s.msr.kernel_gs_base;
    c->s.msr.kernel_gs_base = base;
}

/* ---- selection ---- */

/* ES..GS are in enum x86_sreg's order; 6 when it is no segment register. */
static unsigned operand_sreg(const ZydisDecodedOperand *op) {
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->reg.value < ZYDIS_REGISTER_ES ||
        op->reg.value > ZYDIS_REGISTER_GS)
        return 6;
    return (unsigned)(op->reg.value - ZYDIS_REGISTER_ES);
}

static bool select_mov_sreg(const struct x86_decode *d, struct x86_insn *i) {
    unsigned to = operand_sreg(&d->op[0]), from = operand_sreg(&d->op[1]);
    if (to == SEG_CS || (to == 6 && from == 6))
        return false;
    i->fn = to == 6 ? op_mov_from_sreg : op_mov_to_sreg;
    i->aux = (uint16_t)(to == 6 ? from : to);
    i->flags |= to == SEG_SS ? INSN_END : 0;
    return true;
}

static bool select_stack_sreg(const struct x86_decode *d, struct x86_insn *i, x86_op_fn *fn) {
    unsigned sreg = operand_sreg(&d->op[0]);
    i->fn = fn;
    i->aux = (uint16_t)sreg;
    i->flags |= fn == op_pop_sreg && sreg == SEG_SS ? INSN_END : 0;
    return sreg != 6;
}

static bool select_to(struct x86_insn *i, x86_op_fn *fn, unsigned sreg) {
    i->fn = fn;
    i->aux = (uint16_t)sreg;
    return true;
}

static bool select_base(const struct x86_decode *d, struct x86_insn *i, x86_op_fn *fn,
                        unsigned sreg) {
    if (i->osize == 2) /* an operand-size prefix means nothing here */
        i->osize = 4;
    return x86_has(d->cpuid, FEAT_FSGSBASE) && select_to(i, fn, sreg);
}

bool select_seg(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return select_mov_sreg(d, i);
    case ZYDIS_MNEMONIC_PUSH:
        return select_stack_sreg(d, i, op_push_sreg);
    case ZYDIS_MNEMONIC_POP:
        return select_stack_sreg(d, i, op_pop_sreg);
    case ZYDIS_MNEMONIC_LES:
        return select_to(i, op_load_far, SEG_ES);
    case ZYDIS_MNEMONIC_LDS:
        return select_to(i, op_load_far, SEG_DS);
    case ZYDIS_MNEMONIC_LFS:
        return select_to(i, op_load_far, SEG_FS);
    case ZYDIS_MNEMONIC_LGS:
        return select_to(i, op_load_far, SEG_GS);
    case ZYDIS_MNEMONIC_LSS:
        i->flags |= INSN_END;
        return select_to(i, op_load_far, SEG_SS);
    case ZYDIS_MNEMONIC_SLDT:
        return select_to(i, op_sldt, 0);
    case ZYDIS_MNEMONIC_STR:
        return select_to(i, op_str, 0);
    case ZYDIS_MNEMONIC_LLDT:
        return select_to(i, op_lldt, 0);
    case ZYDIS_MNEMONIC_LTR:
        return select_to(i, op_ltr, 0);
    case ZYDIS_MNEMONIC_LAR:
        return select_to(i, op_lar, 0);
    case ZYDIS_MNEMONIC_LSL:
        return select_to(i, op_lsl, 0);
    case ZYDIS_MNEMONIC_VERR:
        return select_to(i, op_verr, 0);
    case ZYDIS_MNEMONIC_VERW:
        return select_to(i, op_verw, 0);
    case ZYDIS_MNEMONIC_ARPL:
        return select_to(i, op_arpl, 0);
    case ZYDIS_MNEMONIC_RDFSBASE:
        return select_base(d, i, op_rdbase, SEG_FS);
    case ZYDIS_MNEMONIC_RDGSBASE:
        return select_base(d, i, op_rdbase, SEG_GS);
    case ZYDIS_MNEMONIC_WRFSBASE:
        return select_base(d, i, op_wrbase, SEG_FS);
    case ZYDIS_MNEMONIC_WRGSBASE:
        return select_base(d, i, op_wrbase, SEG_GS);
    case ZYDIS_MNEMONIC_SWAPGS:
        return select_to(i, op_swapgs, 0);
    default:
        return false;
    }
}

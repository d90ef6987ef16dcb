/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector instructions whose memory access or effect a thunk cannot express: masked and gathering
 * moves (each element faults for itself), MXCSR, and those that touch every register. SDM 2A to 2C
 * under their names.
 */
#include "cpu/x86/vector.h"

static bool is_vex(const struct x86_decode *d) {
    return d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

static uint8_t reg_number(const ZydisDecodedOperand *op) {
    return (uint8_t)ZydisRegisterGetId(op->reg.value);
}

static uint64_t element_get(const uint8_t *v, unsigned n, unsigned size) {
    uint64_t x = 0;
    memcpy(&x, v + n * size, size);
    return x;
}

static void element_set(uint8_t *v, unsigned n, unsigned size, uint64_t x) {
    memcpy(v + n * size, &x, size);
}

static bool element_selected(const uint8_t *mask, unsigned n, unsigned size) {
    return mask[n * size + size - 1] >> 7;
}

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q: dst or source in dst, mask in src, element size in aux, bytes
 * in osize ---- */

static bool masked_selected(struct x86_cpu *c, const struct x86_insn *i, unsigned n) {
    return element_selected(vec_reg(c, i->src), n, i->aux);
}

/* The operand goes on where a 16-bit effective address would wrap. */
static uint64_t masked_linear(struct x86_cpu *c, const struct x86_insn *i, unsigned n, bool write) {
    return cpu_wrap(c, cpu_linear(c, i->seg, insn_ea(c, i) + n * i->aux, i->aux, write));
}

/* All selected elements must have canonical addresses before the first is accessed; their alignment
 * is never checked. */
static void masked_check(struct x86_cpu *c, const struct x86_insn *i, bool write) {
    vec_check(c, VEC_VEX);
    for (unsigned n = 0; n < i->osize / i->aux; n++)
        if (masked_selected(c, i, n))
            mmu_check_range(c, masked_linear(c, i, n, write), i->aux, i->seg);
}

static void op_vmaskmov_load(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t out[64] = {0};
    masked_check(c, i, false);
    for (unsigned n = 0; n < i->osize / i->aux; n++)
        if (masked_selected(c, i, n))
            element_set(out, n, i->aux,
                        mmu_ld_unaligned(c, masked_linear(c, i, n, false), i->aux, i->seg));
    memcpy(vec_reg(c, i->dst), out, sizeof out);
}

/* Both ends of an element: it may cross a page. */
static void masked_probe(struct x86_cpu *c, const struct x86_insn *i, unsigned n) {
    uint64_t lin = masked_linear(c, i, n, true);
    mmu_probe(c, lin, 1, true, i->seg);
    mmu_probe(c, cpu_wrap(c, lin + i->aux - 1), 1, true, i->seg);
}

static void op_vmaskmov_store(struct x86_cpu *c, const struct x86_insn *i) {
    const uint8_t *from = vec_reg(c, i->dst);
    unsigned count = i->osize / i->aux;
    masked_check(c, i, true);
    for (unsigned n = 0; n < count; n++)
        if (masked_selected(c, i, n))
            masked_probe(c, i, n);
    for (unsigned n = 0; n < count; n++)
        if (masked_selected(c, i, n))
            mmu_st_unaligned(c, masked_linear(c, i, n, true), element_get(from, n, i->aux), i->aux,
                             i->seg);
}

static x86_op_fn *select_vmaskmov(const struct x86_decode *d, struct x86_insn *i, unsigned size) {
    bool store = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    i->dst = reg_number(&d->op[store ? 2 : 0]);
    i->src = reg_number(&d->op[1]);
    i->aux = (uint16_t)size;
    i->osize = (uint8_t)(d->op[store ? 0 : 2].size / 8);
    return store ? op_vmaskmov_store : op_vmaskmov_load;
}

/* ---- gathers: destination in dst, mask in src, index in src2; sizes and count in aux ---- */

static int64_t gather_index(const uint8_t *index, unsigned n, unsigned size) {
    uint64_t v = element_get(index, n, size);
    return size == 4 ? (int32_t)v : (int64_t)v;
}

static void gather_widen_mask(uint8_t *mask, unsigned count, unsigned size) {
    for (unsigned n = 0; n < count; n++)
        memset(mask + n * size, element_selected(mask, n, size) ? 0xff : 0, size);
}

/* What was gathered before a fault stays, with its mask cleared, so that the instruction goes on
 * where it stopped. */
static void op_gather(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned size = i->aux & 15, index_size = i->aux >> 4 & 15, count = i->aux >> 8;
    uint8_t *dst = vec_reg(c, i->dst), *mask = vec_reg(c, i->src);
    const uint8_t *index = vec_reg(c, i->src2);
    vec_check(c, VEC_VEX);
    gather_widen_mask(mask, count, size);
    for (unsigned n = 0; n < count; n++) {
        if (!element_selected(mask, n, size))
            continue;
        uint64_t ea = insn_ea(c, i) + ((uint64_t)gather_index(index, n, index_size) << i->scale);
        uint64_t lin = cpu_linear(c, i->seg, ea << i->ashift >> i->ashift, size, false);
        element_set(dst, n, size, mmu_ld(c, lin, size, i->seg));
        element_set(mask, n, size, 0);
    }
    memset(mask, 0, 64);
    memset(dst + count * size, 0, 64 - count * size);
}

static x86_op_fn *select_gather(const struct x86_decode *d, struct x86_insn *i, unsigned size,
                                unsigned index_size) {
    unsigned count = (d->zi->raw.vex.L ? 32u : 16u) / MAX(size, index_size);
    i->dst = reg_number(&d->op[0]);
    i->src = reg_number(&d->op[2]);
    i->src2 = (uint8_t)ZydisRegisterGetId(d->op[1].mem.index);
    i->aux = (uint16_t)(size | index_size << 4 | count << 8);
    return op_gather;
}

/* ---- MASKMOVQ, MASKMOVDQU: bytes of dst selected by src go to DS:rDI ---- */

static uint64_t maskmov_linear(struct x86_cpu *c, const struct x86_insn *i, unsigned off,
                               unsigned size) {
    uint64_t ea = c->s.gpr[RDI] + off;
    return cpu_linear(c, i->seg, ea << i->ashift >> i->ashift, size, true);
}

/* Checked as if all of it were written, by eight bytes, the upper half first. */
static void masked_bytes(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *from,
                         const uint8_t *mask, unsigned count) {
    for (unsigned n = count; n; n -= 8)
        mmu_probe(c, maskmov_linear(c, i, n - 8, 8), 8, true, i->seg);
    for (unsigned n = 0; n < count; n++)
        if (element_selected(mask, n, 1))
            mmu_st8(c, maskmov_linear(c, i, n, 1), from[n], i->seg);
}

static void op_maskmovdqu(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    masked_bytes(c, i, vec_reg(c, i->dst), vec_reg(c, i->src), 16);
}

/* The switch to MMX state comes first. */
static void op_maskmovq(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, VEC_MMX | VEC_NOSSE);
    if (x87_wait(c))
        return;
    mmx_enter(c);
    masked_bytes(c, i, c->s.fpu.st[i->dst & 7], c->s.fpu.st[i->src & 7], 8);
}

static x86_op_fn *select_maskmov(const struct x86_decode *d, struct x86_insn *i) {
    i->dst = reg_number(&d->op[0]);
    i->src = reg_number(&d->op[1]);
    i->aux = is_vex(d) ? VEC_VEX : 0;
    i->seg = SEG_DS;
    for (unsigned n = 2; n < d->zi->operand_count; n++)
        if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            i->seg = (uint8_t)(d->op[n].mem.segment - ZYDIS_REGISTER_ES);
    return d->zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? op_maskmovq : op_maskmovdqu;
}

/* ---- MXCSR ---- */

static void op_ldmxcsr(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    uint32_t v = mmu_ld32(c, insn_linear(c, i, 4, false), i->seg);
    if (v & ~MXCSR_MASK)
        cpu_raise_err(c, EXC_GP, 0);
    c->s.fpu.mxcsr = v;
}

static void op_stmxcsr(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    mmu_st32(c, insn_linear(c, i, 4, true), c->s.fpu.mxcsr, i->seg);
}

/* ---- every register ---- */

static void op_emms(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    vec_check(c, VEC_MMX | VEC_NOSSE);
    if (x87_wait(c))
        return;
    mmx_enter(c);
    c->s.fpu.ftw = 0;
}

static void zero_from(struct x86_cpu *c, const struct x86_insn *i, unsigned first) {
    vec_check(c, VEC_VEX);
    for (unsigned n = 0; n < (i->mode == 64 ? 16u : 8u); n++)
        memset(vec_reg(c, n) + first, 0, 64 - first);
}

static void op_vzeroall(struct x86_cpu *c, const struct x86_insn *i) {
    zero_from(c, i, 0);
}

static void op_vzeroupper(struct x86_cpu *c, const struct x86_insn *i) {
    zero_from(c, i, 16);
}

/* ---- selection ---- */

static x86_op_fn *select_masked(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
        return select_vmaskmov(d, i, 4);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return select_vmaskmov(d, i, 8);
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
        return select_gather(d, i, 4, 4);
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
        return select_gather(d, i, 4, 8);
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
        return select_gather(d, i, 8, 4);
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
        return select_gather(d, i, 8, 8);
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return select_maskmov(d, i);
    default:
        return NULL;
    }
}

x86_op_fn *vec_select_special(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        i->aux = is_vex(d) ? VEC_VEX : 0;
        return op_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
        i->aux = is_vex(d) ? VEC_VEX : 0;
        return op_stmxcsr;
    case ZYDIS_MNEMONIC_EMMS:
        return op_emms;
    case ZYDIS_MNEMONIC_VZEROALL:
        return op_vzeroall;
    case ZYDIS_MNEMONIC_VZEROUPPER:
        return op_vzeroupper;
    default:
        return select_masked(d, i);
    }
}

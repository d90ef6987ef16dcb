/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector moves and bitwise operations that string functions and compilers use everywhere, in C:
 * a thunk would cost more than they do. Legacy forms keep the destination's bits above 127, VEX
 * forms clear them.
 */
#include "cpu/x86/vector.h"

typedef uint64_t lanes __attribute__((vector_size(16), may_alias, aligned(16)));

static lanes *xmm(struct x86_cpu *c, unsigned n) {
    return (lanes *)(void *)vec_reg(c, n);
}

/* Everything above the first `bytes` of a register. */
static void clear_above(struct x86_cpu *c, unsigned n, unsigned bytes) {
    memset(vec_reg(c, n) + bytes, 0, 64 - bytes);
}

/* ---- whole registers: alignment mask in aux, bytes in osize ---- */

static void op_load16(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, 0);
    vec_load(c, vec_linear(c, i, 16, i->aux, false), vec_reg(c, i->dst), 16, i->seg);
}

static void op_store16(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, 0);
    vec_store(c, vec_linear(c, i, 16, i->aux, true), vec_reg(c, i->src), 16, i->seg);
}

static void op_move16(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, 0);
    *xmm(c, i->dst) = *xmm(c, i->src);
}

static void op_vload(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, VEC_VEX);
    vec_load(c, vec_linear(c, i, i->osize, i->aux, false), vec_reg(c, i->dst), i->osize, i->seg);
    clear_above(c, i->dst, i->osize);
}

static void op_vstore(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, VEC_VEX);
    vec_store(c, vec_linear(c, i, i->osize, i->aux, true), vec_reg(c, i->src), i->osize, i->seg);
}

static void op_vmove(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, VEC_VEX);
    memmove(vec_reg(c, i->dst), vec_reg(c, i->src), i->osize);
    clear_above(c, i->dst, i->osize);
}

/* ---- scalars: bytes in osize, VEC_VEX or 0 in aux ---- */

static void set_low(struct x86_cpu *c, const struct x86_insn *i, uint64_t v) {
    *xmm(c, i->dst) = (lanes){v, 0};
    if (i->aux)
        clear_above(c, i->dst, 16);
}

static uint64_t low(struct x86_cpu *c, unsigned n, unsigned size) {
    uint64_t v = (*xmm(c, n))[0];
    return size == 4 ? (uint32_t)v : v;
}

static void op_load_scalar(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    set_low(c, i, mmu_ld(c, insn_linear(c, i, i->osize, false), i->osize, i->seg));
}

static void op_store_scalar(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    mmu_st(c, insn_linear(c, i, i->osize, true), low(c, i->src, i->osize), i->osize, i->seg);
}

static void op_from_gpr(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    set_low(c, i, reg_get(c, i->src, i->osize));
}

static void op_to_gpr(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    set_reg64(c, i->dst, low(c, i->src, i->osize));
}

static void op_move_low(struct x86_cpu *c, const struct x86_insn *i) {
    vec_check(c, i->aux);
    set_low(c, i, low(c, i->src, 8));
}

/* ---- bitwise: legacy dst op= src; VEX dst = src op src2, 128 or 256 bits ---- */

#define BITWISE(name, expr)                                                                        \
    static lanes bits_##name(lanes a, lanes b) {                                                   \
        return expr;                                                                               \
    }                                                                                              \
    static void op_##name(struct x86_cpu *c, const struct x86_insn *i) {                           \
        vec_check(c, 0);                                                                           \
        *xmm(c, i->dst) = bits_##name(*xmm(c, i->dst), *xmm(c, i->src));                           \
    }                                                                                              \
    static void op_##name##_mem(struct x86_cpu *c, const struct x86_insn *i) {                     \
        lanes b;                                                                                   \
        vec_check(c, 0);                                                                           \
        vec_load(c, vec_linear(c, i, 16, 15, false), &b, 16, i->seg);                              \
        *xmm(c, i->dst) = bits_##name(*xmm(c, i->dst), b);                                         \
    }                                                                                              \
    static void op_v##name(struct x86_cpu *c, const struct x86_insn *i) {                          \
        const lanes *a = xmm(c, i->src), *b = xmm(c, i->src2);                                     \
        lanes *out = xmm(c, i->dst);                                                               \
        vec_check(c, VEC_VEX);                                                                     \
        for (unsigned n = 0; n < i->osize / 16u; n++)                                              \
            out[n] = bits_##name(a[n], b[n]);                                                      \
        clear_above(c, i->dst, i->osize);                                                          \
    }
BITWISE(xor, a ^ b)
BITWISE(or, a | b)
BITWISE(and, a &b)
BITWISE(andn, ~a &b)
#undef BITWISE

/* ---- selection ---- */

static bool is_memory(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool is_class(const ZydisDecodedOperand *op, ZydisRegisterClass class) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == class;
}

static bool is_mmx(const struct x86_decode *d) {
    return is_class(&d->op[0], ZYDIS_REGCLASS_MMX) || is_class(&d->op[1], ZYDIS_REGCLASS_MMX);
}

static void take_vectors(const struct x86_decode *d, struct x86_insn *i) {
    uint8_t *const reg[3] = {&i->dst, &i->src, &i->src2};
    for (unsigned n = 0; n < MIN(d->zi->operand_count_visible, 3u); n++)
        if (is_class(&d->op[n], ZYDIS_REGCLASS_XMM) || is_class(&d->op[n], ZYDIS_REGCLASS_YMM))
            *reg[n] = (uint8_t)ZydisRegisterGetId(d->op[n].reg.value);
}

static x86_op_fn *pick_whole(const struct x86_decode *d, struct x86_insn *i, bool aligned) {
    bool vex = d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    i->osize = (uint8_t)(d->op[0].size / 8);
    i->aux = aligned ? i->osize - 1u : 0;
    if (is_memory(&d->op[0]))
        return vex ? op_vstore : op_store16;
    if (is_memory(&d->op[1]))
        return vex ? op_vload : op_load16;
    return vex ? op_vmove : op_move16;
}

/* MOVD, MOVQ, MOVSS, MOVSD. A register-to-register MOVSS or MOVSD merges, and is left to the
 * thunks. */
static x86_op_fn *pick_scalar(const struct x86_decode *d, struct x86_insn *i, unsigned size,
                              bool merges) {
    if (is_mmx(d))
        return NULL;
    i->osize = (uint8_t)size;
    i->aux = d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? VEC_VEX : 0;
    if (is_memory(&d->op[0]))
        return op_store_scalar;
    if (is_memory(&d->op[1]))
        return op_load_scalar;
    if (merges)
        return NULL;
    if (!is_class(&d->op[0], ZYDIS_REGCLASS_XMM))
        return op_to_gpr;
    return is_class(&d->op[1], ZYDIS_REGCLASS_XMM) ? op_move_low : op_from_gpr;
}

static x86_op_fn *pick_bitwise(const struct x86_decode *d, struct x86_insn *i,
                               x86_op_fn *const fn[3]) {
    bool vex = d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (is_mmx(d))
        return NULL;
    i->osize = (uint8_t)(d->op[0].size / 8);
    if (vex)
        return is_memory(&d->op[2]) ? NULL : fn[2];
    return is_memory(&d->op[1]) ? fn[1] : fn[0];
}

#define PICK_BITWISE(name)                                                                         \
    pick_bitwise(d, i, (x86_op_fn *const[]){op_##name, op_##name##_mem, op_v##name})

static x86_op_fn *pick_logic(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_PXOR:
    case ZYDIS_MNEMONIC_XORPS:
    case ZYDIS_MNEMONIC_XORPD:
    case ZYDIS_MNEMONIC_VPXOR:
    case ZYDIS_MNEMONIC_VXORPS:
    case ZYDIS_MNEMONIC_VXORPD:
        return PICK_BITWISE(xor);
    case ZYDIS_MNEMONIC_POR:
    case ZYDIS_MNEMONIC_ORPS:
    case ZYDIS_MNEMONIC_ORPD:
    case ZYDIS_MNEMONIC_VPOR:
        return PICK_BITWISE(or);
    case ZYDIS_MNEMONIC_PAND:
    case ZYDIS_MNEMONIC_ANDPS:
    case ZYDIS_MNEMONIC_ANDPD:
    case ZYDIS_MNEMONIC_VPAND:
        return PICK_BITWISE(and);
    case ZYDIS_MNEMONIC_PANDN:
    case ZYDIS_MNEMONIC_ANDNPS:
    case ZYDIS_MNEMONIC_ANDNPD:
    case ZYDIS_MNEMONIC_VPANDN:
        return PICK_BITWISE(andn);
    default:
        return NULL;
    }
}

static x86_op_fn *pick(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_VMOVUPS:
    case ZYDIS_MNEMONIC_VMOVUPD:
    case ZYDIS_MNEMONIC_VMOVDQU:
    case ZYDIS_MNEMONIC_VLDDQU:
        return pick_whole(d, i, false);
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return pick_whole(d, i, true);
    case ZYDIS_MNEMONIC_MOVD:
    case ZYDIS_MNEMONIC_VMOVD:
        return pick_scalar(d, i, 4, false);
    case ZYDIS_MNEMONIC_MOVQ:
    case ZYDIS_MNEMONIC_VMOVQ:
        return pick_scalar(d, i, 8, false);
    case ZYDIS_MNEMONIC_MOVSS:
    case ZYDIS_MNEMONIC_VMOVSS:
        return pick_scalar(d, i, 4, true);
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_VMOVSD:
        return pick_scalar(d, i, 8, true);
    default:
        return pick_logic(d, i);
    }
}

x86_op_fn *vec_select_move(const struct x86_decode *d, struct x86_insn *i) {
    x86_op_fn *fn = pick(d, i);
    if (fn)
        take_vectors(d, i);
    return fn;
}

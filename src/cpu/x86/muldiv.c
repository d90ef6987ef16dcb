/* SPDX-License-Identifier: Apache-2.0 */
/* MUL, IMUL, DIV, IDIV (SDM 2). Division overflow is found before the host could trap on it. */
#include "cpu/x86/mmu.h"

/* PUSHF after the operation: the results occupy AX, so LAHF cannot be used. */
#define PUSH_FLAGS "\n\tpushfq\n\tpopq "

static uint64_t source(struct x86_cpu *c, const struct x86_insn *i, unsigned reg) {
    if (i->flags & INSN_MEM)
        return mmu_ld(c, insn_linear(c, i, i->osize, false), i->osize, i->seg);
    return reg_get(c, reg, i->osize);
}

/* ---- widening multiplication ---- */

#define WIDE_MUL(name, bits, suf)                                                                  \
    static void name##bits(struct x86_cpu *c, uint64_t v) {                                        \
        uint##bits##_t lo = (uint##bits##_t)c->s.gpr[RAX], hi;                                     \
        uint64_t fl;                                                                               \
        __asm__(#name suf " %3" PUSH_FLAGS "%2"                                                    \
                : "+&a"(lo), "=&d"(hi), "=&r"(fl)                                                  \
                : "r"((uint##bits##_t)v)                                                           \
                : "cc");                                                                           \
        c->cc = (uint32_t)fl & FLAG_ARITH;                                                         \
        set_reg##bits(c, REG_OFF(RAX), lo);                                                        \
        set_reg##bits(c, REG_OFF(RDX), hi);                                                        \
    }

/* AX = AL * operand. */
#define WIDE_MUL8(name)                                                                            \
    static void name##8(struct x86_cpu * c, uint64_t v) {                                          \
        uint16_t ax = (uint8_t)c->s.gpr[RAX];                                                      \
        uint64_t fl;                                                                               \
        __asm__(#name "b %2" PUSH_FLAGS "%1" : "+&a"(ax), "=&r"(fl) : "q"((uint8_t)v) : "cc");     \
        c->cc = (uint32_t)fl & FLAG_ARITH;                                                         \
        set_reg16(c, REG_OFF(RAX), ax);                                                            \
    }
#define WIDE_MULS(name)                                                                            \
    WIDE_MUL8(name) WIDE_MUL(name, 16, "w") WIDE_MUL(name, 32, "l") WIDE_MUL(name, 64, "q")
WIDE_MULS(mul)
WIDE_MULS(imul)

typedef void wide_fn(struct x86_cpu *c, uint64_t v);
static wide_fn *const WIDE_FN[2][4] = {{mul8, mul16, mul32, mul64},
                                       {imul8, imul16, imul32, imul64}};

X86_OP(op_mul_wide) {
    wide_fn *const *fn = i->data;
    (*fn)(c, source(c, i, i->dst));
}

/* ---- IMUL with a destination ---- */

#define IMUL2(bits, suf)                                                                           \
    static uint64_t imul2_##bits(struct x86_cpu *c, uint64_t a, uint64_t b) {                      \
        uint##bits##_t v = (uint##bits##_t)a;                                                      \
        uint64_t fl;                                                                               \
        __asm__("imul" suf " %2, %0" PUSH_FLAGS "%1"                                               \
                : "+&r"(v), "=&r"(fl)                                                              \
                : "r"((uint##bits##_t)b)                                                           \
                : "cc");                                                                           \
        c->cc = (uint32_t)fl & FLAG_ARITH;                                                         \
        return v;                                                                                  \
    }
IMUL2(16, "w")
IMUL2(32, "l")
IMUL2(64, "q")

static uint64_t imul_sized(struct x86_cpu *c, uint64_t a, uint64_t b, unsigned size) {
    return size == 8 ? imul2_64(c, a, b) : size == 4 ? imul2_32(c, a, b) : imul2_16(c, a, b);
}

X86_OP(op_imul2) {
    uint64_t b = source(c, i, i->src);
    reg_set(c, i->dst, i->osize, imul_sized(c, reg_get(c, i->dst, i->osize), b, i->osize));
}

X86_OP(op_imul3) {
    uint64_t a = source(c, i, i->src);
    reg_set(c, i->dst, i->osize, imul_sized(c, a, i->imm, i->osize));
}

/* ---- division ---- */

/* The host's flags after a division, which the manual leaves undefined, are those before it. */
#define DIVIDE(bits, wide, swide)                                                                  \
    static void div##bits(struct x86_cpu *c, uint64_t v) {                                         \
        wide n = (wide)(uint##bits##_t)c->s.gpr[RDX] << (bits) | (uint##bits##_t)c->s.gpr[RAX];    \
        uint##bits##_t d = (uint##bits##_t)v;                                                      \
        if (d == 0 || n >> (bits) >= d)                                                            \
            cpu_raise(c, EXC_DE);                                                                  \
        set_reg##bits(c, REG_OFF(RAX), (uint##bits##_t)(n / d));                                   \
        set_reg##bits(c, REG_OFF(RDX), (uint##bits##_t)(n % d));                                   \
    }                                                                                              \
    static void idiv##bits(struct x86_cpu *c, uint64_t v) {                                        \
        swide n = (swide)((wide)(uint##bits##_t)c->s.gpr[RDX] << (bits) |                          \
                          (uint##bits##_t)c->s.gpr[RAX]);                                          \
        swide d = (int##bits##_t)v;                                                                \
        const swide min = -((swide)1 << ((bits)*2 - 2)) * 2;                                       \
        if (d == 0 || (d == -1 && n == min))                                                       \
            cpu_raise(c, EXC_DE);                                                                  \
        swide q = n / d, r = n % d;                                                                \
        if (q != (int##bits##_t)q)                                                                 \
            cpu_raise(c, EXC_DE);                                                                  \
        set_reg##bits(c, REG_OFF(RAX), (uint##bits##_t)q);                                         \
        set_reg##bits(c, REG_OFF(RDX), (uint##bits##_t)r);                                         \
    }
__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 s128;
DIVIDE(16, uint32_t, int32_t)
DIVIDE(32, uint64_t, int64_t)
DIVIDE(64, u128, s128)

/* AX by the operand: quotient to AL, remainder to AH. */
static void div8(struct x86_cpu *c, uint64_t v) {
    uint16_t n = (uint16_t)c->s.gpr[RAX];
    uint8_t d = (uint8_t)v;
    if (d == 0 || n / d > UINT8_MAX)
        cpu_raise(c, EXC_DE);
    set_reg16(c, REG_OFF(RAX), (uint16_t)((n % d) << 8 | n / d));
}

static void idiv8(struct x86_cpu *c, uint64_t v) {
    int n = (int16_t)c->s.gpr[RAX], d = (int8_t)v;
    if (d == 0 || n / d != (int8_t)(n / d))
        cpu_raise(c, EXC_DE);
    set_reg16(c, REG_OFF(RAX), (uint16_t)((n % d & 0xff) << 8 | (n / d & 0xff)));
}

static wide_fn *const DIV_FN[2][4] = {{div8, div16, div32, div64}, {idiv8, idiv16, idiv32, idiv64}};

bool select_muldiv(const struct x86_decode *d, struct x86_insn *i) {
    unsigned size = size_index(i->osize);
    bool signed_op =
        d->zi->mnemonic == ZYDIS_MNEMONIC_IMUL || d->zi->mnemonic == ZYDIS_MNEMONIC_IDIV;
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_IMUL:
        if (d->zi->operand_count_visible > 1) {
            i->fn = d->zi->operand_count_visible == 3 ? op_imul3 : op_imul2;
            return true;
        }
        i->data = &WIDE_FN[signed_op][size];
        break;
    case ZYDIS_MNEMONIC_MUL:
        i->data = &WIDE_FN[signed_op][size];
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        i->data = &DIV_FN[signed_op][size];
        break;
    default:
        return false;
    }
    i->fn = op_mul_wide;
    return true;
}

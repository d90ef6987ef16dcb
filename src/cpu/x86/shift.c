/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHLD, SHRD (SDM 2). Counts are masked to 5 bits (6 for 64-bit
 * operands); a count of zero changes nothing. The host's instruction computes value and flags.
 */
#include "cpu/x86/hostflags.h"
#include "cpu/x86/mmu.h"

/* ADD 127 to AL (0 or 1) sets OF, SAHF the rest: the host starts with the guest's flags, for RCL
 * and RCR and for what an instruction leaves alone. */
#define PUT_FLAGS "addb $127, %%al\n\tsahf\n\t"

static inline uint16_t flags_pack(uint32_t cc) {
    return (uint16_t)((cc & 0xff) << 8 | (cc >> 11 & 1));
}

/*
 * OF of a rotation by more than one is undefined. Processors differ; as on the 80386, it follows
 * the rule for one: the result's top bit against CF (left) or against the bit below it (right).
 */
static inline uint32_t overflow_left(uint32_t cc, uint64_t result, unsigned bits) {
    uint32_t of = (uint32_t)(result >> (bits - 1) ^ cc) & 1;
    return (cc & ~(uint32_t)FLAG_OF) | of << 11;
}

static inline uint32_t overflow_right(uint32_t cc, uint64_t result, unsigned bits) {
    uint32_t of = (uint32_t)(result >> (bits - 1) ^ result >> (bits - 2)) & 1;
    return (cc & ~(uint32_t)FLAG_OF) | of << 11;
}

static inline uint32_t overflow_host(uint32_t cc, uint64_t result, unsigned bits) {
    (void)result, (void)bits;
    return cc;
}

#define SHIFT(name, bits, suf, overflow)                                                           \
    static uint64_t name##bits(uint64_t v, unsigned count, uint32_t *cc) {                         \
        uint##bits##_t a = (uint##bits##_t)v;                                                      \
        uint16_t f = flags_pack(*cc);                                                              \
        __asm__(PUT_FLAGS #name suf " %%cl, %0" TAKE_FLAGS                                         \
                : "+&q"(a), "+&a"(f)                                                               \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        *cc = overflow(flags_unpack(f), a, bits);                                                  \
        return a;                                                                                  \
    }
#define SHIFT_SIZES(name, overflow)                                                                \
    SHIFT(name, 8, "b", overflow)                                                                  \
    SHIFT(name, 16, "w", overflow)                                                                 \
    SHIFT(name, 32, "l", overflow)                                                                 \
    SHIFT(name, 64, "q", overflow)
SHIFT_SIZES(rol, overflow_left)
SHIFT_SIZES(ror, overflow_right)
SHIFT_SIZES(rcl, overflow_left)
SHIFT_SIZES(rcr, overflow_right)
SHIFT_SIZES(shl, overflow_host)
SHIFT_SIZES(shr, overflow_host)
SHIFT_SIZES(sar, overflow_host)

typedef uint64_t shift_fn(uint64_t v, unsigned count, uint32_t *cc);
#define ROW(name)                                                                                  \
    { name##8, name##16, name##32, name##64 }
/* By ModRM.reg, as group 2 encodes them (6 is an alias of SHL). */
static shift_fn *const SHIFT_FN[8][4] = {ROW(rol), ROW(ror), ROW(rcl), ROW(rcr),
                                         ROW(shl), ROW(shr), ROW(shl), ROW(sar)};

static unsigned masked(const struct x86_insn *i, uint64_t count) {
    return count & (i->osize == 8 ? 63 : 31);
}

static void shift_reg(struct x86_cpu *c, const struct x86_insn *i, unsigned count) {
    shift_fn *const *fn = i->data;
    uint64_t v = reg_get(c, i->dst, i->osize);
    if (count)
        v = (*fn)(v, count, &c->cc);
    reg_set(c, i->dst, i->osize, v); /* a 32-bit destination is cut even when the count is zero */
}

static void shift_mem(struct x86_cpu *c, const struct x86_insn *i, unsigned count) {
    shift_fn *const *fn = i->data;
    uint64_t lin = insn_linear(c, i, i->osize, true);
    mmu_rmw(c, lin, i->osize, i->seg);
    uint64_t v = mmu_ld(c, lin, i->osize, i->seg);
    if (!count)
        return;
    uint32_t cc = c->cc;
    mmu_st(c, lin, (*fn)(v, count, &cc), i->osize, i->seg);
    c->cc = cc;
}

X86_OP(op_shift_ri) {
    shift_reg(c, i, masked(i, i->imm));
}
X86_OP(op_shift_mi) {
    shift_mem(c, i, masked(i, i->imm));
}
X86_OP(op_shift_rc) {
    shift_reg(c, i, masked(i, c->s.gpr[RCX]));
}
X86_OP(op_shift_mc) {
    shift_mem(c, i, masked(i, c->s.gpr[RCX]));
}

/* The two that programs use most, in 32 and 64 bits with a constant count. */
#define FAST(name, bits)                                                                           \
    X86_OP(op_fast_##name##bits) {                                                                 \
        set_reg##bits(c, i->dst,                                                                   \
                      (uint##bits##_t)name##bits(reg##bits(c, i->dst), (unsigned)i->imm, &c->cc)); \
    }
FAST(shl, 32)
FAST(shl, 64)
FAST(shr, 32)
FAST(shr, 64)
FAST(sar, 32)
FAST(sar, 64)

/* ---- double shifts ---- */

#define DOUBLE(name, bits, suf)                                                                    \
    static uint64_t name##bits(uint64_t v, uint64_t from, unsigned count, uint32_t *cc) {          \
        uint##bits##_t a = (uint##bits##_t)v, b = (uint##bits##_t)from;                            \
        uint16_t f = flags_pack(*cc);                                                              \
        __asm__(PUT_FLAGS #name suf " %%cl, %3, %0" TAKE_FLAGS                                     \
                : "+&r"(a), "+&a"(f)                                                               \
                : "c"(count), "r"(b)                                                               \
                : "cc");                                                                           \
        *cc = flags_unpack(f);                                                                     \
        return a;                                                                                  \
    }
DOUBLE(shld, 16, "w")
DOUBLE(shld, 32, "l")
DOUBLE(shld, 64, "q")
DOUBLE(shrd, 16, "w")
DOUBLE(shrd, 32, "l")
DOUBLE(shrd, 64, "q")

typedef uint64_t double_fn(uint64_t v, uint64_t from, unsigned count, uint32_t *cc);
static double_fn *const DOUBLE_FN[2][3] = {{shld16, shld32, shld64}, {shrd16, shrd32, shrd64}};

/* aux: 1 when the count is CL. */
X86_OP(op_double) {
    double_fn *const *fn = i->data;
    unsigned count = masked(i, i->aux ? c->s.gpr[RCX] : i->imm);
    uint64_t from = reg_get(c, i->src, i->osize);
    uint32_t cc = c->cc;
    if (i->flags & INSN_MEM) {
        uint64_t lin = insn_linear(c, i, i->osize, true);
        mmu_rmw(c, lin, i->osize, i->seg);
        uint64_t v = mmu_ld(c, lin, i->osize, i->seg);
        if (count)
            mmu_st(c, lin, (*fn)(v, from, count, &cc), i->osize, i->seg);
    } else {
        uint64_t v = reg_get(c, i->dst, i->osize);
        reg_set(c, i->dst, i->osize, count ? (*fn)(v, from, count, &cc) : v);
    }
    c->cc = cc;
}

/* ---- selection ---- */

static int group_index(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_ROL:
        return 0;
    case ZYDIS_MNEMONIC_ROR:
        return 1;
    case ZYDIS_MNEMONIC_RCL:
        return 2;
    case ZYDIS_MNEMONIC_RCR:
        return 3;
    case ZYDIS_MNEMONIC_SHL:
        return 4;
    case ZYDIS_MNEMONIC_SHR:
        return 5;
    case ZYDIS_MNEMONIC_SAR:
        return 7;
    default:
        return -1;
    }
}

static x86_op_fn *fast_constant(int group, const struct x86_insn *i) {
    bool usable = i->flags & INSN_IMM && !(i->flags & INSN_MEM) && masked(i, i->imm);
    if (!usable || i->osize < 4)
        return NULL;
    bool wide = i->osize == 8;
    switch (group) {
    case 4:
        return wide ? op_fast_shl64 : op_fast_shl32;
    case 5:
        return wide ? op_fast_shr64 : op_fast_shr32;
    case 7:
        return wide ? op_fast_sar64 : op_fast_sar32;
    default:
        return NULL;
    }
}

static bool select_group(int group, struct x86_insn *i) {
    bool mem = i->flags & INSN_MEM, imm = i->flags & INSN_IMM;
    i->data = &SHIFT_FN[group][size_index(i->osize)];
    x86_op_fn *fast = fast_constant(group, i);
    if (fast)
        i->imm = masked(i, i->imm);
    i->fn = fast ? fast : imm ? mem ? op_shift_mi : op_shift_ri : mem ? op_shift_mc : op_shift_rc;
    return true;
}

bool select_shift(const struct x86_decode *d, struct x86_insn *i) {
    ZydisMnemonic m = d->zi->mnemonic;
    if (m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD) {
        i->data = &DOUBLE_FN[m == ZYDIS_MNEMONIC_SHRD][size_index(i->osize) - 1];
        i->aux = !(i->flags & INSN_IMM);
        i->fn = op_double;
        return true;
    }
    int group = group_index(m);
    return group >= 0 && select_group(group, i);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT in every operand form and size,
 * and their locked forms (SDM 2). Each is one host instruction; one function per form keeps the
 * loop free of decisions.
 */
#include "cpu/x86/hostflags.h"
#include "cpu/x86/mmu.h"

/* ---- the operations: a = a OP b, flags to *cc ---- */

#define SUF8 "b"
#define SUF16 "w"
#define SUF32 "l"
#define SUF64 "q"

#define BINARY(name, bits)                                                                         \
    static inline uint##bits##_t name##bits(uint##bits##_t a, uint##bits##_t b, uint32_t *cc) {    \
        uint16_t f;                                                                                \
        __asm__(#name SUF##bits " %2, %0" TAKE_FLAGS : "+&q"(a), "=&a"(f) : "q"(b) : "cc");        \
        *cc = flags_unpack(f);                                                                     \
        return a;                                                                                  \
    }

#define BINARY_CARRY(name, bits)                                                                   \
    static inline uint##bits##_t name##bits(uint##bits##_t a, uint##bits##_t b, uint32_t *cc) {    \
        uint16_t f;                                                                                \
        __asm__("btl $0, %3\n\t" #name SUF##bits " %2, %0" TAKE_FLAGS                              \
                : "+&q"(a), "=&a"(f)                                                               \
                : "q"(b), "r"(*cc)                                                                 \
                : "cc");                                                                           \
        *cc = flags_unpack(f);                                                                     \
        return a;                                                                                  \
    }

#define UNARY(name, bits)                                                                          \
    static inline uint##bits##_t name##bits(uint##bits##_t a, uint32_t *cc) {                      \
        uint16_t f;                                                                                \
        __asm__("btl $0, %2\n\t" #name SUF##bits " %0" TAKE_FLAGS                                  \
                : "+&q"(a), "=&a"(f)                                                               \
                : "r"(*cc)                                                                         \
                : "cc");                                                                           \
        *cc = flags_unpack(f);                                                                     \
        return a;                                                                                  \
    }

#define ALL_SIZES(M, name) M(name, 8) M(name, 16) M(name, 32) M(name, 64)

ALL_SIZES(BINARY, add)
ALL_SIZES(BINARY, or)
ALL_SIZES(BINARY, and)
ALL_SIZES(BINARY, sub)
ALL_SIZES(BINARY, xor)
ALL_SIZES(BINARY, cmp)
ALL_SIZES(BINARY, test)
ALL_SIZES(BINARY_CARRY, adc)
ALL_SIZES(BINARY_CARRY, sbb)
ALL_SIZES(UNARY, inc)
ALL_SIZES(UNARY, dec)
ALL_SIZES(UNARY, neg)

/* NOT changes no flags. */
#define NOT(name, bits)                                                                            \
    static inline uint##bits##_t name##bits(uint##bits##_t a, uint32_t *cc) {                      \
        (void)cc;                                                                                  \
        return (uint##bits##_t) ~a;                                                                \
    }
ALL_SIZES(NOT, not )

/* ---- operand forms ---- */

#define MEM_LIN(bits, write) uint64_t lin = insn_linear(c, i, (bits) / 8, write)

/*
 * Memory destination: checked as a write first. A locked form, and any form on memory that is not
 * plain RAM in one page, goes the longer ways.
 */
#define RMW_PLAIN(bits, EXPR)                                                                      \
    MEM_LIN(bits, true);                                                                           \
    uint32_t cc = c->cc;                                                                           \
    void *p = mmu_rmw(c, lin, (bits) / 8, i->seg);                                                 \
    if (likely(p)) {                                                                               \
        uint##bits##_t old = guest_ld##bits(p);                                                    \
        guest_st##bits(p, EXPR);                                                                   \
        mmu_wrote(c, p, (bits) / 8);                                                               \
    } else {                                                                                       \
        uint##bits##_t old = mmu_ld##bits(c, lin, i->seg);                                         \
        mmu_st##bits(c, lin, EXPR, i->seg);                                                        \
    }                                                                                              \
    c->cc = cc

#define RMW_LOCKED(bits, EXPR)                                                                     \
    MEM_LIN(bits, true);                                                                           \
    uint32_t cc;                                                                                   \
    uint##bits##_t *p = mmu_rmw(c, lin, (bits) / 8, i->seg);                                       \
    if (likely(p)) {                                                                               \
        uint##bits##_t old = __atomic_load_n(p, __ATOMIC_RELAXED), new;                            \
        do {                                                                                       \
            cc = c->cc;                                                                            \
            new = EXPR;                                                                            \
        } while (!__atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST,               \
                                              __ATOMIC_RELAXED));                                  \
        mmu_wrote(c, p, (bits) / 8);                                                               \
    } else {                                                                                       \
        mmu_bus_lock(c);                                                                           \
        cc = c->cc;                                                                                \
        uint##bits##_t old = mmu_ld##bits(c, lin, i->seg);                                         \
        mmu_st##bits(c, lin, EXPR, i->seg);                                                        \
        mmu_bus_unlock(c);                                                                         \
    }                                                                                              \
    c->cc = cc

#define OP(name, bits) X86_OP(op_##name##bits)

#define FORMS_READ(name, bits, KEEP)                                                               \
    OP(name##_rr, bits) {                                                                          \
        uint##bits##_t v = name##bits(reg##bits(c, i->dst), reg##bits(c, i->src), &c->cc);         \
        KEEP;                                                                                      \
    }                                                                                              \
    OP(name##_ri, bits) {                                                                          \
        uint##bits##_t v = name##bits(reg##bits(c, i->dst), (uint##bits##_t)i->imm, &c->cc);       \
        KEEP;                                                                                      \
    }                                                                                              \
    OP(name##_rm, bits) {                                                                          \
        MEM_LIN(bits, false);                                                                      \
        uint##bits##_t m = mmu_ld##bits(c, lin, i->seg);                                           \
        uint##bits##_t v = name##bits(reg##bits(c, i->dst), m, &c->cc);                            \
        KEEP;                                                                                      \
    }

#define FORMS_WRITE(name, bits)                                                                    \
    FORMS_READ(name, bits, set_reg##bits(c, i->dst, v))                                            \
    OP(name##_mr, bits) {                                                                          \
        RMW_PLAIN(bits, name##bits(old, reg##bits(c, i->src), &cc));                               \
    }                                                                                              \
    OP(name##_mi, bits) {                                                                          \
        RMW_PLAIN(bits, name##bits(old, (uint##bits##_t)i->imm, &cc));                             \
    }                                                                                              \
    OP(name##_lmr, bits) {                                                                         \
        RMW_LOCKED(bits, name##bits(old, reg##bits(c, i->src), &cc));                              \
    }                                                                                              \
    OP(name##_lmi, bits) {                                                                         \
        RMW_LOCKED(bits, name##bits(old, (uint##bits##_t)i->imm, &cc));                            \
    }

#define FORMS_TEST(name, bits)                                                                     \
    FORMS_READ(name, bits, (void)v)                                                                \
    OP(name##_mr, bits) {                                                                          \
        MEM_LIN(bits, false);                                                                      \
        uint##bits##_t m = mmu_ld##bits(c, lin, i->seg);                                           \
        name##bits(m, reg##bits(c, i->src), &c->cc);                                               \
    }                                                                                              \
    OP(name##_mi, bits) {                                                                          \
        MEM_LIN(bits, false);                                                                      \
        uint##bits##_t m = mmu_ld##bits(c, lin, i->seg);                                           \
        name##bits(m, (uint##bits##_t)i->imm, &c->cc);                                             \
    }

#define FORMS_UNARY(name, bits)                                                                    \
    OP(name##_r, bits) {                                                                           \
        set_reg##bits(c, i->dst, name##bits(reg##bits(c, i->dst), &c->cc));                        \
    }                                                                                              \
    OP(name##_m, bits) {                                                                           \
        RMW_PLAIN(bits, name##bits(old, &cc));                                                     \
    }                                                                                              \
    OP(name##_lm, bits) {                                                                          \
        RMW_LOCKED(bits, name##bits(old, &cc));                                                    \
    }

ALL_SIZES(FORMS_WRITE, add)
ALL_SIZES(FORMS_WRITE, or)
ALL_SIZES(FORMS_WRITE, adc)
ALL_SIZES(FORMS_WRITE, sbb)
ALL_SIZES(FORMS_WRITE, and)
ALL_SIZES(FORMS_WRITE, sub)
ALL_SIZES(FORMS_WRITE, xor)
ALL_SIZES(FORMS_TEST, cmp)
ALL_SIZES(FORMS_TEST, test)
ALL_SIZES(FORMS_UNARY, inc)
ALL_SIZES(FORMS_UNARY, dec)
ALL_SIZES(FORMS_UNARY, neg)
ALL_SIZES(FORMS_UNARY, not )

/* XOR and SUB of a register with itself only clear it. */
static void op_zero(struct x86_cpu *c, const struct x86_insn *i) {
    set_reg64(c, i->dst, 0);
    c->cc = FLAG_ZF | FLAG_PF;
}

/* ---- selection ---- */

enum form { RR, RI, RM, MR, MI, LMR, LMI, FORM_COUNT };

#define BY_SIZE(name, form)                                                                        \
    { op_##name##form##8, op_##name##form##16, op_##name##form##32, op_##name##form##64 }
#define READ_FORMS(name)                                                                           \
    [RR] = BY_SIZE(name, _rr), [RI] = BY_SIZE(name, _ri), [RM] = BY_SIZE(name, _rm),               \
    [MR] = BY_SIZE(name, _mr), [MI] = BY_SIZE(name, _mi)
#define WRITE_FORMS(name) READ_FORMS(name), [LMR] = BY_SIZE(name, _lmr), [LMI] = BY_SIZE(name, _lmi)

typedef x86_op_fn *const binary_table[FORM_COUNT][4];
static binary_table ADD_FN = {WRITE_FORMS(add)}, OR_FN = {WRITE_FORMS(or)},
                    ADC_FN = {WRITE_FORMS(adc)}, SBB_FN = {WRITE_FORMS(sbb)},
                    AND_FN = {WRITE_FORMS(and)}, SUB_FN = {WRITE_FORMS(sub)},
                    XOR_FN = {WRITE_FORMS(xor)}, CMP_FN = {READ_FORMS(cmp)},
                    TEST_FN = {READ_FORMS(test)};

typedef x86_op_fn *const unary_table[3][4];
#define UNARY_FORMS(name)                                                                          \
    { BY_SIZE(name, _r), BY_SIZE(name, _m), BY_SIZE(name, _lm) }
static unary_table INC_FN = UNARY_FORMS(inc), DEC_FN = UNARY_FORMS(dec), NEG_FN = UNARY_FORMS(neg),
                   NOT_FN = UNARY_FORMS(not );

static x86_op_fn *pick_binary(binary_table *t, const struct x86_decode *d,
                              const struct x86_insn *i) {
    bool to_mem = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool from_mem = d->op[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool imm = d->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    bool lock = i->flags & INSN_LOCK;
    enum form f = to_mem ? imm ? lock ? LMI : MI : lock ? LMR : MR : from_mem ? RM : imm ? RI : RR;
    return (*t)[f][size_index(i->osize)];
}

static x86_op_fn *pick_unary(unary_table *t, const struct x86_insn *i) {
    unsigned f = !(i->flags & INSN_MEM) ? 0 : i->flags & INSN_LOCK ? 2 : 1;
    return (*t)[f][size_index(i->osize)];
}

static binary_table *binary_of(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_ADD:
        return &ADD_FN;
    case ZYDIS_MNEMONIC_OR:
        return &OR_FN;
    case ZYDIS_MNEMONIC_ADC:
        return &ADC_FN;
    case ZYDIS_MNEMONIC_SBB:
        return &SBB_FN;
    case ZYDIS_MNEMONIC_AND:
        return &AND_FN;
    case ZYDIS_MNEMONIC_SUB:
        return &SUB_FN;
    case ZYDIS_MNEMONIC_XOR:
        return &XOR_FN;
    case ZYDIS_MNEMONIC_CMP:
        return &CMP_FN;
    case ZYDIS_MNEMONIC_TEST:
        return &TEST_FN;
    default:
        return NULL;
    }
}

static unary_table *unary_of(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_INC:
        return &INC_FN;
    case ZYDIS_MNEMONIC_DEC:
        return &DEC_FN;
    case ZYDIS_MNEMONIC_NEG:
        return &NEG_FN;
    case ZYDIS_MNEMONIC_NOT:
        return &NOT_FN;
    default:
        return NULL;
    }
}

static bool clears_itself(const struct x86_decode *d, const struct x86_insn *i) {
    bool op = d->zi->mnemonic == ZYDIS_MNEMONIC_XOR || d->zi->mnemonic == ZYDIS_MNEMONIC_SUB;
    bool same = d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && i->dst == i->src;
    return op && same && !(i->flags & INSN_MEM) && i->osize >= 4;
}

bool select_alu(const struct x86_decode *d, struct x86_insn *i) {
    binary_table *two = binary_of(d->zi->mnemonic);
    unary_table *one = unary_of(d->zi->mnemonic);
    if (clears_itself(d, i))
        i->fn = op_zero;
    else if (two)
        i->fn = pick_binary(two, d, i);
    else if (one)
        i->fn = pick_unary(one, i);
    return two || one;
}

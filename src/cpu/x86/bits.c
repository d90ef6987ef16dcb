/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bit tests and scans, population counts, BMI1, BMI2, ADX and CRC32 (SDM 2). Where a flag is
 * undefined, the host's own instruction decides.
 */
#include "cpu/x86/mmu.h"

#define PUSH_FLAGS "\n\tpushfq\n\tpopq "

/* First or second source: a register, or the memory operand. */
static uint64_t source(struct x86_cpu *c, const struct x86_insn *i, unsigned reg) {
    if (i->flags & INSN_MEM)
        return mmu_ld(c, insn_linear(c, i, i->osize, false), i->osize, i->seg);
    return reg_get(c, reg, i->osize);
}

/* ---- BT, BTS, BTR, BTC ---- */

enum { BT, BTS, BTR, BTC };

static uint64_t bit_change(uint64_t v, unsigned bit, unsigned op) {
    uint64_t mask = 1ull << bit;
    return op == BTS ? v | mask : op == BTR ? v & ~mask : op == BTC ? v ^ mask : v;
}

/* Only CF changes; processors leave the undefined ones as they were. */
static void bit_flag(struct x86_cpu *c, uint64_t v, unsigned bit) {
    c->cc = (c->cc & ~(uint32_t)FLAG_CF) | (uint32_t)(v >> bit & 1);
}

static uint64_t bit_offset(struct x86_cpu *c, const struct x86_insn *i) {
    if (i->flags & INSN_IMM)
        return i->imm & (i->osize * 8u - 1);
    return reg_get(c, i->src, i->osize);
}

X86_OP(op_bt_r) {
    unsigned bit = bit_offset(c, i) & (i->osize * 8u - 1);
    uint64_t v = reg_get(c, i->dst, i->osize);
    if (i->aux != BT)
        reg_set(c, i->dst, i->osize, bit_change(v, bit, i->aux));
    bit_flag(c, v, bit);
}

/* A register bit offset is signed and reaches memory around the operand (SDM 2A 3.1.1.9). */
static uint64_t bit_address(struct x86_cpu *c, const struct x86_insn *i, uint64_t off, bool write) {
    unsigned shift = i->osize == 8 ? 6 : i->osize == 4 ? 5 : 4;
    int64_t s = i->osize == 8 ? (int64_t)off : i->osize == 4 ? (int32_t)off : (int16_t)off;
    uint64_t ea = insn_ea(c, i) + (uint64_t)(s >> shift) * i->osize;
    return cpu_linear(c, i->seg, ea << i->ashift >> i->ashift, i->osize, write);
}

static uint64_t bit_atomic(void *p, unsigned bit, unsigned op) {
    uint8_t *byte = (uint8_t *)p + bit / 8;
    uint8_t mask = (uint8_t)(1u << bit % 8), old;
    if (op == BTS)
        old = __atomic_fetch_or(byte, mask, __ATOMIC_SEQ_CST);
    else if (op == BTR)
        old = __atomic_fetch_and(byte, (uint8_t)~mask, __ATOMIC_SEQ_CST);
    else
        old = __atomic_fetch_xor(byte, mask, __ATOMIC_SEQ_CST);
    return (uint64_t)(old >> bit % 8 & 1) << bit;
}

X86_OP(op_bt_m) {
    uint64_t off = bit_offset(c, i);
    unsigned bit = off & (i->osize * 8u - 1);
    uint64_t lin = bit_address(c, i, off, i->aux != BT), v;
    if (i->aux == BT) {
        bit_flag(c, mmu_ld(c, lin, i->osize, i->seg), bit);
        return;
    }
    bool lock = i->flags & INSN_LOCK;
    void *p = mmu_rmw(c, lin, i->osize, i->seg);
    if (p && lock) {
        v = bit_atomic(p, bit, i->aux);
        mmu_wrote(c, p, i->osize);
    } else {
        if (lock)
            mmu_bus_lock(c);
        v = mmu_ld(c, lin, i->osize, i->seg);
        mmu_st(c, lin, bit_change(v, bit, i->aux), i->osize, i->seg);
        if (lock)
            mmu_bus_unlock(c);
    }
    bit_flag(c, v, bit);
}

/* ---- scans and counts ---- */

/* The destination keeps its value when the source is zero, as processors do; the rest of the flags
 * are the host's. */
#define SCAN(name, bits, suf)                                                                      \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *i, uint64_t src) {            \
        uint##bits##_t v = (uint##bits##_t)src, out = (uint##bits##_t)reg64(c, i->dst);            \
        uint64_t fl;                                                                               \
        __asm__(#name suf " %2, %0" PUSH_FLAGS "%1" : "+&r"(out), "=&r"(fl) : "r"(v) : "cc");      \
        c->cc = (uint32_t)fl & FLAG_ARITH;                                                         \
        if (v || bits != 32)                                                                       \
            set_reg##bits(c, i->dst, out);                                                         \
    }
#define COUNT(name, bits, suf)                                                                     \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *i, uint64_t src) {            \
        uint##bits##_t out;                                                                        \
        uint64_t fl;                                                                               \
        __asm__(#name suf " %2, %0" PUSH_FLAGS "%1"                                                \
                : "=&r"(out), "=&r"(fl)                                                            \
                : "r"((uint##bits##_t)src)                                                         \
                : "cc");                                                                           \
        c->cc = (uint32_t)fl & FLAG_ARITH;                                                         \
        set_reg##bits(c, i->dst, out);                                                             \
    }
#define THREE(M, name) M(name, 16, "w") M(name, 32, "l") M(name, 64, "q")
THREE(SCAN, bsf)
THREE(SCAN, bsr)
THREE(COUNT, tzcnt)
THREE(COUNT, lzcnt)
THREE(COUNT, popcnt)

typedef void scan_fn(struct x86_cpu *c, const struct x86_insn *i, uint64_t src);
#define SCAN_ROW(name)                                                                             \
    { name##16, name##32, name##64 }
static scan_fn *const BSF_FN[3] = SCAN_ROW(bsf), *const BSR_FN[3] = SCAN_ROW(bsr),
                      *const TZCNT_FN[3] = SCAN_ROW(tzcnt), *const LZCNT_FN[3] = SCAN_ROW(lzcnt),
                      *const POPCNT_FN[3] = SCAN_ROW(popcnt);

X86_OP(op_scan) {
    scan_fn *const *fn = i->data;
    (*fn)(c, i, source(c, i, i->src));
}

/* ---- BMI1, BMI2: dst, first source, second source; flags or none ---- */

/* In AT&T order the manual's third operand comes first. */
#define BMI2(name, bits, suf)                                                                      \
    static uint64_t name##bits(uint64_t first, uint64_t second, uint32_t *cc) {                    \
        uint##bits##_t a = (uint##bits##_t)first, b = (uint##bits##_t)second, out;                 \
        uint64_t fl;                                                                               \
        __asm__("pushq %4\n\tpopfq\n\t" #name suf " %3, %2, %0" PUSH_FLAGS "%1"                    \
                : "=&r"(out), "=&r"(fl)                                                            \
                : "r"(a), "r"(b), "r"((uint64_t)*cc)                                               \
                : "cc");                                                                           \
        *cc = (uint32_t)fl & FLAG_ARITH;                                                           \
        return out;                                                                                \
    }
#define BMI(name) BMI2(name, 32, "l") BMI2(name, 64, "q")
BMI(andn)
BMI(pdep)
BMI(pext)
BMI(bextr)
BMI(bzhi)
BMI(shlx)
BMI(sarx)
BMI(shrx)

typedef uint64_t bmi_fn(uint64_t first, uint64_t second, uint32_t *cc);
#define BMI_ROW(name)                                                                              \
    { name##32, name##64 }
static bmi_fn *const ANDN_FN[2] = BMI_ROW(andn), *const PDEP_FN[2] = BMI_ROW(pdep),
                     *const PEXT_FN[2] = BMI_ROW(pext), *const BEXTR_FN[2] = BMI_ROW(bextr),
                     *const BZHI_FN[2] = BMI_ROW(bzhi), *const SHLX_FN[2] = BMI_ROW(shlx),
                     *const SARX_FN[2] = BMI_ROW(sarx), *const SHRX_FN[2] = BMI_ROW(shrx);

/* dst, register, r/m */
X86_OP(op_bmi_reg_rm) {
    bmi_fn *const *fn = i->data;
    uint64_t b = source(c, i, i->src2);
    reg_set(c, i->dst, i->osize, (*fn)(reg_get(c, i->src, i->osize), b, &c->cc));
}

/* dst, r/m, register */
X86_OP(op_bmi_rm_reg) {
    bmi_fn *const *fn = i->data;
    uint64_t a = source(c, i, i->src);
    reg_set(c, i->dst, i->osize, (*fn)(a, reg_get(c, i->src2, i->osize), &c->cc));
}

#define BLS(name, bits, suf)                                                                       \
    static uint64_t name##bits(uint64_t v, uint32_t *cc) {                                         \
        uint##bits##_t out;                                                                        \
        uint64_t fl;                                                                               \
        __asm__("pushq %3\n\tpopfq\n\t" #name suf " %2, %0" PUSH_FLAGS "%1"                        \
                : "=&r"(out), "=&r"(fl)                                                            \
                : "r"((uint##bits##_t)v), "r"((uint64_t)*cc)                                       \
                : "cc");                                                                           \
        *cc = (uint32_t)fl & FLAG_ARITH;                                                           \
        return out;                                                                                \
    }
#define BLS_SIZES(name) BLS(name, 32, "l") BLS(name, 64, "q")
BLS_SIZES(blsi)
BLS_SIZES(blsr)
BLS_SIZES(blsmsk)

typedef uint64_t bls_fn(uint64_t v, uint32_t *cc);
static bls_fn *const BLSI_FN[2] = BMI_ROW(blsi), *const BLSR_FN[2] = BMI_ROW(blsr),
                     *const BLSMSK_FN[2] = BMI_ROW(blsmsk);

X86_OP(op_bls) {
    bls_fn *const *fn = i->data;
    uint64_t v = source(c, i, i->src);
    reg_set(c, i->dst, i->osize, (*fn)(v, &c->cc));
}

X86_OP(op_rorx) {
    uint64_t v = source(c, i, i->src);
    unsigned bits = i->osize * 8u, n = i->imm & (bits - 1);
    uint64_t r = bits == 64 ? v >> n | v << (-n & 63) : (uint32_t)v >> n | (uint32_t)v << (-n & 31);
    reg_set(c, i->dst, i->osize, r);
}

/* MULX: dst (high), src (low), r/m; the other factor is (R|E)DX. When both are one register it gets
 * the high half. */
X86_OP(op_mulx) {
    uint64_t b = source(c, i, i->src2);
    if (i->osize == 8) {
        __extension__ unsigned __int128 p = (unsigned __int128)c->s.gpr[RDX] * b;
        set_reg64(c, i->src, (uint64_t)p);
        set_reg64(c, i->dst, (uint64_t)(p >> 64));
    } else {
        uint64_t p = (c->s.gpr[RDX] & UINT32_MAX) * (uint32_t)b;
        set_reg32(c, i->src, (uint32_t)p);
        set_reg32(c, i->dst, (uint32_t)(p >> 32));
    }
}

/* ---- ADCX, ADOX: one carry chain each, no other flag ---- */

static void add_with(struct x86_cpu *c, const struct x86_insn *i, uint32_t flag) {
    uint64_t a = reg_get(c, i->dst, i->osize), b = source(c, i, i->src);
    bool carry = c->cc & flag, out;
    if (i->osize == 8) {
        uint64_t t, r;
        bool o1 = __builtin_add_overflow(a, b, &t),
             o2 = __builtin_add_overflow(t, (uint64_t)carry, &r);
        out = o1 || o2;
        set_reg64(c, i->dst, r);
    } else {
        uint64_t r = a + b + carry;
        out = r >> 32;
        set_reg32(c, i->dst, (uint32_t)r);
    }
    c->cc = (c->cc & ~flag) | (out ? flag : 0);
}
X86_OP(op_adcx) {
    add_with(c, i, FLAG_CF);
}
X86_OP(op_adox) {
    add_with(c, i, FLAG_OF);
}

/* ---- CRC32 (polynomial 0x11edc6f41); aux: source size in bytes ---- */

X86_OP(op_crc32) {
    uint64_t crc = reg32(c, i->dst), v;
    if (i->flags & INSN_MEM)
        v = mmu_ld(c, insn_linear(c, i, i->aux, false), i->aux, i->seg);
    else
        v = reg_get(c, i->src, i->aux);
    uint32_t crc32 = (uint32_t)crc;
    switch (i->aux) {
    case 1:
        __asm__("crc32b %1, %0" : "+r"(crc32) : "q"((uint8_t)v));
        break;
    case 2:
        __asm__("crc32w %1, %0" : "+r"(crc32) : "r"((uint16_t)v));
        break;
    case 4:
        __asm__("crc32l %1, %0" : "+r"(crc32) : "r"((uint32_t)v));
        break;
    default:
        __asm__("crc32q %1, %0" : "+r"(crc) : "r"(v));
        crc32 = (uint32_t)crc;
    }
    set_reg32(c, i->dst, crc32);
}

/* ---- selection ---- */

static bool pick_bt(struct x86_insn *i, unsigned op) {
    i->aux = (uint16_t)op;
    i->fn = i->flags & INSN_MEM ? op_bt_m : op_bt_r;
    return true;
}

static bool pick_scan(struct x86_insn *i, scan_fn *const *table) {
    i->data = &table[size_index(i->osize) - 1];
    i->fn = op_scan;
    return true;
}

static bool pick_bmi(struct x86_insn *i, bmi_fn *const *table, x86_op_fn *fn) {
    i->data = &table[i->osize == 8];
    i->fn = fn;
    return true;
}

static bool pick_bls(struct x86_insn *i, bls_fn *const *table) {
    i->data = &table[i->osize == 8];
    i->fn = op_bls;
    return true;
}

static bool select_vex(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_ANDN:
        return pick_bmi(i, ANDN_FN, op_bmi_reg_rm);
    case ZYDIS_MNEMONIC_PDEP:
        return pick_bmi(i, PDEP_FN, op_bmi_reg_rm);
    case ZYDIS_MNEMONIC_PEXT:
        return pick_bmi(i, PEXT_FN, op_bmi_reg_rm);
    case ZYDIS_MNEMONIC_BEXTR:
        return pick_bmi(i, BEXTR_FN, op_bmi_rm_reg);
    case ZYDIS_MNEMONIC_BZHI:
        return pick_bmi(i, BZHI_FN, op_bmi_rm_reg);
    case ZYDIS_MNEMONIC_SHLX:
        return pick_bmi(i, SHLX_FN, op_bmi_rm_reg);
    case ZYDIS_MNEMONIC_SARX:
        return pick_bmi(i, SARX_FN, op_bmi_rm_reg);
    case ZYDIS_MNEMONIC_SHRX:
        return pick_bmi(i, SHRX_FN, op_bmi_rm_reg);
    case ZYDIS_MNEMONIC_BLSI:
        return pick_bls(i, BLSI_FN);
    case ZYDIS_MNEMONIC_BLSR:
        return pick_bls(i, BLSR_FN);
    case ZYDIS_MNEMONIC_BLSMSK:
        return pick_bls(i, BLSMSK_FN);
    case ZYDIS_MNEMONIC_RORX:
        i->fn = op_rorx;
        return true;
    case ZYDIS_MNEMONIC_MULX:
        i->fn = op_mulx;
        return true;
    default:
        return false;
    }
}

bool select_bits(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
        return pick_bt(i, BT);
    case ZYDIS_MNEMONIC_BTS:
        return pick_bt(i, BTS);
    case ZYDIS_MNEMONIC_BTR:
        return pick_bt(i, BTR);
    case ZYDIS_MNEMONIC_BTC:
        return pick_bt(i, BTC);
    case ZYDIS_MNEMONIC_BSF:
        return pick_scan(i, BSF_FN);
    case ZYDIS_MNEMONIC_BSR:
        return pick_scan(i, BSR_FN);
    case ZYDIS_MNEMONIC_TZCNT:
        return pick_scan(i, TZCNT_FN);
    case ZYDIS_MNEMONIC_LZCNT:
        return pick_scan(i, LZCNT_FN);
    case ZYDIS_MNEMONIC_POPCNT:
        return pick_scan(i, POPCNT_FN);
    case ZYDIS_MNEMONIC_ADCX:
        i->fn = op_adcx;
        return true;
    case ZYDIS_MNEMONIC_ADOX:
        i->fn = op_adox;
        return true;
    case ZYDIS_MNEMONIC_CRC32:
        i->aux = d->op[1].size / 8;
        i->fn = op_crc32;
        return true;
    default:
        return select_vex(d, i);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* XCHG, XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B (SDM 2). XCHG with memory is locked always. */
#include "cpu/x86/hostflags.h"
#include "cpu/x86/mmu.h"

static uint32_t flags_of_cmp(uint64_t a, uint64_t b, unsigned size) {
    uint16_t f;
    switch (size) {
    case 1:
        __asm__("cmpb %2, %1" TAKE_FLAGS : "=&a"(f) : "q"((uint8_t)a), "q"((uint8_t)b) : "cc");
        break;
    case 2:
        __asm__("cmpw %2, %1" TAKE_FLAGS : "=&a"(f) : "r"((uint16_t)a), "r"((uint16_t)b) : "cc");
        break;
    case 4:
        __asm__("cmpl %2, %1" TAKE_FLAGS : "=&a"(f) : "r"((uint32_t)a), "r"((uint32_t)b) : "cc");
        break;
    default:
        __asm__("cmpq %2, %1" TAKE_FLAGS : "=&a"(f) : "r"(a), "r"(b) : "cc");
    }
    return flags_unpack(f);
}

static uint32_t flags_of_add(uint64_t a, uint64_t b, unsigned size) {
    uint16_t f;
    switch (size) {
    case 1: {
        uint8_t v = (uint8_t)a;
        __asm__("addb %2, %1" TAKE_FLAGS : "=&a"(f), "+q"(v) : "q"((uint8_t)b) : "cc");
        break;
    }
    case 2: {
        uint16_t v = (uint16_t)a;
        __asm__("addw %2, %1" TAKE_FLAGS : "=&a"(f), "+r"(v) : "r"((uint16_t)b) : "cc");
        break;
    }
    case 4: {
        uint32_t v = (uint32_t)a;
        __asm__("addl %2, %1" TAKE_FLAGS : "=&a"(f), "+r"(v) : "r"((uint32_t)b) : "cc");
        break;
    }
    default:
        __asm__("addq %2, %1" TAKE_FLAGS : "=&a"(f), "+r"(a) : "r"(b) : "cc");
    }
    return flags_unpack(f);
}

/* ---- memory primitives: atomic where the host can be ---- */

#define ATOMIC_BY_SIZE(p, size, EXPR8, EXPR16, EXPR32, EXPR64)                                     \
    ((size) == 8 ? (EXPR64) : (size) == 4 ? (EXPR32) : (size) == 2 ? (EXPR16) : (EXPR8))

static uint64_t atomic_swap(void *p, uint64_t v, unsigned size) {
    return ATOMIC_BY_SIZE(p, size, __atomic_exchange_n((uint8_t *)p, (uint8_t)v, __ATOMIC_SEQ_CST),
                          __atomic_exchange_n((uint16_t *)p, (uint16_t)v, __ATOMIC_SEQ_CST),
                          __atomic_exchange_n((uint32_t *)p, (uint32_t)v, __ATOMIC_SEQ_CST),
                          __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_SEQ_CST));
}

static uint64_t atomic_add(void *p, uint64_t v, unsigned size) {
    return ATOMIC_BY_SIZE(p, size, __atomic_fetch_add((uint8_t *)p, (uint8_t)v, __ATOMIC_SEQ_CST),
                          __atomic_fetch_add((uint16_t *)p, (uint16_t)v, __ATOMIC_SEQ_CST),
                          __atomic_fetch_add((uint32_t *)p, (uint32_t)v, __ATOMIC_SEQ_CST),
                          __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_SEQ_CST));
}

#define CAS(type, p, old, new)                                                                     \
    __extension__({                                                                                \
        type expected = (type)(old);                                                               \
        __atomic_compare_exchange_n((type *)(p), &expected, (type)(new), false, __ATOMIC_SEQ_CST,  \
                                    __ATOMIC_SEQ_CST);                                             \
        expected;                                                                                  \
    })

/* Returns what was there; it was replaced when that equals `old`. */
static uint64_t atomic_cas(void *p, uint64_t old, uint64_t new, unsigned size) {
    return ATOMIC_BY_SIZE(p, size, CAS(uint8_t, p, old, new), CAS(uint16_t, p, old, new),
                          CAS(uint32_t, p, old, new), CAS(uint64_t, p, old, new));
}

/* ---- XCHG, XADD ---- */

static void op_xchg_r(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t a = reg_get(c, i->dst, i->osize), b = reg_get(c, i->src, i->osize);
    reg_set(c, i->dst, i->osize, b);
    reg_set(c, i->src, i->osize, a);
}

static void op_xchg_m(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned size = i->osize;
    uint64_t lin = insn_linear(c, i, size, true);
    uint64_t v = reg_get(c, i->src, size), old;
    void *p = mmu_rmw(c, lin, size, i->seg);
    if (likely(p)) {
        old = atomic_swap(p, v, size);
        mmu_wrote(c, p, size);
    } else {
        mmu_bus_lock(c);
        old = mmu_ld(c, lin, size, i->seg);
        mmu_st(c, lin, v, size, i->seg);
        mmu_bus_unlock(c);
    }
    reg_set(c, i->src, size, old);
}

static void op_xadd_r(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t a = reg_get(c, i->dst, i->osize), b = reg_get(c, i->src, i->osize);
    c->cc = flags_of_add(a, b, i->osize);
    reg_set(c, i->src, i->osize, a);
    reg_set(c, i->dst, i->osize, a + b);
}

static void op_xadd_m(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned size = i->osize;
    uint64_t lin = insn_linear(c, i, size, true);
    uint64_t v = reg_get(c, i->src, size), old;
    void *p = mmu_rmw(c, lin, size, i->seg);
    if (likely(p)) {
        old = atomic_add(p, v, size);
        mmu_wrote(c, p, size);
    } else {
        mmu_bus_lock(c);
        old = mmu_ld(c, lin, size, i->seg);
        mmu_st(c, lin, old + v, size, i->seg);
        mmu_bus_unlock(c);
    }
    c->cc = flags_of_add(old, v, size);
    reg_set(c, i->src, size, old);
}

/* ---- CMPXCHG ---- */

static void cmpxchg_finish(struct x86_cpu *c, const struct x86_insn *i, uint64_t found) {
    uint64_t acc = reg_get(c, REG_OFF(RAX), i->osize);
    c->cc = flags_of_cmp(acc, found, i->osize);
    if (!(c->cc & FLAG_ZF))
        reg_set(c, REG_OFF(RAX), i->osize, found);
}

static void op_cmpxchg_r(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t dst = reg_get(c, i->dst, i->osize);
    uint64_t acc = reg_get(c, REG_OFF(RAX), i->osize);
    uint64_t v = reg_get(c, i->src, i->osize);
    /* The accumulator first: it may be the destination. */
    cmpxchg_finish(c, i, dst);
    if (acc == dst)
        reg_set(c, i->dst, i->osize, v);
}

/* The destination is written in either case (SDM 2A, CMPXCHG), so it is checked as a write. */
static void op_cmpxchg_m(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned size = i->osize;
    uint64_t lin = insn_linear(c, i, size, true);
    uint64_t acc = reg_get(c, REG_OFF(RAX), size), v = reg_get(c, i->src, size), found;
    void *p = mmu_rmw(c, lin, size, i->seg);
    if (likely(p)) {
        found = atomic_cas(p, acc, v, size);
        mmu_wrote(c, p, size);
    } else {
        mmu_bus_lock(c);
        found = mmu_ld(c, lin, size, i->seg);
        mmu_st(c, lin, found == acc ? v : found, size, i->seg);
        mmu_bus_unlock(c);
    }
    cmpxchg_finish(c, i, found);
}

/* Halves of a register pair, EDX:EAX style. */
static uint64_t pair(struct x86_cpu *c, unsigned hi, unsigned lo) {
    return (uint64_t)reg32(c, REG_OFF(hi)) << 32 | reg32(c, REG_OFF(lo));
}

static void op_cmpxchg8b(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = insn_linear(c, i, 8, true);
    uint64_t old = pair(c, RDX, RAX), new = pair(c, RCX, RBX), found;
    void *p = mmu_rmw(c, lin, 8, i->seg);
    if (likely(p)) {
        found = atomic_cas(p, old, new, 8);
        mmu_wrote(c, p, 8);
    } else {
        mmu_bus_lock(c);
        found = mmu_ld64(c, lin, i->seg);
        mmu_st64(c, lin, found == old ? new : found, i->seg);
        mmu_bus_unlock(c);
    }
    c->cc = (c->cc & ~(uint32_t)FLAG_ZF) | (found == old ? FLAG_ZF : 0);
    if (found != old) {
        set_reg32(c, REG_OFF(RAX), (uint32_t)found);
        set_reg32(c, REG_OFF(RDX), (uint32_t)(found >> 32));
    }
}

struct wide {
    uint64_t lo, hi;
};

static bool host_cmpxchg16b(void *p, struct wide *old, const struct wide *new) {
    bool done;
    __asm__ volatile("lock cmpxchg16b (%4)"
                     : "=@ccz"(done), "+a"(old->lo), "+d"(old->hi)
                     : "b"(new->lo), "r"(p), "c"(new->hi)
                     : "memory");
    return done;
}

static bool slow_cmpxchg16b(struct x86_cpu *c, uint64_t lin, unsigned seg, struct wide *old,
                            const struct wide *new) {
    mmu_bus_lock(c);
    struct wide found = {mmu_ld64(c, lin, seg), mmu_ld64(c, lin + 8, seg)};
    bool done = found.lo == old->lo && found.hi == old->hi;
    mmu_st64(c, lin, done ? new->lo : found.lo, seg);
    mmu_st64(c, lin + 8, done ? new->hi : found.hi, seg);
    mmu_bus_unlock(c);
    *old = found;
    return done;
}

static void op_cmpxchg16b(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = insn_linear(c, i, 16, true);
    if (lin & 15)
        cpu_raise_err(c, EXC_GP, 0);
    struct wide old = {c->s.gpr[RAX], c->s.gpr[RDX]}, new = {c->s.gpr[RBX], c->s.gpr[RCX]};
    void *p = mmu_rmw(c, lin, 16, i->seg);
    bool done = p ? host_cmpxchg16b(p, &old, &new) : slow_cmpxchg16b(c, lin, i->seg, &old, &new);
    if (p)
        mmu_wrote(c, p, 16);
    c->cc = (c->cc & ~(uint32_t)FLAG_ZF) | (done ? FLAG_ZF : 0);
    if (!done) {
        c->s.gpr[RAX] = old.lo;
        c->s.gpr[RDX] = old.hi;
    }
}

bool select_exchange(const struct x86_decode *d, struct x86_insn *i) {
    bool mem = i->flags & INSN_MEM;
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_XCHG:
        if (d->op[1].type == ZYDIS_OPERAND_TYPE_MEMORY)
            i->src = i->dst;
        i->fn = mem ? op_xchg_m : op_xchg_r;
        return true;
    case ZYDIS_MNEMONIC_XADD:
        i->fn = mem ? op_xadd_m : op_xadd_r;
        return true;
    case ZYDIS_MNEMONIC_CMPXCHG:
        i->fn = mem ? op_cmpxchg_m : op_cmpxchg_r;
        return true;
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        i->fn = op_cmpxchg8b;
        return true;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        i->fn = op_cmpxchg16b;
        return true;
    default:
        return false;
    }
}

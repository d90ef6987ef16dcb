/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the vector family share: the checks before an instruction, registers, and wide
 * memory operands. */
#ifndef RINGFENCE_CPU_X86_VECTOR_H
#define RINGFENCE_CPU_X86_VECTOR_H

#include "cpu/x86/mmu.h"
#include "cpu/x86/x87.h"

/* How an instruction behaves; kept with the decoded form. */
enum {
    VEC_READ = 1,       /* reads its memory operand */
    VEC_WRITE = 2,      /* writes its memory operand */
    VEC_MMX = 4,        /* uses MMX registers: pending x87 errors, switch to MMX state */
    VEC_VEX = 8,        /* VEX-encoded */
    VEC_MXCSR = 16,     /* obeys MXCSR and may raise #XM */
    VEC_FLAGS = 32,     /* sets the arithmetic flags */
    VEC_NOSSE = 64,     /* MMX proper: CR4.OSFXSR does not matter */
    VEC_ANYWHERE = 128, /* #AC does not look at its memory operand, however short */
};

struct vec_meta {
    uint8_t flags;  /* VEC_* */
    uint8_t align;  /* memory operand: address bits that must be 0 */
    uint8_t gpr[3]; /* the guest registers behind the thunk's RAX, RCX, RDX, as byte offsets */
    uint8_t gpr_out;
    uint8_t pad[2];
};

/* The immediate is part of the thunk, so imm is free to hold the rest of what execution needs to
 * know. */
static inline struct vec_meta vec_meta(const struct x86_insn *i) {
    struct vec_meta m;
    _Static_assert(sizeof m == sizeof i->imm, "fits in imm");
    memcpy(&m, &i->imm, sizeof m);
    return m;
}

static inline uint8_t *vec_reg(struct x86_cpu *c, unsigned n) {
    return c->s.fpu.zmm[n];
}

/* Raises what is wrong (SDM 2A 2.4, tables 2-18 to 2-27). */
noreturn void vec_refuse(struct x86_cpu *c, unsigned flags);
/* MMX instructions wait for x87 errors besides: x87_wait(). */
static inline void vec_check(struct x86_cpu *c, unsigned flags) {
    bool bad;
    if (flags & VEC_VEX)
        bad = (c->s.cr0 & CR0_TS) || !(c->s.cr4 & CR4_OSXSAVE) || (c->s.xcr0 & 6) != 6 || !c->pe ||
              c->vm86;
    else if (flags & VEC_NOSSE)
        bad = c->s.cr0 & (CR0_EM | CR0_TS);
    else
        bad = (c->s.cr0 & (CR0_EM | CR0_TS)) || !(c->s.cr4 & CR4_OSFXSR);
    if (unlikely(bad))
        vec_refuse(c, flags);
}

/* Linear address of the memory operand, after its alignment check. */
static inline uint64_t vec_linear(struct x86_cpu *c, const struct x86_insn *i, unsigned size,
                                  unsigned align, bool write) {
    uint64_t lin = insn_linear(c, i, size, write);
    if (unlikely(lin & align))
        cpu_raise_err(c, EXC_GP, 0);
    return lin;
}

static inline void vec_load(struct x86_cpu *c, uint64_t lin, void *buf, unsigned size,
                            unsigned seg) {
    if (size <= 8) {
        uint64_t v = mmu_ld(c, lin, size, seg);
        memcpy(buf, &v, 8);
        return;
    }
    const struct tlb_entry *e = tlb_slot(c, c->tlb, lin);
    if (unlikely(!tlb_hit(c, e, e->rd, lin) || (lin & PAGE_MASK) > PAGE_SIZE - size)) {
        mmu_read(c, lin, buf, size, seg);
        return;
    }
    const uint8_t *host = (const uint8_t *)(lin + e->addend);
    memcpy(buf, host, 16);
    if (size == 32)
        memcpy((uint8_t *)buf + 16, host + 16, 16);
}

static inline void vec_store(struct x86_cpu *c, uint64_t lin, const void *buf, unsigned size,
                             unsigned seg) {
    if (size <= 8) {
        uint64_t v;
        memcpy(&v, buf, 8);
        mmu_st(c, lin, v, size, seg);
        return;
    }
    const struct tlb_entry *e = tlb_slot(c, c->tlb, lin);
    if (unlikely(!tlb_hit(c, e, e->wr, lin) || (lin & PAGE_MASK) > PAGE_SIZE - size)) {
        mmu_write(c, lin, buf, size, seg);
        return;
    }
    uint8_t *host = (uint8_t *)(lin + e->addend);
    memcpy(host, buf, 16);
    if (size == 32)
        memcpy(host + 16, (const uint8_t *)buf + 16, 16);
    mmu_wrote(c, host, size);
}

/* Bits of MXCSR that may be set; others are #GP in LDMXCSR, FXRSTOR and XRSTOR. */
#define MXCSR_MASK 0xffffu

/* Switches the x87 registers to MMX use: ST(0) becomes MM0, all valid (SDM 3A 13.2). */
void mmx_enter(struct x86_cpu *c);

/* Selects a function written in C, for moves that are worth it and operations that no thunk can do.
 * NULL otherwise. */
x86_op_fn *vec_select_move(const struct x86_decode *d, struct x86_insn *i);
x86_op_fn *vec_select_special(const struct x86_decode *d, struct x86_insn *i);

#endif

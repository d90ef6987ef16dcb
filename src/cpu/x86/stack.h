/* SPDX-License-Identifier: Apache-2.0 */
/* The stack at the current privilege: address size from SS.B (SDM 1 6.2.3), checks and faults
 * included. */
#ifndef RINGFENCE_CPU_X86_STACK_H
#define RINGFENCE_CPU_X86_STACK_H

#include "cpu/x86/mmu.h"

/* Sets the stack pointer, as wide as the stack is. */
static inline void stack_set(struct x86_cpu *c, uint64_t sp) {
    if (likely(c->stack_mask == UINT64_MAX))
        c->s.gpr[RSP] = sp;
    else
        c->s.gpr[RSP] = (c->s.gpr[RSP] & ~c->stack_mask) | (sp & c->stack_mask);
}

static inline uint64_t stack_linear(struct x86_cpu *c, uint64_t sp, unsigned size, bool write) {
    return cpu_linear(c, SEG_SS, sp & c->stack_mask, size, write);
}

static inline void stack_push(struct x86_cpu *c, uint64_t v, unsigned size) {
    uint64_t sp = c->s.gpr[RSP] - size;
    mmu_st(c, stack_linear(c, sp, size, true), v, size, SEG_SS);
    stack_set(c, sp);
}

/* The value `off` bytes above the top. */
static inline uint64_t stack_peek(struct x86_cpu *c, uint64_t off, unsigned size) {
    return mmu_ld(c, stack_linear(c, c->s.gpr[RSP] + off, size, false), size, SEG_SS);
}

static inline uint64_t stack_pop(struct x86_cpu *c, unsigned size) {
    uint64_t v = stack_peek(c, 0, size);
    stack_set(c, c->s.gpr[RSP] + size);
    return v;
}

#endif

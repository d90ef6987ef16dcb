/* SPDX-License-Identifier: Apache-2.0 */
/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE (SDM 2). Segment registers and flags have their own files.
 */
#include "cpu/x86/stack.h"

#define OP(name) X86_OP(op_##name)

OP(push_r) {
    stack_push(c, reg_get(c, i->dst, i->osize), i->osize);
}
OP(push_r64) {
    uint64_t sp = c->s.gpr[RSP] - 8;
    mmu_st64(c, sp, reg64(c, i->dst), SEG_SS);
    c->s.gpr[RSP] = sp;
}
OP(push_i) {
    stack_push(c, i->imm, i->osize);
}
OP(push_m) {
    uint64_t v = mmu_ld(c, insn_linear(c, i, i->osize, false), i->osize, i->seg);
    stack_push(c, v, i->osize);
}

OP(pop_r) {
    reg_set(c, i->dst, i->osize, stack_pop(c, i->osize));
}
OP(pop_r64) {
    uint64_t v = mmu_ld64(c, c->s.gpr[RSP], SEG_SS);
    c->s.gpr[RSP] += 8;
    set_reg64(c, i->dst, v);
}

/* An address based on the stack pointer is computed after it was incremented (SDM 2B, POP). */
OP(pop_m) {
    uint64_t before = c->s.gpr[RSP];
    uint64_t v = stack_peek(c, 0, i->osize);
    stack_set(c, before + i->osize);
    uint64_t ea = insn_ea(c, i), after = c->s.gpr[RSP];
    c->s.gpr[RSP] = before;
    mmu_st(c, cpu_linear(c, i->seg, ea, i->osize, true), v, i->osize, i->seg);
    c->s.gpr[RSP] = after;
}

OP(pusha) {
    unsigned size = i->osize;
    uint64_t sp = c->s.gpr[RSP];
    /* A fault on the way leaves in memory what was pushed: the stack pointer moves last. */
    for (unsigned n = 0; n < 8; n++)
        mmu_st(c, stack_linear(c, sp - (n + 1) * size, size, true), reg_get(c, REG_OFF(n), size),
               size, SEG_SS);
    stack_set(c, sp - 8ull * size);
}

OP(popa) {
    unsigned size = i->osize;
    /* A fault on the way leaves the registers that were popped: the stack pointer moves last. */
    for (unsigned n = 0; n < 8; n++) {
        uint64_t v = stack_peek(c, (uint64_t)n * size, size);
        if (7 - n != RSP)
            reg_set(c, REG_OFF(7 - n), size, v);
    }
    stack_set(c, c->s.gpr[RSP] + 8ull * size);
}

/* Pushes without moving the stack pointer: `sp` stands for it. */
static void enter_push(struct x86_cpu *c, uint64_t *sp, uint64_t v, unsigned size) {
    *sp -= size;
    mmu_st(c, stack_linear(c, *sp, size, true), v, size, SEG_SS);
}

/*
 * The old frame pointer, outer frame pointers and the new one go below the stack pointer as the
 * manual's pseudocode orders it, so that what was pushed may be copied; the registers change when
 * nothing can fault any more.
 */
OP(enter) {
    unsigned size = i->osize, level = i->aux & 31;
    uint64_t sp = c->s.gpr[RSP], bp = c->s.gpr[RBP];
    /* The whole register as the first push leaves it, also with a 16-bit stack. */
    uint64_t frame = (sp & ~c->stack_mask) | ((sp - size) & c->stack_mask);
    enter_push(c, &sp, bp, size);
    for (unsigned n = 1; n < level; n++) {
        uint64_t lin = stack_linear(c, bp - (uint64_t)n * size, size, false);
        enter_push(c, &sp, mmu_ld(c, lin, size, SEG_SS), size);
    }
    if (level)
        enter_push(c, &sp, frame, size);
    sp -= (uint16_t)i->imm;
    mmu_probe(c, stack_linear(c, sp, size, true), size, true, SEG_SS);
    stack_set(c, sp);
    reg_set(c, REG_OFF(RBP), size, frame);
}

OP(leave) {
    uint64_t at = c->s.gpr[RBP];
    uint64_t v = mmu_ld(c, stack_linear(c, at, i->osize, false), i->osize, SEG_SS);
    stack_set(c, at + i->osize);
    reg_set(c, REG_OFF(RBP), i->osize, v);
}

static bool pushes_general(const struct x86_decode *d) {
    const ZydisDecodedOperand *op = &d->op[0];
    return op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
           (op->reg.value >= ZYDIS_REGISTER_AX && op->reg.value <= ZYDIS_REGISTER_R15);
}

static bool select_push(const struct x86_decode *d, struct x86_insn *i) {
    if (!pushes_general(d))
        return false;
    if (i->flags & INSN_MEM)
        i->fn = op_push_m;
    else if (i->flags & INSN_IMM)
        i->fn = op_push_i;
    else
        i->fn = i->mode == 64 && i->osize == 8 ? op_push_r64 : op_push_r;
    return true;
}

static bool select_pop(const struct x86_decode *d, struct x86_insn *i) {
    if (!pushes_general(d))
        return false;
    if (i->flags & INSN_MEM)
        i->fn = op_pop_m;
    else
        i->fn = i->mode == 64 && i->osize == 8 ? op_pop_r64 : op_pop_r;
    return true;
}

bool select_stack(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return select_push(d, i);
    case ZYDIS_MNEMONIC_POP:
        return select_pop(d, i);
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        i->fn = op_pusha;
        return true;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        i->fn = op_popa;
        return true;
    case ZYDIS_MNEMONIC_ENTER:
        i->fn = op_enter;
        return true;
    case ZYDIS_MNEMONIC_LEAVE:
        i->fn = op_leave;
        return true;
    default:
        return false;
    }
}

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
    uint64_t sp = c->s.gpr[RSP], lin[8];
    for (unsigned n = 0; n < 8; n++) {
        lin[n] = stack_linear(c, sp - (n + 1) * size, size, true);
        mmu_probe(c, lin[n], size, true, SEG_SS);
    }
    for (unsigned n = 0; n < 8; n++)
        mmu_st(c, lin[n], reg_get(c, REG_OFF(n), size), size, SEG_SS);
    stack_set(c, sp - 8ull * size);
}

OP(popa) {
    unsigned size = i->osize;
    uint64_t v[8];
    for (unsigned n = 0; n < 8; n++)
        v[n] = stack_peek(c, (uint64_t)n * size, size);
    for (unsigned n = 0; n < 8; n++)
        if (7 - n != RSP)
            reg_set(c, REG_OFF(7 - n), size, v[n]);
    stack_set(c, c->s.gpr[RSP] + 8ull * size);
}

/* What ENTER puts on the new frame: the old frame pointer, outer frame pointers, its own. */
static unsigned enter_values(struct x86_cpu *c, unsigned size, unsigned level, uint64_t frame,
                             uint64_t *v) {
    unsigned count = 0;
    uint64_t bp = c->s.gpr[RBP];
    v[count++] = bp;
    for (unsigned n = 1; n < level; n++) {
        uint64_t at = (bp - (uint64_t)n * size) & c->stack_mask;
        v[count++] = mmu_ld(c, cpu_linear(c, SEG_SS, at, size, false), size, SEG_SS);
    }
    if (level)
        v[count++] = frame;
    return count;
}

OP(enter) {
    unsigned size = i->osize, level = i->aux & 31;
    uint64_t sp = c->s.gpr[RSP], v[33], lin[33];
    /* The whole register as the first push leaves it, also with a 16-bit stack. */
    uint64_t frame = (sp & ~c->stack_mask) | ((sp - size) & c->stack_mask);
    unsigned count = enter_values(c, size, level, frame, v);
    for (unsigned n = 0; n < count; n++) {
        lin[n] = stack_linear(c, sp - (n + 1ull) * size, size, true);
        mmu_probe(c, lin[n], size, true, SEG_SS);
    }
    uint64_t final = sp - (uint64_t)count * size - (uint16_t)i->imm;
    mmu_probe(c, stack_linear(c, final, 1, true), 1, true, SEG_SS);
    for (unsigned n = 0; n < count; n++)
        mmu_st(c, lin[n], v[n], size, SEG_SS);
    stack_set(c, final);
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

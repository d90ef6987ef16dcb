/* SPDX-License-Identifier: Apache-2.0 */
/* Near control transfer: JMP, Jcc, CALL, RET, LOOP, JCXZ (SDM 2). Far transfers are in far.c. */
#include "cpu/x86/cond.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/stack.h"

#define OP(name) X86_OP(op_##name)

/* Checks a target and cuts it to the operand size. #GP(0) outside the code segment or not
 * canonical. */
static uint64_t target_checked(struct x86_cpu *c, const struct x86_insn *i, uint64_t target) {
    if (likely(c->mode64)) {
        if (unlikely((uint64_t)((int64_t)(target << 16) >> 16) != target))
            cpu_raise_err(c, EXC_GP, 0);
        return target;
    }
    target &= i->osize == 2 ? 0xffff : UINT32_MAX;
    if (unlikely(target > c->s.seg[SEG_CS].limit))
        cpu_raise_err(c, EXC_GP, 0);
    return target;
}

static uint64_t relative(struct x86_cpu *c, const struct x86_insn *i) {
    return target_checked(c, i, c->next + i->imm);
}

static uint64_t absolute_reg(struct x86_cpu *c, const struct x86_insn *i) {
    return target_checked(c, i, reg_get(c, i->dst, i->osize));
}

static uint64_t absolute_mem(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = insn_linear(c, i, i->osize, false);
    return target_checked(c, i, mmu_ld(c, lin, i->osize, i->seg));
}

OP(jmp_rel) {
    c->next = relative(c, i);
}
OP(jmp_reg) {
    c->next = absolute_reg(c, i);
}
OP(jmp_mem) {
    c->next = absolute_mem(c, i);
}

/* Processors push before they check the target: the slot is written even when that raises #GP. */
static void call_to(struct x86_cpu *c, const struct x86_insn *i, uint64_t target) {
    uint64_t sp = c->s.gpr[RSP] - i->osize;
    mmu_st(c, stack_linear(c, sp, i->osize, true), c->next, i->osize, SEG_SS);
    c->next = target_checked(c, i, target);
    stack_set(c, sp);
}

OP(call_rel) {
    call_to(c, i, c->next + i->imm);
}
OP(call_reg) {
    call_to(c, i, reg_get(c, i->dst, i->osize));
}
OP(call_mem) {
    uint64_t lin = insn_linear(c, i, i->osize, false);
    call_to(c, i, mmu_ld(c, lin, i->osize, i->seg));
}

OP(ret) {
    uint64_t target = target_checked(c, i, stack_peek(c, 0, i->osize));
    stack_set(c, c->s.gpr[RSP] + i->osize + i->imm);
    c->next = target;
}

/* One function per condition, so that each branch site decides nothing else. */
#define JCC(code)                                                                                  \
    OP(jcc_##code) {                                                                               \
        if (cond_holds(c->cc, code))                                                               \
            c->next = relative(c, i);                                                              \
    }
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)
static x86_op_fn *const JCC_FN[16] = {
    op_jcc_0, op_jcc_1, op_jcc_2,  op_jcc_3,  op_jcc_4,  op_jcc_5,  op_jcc_6,  op_jcc_7,
    op_jcc_8, op_jcc_9, op_jcc_10, op_jcc_11, op_jcc_12, op_jcc_13, op_jcc_14, op_jcc_15};

/* The counter's size is the address size. */
static uint64_t counter(struct x86_cpu *c, const struct x86_insn *i) {
    return c->s.gpr[RCX] << i->ashift >> i->ashift;
}

OP(jcxz) {
    if (counter(c, i) == 0)
        c->next = relative(c, i);
}

/* aux: 0 LOOPNE, 1 LOOPE, 2 LOOP, as the opcode's low bits. */
OP(loop) {
    bool zf = c->cc & FLAG_ZF;
    uint64_t left = (c->s.gpr[RCX] - 1) << i->ashift >> i->ashift;
    bool taken = left != 0 && (i->aux == 2 || zf == (i->aux == 1));
    uint64_t target = taken ? relative(c, i) : c->next;
    reg_set(c, REG_OFF(RCX), (64 - i->ashift) / 8, left);
    c->next = target;
}

static bool is_far(const struct x86_decode *d) {
    return d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool pick(const struct x86_decode *d, struct x86_insn *i, x86_op_fn *rel, x86_op_fn *reg,
                 x86_op_fn *mem) {
    if (is_far(d))
        return false;
    i->fn = d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? rel : i->flags & INSN_MEM ? mem : reg;
    return true;
}

static bool select_conditional(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        i->fn = op_jcxz;
        return true;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
        i->fn = op_loop;
        i->aux = d->zi->opcode & 3;
        return true;
    default:
        if (d->zi->meta.category != ZYDIS_CATEGORY_COND_BR)
            return false;
        i->fn = JCC_FN[d->zi->opcode & 15];
        return true;
    }
}

bool select_branch(const struct x86_decode *d, struct x86_insn *i) {
    bool mine;
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        mine = pick(d, i, op_jmp_rel, op_jmp_reg, op_jmp_mem);
        break;
    case ZYDIS_MNEMONIC_CALL:
        mine = pick(d, i, op_call_rel, op_call_reg, op_call_mem);
        break;
    case ZYDIS_MNEMONIC_RET:
        mine = !is_far(d);
        i->fn = op_ret;
        i->imm = i->flags & INSN_IMM ? (uint16_t)i->imm : 0;
        break;
    default:
        mine = select_conditional(d, i);
    }
    if (mine)
        i->flags |= INSN_END;
    return mine;
}

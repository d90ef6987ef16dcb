/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data movement between general registers and memory: MOV, MOVZX, MOVSX(D), LEA, CMOVcc, SETcc,
 * XLAT, BSWAP, MOVBE, MOVNTI, MOVDIRI, MOVDIR64B, and the sign extensions of the accumulator (SDM
 * 2).
 */
#include "cpu/x86/cond.h"
#include "cpu/x86/mmu.h"

#define OP(name) X86_OP(op_##name)

#define MOV_FORMS(bits)                                                                            \
    OP(mov_rr##bits) {                                                                             \
        set_reg##bits(c, i->dst, reg##bits(c, i->src));                                            \
    }                                                                                              \
    OP(mov_ri##bits) {                                                                             \
        set_reg##bits(c, i->dst, (uint##bits##_t)i->imm);                                          \
    }                                                                                              \
    OP(mov_rm##bits) {                                                                             \
        uint64_t lin = insn_linear(c, i, (bits) / 8, false);                                       \
        set_reg##bits(c, i->dst, mmu_ld##bits(c, lin, i->seg));                                    \
    }                                                                                              \
    OP(mov_mr##bits) {                                                                             \
        uint64_t lin = insn_linear(c, i, (bits) / 8, true);                                        \
        mmu_st##bits(c, lin, reg##bits(c, i->src), i->seg);                                        \
    }                                                                                              \
    OP(mov_mi##bits) {                                                                             \
        uint64_t lin = insn_linear(c, i, (bits) / 8, true);                                        \
        mmu_st##bits(c, lin, (uint##bits##_t)i->imm, i->seg);                                      \
    }                                                                                              \
    /* A 64-bit offset in the instruction: only with the accumulator. */                           \
    OP(mov_ro##bits) {                                                                             \
        uint64_t lin = cpu_linear(c, i->seg, i->imm, (bits) / 8, false);                           \
        set_reg##bits(c, REG_OFF(RAX), mmu_ld##bits(c, lin, i->seg));                              \
    }                                                                                              \
    OP(mov_or##bits) {                                                                             \
        uint64_t lin = cpu_linear(c, i->seg, i->imm, (bits) / 8, true);                            \
        mmu_st##bits(c, lin, reg##bits(c, REG_OFF(RAX)), i->seg);                                  \
    }
MOV_FORMS(8)
MOV_FORMS(16)
MOV_FORMS(32)
MOV_FORMS(64)

enum mov_form { RR, RI, RM, MR, MI, RO, OR, MOV_FORM_COUNT };
#define MOV_SIZES(f)                                                                               \
    { op_mov_##f##8, op_mov_##f##16, op_mov_##f##32, op_mov_##f##64 }
static x86_op_fn *const MOV_FN[MOV_FORM_COUNT][4] = {
    [RR] = MOV_SIZES(rr), [RI] = MOV_SIZES(ri), [RM] = MOV_SIZES(rm), [MR] = MOV_SIZES(mr),
    [MI] = MOV_SIZES(mi), [RO] = MOV_SIZES(ro), [OR] = MOV_SIZES(or),
};

/* ---- widening moves: to 16, 32 or 64 bits, from 8, 16 or 32 ---- */

#define WIDEN(name, from, to, type)                                                                \
    OP(name##_r##from##_##to) {                                                                    \
        set_reg##to(c, i->dst, (uint##to##_t)(type)reg##from(c, i->src));                          \
    }                                                                                              \
    OP(name##_m##from##_##to) {                                                                    \
        uint64_t lin = insn_linear(c, i, (from) / 8, false);                                       \
        set_reg##to(c, i->dst, (uint##to##_t)(type)mmu_ld##from(c, lin, i->seg));                  \
    }
WIDEN(movzx, 8, 16, uint8_t)
WIDEN(movzx, 8, 32, uint8_t)
WIDEN(movzx, 8, 64, uint8_t)
WIDEN(movzx, 16, 16, uint16_t)
WIDEN(movzx, 16, 32, uint16_t)
WIDEN(movzx, 16, 64, uint16_t)
WIDEN(movsx, 8, 16, int8_t)
WIDEN(movsx, 8, 32, int8_t)
WIDEN(movsx, 8, 64, int8_t)
WIDEN(movsx, 16, 16, int16_t)
WIDEN(movsx, 16, 32, int16_t)
WIDEN(movsx, 16, 64, int16_t)
WIDEN(movsx, 32, 16, int32_t)
WIDEN(movsx, 32, 32, int32_t)
WIDEN(movsx, 32, 64, int32_t)

/* [source 8, 16, 32][memory?][destination 16, 32, 64] */
#define WIDEN_ROW(name, from)                                                                      \
    {                                                                                              \
        {op_##name##_r##from##_16, op_##name##_r##from##_32, op_##name##_r##from##_64}, {          \
            op_##name##_m##from##_16, op_##name##_m##from##_32, op_##name##_m##from##_64           \
        }                                                                                          \
    }
static x86_op_fn *const MOVZX_FN[2][2][3] = {WIDEN_ROW(movzx, 8), WIDEN_ROW(movzx, 16)};
static x86_op_fn *const MOVSX_FN[3][2][3] = {WIDEN_ROW(movsx, 8), WIDEN_ROW(movsx, 16),
                                             WIDEN_ROW(movsx, 32)};

/* ---- LEA ---- */

OP(lea16) {
    set_reg16(c, i->dst, (uint16_t)insn_ea(c, i));
}
OP(lea32) {
    set_reg32(c, i->dst, (uint32_t)insn_ea(c, i));
}
OP(lea64) {
    set_reg64(c, i->dst, insn_ea(c, i));
}

/* ---- by condition: aux holds the condition code ---- */

OP(setcc_r) {
    set_reg8(c, i->dst, cond_holds(c->cc, i->aux));
}
OP(setcc_m) {
    mmu_st8(c, insn_linear(c, i, 1, true), cond_holds(c->cc, i->aux), i->seg);
}

/* A 32-bit CMOV clears the upper half whether it moves or not; its memory operand is read in either
 * case. */
#define CMOV(bits)                                                                                 \
    OP(cmov_r##bits) {                                                                             \
        bool yes = cond_holds(c->cc, i->aux);                                                      \
        set_reg##bits(c, i->dst, reg##bits(c, yes ? i->src : i->dst));                             \
    }                                                                                              \
    OP(cmov_m##bits) {                                                                             \
        uint##bits##_t v = mmu_ld##bits(c, insn_linear(c, i, (bits) / 8, false), i->seg);          \
        set_reg##bits(c, i->dst, cond_holds(c->cc, i->aux) ? v : reg##bits(c, i->dst));            \
    }
CMOV(16)
CMOV(32)
CMOV(64)

/* ---- bytes in another order ---- */

OP(bswap32) {
    set_reg32(c, i->dst, __builtin_bswap32(reg32(c, i->dst)));
}
OP(bswap64) {
    set_reg64(c, i->dst, __builtin_bswap64(reg64(c, i->dst)));
}
/* Undefined for 16 bits; processors clear the register (SDM 2A, BSWAP). */
OP(bswap16) {
    set_reg16(c, i->dst, 0);
}

#define MOVBE(bits)                                                                                \
    OP(movbe_rm##bits) {                                                                           \
        uint64_t lin = insn_linear(c, i, (bits) / 8, false);                                       \
        set_reg##bits(c, i->dst, __builtin_bswap##bits(mmu_ld##bits(c, lin, i->seg)));             \
    }                                                                                              \
    OP(movbe_mr##bits) {                                                                           \
        uint64_t lin = insn_linear(c, i, (bits) / 8, true);                                        \
        mmu_st##bits(c, lin, __builtin_bswap##bits(reg##bits(c, i->src)), i->seg);                 \
    }
MOVBE(16)
MOVBE(32)
MOVBE(64)

/* ---- accumulator: sign extensions, table look-up ---- */

OP(cbw) {
    set_reg16(c, REG_OFF(RAX), (uint16_t)(int8_t)c->s.gpr[RAX]);
}
OP(cwde) {
    set_reg32(c, REG_OFF(RAX), (uint32_t)(int16_t)c->s.gpr[RAX]);
}
OP(cdqe) {
    c->s.gpr[RAX] = (uint64_t)(int32_t)c->s.gpr[RAX];
}
OP(cwd) {
    set_reg16(c, REG_OFF(RDX), (int16_t)c->s.gpr[RAX] < 0 ? 0xffff : 0);
}
OP(cdq) {
    set_reg32(c, REG_OFF(RDX), (int32_t)c->s.gpr[RAX] < 0 ? UINT32_MAX : 0);
}
OP(cqo) {
    c->s.gpr[RDX] = (int64_t)c->s.gpr[RAX] < 0 ? UINT64_MAX : 0;
}

OP(xlat) {
    uint64_t ea = c->s.gpr[RBX] + (uint8_t)c->s.gpr[RAX];
    ea = ea << i->ashift >> i->ashift;
    set_reg8(c, REG_OFF(RAX), mmu_ld8(c, cpu_linear(c, i->seg, ea, 1, false), i->seg));
}

/* MOVDIR64B: 64 bytes from memory to ES:reg, which must be 64-byte aligned. The source faults
 * first. */
OP(movdir64b) {
    uint8_t line[64];
    uint64_t from = insn_linear(c, i, 64, false);
    uint64_t ea = reg64(c, i->dst) << i->ashift >> i->ashift;
    mmu_read(c, from, line, sizeof line, i->seg);
    uint64_t to = cpu_linear(c, SEG_ES, ea, 64, true);
    if (to & 63)
        cpu_raise_err(c, EXC_GP, 0);
    mmu_write(c, to, line, sizeof line, SEG_ES);
}

/* ---- selection ---- */

/* Registers that are not general ones make it another family's MOV. */
static bool all_general(const struct x86_decode *d) {
    for (unsigned n = 0; n < d->zi->operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &d->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (op->reg.value < ZYDIS_REGISTER_AL || op->reg.value > ZYDIS_REGISTER_R15))
            return false;
    }
    return true;
}

static bool far_offset(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.base == ZYDIS_REGISTER_NONE &&
           op->mem.index == ZYDIS_REGISTER_NONE &&
           op->mem.disp.value != (int32_t)op->mem.disp.value;
}

static bool select_plain_mov(const struct x86_decode *d, struct x86_insn *i) {
    if (!all_general(d))
        return false;
    bool to_mem = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool from_mem = d->op[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool imm = d->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    enum mov_form f = to_mem     ? imm                     ? MI
                                   : far_offset(&d->op[0]) ? OR
                                                           : MR
                      : from_mem ? far_offset(&d->op[1]) ? RO : RM
                      : imm      ? RI
                                 : RR;
    i->fn = MOV_FN[f][size_index(i->osize)];
    return true;
}

static bool select_widen(const struct x86_decode *d, struct x86_insn *i) {
    unsigned from = d->op[1].size / 8, mem = !!(i->flags & INSN_MEM);
    if (from > i->osize) /* MOVSXD r16 reads no more than it writes */
        from = i->osize;
    unsigned row = from == 4 ? 2 : from - 1, to = size_index(i->osize) - 1;
    bool zero = d->zi->mnemonic == ZYDIS_MNEMONIC_MOVZX;
    i->fn = zero ? MOVZX_FN[row][mem][to] : MOVSX_FN[row][mem][to];
    return true;
}

static bool select_movbe(const struct x86_decode *d, struct x86_insn *i) {
    static x86_op_fn *const load[] = {op_movbe_rm16, op_movbe_rm32, op_movbe_rm64};
    static x86_op_fn *const store[] = {op_movbe_mr16, op_movbe_mr32, op_movbe_mr64};
    bool to_mem = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    i->fn = (to_mem ? store : load)[size_index(i->osize) - 1];
    return true;
}

static bool select_by_condition(const struct x86_decode *d, struct x86_insn *i) {
    static x86_op_fn *const cmov[2][3] = {{op_cmov_r16, op_cmov_r32, op_cmov_r64},
                                          {op_cmov_m16, op_cmov_m32, op_cmov_m64}};
    bool mem = i->flags & INSN_MEM;
    i->aux = d->zi->opcode & 15;
    if (d->zi->meta.category == ZYDIS_CATEGORY_CMOV)
        i->fn = cmov[mem][size_index(i->osize) - 1];
    else
        i->fn = mem ? op_setcc_m : op_setcc_r;
    return true;
}

static x86_op_fn *simple_fn(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_CBW:
        return op_cbw;
    case ZYDIS_MNEMONIC_CWDE:
        return op_cwde;
    case ZYDIS_MNEMONIC_CDQE:
        return op_cdqe;
    case ZYDIS_MNEMONIC_CWD:
        return op_cwd;
    case ZYDIS_MNEMONIC_CDQ:
        return op_cdq;
    case ZYDIS_MNEMONIC_CQO:
        return op_cqo;
    case ZYDIS_MNEMONIC_MOVDIR64B:
        return op_movdir64b;
    default:
        return NULL;
    }
}

bool select_mov(const struct x86_decode *d, struct x86_insn *i) {
    ZydisInstructionCategory cat = d->zi->meta.category;
    if (cat == ZYDIS_CATEGORY_CMOV || cat == ZYDIS_CATEGORY_SETCC)
        return select_by_condition(d, i);
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return select_plain_mov(d, i);
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVDIRI:
        return select_plain_mov(d, i);
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return select_widen(d, i);
    case ZYDIS_MNEMONIC_MOVBE:
        return select_movbe(d, i);
    case ZYDIS_MNEMONIC_LEA:
        i->fn = i->osize == 8 ? op_lea64 : i->osize == 4 ? op_lea32 : op_lea16;
        return true;
    case ZYDIS_MNEMONIC_BSWAP:
        i->fn = i->osize == 8 ? op_bswap64 : i->osize == 4 ? op_bswap32 : op_bswap16;
        return true;
    case ZYDIS_MNEMONIC_XLAT:
        i->fn = op_xlat;
        for (unsigned n = 0; n < d->zi->operand_count; n++)
            if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
                i->seg = (uint8_t)(d->op[n].mem.segment - ZYDIS_REGISTER_ES);
        return true;
    default:
        i->fn = simple_fn(d->zi->mnemonic);
        return i->fn;
    }
}

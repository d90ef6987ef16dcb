/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions on RFLAGS: PUSHF, POPF, CLI and STI with IOPL, virtual-8086 mode extensions and
 * protected-mode virtual interrupts, and the single flags. SDM 2, under each instruction; SDM
 * 3B 20.3 and 20.4.
 */
#include "cpu/x86/stack.h"

static unsigned iopl(const struct x86_cpu *c) {
    return c->s.rflags >> 12 & 3;
}

/* Virtual-8086 mode below IOPL 3: #GP(0), unless the extensions virtualise IF in VIF. */
static bool virtual_if(struct x86_cpu *c, bool supported) {
    if (!c->vm86 || iopl(c) == 3)
        return false;
    if (!(c->s.cr4 & CR4_VME) || !supported)
        cpu_raise_err(c, EXC_GP, 0);
    return true;
}

static void op_pushf(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t v = cpu_flags(c) & ~(uint64_t)(FLAG_VM | FLAG_RF);
    if (virtual_if(c, i->osize == 2))
        v = (v & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (v & FLAG_VIF ? FLAG_IF : 0);
    stack_push(c, v, i->osize);
}

static uint32_t popf_mask(const struct x86_cpu *c, unsigned osize) {
    uint32_t mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    if (osize > 2)
        mask |= FLAG_AC | FLAG_ID;
    if (c->cpl == 0)
        mask |= FLAG_IOPL;
    if (c->cpl <= iopl(c))
        mask |= FLAG_IF;
    return mask;
}

static void op_popf(struct x86_cpu *c, const struct x86_insn *i) {
    bool virt = virtual_if(c, i->osize == 2);
    uint64_t v = stack_peek(c, 0, i->osize), old = cpu_flags(c);
    uint32_t mask = popf_mask(c, i->osize);
    if (virt) {
        if (v & FLAG_TF || (v & FLAG_IF && old & FLAG_VIP))
            cpu_raise_err(c, EXC_GP, 0);
        v = (v & ~(uint64_t)FLAG_VIF) | (v & FLAG_IF ? FLAG_VIF : 0);
        mask |= FLAG_VIF;
    }
    stack_set(c, c->s.gpr[RSP] + i->osize);
    cpu_set_flags(c, (old & ~(uint64_t)(mask | FLAG_RF)) | (v & mask));
    if ((old ^ v) & mask & FLAG_AC)
        cpu_update_mode(c);
}

/* What CLI and STI act on: IF, VIF, or #GP(0). SDM 2, tables 3-7 and 4-25. */
static uint32_t interrupt_flag(struct x86_cpu *c) {
    if (c->cpl <= iopl(c) && (!c->vm86 || iopl(c) == 3))
        return FLAG_IF;
    bool vif = c->vm86 ? c->s.cr4 & CR4_VME : c->cpl == 3 && c->s.cr4 & CR4_PVI;
    if (!vif)
        cpu_raise_err(c, EXC_GP, 0);
    return FLAG_VIF;
}

static void op_cli(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->s.rflags &= ~(uint64_t)interrupt_flag(c);
}

static void op_sti(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint32_t flag = interrupt_flag(c);
    if (flag == FLAG_VIF && c->s.rflags & FLAG_VIP)
        cpu_raise_err(c, EXC_GP, 0);
    if (flag == FLAG_IF && !(c->s.rflags & FLAG_IF))
        c->s.shadow_sti = true;
    c->s.rflags |= flag;
}

static void op_clc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->cc &= ~(uint32_t)FLAG_CF;
}

static void op_stc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->cc |= FLAG_CF;
}

static void op_cmc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->cc ^= FLAG_CF;
}

static void op_cld(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->s.rflags &= ~(uint64_t)FLAG_DF;
}

static void op_std(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->s.rflags |= FLAG_DF;
}

enum { REG_AH = RAX * 8 + 1, REG_AL = RAX * 8, AH_FLAGS = FLAG_ARITH & 0xff };

static void op_lahf(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    set_reg8(c, REG_AH, (uint8_t)((c->cc & AH_FLAGS) | FLAG_FIXED));
}

static void op_sahf(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    c->cc = (c->cc & ~(uint32_t)AH_FLAGS) | (reg8(c, REG_AH) & AH_FLAGS);
}

static void op_salc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    set_reg8(c, REG_AL, c->cc & FLAG_CF ? 0xff : 0);
}

static void require_ac(struct x86_cpu *c) {
    if (c->cpl != 0)
        cpu_raise(c, EXC_UD);
}

static void op_stac(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_ac(c);
    c->s.rflags |= FLAG_AC;
    cpu_update_mode(c);
}

static void op_clac(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_ac(c);
    c->s.rflags &= ~(uint64_t)FLAG_AC;
    cpu_update_mode(c);
}

static bool select_to(struct x86_insn *i, x86_op_fn *fn, unsigned flags) {
    i->fn = fn;
    i->flags |= (uint8_t)flags;
    return true;
}

/* In 64-bit mode LAHF and SAHF need a feature of their own. */
static bool has_lahf(const struct x86_decode *d, const struct x86_insn *i) {
    return i->mode != 64 || x86_has(d->cpuid, FEAT_LAHF_LM);
}

bool select_flags(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return select_to(i, op_pushf, 0);
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        return select_to(i, op_popf, INSN_END);
    case ZYDIS_MNEMONIC_CLI:
        return select_to(i, op_cli, INSN_END);
    case ZYDIS_MNEMONIC_STI:
        return select_to(i, op_sti, INSN_END);
    case ZYDIS_MNEMONIC_CLC:
        return select_to(i, op_clc, 0);
    case ZYDIS_MNEMONIC_STC:
        return select_to(i, op_stc, 0);
    case ZYDIS_MNEMONIC_CMC:
        return select_to(i, op_cmc, 0);
    case ZYDIS_MNEMONIC_CLD:
        return select_to(i, op_cld, 0);
    case ZYDIS_MNEMONIC_STD:
        return select_to(i, op_std, 0);
    case ZYDIS_MNEMONIC_LAHF:
        return has_lahf(d, i) && select_to(i, op_lahf, 0);
    case ZYDIS_MNEMONIC_SAHF:
        return has_lahf(d, i) && select_to(i, op_sahf, 0);
    case ZYDIS_MNEMONIC_SALC:
        return select_to(i, op_salc, 0);
    case ZYDIS_MNEMONIC_STAC:
        return x86_has(d->cpuid, FEAT_SMAP) && select_to(i, op_stac, 0);
    case ZYDIS_MNEMONIC_CLAC:
        return x86_has(d->cpuid, FEAT_SMAP) && select_to(i, op_clac, 0);
    default:
        return false;
    }
}

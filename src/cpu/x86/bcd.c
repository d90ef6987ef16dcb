/* SPDX-License-Identifier: Apache-2.0 */
/* DAA, DAS, AAA, AAS, AAM, AAD (SDM 2): outside 64-bit mode only, so the host cannot execute them.
 */
#include "cpu/x86/mmu.h"

static uint32_t flags_of_byte(uint8_t v) {
    return (v == 0 ? FLAG_ZF : 0) | (v & 0x80 ? FLAG_SF : 0) | (__builtin_parity(v) ? 0 : FLAG_PF);
}

static uint8_t al(const struct x86_cpu *c) {
    return (uint8_t)c->s.gpr[RAX];
}

/* OF is undefined after DAA and DAS: cleared here. */
static void decimal_adjust(struct x86_cpu *c, bool subtract) {
    uint8_t old = al(c);
    bool low = (old & 15) > 9 || c->cc & FLAG_AF, high = old > 0x99 || c->cc & FLAG_CF;
    bool borrow = subtract && low && old < 6;
    uint8_t adjust = (uint8_t)((low ? 6 : 0) + (high ? 0x60 : 0));
    uint8_t v = (uint8_t)(subtract ? old - adjust : old + adjust);
    set_reg8(c, REG_OFF(RAX), v);
    c->cc = flags_of_byte(v) | (low ? FLAG_AF : 0) | (high || borrow ? FLAG_CF : 0);
}
X86_OP(op_daa) {
    decimal_adjust(c, false);
}
X86_OP(op_das) {
    decimal_adjust(c, true);
}

static void ascii_adjust(struct x86_cpu *c, bool subtract) {
    bool carry = (al(c) & 15) > 9 || c->cc & FLAG_AF;
    uint16_t ax = (uint16_t)c->s.gpr[RAX];
    if (carry)
        ax = (uint16_t)(subtract ? ax - 0x106 : ax + 0x106);
    set_reg16(c, REG_OFF(RAX), ax & 0xff0f);
    c->cc = flags_of_byte(ax & 0x0f) | (carry ? FLAG_AF | FLAG_CF : 0);
}
X86_OP(op_aaa) {
    ascii_adjust(c, false);
}
X86_OP(op_aas) {
    ascii_adjust(c, true);
}

X86_OP(op_aam) {
    uint8_t base = (uint8_t)i->imm, v = al(c);
    if (base == 0)
        cpu_raise(c, EXC_DE);
    set_reg16(c, REG_OFF(RAX), (uint16_t)((v / base) << 8 | v % base));
    c->cc = flags_of_byte(v % base);
}

X86_OP(op_aad) {
    uint16_t ax = (uint16_t)c->s.gpr[RAX];
    uint8_t v = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)i->imm);
    set_reg16(c, REG_OFF(RAX), v);
    c->cc = flags_of_byte(v);
}

bool select_bcd(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_DAA:
        i->fn = op_daa;
        return true;
    case ZYDIS_MNEMONIC_DAS:
        i->fn = op_das;
        return true;
    case ZYDIS_MNEMONIC_AAA:
        i->fn = op_aaa;
        return true;
    case ZYDIS_MNEMONIC_AAS:
        i->fn = op_aas;
        return true;
    case ZYDIS_MNEMONIC_AAM:
        i->fn = op_aam;
        return true;
    case ZYDIS_MNEMONIC_AAD:
        i->fn = op_aad;
        return true;
    default:
        return false;
    }
}

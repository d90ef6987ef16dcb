/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 control instructions: control and status words, environments in their four formats, FNSAVE,
 * FRSTOR, FNINIT and FNCLEX. SDM 1 chapter 8.1 (figures 8-9 to 8-12). They leave the instruction
 * and operand pointers alone.
 */
#include "cpu/x86/mmu.h"
#include "cpu/x86/x87.h"

#define FCW_INIT 0x37f

/* ---- the tag word: two bits for each physical register ---- */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned tag_of(const uint8_t *st) {
    uint64_t significand;
    uint16_t exponent;
    memcpy(&significand, st, 8);
    memcpy(&exponent, st + 8, 2);
    exponent &= 0x7fff;
    if (exponent == 0)
        return significand == 0 ? TAG_ZERO : TAG_SPECIAL;
    return exponent == 0x7fff || !(significand >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static uint16_t full_tags(const struct x86_fpu *f) {
    unsigned tags = 0;
    for (unsigned p = 0; p < 8; p++) {
        unsigned tag = f->ftw >> p & 1 ? tag_of(f->st[(p - x87_top(f)) & 7]) : TAG_EMPTY;
        tags |= tag << (2 * p);
    }
    return (uint16_t)tags;
}

static uint8_t short_tags(unsigned tags) {
    unsigned ftw = 0;
    for (unsigned p = 0; p < 8; p++)
        if ((tags >> (2 * p) & 3) != TAG_EMPTY)
            ftw |= 1u << p;
    return (uint8_t)ftw;
}

/* ---- environments: 14 or 28 bytes; in real and virtual-8086 mode with linear addresses ---- */

static bool real_format(const struct x86_cpu *c) {
    return !c->pe || c->vm86;
}

static unsigned env_size(const struct x86_insn *i) {
    return i->osize == 2 ? 14 : 28;
}

static void put_field(uint8_t *env, const struct x86_insn *i, unsigned n, uint32_t v) {
    memcpy(env + n * i->osize, &v, i->osize);
}

static uint32_t get_field(const uint8_t *env, const struct x86_insn *i, unsigned n) {
    uint32_t v = 0;
    memcpy(&v, env + n * i->osize, i->osize);
    return v;
}

/* Reserved upper halves read as ones. */
static uint32_t ones_above(uint32_t v) {
    return v | 0xffff0000;
}

static void put_pointers_real(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *env) {
    const struct x86_fpu *f = &c->s.fpu;
    uint32_t ip = (uint32_t)f->fip + ((uint32_t)f->fcs << 4);
    uint32_t dp = (uint32_t)f->fdp + ((uint32_t)f->fds << 4);
    put_field(env, i, 3, ones_above(ip & 0xffff));
    put_field(env, i, 4, (ip & 0xffff0000) >> 4 | f->fop);
    put_field(env, i, 5, ones_above(dp & 0xffff));
    put_field(env, i, 6, (dp & 0xffff0000) >> 4);
}

static void put_pointers(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *env) {
    const struct x86_fpu *f = &c->s.fpu;
    bool selectors = !x86_has(c->cpuid, FEAT_FCS_FDS_DEPRECATED);
    put_field(env, i, 3, (uint32_t)f->fip);
    put_field(env, i, 4, (selectors ? f->fcs : 0u) | (uint32_t)f->fop << 16);
    put_field(env, i, 5, (uint32_t)f->fdp);
    put_field(env, i, 6, ones_above(selectors ? f->fds : 0u));
}

static void env_make(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *env) {
    const struct x86_fpu *f = &c->s.fpu;
    put_field(env, i, 0, ones_above(f->fcw));
    put_field(env, i, 1, ones_above(f->fsw));
    put_field(env, i, 2, ones_above(full_tags(f)));
    if (real_format(c))
        put_pointers_real(c, i, env);
    else
        put_pointers(c, i, env);
}

static void load_pointers_real(struct x86_fpu *f, const struct x86_insn *i, const uint8_t *env) {
    f->fip = (get_field(env, i, 3) & 0xffff) | (get_field(env, i, 4) & 0x0ffff000) << 4;
    f->fop = get_field(env, i, 4) & 0x7ff;
    f->fdp = (get_field(env, i, 5) & 0xffff) | (get_field(env, i, 6) & 0x0ffff000) << 4;
    f->fcs = f->fds = 0;
}

/* The 16-bit protected format has no room for FOP. */
static void load_pointers(struct x86_fpu *f, const struct x86_insn *i, const uint8_t *env) {
    f->fip = get_field(env, i, 3);
    f->fcs = (uint16_t)get_field(env, i, 4);
    f->fop = get_field(env, i, 4) >> 16 & 0x7ff;
    f->fdp = get_field(env, i, 5);
    f->fds = (uint16_t)get_field(env, i, 6);
}

static void env_load(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *env) {
    struct x86_fpu *f = &c->s.fpu;
    unsigned fsw = get_field(env, i, 1);
    f->fcw = x87_valid_fcw(get_field(env, i, 0));
    x87_set_top(f, fsw >> 11 & 7);
    f->fsw = (uint16_t)fsw;
    f->ftw = short_tags(get_field(env, i, 2));
    if (real_format(c))
        load_pointers_real(f, i, env);
    else
        load_pointers(f, i, env);
    x87_update_summary(f);
    x87_ferr(c);
}

static void mask_all(struct x86_cpu *c) {
    c->s.fpu.fcw |= FSW_EXCEPTIONS;
    x87_update_summary(&c->s.fpu);
}

static void x87_reset(struct x86_cpu *c) {
    struct x86_fpu *f = &c->s.fpu;
    x87_set_top(f, 0);
    f->fcw = FCW_INIT;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
    f->fcs = f->fds = 0;
    x87_ferr(c);
}

/* ---- instructions ---- */

static void op_fninit(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    x87_require(c);
    x87_reset(c);
}

static void op_fnclex(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    x87_require(c);
    c->s.fpu.fsw &= (uint16_t) ~(FSW_EXCEPTIONS | FSW_SF | FSW_ES | FSW_B);
    x87_ferr(c);
}

/* FENI, FDISI (8087) and FSETPM (287) do nothing any more. */
static void op_nothing(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    x87_require(c);
}

static void op_fnstcw(struct x86_cpu *c, const struct x86_insn *i) {
    x87_require(c);
    mmu_st16(c, insn_linear(c, i, 2, true), c->s.fpu.fcw, i->seg);
}

static void op_fldcw(struct x86_cpu *c, const struct x86_insn *i) {
    x87_require(c);
    if (x87_wait(c))
        return;
    c->s.fpu.fcw = x87_valid_fcw(mmu_ld16(c, insn_linear(c, i, 2, false), i->seg));
    x87_update_summary(&c->s.fpu);
    x87_ferr(c);
}

static void op_fnstsw(struct x86_cpu *c, const struct x86_insn *i) {
    x87_require(c);
    if (i->flags & INSN_MEM)
        mmu_st16(c, insn_linear(c, i, 2, true), c->s.fpu.fsw, i->seg);
    else
        set_reg16(c, REG_OFF(RAX), c->s.fpu.fsw);
}

static void op_fnstenv(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t env[28];
    x87_require(c);
    uint64_t lin = insn_linear(c, i, env_size(i), true);
    env_make(c, i, env);
    mmu_write(c, lin, env, env_size(i), i->seg);
    mask_all(c);
}

static void op_fldenv(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t env[28];
    x87_require(c);
    if (x87_wait(c))
        return;
    mmu_read(c, insn_linear(c, i, env_size(i), false), env, env_size(i), i->seg);
    env_load(c, i, env);
}

static void op_fnsave(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t image[108];
    unsigned size = env_size(i);
    x87_require(c);
    uint64_t lin = insn_linear(c, i, size + 80, true);
    env_make(c, i, image);
    for (unsigned n = 0; n < 8; n++)
        memcpy(image + size + 10 * n, c->s.fpu.st[n], 10);
    mmu_write(c, lin, image, size + 80, i->seg);
    x87_reset(c);
}

static void op_frstor(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t image[108];
    unsigned size = env_size(i);
    x87_require(c);
    if (x87_wait(c))
        return;
    mmu_read(c, insn_linear(c, i, size + 80, false), image, size + 80, i->seg);
    env_load(c, i, image);
    for (unsigned n = 0; n < 8; n++) {
        memset(c->s.fpu.st[n], 0, 16);
        memcpy(c->s.fpu.st[n], image + size + 10 * n, 10);
    }
}

/* ---- selection ---- */

static void take_env_size(const struct x86_decode *d, struct x86_insn *i) {
    for (unsigned n = 0; n < d->zi->operand_count; n++)
        if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            i->osize = d->op[n].size == 14 * 8 || d->op[n].size == 94 * 8 ? 2 : 4;
}

static x86_op_fn *pick_env(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_FNSTENV:
        return op_fnstenv;
    case ZYDIS_MNEMONIC_FLDENV:
        return op_fldenv;
    case ZYDIS_MNEMONIC_FNSAVE:
        return op_fnsave;
    case ZYDIS_MNEMONIC_FRSTOR:
        return op_frstor;
    default:
        return NULL;
    }
}

x86_op_fn *x87_select_control(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
        return op_fninit;
    case ZYDIS_MNEMONIC_FNCLEX:
        return op_fnclex;
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return op_nothing;
    case ZYDIS_MNEMONIC_FNSTCW:
        return op_fnstcw;
    case ZYDIS_MNEMONIC_FLDCW:
        return op_fldcw;
    case ZYDIS_MNEMONIC_FNSTSW:
        return op_fnstsw;
    default:
        take_env_size(d, i);
        return pick_env(d->zi->mnemonic);
    }
}

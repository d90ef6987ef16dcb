/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MMX, SSE and AVX instructions, run by the host's own instruction on the guest's values: the
 * guest's encoding is rewritten to fixed operands (thunk.h), and one function moves operands in and
 * out. SDM 2A 2.3 (VEX), 2.4 (exception classes); SDM 3A 13 (MMX and SSE system programming).
 */
#include "cpu/x86/vector.h"

#include "cpu/x86/thunk.h"

/* ---- checks ---- */

noreturn void vec_refuse(struct x86_cpu *c, unsigned flags) {
    bool undefined;
    if (flags & VEC_VEX)
        undefined = !(c->s.cr4 & CR4_OSXSAVE) || (c->s.xcr0 & 6) != 6 || !c->pe || c->vm86;
    else if (flags & VEC_NOSSE)
        undefined = c->s.cr0 & CR0_EM;
    else
        undefined = (c->s.cr0 & CR0_EM) || !(c->s.cr4 & CR4_OSFXSR);
    cpu_raise(c, undefined ? EXC_UD : EXC_NM);
}

void mmx_enter(struct x86_cpu *c) {
    x87_set_top(&c->s.fpu, 0);
    c->s.fpu.ftw = 0xff;
}

/* ---- execution ---- */

/* MMn is physical register n, which the switch to MMX state makes ST(n). */
static uint8_t *mmx_reg(struct x86_cpu *c, unsigned n) {
    return c->s.fpu.st[(n - x87_top(&c->s.fpu)) & 7];
}

/* A slot that is not used may hold any number: the operand is something else. */
static void *slot_value(struct x86_cpu *c, unsigned type, unsigned n) {
    return type == THUNK_MM ? mmx_reg(c, n) : vec_reg(c, n & 31);
}

static noreturn void raise_simd(struct x86_cpu *c) {
    cpu_raise(c, c->s.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
}

static inline void run_thunk(struct x86_cpu *c, const struct x86_insn *i, struct thunk_frame *f,
                             void *mem, bool mxcsr) {
    const struct thunk *t = i->data;
    const uint8_t *slot = t->key.slot;
    f->mxcsr = c->s.fpu.mxcsr;
    int fault = t->run(f, mem, slot_value(c, slot[2], i->src2), slot_value(c, slot[3], i->aux),
                       slot_value(c, slot[0], i->dst), slot_value(c, slot[1], i->src));
    if (mxcsr) {
        c->s.fpu.mxcsr = f->mxcsr;
        if (unlikely(fault))
            raise_simd(c);
    }
}

/* Vector registers only. */
static void vec_regs(struct x86_cpu *c, const struct x86_insn *i) {
    struct thunk_frame f;
    unsigned flags = vec_meta(i).flags;
    vec_check(c, flags);
    run_thunk(c, i, &f, NULL, flags & VEC_MXCSR);
}

/* Vector registers and a memory source. */
static void vec_source(struct x86_cpu *c, const struct x86_insn *i) {
    struct thunk_frame f;
    _Alignas(64) uint8_t buf[64];
    struct vec_meta m = vec_meta(i);
    vec_check(c, m.flags);
    vec_load(c, vec_linear(c, i, i->osize, m.align, false), buf, i->osize, i->seg);
    run_thunk(c, i, &f, buf, m.flags & VEC_MXCSR);
}

static void load_gprs(struct x86_cpu *c, struct thunk_frame *f, const struct vec_meta *m) {
    for (unsigned n = 0; n < 3; n++)
        f->gpr[n] = reg64(c, m->gpr[n]);
}

/* A 32-bit result comes out of the thunk with its upper half clear, as the guest's register wants
 * it. */
static void store_gprs(struct x86_cpu *c, const struct thunk_frame *f, const struct vec_meta *m) {
    for (unsigned n = 0; n < 3; n++)
        if (m->gpr_out >> n & 1)
            set_reg64(c, m->gpr[n], f->gpr[n]);
}

static void mmx_written(struct x86_cpu *c, const struct x86_insn *i) {
    const struct thunk_key *k = &((const struct thunk *)i->data)->key;
    if ((k->flags & THUNK_STORE_V0) && k->slot[0] == THUNK_MM)
        memset(mmx_reg(c, i->dst) + 8, 0xff, 2);
}

static void mmx_begin(struct x86_cpu *c, unsigned flags) {
    if (flags & VEC_MXCSR)
        mmx_enter(c);
    else
        x87_set_top(&c->s.fpu, 0);
}

static void load_memory(struct x86_cpu *c, const struct x86_insn *i, struct vec_meta m,
                        uint8_t *buf) {
    uint64_t lin = vec_linear(c, i, i->osize, m.align, false);
    if (unlikely(m.flags & VEC_ANYWHERE) && i->osize <= 8) {
        uint64_t v = mmu_ld_unaligned(c, lin, i->osize, i->seg);
        memcpy(buf, &v, 8);
    } else {
        vec_load(c, lin, buf, i->osize, i->seg);
    }
}

static void store_memory(struct x86_cpu *c, const struct x86_insn *i, struct vec_meta m,
                         const uint8_t *buf) {
    uint64_t lin = vec_linear(c, i, i->osize, m.align, true), v;
    if (unlikely(m.flags & VEC_ANYWHERE) && i->osize <= 8) {
        memcpy(&v, buf, 8);
        mmu_st_unaligned(c, lin, v, i->osize, i->seg);
    } else {
        vec_store(c, lin, buf, i->osize, i->seg);
    }
}

/*
 * Everything. Before a store that faults come MXCSR's flags and, for an MMX register, TOP = 0;
 * before #XM all of the switch to MMX state. Else instructions make that when they have succeeded.
 */
static void vec_any(struct x86_cpu *c, const struct x86_insn *i) {
    struct thunk_frame f;
    _Alignas(64) uint8_t buf[64];
    struct vec_meta m = vec_meta(i);
    vec_check(c, m.flags);
    if ((m.flags & VEC_MMX) && x87_wait(c))
        return;
    if (m.flags & VEC_READ)
        load_memory(c, i, m, buf);
    if ((m.flags & VEC_MMX) && (m.flags & (VEC_WRITE | VEC_MXCSR)))
        mmx_begin(c, m.flags);
    load_gprs(c, &f, &m);
    run_thunk(c, i, &f, buf, m.flags & VEC_MXCSR);
    if (m.flags & VEC_WRITE)
        store_memory(c, i, m, buf);
    store_gprs(c, &f, &m);
    if (m.flags & VEC_FLAGS)
        c->cc = (uint32_t)f.flags & FLAG_ARITH;
    if (m.flags & VEC_MMX) {
        mmx_written(c, i);
        mmx_enter(c);
    }
}

/* ---- selection: operands ---- */

struct recipe {
    const struct x86_decode *d;
    struct x86_insn *i;
    struct thunk_key key;
    struct vec_meta meta;
    unsigned reg, rm, vvvv; /* fields of the new encoding */
    bool is4;
};

static unsigned slot_type(ZydisRegister r) {
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_MMX:
        return THUNK_MM;
    case ZYDIS_REGCLASS_XMM:
        return THUNK_XMM;
    case ZYDIS_REGCLASS_YMM:
        return THUNK_YMM;
    default:
        return THUNK_NONE;
    }
}

/* VEX instructions clear the destination above what they write, so they need the whole register. */
static unsigned slot_type_for(const struct x86_decode *d, ZydisRegister r) {
    unsigned type = slot_type(r);
    return type == THUNK_XMM && d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? THUNK_YMM
                                                                                  : type;
}

static void place_field(struct recipe *r, ZydisOperandEncoding where, unsigned value) {
    if (where == ZYDIS_OPERAND_ENCODING_MODRM_REG)
        r->reg = value;
    else if (where == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        r->rm = value;
    else if (where == ZYDIS_OPERAND_ENCODING_NDSNDD)
        r->vvvv = value;
    else if (where == ZYDIS_OPERAND_ENCODING_IS4)
        r->is4 = true;
}

static bool take_vector(struct recipe *r, const ZydisDecodedOperand *op, unsigned n) {
    bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    unsigned slot = hidden ? 3 : n;
    unsigned number = (unsigned)ZydisRegisterGetId(op->reg.value);
    if (slot >= THUNK_SLOTS || r->key.slot[slot] != THUNK_NONE || number > 15)
        return false;
    r->key.slot[slot] = (uint8_t)slot_type_for(r->d, op->reg.value);
    if (r->key.slot[slot] == THUNK_MM)
        r->meta.flags |= VEC_MMX;
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        if (slot != 0 && slot != 3)
            return false;
        r->key.flags |= slot == 0 ? THUNK_STORE_V0 : THUNK_STORE_V3;
    }
    if (slot == 3)
        r->i->aux = (uint16_t)number;
    else
        *(slot == 0 ? &r->i->dst : slot == 1 ? &r->i->src : &r->i->src2) = (uint8_t)number;
    place_field(r, op->encoding, thunk_reg(slot));
    return true;
}

/* RAX for ModRM.reg, RCX for ModRM.rm; the implicit ones are themselves. */
static void take_gpr(struct recipe *r, const ZydisDecodedOperand *op) {
    unsigned number = (unsigned)ZydisRegisterGetId(op->reg.value);
    unsigned n = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG  ? RAX
                 : op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ? RCX
                                                                   : number;
    r->meta.gpr[n] = REG_OFF(number);
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        r->key.gpr_in |= (uint8_t)(1u << n);
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        r->key.gpr_out |= (uint8_t)(1u << n);
        r->meta.gpr_out = r->key.gpr_out;
    }
    place_field(r, op->encoding, n);
}

static bool take_register(struct recipe *r, const ZydisDecodedOperand *op, unsigned n) {
    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        return take_vector(r, op, n);
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        take_gpr(r, op);
        return true;
    case ZYDIS_REGCLASS_FLAGS:
        r->key.flags |= THUNK_FLAGS;
        r->meta.flags |= VEC_FLAGS;
        return true;
    default:
        return false;
    }
}

static bool take_memory(struct recipe *r, const ZydisDecodedOperand *op) {
    if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || op->mem.type != ZYDIS_MEMOP_TYPE_MEM)
        return false;
    r->i->osize = (uint8_t)(op->size / 8);
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        r->meta.flags |= VEC_READ;
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        r->meta.flags |= VEC_WRITE;
    r->rm = RSI;
    return true;
}

static bool take_operands(struct recipe *r) {
    for (unsigned n = 0; n < r->d->zi->operand_count; n++) {
        const ZydisDecodedOperand *op = &r->d->op[n];
        bool ok = true;
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
            ok = take_register(r, op, n);
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            ok = take_memory(r, op);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- selection: encoding ---- */

static void code_byte(struct thunk_key *k, unsigned b) {
    k->code[k->len++] = (uint8_t)b;
}

/* VEX.W selects the size of general registers or of their memory form only in 64-bit mode. */
static unsigned canonical_w(const struct recipe *r, unsigned w) {
    if (r->i->mode == 64 || !w)
        return w;
    switch (r->d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI:
        return 0;
    default:
        return w;
    }
}

/* No register of the new encoding is above 7, so R, X and B are all ones. */
static void encode_vex(struct recipe *r) {
    const ZydisDecodedInstruction *zi = r->d->zi;
    code_byte(&r->key, 0xc4);
    code_byte(&r->key, 0xe0u | zi->raw.vex.m_mmmm);
    code_byte(&r->key, canonical_w(r, zi->raw.vex.W) << 7 | (~r->vvvv & 15) << 3 |
                           (unsigned)zi->raw.vex.L << 2 | zi->raw.vex.pp);
    code_byte(&r->key, zi->opcode);
}

static void encode_legacy(struct recipe *r) {
    const ZydisDecodedInstruction *zi = r->d->zi;
    for (unsigned n = 0; n < zi->raw.prefix_count; n++)
        if (zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            code_byte(&r->key, zi->raw.prefixes[n].value);
    if (zi->raw.rex.W)
        code_byte(&r->key, 0x48);
    code_byte(&r->key, 0x0f);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        code_byte(&r->key, 0x38);
    else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        code_byte(&r->key, 0x3a);
    code_byte(&r->key, zi->opcode);
}

static void encode_operands(struct recipe *r) {
    const ZydisDecodedInstruction *zi = r->d->zi;
    unsigned mod = r->meta.flags & (VEC_READ | VEC_WRITE) ? 0 : 3;
    code_byte(&r->key, mod << 6 | r->reg << 3 | r->rm);
    if (r->is4)
        code_byte(&r->key, thunk_reg(3) << 4);
    else if (zi->raw.imm[0].size == 8)
        code_byte(&r->key, (unsigned)zi->raw.imm[0].value.u & 0xff);
    if (zi->raw.imm[1].size == 8) /* SSE4A */
        code_byte(&r->key, (unsigned)zi->raw.imm[1].value.u & 0xff);
}

/* ---- selection: exceptions ---- */

static bool is_unaligned(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    default:
        return false;
    }
}

/* Legacy 16-byte operands are aligned but for the moves named so; VEX ones only where the
 * instruction says so. */
static unsigned alignment(const struct recipe *r) {
    const ZydisDecodedInstruction *zi = r->d->zi;
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? r->i->osize - 1u : 0;
    return r->i->osize == 16 && !is_unaligned(zi->mnemonic) ? 15 : 0;
}

static bool raises_simd(const ZydisDecodedInstruction *zi) {
    switch (zi->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        break;
    }
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
        return true;
    default:
        return false;
    }
}

static bool uses_xmm(const struct thunk_key *k) {
    return memchr(k->slot, THUNK_XMM, sizeof k->slot) != NULL;
}

static void take_exceptions(struct recipe *r) {
    const ZydisDecodedInstruction *zi = r->d->zi;
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        r->meta.flags |= VEC_VEX;
    else if ((r->meta.flags & VEC_MMX) && !uses_xmm(&r->key))
        r->meta.flags |= VEC_NOSSE;
    if (raises_simd(zi)) {
        r->meta.flags |= VEC_MXCSR;
        r->key.flags |= THUNK_MXCSR;
    }
    if (r->meta.flags & (VEC_READ | VEC_WRITE))
        r->meta.align = (uint8_t)alignment(r);
    if (zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11) /* F16C */
        r->meta.flags |= VEC_ANYWHERE;
}

/* ---- selection ---- */

static x86_op_fn *shape(const struct recipe *r) {
    unsigned plain = VEC_VEX | VEC_MXCSR;
    if (r->key.gpr_in || r->key.gpr_out || r->meta.flags & ~(plain | VEC_READ))
        return vec_any;
    return r->meta.flags & VEC_READ ? vec_source : vec_regs;
}

static bool select_thunk(const struct x86_decode *d, struct x86_insn *i) {
    struct recipe r = {.d = d, .i = i, .reg = d->zi->raw.modrm.reg, .rm = d->zi->raw.modrm.rm};
    memset(r.meta.gpr, REG_OFF_ZERO, sizeof r.meta.gpr);
    if (!take_operands(&r))
        return false;
    if (d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        encode_vex(&r);
    else
        encode_legacy(&r);
    encode_operands(&r);
    take_exceptions(&r);
    i->data = thunk_get(&r.key);
    memcpy(&i->imm, &r.meta, sizeof i->imm);
    i->fn = shape(&r);
    return i->data != NULL;
}

/* VEX forms whose own feature bit Zydis does not tell apart from AVX. */
static bool vex_exists(const struct x86_decode *d) {
    switch (d->zi->meta.isa_set) {
    case ZYDIS_ISA_SET_AVXAES:
        return x86_has(d->cpuid, FEAT_AES);
    case ZYDIS_ISA_SET_AVX_GFNI:
        return x86_has(d->cpuid, FEAT_GFNI);
    default:
        return d->zi->mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ || d->zi->raw.vex.L ||
               x86_has(d->cpuid, FEAT_PCLMULQDQ);
    }
}

bool select_vector(const struct x86_decode *d, struct x86_insn *i) {
    ZydisInstructionEncoding encoding = d->zi->encoding;
    if (encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? !vex_exists(d)
                                                   : encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return false;
    if (d->zi->mnemonic == ZYDIS_MNEMONIC_FISTTP)
        return select_x87(d, i);
    i->fn = vec_select_special(d, i);
    if (i->fn == NULL)
        i->fn = vec_select_move(d, i);
    return i->fn != NULL || select_thunk(d, i);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes to struct x86_insn: Zydis knows the encodings; this file resolves operands to offsets into
 * the state, asks CPUID whether the instruction exists, and lets the instruction's family pick its
 * function.
 */
#include "cpu/x86/cpu.h"

#include <errno.h>

static void op_undefined(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_raise(c, EXC_UD);
}

/* Longer than 15 bytes (SDM 2A 2.3.11). */
static void op_too_long(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_raise_err(c, EXC_GP, 0);
}

/* ---- which CPUID bit announces an instruction ---- */

#define NO_SUCH_THING ((enum x86_feature) - 2)

/* AVX-512 is announced as a whole or not at all, so its subsets need no finer grain than the
 * width's bit. */
static enum x86_feature isa_avx512(ZydisISASet set) {
    switch (set) {
#define WIDTHS(name, feature)                                                                      \
    case ZYDIS_ISA_SET_AVX512##name##_128:                                                         \
    case ZYDIS_ISA_SET_AVX512##name##_256:                                                         \
    case ZYDIS_ISA_SET_AVX512##name##_512:                                                         \
        return FEAT_AVX512##feature;
        WIDTHS(BW, BW)
        WIDTHS(CD, CD)
        WIDTHS(DQ, DQ)
        WIDTHS(F, F)
        WIDTHS(_BF16, _BF16)
        WIDTHS(_BITALG, BITALG)
        WIDTHS(_IFMA, IFMA)
        WIDTHS(_VBMI, VBMI)
        WIDTHS(_VBMI2, VBMI2)
        WIDTHS(_VNNI, VNNI)
        WIDTHS(_VPOPCNTDQ, VPOPCNTDQ)
#undef WIDTHS
    case ZYDIS_ISA_SET_AVX512F_SCALAR:
    case ZYDIS_ISA_SET_AVX512F_128N:
    case ZYDIS_ISA_SET_AVX512F_KOP:
    case ZYDIS_ISA_SET_AVX512_GFNI_128:
    case ZYDIS_ISA_SET_AVX512_GFNI_256:
    case ZYDIS_ISA_SET_AVX512_GFNI_512:
    case ZYDIS_ISA_SET_AVX512_VAES_128:
    case ZYDIS_ISA_SET_AVX512_VAES_256:
    case ZYDIS_ISA_SET_AVX512_VAES_512:
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128:
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256:
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512:
        return FEAT_AVX512F;
    case ZYDIS_ISA_SET_AVX512BW_128N:
    case ZYDIS_ISA_SET_AVX512BW_KOP:
        return FEAT_AVX512BW;
    case ZYDIS_ISA_SET_AVX512DQ_128N:
    case ZYDIS_ISA_SET_AVX512DQ_SCALAR:
    case ZYDIS_ISA_SET_AVX512DQ_KOP:
        return FEAT_AVX512DQ;
    default:
        return NO_SUCH_THING;
    }
}

static enum x86_feature isa_vector(ZydisISASet set) {
    switch (set) {
    case ZYDIS_ISA_SET_PENTIUMMMX:
        return FEAT_MMX;
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR:
        return FEAT_SSE;
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
        return FEAT_SSE2;
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87:
        return FEAT_SSE3;
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
        return FEAT_SSSE3;
    case ZYDIS_ISA_SET_SSE4:
        return FEAT_SSE41;
    case ZYDIS_ISA_SET_SSE42:
        return FEAT_SSE42;
    case ZYDIS_ISA_SET_SSE4A:
        return FEAT_SSE4A;
    case ZYDIS_ISA_SET_AES:
        return FEAT_AES;
    case ZYDIS_ISA_SET_PCLMULQDQ:
        return FEAT_PCLMULQDQ;
    case ZYDIS_ISA_SET_SHA:
        return FEAT_SHA;
    case ZYDIS_ISA_SET_GFNI:
        return FEAT_GFNI;
    case ZYDIS_ISA_SET_AVX:
        return FEAT_AVX;
    case ZYDIS_ISA_SET_AVXAES:
        return FEAT_AVX;
    case ZYDIS_ISA_SET_AVX_GFNI:
        return FEAT_AVX;
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER:
        return FEAT_AVX2;
    case ZYDIS_ISA_SET_AVX_VNNI:
        return FEAT_AVX_VNNI;
    case ZYDIS_ISA_SET_FMA:
        return FEAT_FMA;
    case ZYDIS_ISA_SET_F16C:
        return FEAT_F16C;
    case ZYDIS_ISA_SET_VAES:
        return FEAT_VAES;
    case ZYDIS_ISA_SET_VPCLMULQDQ:
        return FEAT_VPCLMULQDQ;
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
        return FEAT_FXSR;
    case ZYDIS_ISA_SET_XSAVE:
        return FEAT_XSAVE;
    case ZYDIS_ISA_SET_XSAVEC:
        return FEAT_XSAVEC;
    case ZYDIS_ISA_SET_XSAVEOPT:
        return FEAT_XSAVEOPT;
    case ZYDIS_ISA_SET_XSAVES:
        return FEAT_XSAVES;
    default:
        return isa_avx512(set);
    }
}

static enum x86_feature isa_feature(ZydisISASet set) {
    switch (set) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_PENTIUMREAL:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_PAUSE:
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_PREFETCHWT1:
    case ZYDIS_ISA_SET_SSE_PREFETCH:
    case ZYDIS_ISA_SET_CLDEMOTE:
    case ZYDIS_ISA_SET_RDPMC:
        return FEAT_NONE;
    case ZYDIS_ISA_SET_LONGMODE:
        return FEAT_LM;
    case ZYDIS_ISA_SET_X87:
        return FEAT_FPU;
    case ZYDIS_ISA_SET_CMOV:
        return FEAT_CMOV;
    case ZYDIS_ISA_SET_FCMOV:
        return FEAT_CMOV;
    case ZYDIS_ISA_SET_CMPXCHG16B:
        return FEAT_CX16;
    case ZYDIS_ISA_SET_LAHF:
        return FEAT_LAHF_LM;
    case ZYDIS_ISA_SET_ADOX_ADCX:
        return FEAT_ADX;
    case ZYDIS_ISA_SET_BMI1:
        return FEAT_BMI1;
    case ZYDIS_ISA_SET_BMI2:
        return FEAT_BMI2;
    case ZYDIS_ISA_SET_LZCNT:
        return FEAT_LZCNT;
    case ZYDIS_ISA_SET_POPCNT:
        return FEAT_POPCNT;
    case ZYDIS_ISA_SET_MOVBE:
        return FEAT_MOVBE;
    case ZYDIS_ISA_SET_MOVDIR:
        return FEAT_MOVDIRI;
    case ZYDIS_ISA_SET_RDRAND:
        return FEAT_RDRAND;
    case ZYDIS_ISA_SET_RDSEED:
        return FEAT_RDSEED;
    case ZYDIS_ISA_SET_RDPID:
        return FEAT_RDPID;
    case ZYDIS_ISA_SET_RDTSCP:
        return FEAT_RDTSCP;
    case ZYDIS_ISA_SET_RDWRFSGS:
        return FEAT_FSGSBASE;
    case ZYDIS_ISA_SET_CLFSH:
        return FEAT_CLFSH;
    case ZYDIS_ISA_SET_CLFLUSHOPT:
        return FEAT_CLFLUSHOPT;
    case ZYDIS_ISA_SET_CLWB:
        return FEAT_CLWB;
    case ZYDIS_ISA_SET_INVPCID:
        return FEAT_INVPCID;
    case ZYDIS_ISA_SET_MONITOR:
        return FEAT_MONITOR;
    case ZYDIS_ISA_SET_SMAP:
        return FEAT_SMAP;
    case ZYDIS_ISA_SET_PKU:
        return FEAT_PKU;
    case ZYDIS_ISA_SET_SERIALIZE:
        return FEAT_SERIALIZE;
    default:
        return isa_vector(set);
    }
}

/* MOVDIR64B shares MOVDIRI's set but has a bit of its own; LAHF/SAHF exist outside 64-bit mode
 * without LAHF_LM. */
static enum x86_feature insn_feature(const ZydisDecodedInstruction *zi) {
    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVDIR64B)
        return FEAT_MOVDIR64B;
    if (zi->meta.isa_set == ZYDIS_ISA_SET_LAHF && zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
        return FEAT_NONE;
    return isa_feature(zi->meta.isa_set);
}

static bool insn_exists(const struct x86_cpuid *id, const ZydisDecodedInstruction *zi) {
    enum x86_feature f = insn_feature(zi);
    return f != NO_SUCH_THING && x86_has(id, f);
}

/* ---- operands ---- */

static uint8_t gpr_offset(ZydisRegister r) {
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (uint8_t)(8 * (r - ZYDIS_REGISTER_AH) + 1);
    return REG_OFF(ZydisRegisterGetId(r));
}

static bool is_gpr(ZydisRegister r) {
    return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15;
}

static uint8_t gpr8_fix(ZydisRegister r) {
    /* Zydis numbers AL CL DL BL, AH CH DH BH, SPL BPL SIL DIL, R8B..R15B. */
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return REG_OFF(4 + r - ZYDIS_REGISTER_SPL);
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return REG_OFF(r - ZYDIS_REGISTER_AL);
    return gpr_offset(r);
}

static uint8_t base_offset(ZydisRegister r) {
    if (r == ZYDIS_REGISTER_NONE)
        return REG_OFF_ZERO;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return REG_OFF_RIP;
    return is_gpr(r) ? gpr_offset(r) : REG_OFF_ZERO; /* a vector index: its family resolves it */
}

static uint8_t seg_number(ZydisRegister r) {
    return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? (uint8_t)(r - ZYDIS_REGISTER_ES)
                                                            : SEG_DS;
}

/*
 * SIB without a base but with a 32-bit displacement, whatever REX.B says. Zydis 4.0 sees R13D there
 * and no displacement when addresses are 32 bits.
 */
static bool sib_without_base(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op) {
    return zi->attributes & ZYDIS_ATTRIB_HAS_SIB && zi->raw.modrm.mod == 0 &&
           zi->raw.sib.base == 5 && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
}

static void fill_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op,
                        struct x86_insn *i) {
    bool baseless = sib_without_base(zi, op);
    i->flags |= INSN_MEM;
    i->base = baseless ? REG_OFF_ZERO : base_offset(op->mem.base);
    i->index = base_offset(op->mem.index);
    i->scale = op->mem.scale == 8 ? 3 : op->mem.scale == 4 ? 2 : op->mem.scale == 2 ? 1 : 0;
    i->seg = seg_number(op->mem.segment);
    i->disp = (int32_t)(baseless ? zi->raw.disp.value : op->mem.disp.value);
    if (i->base == REG_OFF_RIP)
        i->disp += i->len;
    if (!baseless && i->disp != op->mem.disp.value && i->base == REG_OFF_ZERO)
        i->imm = (uint64_t)op->mem.disp.value; /* a 64-bit moffs: mov.c */
}

static void fill_operands(const struct x86_decode *d, struct x86_insn *i) {
    uint8_t *const reg[3] = {&i->dst, &i->src, &i->src2};
    unsigned visible = 0;
    for (unsigned n = 0; n < d->zi->operand_count; n++) {
        const ZydisDecodedOperand *op = &d->op[n];
        if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(op->reg.value) && visible < 3)
            *reg[visible] = gpr8_fix(op->reg.value);
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            fill_memory(d->zi, op, i);
        else if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
            i->imm = op->ptr.offset, i->aux = op->ptr.segment;
        else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && !(i->flags & INSN_IMM))
            i->imm = op->imm.value.u, i->flags |= INSN_IMM;
        else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            i->aux = (uint16_t)op->imm.value.u;
        visible++;
    }
}

static void fill_common(const struct x86_decode *d, struct x86_insn *i) {
    const ZydisDecodedInstruction *zi = d->zi;
    i->len = zi->length;
    i->mnemonic = (uint16_t)zi->mnemonic;
    i->osize = zi->operand_width / 8;
    i->ashift = (uint8_t)(64 - zi->address_width);
    if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        i->flags |= INSN_LOCK;
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        i->flags |= INSN_REP;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        i->flags |= INSN_REPNE;
    fill_operands(d, i);
}

/* ---- families ---- */

static x86_select_fn *family_by_extension(const ZydisDecodedInstruction *zi) {
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
        return select_x87;
    case ZYDIS_ISA_EXT_XSAVE:
    case ZYDIS_ISA_EXT_XSAVEC:
    case ZYDIS_ISA_EXT_XSAVEOPT:
    case ZYDIS_ISA_EXT_XSAVES:
        return select_xsave;
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return select_vector;
    default:
        return NULL;
    }
}

/* The integer families sort themselves out by mnemonic; each refuses what is not its own. */
static x86_select_fn *const INTEGER_FAMILIES[] = {
    select_mov,   select_alu,    select_branch, select_exchange, select_stack,
    select_shift, select_muldiv, select_bits,   select_string,   select_flags,
    select_bcd,   select_far,    select_seg,    select_io,       select_sys,
};

static bool select_integer(const struct x86_decode *d, struct x86_insn *i) {
    for (unsigned n = 0; n < ARRAY_LEN(INTEGER_FAMILIES); n++)
        if (INTEGER_FAMILIES[n](d, i))
            return true;
    return false;
}

/* Integer instructions that Zydis files under a vector extension. */
static bool is_integer(const ZydisDecodedInstruction *zi) {
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
        return true;
    default:
        return false;
    }
}

static bool select_family(const struct x86_decode *d, struct x86_insn *i) {
    if (d->zi->mnemonic == ZYDIS_MNEMONIC_FXSAVE || d->zi->mnemonic == ZYDIS_MNEMONIC_FXSAVE64 ||
        d->zi->mnemonic == ZYDIS_MNEMONIC_FXRSTOR || d->zi->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64)
        return select_xsave(d, i);
    x86_select_fn *family = is_integer(d->zi) ? NULL : family_by_extension(d->zi);
    return family ? family(d, i) : select_integer(d, i);
}

/* ---- decoding ---- */

static void decoder_init(ZydisDecoder *z, const struct x86_cpuid *id, unsigned mode) {
    if (mode == 64)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (mode == 32)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    /* Encodings that are NOPs or older instructions on a processor without the feature. */
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, x86_has(id, FEAT_LZCNT));
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, x86_has(id, FEAT_BMI1));
}

static void make_fault(struct x86_insn *i, x86_op_fn *fn, unsigned mode) {
    *i = (struct x86_insn){.fn = fn, .len = 1, .flags = INSN_END, .mode = (uint8_t)mode};
}

int x86_decode_full(const struct x86_cpuid *cpuid, unsigned mode, const uint8_t *bytes,
                    unsigned avail, struct x86_insn *i, ZydisDecodedInstruction *zi,
                    ZydisDecodedOperand *op) {
    ZydisDecoder z;
    decoder_init(&z, cpuid, mode);
    ZyanStatus st = ZydisDecoderDecodeFull(&z, bytes, avail, zi, op);
    if (st == ZYDIS_STATUS_NO_MORE_DATA)
        return -EAGAIN;
    if (!ZYAN_SUCCESS(st)) {
        make_fault(i, st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? op_too_long : op_undefined, mode);
        return 0;
    }
    struct x86_decode d = {.zi = zi, .op = op, .cpuid = cpuid, .bytes = bytes};
    *i = (struct x86_insn){.mode = (uint8_t)mode, .base = REG_OFF_ZERO, .index = REG_OFF_ZERO};
    fill_common(&d, i);
    if (!insn_exists(cpuid, zi) || !select_family(&d, i))
        make_fault(i, op_undefined, mode);
    return 0;
}

int x86_decode(const struct x86_cpuid *cpuid, unsigned mode, const uint8_t *bytes, unsigned avail,
               struct x86_insn *i) {
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    return x86_decode_full(cpuid, mode, bytes, avail, i, &zi, op);
}

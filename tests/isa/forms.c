/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enumerates the instruction forms that user code can run and whose result depends on nothing but
 * the registers and memory of the case: all opcode maps x prefixes x ModRM x REX.W or VEX.W/L, as
 * Zydis' tables tell them apart.
 */
#include "isa.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/x86/cpuid.h"

/* Which feature announces an instruction set. Sets that are not listed must be #UD where they are
 * on the host. */
static const struct {
    ZydisISASet set;
    enum x86_feature feature;
} sets[] = {
    {ZYDIS_ISA_SET_I86, FEAT_NONE},
    {ZYDIS_ISA_SET_I186, FEAT_NONE},
    {ZYDIS_ISA_SET_I286PROTECTED, FEAT_NONE},
    {ZYDIS_ISA_SET_I286REAL, FEAT_NONE},
    {ZYDIS_ISA_SET_I386, FEAT_NONE},
    {ZYDIS_ISA_SET_I486, FEAT_NONE},
    {ZYDIS_ISA_SET_I486REAL, FEAT_NONE},
    {ZYDIS_ISA_SET_PENTIUMREAL, FEAT_NONE},
    {ZYDIS_ISA_SET_PPRO, FEAT_NONE},
    {ZYDIS_ISA_SET_CMOV, FEAT_CMOV},
    {ZYDIS_ISA_SET_FAT_NOP, FEAT_NONE},
    {ZYDIS_ISA_SET_PREFETCH_NOP, FEAT_NONE},
    {ZYDIS_ISA_SET_PAUSE, FEAT_NONE},
    {ZYDIS_ISA_SET_LONGMODE, FEAT_NONE},
    {ZYDIS_ISA_SET_LAHF, FEAT_LAHF_LM},
    {ZYDIS_ISA_SET_X87, FEAT_FPU},
    {ZYDIS_ISA_SET_FCMOV, FEAT_CMOV},
    {ZYDIS_ISA_SET_PENTIUMMMX, FEAT_MMX},
    {ZYDIS_ISA_SET_FXSAVE, FEAT_FXSR},
    {ZYDIS_ISA_SET_FXSAVE64, FEAT_FXSR},
    {ZYDIS_ISA_SET_SSE, FEAT_SSE},
    {ZYDIS_ISA_SET_SSEMXCSR, FEAT_SSE},
    {ZYDIS_ISA_SET_SSE_PREFETCH, FEAT_SSE},
    {ZYDIS_ISA_SET_SSE2, FEAT_SSE2},
    {ZYDIS_ISA_SET_SSE2MMX, FEAT_SSE2},
    {ZYDIS_ISA_SET_SSE3, FEAT_SSE3},
    {ZYDIS_ISA_SET_SSE3X87, FEAT_SSE3},
    {ZYDIS_ISA_SET_SSSE3, FEAT_SSSE3},
    {ZYDIS_ISA_SET_SSSE3MMX, FEAT_SSSE3},
    {ZYDIS_ISA_SET_SSE4, FEAT_SSE41},
    {ZYDIS_ISA_SET_SSE42, FEAT_SSE42},
    {ZYDIS_ISA_SET_SSE4A, FEAT_SSE4A},
    {ZYDIS_ISA_SET_POPCNT, FEAT_POPCNT},
    {ZYDIS_ISA_SET_LZCNT, FEAT_LZCNT},
    {ZYDIS_ISA_SET_MOVBE, FEAT_MOVBE},
    {ZYDIS_ISA_SET_CMPXCHG16B, FEAT_CX16},
    {ZYDIS_ISA_SET_CLFSH, FEAT_CLFSH},
    {ZYDIS_ISA_SET_CLFLUSHOPT, FEAT_CLFLUSHOPT},
    {ZYDIS_ISA_SET_CLWB, FEAT_CLWB},
    {ZYDIS_ISA_SET_AES, FEAT_AES},
    {ZYDIS_ISA_SET_PCLMULQDQ, FEAT_PCLMULQDQ},
    {ZYDIS_ISA_SET_SHA, FEAT_SHA},
    {ZYDIS_ISA_SET_AVX, FEAT_AVX},
    {ZYDIS_ISA_SET_AVXAES, FEAT_AVX},
    {ZYDIS_ISA_SET_AVX2, FEAT_AVX2},
    {ZYDIS_ISA_SET_AVX2GATHER, FEAT_AVX2},
    {ZYDIS_ISA_SET_F16C, FEAT_F16C},
    {ZYDIS_ISA_SET_FMA, FEAT_FMA},
    {ZYDIS_ISA_SET_BMI1, FEAT_BMI1},
    {ZYDIS_ISA_SET_BMI2, FEAT_BMI2},
    {ZYDIS_ISA_SET_ADOX_ADCX, FEAT_ADX},
    {ZYDIS_ISA_SET_GFNI, FEAT_GFNI},
    {ZYDIS_ISA_SET_AVX_GFNI, FEAT_GFNI},
    {ZYDIS_ISA_SET_VAES, FEAT_VAES},
    {ZYDIS_ISA_SET_VPCLMULQDQ, FEAT_VPCLMULQDQ},
    {ZYDIS_ISA_SET_AVX_VNNI, FEAT_AVX_VNNI},
    {ZYDIS_ISA_SET_MOVDIR, FEAT_MOVDIRI},
    {ZYDIS_ISA_SET_SERIALIZE, FEAT_SERIALIZE},
    {ZYDIS_ISA_SET_RDWRFSGS, FEAT_FSGSBASE},
    {ZYDIS_ISA_SET_XSAVE, FEAT_XSAVE},
    {ZYDIS_ISA_SET_XSAVEC, FEAT_XSAVEC},
    {ZYDIS_ISA_SET_XSAVES, FEAT_XSAVES},
    {ZYDIS_ISA_SET_INVPCID, FEAT_INVPCID},
    /* Hints and shadow stacks that execute as NOP where they are not there or not on. */
    {ZYDIS_ISA_SET_CET, FEAT_NONE},
    {ZYDIS_ISA_SET_MPX, FEAT_NONE},
    {ZYDIS_ISA_SET_CLDEMOTE, FEAT_NONE},
    {ZYDIS_ISA_SET_PREFETCHWT1, FEAT_NONE},
};

static bool set_announced(const struct x86_cpuid *id, ZydisISASet set) {
    for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++)
        if (sets[i].set == set)
            return x86_has(id, sets[i].feature);
    return false;
}

/* Extensions whose state or enabling the kernel owns, or that talk to a hypervisor. */
static bool ext_excluded(ZydisISAExt ext) {
    switch (ext) {
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_ENQCMD:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_MCOMMIT:
    case ZYDIS_ISA_EXT_PCONFIG:
    case ZYDIS_ISA_EXT_PKU:
    case ZYDIS_ISA_EXT_PT:
    case ZYDIS_ISA_EXT_RDPID:
    case ZYDIS_ISA_EXT_RDPRU:
    case ZYDIS_ISA_EXT_RDRAND:
    case ZYDIS_ISA_EXT_RDSEED:
    case ZYDIS_ISA_EXT_RDTSCP:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
    case ZYDIS_ISA_EXT_SMX:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_SVM:
    case ZYDIS_ISA_EXT_TDX:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_UINTR:
    case ZYDIS_ISA_EXT_VMFUNC:
    case ZYDIS_ISA_EXT_VTX:
    case ZYDIS_ISA_EXT_WAITPKG:
    case ZYDIS_ISA_EXT_XSAVEOPT: /* may leave out what was not modified since some XRSTOR */
        return true;
    default:
        return false;
    }
}

static bool mnemonic_excluded(const ZydisDecodedInstruction *i) {
    switch (i->mnemonic) {
    /* System calls, and what reaches the kernel's or a debugger's own gates. */
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_INT1:
    /* Far transfers and segment loads: the handlers' own segments. */
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    /* Time, the processor's identity, the kernel's tables. */
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    /* Linux emulates these when UMIP forbids them. */
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_STR:
        return true;
    default:
        return false;
    }
}

static bool excluded(const ZydisDecodedInstruction *i, const ZydisDecodedOperand *ops) {
    if (ext_excluded(i->meta.isa_ext) || mnemonic_excluded(i) ||
        i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return true;
    if (i->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
        i->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
        i->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP)
        return true;
    /* Segment registers may be read (MOV, PUSH), not written. */
    for (unsigned n = 0; n < i->operand_count; n++)
        if (ops[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(ops[n].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
            (ops[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    return false;
}

const ZydisDecoder *forms_decoder(bool mode32) {
    static ZydisDecoder decoders[2];
    static bool ready;
    if (!ready) {
        ZydisDecoderInit(&decoders[0], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        ZydisDecoderInit(&decoders[1], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        ready = true;
    }
    return &decoders[mode32];
}

/* Zydis 4.0 takes REX.B as a base with 32-bit addresses where ModRM and SIB say that there is none.
 */
static void mend_operands(const ZydisDecodedInstruction *i, ZydisDecodedOperand *ops) {
    if (!(i->attributes & ZYDIS_ATTRIB_HAS_SIB) || i->raw.modrm.mod || i->raw.sib.base != 5)
        return;
    for (unsigned n = 0; n < i->operand_count_visible; n++)
        if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            ops[n].mem.base = ZYDIS_REGISTER_NONE;
            ops[n].mem.disp.has_displacement = true;
            ops[n].mem.disp.value = i->raw.disp.value;
        }
}

const void *forms_decode(bool mode32, const uint8_t *code, size_t len,
                         ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops) {
    const ZydisDecoder *d = forms_decoder(mode32);
    ZydisDecoderContext ctx;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, &ctx, code, len, insn)) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(d, &ctx, insn, ops, insn->operand_count)))
        return NULL;
    mend_operands(insn, ops);
    return ctx.definition;
}

/* What tells one form from another. */
struct key {
    const void *def;
    uint64_t prefixes;
    uint8_t mode32, mem, width, l, w, asize;
};

struct builder {
    struct forms *out;
    const struct x86_cpuid *id;
    unsigned capacity;
    struct key *seen; /* open addressing */
    unsigned slots;
};

static uint64_t key_hash(const struct key *k) {
    uint64_t h = (uintptr_t)k->def * 0x9e3779b97f4a7c15u ^ k->prefixes;
    h ^= (uint64_t)(k->mode32 | k->mem << 1 | k->l << 2 | k->w << 3 | k->width << 8) << 20;
    h *= 0xff51afd7ed558ccdu;
    return h ^ h >> 32;
}

static bool key_equal(const struct key *a, const struct key *b) {
    return a->def == b->def && a->prefixes == b->prefixes && a->mode32 == b->mode32 &&
           a->mem == b->mem && a->width == b->width && a->l == b->l && a->w == b->w &&
           a->asize == b->asize;
}

static bool key_is_new(struct builder *b, const struct key *k) {
    for (uint64_t at = key_hash(k);; at++) {
        struct key *slot = &b->seen[at % b->slots];
        if (!slot->def) {
            *slot = *k;
            return true;
        }
        if (key_equal(slot, k))
            return false;
    }
}

static size_t form_bytes(const struct form *f, uint8_t *p) {
    uint8_t *start = p;
    for (unsigned i = 0; i < f->prefixes; i++)
        *p++ = f->prefix[i];
    if (f->enc == ENC_VEX) {
        *p++ = 0xc4;
        *p++ = 0xe0 | f->map;
        *p++ = (uint8_t)(f->w << 7 | 0x78 | f->l << 2 | f->pp);
    } else {
        if (f->w)
            *p++ = 0x48;
        if (f->map)
            *p++ = 0x0f;
        if (f->map >= 2)
            *p++ = f->map == 2 ? 0x38 : 0x3a;
    }
    *p++ = f->opcode;
    *p++ = f->modrm;
    memset(p, 0, 12);
    return (size_t)(p - start) + 12;
}

static void form_add(struct builder *b, const struct form *f) {
    struct forms *o = b->out;
    if (o->count == b->capacity) {
        b->capacity = b->capacity ? b->capacity * 2 : 4096;
        o->list = realloc(o->list, b->capacity * sizeof *o->list);
        if (!o->list)
            abort();
    }
    o->list[o->count++] = *f;
}

static void try_form(struct builder *b, struct form *f) {
    uint8_t code[32];
    ZydisDecodedInstruction i;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    size_t len = form_bytes(f, code);
    f->def = forms_decode(f->mode32, code, len > 15 ? 15 : len, &i, ops);
    if (!f->def || excluded(&i, ops))
        return;
    /* 0f 38 decoded without the map bytes or VEX taken for LES: another loop's. */
    if ((f->enc == ENC_VEX) != (i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX))
        return;
    f->has_modrm = i.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    if (!f->has_modrm && f->modrm != 0xc0)
        return;
    f->mem = f->has_modrm && f->modrm < 0xc0;
    f->vsib = false;
    for (unsigned n = 0; n < i.operand_count; n++)
        if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[n].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
            f->vsib = true;
    struct key k;
    memset(&k, 0, sizeof k);
    k.def = f->def;
    k.prefixes = i.attributes &
                 (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                  ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE);
    k.mode32 = f->mode32;
    k.mem = f->mem;
    k.width = i.operand_width;
    k.l = f->enc == ENC_VEX && f->l;
    k.w = f->enc == ENC_VEX && f->w;
    if (!key_is_new(b, &k))
        return;
    f->mnemonic = i.mnemonic;
    f->operand_width = i.operand_width;
    f->announced = set_announced(b->id, i.meta.isa_set);
    form_add(b, f);
}

static void try_modrms(struct builder *b, struct form *f) {
    for (unsigned m = 0xc0; m < 0x100; m++) {
        f->modrm = (uint8_t)m;
        try_form(b, f);
    }
    for (unsigned reg = 0; reg < 8; reg++) {
        f->modrm = (uint8_t)(reg << 3 | 1);
        try_form(b, f);
        f->modrm = (uint8_t)(0x44 | reg << 3); /* SIB follows: for VSIB */
        try_form(b, f);
    }
}

static bool is_prefix_byte(const struct form *f) {
    uint8_t op = f->opcode;
    if (f->enc == ENC_VEX || f->map)
        return f->map == 1 && f->enc == ENC_LEGACY && (op == 0x38 || op == 0x3a);
    return op == 0x0f || op == 0x26 || op == 0x2e || op == 0x36 || op == 0x3e ||
           (op >= 0x64 && op <= 0x67) || op == 0xf0 || op == 0xf2 || op == 0xf3 ||
           (!f->mode32 && op >= 0x40 && op < 0x50);
}

static void try_opcodes(struct builder *b, struct form *f) {
    for (unsigned op = 0; op < 256; op++) {
        f->opcode = (uint8_t)op;
        if (!is_prefix_byte(f))
            try_modrms(b, f);
    }
}

static void enumerate_legacy(struct builder *b, bool mode32) {
    static const struct {
        uint8_t n, p[3];
    } prefixes[] = {
        {0, {0}},          {1, {0x66}}, {1, {0xf2}},       {1, {0xf3}},       {2, {0x66, 0xf2}},
        {2, {0x66, 0xf3}}, {1, {0xf0}}, {2, {0xf0, 0x66}}, {2, {0xf2, 0xf0}}, {2, {0xf3, 0xf0}},
    };
    for (unsigned map = 0; map < 4; map++)
        for (unsigned p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
            for (unsigned w = 0; w < (mode32 ? 1u : 2u); w++) {
                struct form f = {.mode32 = mode32, .enc = ENC_LEGACY, .map = (uint8_t)map, .w = w};
                f.prefixes = prefixes[p].n;
                memcpy(f.prefix, prefixes[p].p, sizeof f.prefix);
                try_opcodes(b, &f);
            }
}

static void enumerate_vex(struct builder *b, bool mode32) {
    for (unsigned map = 1; map < 4; map++)
        for (unsigned wlpp = 0; wlpp < 16; wlpp++) {
            struct form f = {.mode32 = mode32, .enc = ENC_VEX, .map = (uint8_t)map};
            f.pp = wlpp & 3;
            f.l = wlpp >> 2 & 1;
            f.w = wlpp >> 3 & 1;
            try_opcodes(b, &f);
        }
}

void forms_enumerate(struct forms *f, const struct x86_cpuid *id, bool with_32) {
    struct builder b = {.out = f, .id = id, .slots = 1u << 17};
    b.seen = calloc(b.slots, sizeof *b.seen);
    if (!b.seen)
        abort();
    memset(f, 0, sizeof *f);
    for (unsigned mode32 = 0; mode32 < (with_32 ? 2u : 1u); mode32++) {
        enumerate_legacy(&b, mode32);
        enumerate_vex(&b, mode32);
    }
    free(b.seen);
}

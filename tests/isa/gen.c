/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a case of a form: draws registers and addressing modes until Zydis decodes the bytes to
 * that form again, then chooses where each memory operand shall lie and solves the address
 * registers for it.
 */
#include "isa.h"

#include <cpuid.h>
#include <string.h>

#include "cpu/x86/state.h"

void gen_background(struct isa_memory *mem, uint64_t seed) {
    struct rng r = {seed ^ 0x6d656d6f7279};
    for (unsigned i = 0; i < sizeof *mem; i += 64)
        value_fill(&r, (enum value_style)rng_below(&r, STYLES), (uint8_t *)mem + i, 64);
}

/* -- bytes -- */

struct bytes {
    uint8_t *p;
    unsigned n;
};

static void emit(struct bytes *b, unsigned v) {
    if (b->n < 15)
        b->p[b->n++] = (uint8_t)v;
}

static void emit_prefixes(struct bytes *b, const struct form *f, struct rng *r) {
    static const uint8_t any[] = {0x66, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26};
    if (rng_one_in(r, 32))
        emit(b, any[rng_below(r, sizeof any)]);
    if (!f->mode32 && rng_one_in(r, 16)) /* FS and GS have usable bases in 64-bit mode only */
        emit(b, rng_one_in(r, 2) ? 0x64 : 0x65);
    if (rng_one_in(r, f->mode32 ? 8 : 16))
        emit(b, 0x67);
    for (unsigned i = 0; i < f->prefixes; i++)
        emit(b, f->prefix[i]);
}

static void emit_opcode(struct bytes *b, const struct form *f, struct rng *r, bool vary) {
    unsigned rxb = vary && !f->mode32 ? (unsigned)rng_below(r, 8) : 0;
    if (f->enc == ENC_VEX) {
        unsigned vvvv = vary && rng_one_in(r, 2) ? (unsigned)rng_below(r, f->mode32 ? 8 : 16) : 0;
        unsigned last = (~vvvv & 15) << 3 | (unsigned)f->l << 2 | f->pp;
        if (f->map == 1 && !f->w && rng_one_in(r, 2)) {
            emit(b, 0xc5);
            emit(b, (~rxb & 4) << 5 | last);
        } else {
            emit(b, 0xc4);
            emit(b, (~rxb & 7) << 5 | f->map);
            emit(b, (unsigned)f->w << 7 | last);
        }
    } else {
        if (f->w || rxb || (vary && !f->mode32 && rng_one_in(r, 4)))
            emit(b, 0x40 | (unsigned)f->w << 3 | rxb);
        if (f->map)
            emit(b, 0x0f);
        if (f->map >= 2)
            emit(b, f->map == 2 ? 0x38 : 0x3a);
    }
    emit(b, f->opcode);
}

static void emit_modrm(struct bytes *b, const struct form *f, struct rng *r, bool vary) {
    unsigned modrm = f->modrm, x = (unsigned)rng_next(r);
    if (f->mem)
        modrm = (modrm & 0x38) | (x % 3) << 6 | (f->vsib ? 4 : x >> 4 & 7);
    if (vary && (!f->mem || x >> 8 & 1))
        modrm = (modrm & (f->mem ? 0xc7 : 0xc0)) | (x >> 12 & (f->mem ? 0x38 : 0x3f));
    emit(b, modrm);
}

/* Immediates: boundary values of a random width, in random order. */
static void emit_rest(struct bytes *b, struct rng *r) {
    while (b->n < 15) {
        uint64_t v = value_int(r);
        for (unsigned i = 0; i < 4; i++)
            emit(b, (unsigned)(v >> (8 * i)) & 0xff);
    }
}

static bool is_gpr(ZydisRegister reg) {
    ZydisRegisterClass k = ZydisRegisterGetClass(reg);
    return k == ZYDIS_REGCLASS_GPR16 || k == ZYDIS_REGCLASS_GPR32 || k == ZYDIS_REGCLASS_GPR64;
}

/*
 * FS is the test's own thread-local memory: only a 64-bit register in the address can lead from
 * there to the case's.
 */
static bool would_hit_tls(const struct isa_case *c) {
    for (unsigned i = 0; i < c->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &c->ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.segment == ZYDIS_REGISTER_FS &&
            (c->insn.address_width != 64 || !is_gpr(op->mem.base)))
            return true;
    }
    return false;
}

static bool draw_bytes(struct isa_case *c, struct rng *r) {
    const struct form *f = c->form;
    for (unsigned try = 0; try < 40; try++) {
        struct bytes b = {c->code, 0};
        bool vary = try < 30;
        emit_prefixes(&b, f, r);
        emit_opcode(&b, f, r, vary);
        if (f->has_modrm)
            emit_modrm(&b, f, r, vary);
        emit_rest(&b, r);
        if (forms_decode(f->mode32, c->code, 15, &c->insn, c->ops) == f->def &&
            c->insn.operand_width == f->operand_width && !would_hit_tls(c)) {
            c->len = c->insn.length;
            return true;
        }
    }
    return false;
}

/* -- addresses -- */

/* Where a memory operand of n bytes shall lie. */
static uint64_t draw_target(struct rng *r, const struct isa_case *c, unsigned n) {
    uint64_t end = DATA_BASE + DATA_SIZE, cross = 1 + rng_below(r, n < 2 ? 1 : n - 1);
    n = n ? n : 1;
    switch (rng_below(r, 32)) {
    case 0: /* across pages */
    case 1:
    case 2:
        return DATA_BASE + PAGE_4K - cross;
    case 3: /* its end is not writable */
        return end - cross;
    case 4:
        return RO_BASE + rng_below(r, RO_SIZE);
    case 5: /* its end, or its beginning, is not there */
        return rng_one_in(r, 2) ? RO_BASE + RO_SIZE - cross : DATA_BASE - cross;
    case 6:
        return rng_one_in(r, 2) ? value_int(r) : CODE_BASE + rng_below(r, CODE_SIZE);
    case 7: /* the end of 32-bit addresses, or of canonical ones */
        if (c->form->mode32 || rng_one_in(r, 2))
            return rng_one_in(r, 2) ? TOP_BASE + TOP_SIZE - n : TOP_BASE + TOP_SIZE - cross;
        return (1ull << 47) - cross;
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
        return DATA_BASE + rng_below(r, DATA_SIZE - n);
    case 14:
        return DATA_BASE + (rng_below(r, DATA_SIZE - n) & ~7ull);
    default:
        return DATA_BASE + (rng_below(r, DATA_SIZE - n) & ~63ull);
    }
}

static unsigned gpr_of(ZydisRegister reg) {
    return (unsigned)ZydisRegisterGetId(reg) & 15;
}

static uint64_t width_mask(unsigned bits) {
    return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}

/* Sets the low bits of a register that an address uses; the rest stays random. */
static void set_gpr(struct isa_case *c, unsigned reg, uint64_t v) {
    uint64_t m = width_mask(c->insn.address_width);
    c->in.gpr[reg] = (c->in.gpr[reg] & ~m) | (v & m);
}

static void patch(struct isa_case *c, unsigned offset, unsigned bits, uint64_t v) {
    if (offset && offset + bits / 8 <= sizeof c->code)
        memcpy(c->code + offset, &v, bits / 8);
}

/* Vector indices that stay near the base; now and then one that does not. */
static void set_vector_index(struct isa_case *c, const ZydisDecodedOperand *op, struct rng *r) {
    uint8_t *v = c->in.ymm[ZydisRegisterGetId(op->mem.index) & 15];
    /* The letter before the operand size: VPGATHERD*, VGATHERD* have 32-bit indices. */
    unsigned size = c->insn.opcode & 1 ? 8 : 4;
    for (unsigned i = 0; i < 32; i += size) {
        int64_t x = (int64_t)rng_below(r, 64) - 32;
        if (rng_one_in(r, 64))
            x = (int64_t)value_int(r);
        memcpy(v + i, &x, size);
    }
}

static uint64_t segment_base(const ZydisDecodedOperand *op, uint64_t fs_base) {
    return op->mem.segment == ZYDIS_REGISTER_FS   ? fs_base
           : op->mem.segment == ZYDIS_REGISTER_GS ? GS_BASE
                                                  : 0;
}

/* Solves base + index * scale + displacement = target. */
static void solve(struct isa_case *c, const ZydisDecodedOperand *op, uint64_t target,
                  struct rng *r) {
    bool base = is_gpr(op->mem.base), index = is_gpr(op->mem.index);
    uint64_t disp = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
    unsigned scale = op->mem.scale ? op->mem.scale : 1;
    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        set_vector_index(c, op, r);
    if (ZydisRegisterGetClass(op->mem.base) == ZYDIS_REGCLASS_IP || (!base && !index)) {
        uint64_t from = op->mem.base == ZYDIS_REGISTER_NONE ? 0 : c->in.rip + c->len;
        patch(c, c->insn.raw.disp.offset, c->insn.raw.disp.size, target - from);
    } else if (base && index && gpr_of(op->mem.base) == gpr_of(op->mem.index)) {
        set_gpr(c, gpr_of(op->mem.base), (target - disp) / (1 + scale));
    } else if (base) {
        uint64_t idx = index ? c->in.gpr[gpr_of(op->mem.index)] * scale : 0;
        set_gpr(c, gpr_of(op->mem.base), target - disp - idx);
    } else {
        set_gpr(c, gpr_of(op->mem.index), (target - disp) / scale);
    }
}

/* Stores into what the case starts with, as far as it is there. */
static void store(struct isa_memory *m, uint64_t at, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (at + i - DATA_BASE < DATA_SIZE)
            m->data[at + i - DATA_BASE] = ((const uint8_t *)p)[i];
        else if (at + i - LOW_BASE < LOW_SIZE)
            m->low[at + i - LOW_BASE] = ((const uint8_t *)p)[i];
        else if (at + i - TOP_BASE < TOP_SIZE)
            m->top[at + i - TOP_BASE] = ((const uint8_t *)p)[i];
    }
}

/* -- values by instruction -- */

static uint64_t draw_code_address(const struct isa_case *c, struct rng *r) {
    uint64_t to;
    do
        to = CODE_BASE + rng_below(r, CODE_SIZE);
    while (to - (c->in.rip - 16) < 32);
    return to;
}

static enum value_style element_style(ZydisElementType t) {
    switch (t) {
    case ZYDIS_ELEMENT_TYPE_FLOAT16:
        return STYLE_F16;
    case ZYDIS_ELEMENT_TYPE_FLOAT32:
        return STYLE_F32;
    case ZYDIS_ELEMENT_TYPE_FLOAT64:
        return STYLE_F64;
    default:
        return STYLES;
    }
}

static enum value_style case_style(const struct isa_case *c, struct rng *r) {
    if (!rng_one_in(r, 8))
        for (unsigned i = 0; i < c->insn.operand_count; i++) {
            enum value_style s = element_style(c->ops[i].element_type);
            if (s != STYLES)
                return s;
        }
    return (enum value_style)rng_below(r, STYLES);
}

static bool is_x87_ext(const struct isa_case *c) {
    return c->insn.meta.isa_ext == ZYDIS_ISA_EXT_X87;
}

/* Of XSAVE's components those that the guest has not: they would make an image good only here. */
static uint64_t host_components(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return ((uint64_t)d << 32 | a) & ~(uint64_t)(XCR0_X87 | XCR0_SSE | XCR0_AVX);
}

/* Images that FXRSTOR and XRSTOR accept, most of the time. */
static void save_image(struct isa_memory *m, uint64_t at, struct rng *r) {
    uint8_t x[512 + 64 + 256] = {0};
    struct isa_state s;
    value_fpu(r, &s, STYLE_F32);
    memcpy(x, &s.fcw, 2);
    memcpy(x + 2, &s.fsw, 2);
    x[4] = s.ftw;
    memcpy(x + 6, &s.fop, 2);
    memcpy(x + 8, &s.fip, 8);
    memcpy(x + 16, &s.fdp, 8);
    memcpy(x + 24, &s.mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        memcpy(x + 32 + i * 16, s.st[i], 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(x + 160 + i * 16, s.ymm[i], 16);
        memcpy(x + 576 + i * 16, s.ymm[i] + 16, 16);
    }
    x[512] = rng_next(r) & 7;
    if (rng_one_in(r, 4)) { /* compacted */
        x[527] = 0x80;
        x[520] = rng_one_in(r, 8) ? (uint8_t)rng_below(r, 8) : x[512] | (uint8_t)rng_below(r, 8);
    }
    if (rng_one_in(r, 16))
        x[512 + rng_below(r, 64)] ^= (uint8_t)(1u << rng_below(r, 8));
    if (rng_one_in(r, 16))
        x[24 + rng_below(r, 4)] ^= (uint8_t)(1u << rng_below(r, 8));
    for (unsigned i = 512; i < 528; i++)
        x[i] &= (uint8_t) ~(host_components() >> 8 * (i % 8));
    store(m, at, x, sizeof x);
}

static bool is_state_area(const struct isa_case *c) {
    return c->insn.meta.category == ZYDIS_CATEGORY_XSAVE ||
           c->insn.meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
           c->insn.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64;
}

static void operand_value(struct isa_case *c, const ZydisDecodedOperand *op, uint64_t at,
                          enum value_style style, struct isa_memory *m, struct rng *r) {
    uint8_t v[64];
    unsigned n = op->size / 8 > sizeof v ? sizeof v : op->size / 8;
    enum value_style own = element_style(op->element_type);
    value_fill(r, own != STYLES && !rng_one_in(r, 8) ? own : style, v, sizeof v);
    if (op->element_type == ZYDIS_ELEMENT_TYPE_FLOAT80)
        value_f80(r, v);
    if (op->element_type == ZYDIS_ELEMENT_TYPE_LONGBCD && !rng_one_in(r, 4))
        for (unsigned i = 0; i < 10; i++)
            v[i] = (uint8_t)(rng_below(r, 10) << 4 | rng_below(r, 10)) & (i == 9 ? 0x80 : 0xff);
    if (c->insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || c->insn.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR)
        v[2] = v[3] = rng_one_in(r, 8) ? v[2] : 0;
    if (is_state_area(c))
        save_image(m, at, r);
    else
        store(m, at, v, n);
}

/* Compare-and-exchange: half of the time with equal values. */
static void equal_accumulator(const struct isa_case *c, uint64_t at, struct isa_memory *m) {
    const uint64_t *g = c->in.gpr;
    uint64_t pair[2] = {g[RAX], g[RDX]};
    if (c->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
        pair[0] = (uint32_t)g[RAX] | g[RDX] << 32;
        store(m, at, pair, 8);
    } else if (c->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
        store(m, at, pair, 16);
    } else if (c->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG) {
        store(m, at, pair, c->insn.operand_width / 8);
    }
}

static bool is_indirect_branch(const struct isa_case *c) {
    return c->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && !c->insn.raw.imm[0].is_relative;
}

static void place_memory(struct isa_case *c, struct isa_memory *m, enum value_style style,
                         uint64_t fs_base, struct rng *r) {
    for (unsigned i = 0; i < c->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &c->ops[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        uint64_t at = draw_target(r, c, op->size / 8);
        if (is_state_area(c) && !rng_one_in(r, 16))
            at &= ~63ull;
        if (c->insn.address_width == 16 && !rng_one_in(r, 8))
            at = LOW_BASE + (at & 0xfff);
        solve(c, op, at - segment_base(op, fs_base), r);
        operand_value(c, op, at, style, m, r);
        if (rng_one_in(r, 2))
            equal_accumulator(c, at, m);
        if (is_indirect_branch(c) && !rng_one_in(r, 8))
            store(m, at, &(uint64_t){draw_code_address(c, r)}, op->size / 8 > 8 ? 8 : op->size / 8);
    }
}

/* RET pops what CALL pushed: a code address. Zydis names the stack operand, place_memory fills it.
 */
static void place_branch(struct isa_case *c, struct rng *r) {
    if (c->insn.raw.imm[0].is_relative) {
        uint64_t end = c->in.rip + c->len, to = draw_code_address(c, r);
        unsigned bits = c->insn.raw.imm[0].size;
        if (bits == 8) { /* not into itself: that would never end */
            int8_t d;
            do
                d = (int8_t)rng_next(r);
            while (d < 0 && -d <= 16);
            to = end + (uint64_t)(int64_t)d;
        } else if (rng_one_in(r, 8)) {
            to = end + value_int(r);
            if (to - (c->in.rip - 16) < 32)
                to = DATA_BASE;
        }
        patch(c, c->insn.raw.imm[0].offset, bits, to - end);
    } else if (is_indirect_branch(c) && c->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               is_gpr(c->ops[0].reg.value) && !rng_one_in(r, 8)) {
        c->in.gpr[gpr_of(c->ops[0].reg.value)] = draw_code_address(c, r);
    }
}

static void keep_quotient_small(struct isa_case *c, struct rng *r) {
    uint64_t *g = c->in.gpr;
    bool is_signed = c->insn.mnemonic == ZYDIS_MNEMONIC_IDIV;
    unsigned w = c->insn.operand_width;
    if (w == 8)
        g[RAX] = is_signed ? (g[RAX] & ~0xffffull) | (uint16_t)(int8_t)g[RAX]
                           : (g[RAX] & ~0xff00ull) | rng_below(r, 4) << 8;
    else if (is_signed)
        g[RDX] = g[RAX] >> (w - 1) & 1 ? ~0ull : 0;
    else
        g[RDX] = rng_one_in(r, 2) ? 0 : rng_below(r, 1ull << rng_below(r, 32));
}

static void adjust_registers(struct isa_case *c, struct rng *r) {
    uint64_t *g = c->in.gpr;
    if ((c->insn.attributes &
         (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) &&
        !rng_one_in(r, 16))
        set_gpr(c, RCX, rng_below(r, 40));
    if (is_state_area(c)) { /* the host's other components are not the guest's */
        g[RAX] = (g[RAX] & ~0xffffffffull) | (rng_one_in(r, 2) ? 7 : rng_below(r, 8));
        g[RDX] &= ~0xffffffffull;
    }
    switch (c->insn.mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (!rng_one_in(r, 4))
            keep_quotient_small(c, r);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* bit offsets that reach the pages around */
        if (c->form->mem && c->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && !rng_one_in(r, 8))
            g[gpr_of(c->ops[1].reg.value)] = rng_below(r, 0x8000) - 0x4000;
        break;
    case ZYDIS_MNEMONIC_ENTER:
        if (!rng_one_in(r, 8))
            g[RBP] = DATA_BASE + rng_below(r, DATA_SIZE);
        break;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        set_gpr(c, RCX, rng_below(r, 4));
        break;
    default:
        break;
    }
}

static uint64_t draw_flags(struct rng *r) {
    uint64_t f = FLAG_FIXED | FLAG_IF | (rng_next(r) & FLAG_ARITH);
    if (rng_one_in(r, 4))
        f |= FLAG_DF;
    if (rng_one_in(r, 16))
        f |= FLAG_TF;
    if (rng_one_in(r, 16))
        f |= FLAG_AC;
    if (rng_one_in(r, 16))
        f |= FLAG_ID;
    if (rng_one_in(r, 16))
        f |= FLAG_NT;
    if (rng_one_in(r, 32))
        f |= FLAG_RF;
    return f;
}

static void draw_state(struct isa_case *c, struct rng *r, enum value_style style) {
    struct isa_state *s = &c->in;
    uint64_t mask = c->form->mode32 ? 0xffffffff : ~0ull;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = value_int(r) & mask;
    s->gpr[RSP] = DATA_BASE + 0x400 + (rng_below(r, 0x1000) & ~(rng_one_in(r, 4) ? 0 : 7ull));
    s->rflags = draw_flags(r);
    value_fpu(r, s, style);
    if (is_x87_ext(c) && rng_one_in(r, 2))
        s->ftw = 0xff;
}

/* Mostly in the middle; now and then across the pages of code or into what is not there. */
static uint64_t draw_rip(const struct isa_case *c, struct rng *r) {
    switch (rng_below(r, 64)) {
    case 0:
        return CODE_BASE + PAGE_4K - 1 - rng_below(r, c->len);
    case 1:
        return CODE_BASE + CODE_SIZE - 1 - rng_below(r, c->len);
    default:
        return CODE_BASE + 0x100 + rng_below(r, CODE_SIZE - 0x200);
    }
}

static uint64_t mix(uint64_t a, uint64_t b) {
    struct rng r = {a * 0x9e3779b97f4a7c15u ^ b};
    return rng_next(&r);
}

/* INT n through the gates that Linux opens to user code would not come back as the exception of a
 * closed one. */
static bool is_open_gate(const struct isa_case *c) {
    uint64_t n = c->insn.raw.imm[0].value.u & 0xff;
    return c->insn.mnemonic == ZYDIS_MNEMONIC_INT && (n == 0x80 || n == 3 || n == 4);
}

/* Of the host's state components only those that the guest has too: where no address needs EDX:EAX
 * for itself. */
static bool asks_for_more(const struct isa_case *c) {
    return is_state_area(c) && ((uint32_t)c->in.gpr[RAX] & ~7u || (uint32_t)c->in.gpr[RDX]);
}

bool gen_case(struct isa_case *c, const struct form *f, uint64_t seed, unsigned form_index,
              unsigned instance, struct isa_memory *mem, uint64_t fs_base) {
    struct rng r = {mix(mix(seed, form_index), instance)};
    memset(c, 0, sizeof *c);
    c->form = f;
    c->form_index = form_index;
    c->instance = instance;
    if (!draw_bytes(c, &r) || is_open_gate(c))
        return false;
    enum value_style style = case_style(c, &r);
    draw_state(c, &r, style);
    c->in.rip = draw_rip(c, &r);
    adjust_registers(c, &r);
    place_memory(c, mem, style, fs_base, &r);
    place_branch(c, &r);
    if (f->mode32)
        for (unsigned i = 0; i < 16; i++)
            c->in.gpr[i] &= 0xffffffff;
    if (asks_for_more(c))
        return false;
    memset(c->code + c->len, 0xcc, sizeof c->code - c->len);
    return forms_decode(f->mode32, c->code, 15, &c->insn, c->ops) == f->def;
}

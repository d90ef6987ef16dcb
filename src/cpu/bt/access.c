/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory operands in translated code: where an operand lies in the host, by a look-up in the inline
 * TLB that touches no flag, and the instructions that use it. An access of a group finds what to
 * add to its address in the group's register.
 */
#include "cpu/bt/translate.h"

/* Where an operand lies in the host: [base + index + disp]. */
struct place {
    unsigned base, index; /* the latter may be NO_REG */
    int32_t disp;
};

/* ---- the registers that a region lends ---- */

static uint32_t save_slot(unsigned reg) {
    return BT_OFF(save) + 8u * reg;
}

static uint32_t kept_slot(unsigned reg) {
    return BT_OFF(kept) + 8u * reg;
}

static void each_gs(struct tr *t, unsigned op, uint32_t registers, uint32_t slots) {
    for (unsigned r = 0; r < 16; r++)
        if (registers >> r & 1)
            emit_gs(&t->e, op, r, slots + 8u * r);
}

void emit_spill(struct tr *t) {
    each_gs(t, OP_STORE, t->spilled, save_slot(0));
}

void emit_unspill(struct tr *t) {
    each_gs(t, OP_LOAD, t->spilled, save_slot(0));
}

void emit_keep(struct tr *t, uint32_t registers) {
    each_gs(t, OP_STORE, registers, kept_slot(0));
}

void emit_kept(struct tr *t, uint32_t registers) {
    each_gs(t, OP_LOAD, registers, kept_slot(0));
}

void lend_rcx(struct tr *t) {
    if (!t->rcx_free && !t->rcx_saved)
        emit_gs(&t->e, OP_STORE, RCX, BT_OFF(save_rcx));
    t->rcx_saved = true;
}

void return_rcx(struct tr *t) {
    if (!t->rcx_free)
        emit_gs(&t->e, OP_LOAD, RCX, BT_OFF(save_rcx));
}

/*
 * RCX's stand-in: what the guest has in RCX is in its slot as if the region lent it, and in another
 * register too. So RCX is free without a load and a store around each look-up, which would be one
 * long chain through memory.
 */
void emit_held(struct tr *t) {
    if (t->rcx_in != RCX)
        emit_gs(&t->e, OP_LOAD, t->rcx_in, save_slot(RCX));
    if (t->mask_tlb != NO_REG)
        emit_gs(&t->e, OP_LOAD, t->mask_tlb, BT_OFF(mask_tlb));
    if (t->mask_above != NO_REG)
        emit_gs(&t->e, OP_LOAD, t->mask_above, BT_OFF(mask_above));
}

void emit_rcx_out(struct tr *t) {
    t->rcx_saved = false;
    if (t->rcx_in != RCX)
        emit_gs(&t->e, OP_STORE, t->rcx_in, save_slot(RCX));
}

static unsigned stand_in(const struct tr *t, unsigned reg) {
    return reg == RCX ? t->rcx_in : reg;
}

static unsigned dst_of(const struct tr *t, const struct item *it) {
    return stand_in(t, it->insn->dst / 8);
}

/* ---- shapes ---- */

/* Three-byte VEX, W1, map 0F38, with pp 2 (F3: PEXT) or 3 (F2: PDEP): OP to, src, gs:[mask] */
static void emit_bits(struct tr *t, unsigned pp, unsigned to, unsigned src, uint32_t mask) {
    EMIT(&t->e, 0x65, 0xc4, 0x62 | (to >> 3 ? 0 : 0x80), 0x80 | (~src & 15) << 3 | pp, 0xf5,
         0x04 | (to & 7) << 3, 0x25);
    emit32(&t->e, mask);
}

void emit_pext(struct tr *t, unsigned to, unsigned src, uint32_t mask) {
    emit_bits(t, 2, to, src, mask);
}

void emit_pdep(struct tr *t, unsigned to, unsigned src, uint32_t mask) {
    emit_bits(t, 3, to, src, mask);
}

void emit_table(struct tr *t, unsigned reg, unsigned index, uint32_t disp) {
    EMIT(&t->e, 0x65, REX | REX_W | (reg >> 3) * REX_R | (index >> 3) * REX_X, OP_LOAD,
         0x04 | (reg & 7) << 3, 0xc5 | (index & 7) << 3);
    emit32(&t->e, disp);
}

/* JRCXZ over a jump to a cold place: falls through to it when RCX is not zero. */
uint8_t *jump_unless_zero(struct tr *t) {
    EMIT(&t->e, 0xe3, 5);
    return emit_jmp(&t->e, 0);
}

void lend_for_jump(struct tr *t, struct cold *cold) {
    lend_rcx(t);
    cold->rcx_lent = !t->rcx_free;
}

void emit_jump_if_set(struct tr *t, struct cold *cold, uint32_t word) {
    lend_for_jump(t, cold);
    emit_gs(&t->e, OP_LOAD, RCX, word);
    cold->from = jump_unless_zero(t);
    return_rcx(t);
}

struct cold *cold_new(struct tr *t, const struct item *it) {
    struct cold *cold = &t->cold[t->colds++];
    *cold = (struct cold){.item = it, .at = t->s0};
    return cold;
}

/* A NOP that tells the signal handler where to go on when the instruction beside it faults. Returns
 * its displacement. */
uint8_t *emit_marker(struct tr *t) {
    EMIT(&t->e, 0x0f, 0x1f, 0x84, 0x00);
    uint8_t *at = t->e.p;
    emit32(&t->e, 0);
    return at;
}

/* PEXT to, src by a mask that may be in a register. */
static void emit_pext_by(struct tr *t, unsigned to, unsigned src, unsigned reg, uint32_t mask) {
    if (reg == NO_REG)
        emit_pext(t, to, src, mask);
    else
        EMIT(&t->e, 0xc4, 0x42 | (to >> 3 ? 0 : 0x80) | (reg >> 3 ? 0 : 0x20),
             0x82 | (~src & 15) << 3, 0xf5, 0xc0 | (to & 7) << 3 | (reg & 7));
}

/* ModRM, SIB and displacement for [base + index + disp] (index: not RSP). */
static void emit_place(struct tr *t, unsigned reg, struct place p) {
    bool none = p.disp == 0 && (p.base & 7) != RBP, small = p.disp == (int8_t)p.disp;
    unsigned mod = (none ? 0 : small ? 0x40 : 0x80) | (reg & 7) << 3;
    if (p.index == NO_REG && (p.base & 7) != RSP)
        emit8(&t->e, mod | (p.base & 7));
    else
        EMIT(&t->e, mod | 4, (p.index == NO_REG ? 4 : p.index & 7) << 3 | (p.base & 7));
    if (!none && small)
        emit8(&t->e, (uint8_t)p.disp);
    else if (!none)
        emit32(&t->e, (uint32_t)p.disp);
}

static unsigned place_rex(struct place p) {
    return (p.index == NO_REG ? 0 : p.index >> 3) * REX_X | (p.base >> 3) * REX_B;
}

/* OP reg, [place] as wide as the stack's slots. */
static void emit_slot(struct tr *t, unsigned op, unsigned reg, struct place p) {
    EMIT(&t->e, REX | tr_wide(t) | (reg >> 3) * REX_R | place_rex(p), op);
    emit_place(t, reg, p);
}

/* ---- effective addresses ---- */

static int reg_number(const struct tr *t, ZydisRegister r) {
    return r == ZYDIS_REGISTER_NONE ? -1 : (int)stand_in(t, (unsigned)ZydisRegisterGetId(r));
}

/* LEA to, [base + index * scale + disp32] in its general form; cut to 32 bits in 32-bit code. */
static void emit_lea_full(struct tr *t, unsigned to, int base, int index, unsigned scale,
                          int32_t disp) {
    unsigned ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
    unsigned idx = index < 0 ? 4u : (unsigned)index, bse = base < 0 ? 5u : (unsigned)base;
    bool small = base >= 0 && disp == (int8_t)disp;
    bool none = base >= 0 && disp == 0 && (bse & 7) != RBP;
    unsigned mod = base < 0 || none ? 0 : small ? 0x40 : 0x80;
    EMIT(&t->e,
         REX | tr_wide(t) | (to >> 3) * REX_R | (idx >> 3) * REX_X |
             (base < 0 ? 0 : bse >> 3) * REX_B,
         OP_LEA);
    if (index < 0 && base >= 0 && (bse & 7) != RSP)
        emit8(&t->e, mod | (to & 7) << 3 | (bse & 7));
    else
        EMIT(&t->e, mod | 4 | (to & 7) << 3, ss << 6 | (idx & 7) << 3 | (bse & 7));
    if (small && !none)
        emit8(&t->e, (uint8_t)disp);
    else if (!none)
        emit32(&t->e, (uint32_t)disp);
}

/* RIP-relative: from the page's start. */
static int32_t from_page(const struct item *it, const ZydisDecodedOperand *m) {
    return (int32_t)(m->mem.disp.value + it->off + it->insn->len);
}

/* FS and GS: a base, and in 32-bit code what makes the address one that nobody has where the
 * segment has a limit. */
static void emit_segment(struct tr *t, unsigned seg) {
    emit_gs(&t->e, OP_LOAD, t->s1,
            8u * seg + (t->bits == 64 ? BT_OFF(c.base64) : BT_OFF(seg_base)));
    emit_lea_full(t, t->s0, (int)t->s0, (int)t->s1, 1, 0);
    if (t->bits == 64)
        return;
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(seg_limited) + 8u * seg);
    emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
}

/* Address of a memory operand, or of what lies `ahead` of it, to s0; s1 may be used. */
static void emit_address(struct tr *t, const struct item *it, const ZydisDecodedOperand *m,
                         int32_t ahead) {
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
        emit_lea(&t->e, t->s0, t->s0, from_page(it, m) - ahead);
    } else {
        emit_lea_full(t, t->s0, reg_number(t, m->mem.base), reg_number(t, m->mem.index),
                      m->mem.scale, (int32_t)m->mem.disp.value - ahead);
    }
    if (it->insn->seg == SEG_FS || it->insn->seg == SEG_GS)
        emit_segment(t, it->insn->seg);
}

/* ---- look-ups ---- */

static uint32_t tlb_off(const struct tr *t, uint32_t member) {
    return BT_OFF(tlb) + t->tlb_kind * (uint32_t)sizeof(struct bt_tlb) + member;
}

/* LEA rcx, [rcx + at + disp] */
static void emit_lea_rcx(struct tr *t, unsigned at, uint32_t disp) {
    bool small = disp < 128;
    EMIT(&t->e, REX | REX_W | (at >> 3) * REX_X, OP_LEA, small ? 0x4c : 0x8c, (at & 7) << 3 | RCX);
    if (small)
        emit8(&t->e, disp);
    else
        emit32(&t->e, disp);
}

/* `at` holds a linear address: on a hit `to` is what to add to it. RCX is used. Returns the miss's
 * jump. */
static uint8_t *emit_probe(struct tr *t, unsigned at, unsigned to, uint32_t size, bool write) {
    uint32_t tag = write ? offsetof(struct bt_tlb, wr) : offsetof(struct bt_tlb, rd);
    emit_pext_by(t, RCX, at, t->mask_tlb, BT_OFF(mask_tlb));
    emit_table(t, to, RCX, tlb_off(t, offsetof(struct bt_tlb, addend)));
    emit_table(t, RCX, RCX, tlb_off(t, tag));
    emit_lea_rcx(t, at, size - 1);
    emit_pext_by(t, RCX, RCX, t->mask_above, BT_OFF(mask_above));
    return jump_unless_zero(t);
}

/* What raises #GP when its operand is not aligned, before the page is even looked at (SDM 3A 6.9).
 */
static bool wants_alignment(const struct item *it) {
    const ZydisDecodedOperand *m = item_memory(it);
    if (!m || m->size < 128)
        return false;
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
        return false;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return true;
    default:
        return it->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    }
}

/* The look-up of an address. A miss is looked up elsewhere and tried again, or the reference engine
 * executes the instruction. */
static struct cold *emit_lookup_single(struct tr *t, const struct item *it, unsigned at,
                                       const struct access *a, enum bt_operand operand) {
    struct cold *cold = cold_new(t, it);
    lend_rcx(t);
    cold->retry = wants_alignment(it) ? 0 : emit_rx(&t->e);
    cold->from = emit_probe(t, at, t->s1, a->size, a->write);
    cold->at = at;
    cold->rcx_lent = !t->rcx_free;
    cold->operand = operand;
    cold->write = a->write;
    return_rcx(t);
    return cold;
}

/* The first access of a group looks up the page for all, of which s0 = the first byte's address.
 * Where they straddle two, the code goes on in a region without groups. */
static void emit_lookup_group(struct tr *t, const struct item *it, struct group *g,
                              const struct access *a) {
    struct bt_exit *exit = exit_new(t, it->off);
    if (!exit)
        return;
    exit->single = true;
    exit->vector = t->vector;
    struct cold *cold = cold_new(t, it);
    lend_rcx(t);
    cold->retry = wants_alignment(it) ? 0 : emit_rx(&t->e);
    cold->from = emit_probe(t, t->s0, g->reg, (uint32_t)(g->max - g->min), g->write);
    cold->rcx_lent = !t->rcx_free;
    cold->exit = exit;
    cold->write = a->write;
    cold->ahead = a->off - g->min;
    return_rcx(t);
    if (g->computed)
        emit_lea_sum(&t->e, g->reg, t->s0, g->reg);
    g->probed = true;
}

/* In a group whose look-up has hit, by a register and a distance if they are known. */
static struct place group_place(const struct group *g, const struct access *a, unsigned base,
                                int32_t off) {
    if (g->computed)
        return (struct place){g->reg, NO_REG, a->off - g->min};
    return (struct place){base, g->reg, off};
}

static struct group *group_of(struct tr *t, const struct access *a) {
    struct group *g = a->group == NO_GROUP ? NULL : &t->group[a->group];
    return g && g->reg != NO_REG ? g : NULL;
}

/* ---- places ---- */

static struct place single_place(const struct tr *t) {
    return (struct place){t->s0, t->s1, 0};
}

/* A register that holds the operand's address as it is, and may be looked up: not RSP, which is no
 * index, nor RCX, which changes. NO_REG: there is none. */
static unsigned address_register(const struct tr *t, const struct item *it,
                                 const ZydisDecodedOperand *m) {
    bool plain = t->bits == 64 && m->mem.index == ZYDIS_REGISTER_NONE && !m->mem.disp.value &&
                 it->insn->seg != SEG_FS && it->insn->seg != SEG_GS &&
                 m->mem.base >= ZYDIS_REGISTER_RAX && m->mem.base <= ZYDIS_REGISTER_R15;
    unsigned base = plain ? (unsigned)reg_number(t, m->mem.base) : NO_REG;
    return base == RSP || base == RCX ? NO_REG : base;
}

/* Whether an address takes more than a register and a distance. */
static bool is_computed(const ZydisDecodedOperand *m) {
    return m->mem.index != ZYDIS_REGISTER_NONE || m->mem.base == ZYDIS_REGISTER_RIP;
}

/* A memory operand that `a` describes. *cold: where the instruction goes on after a miss is to be
 * told there; NULL when there is no such way. */
static struct place memory_place(struct tr *t, const struct item *it, struct cold **cold) {
    const ZydisDecodedOperand *m = item_memory(it);
    const struct access *a = &it->access[ON_MEMORY];
    struct group *g = group_of(t, a);
    *cold = NULL;
    if (!g) {
        unsigned at = address_register(t, it, m);
        if (at == NO_REG)
            emit_address(t, it, m, 0);
        at = at == NO_REG ? t->s0 : at;
        *cold = emit_lookup_single(t, it, at, a, BT_MEMORY);
        return (struct place){at, t->s1, 0};
    }
    if (!g->probed) {
        g->computed = is_computed(m);
        emit_address(t, it, m, a->off - g->min);
        emit_lookup_group(t, it, g, a);
        return group_place(g, a, t->s0, a->off - g->min);
    }
    if (g->computed || !is_computed(m))
        return group_place(g, a, (unsigned)reg_number(t, m->mem.base), (int32_t)m->mem.disp.value);
    emit_address(t, it, m, 0);
    return group_place(g, a, t->s0, 0);
}

/* A slot of the stack, `off` from where `base` (RSP or RBP) points. */
static struct place stack_place(struct tr *t, const struct item *it, unsigned base, int32_t off,
                                enum bt_operand operand, struct cold **cold) {
    const struct access *a = &it->access[ON_STACK];
    struct group *g = group_of(t, a);
    *cold = NULL;
    if (!g || !g->probed)
        emit_lea_full(t, t->s0, (int)base, -1, 1, g ? off + g->min - a->off : off);
    if (!g) {
        *cold = emit_lookup_single(t, it, t->s0, a, operand);
        return single_place(t);
    }
    if (!g->probed)
        emit_lookup_group(t, it, g, a);
    return group_place(g, a, base, off);
}

static void goes_on_here(struct tr *t, struct cold *cold) {
    if (cold)
        cold->back = emit_rx(&t->e);
}

/* ---- encodings with other registers ---- */

static bool has_stand_in(const struct tr *t, const struct item *it) {
    return t->rcx_in != RCX && it->uses >> RCX & 1;
}

/* The register that a field of the encoding is to name, where it named one from 0 to 15. */
static unsigned recoded(const struct tr *t, const struct item *it, ZydisOperandEncoding field,
                        unsigned named) {
    for (unsigned n = 0; n < it->zi.operand_count && has_stand_in(t, it); n++)
        if (it->op[n].encoding == field && operand_gpr(&it->op[n]) == 1u << RCX)
            return t->rcx_in;
    return named;
}

/* A count in CL where the instruction looks for it. */
static void emit_count_in(struct tr *t, const struct item *it) {
    if (recoded(t, it, ZYDIS_OPERAND_ENCODING_NONE, NO_REG) != NO_REG)
        emit_mov(&t->e, RCX, t->rcx_in);
}

/* Prefixes and opcode with REX, whose R, X and B are told; REX is there where a byte register of
 * the stand-in's or the instruction's own may need it. */
static void emit_legacy_head(struct tr *t, const struct item *it, unsigned rex) {
    const ZydisDecodedInstruction *zi = &it->zi;
    struct emit *e = &t->e;
    for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
        uint8_t v = zi->raw.prefixes[n].value;
        if (v == 0x66 || v == 0xf2 || v == 0xf3 || v == 0xf0)
            emit8(e, v);
    }
    rex |= REX | (unsigned)zi->raw.rex.W * REX_W;
    if (rex != REX || zi->attributes & ZYDIS_ATTRIB_HAS_REX || has_stand_in(t, it))
        emit8(e, rex);
    if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        emit8(e, 0x0f);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        emit8(e, 0x38);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        emit8(e, 0x3a);
}

/* The same with a three-byte VEX, whose R, X, B and register are inverted (SDM 2A 2.3.5). */
static void emit_vex_head(struct tr *t, const struct item *it, unsigned rex) {
    const uint8_t *vex = it->bytes + it->zi.raw.vex.offset;
    bool two = it->zi.raw.vex.size == 2;
    unsigned r = rex & REX_R ? 0 : 0x80, x = rex & REX_X ? 0 : 0x40, b = rex & REX_B ? 0 : 0x20;
    unsigned map = two ? 1 : vex[1] & 0x1f, last = two ? vex[1] & 0x7f : vex[2];
    unsigned reg = recoded(t, it, ZYDIS_OPERAND_ENCODING_NDSNDD, ~last >> 3 & 15);
    EMIT(&t->e, 0xc4, r | x | b | map, (last & 0x87) | (~reg & 15) << 3);
}

static void emit_head(struct tr *t, const struct item *it, unsigned rex) {
    if (it->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        emit_vex_head(t, it, rex);
    else
        emit_legacy_head(t, it, rex);
}

/* What the encoding of an instruction without a memory operand, or of LEA, names. */
struct named {
    unsigned reg, index, rm; /* the last is the base, or a register of the opcode's */
};

static struct named named_by(const struct tr *t, const struct item *it) {
    const ZydisDecodedInstructionRaw *raw = &it->zi.raw;
    const ZydisDecodedOperand *m = item_memory(it);
    bool vex = it->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    unsigned r = vex ? !raw->vex.R : raw->rex.R, x = vex ? !raw->vex.X : raw->rex.X,
             b = vex ? !raw->vex.B : raw->rex.B;
    struct named n = {r << 3 | raw->modrm.reg, x << 3 | raw->sib.index, b << 3 | raw->modrm.rm};
    n.reg = recoded(t, it, ZYDIS_OPERAND_ENCODING_MODRM_REG, n.reg);
    if (!raw->modrm.offset)
        n.rm = recoded(t, it, ZYDIS_OPERAND_ENCODING_OPCODE, b << 3 | (it->zi.opcode & 7));
    else if (!m)
        n.rm = recoded(t, it, ZYDIS_OPERAND_ENCODING_MODRM_RM, n.rm);
    if (!m)
        return n;
    if (raw->sib.offset)
        n.rm = b << 3 | raw->sib.base;
    if (m->mem.base == ZYDIS_REGISTER_RCX || m->mem.base == ZYDIS_REGISTER_ECX)
        n.rm = t->rcx_in;
    if (m->mem.index == ZYDIS_REGISTER_RCX || m->mem.index == ZYDIS_REGISTER_ECX)
        n.index = t->rcx_in;
    return n;
}

/* A stand-in is none that needs a special encoding as a base. */
static void emit_recoded(struct tr *t, const struct item *it) {
    const ZydisDecodedInstructionRaw *raw = &it->zi.raw;
    struct named n = named_by(t, it);
    unsigned rex = (n.reg >> 3) * REX_R | (n.index >> 3) * REX_X | (n.rm >> 3) * REX_B, done;
    emit_head(t, it, rex);
    if (!raw->modrm.offset) {
        done = it->insn->len - raw->imm[0].size / 8;
        emit8(&t->e, (it->zi.opcode & ~7u) | (n.rm & 7));
    } else {
        done = raw->modrm.offset + 1u;
        unsigned rm = raw->sib.offset ? 4 : n.rm & 7;
        EMIT(&t->e, it->zi.opcode, (unsigned)raw->modrm.mod << 6 | (n.reg & 7) << 3 | rm);
    }
    if (raw->sib.offset) {
        done = raw->sib.offset + 1u;
        emit8(&t->e, (unsigned)raw->sib.scale << 6 | (n.index & 7) << 3 | (n.rm & 7));
    }
    emit_bytes(&t->e, it->bytes + done, it->insn->len - done);
}

void emit_rotate_by(struct tr *t, const struct item *it, unsigned by) {
    struct named n = named_by(t, it);
    emit_head(t, it, (n.rm >> 3) * REX_B);
    EMIT(&t->e, it->zi.operand_width == 8 ? 0xc0 : 0xc1, 0xc0 | (n.reg & 7) << 3 | (n.rm & 7), by);
}

void emit_copy(struct tr *t, const struct item *it) {
    emit_count_in(t, it);
    if (has_stand_in(t, it))
        emit_recoded(t, it);
    else
        emit_bytes(&t->e, it->bytes, it->insn->len);
}

/* ---- instructions with a memory operand ---- */

/* MOV by the accumulator's short forms A0 to A3 becomes one with ModRM. */
static unsigned long_opcode(const ZydisDecodedInstruction *zi) {
    return zi->raw.modrm.offset ? zi->opcode : 0x88 | (zi->opcode & 1) | (zi->opcode & 2 ? 0 : 2);
}

static void emit_with_memory(struct tr *t, const struct item *it, struct place p) {
    const ZydisDecodedInstruction *zi = &it->zi;
    bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    unsigned high = vex ? !zi->raw.vex.R : zi->raw.rex.R;
    unsigned reg = recoded(t, it, ZYDIS_OPERAND_ENCODING_MODRM_REG,
                           zi->raw.modrm.offset ? high << 3 | zi->raw.modrm.reg : 0u);
    emit_head(t, it, (reg >> 3) * REX_R | place_rex(p));
    emit8(&t->e, long_opcode(zi));
    emit_place(t, reg, p);
    if (zi->raw.imm[0].size && zi->raw.modrm.offset)
        emit_bytes(&t->e, it->bytes + zi->raw.imm[0].offset, zi->raw.imm[0].size / 8);
}

void emit_memory_item(struct tr *t, const struct item *it) {
    struct cold *cold, *trap = NULL;
    struct place p = memory_place(t, it, &cold);
    emit_count_in(t, it);
    if (item_divides(it) || wants_alignment(it)) {
        trap = cold ? cold : cold_new(t, it);
        trap->operand = BT_MEMORY;
        trap->poll = emit_marker(t);
    }
    emit_with_memory(t, it, p);
    goes_on_here(t, cold);
    goes_on_here(t, trap);
}

struct cold *emit_load_operand(struct tr *t, const struct item *it) {
    struct cold *cold;
    struct place p = memory_place(t, it, &cold);
    EMIT(&t->e, REX | (t->s0 >> 3) * REX_R | place_rex(p));
    if (it->access[ON_MEMORY].size == 2)
        EMIT(&t->e, 0x0f, 0xb7);
    else
        emit8(&t->e, OP_LOAD);
    emit_place(t, t->s0, p);
    return cold;
}

void emit_lea_item(struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *m = item_memory(it);
    unsigned to = dst_of(t, it), wide = it->zi.operand_width == 64 ? REX_W : 0;
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
        EMIT(&t->e, REX | wide | (to >> 3) * REX_R | (t->s0 >> 3) * REX_B, OP_LEA,
             0x80 | (to & 7) << 3 | (t->s0 & 7));
        emit32(&t->e, (uint32_t)from_page(it, m));
    } else if (t->bits == 32) { /* an absolute address would be a relative one */
        emit_lea_full(t, to, reg_number(t, m->mem.base), reg_number(t, m->mem.index), m->mem.scale,
                      (int32_t)m->mem.disp.value);
    } else {
        emit_copy(t, it);
    }
}

/* s1 = a signed bit offset's qword: MOV s0, 6; SARX s1, bit, s0. */
static void emit_bit_to_qword(struct tr *t, unsigned bit) {
    EMIT(&t->e, REX | (t->s0 >> 3) * REX_B, 0xb8 | (t->s0 & 7), 6, 0, 0, 0);
    EMIT(&t->e, 0xc4, 0x42 | (t->s1 >> 3 ? 0 : 0x80) | (bit >> 3 ? 0 : 0x20),
         0x82 | (~t->s0 & 15) << 3, 0xf7, 0xc0 | (t->s1 & 7) << 3 | (bit & 7));
}

/* The qword that a bit offset leads to, by its register form or, where it is written, locked or
 * not, with what remains of the offset. */
void emit_bit_string(struct tr *t, const struct item *it) {
    unsigned bit = stand_in(t, it->insn->src / 8), opcode = it->zi.opcode;
    bool writes = it->zi.mnemonic != ZYDIS_MNEMONIC_BT;
    struct access a = {.size = 8, .write = writes, .group = NO_GROUP};
    emit_bit_to_qword(t, bit);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(pushed));
    emit_address(t, it, item_memory(it), 0);
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(pushed));
    emit_lea_full(t, t->s0, (int)t->s0, (int)t->s1, 8, 0);
    struct cold *cold = emit_lookup_single(t, it, t->s0, &a, BT_NONE);
    if (writes) {
        emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
        emit_pext(t, t->s1, bit, BT_OFF(mask_bit));
        if (it->insn->flags & INSN_LOCK)
            emit8(&t->e, 0xf0);
        EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_R | (t->s0 >> 3) * REX_B, 0x0f, opcode,
             (t->s1 & 7) << 3 | (t->s0 & 7));
    } else {
        emit_slot(t, OP_LOAD, t->s0, single_place(t));
        EMIT(&t->e, REX | REX_W | (bit >> 3) * REX_R | (t->s0 >> 3) * REX_B, 0x0f, opcode,
             0xc0 | (bit & 7) << 3 | (t->s0 & 7));
    }
    goes_on_here(t, cold);
}

/* ---- the stack ---- */

void emit_move_rsp(struct tr *t, int32_t by) {
    emit_lea_full(t, RSP, RSP, -1, 1, by);
}

static int32_t slot_bytes(const struct tr *t) {
    return (int32_t)t->bits / 8;
}

static struct place push_place(struct tr *t, const struct item *it, struct cold **cold) {
    return stack_place(t, it, RSP, -slot_bytes(t), BT_PUSH, cold);
}

void emit_push(struct tr *t, const struct item *it) {
    struct cold *cold;
    struct place p = push_place(t, it, &cold);
    if (it->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        emit_slot(t, 0xc7, 0, p);
        emit32(&t->e, (uint32_t)it->op[0].imm.value.u);
    } else {
        emit_slot(t, OP_STORE, dst_of(t, it), p);
    }
    emit_move_rsp(t, -slot_bytes(t));
    goes_on_here(t, cold);
}

/* gs:[value] and a distance to a slot. In a slot of a group s0 is free; otherwise the slot's
 * address has to become one register first. */
static void emit_store_from(struct tr *t, uint32_t value, int32_t plus, struct place p) {
    bool single = p.base == t->s0;
    unsigned by = single ? t->s1 : t->s0;
    if (single)
        emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
    emit_gs(&t->e, OP_LOAD, by, value);
    if (plus)
        emit_lea(&t->e, by, by, plus);
    if (single)
        EMIT(&t->e, REX | tr_wide(t) | (by >> 3) * REX_R | (t->s0 >> 3) * REX_B, OP_STORE,
             (by & 7) << 3 | (t->s0 & 7));
    else
        emit_slot(t, OP_STORE, by, p);
}

void emit_push_from(struct tr *t, const struct item *it) {
    struct cold *load, *store;
    struct place p = memory_place(t, it, &load);
    emit_slot(t, OP_LOAD, t->s0, p);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(pushed));
    p = push_place(t, it, &store);
    emit_store_from(t, BT_OFF(pushed), 0, p);
    emit_move_rsp(t, -slot_bytes(t));
    goes_on_here(t, load);
    goes_on_here(t, store);
}

/* The host's arithmetic flags and the guest's others, which are never in the same bits. */
void emit_push_flags(struct tr *t, const struct item *it) {
    struct cold *cold;
    emit_gs(&t->e, OP_STORE, RSP, BT_OFF(save_rsp));
    emit_gs(&t->e, OP_LOAD, RSP, BT_OFF(host_rsp));
    EMIT(&t->e, 0x9c, REX | (t->s0 >> 3) * REX_B, 0x58 | (t->s0 & 7)); /* pushfq; pop s0 */
    emit_gs(&t->e, OP_LOAD, RSP, BT_OFF(save_rsp));
    emit_pext(t, t->s0, t->s0, BT_OFF(mask_arith));
    emit_pdep(t, t->s0, t->s0, BT_OFF(mask_arith));
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(c.s.rflags));
    emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(pushed));
    struct place p = push_place(t, it, &cold);
    emit_store_from(t, BT_OFF(pushed), 0, p);
    emit_move_rsp(t, -slot_bytes(t));
    goes_on_here(t, cold);
}

void emit_pop(struct tr *t, const struct item *it) {
    struct cold *cold;
    unsigned to = dst_of(t, it);
    struct place p = stack_place(t, it, RSP, 0, BT_POP, &cold);
    emit_slot(t, OP_LOAD, to, p);
    if (to != RSP)
        emit_move_rsp(t, slot_bytes(t));
    goes_on_here(t, cold);
}

void emit_leave(struct tr *t, const struct item *it) {
    struct cold *cold;
    struct place p = stack_place(t, it, RBP, 0, BT_FRAME, &cold);
    emit_slot(t, OP_LOAD, t->s0, p);
    emit_lea_full(t, RSP, RBP, -1, 1, slot_bytes(t));
    emit_mov(&t->e, RBP, t->s0);
    goes_on_here(t, cold);
}

/* ---- what branches load and store ---- */

void emit_load_target(struct tr *t, const struct item *it) {
    struct cold *cold; /* does not come back: the reference engine makes the whole branch */
    unsigned from = dst_of(t, it);
    if (!item_memory(it)) {
        EMIT(&t->e, REX | tr_wide(t) | (from >> 3) * REX_R | (t->s0 >> 3) * REX_B, OP_STORE,
             0xc0 | (from & 7) << 3 | (t->s0 & 7));
        return;
    }
    struct place p = memory_place(t, it, &cold);
    emit_slot(t, OP_LOAD, t->s0, p);
}

void emit_load_return(struct tr *t, const struct item *it) {
    struct cold *cold;
    struct place p = stack_place(t, it, RSP, 0, BT_POP, &cold);
    emit_slot(t, OP_LOAD, t->s0, p);
}

void emit_return_address(struct tr *t, const struct item *it) {
    struct cold *cold;
    struct place p = push_place(t, it, &cold);
    emit_store_from(t, BT_OFF(page), (int32_t)(it->off + it->insn->len), p);
}

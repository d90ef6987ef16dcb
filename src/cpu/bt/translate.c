/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest instructions to host code, a block at a time: a block lies in one page and ends with a
 * branch or with what may change mode. Most instructions are copied as they are; memory operands go
 * through the inline TLB. Nothing that is put around them touches the flags.
 */
#include "cpu/bt/bt.h"

#include <errno.h>

#define BLOCK_INSNS 40u
#define NO_REG 16u

enum kind {
    OUT,  /* executed by the reference engine's function, then on */
    LAST, /* likewise, and leaves the block */
    SKIP, /* does nothing that a guest could see */
    COPY,
    ROTATE,
    MEM,
    VECTOR, /* wants the vector registers, which this block does not have */
    LEA,
    PUSH,
    PUSH_FROM, /* memory */
    POP,
    LEAVE,
    JMP,
    JCC,
    CALL,
    JMP_TO, /* through a register or memory */
    CALL_TO,
    RET,
};

struct item {
    struct x86_insn *insn;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *bytes;
    uint32_t off; /* in the page */
    enum kind kind;
};

/* Code that is reached rarely, put behind the block. */
struct cold {
    uint8_t *from[2]; /* displacements of jumps that go here (0: none) */
    uint64_t back;    /* where to go on; 0: leaves */
    const struct item *item;
    struct bt_exit *exit; /* for an exit's stub */
    uint8_t *poll;        /* displacement in the NOP behind a poll, or NULL */
    enum bt_operand operand;
    bool scratched; /* scratch registers have to be given back first */
    bool rcx_lent;
};

struct tr {
    struct bt_cpu *b;
    struct bt_block *block;
    struct emit e;
    struct item item[BLOCK_INSNS];
    unsigned count;
    unsigned s0, s1; /* scratch registers that the block does not use */
    bool rcx_free;   /* RCX is a third one */
    unsigned tlb_kind;
    bool vector; /* the guest's vector registers are in the host's */
    struct cold cold[BLOCK_INSNS * 3];
    unsigned colds;
};

/* ---- what is copied ---- */

static bool copies(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        return true;
    default:
        return false;
    }
}

/* A rotation by a constant: the last step alone gives OF as the reference engine defines it
 * (shift.c). */
static bool is_rotate(const struct item *it) {
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        return it->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               it->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && it->insn->imm != 0;
    default:
        return false;
    }
}

/* Bit tests whose offset stays within the operand. */
static bool is_bit_test(const struct item *it) {
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return it->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ||
               it->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    default:
        return false;
    }
}

/* Instructions of CPUs that a guest's model may have but the encoding of which is shared with older
 * ones. */
static bool copies_counted(const struct tr *t, ZydisMnemonic m) {
    const struct x86_cpuid *id = t->b->c.cpuid;
    switch (m) {
    case ZYDIS_MNEMONIC_POPCNT:
        return x86_has(id, FEAT_POPCNT);
    case ZYDIS_MNEMONIC_TZCNT:
        return x86_has(id, FEAT_BMI1);
    case ZYDIS_MNEMONIC_LZCNT:
        return x86_has(id, FEAT_LZCNT);
    default:
        return false;
    }
}

static bool high_byte(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_AH &&
           op->reg.value <= ZYDIS_REGISTER_BH;
}

static bool gpr_operands(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &it->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (op->reg.value < ZYDIS_REGISTER_AL || op->reg.value > ZYDIS_REGISTER_R15))
            return false;
    }
    return true;
}

static const ZydisDecodedOperand *memory_operand(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (it->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &it->op[n];
    return NULL;
}

/* The byte forms of AH..BH exclude REX, which scratch registers may need; 32-bit addressing is
 * rare; both go out. */
static bool memory_simple(const struct item *it) {
    const ZydisDecodedOperand *m = memory_operand(it);
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (high_byte(&it->op[n]))
            return false;
    bool moffs =
        m->mem.base == ZYDIS_REGISTER_NONE && m->mem.disp.value != (int32_t)m->mem.disp.value;
    return it->zi.address_width == 64 && !moffs && it->zi.raw.modrm.offset && m->size <= 256;
}

static bool same_shape(const struct tr *t, const struct item *it) {
    ZydisMnemonic m = it->zi.mnemonic;
    return (copies(m) || is_bit_test(it) || copies_counted(t, m) ||
            it->zi.meta.category == ZYDIS_CATEGORY_CMOV ||
            it->zi.meta.category == ZYDIS_CATEGORY_SETCC) &&
           gpr_operands(it);
}

/* ---- vector instructions ---- */

static bool gpr_index(ZydisRegister r) {
    return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15;
}

static bool is_vector_register(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_XMM0 &&
           op->reg.value <= ZYDIS_REGISTER_YMM31;
}

static bool is_plain_register(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_AL &&
           op->reg.value <= ZYDIS_REGISTER_R15;
}

/* Hidden ones may be flags, MXCSR or general registers, but no memory. */
static bool vector_operand_ok(const ZydisDecodedOperand *op) {
    bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return !hidden && (op->mem.index == ZYDIS_REGISTER_NONE || gpr_index(op->mem.index));
    return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE || hidden || is_vector_register(op) ||
           is_plain_register(op);
}

/* Element-wise faults, or state that is not in the registers. */
static bool vector_special(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return false;
    }
}

/* Those that name no vector register. */
static bool vector_by_name(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_VZEROUPPER:
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
        return true;
    default:
        return false;
    }
}

static bool is_vector(const struct item *it) {
    bool any = vector_by_name(it->zi.mnemonic);
    bool legacy = it->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    if ((!legacy && it->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) ||
        vector_special(it->zi.mnemonic))
        return false;
    for (unsigned n = 0; n < it->zi.operand_count; n++) {
        if (!vector_operand_ok(&it->op[n]))
            return false;
        any |= is_vector_register(&it->op[n]);
    }
    return any;
}

static bool push_pop_simple(const struct item *it) {
    const ZydisDecodedOperand *op = &it->op[0];
    bool reg = op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_RAX &&
               op->reg.value <= ZYDIS_REGISTER_R15;
    bool imm = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && it->zi.mnemonic == ZYDIS_MNEMONIC_PUSH;
    return it->zi.operand_width == 64 && (reg || imm);
}

/* Relative to the page. */
static int64_t branch_target(const struct item *it) {
    return (int64_t)it->off + it->insn->len + (int64_t)it->insn->imm;
}

static enum kind branch_kind(const struct item *it) {
    bool direct = it->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (it->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
        (memory_operand(it) && !memory_simple(it)))
        return LAST;
    if (direct && branch_target(it) != (int32_t)branch_target(it))
        return LAST; /* further from the page than LEA reaches */
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return direct ? JMP : JMP_TO;
    case ZYDIS_MNEMONIC_CALL:
        return direct ? CALL : CALL_TO;
    case ZYDIS_MNEMONIC_RET:
        return RET;
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
        return LAST;
    default:
        return it->zi.meta.category == ZYDIS_CATEGORY_COND_BR ? JCC : LAST;
    }
}

/* What goes elsewhere for certain; everything else that ends a block of the reference engine may
 * fall through. */
static bool is_transfer(const struct item *it) {
    switch (it->zi.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        return false;
    }
}

static bool is_hint(const struct item *it) {
    return it->zi.meta.category == ZYDIS_CATEGORY_PREFETCH;
}

static enum kind classify(const struct tr *t, const struct item *it) {
    if (it->insn->mnemonic == 0)
        return LAST;
    if (is_transfer(it))
        return branch_kind(it);
    if (is_hint(it))
        return SKIP;
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (memory_operand(it))
            return it->zi.operand_width == 64 && memory_simple(it) ? PUSH_FROM : OUT;
        return push_pop_simple(it) ? PUSH : OUT;
    case ZYDIS_MNEMONIC_POP:
        return push_pop_simple(it) ? POP : OUT;
    case ZYDIS_MNEMONIC_LEAVE:
        return it->zi.operand_width == 64 ? LEAVE : OUT;
    case ZYDIS_MNEMONIC_LEA:
        return it->zi.address_width == 64 && it->zi.operand_width >= 32 ? LEA : OUT;
    case ZYDIS_MNEMONIC_NOP:
        return SKIP;
    default:
        break;
    }
    if (is_vector(it) && (!memory_operand(it) || memory_simple(it)))
        return !t->vector ? VECTOR : memory_operand(it) ? MEM : COPY;
    if (is_rotate(it) && gpr_operands(it))
        return ROTATE;
    if (!same_shape(t, it))
        return OUT;
    if (!memory_operand(it))
        return COPY;
    return memory_simple(it) ? MEM : OUT;
}

/* ---- which registers a block uses ---- */

static unsigned gpr_bit(ZydisRegister r) {
    if (r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP)
        return 0;
    ZydisRegister big = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
    if (big < ZYDIS_REGISTER_RAX || big > ZYDIS_REGISTER_R15)
        return 0;
    return 1u << (big - ZYDIS_REGISTER_RAX);
}

static unsigned item_uses(const struct item *it) {
    unsigned used = 0;
    if (it->kind == OUT || it->kind == LAST || it->kind == SKIP || it->kind == VECTOR)
        return 0; /* finds all registers as the guest has them */
    for (unsigned n = 0; n < it->zi.operand_count; n++) {
        const ZydisDecodedOperand *op = &it->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
            used |= gpr_bit(op->reg.value);
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            used |= gpr_bit(op->mem.base) | gpr_bit(op->mem.index);
    }
    return used;
}

/* Scratch registers: none that needs a special encoding as a base (RSP, RBP, R12, R13). */
static const uint8_t SCRATCH_ORDER[] = {11, 10, 9, 8, 6, 7, 2, 3, 14, 15, 0};

static bool pick_scratch(struct tr *t) {
    unsigned used = 0;
    for (unsigned n = 0; n < t->count; n++)
        used |= item_uses(&t->item[n]);
    t->s0 = t->s1 = NO_REG;
    for (unsigned n = 0; n < sizeof SCRATCH_ORDER; n++) {
        unsigned r = SCRATCH_ORDER[n];
        if (used >> r & 1)
            continue;
        if (t->s0 == NO_REG) {
            t->s0 = r;
        } else {
            t->s1 = r;
            break;
        }
    }
    t->rcx_free = !(used >> RCX & 1);
    return t->s1 != NO_REG;
}

/* ---- collecting ---- */

static bool collect(struct tr *t, const uint8_t *host) {
    const struct x86_cpu *c = &t->b->c;
    uint32_t off = c->s.rip & PAGE_MASK;
    while (t->count < BLOCK_INSNS && off < PAGE_SIZE) {
        struct item *it = &t->item[t->count];
        struct x86_insn *i = bt_cache_alloc(t->b->cache, sizeof *i);
        if (!i)
            return false;
        it->bytes = host + (off - (c->s.rip & PAGE_MASK));
        if (x86_decode_full(c->cpuid, 64, it->bytes, (unsigned)(PAGE_SIZE - off), i, &it->zi,
                            it->op) == -EAGAIN)
            break;
        it->insn = i;
        it->off = off;
        it->kind = classify(t, it);
        off += i->len;
        t->count++;
        if (it->kind == LAST || it->kind == VECTOR || it->kind >= JMP)
            break;
    }
    while (t->count > 1 && !pick_scratch(t))
        t->count--;
    return t->count == 0 || pick_scratch(t);
}

/* ---- pieces ---- */

static void spill(struct tr *t) {
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(save) + 0);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(save) + 8);
    if (t->rcx_free)
        emit_gs(&t->e, OP_STORE, RCX, BT_OFF(save_rcx));
}

static void unspill(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(save) + 0);
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(save) + 8);
    if (t->rcx_free)
        emit_gs(&t->e, OP_LOAD, RCX, BT_OFF(save_rcx));
}

static void lend_rcx(struct tr *t) {
    if (!t->rcx_free)
        emit_gs(&t->e, OP_STORE, RCX, BT_OFF(save_rcx));
}

static void return_rcx(struct tr *t) {
    if (!t->rcx_free)
        emit_gs(&t->e, OP_LOAD, RCX, BT_OFF(save_rcx));
}

/* PEXT rcx, src, gs:[mask] */
static void emit_pext(struct tr *t, unsigned src, uint32_t mask) {
    EMIT(&t->e, 0x65, 0xc4, 0xe2, 0x80 | (~src & 15) << 3 | 2, 0xf5, 0x0c, 0x25);
    emit32(&t->e, mask);
}

/* MOV reg, gs:[rcx * 8 + disp] */
static void emit_table(struct tr *t, unsigned reg, uint32_t disp) {
    EMIT(&t->e, 0x65, REX | REX_W | (reg >> 3) * REX_R, OP_LOAD, 0x04 | (reg & 7) << 3, 0xcd);
    emit32(&t->e, disp);
}

static struct cold *cold_new(struct tr *t, const struct item *it) {
    struct cold *cold = &t->cold[t->colds++];
    *cold = (struct cold){.item = it, .scratched = true};
    return cold;
}

/* JRCXZ over a jump to a cold place: falls through to it when RCX is not zero. */
static uint8_t *jump_unless_zero(struct tr *t) {
    EMIT(&t->e, 0xe3, 5);
    return emit_jmp(&t->e, 0);
}

/* ---- effective addresses ---- */

static int reg_number(ZydisRegister r) {
    return r == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(r);
}

/* LEA to, [base + index * scale + disp32] in its general form. */
static void emit_lea_full(struct emit *e, unsigned to, int base, int index, unsigned scale,
                          int32_t disp) {
    unsigned ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
    unsigned idx = index < 0 ? 4u : (unsigned)index, bse = base < 0 ? 5u : (unsigned)base;
    unsigned mod = base < 0 ? 0x04 : 0x84;
    EMIT(e,
         REX | REX_W | (to >> 3) * REX_R | (idx >> 3) * REX_X | (base < 0 ? 0 : bse >> 3) * REX_B,
         OP_LEA, mod | (to & 7) << 3, ss << 6 | (idx & 7) << 3 | (bse & 7));
    emit32(e, (uint32_t)disp);
}

/* Address of a memory operand to s0; s1 may be used. */
static void emit_address(struct tr *t, const struct item *it, const ZydisDecodedOperand *m) {
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
        int64_t delta = m->mem.disp.value + it->off + it->insn->len;
        emit_lea(&t->e, t->s0, t->s0, (int32_t)m->mem.disp.value);
        emit_lea(&t->e, t->s0, t->s0, (int32_t)(delta - m->mem.disp.value));
    } else {
        emit_lea_full(&t->e, t->s0, reg_number(m->mem.base), reg_number(m->mem.index), m->mem.scale,
                      (int32_t)m->mem.disp.value);
    }
    if (it->insn->seg == SEG_FS || it->insn->seg == SEG_GS) {
        emit_gs(&t->e, OP_LOAD, t->s1,
                (uint32_t)offsetof(struct bt_cpu, c.base64) + 8u * it->insn->seg);
        emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
    }
}

static uint32_t tlb_off(const struct tr *t, uint32_t member) {
    return BT_OFF(tlb) + t->tlb_kind * (uint32_t)sizeof(struct bt_tlb) + member;
}

/* s0 holds a linear address: on a hit s1 is what to add to it. RCX is used. Returns the miss's
 * jump. */
static uint8_t *emit_probe(struct tr *t, unsigned size, bool write) {
    uint32_t tag = write ? offsetof(struct bt_tlb, wr) : offsetof(struct bt_tlb, rd);
    emit_pext(t, t->s0, BT_OFF(mask_tlb));
    emit_table(t, t->s1, tlb_off(t, offsetof(struct bt_tlb, addend)));
    emit_table(t, RCX, tlb_off(t, tag));
    /* lea rcx, [rcx + s0 + size - 1] */
    EMIT(&t->e, REX | REX_W | (t->s0 >> 3) * REX_X, OP_LEA, 0x4c, (t->s0 & 7) << 3 | RCX, size - 1);
    emit_pext(t, RCX, BT_OFF(mask_above));
    return jump_unless_zero(t);
}

static struct cold *emit_access(struct tr *t, const struct item *it, unsigned size, bool write,
                                enum bt_operand operand) {
    struct cold *cold = cold_new(t, it);
    lend_rcx(t);
    cold->from[0] = emit_probe(t, size, write);
    cold->rcx_lent = !t->rcx_free;
    cold->operand = operand;
    return_rcx(t);
    return cold;
}

/* ---- templates ---- */

/* A NOP that tells the signal handler where to go on when the instruction beside it faults. Returns
 * its displacement. */
static uint8_t *emit_marker(struct tr *t) {
    EMIT(&t->e, 0x0f, 0x1f, 0x84, 0x00);
    uint8_t *at = t->e.p;
    emit32(&t->e, 0);
    return at;
}

static void emit_copy(struct tr *t, const struct item *it) {
    emit_bytes(&t->e, it->bytes, it->insn->len);
}

/* Prefixes and opcode with REX, for [s0 + s1]. */
static void emit_legacy_head(struct tr *t, const struct item *it) {
    const ZydisDecodedInstruction *zi = &it->zi;
    struct emit *e = &t->e;
    for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
        uint8_t p = zi->raw.prefixes[n].value;
        if (p == 0x66 || p == 0xf2 || p == 0xf3 || p == 0xf0)
            emit8(e, p);
    }
    emit8(e, REX | (unsigned)zi->raw.rex.W * REX_W | (unsigned)zi->raw.rex.R * REX_R |
                 (t->s1 >> 3) * REX_X | (t->s0 >> 3) * REX_B);
    if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        emit8(e, 0x0f);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        emit8(e, 0x38);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        emit8(e, 0x3a);
}

/* The same with a three-byte VEX, whose R, X and B are inverted (SDM 2A 2.3.5). */
static void emit_vex_head(struct tr *t, const struct item *it) {
    const uint8_t *vex = it->bytes + it->zi.raw.vex.offset;
    bool two = it->zi.raw.vex.size == 2;
    unsigned x = t->s1 >> 3 ? 0 : 0x40, b = t->s0 >> 3 ? 0 : 0x20;
    unsigned map = two ? 1 : vex[1] & 0x1f, last = two ? vex[1] & 0x7f : vex[2];
    EMIT(&t->e, 0xc4, (vex[1] & 0x80) | x | b | map, last);
}

/* The instruction itself with [s0 + s1] for its memory operand. */
static void emit_with_memory(struct tr *t, const struct item *it) {
    const ZydisDecodedInstruction *zi = &it->zi;
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        emit_vex_head(t, it);
    else
        emit_legacy_head(t, it);
    EMIT(&t->e, zi->opcode, 0x04 | zi->raw.modrm.reg << 3, (t->s1 & 7) << 3 | (t->s0 & 7));
    if (zi->raw.imm[0].size)
        emit_bytes(&t->e, it->bytes + zi->raw.imm[0].offset, zi->raw.imm[0].size / 8);
}

static void emit_mem(struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *m = memory_operand(it);
    bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    emit_address(t, it, m);
    struct cold *cold = emit_access(t, it, m->size / 8, write, BT_MEMORY);
    if (m->size > 64) /* may want alignment */
        cold->poll = emit_marker(t);
    emit_with_memory(t, it);
    cold->back = emit_rx(&t->e);
}

/* By one less than the count, then by one. */
static void emit_rotate(struct tr *t, const struct item *it) {
    unsigned count = it->insn->imm & (it->zi.operand_width == 64 ? 63 : 31);
    unsigned opcode = it->zi.operand_width == 8 ? 0xc0 : 0xc1,
             modrm = it->bytes[it->zi.raw.modrm.offset];
    if (!count) /* a 32-bit destination is cut all the same */
        emit_copy(t, it);
    for (unsigned n = 0; n < 2 && count; n++) {
        unsigned by = n == 0 ? count - 1 : 1;
        if (!by)
            continue;
        if (it->zi.operand_width == 16)
            emit8(&t->e, 0x66);
        if (it->zi.attributes & ZYDIS_ATTRIB_HAS_REX)
            emit8(&t->e, it->bytes[it->zi.raw.rex.offset]);
        EMIT(&t->e, opcode, modrm, by);
    }
}

static void emit_lea_item(struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *m = memory_operand(it);
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
        emit_lea(&t->e, t->s0, t->s0, (int32_t)m->mem.disp.value);
        emit_lea(&t->e, t->s0, t->s0, (int32_t)(it->off + it->insn->len));
        unsigned to = it->insn->dst / 8;
        if (it->zi.operand_width == 64)
            emit_mov(&t->e, to, t->s0);
        else /* mov r32, r32 */
            EMIT(&t->e, REX | (t->s0 >> 3) * REX_R | (to >> 3) * REX_B, OP_STORE,
                 0xc0 | (t->s0 & 7) << 3 | (to & 7));
        return;
    }
    emit_copy(t, it);
}

/* s0 = address of the slot; then the access; s0 = host address. */
static struct cold *emit_stack(struct tr *t, const struct item *it, int32_t off, bool write,
                               enum bt_operand operand) {
    emit_lea(&t->e, t->s0, RSP, off);
    return emit_access(t, it, 8, write, operand);
}

/* OP reg, [s0 + s1], 64 bits. */
static void emit_via(struct tr *t, unsigned op, unsigned reg) {
    EMIT(&t->e, REX | REX_W | (reg >> 3) * REX_R | (t->s1 >> 3) * REX_X | (t->s0 >> 3) * REX_B, op,
         0x04 | (reg & 7) << 3, (t->s1 & 7) << 3 | (t->s0 & 7));
}

static void emit_push(struct tr *t, const struct item *it) {
    struct cold *cold = emit_stack(t, it, -8, true, BT_PUSH);
    if (it->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_X | (t->s0 >> 3) * REX_B, 0xc7, 0x04,
             (t->s1 & 7) << 3 | (t->s0 & 7));
        emit32(&t->e, (uint32_t)it->op[0].imm.value.u);
    } else {
        emit_via(t, OP_STORE, it->insn->dst / 8);
    }
    emit_lea(&t->e, RSP, RSP, -8);
    cold->back = emit_rx(&t->e);
}

/* s1 into the slot that [s0 + s1] was; the stack pointer follows. */
static void emit_slot(struct tr *t, uint32_t value) {
    emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
    emit_gs(&t->e, OP_LOAD, t->s1, value);
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_R | (t->s0 >> 3) * REX_B, OP_STORE,
         (t->s1 & 7) << 3 | (t->s0 & 7));
    emit_lea(&t->e, RSP, RSP, -8);
}

static void emit_push_from(struct tr *t, const struct item *it) {
    emit_address(t, it, memory_operand(it));
    struct cold *load = emit_access(t, it, 8, false, BT_MEMORY);
    emit_via(t, OP_LOAD, t->s0);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(pushed));
    struct cold *store = emit_stack(t, it, -8, true, BT_PUSH);
    emit_slot(t, BT_OFF(pushed));
    load->back = store->back = emit_rx(&t->e);
}

static void emit_leave(struct tr *t, const struct item *it) {
    emit_lea(&t->e, t->s0, RBP, 0);
    struct cold *cold = emit_access(t, it, 8, false, BT_FRAME);
    emit_via(t, OP_LOAD, t->s0);
    emit_lea(&t->e, RSP, RBP, 8);
    emit_mov(&t->e, RBP, t->s0);
    cold->back = emit_rx(&t->e);
}

static void emit_pop(struct tr *t, const struct item *it) {
    unsigned to = it->insn->dst / 8;
    struct cold *cold = emit_stack(t, it, 0, false, BT_POP);
    emit_via(t, OP_LOAD, to);
    if (to != RSP)
        emit_lea(&t->e, RSP, RSP, 8);
    cold->back = emit_rx(&t->e);
}

/* ---- calling out ---- */

/* All registers hold the guest's values. */
static void emit_call_out(struct tr *t, const struct item *it, enum bt_operand operand,
                          bool leaves) {
    struct bt_site *site = bt_cache_alloc(t->b->cache, sizeof *site);
    if (!site) {
        t->e.full = true;
        return;
    }
    *site = (struct bt_site){
        .insn = it->insn, .offset = it->off, .operand = (uint8_t)operand, .leaves = leaves};
    emit_gs(&t->e, OP_STORE, RSP, BT_GPR(RSP));
    emit_gs(&t->e, OP_LOAD, RSP, BT_OFF(host_rsp));
    EMIT(&t->e, 0x65, 0xff, 0x14, 0x25); /* call gs:[call_out] */
    emit32(&t->e, BT_OFF(call_out));
    emit64(&t->e, (uint64_t)(uintptr_t)site);
}

static void emit_out(struct tr *t, const struct item *it) {
    unspill(t);
    emit_call_out(t, it, it->insn->flags & INSN_MEM ? BT_MEMORY : BT_NONE, false);
    spill(t);
}

/* ---- leaving a block ---- */

/* Stores through gs:[poll]; when that faults, the handler goes to where the NOP behind it says. */
static uint8_t *emit_poll(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(poll));
    /* mov [s1], s1 */
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * (REX_R | REX_B), OP_STORE,
         (t->s1 & 7) << 3 | (t->s1 & 7));
    return emit_marker(t);
}

/* Looks up the linear address in s0 and goes there; the page and all registers set. Misses go to
 * `cold`. */
static void emit_lookup(struct tr *t, struct cold *cold, unsigned slot) {
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(context_key));
    emit_lea_sum(&t->e, t->s1, t->s1, t->s0);
    emit_pext(t, t->s0, BT_OFF(mask_jump));
    emit_gs(&t->e, OP_STORE, RCX, BT_OFF(jump_index));
    emit_table(t, RCX, BT_OFF(jump) + (uint32_t)offsetof(struct bt_jumps, tag));
    emit_lea_sum(&t->e, RCX, RCX, t->s1);
    cold->from[slot] = jump_unless_zero(t);
}

static void emit_go(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, RCX, BT_OFF(jump_index));
    emit_table(t, t->s0, BT_OFF(jump) + (uint32_t)offsetof(struct bt_jumps, page));
    emit_table(t, RCX, BT_OFF(jump) + (uint32_t)offsetof(struct bt_jumps, code));
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(page));
    emit_gs(&t->e, OP_STORE, RCX, BT_OFF(jump_to));
    unspill(t);
    return_rcx(t);
    EMIT(&t->e, 0x65, 0xff, 0x24, 0x25);
    emit32(&t->e, BT_OFF(jump_to));
}

static struct bt_exit *exit_new(struct tr *t, int64_t target) {
    struct bt_exit *exit = bt_cache_alloc(t->b->cache, sizeof *exit);
    if (exit)
        *exit = (struct bt_exit){.block = t->block, .target = (int32_t)target};
    else
        t->e.full = true;
    return exit;
}

/* To a fixed place relative to the page. */
static void emit_exit(struct tr *t, const struct item *it, int64_t target, bool poll) {
    struct bt_exit *exit = exit_new(t, target);
    if (!exit)
        return;
    struct cold *cold = cold_new(t, it);
    cold->exit = exit;
    if (poll)
        cold->poll = emit_poll(t);
    if (target >= 0 && target < (int64_t)PAGE_SIZE) {
        unspill(t);
        cold->scratched = false;
        /* The displacement is replaced while other vCPUs execute it: in one aligned store. */
        while ((uintptr_t)(t->e.p + 1) & 3)
            emit8(&t->e, 0x90);
        cold->from[0] = emit_jmp(&t->e, 0);
        exit->jump = cold->from[0];
        return;
    }
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
    emit_lea(&t->e, t->s0, t->s0, (int32_t)target);
    lend_rcx(t);
    emit_lookup(t, cold, 0);
    cold->rcx_lent = !t->rcx_free;
    emit_go(t);
}

static bool backward(const struct item *it) {
    return branch_target(it) <= it->off;
}

static void emit_jcc_item(struct tr *t, const struct item *it) {
    uint8_t *taken = emit_jcc(&t->e, it->zi.opcode & 15, 0);
    emit_exit(t, it, it->off + it->insn->len, false);
    emit_land(&t->e, taken);
    emit_exit(t, it, branch_target(it), true);
}

/* Return address into the slot that [s0 + s1] is; s1 and s0 are free afterwards. */
static void emit_return_address(struct tr *t, const struct item *it) {
    emit_lea_sum(&t->e, t->s0, t->s0, t->s1);
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(page));
    emit_lea(&t->e, t->s1, t->s1, (int32_t)(it->off + it->insn->len));
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_R | (t->s0 >> 3) * REX_B, OP_STORE,
         (t->s1 & 7) << 3 | (t->s0 & 7));
    emit_lea(&t->e, RSP, RSP, -8);
}

static void emit_call(struct tr *t, const struct item *it) {
    struct cold *cold = emit_stack(t, it, -8, true, BT_PUSH);
    emit_return_address(t, it);
    emit_exit(t, it, branch_target(it), true);
    (void)cold; /* does not come back: the reference engine makes the whole call */
}

/* A target known only now: nothing is committed before the look-up has hit. */
static void emit_ret(struct tr *t, const struct item *it) {
    struct cold *cold = emit_stack(t, it, 0, false, BT_POP);
    emit_via(t, OP_LOAD, t->s0);
    struct cold *miss = cold_new(t, it);
    miss->operand = BT_POP;
    miss->poll = emit_poll(t);
    lend_rcx(t);
    emit_lookup(t, miss, 0);
    miss->rcx_lent = !t->rcx_free;
    int32_t pops = 8 + (int32_t)it->insn->imm;
    emit_lea(&t->e, RSP, RSP, pops);
    emit_go(t);
    (void)cold;
}

/* s0 = the target of an indirect branch. */
static void emit_target(struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *m = memory_operand(it);
    if (!m) {
        emit_mov(&t->e, t->s0, it->insn->dst / 8);
        return;
    }
    emit_address(t, it, m);
    emit_access(t, it, 8, false, BT_MEMORY);
    emit_via(t, OP_LOAD, t->s0);
}

static void emit_jmp_to(struct tr *t, const struct item *it) {
    emit_target(t, it);
    struct cold *miss = cold_new(t, it);
    miss->poll = emit_poll(t);
    lend_rcx(t);
    emit_lookup(t, miss, 0);
    miss->rcx_lent = !t->rcx_free;
    emit_go(t);
}

/* The target is looked up and the stack probed before anything changes. */
static void emit_call_to(struct tr *t, const struct item *it) {
    emit_target(t, it);
    struct cold *miss = cold_new(t, it);
    miss->poll = emit_poll(t);
    lend_rcx(t);
    emit_lookup(t, miss, 0);
    miss->rcx_lent = !t->rcx_free;
    return_rcx(t);
    emit_stack(t, it, -8, true, BT_PUSH);
    emit_return_address(t, it);
    lend_rcx(t);
    emit_go(t);
}

/* ---- behind the block ---- */

static void emit_leave_stub(struct tr *t, const struct bt_exit *exit) {
    emit_gs(&t->e, OP_STORE, RAX, BT_OFF(save_rax));
    EMIT(&t->e, 0x48, 0xb8); /* mov rax, imm64 */
    emit64(&t->e, (uint64_t)(uintptr_t)exit);
    EMIT(&t->e, 0x65, 0xff, 0x24, 0x25);
    emit32(&t->e, BT_OFF(leave));
}

static void emit_cold(struct tr *t, const struct cold *cold) {
    /* A poll's way in finds the scratch registers in use, but not RCX; it comes first and falls
     * through. */
    if (cold->poll && !cold->scratched) {
        emit_land(&t->e, cold->poll);
        unspill(t);
    } else if (cold->poll && cold->rcx_lent) {
        emit_land(&t->e, cold->poll);
        lend_rcx(t);
    } else if (cold->poll) {
        emit_land(&t->e, cold->poll);
    }
    for (unsigned n = 0; n < 2; n++)
        if (cold->from[n])
            emit_land(&t->e, cold->from[n]);
    if (cold->scratched) {
        unspill(t);
        if (cold->rcx_lent)
            return_rcx(t);
    }
    if (cold->exit) {
        emit_leave_stub(t, cold->exit);
        return;
    }
    emit_call_out(t, cold->item, cold->operand, cold->back == 0);
    if (cold->back) {
        spill(t);
        emit_jmp(&t->e, cold->back);
    }
}

/* An exit to the block's own start, for when it is dead. */
static void emit_dead(struct tr *t) {
    struct bt_exit *exit = exit_new(t, t->item[0].off);
    t->block->dead = emit_rx(&t->e);
    if (exit)
        emit_leave_stub(t, exit);
}

/* Leaves before an instruction, to come back with the vector registers loaded. */
static void emit_want_vector(struct tr *t, const struct item *it) {
    struct bt_exit *exit = exit_new(t, it->off);
    if (!exit)
        return;
    exit->vector = true;
    unspill(t);
    emit_leave_stub(t, exit);
}

static void emit_item(struct tr *t, const struct item *it) {
    switch (it->kind) {
    case OUT:
        emit_out(t, it);
        break;
    case LAST:
        unspill(t);
        emit_call_out(t, it, BT_NONE, true);
        break;
    case SKIP:
        break;
    case VECTOR:
        emit_want_vector(t, it);
        break;
    case ROTATE:
        emit_rotate(t, it);
        break;
    case COPY:
        emit_copy(t, it);
        break;
    case MEM:
        emit_mem(t, it);
        break;
    case LEA:
        emit_lea_item(t, it);
        break;
    case PUSH:
        emit_push(t, it);
        break;
    case PUSH_FROM:
        emit_push_from(t, it);
        break;
    case POP:
        emit_pop(t, it);
        break;
    case LEAVE:
        emit_leave(t, it);
        break;
    case JMP:
        emit_exit(t, it, branch_target(it), backward(it));
        break;
    case JCC:
        emit_jcc_item(t, it);
        break;
    case CALL:
        emit_call(t, it);
        break;
    case JMP_TO:
        emit_jmp_to(t, it);
        break;
    case CALL_TO:
        emit_call_to(t, it);
        break;
    case RET:
        emit_ret(t, it);
        break;
    }
}

static void emit_block(struct tr *t) {
    t->block->entry = t->e.p;
    t->block->code = emit_rx(&t->e);
    EMIT(&t->e, 0x0f, 0x1f, 0x44, 0x00, 0x00); /* 5-byte NOP */
    spill(t);
    for (unsigned n = 0; n < t->count; n++)
        emit_item(t, &t->item[n]);
    const struct item *last = &t->item[t->count - 1];
    if (last->kind != LAST && last->kind != VECTOR && last->kind < JMP)
        emit_exit(t, last, last->off + last->insn->len, false);
    for (unsigned n = 0; n < t->colds; n++)
        emit_cold(t, &t->cold[n]);
    emit_dead(t);
}

bool bt_translate(struct bt_cpu *b, struct bt_block *block, const uint8_t *host) {
    static _Thread_local struct tr t;
    t.b = b;
    t.block = block;
    t.count = t.colds = 0;
    t.tlb_kind = block->key & 3;
    t.vector = block->key & BT_KEY_VECTOR;
    t.e = bt_cache_emit(b->cache);
    if (!collect(&t, host))
        return false;
    if (t.count == 0)
        return true; /* the first instruction crosses into the next page */
    emit_block(&t);
    if (t.e.full)
        return false;
    bt_cache_emitted(b->cache, &t.e);
    return true;
}

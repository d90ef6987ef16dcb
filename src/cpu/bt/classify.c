/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of a guest instruction: copied as it is, given another address, replaced by a
 * template, or left to the reference engine.
 */
#include "cpu/bt/translate.h"

/* ---- what is copied ---- */

static bool copies(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOVBE:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADOX:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_ANDN:
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
    case ZYDIS_MNEMONIC_SHLX:
    case ZYDIS_MNEMONIC_SHRX:
    case ZYDIS_MNEMONIC_SARX:
    case ZYDIS_MNEMONIC_RORX:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_MULX:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_BEXTR:
    case ZYDIS_MNEMONIC_BZHI:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_PEXT:
    case ZYDIS_MNEMONIC_PDEP:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
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

bool item_divides(const struct item *it) {
    return it->zi.mnemonic == ZYDIS_MNEMONIC_DIV || it->zi.mnemonic == ZYDIS_MNEMONIC_IDIV;
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

bool is_high_byte(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_AH &&
           op->reg.value <= ZYDIS_REGISTER_BH;
}

static bool is_plain_register(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_AL &&
           op->reg.value <= ZYDIS_REGISTER_R15;
}

static bool gpr_operands(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (it->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && !is_plain_register(&it->op[n]))
            return false;
    return true;
}

const ZydisDecodedOperand *item_memory(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (it->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &it->op[n];
    return NULL;
}

/* MOV between the accumulator and a constant address, which has no ModRM byte. */
static bool is_moffs(const struct item *it) {
    return it->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && it->zi.opcode >= 0xa0 &&
           it->zi.opcode <= 0xa3;
}

/* In 32-bit code, what no segment's limit can stop: CS is not for writing. */
static bool segment_ok(const struct tr *t, const struct item *it) {
    return t->bits == 64 || it->insn->seg != SEG_CS;
}

/* The byte forms of AH..BH exclude REX, which scratch registers may need; other sizes of address
 * are rare; both go out. */
static bool memory_simple(const struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *m = item_memory(it);
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (is_high_byte(&it->op[n]))
            return false;
    bool encoded = it->zi.raw.modrm.offset || (is_moffs(it) && t->bits == 32);
    return it->zi.address_width == t->bits && encoded && m->size <= 256 && segment_ok(t, it);
}

/* With an offset that reaches beyond the operand. */
static bool is_bit_string(const struct tr *t, const struct item *it) {
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return t->bits == 64 && it->zi.operand_width == 64 &&
               it->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && memory_simple(t, it);
    default:
        return false;
    }
}

static bool same_shape(const struct tr *t, const struct item *it) {
    ZydisMnemonic m = it->zi.mnemonic;
    return (copies(m) || is_bit_test(it) || copies_counted(t, m) || item_divides(it) ||
            it->zi.meta.category == ZYDIS_CATEGORY_CMOV ||
            it->zi.meta.category == ZYDIS_CATEGORY_SETCC) &&
           gpr_operands(it);
}

/* ---- 32-bit code, whose encodings are not all those of 64-bit code ---- */

static bool is_short_inc(const struct item *it) {
    return it->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && it->zi.opcode >= 0x40 &&
           it->zi.opcode <= 0x4f;
}

/* A register number in an immediate's upper half. */
static bool has_is4_from_8(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count_visible; n++)
        if (it->op[n].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return it->bytes[it->insn->len - 1] & 0x80;
    return false;
}

/* Registers from 8 on (R, X, B and the highest bit of vvvv are inverted), and integers of 64 bits
 * where W means them: what only the host would see. */
static bool vex_differs(const struct item *it) {
    const uint8_t *vex = it->bytes + it->zi.raw.vex.offset;
    bool two = it->zi.raw.vex.size == 2;
    uint8_t last = two ? vex[1] : vex[2];
    bool of_elements =
        it->zi.meta.isa_ext == ZYDIS_ISA_EXT_FMA || it->zi.meta.isa_ext == ZYDIS_ISA_EXT_AVX2;
    bool wide = !two && last & 0x80 && !of_elements;
    return (!two && (vex[1] & 0xe0) != 0xe0) || !(last & 0x40) || wide || has_is4_from_8(it);
}

static bool encoded_otherwise(const struct item *it) {
    if (it->zi.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || it->zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL)
        return true; /* of eight registers only */
    if (it->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return vex_differs(it);
    return it->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && it->zi.opcode == 0x82;
}

static bool is_segment_register(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_ES &&
           op->reg.value <= ZYDIS_REGISTER_GS;
}

/* Afterwards the segments may be no longer what the code was translated for. */
static bool loads_segment(const struct item *it) {
    for (unsigned n = 0; n < it->zi.operand_count; n++)
        if (is_segment_register(&it->op[n]) && it->op[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            return true;
    return false;
}

/* ---- vector instructions ---- */

static bool gpr_index(ZydisRegister r) {
    return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15;
}

static bool is_vector_register(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_XMM0 &&
           op->reg.value <= ZYDIS_REGISTER_YMM31;
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

/* ---- the stack, branches ---- */

static bool push_pop_simple(const struct tr *t, const struct item *it) {
    const ZydisDecodedOperand *op = &it->op[0];
    bool imm = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && it->zi.mnemonic == ZYDIS_MNEMONIC_PUSH;
    return it->zi.operand_width == t->bits && (is_plain_register(op) || imm);
}

static enum bt_kind classify_push(const struct tr *t, const struct item *it) {
    if (item_memory(it))
        return it->zi.operand_width == t->bits && memory_simple(t, it) ? PUSH_FROM : OUT;
    return push_pop_simple(t, it) ? PUSH : OUT;
}

int64_t branch_target(const struct item *it) {
    return (int64_t)it->off + it->insn->len + (int64_t)it->insn->imm;
}

bool branches_back(const struct item *it) {
    return branch_target(it) <= it->off;
}

bool item_jumps(const struct item *it) {
    return it->kind == JCC || it->kind == JMP || it->kind == COUNT;
}

static enum bt_kind classify_branch(const struct tr *t, const struct item *it) {
    bool direct = it->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (it->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || it->zi.operand_width != t->bits ||
        (item_memory(it) && !memory_simple(t, it)))
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
        return it->zi.address_width == t->bits ? COUNT : LAST;
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
    return it->zi.meta.category == ZYDIS_CATEGORY_PREFETCH || it->zi.mnemonic == ZYDIS_MNEMONIC_NOP;
}

static enum bt_kind classify_plain(const struct tr *t, const struct item *it) {
    enum bt_kind fpu = fpu_classify(t, it);
    if (fpu != OUT && (!item_memory(it) || memory_simple(t, it)))
        return fpu;
    if (is_vector(it) && (!item_memory(it) || memory_simple(t, it)))
        return !t->vector ? VECTOR : item_memory(it) ? MEM : COPY;
    if (is_rotate(it) && gpr_operands(it))
        return ROTATE;
    if (!same_shape(t, it))
        return is_bit_string(t, it) ? BIT_STRING : bt_classify_system(t, it);
    if (item_memory(it))
        return memory_simple(t, it) ? MEM : OUT;
    if (t->bits == 32 && is_short_inc(it))
        return RECODED;
    return item_divides(it) ? COPY_MARKED : COPY;
}

enum bt_kind bt_classify(const struct tr *t, const struct item *it) {
    if (it->insn->mnemonic == 0)
        return LAST;
    if (is_transfer(it))
        return classify_branch(t, it);
    if (is_hint(it))
        return SKIP;
    if (t->bits == 32 && loads_segment(it))
        return LAST;
    if (t->bits == 32 && encoded_otherwise(it))
        return OUT;
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return classify_push(t, it);
    case ZYDIS_MNEMONIC_POP:
        return push_pop_simple(t, it) ? POP : OUT;
    case ZYDIS_MNEMONIC_LEAVE:
        return it->zi.operand_width == t->bits ? LEAVE : OUT;
    case ZYDIS_MNEMONIC_LEA:
        return it->zi.address_width == t->bits && it->zi.operand_width >= 32 ? LEA : OUT;
    default:
        return classify_plain(t, it);
    }
}

/* ---- registers ---- */

static uint32_t gpr_bit(ZydisRegister r) {
    if (r < ZYDIS_REGISTER_AL || r > ZYDIS_REGISTER_R15)
        return 0;
    if (r <= ZYDIS_REGISTER_BH) /* AL CL DL BL AH CH DH BH, SPL BPL SIL DIL, R8B..R15B */
        return 1u << ((r - ZYDIS_REGISTER_AL) & 3);
    if (r <= ZYDIS_REGISTER_R15B)
        return 1u << (4 + r - ZYDIS_REGISTER_SPL);
    return 1u << ZydisRegisterGetId(r);
}

uint32_t operand_gpr(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_bit(op->reg.value) : 0;
}

static bool finds_guest_registers(enum bt_kind k) {
    return k == OUT || k == LAST || k == SKIP || k == VECTOR || k == FENCE;
}

void item_registers(struct item *it) {
    it->uses = it->kills = 0;
    for (unsigned n = 0; n < it->zi.operand_count; n++) {
        const ZydisDecodedOperand *op = &it->op[n];
        uint32_t bits = operand_gpr(op);
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            it->uses |= gpr_bit(op->mem.base) | gpr_bit(op->mem.index);
        it->uses |= bits;
        if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            it->kills |= bits;
    }
    if (finds_guest_registers(it->kind))
        it->uses = 0;
    if (it->kind == OUT)
        it->kills = 0xffff;
}

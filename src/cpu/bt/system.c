/* SPDX-License-Identifier: Apache-2.0 */
/* Templates of system instructions that kernels execute all the time. */
#include "cpu/bt/translate.h"

/* ---- which ---- */

static bool supervisor(const struct tr *t) {
    return t->tlb_kind != TLB_USER;
}

/* From a control or segment register to a general one. */
static enum bt_kind classify_move(const struct tr *t, const struct item *it) {
    ZydisRegister from = it->op[1].reg.value;
    if (it->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
        it->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
        return OUT;
    if (from >= ZYDIS_REGISTER_CR0 && from <= ZYDIS_REGISTER_CR4)
        return t->bits == 64 && supervisor(t) ? READ_CR : OUT;
    bool segment = from >= ZYDIS_REGISTER_ES && from <= ZYDIS_REGISTER_GS;
    return segment && it->zi.operand_width >= 32 ? READ_SEGMENT : OUT;
}

enum bt_kind bt_classify_system(const struct tr *t, const struct item *it) {
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        return supervisor(t) ? CLEAR_IF : OUT;
    case ZYDIS_MNEMONIC_STI:
        return supervisor(t) ? SET_IF : OUT;
    case ZYDIS_MNEMONIC_CLD:
        return CLEAR_DF;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        return supervisor(t) ? CHANGE_AC : LAST;
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_PUSHFD:
        return it->zi.operand_width == t->bits ? PUSH_FLAGS : OUT;
    case ZYDIS_MNEMONIC_PAUSE:
        return SPIN;
    case ZYDIS_MNEMONIC_SERIALIZE:
        return FENCE;
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
        return bt_tsc_in_place(t->b) ? READ_TSC : OUT;
    case ZYDIS_MNEMONIC_SWAPGS:
        return supervisor(t) ? SWAP_GS : OUT;
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
        return READ_BASE;
    case ZYDIS_MNEMONIC_MOV:
        return classify_move(t, it);
    case ZYDIS_MNEMONIC_CPUID: /* serializes, and is slow on a real machine too */
        return LAST;
    default:
        return OUT;
    }
}

/* ---- flags ---- */

/* reg = RFLAGS but the arithmetic flags, without those that a mask excludes. */
static void emit_flags_masked(struct tr *t, unsigned reg, uint32_t mask) {
    emit_gs(&t->e, OP_LOAD, reg, BT_OFF(c.s.rflags));
    emit_pext(t, reg, reg, mask);
    emit_pdep(t, reg, reg, mask);
}

static void emit_flag_clear(struct tr *t, uint32_t mask) {
    emit_flags_masked(t, t->s0, mask);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(c.s.rflags));
}

static void emit_load32(struct tr *t, unsigned reg, uint32_t disp) { /* mov reg32, gs:[disp] */
    EMIT(&t->e, 0x65, REX | (reg >> 3) * REX_R, OP_LOAD, 0x04 | (reg & 7) << 3, 0x25);
    emit32(&t->e, disp);
}

/* With an event waiting, the reference engine takes it. */
static void emit_sti(struct tr *t, const struct item *it) {
    struct cold *cold = cold_new(t, it);
    lend_for_jump(t, cold);
    emit_load32(t, RCX, BT_OFF(c.v.events));
    cold->from = jump_unless_zero(t);
    return_rcx(t);
    emit_flags_masked(t, t->s0, BT_OFF(mask_not_if));
    emit_lea(&t->e, t->s0, t->s0, FLAG_IF);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(c.s.rflags));
    cold->back = emit_rx(&t->e);
}

/* One in some goes out, to let others run. */
static void emit_pause(struct tr *t, const struct item *it) {
    struct cold *cold = cold_new(t, it);
    lend_for_jump(t, cold);
    emit_gs(&t->e, OP_LOAD, RCX, BT_OFF(spins));
    emit_lea(&t->e, RCX, RCX, 1);
    emit_gs(&t->e, OP_STORE, RCX, BT_OFF(spins));
    emit_pext(t, RCX, RCX, BT_OFF(mask_spins));
    EMIT(&t->e, 0xe3, 2, 0xeb, 5); /* jrcxz: over the short jump, which is over the next one */
    cold->from = emit_jmp(&t->e, 0);
    return_rcx(t);
    EMIT(&t->e, 0xf3, 0x90);
    cold->back = emit_rx(&t->e);
}

static void emit_swap_halves(struct tr *t, unsigned from) { /* rorx rdx, from, 32 */
    EMIT(&t->e, 0xc4, 0xe3, 0xfb, 0xf0, 0xd0 | from, 32);
}

/* Out when a word of the vCPU is not zero. */
static struct cold *emit_unless_set(struct tr *t, const struct item *it, uint32_t word) {
    struct cold *cold = cold_new(t, it);
    emit_jump_if_set(t, cold, word);
    return cold;
}

static void emit_rdtsc(struct tr *t, const struct item *it) {
    struct cold *cold = supervisor(t) ? NULL : emit_unless_set(t, it, BT_OFF(no_user_tsc));
    bool aux = it->zi.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
    if (aux)
        EMIT(&t->e, 0x0f, 0x01, 0xf9);
    else
        EMIT(&t->e, 0x0f, 0x31);
    emit_swap_halves(t, RDX);
    emit_lea_sum(&t->e, RAX, RAX, RDX);
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(tsc_add));
    emit_lea_sum(&t->e, RAX, RAX, t->s0);
    emit_swap_halves(t, RAX);
    EMIT(&t->e, 0x89, 0xd2, 0x89, 0xc0); /* mov edx, edx; mov eax, eax */
    if (aux)
        emit_load32(t, RCX, BT_OFF(c.s.msr.tsc_aux));
    if (cold)
        cold->back = emit_rx(&t->e);
}

/* ---- registers of the system ---- */

static void emit_swapgs(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(c.s.seg[SEG_GS].base));
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(c.s.msr.kernel_gs_base));
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(c.s.msr.kernel_gs_base));
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(c.s.seg[SEG_GS].base));
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(c.base64[SEG_GS]));
}

static void emit_read_cr(struct tr *t, const struct item *it) {
    static const uint32_t at[] = {BT_OFF(c.s.cr0), 0, BT_OFF(c.s.cr2), BT_OFF(c.s.cr3),
                                  BT_OFF(c.s.cr4)};
    emit_gs(&t->e, OP_LOAD, it->insn->dst / 8, at[it->insn->aux]);
}

static uint32_t segment_off(unsigned seg) {
    return BT_OFF(c.s.seg) + seg * (uint32_t)sizeof(struct x86_seg);
}

static void emit_read_segment(struct tr *t, const struct item *it) { /* movzx reg32, gs:[sel] */
    unsigned to = it->insn->dst / 8;
    EMIT(&t->e, 0x65, REX | (to >> 3) * REX_R, 0x0f, 0xb7, 0x04 | (to & 7) << 3, 0x25);
    emit32(&t->e, segment_off(it->insn->aux) + (uint32_t)offsetof(struct x86_seg, sel));
}

static void emit_read_base(struct tr *t, const struct item *it) {
    struct cold *cold = emit_unless_set(t, it, BT_OFF(no_fsgsbase));
    uint32_t at = segment_off(it->insn->aux) + (uint32_t)offsetof(struct x86_seg, base);
    if (it->insn->osize == 8)
        emit_gs(&t->e, OP_LOAD, it->insn->dst / 8, at);
    else
        emit_load32(t, it->insn->dst / 8, at);
    cold->back = emit_rx(&t->e);
}

/* What follows goes through another TLB: it is other code. Without SMAP nothing is found. */
static void emit_change_ac(struct tr *t, const struct item *it) {
    bool set = it->zi.mnemonic == ZYDIS_MNEMONIC_STAC;
    unsigned kind = set ? TLB_SUPER_AC : TLB_SUPER;
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
    emit_lea(&t->e, t->s0, t->s0, (int32_t)(it->off + it->insn->len));
    emit_find(t, cold_new(t, it), (t->block->key & BT_KEY_MODE & ~BT_KEY_TLB) | kind);
    emit_flags_masked(t, t->s1, BT_OFF(mask_not_ac));
    if (set)
        emit_lea(&t->e, t->s1, t->s1, FLAG_AC);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(c.s.rflags));
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(tlb_of) + 8u * kind);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(c.tlb));
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(seen_tlb));
    emit_go(t);
}

void emit_system_item(struct tr *t, const struct item *it) {
    switch (it->kind) {
    case CLEAR_IF:
        emit_flag_clear(t, BT_OFF(mask_not_if));
        break;
    case CLEAR_DF:
        emit_flag_clear(t, BT_OFF(mask_not_df));
        break;
    case SET_IF:
        emit_sti(t, it);
        break;
    case SPIN:
        emit_pause(t, it);
        break;
    case SWAP_GS:
        emit_swapgs(t);
        break;
    case READ_CR:
        emit_read_cr(t, it);
        break;
    case READ_SEGMENT:
        emit_read_segment(t, it);
        break;
    case READ_BASE:
        emit_read_base(t, it);
        break;
    case CHANGE_AC:
        emit_change_ac(t, it);
        break;
    default:
        emit_rdtsc(t, it);
        break;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls out that the reference engine need not answer. SYSCALL and 64-bit SYSRET without leaving
 * translated code: what x86/syscall.c and cpu_update_mode() do, of which little changes between
 * flat 64-bit segments, and the jump table of the other privilege. And which instruction asks what.
 */
#include "cpu/bt/strings.h"
#include "cpu/bt/translate.h"
#include "cpu/x86/seg.h"

#define ATTR_CODE (SEG_G | SEG_L | SEG_P | SEG_S | 0xb)
#define ATTR_DATA (SEG_G | SEG_DB | SEG_P | SEG_S | 0x3)
#define SYSRET_FLAGS 0x3c7fd7u

/* Goes to the code at `rip`, for a mode, when the jump table has it. */
static bool find(struct bt_cpu *b, uint64_t rip, unsigned mode) {
    uint64_t code = bt_jump_known(b, rip, mode);
    if (!code)
        return false;
    b->jump_to = code;
    b->page = rip & ~PAGE_MASK;
    return true;
}

/* To 64-bit code without AC. */
static void enter_privilege(struct bt_cpu *b, unsigned cpl, uint16_t cs, uint16_t ss) {
    struct x86_cpu *c = &b->c;
    c->s.seg[SEG_CS] =
        (struct x86_seg){.limit = UINT32_MAX, .attr = ATTR_CODE | cpl << 5, .sel = cs};
    c->s.seg[SEG_SS] =
        (struct x86_seg){.limit = UINT32_MAX, .attr = ATTR_DATA | cpl << 5, .sel = ss};
    c->cpl = (uint8_t)cpl;
    c->flat |= 1u << SEG_SS;
    c->tlb = c->tlb_fetch = c->tlbs[cpl == 3 ? TLB_USER : TLB_SUPER];
    b->seen_tlb = c->tlb;
    c->context = b->seen_context = (c->context & ~1ull) | (cpl == 3);
}

static bool cross_syscall(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    const struct x86_msrs *m = &c->s.msr;
    uint64_t next = b->page + s->offset + s->insn->len, flags = cpu_flags(c);
    uint16_t cs = (m->star >> 32) & 0xfffc;
    if (!(c->s.efer & EFER_SCE) || flags & (FLAG_AC | FLAG_RF) || c->context != b->seen_context ||
        !find(b, m->lstar, TLB_SUPER))
        return false;
    c->s.gpr[RCX] = next;
    c->s.gpr[R11] = flags;
    cpu_set_flags(c, flags & ~m->sfmask);
    enter_privilege(b, 0, cs, (uint16_t)(cs + 8));
    b->vector = false;
    return true;
}

/* Not with events waiting, nor to code that traps or checks alignment. */
static bool cross_sysret(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    uint64_t rip = c->s.gpr[RCX], flags = c->s.gpr[R11] & SYSRET_FLAGS;
    uint16_t base = (uint16_t)(c->s.msr.star >> 48);
    bool vector = b->user_vector && bt_vector_usable(c);
    (void)s;
    if (!(c->s.efer & EFER_SCE) || flags & (FLAG_TF | FLAG_AC) || !seg_canonical(c, rip) ||
        atomic_load_explicit(&c->v.events, memory_order_relaxed) || c->context != b->seen_context ||
        !find(b, rip, TLB_USER | (vector ? BT_KEY_VECTOR : 0)))
        return false;
    cpu_set_flags(c, flags);
    enter_privilege(b, 3, (base + 16) | 3, (base + 8) | 3);
    b->vector = vector;
    return true;
}

static bool cross_wrbase(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    const struct x86_insn *i = s->insn;
    uint64_t base = i->osize == 8 ? reg64(c, i->dst) : reg32(c, i->dst);
    if (!(c->s.cr4 & CR4_FSGSBASE) || !seg_canonical(c, base))
        return false;
    c->s.seg[i->aux].base = c->base64[i->aux] = base;
    return true;
}

/* ---- which ---- */

/* Whether a quick function finds a register in the vCPU. */
static bool is_stored(unsigned reg) {
    return reg != RBX && reg != RBP && (reg < R12 || reg > R15);
}

static bt_quick_fn *quick_string(const struct item *it) {
    if (it->zi.meta.category != ZYDIS_CATEGORY_STRINGOP || it->zi.address_width != 64)
        return NULL;
    switch (it->insn->mnemonic) {
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
        return strings_stos;
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
        return strings_movs;
    default:
        return NULL;
    }
}

bt_quick_fn *bt_quick(const struct tr *t, const struct item *it) {
    if (t->bits != 64 || it->insn->mnemonic == 0)
        return NULL;
    if (it->insn->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
        return t->tlb_kind == TLB_USER ? cross_syscall : NULL;
    if (it->insn->mnemonic == ZYDIS_MNEMONIC_SYSRET)
        return t->tlb_kind == TLB_SUPER && it->insn->osize == 8 ? cross_sysret : NULL;
    if (it->insn->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ||
        it->insn->mnemonic == ZYDIS_MNEMONIC_WRGSBASE)
        return is_stored(it->insn->dst / 8) ? cross_wrbase : NULL;
    return quick_string(it);
}

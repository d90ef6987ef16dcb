/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 and MMX instructions in place. The host's x87 registers hold the guest's state from the first
 * region that uses it until somebody wants it in memory; what C code runs meanwhile leaves them
 * alone. A region with such instructions begins by asking whether they are there.
 *
 * Only while every x87 exception is masked and none is pending, so that nothing can be raised. Then
 * FOP and FDP stay as they are (x87.c; without FDP_EXCPTN_ONLY what has a memory operand is left
 * to the reference engine), and FIP, which for the host's x87 lies in translated code, is kept
 * beside.
 */
#include "cpu/bt/fpu.h"

#include "cpu/bt/translate.h"
#include "cpu/x86/x87.h"

#define NOWHERE UINT32_MAX

/* ---- the state, in the host and in memory ---- */

/* The beginning of an XSAVE area (SDM 1 table 10-2). */
struct image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
};

_Static_assert(sizeof(struct image) == 160, "up to XMM0");
_Static_assert(sizeof(struct x86_seg) == 24, "a selector may be loaded with what lies behind it");

enum { XSTATE_X87 = 1, XSTATE_BV = 512 };

static struct image *image_of(struct bt_cpu *b) {
    return (struct image *)(void *)b->x87_area;
}

static bool is_enabled(const struct x86_cpu *c) {
    return !(c->s.cr0 & (CR0_EM | CR0_TS));
}

static bool is_usable(const struct x86_cpu *c) {
    const struct x86_fpu *f = &c->s.fpu;
    return is_enabled(c) && (f->fcw & FSW_EXCEPTIONS) == FSW_EXCEPTIONS &&
           !(f->fsw & (FSW_ES | FSW_B)) && f->fcw == x87_valid_fcw(f->fcw);
}

bool bt_x87_load(struct bt_cpu *b) {
    const struct x86_fpu *f = &b->c.s.fpu;
    struct image *image = image_of(b);
    if (!b->x87_away)
        return true;
    if (!is_usable(&b->c))
        return false;
    *image = (struct image){.fcw = f->fcw, .fsw = f->fsw, .ftw = f->ftw};
    for (unsigned n = 0; n < 8; n++)
        memcpy(image->st[n], f->st[n], 10);
    b->x87_area[XSTATE_BV] = XSTATE_X87;
    __asm__ volatile("xrstor64 %0" : : "m"(b->x87_area), "a"(XSTATE_X87), "d"(0));
    b->x87_off = NOWHERE;
    b->x87_away = 0;
    return true;
}

static void flush(struct bt_cpu *b) {
    struct x86_fpu *f = &b->c.s.fpu;
    const struct image *image = image_of(b);
    __asm__ volatile("xsave64 %0\n\tfninit" : "+m"(b->x87_area) : "a"(XSTATE_X87), "d"(0));
    b->x87_away = 1;
    f->fcw = image->fcw;
    f->fsw = image->fsw;
    f->ftw = image->ftw;
    for (unsigned n = 0; n < 8; n++)
        memcpy(f->st[n], image->st[n], 10);
    if (b->x87_off == NOWHERE)
        return;
    f->fip = cpu_wrap(&b->c, b->x87_page + b->x87_off);
    f->fcs = (uint16_t)b->x87_cs;
}

void bt_x87_flush(struct bt_cpu *b) {
    if (!b->x87_away)
        flush(b);
}

void bt_x87_check(struct bt_cpu *b) {
    if (!b->x87_away && unlikely(!is_enabled(&b->c)))
        flush(b);
}

void bt_x87_init(struct bt_cpu *b) {
    b->x87_away = 1;
    b->mask_fcw = FSW_EXCEPTIONS;
    b->mask_mxcsr = 0xffff0000 | FSW_EXCEPTIONS << 7;
}

/* ---- what instructions are ---- */

static bool is_control(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FWAIT:
        return true;
    default:
        return false;
    }
}

static bool has_class(const struct item *it, ZydisRegisterClass class) {
    for (unsigned n = 0; n < it->zi.operand_count; n++)
        if (it->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(it->op[n].reg.value) == class)
            return true;
    return false;
}

static bool has_vector(const struct item *it) {
    return has_class(it, ZYDIS_REGCLASS_XMM) || has_class(it, ZYDIS_REGCLASS_YMM);
}

/* Some that convert from memory obey MXCSR and name no vector register. */
static bool wants_vector(const struct item *it) {
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
        return true;
    default:
        return has_vector(it);
    }
}

static bool is_mmx(const struct item *it) {
    return it->zi.mnemonic == ZYDIS_MNEMONIC_EMMS ||
           (has_class(it, ZYDIS_REGCLASS_MMX) && it->zi.mnemonic != ZYDIS_MNEMONIC_MASKMOVQ);
}

static bool loads_mxcsr(const struct item *it) {
    return it->zi.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || it->zi.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
}

enum bt_kind fpu_classify(const struct tr *t, const struct item *it) {
    if (loads_mxcsr(it))
        return t->vector ? LOAD_CONTROL : VECTOR;
    if (it->zi.mnemonic == ZYDIS_MNEMONIC_FLDCW)
        return LOAD_CONTROL;
    if (is_mmx(it))
        return wants_vector(it) && !t->vector ? VECTOR : X87;
    if (is_control(it->zi.mnemonic))
        return X87;
    bool keeps_fdp = !(it->insn->flags & INSN_MEM) || x86_has(t->b->c.cpuid, FEAT_FDP_EXCPTN_ONLY);
    return x87_notes_pointers(it->insn) && keeps_fdp ? X87 : OUT;
}

static bool is_in_place(const struct item *it) {
    return it->kind == X87 || (it->kind == LOAD_CONTROL && !loads_mxcsr(it));
}

bool fpu_used(const struct tr *t) {
    for (unsigned n = 0; n < t->count; n++)
        if (is_in_place(&t->item[n]))
            return true;
    return false;
}

/* Functions that look at the x87 state, or whose thunk may end by EMMS (an unmasked SIMD
 * exception). */
static bool looks_at_x87(const struct tr *t, const struct item *it) {
    if (it->insn->mnemonic == 0)
        return false;
    switch (it->zi.meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_XSAVE:
    case ZYDIS_ISA_EXT_XSAVEC:
    case ZYDIS_ISA_EXT_XSAVEOPT:
    case ZYDIS_ISA_EXT_XSAVES:
        return true;
    default:
        break;
    }
    switch (it->zi.meta.isa_set) {
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
        return true;
    default:
        return has_class(it, ZYDIS_REGCLASS_X87) || has_class(it, ZYDIS_REGCLASS_MMX) ||
               (has_vector(it) && !t->vector);
    }
}

unsigned fpu_site(const struct tr *t, const struct item *it) {
    return (looks_at_x87(t, it) ? BT_X87_FLUSH : 0u) | (t->x87 ? BT_X87_LOAD : 0u);
}

/* ---- code ---- */

void emit_x87_wanted(struct tr *t) {
    struct bt_exit *exit = exit_new(t, t->item[0].off);
    if (!exit)
        return;
    exit->x87 = true;
    exit->vector = t->vector;
    exit->single = t->single;
    struct cold *cold = cold_new(t, &t->item[0]);
    cold->exit = exit;
    emit_jump_if_set(t, cold, BT_OFF(x87_away));
}

/* One whose own note would be overwritten before anybody could look. */
static bool next_notes_too(const struct tr *t, const struct item *it) {
    const struct item *next = it + 1;
    return next < t->item + t->count && next->kind == X87 && !next->label && !item_memory(next) &&
           x87_notes_pointers(next->insn);
}

/* FIP is the page and an offset; the page and CS are the same from one label to the next. */
static void emit_note(struct tr *t, const struct item *it) {
    if (!t->x87_noted) {
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
        emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(x87_page));
        emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(c.s.seg[SEG_CS].sel));
        emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(x87_cs));
        t->x87_noted = true;
    }
    if (next_notes_too(t, it))
        return;
    EMIT(&t->e, 0x65, 0xc7, 0x04, 0x25); /* mov dword gs:[x87_off], imm32 */
    emit32(&t->e, BT_OFF(x87_off));
    emit32(&t->e, it->off);
}

void emit_x87_item(struct tr *t, const struct item *it) {
    if (item_memory(it))
        emit_memory_item(t, it);
    else
        emit_copy(t, it);
    if (x87_notes_pointers(it->insn))
        emit_note(t, it);
}

/* FLDCW and LDMXCSR of what masks all exceptions and has no reserved bit. Others, elsewhere: the
 * value is looked at where nobody changes it any more. */
void emit_load_control(struct tr *t, const struct item *it) {
    bool mxcsr = loads_mxcsr(it);
    struct cold *miss = emit_load_operand(t, it);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(control));
    lend_rcx(t);
    emit_pext(t, RCX, t->s0, mxcsr ? BT_OFF(mask_mxcsr) : BT_OFF(mask_fcw));
    emit_lea(&t->e, RCX, RCX, -FSW_EXCEPTIONS);
    struct cold *refused = cold_new(t, it);
    refused->operand = BT_MEMORY;
    refused->rcx_lent = !t->rcx_free;
    refused->from = jump_unless_zero(t);
    return_rcx(t);
    EMIT(&t->e, 0x65, mxcsr ? 0x0f : 0xd9, mxcsr ? 0xae : 0x2c); /* of gs:[control] */
    EMIT(&t->e, mxcsr ? 0x14 : 0x25);
    if (mxcsr)
        emit8(&t->e, 0x25);
    emit32(&t->e, BT_OFF(control));
    refused->back = emit_rx(&t->e);
    if (miss)
        miss->back = refused->back;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Templates of system instructions that kernels execute all the time. */
#include "cpu/bt/translate.h"

/* s0 = RFLAGS but the arithmetic flags, with IF cleared. */
static void emit_flags_without_if(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(c.s.rflags));
    emit_pext(t, t->s0, t->s0, BT_OFF(mask_not_if));
    emit_pdep(t, t->s0, t->s0, BT_OFF(mask_not_if));
}

static void emit_cli(struct tr *t) {
    emit_flags_without_if(t);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(c.s.rflags));
}

/* With an event waiting, the reference engine takes it. */
static void emit_sti(struct tr *t, const struct item *it) {
    struct cold *cold = cold_new(t, it);
    lend_rcx(t);
    cold->rcx_lent = !t->rcx_free;
    EMIT(&t->e, 0x65, 0x8b, 0x0c, 0x25); /* mov ecx, gs:[events] */
    emit32(&t->e, BT_OFF(c.v.events));
    cold->from = jump_unless_zero(t);
    return_rcx(t);
    emit_flags_without_if(t);
    emit_lea(&t->e, t->s0, t->s0, FLAG_IF);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(c.s.rflags));
    cold->back = emit_rx(&t->e);
}

/* One in some goes out, to let others run. */
static void emit_pause(struct tr *t, const struct item *it) {
    struct cold *cold = cold_new(t, it);
    lend_rcx(t);
    cold->rcx_lent = !t->rcx_free;
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

static void emit_rdtsc(struct tr *t) {
    EMIT(&t->e, 0x0f, 0x31);
    emit_swap_halves(t, RDX);
    emit_lea_sum(&t->e, RAX, RAX, RDX);
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(tsc_add));
    emit_lea_sum(&t->e, RAX, RAX, t->s0);
    emit_swap_halves(t, RAX);
    EMIT(&t->e, 0x89, 0xd2, 0x89, 0xc0); /* mov edx, edx; mov eax, eax */
}

void emit_system_item(struct tr *t, const struct item *it) {
    if (it->kind == CLEAR_IF)
        emit_cli(t);
    else if (it->kind == SET_IF)
        emit_sti(t, it);
    else if (it->kind == SPIN)
        emit_pause(t, it);
    else
        emit_rdtsc(t);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What others need of the x87 unit. */
#ifndef RINGFENCE_CPU_X86_X87_H
#define RINGFENCE_CPU_X86_X87_H

#include "cpu/x86/cpu.h"

enum {
    FSW_IE = 1u << 0,
    FSW_SF = 1u << 6,
    FSW_ES = 1u << 7,
    FSW_C0 = 1u << 8,
    FSW_C1 = 1u << 9,
    FSW_C2 = 1u << 10,
    FSW_TOP = 7u << 11,
    FSW_C3 = 1u << 14,
    FSW_B = 1u << 15,
    FSW_EXCEPTIONS = 0x3f,
};

/*
 * What a waiting instruction does about an error that is still pending: #MF; or, with CR0.NE = 0,
 * FERR#. True when the interrupt that FERR# causes comes before the instruction: then RIP stays
 * where it is, and the caller returns at once. False: go on, as with IGNNE# asserted (a processor
 * would wait for an interrupt that may never come).
 */
bool x87_wait(struct x86_cpu *c);

/* #NM with CR0.EM or CR0.TS. */
void x87_require(struct x86_cpu *c);
/* Drives FERR# from FSW.ES where CR0.NE = 0. */
void x87_ferr(struct x86_cpu *c);

static inline unsigned x87_top(const struct x86_fpu *f) {
    return f->fsw >> 11 & 7;
}
/* Changes TOP; the physical registers keep their contents. */
void x87_set_top(struct x86_fpu *f, unsigned top);

/* Whether an instruction of this unit sets FIP and its like (control instructions do not). */
bool x87_notes_pointers(const struct x86_insn *i);

/* Control instructions and environments (x87env.c); NULL for the others. */
x86_op_fn *x87_select_control(const struct x86_decode *d, struct x86_insn *i);

/* Makes FSW.ES and B agree with the exception flags and FCW's masks. */
static inline void x87_update_summary(struct x86_fpu *f) {
    if (f->fsw & ~f->fcw & FSW_EXCEPTIONS)
        f->fsw |= FSW_ES | FSW_B;
    else
        f->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
}

/* What loading `v` leaves in FCW: the reserved bits are fixed. */
static inline uint16_t x87_valid_fcw(unsigned v) {
    return (uint16_t)((v & 0x1f3f) | 0x40);
}

#endif

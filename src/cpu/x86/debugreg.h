/* SPDX-License-Identifier: Apache-2.0 */
/* Debug registers: MOV DR, and what the breakpoints in them match. SDM 3B 18.2. */
#ifndef RINGFENCE_CPU_X86_DEBUGREG_H
#define RINGFENCE_CPU_X86_DEBUGREG_H

#include "cpu/x86/cpu.h"

#define DR7_GD (1u << 13)

/*
 * Whether an instruction breakpoint is set on `linear`; RFLAGS.RF hides them. Its B bits are or-ed
 * into *dr6. The fault comes before the instruction.
 */
bool debugreg_exec_hit(struct x86_cpu *c, uint64_t linear, uint64_t *dr6);

/* The B bits of DR6 for an access to [linear, linear + size). The trap comes after the instruction.
 */
uint64_t debugreg_data_hits(const struct x86_cpu *c, uint64_t linear, unsigned size, bool write);
/* Likewise for an access to ports (CR4.DE). */
uint64_t debugreg_io_hits(const struct x86_cpu *c, uint16_t port, unsigned size);

/* Whether DR7 enables any breakpoint at all: the three above find nothing when not. */
static inline bool debugreg_active(const struct x86_cpu *c) {
    return c->s.dr[7] & 0xff;
}

/* MOV to and from DRn; the number is in i->aux. */
x86_op_fn op_mov_to_dr, op_mov_from_dr;

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delivery of exceptions and interrupts (SDM 3A chapter 6). cpu_raise() and its kin (cpu.h) are in
 * exc.c too. A fault during delivery leaves through c->jmp; the loop then calls exc_deliver(),
 * which sees in exc_nested and exc_prev what was being delivered.
 */
#ifndef RINGFENCE_CPU_X86_EXC_H
#define RINGFENCE_CPU_X86_EXC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdnoreturn.h>

struct x86_cpu;

/* DR6 bits. */
enum { DR6_BD = 1u << 13, DR6_BS = 1u << 14, DR6_BT = 1u << 15 };

/* "#PF"; never NULL. */
const char *exc_name(unsigned vector);

/* Delivers c->exc, which was raised at c->s.rip; a double fault or shutdown where the manual says
 * so. */
void exc_deliver(struct x86_cpu *c);

/* Between instructions, c->s.rip final. The caller has looked at RFLAGS.IF, NMI blocking and
 * interrupt shadows. */
void exc_interrupt(struct x86_cpu *c, uint8_t vector);
void exc_nmi(struct x86_cpu *c);
/* Delivers #DB for c->dr6_pending and clears that. */
void exc_debug_trap(struct x86_cpu *c);

/* A fault-class #DB: an instruction breakpoint or DR6_BD. Does not return. */
noreturn void exc_raise_debug(struct x86_cpu *c, uint64_t dr6);

/* From within an instruction; return address is c->next. INT n, INT3, INTO (gate DPL counts), and
 * INT1. */
void exc_soft(struct x86_cpu *c, uint8_t vector);
void exc_int1(struct x86_cpu *c);
/* Virtual-8086 mode: INT n through the interrupt table at linear address 0 (SDM 3B 20.3.3, methods
 * 5 and 6). */
void exc_v86_redirect(struct x86_cpu *c, uint8_t vector);

#endif

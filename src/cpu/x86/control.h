/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control registers and EFER: the checks that loading one makes, what it changes in the processor's
 * mode and what it invalidates. All of these raise #GP(0) before they change anything, and leave
 * the derived mode updated.
 */
#ifndef RINGFENCE_CPU_X86_CONTROL_H
#define RINGFENCE_CPU_X86_CONTROL_H

#include "cpu/x86/cpu.h"

void control_set_cr0(struct x86_cpu *c, uint64_t v);
/* Bit 63 asks for nothing to be invalidated, where CR4.PCIDE allows it. For task switches too. */
void control_set_cr3(struct x86_cpu *c, uint64_t v);
void control_set_cr4(struct x86_cpu *c, uint64_t v);
void control_set_cr8(struct x86_cpu *c, uint64_t v);
uint64_t control_get_cr8(const struct x86_cpu *c);

/* Also without CR4.PKE, as XRSTOR may. */
void control_set_pkru(struct x86_cpu *c, uint32_t v);

/* WRMSR to IA32_EFER: false for #GP. */
bool control_set_efer(struct x86_cpu *c, uint64_t v);

/* #GP(0) when UMIP keeps this privilege from looking. */
void control_check_umip(struct x86_cpu *c);

/* MOV to and from CRn, LMSW, SMSW, CLTS. The number of the control register is in i->aux. */
x86_op_fn op_mov_to_cr, op_mov_from_cr, op_lmsw_r, op_lmsw_m, op_smsw_r, op_smsw_m, op_clts;

/* INVLPG, INVPCID. */
x86_op_fn op_invlpg, op_invpcid;

#endif

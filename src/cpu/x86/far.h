/* SPDX-License-Identifier: Apache-2.0 */
/* What far calls (far.c) and far returns (farret.c) share: checks and loading of a code segment. */
#ifndef RINGFENCE_CPU_X86_FAR_H
#define RINGFENCE_CPU_X86_FAR_H

#include "cpu/x86/frame.h"

/* Long mode is on and the descriptor has L set. */
bool far_is_code64(const struct x86_cpu *c, const struct seg_desc *d);
/* #GP(sel) for L and D both set in long mode. */
void far_check_code_size(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel);
/* #GP(0) when the offset is beyond the limit, or not canonical for 64-bit code. */
void far_check_offset(struct x86_cpu *c, const struct seg_desc *d, uint64_t rip);
/* Loads CS with RPL = cpl and sets c->next. SS, which holds the CPL, is already as it will be. */
void far_enter(struct x86_cpu *c, const struct seg_desc *d, uint16_t sel, unsigned cpl,
               uint64_t rip);

void far_op_ret(struct x86_cpu *c, const struct x86_insn *i);
void far_op_iret(struct x86_cpu *c, const struct x86_insn *i);

#endif

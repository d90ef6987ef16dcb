/* SPDX-License-Identifier: Apache-2.0 */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT. For the two returns i->osize is 8 with REX.W. */
#ifndef RINGFENCE_CPU_X86_SYSCALL_H
#define RINGFENCE_CPU_X86_SYSCALL_H

#include "cpu/x86/insn.h"

x86_op_fn op_syscall, op_sysret, op_sysenter, op_sysexit;

#endif

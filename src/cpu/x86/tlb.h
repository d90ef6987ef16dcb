/* SPDX-License-Identifier: Apache-2.0 */
/* Between mmu.c, which fills the TLB, and tlb.c, which keeps it coherent. */
#ifndef RINGFENCE_CPU_X86_TLB_H
#define RINGFENCE_CPU_X86_TLB_H

#include "cpu/x86/cpu.h"

/* Remembers that 4 KiB entries of a large page around `lin` exist, so that INVLPG finds them. */
void tlb_note_large(struct x86_cpu *c, uint64_t lin, uint64_t page_bytes);

#endif

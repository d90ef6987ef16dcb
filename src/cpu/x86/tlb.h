/* SPDX-License-Identifier: Apache-2.0 */
/* Between mmu.c, which fills the TLB, and tlb.c, which keeps it coherent. */
#ifndef RINGFENCE_CPU_X86_TLB_H
#define RINGFENCE_CPU_X86_TLB_H

#include "cpu/x86/cpu.h"

/* Before anything else uses the TLB. */
void tlb_init(struct x86_cpu *c);

/* An entry was filled. */
static inline void tlb_note_used(struct x86_cpu *c, unsigned kind, const struct tlb_entry *e) {
    unsigned slot = (unsigned)(e - c->tlbs[kind]);
    c->tlb_used[kind][slot / 64] |= 1ull << (slot % 64);
}

/* Remembers that 4 KiB entries of a large page around `lin` exist, so that INVLPG finds them. */
void tlb_note_large(struct x86_cpu *c, uint64_t lin, uint64_t page_bytes);

#endif

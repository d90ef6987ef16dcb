/* SPDX-License-Identifier: Apache-2.0 */
/* What the loop of the reference engine offers to the rest of the processor. */
#ifndef RINGFENCE_CPU_X86_INTERP_H
#define RINGFENCE_CPU_X86_INTERP_H

#include "cpu/x86/cpu.h"

/* This vCPU stored to a page that holds decoded code. */
void interp_code_written(struct x86_cpu *c, uint64_t backing_page);

/* The vm's lock for locked accesses that no host instruction can make atomic. */
void interp_bus_lock(struct x86_cpu *c);
void interp_bus_unlock(struct x86_cpu *c);

/*
 * Host memory of the instruction at `lin` (to the end of its page); NULL when it lies in no memory,
 * then *gpa is its guest-physical address. Raises #PF. (mmu.c)
 */
uint8_t *mmu_fetch(struct x86_cpu *c, uint64_t lin, uint64_t *gpa);

/* ---- debugger's and DR7's data breakpoints (debug.c) ---- */

/* Whether any is set in the page of `lin` (checked when a TLB entry is filled). */
bool debug_page_watched(const struct x86_cpu *c, uint64_t lin);
/* An access was made while some are set: notes what was hit. */
void debug_access(struct x86_cpu *c, uint64_t lin, unsigned size, bool write);
/* Whether an instruction breakpoint may be set in [lin, lin + len), or each instruction is stepped
 * over. */
bool debug_stop_within(const struct x86_cpu *c, uint64_t lin, uint64_t len);
/* Whether the debugger has a breakpoint on exactly this address. */
bool debug_breaks_at(const struct x86_cpu *c, uint64_t lin);
/* Recomputes c->watching and c->stopping after DR7, DR0..3 or the debugger's points changed. */
void debug_update(struct x86_cpu *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks during control transfers: a stack that is being switched to is first filled, then made
 * current. Everything that can fault is checked by frame_probe() and the pops, before any state
 * changes.
 */
#ifndef RINGFENCE_CPU_X86_FRAME_H
#define RINGFENCE_CPU_X86_FRAME_H

#include "cpu/x86/seg.h"

struct frame {
    struct x86_seg ss;
    uint64_t sp;
    uint64_t mask;  /* stack address size */
    uint32_t error; /* error code of #SS when the segment has no room */
    uint8_t size;   /* of one slot: 2, 4 or 8 */
    bool wide;      /* 64-bit mode: no segment limit */
    bool user;      /* pushes are made at CPL 3 */
};

/* The current stack. */
void frame_current(struct x86_cpu *c, struct frame *f, unsigned size);
/* The current stack as the handler of an event sees it, in long mode always 64 bits wide. */
void frame_current64(struct x86_cpu *c, struct frame *f);
/* The stack that a 16- or 32-bit TSS holds for `cpl`; *d is SS's descriptor. #TS, #SS, page faults.
 */
void frame_from_tss(struct x86_cpu *c, struct frame *f, unsigned cpl, unsigned size,
                    struct seg_desc *d);
/* Long mode: RSPn for `cpl`, or interrupt stack `ist` when not 0; SS is null. */
void frame_from_tss64(struct x86_cpu *c, struct frame *f, unsigned cpl, unsigned ist);

/* Raises what pushing `slots` slots would raise. */
void frame_probe(struct x86_cpu *c, const struct frame *f, unsigned slots);
void frame_push(struct x86_cpu *c, struct frame *f, uint64_t v);
/* Reads at the current privilege. */
uint64_t frame_pop(struct x86_cpu *c, struct frame *f);
void frame_skip(struct frame *f, uint64_t bytes);
/* Makes the stack pointer final; SS is the caller's. */
void frame_set_sp(struct x86_cpu *c, const struct frame *f);

#endif

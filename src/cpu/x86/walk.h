/* SPDX-License-Identifier: Apache-2.0 */
/* The page walk: 32-bit, PAE and 4-level paging (SDM 3A chapter 4). */
#ifndef RINGFENCE_CPU_X86_WALK_H
#define RINGFENCE_CPU_X86_WALK_H

#include "cpu/x86/cpu.h"

enum { WALK_W = 1, WALK_FETCH = 2 };

struct walk {
    uint64_t gpa;        /* of the linear address */
    uint64_t page_bytes; /* 4 KiB, 2 MiB, 4 MiB or 1 GiB */
    bool global;
    bool read, write, fetch; /* what further accesses of this kind need no walk (write: D is set) */
};

/*
 * Translates `lin` for an access through TLB `kind` (which says the privilege), sets A and D bits,
 * and fills `w`. Returns 0, or the page fault's error code | WALK_FAULT.
 */
#define WALK_FAULT 0x80000000u
uint32_t walk(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned access, struct walk *w);

#endif

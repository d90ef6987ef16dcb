/* SPDX-License-Identifier: Apache-2.0 */
/* 4-level page tables of 64-bit guests, on top of what boot.S made. */
#ifndef GUEST_PAGING_H
#define GUEST_PAGING_H

#include "lib.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
#define PTE_NX (1ul << 63)
#define PTE_ADDRESS 0xffffffffff000ul

/* The entry of `va` at level 1 (PTE) to 4 (PML4E) under the current CR3; tables are made on the
 * way, with all rights. */
static inline uint64_t *page_entry(ulong va, int level) {
    uint64_t *table = (uint64_t *)(read_cr3() & PTE_ADDRESS);

    for (int l = 4;; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];

        if (l == level)
            return e;
        if (!(*e & PTE_P) && !(*e & PTE_ADDRESS))
            *e = (ulong)page_alloc(1) | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*e & PTE_ADDRESS & ~(1ul << 51));
    }
}

static inline void page_map(ulong va, uint64_t pa, int level, uint64_t flags) {
    *(volatile uint64_t *)page_entry(va, level) = pa | flags;
    invlpg((void *)va);
}

#endif

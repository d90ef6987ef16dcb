/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded code of one vCPU: runs of instructions that lie in one physical page, found by where they
 * lie in memory and by code size, so that every address space shares them.
 */
#ifndef RINGFENCE_CPU_X86_BLOCK_H
#define RINGFENCE_CPU_X86_BLOCK_H

#include "cpu/x86/cpu.h"

#define BLOCK_INSNS 32u
#define NO_PAGE UINT32_MAX

struct block {
    uint64_t key;       /* backing offset of the first byte << 2 | code size */
    uint32_t page, gen; /* backing page, and its generation when it was decoded */
    uint32_t page2,
        gen2; /* of the second page, for a single instruction that crosses; or NO_PAGE */
    uint16_t count, bytes;
    struct block *hash_next;
    struct x86_insn insn[];
};

struct block_cache;

struct block_cache *block_cache_new(struct mem *mem);
void block_cache_free(struct block_cache *bc);

/*
 * The block at c->s.rip: decoded now if it has to be. Raises #PF, #GP for what fetching raises.
 * The result is valid until the next call.
 */
struct block *block_find(struct x86_cpu *c, struct block_cache *bc);

/* Whether the pages of a block have been written since it was decoded. */
static inline bool block_stale(const struct block *b, const _Atomic uint32_t *gen) {
    return atomic_load_explicit(&gen[b->page], memory_order_relaxed) != b->gen;
}

/* Makes the loop leave the block before its next instruction. */
void block_stop(struct x86_cpu *c, struct block *b);

#endif

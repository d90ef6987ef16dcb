/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engine `bt`: x86-64 guest code translated to x86-64 host code.
 *
 * Guest general registers and arithmetic flags live in the host's own while translated code runs;
 * the vCPU is reached through GS. An instruction without a template, and one whose memory operand
 * misses the inline TLB, is executed by the reference engine's function for it, with all state in
 * struct x86_cpu: so every fault is precise, and no instruction is unsupported.
 * docs/decisions/002-translator.md tells more.
 */
#ifndef RINGFENCE_CPU_BT_BT_H
#define RINGFENCE_CPU_BT_BT_H

#include <pthread.h>

#include "cpu/bt/emit.h"
#include "cpu/bt/stats.h"
#include "cpu/x86/cpu.h"

#define BT_TLB_SIZE 512u
#define BT_JUMP_SIZE 32768u
#define BT_CONTEXTS 64u

/*
 * The inline TLB of one privilege: by the page number's low bits, the negated page address (so that
 * adding an address gives an offset below 4096 on a hit, with no flag touched) and what to add to
 * an address for the host's. An empty slot holds a page that belongs to another slot and is not its
 * neighbour.
 */
struct bt_tlb {
    uint64_t rd[BT_TLB_SIZE], wr[BT_TLB_SIZE], addend[BT_TLB_SIZE];
};

/* Blocks by linear address: minus (rip + context key), where the code is, and rip's page. */
struct bt_jumps {
    uint64_t tag[BT_JUMP_SIZE], code[BT_JUMP_SIZE], page[BT_JUMP_SIZE];
};

/* A place in translated code that calls out, as the call finds it behind itself. */
struct bt_site {
    const struct x86_insn *insn;
    uint32_t offset; /* of the instruction in its page */
    uint8_t operand; /* enum bt_operand */
    uint8_t leaves;  /* never comes back: ends the block */
};

/* Which address a site's instruction accesses, for filling the inline TLB. */
enum bt_operand { BT_NONE, BT_MEMORY, BT_PUSH, BT_POP, BT_FRAME };

/* A way out of a block: to a known offset in the same linear page, or beyond its ends. */
struct bt_exit {
    struct bt_block *block;
    uint8_t *jump;  /* displacement of the jump that goes here while unchained (writable) */
    int32_t target; /* relative to the page's linear address */
    bool vector;    /* what follows wants the guest's vector registers in the host's */
};

struct bt_block {
    uint64_t key;       /* backing offset of the first byte << 3 | vector << 2 | TLB kind */
    uint32_t page, gen; /* backing page, its generation when it was translated */
    uint64_t code;      /* entry (executable) */
    uint8_t *entry;     /* the same, writable: a 5-byte NOP, or a jump to `dead` */
    uint64_t dead;      /* an exit to the block's own address */
    bool alive;
    struct bt_block *hash_next, *page_next;
};

struct bt_cache;

struct bt_cpu {
    struct x86_cpu c;
    uint64_t host_rsp;
    uint64_t save[2];     /* the guest's values of a block's two scratch registers */
    uint64_t save_rcx;    /* and of RCX while it is a third */
    uint64_t pushed;      /* a value on its way from memory to the stack */
    uint64_t save_rax;    /* and of RAX in an exit's stub */
    uint64_t page;        /* linear address of the page that is being executed in */
    uint64_t context_key; /* goes into the jump table's tags */
    uint64_t jump_to, jump_index;
    uint64_t poll; /* address that loops store to: of poll_word, or BT_POLL_STOP */
    uint64_t poll_word;
    uint64_t mask_tlb, mask_above,
        mask_jump;            /* for PEXT: page index, bits from 12 on, jump index */
    uint64_t call_out, leave; /* addresses of the two below */
    bool vector;        /* code that runs now has the guest's vector registers in the host's */
    bool vector_wanted; /* the block that was left ended before a vector instruction */
    uint32_t host_mxcsr;
    bool code_written;     /* a page with translated code was, by this vCPU */
    _Atomic bool in_code;  /* between entering and leaving translated code, calls out included */
    unsigned link_flushes; /* bt_cache_flushes() when link_exit was set */
    struct bt_exit *link_exit; /* the exit through which the code was left, or NULL */
    struct bt_cache *cache;
    uint64_t seen_space; /* asid and paging generation of the inline TLB's contents */
    uint64_t seen_context;
    const struct tlb_entry *seen_tlb; /* c.tlb for context_key */
    bool seen_vector;
    struct bt_context {
        uint64_t context, number;
    } contexts[BT_CONTEXTS];
    uint64_t last_context;
    struct bt_tlb tlb[3]; /* by TLB_SUPER, TLB_USER, TLB_SUPER_AC */
    struct bt_jumps jump;
    struct bt_stats stats;
};

#define BT_POLL_STOP 16ull /* never mapped */
#define BT_OFF(field) ((uint32_t)offsetof(struct bt_cpu, field))
#define BT_GPR(n) ((uint32_t)offsetof(struct bt_cpu, c.s.gpr) + 8u * (n))

#define BT_KEY_SHIFT 3
#define BT_KEY_VECTOR 4u
#define BT_KEY_MODE 7u /* the bits that are no address */

/* TLB_SUPER, TLB_USER, TLB_SUPER_AC or TLB_OFF: what accesses go through now. */
static inline unsigned bt_tlb_kind(const struct x86_cpu *c) {
    return (unsigned)((c->tlb - c->tlbs[0]) / TLB_SIZE);
}

/* entry.c */
void bt_enter(struct bt_cpu *b, uint64_t code); /* returns when translated code was left */
void bt_call_out(void), bt_leave(void);         /* jumped to, not called by C */

/* Called by entry.c with all guest state in the vCPU: executes the site's instruction. False: do
 * not go back. */
bool bt_site_run(struct bt_cpu *b, const struct bt_site *site);

/* translate.c: translates the code at c->s.rip, which lies at `host`. False when the cache is full.
 */
bool bt_translate(struct bt_cpu *b, struct bt_block *block, const uint8_t *host);

/* ---- cache.c: where code and its records live ---- */

struct bt_cache *bt_cache_new(struct mem *mem, uint64_t bytes);
void bt_cache_free(struct bt_cache *cache);
struct emit bt_cache_emit(struct bt_cache *cache);
void bt_cache_emitted(struct bt_cache *cache, const struct emit *e);
/* Zeroed memory that lives until the cache is emptied; NULL when there is none left. */
void *bt_cache_alloc(struct bt_cache *cache, size_t bytes);
bool bt_cache_holds(const struct bt_cache *cache, uint64_t code);
/* The living block with this key, made when there is none. NULL: the cache was emptied, try again.
 */
struct bt_block *bt_cache_block(struct bt_cpu *b, const uint8_t *host);
/* The code of a page was written: its blocks die. */
void bt_cache_kill_page(struct bt_cache *cache, uint64_t backing_page);
void bt_cache_empty(struct bt_cache *cache);
/* How often it was: a block that was found before a change of this number may be gone. */
unsigned bt_cache_flushes(const struct bt_cache *cache);
/* From now on, names blocks for perf(1). */
int bt_cache_name_blocks(struct bt_cache *cache, struct err *e);
struct bt_world_stats *bt_cache_stats(struct bt_cache *cache);

#endif

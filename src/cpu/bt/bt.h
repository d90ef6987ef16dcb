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

#define BT_TLB_SIZE 1024u
#define BT_JUMP_SIZE 32768u
#define BT_CONTEXTS 64u
#define BT_JUMP_COUNTS 65536u
#define BT_MODES 16u

/*
 * The inline TLB of one privilege: by the page number's low bits, the negated page address (so that
 * adding an address gives an offset below 4096 on a hit, with no flag touched) and what to add to
 * an address for the host's. An empty slot holds a page that belongs to another slot and is not its
 * neighbour.
 */
struct bt_tlb {
    uint64_t rd[BT_TLB_SIZE], wr[BT_TLB_SIZE], addend[BT_TLB_SIZE];
};

/* Which slots of a bt_tlb are to be emptied: all that hold something, and those of pages that are
 * not global. */
struct bt_tlb_slots {
    uint64_t used[BT_TLB_SIZE / 64], local[BT_TLB_SIZE / 64];
};

/* A block by linear address, in one line of the host's cache: minus (rip + context key), where the
 * code is, and rip's page. */
struct bt_jump {
    _Alignas(32) uint64_t tag;
    uint64_t code, page;
};

struct bt_cpu;
struct bt_site;

/*
 * Executes a site's instruction, in the common case, with the guest's state in the vCPU but for
 * RBX, RBP and R12 to R15. Goes on at b->jump_to, which is behind the instruction unless it is
 * changed. False, with nothing changed: it is one for the reference engine. Raises nothing.
 */
typedef bool bt_quick_fn(struct bt_cpu *b, const struct bt_site *s);

/* Where code goes on behind a look-up that missed: once it can hit, and when it cannot. */
struct bt_ways {
    uint64_t retry, out;
    unsigned mode; /* of a look-up of code: BT_KEY_MODE of what is looked for */
};

/* A place in translated code that calls out; addresses are executable ones. */
struct bt_site {
    struct bt_ways ways; /* of a look-up in the inline TLB or the jump table */
    const struct x86_insn *insn;
    uint32_t offset; /* of the instruction in its page */
    uint8_t operand; /* enum bt_operand */
    uint8_t x87;     /* BT_X87_... (fpu.h) */
    uint8_t leaves;  /* never comes back: ends the block */
    uint64_t back;   /* behind the instruction */
    uint64_t via;    /* bt_call_engine(), or bt_call_quick(), which asks `quick` first */
    bt_quick_fn *quick;
};

/* Which address a site's instruction accesses, for filling the inline TLB. */
enum bt_operand { BT_NONE, BT_MEMORY, BT_PUSH, BT_POP, BT_FRAME };

/*
 * A way out of a block: to a known offset in the same linear page, or beyond its ends. Once it is
 * linked to a block, the registers that both lend stay lent.
 */
struct bt_exit {
    struct bt_ways ways; /* of a look-up in the jump table */
    struct bt_block *block;
    uint8_t *inner;       /* displacement of its jump (writable); NULL: not to be linked */
    int32_t target;       /* relative to the page's linear address */
    uint16_t spilled;     /* the registers that its block lent */
    bool vector;          /* what follows wants the guest's vector registers in the host's */
    bool single;          /* what follows accesses memory that straddles pages */
    bool x87;             /* what follows wants the guest's x87 state in the host's registers */
    int32_t unlinked;     /* the displacement while it goes to no block */
    struct bt_block *to;  /* the block it is linked to, or NULL */
    struct bt_exit *next; /* another that is */
};

struct bt_block {
    uint64_t key;   /* backing offset of the first byte << BT_KEY_SHIFT | BT_KEY_... | TLB kind */
    uint32_t page;  /* backing page */
    uint16_t bytes; /* of guest code */
    uint64_t lines; /* that these lie in */
    uint64_t code;  /* entry (executable) */
    /* Ways in, writable: all registers the guest's, or those in `spilled` lent already. Each is a
     * 5-byte NOP, or a jump to an exit to the block's own address. */
    uint8_t *entry, *inner;
    uint64_t dead, dead_inner;
    uint16_t spilled;
    bool alive;
    struct bt_exit *incoming; /* jumps that go here */
    struct bt_block *hash_next, *page_next, *region_next;
};

/* Kinds of code that regions share (cold.c). */
enum { BT_TAIL_OUT, BT_TAIL_READ, BT_TAIL_WRITE, BT_TAIL_FIND, BT_TAIL_LEAVE, BT_TAILS };

struct bt_cache;

struct bt_cpu {
    struct x86_cpu c;
    uint64_t host_rsp;
    uint64_t save[16]; /* the guest's values of the registers that a region lent */
    uint64_t kept[16]; /* what a region had in them, while the guest's are in place */
    uint64_t save_rcx; /* RCX, while it is lent for a moment */
    uint64_t save_rsp;
    uint64_t pushed;   /* a value on its way from memory to the stack */
    uint64_t save_rax; /* and of RAX in an exit's stub */
    uint64_t page;     /* linear address of the page that is being executed in */
    /* By BT_KEY_MODE: what is added to an address for the jump table's tags. And what that is while
     * the vCPU may run. With no_key nothing is found. (jumps.c) */
    uint64_t context_key[BT_MODES], key[BT_MODES], no_key;
    uint64_t jump_to, jump_index;
    uint64_t poll; /* address that loops store to: of poll_word, or BT_POLL_STOP */
    uint64_t poll_word;
    /* For PEXT: page index, bits from 12 on, jump index, arithmetic flags, all but IF, some low
     * bits of a count. */
    uint64_t mask_tlb, mask_above, mask_jump, mask_arith, mask_not_if, mask_spins;
    uint64_t mask_not_df, mask_not_ac, mask_bit; /* the last is 63 */
    uint64_t no_user_tsc, no_fsgsbase; /* not 0: CR4 forbids RDTSC to users, RDFSBASE to all */
    const struct tlb_entry *tlb_of[TLB_OFF];
    uint64_t spins;   /* PAUSE instructions */
    uint64_t tsc_add; /* to the host's TSC */
    /* What FS and GS add to an address; in 32-bit code, what makes it nobody's where there is a
     * limit. */
    uint64_t seg_base[6], seg_limited[6];
    uint64_t call_out, leave, leave_linked; /* addresses of those below */
    const struct bt_site *site;             /* that calls out */
    const struct bt_ways *ways;             /* of the look-up of code that missed */
    bool vector;        /* code that runs now has the guest's vector registers in the host's */
    bool vector_wanted; /* the block that was left ended before a vector instruction */
    bool user_vector;   /* one of user code did: it keeps them there from now on */
    bool single_wanted; /* or before accesses that straddle pages */
    bool x87_wanted;    /* or before x87 or MMX instructions */
    uint32_t host_mxcsr;
    /* fpu.c: 0 while the guest's x87 state is in the host's registers; then, where the last
     * instruction that sets FIP is. */
    uint64_t x87_away, x87_page, x87_cs;
    uint32_t x87_off; /* UINT32_MAX: FIP is as it was */
    uint64_t control, mask_fcw, mask_mxcsr;
    _Alignas(64) uint8_t x87_area[576];
    bool code_written;     /* a page with translated code was, by this vCPU */
    _Atomic bool in_code;  /* between entering and leaving translated code, calls out included */
    unsigned link_flushes; /* bt_cache_flushes() when link_exit was set */
    struct bt_exit *link_exit; /* the exit through which the code was left, or NULL */
    struct bt_cache *cache;
    uint64_t refill_lin, refill_back, refill_rd, refill_wr; /* see below */
    uint64_t refill_jump;
    const struct bt_index *index; /* of the cache */
    /* tlb.c: what the inline TLB and the jump table are for. */
    uint64_t seen_space, seen_context;
    const struct tlb_entry *seen_tlb;
    bool local_code; /* supervisor code has run in pages that are not global */
    struct bt_context {
        uint64_t space, number;
    } contexts[BT_CONTEXTS];
    uint64_t last_context, secret;
    struct bt_tlb tlb[3]; /* by TLB_SUPER, TLB_USER, TLB_SUPER_AC */
    struct bt_tlb_slots slots[3];
    struct bt_jump jump[BT_JUMP_SIZE];
    uint16_t jump_count[BT_JUMP_COUNTS]; /* its entries, by a hash of their pages */
    struct bt_stats stats;
};

#define BT_POLL_STOP 16ull /* never mapped */

static inline void bt_keys_take(struct bt_cpu *b) {
    for (unsigned m = 0; m < BT_MODES; m++)
        __atomic_store_n(&b->context_key[m], b->no_key, __ATOMIC_RELEASE);
}
static inline void bt_keys_give(struct bt_cpu *b) {
    for (unsigned m = 0; m < BT_MODES; m++)
        __atomic_store_n(&b->context_key[m], b->key[m], __ATOMIC_RELEASE);
}
/* Translated code is left at the next backward branch, return or indirect branch. Any thread. */
static inline void bt_stop_code(struct bt_cpu *b) {
    __atomic_store_n(&b->poll, BT_POLL_STOP, __ATOMIC_SEQ_CST);
    bt_keys_take(b);
}
static inline bool bt_stopped(const struct bt_cpu *b) {
    return __atomic_load_n(&b->poll, __ATOMIC_RELAXED) == BT_POLL_STOP;
}
/* What to look up by is another now, unless it has been stopped. */
static inline void bt_keys_publish(struct bt_cpu *b) {
    bt_keys_give(b);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (bt_stopped(b))
        bt_keys_take(b);
}
/* It is not, from now on. Look afterwards for why it might have been stopped. */
static inline void bt_let_run(struct bt_cpu *b) {
    bt_keys_give(b);
    __atomic_store_n(&b->poll, (uint64_t)(uintptr_t)&b->poll_word, __ATOMIC_SEQ_CST);
}
#define BT_OFF(field) ((uint32_t)offsetof(struct bt_cpu, field))
#define BT_GPR(n) ((uint32_t)offsetof(struct bt_cpu, c.s.gpr) + 8u * (n))

#define BT_KEY_SHIFT 5
#define BT_KEY_TLB 3u
#define BT_KEY_VECTOR 4u
#define BT_KEY_32 8u      /* 32-bit code, without limits of segments */
#define BT_KEY_SINGLE 16u /* every memory access by itself */
#define BT_KEY_MODE 15u   /* what code may not be linked across */

/* TLB_SUPER, TLB_USER, TLB_SUPER_AC or TLB_OFF: what accesses go through now. */
static inline unsigned bt_tlb_kind(const struct x86_cpu *c) {
    return (unsigned)((c->tlb - c->tlbs[0]) / TLB_SIZE);
}

/*
 * refill.c: code that a probe of the inline TLB comes to when it misses. Jumped to through
 * gs:[refill_rd] or gs:[refill_wr] (the access is a write, or reads and writes), with
 *   gs:[refill_lin]  = the linear address of the access's first byte,
 *   gs:[refill_back] = where to go on,
 * and the guest's registers anywhere but in memory: all registers, the flags and the vector
 * registers are preserved, RSP and the scratch registers too (so the address may stay where it
 * was). When the slot was filled it goes to refill_back, where a jump (JMP rel32, 5 bytes) back to
 * the probe belongs: that hits now. When it was not, it goes to refill_back + 5, for a call out:
 * the access faults, is to no memory, crosses a page, or is a write to a page with code. Either way
 * nothing but A and D bits of the guest has changed, as the access that follows would change them.
 * c.tlb must be the TLB that the block uses.
 */
void bt_refill_read(void), bt_refill_write(void);
/*
 * The same for a look-up in the jump table, through gs:[refill_jump], with
 *   gs:[refill_lin]  = the address that was looked for plus its mode's context key,
 *   gs:[ways]        = the look-up's.
 * When the code is known and may be executed there, it is in the table afterwards, and refill_lin
 * is the address.
 */
void bt_refill_jump(void);

/* entry.c */
void bt_enter(struct bt_cpu *b, uint64_t code); /* returns when translated code was left */
/* Jumped to or called by translated code only. */
void bt_call_out(void), bt_call_engine(void), bt_call_stored(void), bt_call_quick(void);
void bt_leave(void), bt_leave_linked(void);

/* What a block of code at c.s.rip has to be translated for: BT_KEY_... and the TLB's kind. */
unsigned bt_mode_key(const struct bt_cpu *b);
/* Whether RDTSC may run in place. */
bool bt_tsc_in_place(const struct bt_cpu *b);

/* Called by entry.c with all guest state in the vCPU: executes the site's instruction. False: do
 * not go back. */
bool bt_site_run(struct bt_cpu *b, const struct bt_site *site);
/* The same once code was left by `link_exit`, or for c.s.rip when there is none. True: go to
 * `jump_to`. */
bool bt_exit_run(struct bt_cpu *b);
bool bt_vector_usable(const struct x86_cpu *c);

/* ---- tlb.c: the inline TLB; by the vCPU's thread, or while the world stands ---- */

void bt_tlb_init(struct bt_cpu *b);
/* Takes the entry that the vCPU's TLB has for this address at the current privilege, if any. */
void bt_tlb_learn(struct bt_cpu *b, uint64_t lin);
/* No entry for writing leads to this page any more. */
void bt_tlb_forget_writes(struct bt_cpu *b, uint64_t host_page);
/* Address space or privilege may have changed since translated code was left. */
void bt_context_update(struct bt_cpu *b);

/* ---- jumps.c: the jump table; likewise ---- */

void bt_jumps_init(struct bt_cpu *b);
/* Other keys: the address space has changed, or what it shares with others. */
void bt_keys_update(struct bt_cpu *b);
/* The code at an address, for a mode, when the table has it; otherwise, and when translated code is
 * to be left, 0. */
uint64_t bt_jump_known(const struct bt_cpu *b, uint64_t rip, unsigned mode);
/* The code of c.s.rip is at `k`. It was found through the TLB for fetching. */
void bt_jump_learn(struct bt_cpu *b, const struct bt_block *k);
/* Pages left the TLB. */
void bt_jumps_drop(struct bt_cpu *b, uint64_t lin, uint64_t bytes);
/* Code in [code, code + bytes) is gone. */
void bt_jumps_forget(struct bt_cpu *b, uint64_t code, uint64_t bytes);

/* ---- world.c: all vCPUs of a domain out of translated code ---- */

struct bt_world;
struct bt_world *bt_world_new(struct bt_cache *cache);
void bt_world_free(struct bt_world *w);
/* False when it has to be tried again, for somebody stopped the world meanwhile. */
bool bt_code_entered(struct bt_cpu *b);
void bt_code_left(struct bt_cpu *b);
/* The caller is in no translated code, nor holds a lock that a call out of it might take. */
void bt_world_stop(struct engine_vm *vm);
void bt_world_go(struct engine_vm *vm);
struct bt_cache *bt_world_cache(const struct engine_vm *vm);

/* ---- signals.c ---- */

/* The vCPU whose thread this is, or NULL. */
struct bt_cpu *bt_running(void);
/* Faults in translated code are this vCPU's from now on. */
void bt_signals_prepare(struct bt_cpu *b);

/* translate.c: translates the code at c->s.rip, of which `host` is a copy to the end of its page,
 * and sets block->bytes. False when there is no room. */
bool bt_translate(struct bt_cpu *b, struct bt_block *block, const uint8_t *host);
/* branch.c: from now on an exit goes to a block, without coming back to the loop. Under the cache's
 * lock. False when there is no room for what has to lie between. */
bool bt_link(struct bt_cache *cache, struct bt_exit *exit, const struct bt_block *to);

/* ---- cache.c: where code and its records live ---- */

struct bt_cache *bt_cache_new(struct mem *mem, uint64_t bytes);
void bt_cache_free(struct bt_cache *cache);
struct emit bt_cache_emit(struct bt_cache *cache);
void bt_cache_emitted(struct bt_cache *cache, const struct emit *e);
/* Zeroed memory that lives as long as the code that is made now; NULL when there is none left. */
void *bt_cache_alloc(struct bt_cache *cache, size_t bytes);
/* Code that regions share, by a key that is not 0: where it is (executable), or 0. */
uint64_t bt_cache_tail(struct bt_cache *cache, uint64_t key);
void bt_cache_keep_tail(struct bt_cache *cache, uint64_t key, uint64_t code);
bool bt_cache_holds(const struct bt_cache *cache, uint64_t code);
/* Tells base/where.h of this thread where code lies. */
void bt_cache_lies(const struct bt_cache *cache);
/* The living block of the code at `host`, made when there is none. */
enum bt_made {
    BT_MADE,
    BT_FULL,      /* there is no room: evict */
    BT_AGAIN,     /* the code was written meanwhile */
    BT_INTERPRET, /* the code is written too often to be translated */
};
enum bt_made bt_cache_block(struct bt_cpu *b, const uint8_t *host, struct bt_block **made);
/* One that is there, or NULL. */
struct bt_block *bt_cache_find(struct bt_cpu *b, const uint8_t *host);
/* From now on the exit jumps to the block, if that can be; nothing when `flushes` was before. */
void bt_cache_link(struct bt_cache *cache, struct bt_exit *x, struct bt_block *to,
                   unsigned flushes);
/* The code in some lines of a page was written: blocks die. False: there were none. */
bool bt_cache_kill(struct bt_cache *cache, uint64_t backing_page, uint64_t lines);
/*
 * Makes room: forgets the oldest blocks, while the world stands. Returns where their code was, for
 * the jump tables.
 */
uint64_t bt_cache_evict(struct bt_cache *cache, uint64_t *bytes);
/* How often it has: a block that was found before a change of this number may be gone. */
unsigned bt_cache_flushes(const struct bt_cache *cache);
/* From now on, names blocks for perf(1). */
int bt_cache_name_blocks(struct bt_cache *cache, struct err *e);
struct bt_world_stats *bt_cache_stats(struct bt_cache *cache);
const struct bt_index *bt_cache_index(const struct bt_cache *cache);

#endif

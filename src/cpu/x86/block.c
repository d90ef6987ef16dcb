/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of decoded blocks. A block is valid while its page's generation is the one it was
 * decoded under (mem.h tells the protocol), which is checked on every entry; stale blocks and the
 * rest go when the arena is full.
 */
#include "cpu/x86/block.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/where.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/trace.h"
#include "mem/guest.h"

#define ARENA_BYTES (64u << 20)
#define HASH_SIZE (1u << 15)
#define JUMP_SIZE (1u << 12)
#define INSN_MAX 15u

/* A recent block by linear address and context: skips translation and the hash. */
struct jump {
    uint64_t rip, context;
    struct block *block;
};

struct block_cache {
    struct mem *mem;
    uint8_t *arena;
    size_t used;
    struct block *hash[HASH_SIZE];
    struct jump jump[JUMP_SIZE];
    struct block *uncached; /* for code outside memory */
};

struct block_cache *block_cache_new(struct mem *mem) {
    struct block_cache *bc = xcalloc(1, sizeof *bc);
    bc->uncached = xcalloc(1, sizeof *bc->uncached + sizeof(struct x86_insn));
    bc->mem = mem;
    bc->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bc->arena == MAP_FAILED) {
        free(bc->uncached);
        free(bc);
        return NULL;
    }
    return bc;
}

void block_cache_free(struct block_cache *bc) {
    if (!bc)
        return;
    munmap(bc->arena, ARENA_BYTES);
    free(bc->uncached);
    free(bc);
}

static void cache_empty(struct block_cache *bc) {
    memset(bc->hash, 0, sizeof bc->hash);
    memset(bc->jump, 0, sizeof bc->jump);
    bc->used = 0;
}

/* Stands for what was not executed when a block had to be left; executes nothing itself. */
static void op_left_block(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    longjmp(c->jmp, 2);
}

void block_stop(struct x86_cpu *c, struct block *b) {
    (void)c;
    for (unsigned n = 0; n < b->count; n++)
        b->insn[n].fn = op_left_block;
    b->key = UINT64_MAX; /* never found again */
    b->gen--;            /* and stale wherever it is remembered */
}

/* ---- decoding ---- */

/* Instruction bytes at a linear address, as far as the page goes. */
struct fetch {
    uint8_t *host;
    uint64_t gpa, lin;
    unsigned avail;
};

static struct fetch fetch_at(struct x86_cpu *c, uint64_t lin) {
    struct fetch f = {.lin = lin, .avail = (unsigned)(PAGE_SIZE - (lin & PAGE_MASK))};
    f.host = mmu_fetch(c, lin, &f.gpa);
    return f;
}

static uint32_t page_of(const struct x86_cpu *c, const uint8_t *host) {
    return (uint32_t)((uint64_t)(host - c->ram) >> PAGE_SHIFT);
}

static struct block *block_alloc(struct block_cache *bc) {
    size_t most = sizeof(struct block) + BLOCK_INSNS * sizeof(struct x86_insn);
    if (bc->used + most > ARENA_BYTES)
        cache_empty(bc);
    return (struct block *)(void *)(bc->arena + bc->used);
}

static void block_keep(struct block_cache *bc, struct block *b) {
    size_t size = sizeof *b + b->count * sizeof(struct x86_insn);
    bc->used += (size + 15) & ~(size_t)15;
    struct block **head = &bc->hash[(b->key ^ b->key >> 15) % HASH_SIZE];
    b->hash_next = *head;
    *head = b;
}

static uint64_t linear_next_page(const struct x86_cpu *c, uint64_t lin) {
    uint64_t next = (lin | PAGE_MASK) + 1;
    return c->mode64 ? next : next & UINT32_MAX;
}

static void copy_code(struct x86_cpu *c, const struct fetch *f, uint8_t *to, unsigned len) {
    for (unsigned n = 0; n < len; n++)
        to[n] = f->host ? guest_ld8(f->host + n) : (uint8_t)mem_io_read(c->mem, GPA(f->gpa + n), 1);
}

/* One instruction that needs bytes of the next page, or lies outside memory. */
static void decode_gathered(struct x86_cpu *c, struct block *b, const struct fetch *f,
                            uint8_t bytes[2 * INSN_MAX]) {
    unsigned first = MIN(f->avail, INSN_MAX);
    copy_code(c, f, bytes, first);
    b->count = 1;
    if (x86_decode(c->cpuid, c->code_size, bytes, first, &b->insn[0]) == -EAGAIN) {
        struct fetch g = fetch_at(c, linear_next_page(c, f->lin));
        if (g.host) {
            b->page2 = page_of(c, g.host);
            b->gen2 = mem_code_begin(c->mem, b->page2);
        }
        copy_code(c, &g, bytes + first, INSN_MAX - first);
        x86_decode(c->cpuid, c->code_size, bytes, INSN_MAX, &b->insn[0]);
    }
    b->bytes = b->insn[0].len;
}

/* From a copy: another vCPU may be writing, and what is decoded must be one thing. */
static void decode_run(struct x86_cpu *c, struct block *b, const uint8_t *bytes, unsigned avail) {
    unsigned off = 0;
    b->count = 0;
    while (b->count < BLOCK_INSNS && off < avail) {
        struct x86_insn *i = &b->insn[b->count];
        unsigned len = MIN(avail - off, INSN_MAX);
        if (x86_decode(c->cpuid, c->code_size, bytes + off, len, i) == -EAGAIN)
            break;
        off += i->len;
        b->count++;
        if (i->flags & INSN_END)
            break;
    }
    b->bytes = (uint16_t)off;
}

static bool pages_committed(struct x86_cpu *c, const struct block *b, const struct fetch *f,
                            const uint8_t *bytes) {
    unsigned first = MIN(b->bytes, f->avail);
    return mem_code_commit(c->mem, b->page, f->lin & PAGE_MASK, bytes, first) &&
           (b->page2 == NO_PAGE || b->bytes == first ||
            mem_code_commit(c->mem, b->page2, 0, bytes + first, b->bytes - first));
}

static struct block *block_make(struct x86_cpu *c, struct block_cache *bc, const struct fetch *f,
                                uint64_t key) {
    struct block *b = block_alloc(bc);
    uint8_t bytes[BLOCK_INSNS * INSN_MAX];
    unsigned avail = MIN(f->avail, (unsigned)sizeof bytes);
    enum where from = where_go(WHERE_TRANSLATE);
    do {
        *b = (struct block){.key = key, .page = page_of(c, f->host), .page2 = NO_PAGE};
        b->gen = mem_code_begin(c->mem, b->page);
        guest_copy(bytes, f->host, avail);
        decode_run(c, b, bytes, avail);
        if (b->count == 0)
            decode_gathered(c, b, f, bytes);
    } while (!pages_committed(c, b, f, bytes));
    where_go(from);
    c->counts.decoded++;
    if (unlikely(c->traced & TRACE_BLOCK))
        cpu_trace_block(c, &(struct cpu_trace_code){f->lin, f->host, bytes, b->bytes, 0, 0});
    block_keep(bc, b);
    return b;
}

/* Code in MMIO or nowhere: decoded each time, never kept. */
static struct block *block_uncached(struct x86_cpu *c, struct block_cache *bc,
                                    const struct fetch *f) {
    struct block *b = bc->uncached;
    uint8_t bytes[2 * INSN_MAX];
    *b = (struct block){.key = UINT64_MAX, .page2 = NO_PAGE};
    decode_gathered(c, b, f, bytes);
    b->insn[0].flags |= INSN_END;
    return b;
}

/* ---- finding ---- */

/* The second page of a crossing instruction may be mapped elsewhere now, or have been written. */
static bool second_page_same(struct x86_cpu *c, const struct block *b, uint64_t lin) {
    if (b->page2 == NO_PAGE)
        return true;
    struct fetch g = fetch_at(c, linear_next_page(c, lin));
    return g.host && page_of(c, g.host) == b->page2 &&
           atomic_load_explicit(&c->mem->page_gen[b->page2], memory_order_relaxed) == b->gen2;
}

static struct block *hash_find(struct x86_cpu *c, struct block_cache *bc, uint64_t key,
                               uint64_t lin) {
    struct block **link = &bc->hash[(key ^ key >> 15) % HASH_SIZE];
    while (*link) {
        struct block *b = *link;
        bool stale = block_stale(b, c->mem->page_gen);
        if (b->key == key && !stale && second_page_same(c, b, lin))
            return b;
        if (stale || b->key == key)
            *link = b->hash_next;
        else
            link = &b->hash_next;
    }
    return NULL;
}

static uint64_t block_key(const struct x86_cpu *c, const uint8_t *host) {
    uint64_t size = c->code_size == 64 ? 2 : c->code_size == 32 ? 1 : 0;
    return (uint64_t)(host - c->ram) << 2 | size;
}

static uint64_t code_linear(struct x86_cpu *c) {
    uint64_t rip = c->s.rip;
    if (!c->mode64)
        return (c->s.seg[SEG_CS].base + rip) & UINT32_MAX;
    if ((uint64_t)((int64_t)(rip << 16) >> 16) != rip)
        cpu_raise_err(c, EXC_GP, 0);
    return rip;
}

static struct block *block_lookup(struct x86_cpu *c, struct block_cache *bc, uint64_t lin) {
    struct fetch f = fetch_at(c, lin);
    if (!f.host)
        return block_uncached(c, bc, &f);
    uint64_t key = block_key(c, f.host);
    struct block *b = hash_find(c, bc, key, lin);
    return b ? b : block_make(c, bc, &f, key);
}

struct block *block_find(struct x86_cpu *c, struct block_cache *bc) {
    uint64_t lin = c->mode64 ? c->s.rip : (c->s.seg[SEG_CS].base + c->s.rip) & UINT32_MAX;
    struct jump *j = &bc->jump[(lin ^ lin >> 12) % JUMP_SIZE];
    if (likely(j->rip == lin && j->context == c->context && j->block &&
               !block_stale(j->block, c->mem->page_gen)))
        return j->block;
    struct block *b = block_lookup(c, bc, code_linear(c));
    if (b->page2 == NO_PAGE && b != bc->uncached)
        *j = (struct jump){.rip = lin, .context = c->context, .block = b};
    return b;
}

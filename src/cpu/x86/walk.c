/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page walk of SDM 3A chapter 4: 32-bit paging with PSE-36, PAE paging (PDPTEs from registers)
 * and 4-level paging; reserved bits, NX, WP, SMEP, SMAP, protection keys; accessed and dirty flags
 * set atomically.
 */
#include "cpu/x86/walk.h"

#include "cpu/x86/mmu.h"

enum {
    PTE_P = 1u << 0,
    PTE_W = 1u << 1,
    PTE_U = 1u << 2,
    PTE_A = 1u << 5,
    PTE_D = 1u << 6,
    PTE_PS = 1u << 7,
    PTE_G = 1u << 8,
};
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

/* One paging-structure entry as it was read, and where, so that A and D can be set in it. */
struct entry {
    uint64_t value;
    void *host; /* NULL when it does not lie in RAM: A and D are not kept then */
};

struct path {
    struct entry e[4];
    unsigned levels;
    bool wide; /* 8-byte entries */
    bool w, u, nx;
    uint32_t keys; /* what key_denies() says */
    uint64_t page_bytes, base;
};

static void *entry_host(struct x86_cpu *c, uint64_t gpa, unsigned size) {
    for (unsigned n = 0; n < ARRAY_LEN(c->ram_run); n++)
        if (range_within(gpa - c->ram_run[n].gpa, size, c->ram_run[n].bytes))
            return c->ram_run[n].host + (gpa - c->ram_run[n].gpa);
    return mem_ptr_w(c->mem, GPA(gpa), size);
}

static uint64_t entry_read(struct x86_cpu *c, struct path *p, uint64_t gpa) {
    unsigned size = p->wide ? 8 : 4;
    struct entry *e = &p->e[p->levels++];
    e->host = entry_host(c, gpa, size);
    if (!e->host)
        e->value = mem_io_read(c->mem, GPA(gpa), size);
    else if (p->wide)
        e->value = __atomic_load_n((uint64_t *)e->host, __ATOMIC_RELAXED);
    else
        e->value = __atomic_load_n((uint32_t *)e->host, __ATOMIC_RELAXED);
    return e->value;
}

static uint64_t reserved_high(const struct x86_cpu *c) {
    uint64_t rsvd = PTE_ADDR & ~((1ull << c->cpuid->phys_bits) - 1);
    return c->s.efer & EFER_NXE ? rsvd : rsvd | PTE_NX;
}

/* Takes an entry's permissions into account. Returns 0 or the fault's P and RSVD bits. */
static uint32_t path_add(struct path *p, uint64_t v, uint64_t reserved) {
    if (!(v & PTE_P))
        return WALK_FAULT;
    if (v & reserved)
        return WALK_FAULT | PF_P | PF_RSVD;
    p->w &= !!(v & PTE_W);
    p->u &= !!(v & PTE_U);
    p->nx |= p->wide && v & PTE_NX;
    return 0;
}

static uint32_t path_leaf(struct path *p, uint64_t v, uint64_t bytes) {
    p->page_bytes = bytes;
    p->base = v & PTE_ADDR & ~(bytes - 1);
    return 0;
}

static uint32_t path_32(struct x86_cpu *c, uint64_t lin, struct path *p) {
    uint64_t pde = entry_read(c, p, (c->s.cr3 & 0xfffff000u) + (lin >> 22 & 0x3ff) * 4);
    bool large = pde & PTE_PS && c->s.cr4 & CR4_PSE;
    uint64_t high =
        x86_has(c->cpuid, FEAT_PSE36) ? (1ull << MIN(c->cpuid->phys_bits - 32, 8u)) - 1 : 0;
    uint32_t fault = path_add(p, pde, large ? 0x3fe000u & ~(high << 13) : 0);
    if (fault)
        return fault;
    if (large) {
        path_leaf(p, pde & 0xffc00000u, 4ull << 20);
        p->base |= (pde >> 13 & high) << 32;
        return 0;
    }
    uint64_t pte = entry_read(c, p, (pde & 0xfffff000u) + (lin >> 12 & 0x3ff) * 4);
    fault = path_add(p, pte, 0);
    return fault ? fault : path_leaf(p, pte & 0xfffff000u, PAGE_SIZE);
}

/* The page directory and page table that PAE and 4-level paging share. `table` is the directory's
 * address. */
static uint32_t path_directory(struct x86_cpu *c, uint64_t table, uint64_t lin, struct path *p,
                               uint64_t rsvd) {
    uint64_t pde = entry_read(c, p, table + (lin >> 21 & 0x1ff) * 8);
    bool large = pde & PTE_PS;
    uint32_t fault = path_add(p, pde, rsvd | (large ? 0x1fe000u : 0));
    if (fault || large)
        return fault ? fault : path_leaf(p, pde, 2ull << 20);
    uint64_t pte = entry_read(c, p, (pde & PTE_ADDR) + (lin >> 12 & 0x1ff) * 8);
    fault = path_add(p, pte, rsvd);
    return fault ? fault : path_leaf(p, pte, PAGE_SIZE);
}

static uint32_t path_pae(struct x86_cpu *c, uint64_t lin, struct path *p) {
    uint64_t pdpte = c->s.pdpte[lin >> 30 & 3];
    if (!(pdpte & PTE_P))
        return WALK_FAULT;
    /* Bits 52..62 are reserved in PAE paging (SDM 3A table 4-9 on). */
    uint64_t rsvd = reserved_high(c) | 0x7ff0000000000000ull;
    return path_directory(c, pdpte & PTE_ADDR, lin, p, rsvd);
}

static uint32_t path_4level(struct x86_cpu *c, uint64_t lin, struct path *p) {
    uint64_t rsvd = reserved_high(c);
    uint64_t e = entry_read(c, p, (c->s.cr3 & PTE_ADDR) + (lin >> 39 & 0x1ff) * 8);
    uint32_t fault = path_add(p, e, rsvd | PTE_PS);
    if (fault)
        return fault;
    e = entry_read(c, p, (e & PTE_ADDR) + (lin >> 30 & 0x1ff) * 8);
    bool huge = e & PTE_PS;
    uint64_t huge_rsvd = x86_has(c->cpuid, FEAT_PDPE1GB) ? 0x3fffe000u : PTE_PS;
    fault = path_add(p, e, rsvd | (huge ? huge_rsvd : 0));
    if (fault || huge)
        return fault ? fault : path_leaf(p, e, 1ull << 30);
    return path_directory(c, e & PTE_ADDR, lin, p, rsvd);
}

/* What the page's protection key forbids to data accesses (SDM 3A 4.6.2): the access and write
 * disable bits that count here. */
static uint32_t key_denies(const struct x86_cpu *c, unsigned kind, const struct path *p) {
    enum { ACCESS = 1, WRITE = 2 };
    if (!c->lma || !(c->s.cr4 & (p->u ? CR4_PKE : CR4_PKS)))
        return 0;
    uint64_t rights = p->u ? c->s.pkru : c->s.msr.pkrs;
    bool writes_count = kind == TLB_USER || c->s.cr0 & CR0_WP;
    unsigned key = p->e[p->levels - 1].value >> 59 & 15;
    return rights >> 2 * key & (writes_count ? ACCESS | WRITE : ACCESS);
}

static bool may_read(const struct x86_cpu *c, unsigned kind, const struct path *p) {
    if (p->keys & 1)
        return false;
    if (kind == TLB_USER)
        return p->u;
    return !p->u || kind == TLB_SUPER_AC || !(c->s.cr4 & CR4_SMAP);
}

static bool may_write(const struct x86_cpu *c, unsigned kind, const struct path *p) {
    if (!may_read(c, kind, p) || p->keys)
        return false;
    return p->w || (kind != TLB_USER && !(c->s.cr0 & CR0_WP));
}

static bool may_fetch(const struct x86_cpu *c, unsigned kind, const struct path *p) {
    if (p->nx)
        return false;
    return kind == TLB_USER ? p->u : !p->u || !(c->s.cr4 & CR4_SMEP);
}

/* Sets `bits` in an entry unless it changed since it was read; false when it did. */
static bool entry_set(struct x86_cpu *c, struct path *p, struct entry *e, uint64_t bits) {
    if ((e->value & bits) == bits || !e->host)
        return true;
    uint64_t want = e->value | bits;
    bool done;
    if (p->wide) {
        done = __atomic_compare_exchange_n((uint64_t *)e->host, &e->value, want, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        uint32_t old = (uint32_t)e->value;
        done = __atomic_compare_exchange_n((uint32_t *)e->host, &old, (uint32_t)want, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (done) {
        e->value = want;
        mmu_wrote(c, e->host, p->wide ? 8 : 4);
    }
    return done;
}

static bool path_mark(struct x86_cpu *c, struct path *p, bool write) {
    for (unsigned n = 0; n < p->levels; n++) {
        bool leaf = n == p->levels - 1;
        if (!entry_set(c, p, &p->e[n], leaf && write ? PTE_A | PTE_D : PTE_A))
            return false;
    }
    return true;
}

static uint32_t access_error(const struct x86_cpu *c, unsigned kind, unsigned access) {
    bool nx = c->s.efer & EFER_NXE && c->s.cr4 & CR4_PAE;
    return (access & WALK_W ? PF_W : 0) | (kind == TLB_USER ? PF_U : 0) |
           (access & WALK_FETCH && (nx || c->s.cr4 & CR4_SMEP) ? PF_I : 0);
}

static uint32_t key_error(const struct path *p, unsigned access) {
    bool denied = access & WALK_FETCH ? 0 : access & WALK_W ? p->keys : p->keys & 1;
    return denied ? PF_PK : 0;
}

static uint32_t path_find(struct x86_cpu *c, uint64_t lin, struct path *p) {
    *p = (struct path){.w = true, .u = true, .wide = c->s.cr4 & CR4_PAE};
    return c->lma ? path_4level(c, lin, p) : p->wide ? path_pae(c, lin, p) : path_32(c, lin, p);
}

static void walk_unpaged(uint64_t lin, struct walk *w) {
    *w = (struct walk){
        .gpa = lin, .page_bytes = PAGE_SIZE, .read = true, .write = true, .fetch = true};
}

uint32_t walk(struct x86_cpu *c, unsigned kind, uint64_t lin, unsigned access, struct walk *w) {
    struct path p;
    bool write = access & WALK_W;
    if (!c->paging) {
        walk_unpaged(lin, w);
        return 0;
    }
    do {
        uint32_t fault = path_find(c, lin, &p);
        if (fault)
            return fault | access_error(c, kind, access);
        p.keys = key_denies(c, kind, &p);
        bool ok = access & WALK_FETCH ? may_fetch(c, kind, &p)
                  : write             ? may_write(c, kind, &p)
                                      : may_read(c, kind, &p);
        if (!ok)
            return WALK_FAULT | PF_P | access_error(c, kind, access) | key_error(&p, access);
    } while (!path_mark(c, &p, write));
    uint64_t leaf = p.e[p.levels - 1].value;
    *w = (struct walk){
        .gpa = p.base | (lin & (p.page_bytes - 1)),
        .page_bytes = p.page_bytes,
        .global = leaf & PTE_G && c->s.cr4 & CR4_PGE,
        .read = may_read(c, kind, &p),
        .write = may_write(c, kind, &p) && leaf & PTE_D,
        .fetch = may_fetch(c, kind, &p),
    };
    return 0;
}

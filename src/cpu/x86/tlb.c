/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Invalidation of the software TLB: address-space ids stand for PCIDs, so that most flushes only
 * take a fresh id. Large pages are kept as 4 KiB entries; two small hashes say where some may be.
 * SDM 3A 4.10.
 */
#include "cpu/x86/tlb.h"

#include "cpu/x86/mmu.h"

#define ASID_MAX 2047u

static void entry_drop(struct tlb_entry *e) {
    e->rd = e->wr = e->ex = TLB_INVALID;
    e->mask = UINT64_MAX;
}

void tlb_init(struct x86_cpu *c) {
    for (unsigned kind = 0; kind < TLB_COUNT; kind++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            entry_drop(&c->tlbs[kind][n]);
}

static unsigned current_pcid(const struct x86_cpu *c) {
    return c->s.cr4 & CR4_PCIDE ? c->s.cr3 & 0xfff : 0;
}

/* Calls `fn` for every slot that may hold something. */
static void each_used(struct x86_cpu *c, void (*fn)(struct tlb_entry *e, const void *arg),
                      const void *arg) {
    for (unsigned kind = 0; kind < TLB_OFF; kind++)
        for (unsigned word = 0; word < TLB_SIZE / 64; word++)
            for (uint64_t bits = c->tlb_used[kind][word]; bits; bits &= bits - 1)
                fn(&c->tlbs[kind][word * 64 + (unsigned)__builtin_ctzll(bits)], arg);
}

static void drop_used(struct tlb_entry *e, const void *arg) {
    (void)arg;
    entry_drop(e);
}

static void drop_all(struct x86_cpu *c) {
    each_used(c, drop_used, NULL);
    memset(c->tlb_used, 0, sizeof c->tlb_used);
    memset(c->large_2m, 0, sizeof c->large_2m);
    memset(c->large_1g, 0, sizeof c->large_1g);
    c->low_global = false;
}

/* Ids start anew; nothing of what they stood for may be left. */
static void forget_spaces(struct x86_cpu *c) {
    drop_all(c);
    memset(c->asid_of, 0, sizeof c->asid_of);
    c->asid_last = 0;
    c->paging_gen++;
    c->space_gen++;
}

static void assign_asid(struct x86_cpu *c, unsigned pcid) {
    if (c->asid_last == ASID_MAX)
        forget_spaces(c);
    c->asid_of[pcid] = ++c->asid_last;
}

static void use_pcid(struct x86_cpu *c) {
    unsigned pcid = current_pcid(c);
    if (!c->asid_of[pcid])
        assign_asid(c, pcid);
    c->asid = (uint64_t)c->asid_of[pcid] << TLB_ASID_SHIFT;
    cpu_update_mode(c);
}

void mmu_flush_all(struct x86_cpu *c) {
    forget_spaces(c);
    use_pcid(c);
}

void mmu_flush_nonglobal(struct x86_cpu *c) {
    memset(c->asid_of, 0, sizeof c->asid_of);
    use_pcid(c);
}

void mmu_flush_pcid(struct x86_cpu *c, unsigned pcid) {
    c->asid_of[pcid & 0xfff] = 0;
    use_pcid(c);
}

void mmu_switch_space(struct x86_cpu *c, bool keep) {
    if (!keep)
        c->asid_of[current_pcid(c)] = 0;
    use_pcid(c);
}

/* ---- single pages ---- */

/* The upper half, where a kernel maps all memory with large pages, has bits of its own. */
static unsigned hash_2m(uint64_t lin) {
    return (unsigned)(((lin >> 21 ^ lin >> 31) & 1023) | lin >> 63 << 10);
}

static unsigned hash_1g(uint64_t lin) {
    return (unsigned)((lin >> 30 & 1023) | lin >> 63 << 10);
}

static bool hash_test(const uint64_t *set, unsigned bit) {
    return set[bit / 64] >> (bit % 64) & 1;
}

void tlb_note_large(struct x86_cpu *c, uint64_t lin, uint64_t page_bytes) {
    if (page_bytes >= 1ull << 30)
        c->large_1g[hash_1g(lin) / 64] |= 1ull << (hash_1g(lin) % 64);
    else
        c->large_2m[hash_2m(lin) / 64] |= 1ull << (hash_2m(lin) % 64);
}

struct range {
    uint64_t first, pages;
};

static void drop_within(struct tlb_entry *e, const void *arg) {
    const struct range *r = arg;
    uint64_t tag = (e->rd != TLB_INVALID ? e->rd : e->ex) & TLB_PAGE_BITS;
    if (tag - r->first < r->pages)
        entry_drop(e);
}

static void drop_range(struct x86_cpu *c, uint64_t lin, uint64_t bytes) {
    const struct range r = {lin >> PAGE_SHIFT & TLB_PAGE_BITS, bytes >> PAGE_SHIFT};
    each_used(c, drop_within, &r);
}

/* How much around `lin` has to go: the entries of a large page are many. */
static uint64_t bytes_around(const struct x86_cpu *c, uint64_t lin) {
    const uint64_t big = 4ull << 20; /* both halves of a 4 MiB page */
    if (hash_test(c->large_1g, hash_1g(lin)))
        return 1ull << 30;
    if (hash_test(c->large_2m, hash_2m(lin & ~(big - 1))) ||
        hash_test(c->large_2m, hash_2m(lin | (big / 2))))
        return big;
    return PAGE_SIZE;
}

/*
 * Drops more than asked for (any PCID's entry in the slot), which the architecture allows. Where a
 * page may be global and its entries anywhere, or they are another PCID's, all slots are searched.
 */
static void drop_page(struct x86_cpu *c, uint64_t lin, bool anywhere) {
    uint64_t bytes = bytes_around(c, lin), first = lin & ~(bytes - 1);
    if (bytes > PAGE_SIZE || anywhere || c->low_global)
        drop_range(c, first, bytes);
    else
        for (unsigned kind = 0; kind < TLB_OFF; kind++)
            entry_drop(tlb_slot(c, c->tlbs[kind], lin));
    if (c->pages_dropped)
        c->pages_dropped(c, first, bytes);
    c->paging_gen++;
    cpu_update_mode(c);
}

void mmu_flush_page(struct x86_cpu *c, uint64_t linear) {
    drop_page(c, linear, false);
}

void mmu_flush_page_pcid(struct x86_cpu *c, uint64_t linear, unsigned pcid) {
    drop_page(c, linear, pcid != current_pcid(c));
}

/* ---- larger events ---- */

void mmu_watch_changed(struct x86_cpu *c) {
    drop_all(c);
}

static void note_ram(struct x86_cpu *c) {
    struct mem_hit hit;
    unsigned n = 0;
    memset(c->ram_run, 0, sizeof c->ram_run);
    for (uint64_t gpa = 0; n < ARRAY_LEN(c->ram_run); gpa += hit.bytes) {
        mem_lookup(c->mem, GPA(gpa), &hit);
        if (hit.kind == MEM_RAM)
            c->ram_run[n++] = (struct ram_run){gpa, hit.bytes, hit.host};
        if (hit.bytes == 0 || gpa + hit.bytes < gpa || gpa + hit.bytes >= 1ull << 52)
            break;
    }
}

void mmu_remap(struct x86_cpu *c) {
    note_ram(c);
    c->apic_page = c->v.irqchip ? c->v.irqchip->mmio_base(c->v.apic) : UINT64_MAX;
    mmu_flush_all(c);
}

void mmu_load_pdptes(struct x86_cpu *c, uint64_t cr3) {
    uint64_t e[4];
    const uint64_t present = 1;
    /* SDM 3A 4.4.1: bits 1, 2, 5..8 and those above the physical width are reserved. */
    uint64_t rsvd = 0x1e6 | ~((1ull << c->cpuid->phys_bits) - 1);
    for (unsigned n = 0; n < 4; n++) {
        e[n] = mem_io_read(c->mem, GPA((cr3 & 0xffffffe0u) + 8 * n), 8);
        if (e[n] & present && e[n] & rsvd)
            cpu_raise_err(c, EXC_GP, 0);
    }
    memcpy(c->s.pdpte, e, sizeof e);
}

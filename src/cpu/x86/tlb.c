/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Invalidation of the software TLB: address-space ids stand for PCIDs, so that most flushes only
 * take a fresh id. Large pages are kept as 4 KiB entries; two small hashes say where some may be.
 * SDM 3A 4.10.
 */
#include "cpu/x86/tlb.h"

#include "cpu/x86/mmu.h"

#define ASID_SHIFT 52
#define ASID_MAX 2047u

static void entry_drop(struct tlb_entry *e) {
    e->rd = e->wr = e->ex = TLB_INVALID;
    e->mask = UINT64_MAX;
}

static unsigned current_pcid(const struct x86_cpu *c) {
    return c->s.cr4 & CR4_PCIDE ? c->s.cr3 & 0xfff : 0;
}

static void forget_lookups(struct x86_cpu *c) {
    c->paging_gen++;
    cpu_update_mode(c);
}

static void drop_all(struct x86_cpu *c) {
    for (unsigned kind = 0; kind < TLB_COUNT; kind++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            entry_drop(&c->tlbs[kind][n]);
    memset(c->large_2m, 0, sizeof c->large_2m);
    memset(c->large_1g, 0, sizeof c->large_1g);
}

static void assign_asid(struct x86_cpu *c, unsigned pcid) {
    if (c->asid_last == ASID_MAX) {
        drop_all(c);
        memset(c->asid_of, 0, sizeof c->asid_of);
        c->asid_last = 0;
        c->paging_gen++;
    }
    c->asid_of[pcid] = ++c->asid_last;
}

static void use_pcid(struct x86_cpu *c) {
    unsigned pcid = current_pcid(c);
    if (!c->asid_of[pcid])
        assign_asid(c, pcid);
    c->asid = (uint64_t)c->asid_of[pcid] << ASID_SHIFT;
    cpu_update_mode(c);
}

void mmu_flush_all(struct x86_cpu *c) {
    drop_all(c);
    memset(c->asid_of, 0, sizeof c->asid_of);
    c->asid_last = 0;
    c->paging_gen++;
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

static unsigned hash_2m(uint64_t lin) {
    return (lin >> 21 ^ lin >> 31) & 1023;
}

static unsigned hash_1g(uint64_t lin) {
    return lin >> 30 & 1023;
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

static void drop_range(struct x86_cpu *c, uint64_t lin, uint64_t bytes) {
    uint64_t first = lin >> PAGE_SHIFT & ~((bytes >> PAGE_SHIFT) - 1) & TLB_PAGE_BITS;
    for (unsigned kind = 0; kind < TLB_OFF; kind++)
        for (unsigned n = 0; n < TLB_SIZE; n++) {
            struct tlb_entry *e = &c->tlbs[kind][n];
            uint64_t tag = (e->rd != TLB_INVALID ? e->rd : e->ex) & TLB_PAGE_BITS;
            if (tag - first < bytes >> PAGE_SHIFT)
                entry_drop(e);
        }
}

/* Drops more than asked for (any PCID's entry in the slot), which the architecture allows. */
static void drop_page(struct x86_cpu *c, uint64_t lin) {
    const uint64_t big = 4ull << 20; /* both halves of a 4 MiB page */
    if (hash_test(c->large_1g, hash_1g(lin)))
        drop_range(c, lin, 1ull << 30);
    else if (hash_test(c->large_2m, hash_2m(lin & ~(big - 1))) ||
             hash_test(c->large_2m, hash_2m(lin | (big / 2))))
        drop_range(c, lin, big);
    else
        for (unsigned kind = 0; kind < TLB_OFF; kind++)
            entry_drop(tlb_slot(c->tlbs[kind], lin));
}

void mmu_flush_page(struct x86_cpu *c, uint64_t linear) {
    drop_page(c, linear);
    forget_lookups(c);
}

void mmu_flush_page_pcid(struct x86_cpu *c, uint64_t linear, unsigned pcid) {
    (void)pcid;
    mmu_flush_page(c, linear);
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

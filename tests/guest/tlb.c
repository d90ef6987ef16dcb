/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What invalidates translations: INVLPG, CR3, CR4, CR0, PCIDs and INVPCID. Only what the SDM
 * (4.10.4) guarantees: that a new translation is used after an invalidation. A stale one before it
 * is allowed and not asked for.
 */
#include "lib.h"
#include "paging.h"

#define V 0x10000000000ul

static uint64_t *pages[2]; /* hold 0 and 1 */
static unsigned current;

static ulong look(void) {
    return *(volatile uint64_t *)V;
}

/* Makes sure that a translation is there to be forgotten, then points V at the other page behind
 * its back. */
static void change(uint64_t flags) {
    (void)look();
    current ^= 1;
    *(volatile uint64_t *)page_entry(V, 1) = (ulong)pages[current] | PTE_P | PTE_W | PTE_U | flags;
}

#define SEEN(name) check_eq(name, look(), current)

static void invpcid(ulong type, ulong pcid, ulong address) {
    ulong d[2] = {pcid, address};

    asm volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

static void test_plain(uint64_t flags, const char *what) {
    print("%s\n", what);
    change(flags);
    invlpg((void *)V);
    SEEN("after invlpg");
    change(flags);
    invlpg((void *)(V + 4095));
    SEEN("after invlpg of the page's last byte");
    change(flags);
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
    SEEN("after CR4.PGE changed");
    if (flags)
        return;
    change(flags);
    write_cr3(read_cr3());
    SEEN("after mov to CR3");
}

/* From less rights to more no invalidation is needed, but for one spurious fault at most. */
static void test_upgrade(void) {
    uint64_t *pte = page_entry(V, 1);

    *pte = 0;
    invlpg((void *)V);
    TRY("mov (%0), %%al", ::"r"(V) : "rax");
    *(volatile uint64_t *)pte = (ulong)pages[0] | PTE_P;
    CHECK_TRY("not-present is not cached", -1, 0, "mov (%0), %%al", ::"r"(V) : "rax");
    *(volatile uint64_t *)pte = (ulong)pages[0] | PTE_P | PTE_W;
    TRY("addl $0, (%0)", ::"r"(V) : "memory");
    CHECK_TRY("a fault forgets the translation", -1, 0, "addl $0, (%0)", ::"r"(V) : "memory");
    *(volatile uint64_t *)pte = (ulong)pages[0] | PTE_P;
    invlpg((void *)V);
    CHECK_TRY("rights taken away, after invlpg", 14, 3, "addl $0, (%0)", ::"r"(V) : "memory");
}

/* The paging-structure caches follow too: a page table is replaced under its directory entry. */
static void test_structures(void) {
    uint64_t *tables[2] = {page_alloc(1), page_alloc(1)};
    volatile uint64_t *pde = page_entry(V, 2);

    tables[0][0] = (ulong)pages[0] | PTE_P | PTE_W;
    tables[1][0] = (ulong)pages[1] | PTE_P | PTE_W;
    for (current = 0; current < 2; current++) {
        *pde = (ulong)tables[current] | PTE_P | PTE_W;
        invlpg((void *)V);
        SEEN("page table replaced, after invlpg");
    }
    *pde = 0x2200000 | PTE_P | PTE_PS;
    *(uint64_t *)0x2200000 = 0x77;
    invlpg((void *)V);
    check_eq("a table becomes a large page", look(), 0x77);
    *pde = (ulong)tables[0] | PTE_P | PTE_W;
    invlpg((void *)(V + 0x100000));
    check_eq("invlpg anywhere in a large page forgets all of it", look(), 0);
    current = 0;
}

static void test_paging_off(void) {
    change(PTE_G);
    extern void paging_off_and_on(void);
    paging_off_and_on();
    SEEN("after CR0.PG went off and on, global");
}

static void test_pcid(void) {
    ulong root = read_cr3();

    if (!cpu_has1c(17)) {
        skip("PCID", "not there");
        return;
    }
    write_cr3(root | 8);
    check_eq("#GP setting PCIDE with a PCID that is not 0", (ulong)try_cr4(read_cr4() | CR4_PCIDE),
             13);
    write_cr3(root);
    check_eq("setting PCIDE", (ulong)try_cr4(read_cr4() | CR4_PCIDE), -1ul);
    check_eq("#GP PG cleared under PCIDE", (ulong)try_cr0(read_cr0() & ~CR0_PG), 13);
    write_cr3(root | 1);
    check_eq("CR3 reads with its PCID", read_cr3(), root | 1);
    change(0);
    write_cr3(root | 1);
    SEEN("after mov to CR3 with the same PCID");
    change(0);
    write_cr3(root | 2);
    SEEN("after mov to CR3 with another PCID");
    change(0);
    write_cr3(root | 1);
    SEEN("back, with bit 63 clear");
    write_cr3(1ul << 63 | root | 2);
    check_eq("bit 63 of CR3 reads as 0", read_cr3(), root | 2);
    invlpg((void *)V);
    SEEN("after invlpg under the PCID");
    change(0);
    write_cr3(1ul << 63 | root | 1);
    write_cr3(root | 2);
    SEEN("bit 63 clear invalidates the new PCID");
    write_cr3(root);
}

static void test_invpcid(void) {
    ulong root = read_cr3(), bad[2] = {1ul << 12, V}, hole[2] = {0, 1ul << 47};

    if (!cpu_has7(10) || !(read_cr4() & CR4_PCIDE)) {
        skip("INVPCID", "not there");
        return;
    }
    change(0);
    invpcid(0, 0, V);
    SEEN("invpcid of an address");
    change(0);
    invpcid(1, 0, 0);
    SEEN("invpcid of a PCID");
    change(PTE_G);
    invpcid(2, 0, 0);
    SEEN("invpcid of all, global");
    change(0); /* what look() brought in was global still */
    invpcid(2, 0, 0);
    change(0);
    invpcid(3, 0, 0);
    SEEN("invpcid of all but global");
    write_cr3(root | 5);
    change(0);
    write_cr3(1ul << 63 | root);
    invpcid(0, 5, V);
    write_cr3(1ul << 63 | root | 5);
    SEEN("invpcid of another PCID's address");
    change(0);
    write_cr3(1ul << 63 | root);
    invpcid(1, 5, 0);
    write_cr3(1ul << 63 | root | 5);
    SEEN("invpcid of another PCID");
    write_cr3(root);
    CHECK_TRY("#GP invpcid of type 4", 13, 0, "invpcid %0, %1", ::"m"(bad), "r"(4ul));
    CHECK_TRY("#GP invpcid with a reserved bit", 13, 0, "invpcid %0, %1", ::"m"(bad), "r"(0ul));
    CHECK_TRY("#GP invpcid of a non-canonical address", 13, 0, "invpcid %0, %1", ::"m"(hole),
              "r"(0ul));
}

static void test_pcid_off(void) {
    if (!(read_cr4() & CR4_PCIDE))
        return;
    change(PTE_G);
    write_cr4(read_cr4() & ~(ulong)CR4_PCIDE);
    SEEN("after CR4.PCIDE went off, global");
}

int main(void) {
    for (int i = 0; i < 2; i++) {
        pages[i] = page_alloc(1);
        *pages[i] = (uint64_t)i;
    }
    page_map(V, (ulong)pages[0], 1, PTE_P | PTE_W | PTE_U);
    write_cr4(read_cr4() | CR4_PGE);
    test_plain(0, "a page:");
    test_plain(PTE_G, "a global page:");
    test_upgrade();
    page_map(V, (ulong)pages[0], 1, PTE_P | PTE_W | PTE_U);
    current = 0;
    test_paging_off();
    test_structures();
    test_pcid();
    test_invpcid();
    test_pcid_off();
    return 0;
}

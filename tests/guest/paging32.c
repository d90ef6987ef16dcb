/* SPDX-License-Identifier: Apache-2.0 */
/* 32-bit and PAE paging: A/D bits, WP, U/S, 4 MiB and 2 MiB pages, NX, reserved bits, and the PDPTE
 * registers. */
#include "lib.h"

enum { P = 1, W = 2, U = 4, ACC = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
enum { V = 0x40000000 }; /* a page of ours, in directory entry 256 (32-bit), PDPTE 1 (PAE) */

static volatile uint32_t *dir, *table;
static uint8_t *page;

static void flush(void) {
    write_cr3(read_cr3());
}

/* Identity for the first 4 MiB and for 16 to 20 MiB, where page_alloc() is, by 4 MiB pages. */
static void enable_32(void) {
    dir = page_alloc(1);
    table = page_alloc(1);
    page = page_alloc(2);
    dir[0] = 0 | P | W | U | PS;
    dir[4] = 0x1000000 | P | W | U | PS;
    dir[V >> 22] = (uint32_t)table | P | W | U;
    table[0] = (uint32_t)page | P | W | U;
    write_cr4(read_cr4() | CR4_PSE);
    write_cr3((ulong)dir);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

#define READ(name, error)                                                                          \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error), "mov (%0), %%al", ::"r"(V) : "eax")
#define WRITE(name, error)                                                                         \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error), "movb $1, (%0)", ::"r"(V) : "memory")
#define FETCH(name, error)                                                                         \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error),                                         \
              "mov $98f, %%ebx; jmp *%0; 98:", ::"r"(V)                                            \
              : "ebx")

static void user_read(void) {
    asm volatile("mov %0, %%al" ::"m"(*(uint8_t *)V) : "eax");
}

static void user_write(void) {
    asm volatile("movb $1, %0" : "=m"(*(uint8_t *)V));
}

static void user(const char *name, void (*fn)(void), int error) {
    user_run(fn);
    if (error < 0)
        check_eq(name, (ulong)trap.vector, VECTOR_USER_EXIT);
    else
        check_trap(name, 14, (ulong)error);
}

static void test_rights_32(void) {
    table[0] = (uint32_t)page | P | W | U;
    flush();
    READ("32-bit, read", -1);
    check(table[0] & ACC && !(table[0] & D) && dir[V >> 22] & ACC, "A set, D clear", "0x%x 0x%x",
          table[0], dir[V >> 22]);
    WRITE("32-bit, write", -1);
    check(table[0] & D, "D set", "0x%x", table[0]);
    user("user write", user_write, -1);
    table[0] = 0;
    flush();
    READ("read of a page not present", 0);
    check_eq("CR2", trap.cr2, V);
    WRITE("write to a page not present", 2);
    FETCH("fetch from a page not present, without NX", 0);
    user("user read of a page not present", user_read, 4);
    table[0] = (uint32_t)page | P | U;
    flush();
    WRITE("write to a read-only page", 3);
    user("user write to a read-only page", user_write, 7);
    write_cr0(read_cr0() & ~(ulong)CR0_WP);
    WRITE("write without WP", -1);
    write_cr0(read_cr0() | CR0_WP);
    table[0] = (uint32_t)page | P | W;
    flush();
    user("user read of a supervisor page", user_read, 5);
    table[0] |= U;
    dir[V >> 22] &= ~(uint32_t)U;
    flush();
    user("user read below a supervisor entry", user_read, 5);
    dir[V >> 22] = (dir[V >> 22] | U) & ~(uint32_t)W;
    flush();
    WRITE("write below a read-only entry", 3);
    dir[V >> 22] |= W;
    flush();
}

static void test_large_32(void) {
    uint32_t at = V + 0x400000;

    *(uint32_t *)0x1234560 = 0xabcdef01;
    dir[at >> 22] = 0x1000000 | P | W | PS;
    flush();
    check_eq("4 MiB page", *(volatile uint32_t *)(at + 0x234560), 0xabcdef01);
    check(dir[at >> 22] & ACC && !(dir[at >> 22] & D), "A of a 4 MiB page", "0x%x", dir[at >> 22]);
    *(volatile uint32_t *)(at + 0x234560) = 0;
    check(dir[at >> 22] & D, "D of a 4 MiB page", "0x%x", dir[at >> 22]);
    dir[at >> 22] |= 1 << 21;
    flush();
    CHECK_TRY("reserved bit 21 of a 4 MiB page", 14, 9, "mov (%0), %%al", ::"r"(at) : "eax");
    /* Without PSE bit 7 of a directory entry is ignored. */
    dir[at >> 22] = (uint32_t)table | P | W | PS;
    flush();
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(read_cr4() & ~(ulong)CR4_PSE);
    {
        uint32_t *low = page_alloc(2);

        /* Identity by 4 KiB pages where we run and where our tables are. */
        for (unsigned i = 0; i < 1024; i++) {
            low[i] = i << 12 | P | W;
            low[1024 + i] = (0x1000000 + (i << 12)) | P | W;
        }
        dir[0] = (uint32_t)low | P | W;
        dir[4] = (uint32_t)(low + 1024) | P | W;
        page[5] = 0x5a;
        write_cr0(read_cr0() | CR0_PG);
        CHECK_TRY("PS without CR4.PSE", -1, 0, "mov (%0), %%al", ::"r"(at) : "eax");
        check_eq("is a table's entry", *(volatile uint8_t *)(at + 5), 0x5a);
    }
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(read_cr4() | CR4_PSE);
}

static volatile uint64_t *pdpt, *pd0, *pd1, *pt;

static void enable_pae(void) {
    pdpt = page_alloc(1);
    pd0 = page_alloc(1);
    pd1 = page_alloc(1);
    pt = page_alloc(1);
    pdpt[0] = (uint32_t)pd0 | P;
    pdpt[1] = (uint32_t)pd1 | P;
    for (unsigned i = 0; i < 16; i++)
        pd0[i] = i << 21 | P | W | U | PS;
    pd1[0] = (uint32_t)pt | P | W | U;
    pt[0] = (uint32_t)page | P | W | U;
    write_cr4(read_cr4() | CR4_PAE);
    wrmsr(0xc0000080, 0x800);
    write_cr3((ulong)pdpt);
    write_cr0(read_cr0() | CR0_PG);
}

static void test_rights_pae(void) {
    *(uint16_t *)page = 0xe3ff; /* jmp *%ebx */
    READ("PAE, read", -1);
    check(pt[0] & ACC && !(pt[0] & D), "PAE, A set, D clear", "0x%x", (unsigned)pt[0]);
    check(!(pdpt[1] & ACC), "PDPTEs have no A bit", "0x%x", (unsigned)pdpt[1]);
    FETCH("PAE, fetch", -1);
    pt[0] |= 1ull << 63;
    flush();
    FETCH("PAE, fetch from an NX page", 0x11);
    READ("PAE, read of an NX page", -1);
    pt[0] = (uint32_t)page | P | W | U;
    pd1[0] |= 1ull << 63;
    flush();
    FETCH("PAE, fetch below an NX entry", 0x11);
    pd1[0] = (uint32_t)pt | P | W | U;
    pt[0] = (uint32_t)page | P | W | U | 1ull << 52;
    flush();
    READ("PAE, reserved bit 52", 9);
    pt[0] = (uint32_t)page | P | U;
    flush();
    WRITE("PAE, write to a read-only page", 3);
    user("PAE, user write to a read-only page", user_write, 7);
    pt[0] = 0;
    flush();
    user("PAE, user read of a page not present", user_read, 4);
    pt[0] = (uint32_t)page | P | W | U;
    *(uint32_t *)0x234560 = 0x13579bdf;
    pd1[1] = 0x200000 | P | W | PS;
    flush();
    check_eq("2 MiB page", *(volatile uint32_t *)(V + 0x200000 + 0x34560), 0x13579bdf);
    pd1[1] |= 1 << 13;
    flush();
    CHECK_TRY("reserved bit 13 of a 2 MiB page", 14, 9, "mov (%0), %%al", ::"r"(V + 0x200000)
              : "eax");
}

/* SDM 4.4.1: the four entries are loaded with CR3 and checked then. */
static void test_pdpte(void) {
    uint64_t old = pdpt[1];

    pdpt[1] = 0;
    invlpg((void *)V);
    READ("a PDPTE changed in memory is not seen", -1);
    flush();
    READ("but after CR3 is loaded", 0);
    pdpt[1] = old | W;
    CHECK_TRY("#GP loading CR3 with a reserved bit in a PDPTE", 13, 0, "mov %0, %%cr3",
              ::"r"(read_cr3())
              : "memory");
    pdpt[1] = old | 1ull << 63;
    CHECK_TRY("#GP loading CR3 with bit 63 in a PDPTE", 13, 0, "mov %0, %%cr3", ::"r"(read_cr3())
              : "memory");
    pdpt[1] = old;
    pdpt[2] = W; /* not present: the rest is ignored */
    flush();
    READ("after CR3 is loaded with good ones", -1);
    pdpt[2] = 0;
    {
        volatile uint64_t *moved = pdpt + 4; /* aligned to 32 bytes, not to a page */

        moved[0] = pdpt[0];
        moved[1] = pdpt[1];
        write_cr3((ulong)moved);
        READ("PDPTEs need 32-byte alignment only", -1);
        write_cr3((ulong)pdpt);
    }
    pdpt[1] = 0;
    write_cr4(read_cr4() ^ CR4_PGE);
    READ("a change of CR4.PGE loads the PDPTEs", 0);
    write_cr4(read_cr4() ^ CR4_PGE);
    pdpt[1] = old;
    flush();
    check_eq("#GP CR4.PCIDE outside IA-32e mode", (ulong)try_cr4(read_cr4() | CR4_PCIDE), 13);
    CHECK_TRY("#GP EFER.LME under paging", 13, 0, "wrmsr", ::"c"(0xc0000080), "a"(0x900), "d"(0));
}

static void test_off(void) {
    write_cr0(read_cr0() & ~CR0_PG);
    *(volatile uint8_t *)0x1800000 = 0x77;
    check_eq("paging off again", *(volatile uint8_t *)0x1800000, 0x77);
}

int main(void) {
    enable_32();
    test_rights_32();
    test_large_32();
    enable_pae();
    test_rights_pae();
    test_pdpte();
    test_off();
    return 0;
}

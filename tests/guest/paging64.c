/* SPDX-License-Identifier: Apache-2.0 */
/* 4-level paging: rights at every level, A/D bits, reserved bits, large pages, error codes and CR2,
 * SMEP and SMAP. */
#include "lib.h"
#include "paging.h"

#define V 0x10000000000ul /* PML4 slot 2: ours */
#define JMP_RBX 0xe3ff    /* the code there: back to where the jump came from */
#define RSVD_51 (1ul << 51)

static uint64_t *data;

static void map_data(uint64_t flags) {
    data = page_alloc(2);
    page_map(V, (ulong)data, 1, flags);
    page_map(V + 4096, (ulong)data + 4096, 1, flags);
}

static void test_accessed_dirty(void) {
    map_data(PTE_P | PTE_W | PTE_U);
    for (int level = 1; level <= 4; level++)
        *page_entry(V, level) &= ~(uint64_t)(PTE_A | PTE_D);
    write_cr3(read_cr3());
    (void)*(volatile uint64_t *)V;
    for (int level = 1; level <= 4; level++)
        check(*page_entry(V, level) & PTE_A, "read sets A at every level", "level %d", level);
    check(!(*page_entry(V, 1) & PTE_D), "read leaves D", "D is set");
    check(!(*page_entry(V + 4096, 1) & PTE_A), "another page's A is left", "A is set");
    *(volatile uint64_t *)V = 5;
    check(*page_entry(V, 1) & PTE_D, "write sets D", "D is clear");
    check(!(*page_entry(V, 2) & PTE_D), "write leaves the directory's bit 6", "it is set");
    *page_entry(V, 1) &= ~(uint64_t)PTE_D;
    invlpg((void *)V);
    asm volatile("cmpxchg %%rcx, (%0)" ::"r"(V), "a"(77ul), "c"(1ul) : "memory", "cc");
    check(*page_entry(V, 1) & PTE_D, "failing cmpxchg sets D", "D is clear");
    *page_entry(V, 1) &= ~(uint64_t)(PTE_D | PTE_A | PTE_W);
    invlpg((void *)V);
    TRY("movl $1, (%0)", ::"r"(V) : "memory");
    check(!(*page_entry(V, 1) & PTE_D), "refused write leaves D", "D is set");
}

static void user_read(void) {
    asm volatile("mov %0, %%rcx; mov (%%rcx), %%al" ::"i"(V) : "rax", "rcx");
}

static void user_write(void) {
    asm volatile("mov %0, %%rcx; movb $0xff, (%%rcx)" ::"i"(V) : "rcx", "memory");
}

static void user_fetch(void) {
    asm volatile("mov %0, %%rcx; lea 1f(%%rip), %%rbx; jmp *%%rcx; 1:" ::"i"(V)
                 : "rcx", "rbx", "memory");
}

static void expect_user(const char *name, void (*fn)(void), int error) {
    user_run(fn);
    if (error < 0) {
        check(trap.vector == VECTOR_USER_EXIT, name, "vector %d error 0x%lx", trap.vector,
              trap.error);
    } else {
        check_trap(name, 14, (ulong)error);
        check_eq("CR2 of that", trap.cr2, V);
    }
}

#define READ(name, error)                                                                          \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error), "mov (%0), %%al", ::"r"(V) : "rax")
#define WRITE(name, error)                                                                         \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error), "movb $0xff, (%0)", ::"r"(V) : "memory")
#define FETCH(name, error)                                                                         \
    CHECK_TRY(name, (error) < 0 ? -1 : 14, (ulong)(error),                                         \
              "lea 98f(%%rip), %%rbx; jmp *%0; 98:", ::"r"(V)                                      \
              : "rbx", "memory")

static void set_leaf(uint64_t flags) {
    page_map(V, (ulong)data, 1, flags);
    invlpg((void *)V);
}

static void test_rights(void) {
    map_data(PTE_P | PTE_W | PTE_U);
    *(uint16_t *)data = JMP_RBX;
    set_leaf(0);
    READ("read of a page not present", 0);
    check_eq("CR2", trap.cr2, V);
    WRITE("write to a page not present", 2);
    FETCH("fetch from a page not present", 0x10);
    expect_user("user read of a page not present", user_read, 4);
    expect_user("user write to a page not present", user_write, 6);
    expect_user("user fetch from a page not present", user_fetch, 0x14);
    set_leaf(PTE_P | PTE_U);
    READ("read of a read-only page", -1);
    WRITE("write to a read-only page", 3);
    CHECK_TRY("add to a read-only page", 14, 3, "addb $0, (%0)", ::"r"(V) : "memory");
    CHECK_TRY("failing cmpxchg on a read-only page", 14, 3, "cmpxchg %%ecx, (%0)", ::"r"(V), "a"(77)
              : "memory");
    expect_user("user write to a read-only page", user_write, 7);
    expect_user("user read of a read-only page", user_read, -1);
    write_cr0(read_cr0() & ~(ulong)CR0_WP);
    WRITE("write to a read-only page without WP", -1);
    expect_user("user write to a read-only page without WP", user_write, 7);
    write_cr0(read_cr0() | CR0_WP);
    set_leaf(PTE_P | PTE_W);
    expect_user("user read of a supervisor page", user_read, 5);
    expect_user("user write to a supervisor page", user_write, 7);
    expect_user("user fetch from a supervisor page", user_fetch, 0x15);
    set_leaf(PTE_P | PTE_W | PTE_U | PTE_NX);
    FETCH("fetch from an NX page", 0x11);
    expect_user("user fetch from an NX page", user_fetch, 0x15);
    READ("read of an NX page", -1);
    set_leaf(PTE_P | PTE_W | PTE_U);
    FETCH("fetch from a page that is not NX", -1);
    expect_user("user fetch from a page that is not NX", user_fetch, -1);
}

/* Rights are the least of all levels'. */
static void test_upper_rights(void) {
    map_data(PTE_P | PTE_W | PTE_U);
    *(uint16_t *)data = JMP_RBX;
    for (int level = 2; level <= 4; level++) {
        uint64_t *e = page_entry(V, level), old = *e;

        *e = old & ~(uint64_t)PTE_W;
        write_cr3(read_cr3());
        WRITE("write below a read-only entry", 3);
        *e = old & ~(uint64_t)PTE_U;
        write_cr3(read_cr3());
        expect_user("user read below a supervisor entry", user_read, 5);
        *e = old | PTE_NX;
        write_cr3(read_cr3());
        FETCH("fetch below an NX entry", 0x11);
        *e = old & ~(uint64_t)PTE_P;
        write_cr3(read_cr3());
        READ("read below an entry not present", 0);
        *e = old | RSVD_51;
        write_cr3(read_cr3());
        READ("reserved bit in an upper entry", 9);
        expect_user("user write, reserved bit in an upper entry", user_write, 0xf);
        *e = old;
        write_cr3(read_cr3());
        READ("all as before", -1);
    }
    *page_entry(V, 4) |= PTE_PS;
    write_cr3(read_cr3());
    READ("PS in a PML4 entry is reserved", 9);
    *page_entry(V, 4) &= ~(uint64_t)PTE_PS;
    set_leaf(PTE_P | PTE_W | PTE_U | RSVD_51);
    WRITE("reserved bit in a PTE", 0xb);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ul);
    set_leaf(PTE_P | PTE_W | PTE_U | PTE_NX);
    READ("NX is reserved without NXE", 9);
    set_leaf(0);
    FETCH("I/D is not told without NXE and SMEP", 0);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    write_cr3(read_cr3());
}

static void test_large(void) {
    ulong va = V + (1ul << 38);
    uint64_t *at = (uint64_t *)0x2345678;

    *at = 0x1122334455667788;
    page_map(va, 0x2200000, 2, PTE_P | PTE_W | PTE_PS);
    check_eq("2 MiB page", *(volatile uint64_t *)(va + 0x145678), *at);
    check(!(*page_entry(va, 2) & PTE_D), "read of a 2 MiB page leaves D", "D is set");
    *(volatile uint64_t *)(va + 0x145678) = 9;
    check_eq("write through a 2 MiB page", *at, 9);
    check(*page_entry(va, 2) & PTE_D, "write sets D of a 2 MiB page", "D is clear");
    *page_entry(va, 2) |= 1 << 13;
    invlpg((void *)va);
    CHECK_TRY("reserved bit 13 of a 2 MiB page", 14, 9, "mov (%0), %%al", ::"r"(va) : "rax");
    *page_entry(va, 2) &= ~(1ul << 13);
    *page_entry(va, 2) |= 1 << 12; /* PAT */
    invlpg((void *)(va + 0x1ff000));
    CHECK_TRY("PAT bit of a 2 MiB page", -1, 0, "mov (%0), %%al", ::"r"(va) : "rax");
    va += 1ul << 37;
    page_map(va, 0, 3, PTE_P | PTE_W | PTE_PS);
    if (!(cpuid(0x80000001, 0).d & 1 << 26)) {
        CHECK_TRY("PS in a PDPTE is reserved without 1 GiB pages", 14, 9, "mov (%0), %%al",
                  ::"r"(va)
                  : "rax");
        return;
    }
    check_eq("1 GiB page", *(volatile uint64_t *)(va + 0x2345678), *at);
    *page_entry(va, 3) |= 1 << 20;
    invlpg((void *)va);
    CHECK_TRY("reserved bit 20 of a 1 GiB page", 14, 9, "mov (%0), %%al", ::"r"(va) : "rax");
}

/* An access that ends on another page: nothing is written when that one faults. */
static void test_crossing(void) {
    uint8_t *p;

    map_data(PTE_P | PTE_W | PTE_U);
    page_map(V + 4096, 0, 1, 0);
    invlpg((void *)(V + 4096));
    CHECK_TRY("write across pages, second not present", 14, 2, "mov %1, (%0)", ::"r"(V + 4092),
              "r"(-1ul)
              : "memory");
    check_eq("CR2 is the second page", trap.cr2, V + 4096);
    check_eq("the first part is not written", data[511], 0);
    CHECK_TRY("read across pages, second not present", 14, 0, "mov (%0), %%rax", ::"r"(V + 4089)
              : "rax");
    check_eq("CR2 of the read", trap.cr2, V + 4096);
    p = (uint8_t *)data + 4094;
    p[0] = 0x90;
    p[1] = 0xb0; /* mov $imm, %al, whose immediate is on the next page */
    TRY("jmp *%0", ::"r"(V + 4095) : "memory", "rax");
    check_trap("fetch across pages, second not present", 14, 0x10);
    check_eq("CR2 of the fetch", trap.cr2, V + 4096);
    check_eq("RIP of the fetch", trap.ip, V + 4095);
    CHECK_TRY("rep movsb stops at the missing page", 14, 2, "rep movsb", ::"D"(V + 4090),
              "S"(0x100000), "c"(100)
              : "memory");
    check_eq("rep movsb wrote up to it", memcmp((uint8_t *)data + 4090, (void *)0x100000, 6), 0);
}

static void test_supervisor_modes(void) {
    map_data(PTE_P | PTE_W | PTE_U);
    *(uint16_t *)data = JMP_RBX;
    *page_entry(0x100000, 4) &= ~(uint64_t)PTE_U;
    write_cr3(read_cr3());
    if (cpu_has7(7)) {
        write_cr4(read_cr4() | CR4_SMEP);
        FETCH("SMEP, fetch from a user page", 0x11);
        READ("SMEP, read of a user page", -1);
        write_cr4(read_cr4() & ~(ulong)CR4_SMEP);
        FETCH("fetch from a user page without SMEP", -1);
    }
    if (cpu_has7(20)) {
        CHECK_TRY("stac without SMAP on", -1, 0, "stac; clac");
        write_cr4(read_cr4() | CR4_SMAP);
        READ("SMAP, read of a user page", 1);
        WRITE("SMAP, write to a user page", 3);
        FETCH("SMAP, fetch from a user page", -1);
        asm volatile("stac");
        READ("SMAP, read with AC", -1);
        WRITE("SMAP, write with AC", -1);
        data[16] = gdt[SEL_DATA >> 3];
        gdt_set(SEL_FREE, (uint32_t)V + 128, 7, 0x82, 0);
        gdt[(SEL_FREE >> 3) + 1] = V >> 32;
        asm volatile("lldt %w0" ::"r"(SEL_FREE));
        CHECK_TRY("SMAP, an implicit access faults with AC too", 14, 1, "mov %w0, %%ds", ::"r"(4));
        asm volatile("lldt %w0" ::"r"(0));
        asm volatile("clac");
        write_cr4(read_cr4() & ~(ulong)CR4_SMAP);
    }
    *page_entry(0x100000, 4) |= PTE_U;
    write_cr3(read_cr3());
}

static struct table_register far_gdt = {255, V};

static void user_load_segment(void) {
    asm volatile("mov %w0, %%ds" ::"r"(SEL_UDATA));
}

/* The processor's own accesses are a supervisor's, whatever the CPL. */
static void test_implicit(void) {
    struct table_register back = {GDT_ENTRIES * 8 - 1, (ulong)gdt};

    map_data(PTE_P | PTE_W);
    memcpy(data, gdt, 256);
    gdt[SEL_TSS >> 3] &= ~(2ull << 40);
    asm volatile("lgdt %0" ::"m"(far_gdt));
    user_run(user_load_segment);
    check(trap.vector == VECTOR_USER_EXIT, "user's segment load reads a supervisor GDT",
          "vector %d", trap.vector);
    /* The entry's own selectors are the GDT's too: keep its first half readable for the return to
     * CPL 0. */
    asm volatile("lgdt %0" ::"m"(back));
    gdt[SEL_FREE >> 3] = gdt[SEL_UDATA >> 3] & ~(1ull << 40);
    set_leaf(PTE_P);
    far_gdt.limit = SEL_FREE + 7;
    memcpy(data, gdt, 256);
    asm volatile("lgdt %0" ::"m"(far_gdt));
    CHECK_TRY("setting a descriptor's accessed bit on a read-only page", 14, 3, "mov %w0, %%ds",
              ::"r"(SEL_FREE));
    asm volatile("lgdt %0" ::"m"(back));
}

static void test_cr3(void) {
    unsigned width = cpuid(0x80000008, 0).a & 0xff;

    check(width >= 36 && width <= 52, "physical address width", "%u", width);
    check_eq("linear address width", cpuid(0x80000008, 0).a >> 8 & 0xff, 48);
    CHECK_TRY("#GP CR3 beyond the width", 13, 0, "mov %0, %%cr3", ::"r"(read_cr3() | 1ul << width));
    CHECK_TRY("#GP CR3 bit 63 without PCIDE", 13, 0, "mov %0, %%cr3",
              ::"r"(read_cr3() | 1ul << 63));
}

int main(void) {
    test_accessed_dirty();
    test_rights();
    test_upper_rights();
    test_large();
    test_crossing();
    test_supervisor_modes();
    test_implicit();
    test_cr3();
    return 0;
}

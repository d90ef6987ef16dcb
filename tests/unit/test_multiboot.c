/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1: finding the header, flat and ELF images, the information structure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot_guest.h"

#include "boot/multiboot.h"

#define MAGIC 0x1badb002u

static uint8_t img[0x3000];

static int setup(void **state) {
    (void)state;
    memset(img, 0, sizeof(img));
    return 0;
}

static void header(size_t off, uint32_t flags) {
    const uint32_t h[3] = {MAGIC, flags, 0u - (MAGIC + flags)};

    memcpy(img + off, h, sizeof(h));
}

/* Addresses for an image that starts at offset 0x100 of the file and is loaded to 2 MiB. */
static void flat(uint32_t load_end, uint32_t bss_end) {
    const uint32_t a[5] = {0x200100, 0x200000, load_end, bss_end, 0x200020};

    header(0x200, MULTIBOOT_ADDRESSES);
    memcpy(img + 0x20c, a, sizeof(a));
    memset(img + 0x120, 0x90, 16);
}

static void test_find(void **state) {
    (void)state;
    struct multiboot_header h;

    assert_false(multiboot_find(img, sizeof(img), &h));
    header(0x1000, 3);
    assert_true(multiboot_find(img, sizeof(img), &h));
    assert_int_equal(h.offset, 0x1000);
    assert_int_equal(h.flags, 3);
    img[0x1008] ^= 1; /* checksum */
    assert_false(multiboot_find(img, sizeof(img), &h));
    setup(NULL);
    header(0x1002, 0); /* not aligned */
    assert_false(multiboot_find(img, sizeof(img), &h));
    setup(NULL);
    header(8192 - 12, 0); /* the last place that counts */
    assert_true(multiboot_find(img, sizeof(img), &h));
    setup(NULL);
    header(8192 - 8, 0);
    assert_false(multiboot_find(img, sizeof(img), &h));
    header(0, MULTIBOOT_ADDRESSES);
    assert_false(multiboot_find(img, 31, &h)); /* the addresses are missing */
    assert_true(multiboot_find(img, 32, &h));
}

static void test_flat(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    flat(0x200400, 0x201000);
    memset(mem_ptr_w(g.m, GPA(0x200000), 0x1000), 0xcc, 0x1000);
    assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, "x", BOOT_AUTO), 0);
    assert_int_equal(g.result.protocol, BOOT_MULTIBOOT);
    assert_int_equal(g.bsp.rip, 0x200020);
    assert_int_equal(g.bsp.gpr[RAX], 0x2badb002);
    assert_int_equal(guest_u32(&g, 0x200020), 0x90909090);
    assert_int_equal(guest_u32(&g, 0x200100), MAGIC);
    assert_int_equal(guest_u32(&g, 0x200400), 0);
    assert_int_equal(guest_u32(&g, 0x200ffc), 0);
    assert_int_equal(guest_u32(&g, 0x201000), 0);              /* never touched */
    assert_int_equal(guest_u32(&g, 8 * 4), 0xf000f0a8);        /* the BIOS's timer interrupt */
    assert_int_equal(guest_u32(&g, 0xff0a8) & 0xffff, 0x501e); /* push %ds; push %ax */
    guest_free(&g);
}

static void expect_bad(const char *what) {
    struct guest g;

    guest_init(&g, 16 << 20);
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_AUTO) < 0);
    if (!strstr(err_msg(&g.err), what))
        fail_msg("%s: lacks \"%s\"", err_msg(&g.err), what);
    guest_free(&g);
}

static void test_bad_flat(void **state) {
    (void)state;
    flat(0x204000, 0);
    expect_bad("truncated");
    flat(0x1fffff, 0);
    expect_bad("ends before it starts");
    flat(0, 0x2000000);
    expect_bad("try --memory");
    flat(0, 0);
    memset(img + 0x210, 0xff, 4); /* load_addr after header_addr */
    expect_bad("does not precede");
    flat(0, 0);
    memset(img + 0x210, 0, 4); /* load_addr so far below that the file would start before itself */
    expect_bad("does not precede");
    header(0x200, 1 << 5);
    expect_bad("requires features");
}

static void elf32(void) {
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_entry = 0x400010,
                    .e_phoff = sizeof(h),
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 1};
    Elf32_Phdr p = {.p_type = PT_LOAD,
                    .p_offset = 0x1000,
                    .p_vaddr = 0x400000,
                    .p_paddr = 0x400000,
                    .p_filesz = 0x100,
                    .p_memsz = 0x5000};

    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(img, &h, sizeof(h));
    memcpy(img + sizeof(h), &p, sizeof(p));
    header(0x1000, 0);
}

static void check_mmap(const struct guest *g, uint64_t info) {
    uint32_t len = guest_u32(g, info + 44);
    uint64_t at = guest_u32(g, info + 48), usable = 0;
    unsigned entries = 0;

    for (uint64_t end = at + len; at < end; at += guest_u32(g, at) + 4, entries++)
        if (guest_u32(g, at + 20) == 1)
            usable += guest_u64(g, at + 12);
    assert_int_equal(entries, g->layout.map_count);
    assert_int_equal(usable, (64 << 20) - 0x100000 + 0x9fc00);
}

static void test_elf_with_module(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    elf32();
    assert_int_equal(guest_boot(&g, img, sizeof(img), "KEY=1\n", 6, "smp 2", BOOT_AUTO), 0);
    assert_int_equal(g.bsp.rip, 0x400010);
    assert_int_equal(guest_u32(&g, 0x400000), MAGIC);

    uint64_t info = g.bsp.gpr[RBX];
    assert_int_equal(guest_u32(&g, info), 0x24d);
    assert_int_equal(guest_u32(&g, info + 4), 639);
    assert_int_equal(guest_u32(&g, info + 8), 63 * 1024);
    /* The path, then the arguments. */
    const char *line = guest_at(&g, guest_u32(&g, info + 16), 32);
    assert_memory_equal(line, "/tmp/rf-boot-", 13);
    assert_string_equal(line + 19, " smp 2");
    assert_int_equal(guest_u32(&g, info + 20), 1);
    uint64_t module = guest_u32(&g, info + 24), start = guest_u32(&g, module);
    assert_int_equal(start, 0x405000); /* the page after the kernel's bss */
    assert_int_equal(guest_u32(&g, module + 4), start + 6);
    assert_memory_equal(guest_at(&g, start, 6), "KEY=1\n", 6);
    assert_memory_equal(guest_at(&g, guest_u32(&g, module + 8), 13), "/tmp/rf-boot-", 13);
    check_mmap(&g, info);
    assert_string_equal(guest_at(&g, guest_u32(&g, info + 64), 10), "ringfence");
    guest_free(&g);
}

static void test_without_module(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    elf32();
    assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_MULTIBOOT), 0);
    assert_int_equal(guest_u32(&g, g.bsp.gpr[RBX] + 20), 0);
    assert_int_equal(strlen(guest_at(&g, guest_u32(&g, g.bsp.gpr[RBX] + 16), 32)), 19);
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_PVH) < 0);
    assert_non_null(strstr(err_msg(&g.err), "not entered by PVH"));
    guest_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_find, setup),
        cmocka_unit_test_setup(test_flat, setup),
        cmocka_unit_test_setup(test_bad_flat, setup),
        cmocka_unit_test_setup(test_elf_with_module, setup),
        cmocka_unit_test_setup(test_without_module, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

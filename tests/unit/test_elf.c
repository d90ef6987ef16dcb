/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels: validation of every field that is used, notes, loading, the PVH entry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot_guest.h"

#include "base/util.h"
#include "boot/elf.h"

static uint8_t img[TEST_ELF_SIZE];

#define EHDR(field) (img + offsetof(Elf64_Ehdr, field))
#define PHDR(i, field)                                                                             \
    (img + sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))

static void set(uint8_t *at, uint64_t v, size_t n) {
    memcpy(at, &v, n);
}

static int setup(void **state) {
    (void)state;
    test_elf64(img);
    return 0;
}

static void expect_bad(size_t size, const char *what) {
    struct elf elf;
    struct err e = ERR_INIT;

    assert_true(elf_parse(&elf, img, size, &e) < 0);
    if (!strstr(err_msg(&e), what))
        fail_msg("%s: lacks \"%s\"", err_msg(&e), what);
    err_clear(&e);
}

static void test_parse(void **state) {
    (void)state;
    struct elf elf;
    uint32_t entry = 0;

    assert_int_equal(elf_parse(&elf, img, sizeof(img), NULL), 0);
    assert_true(elf.is64);
    assert_int_equal(elf.machine, EM_X86_64);
    assert_int_equal(elf.phnum, 2);
    assert_int_equal(elf_segment(&elf, 0).paddr, TEST_ELF_PADDR);
    assert_true(elf_find_pvh_entry(&elf, &entry));
    assert_int_equal(entry, TEST_ELF_ENTRY);
    assert_int_equal(elf_entry_paddr(&elf), TEST_ELF_ENTRY);
}

static void test_every_truncation(void **state) {
    (void)state;
    struct elf elf;

    for (size_t n = 0; n < sizeof(img); n++) {
        uint8_t *copy = malloc(n + !n); /* exact, for the address sanitizer */

        memcpy(copy, img, n);
        assert_true(elf_parse(&elf, copy, n, NULL) < 0);
        free(copy);
    }
}

static void test_bad_headers(void **state) {
    (void)state;
    img[EI_CLASS] = 3;
    expect_bad(sizeof(img), "class 3");
    setup(NULL);
    img[EI_DATA] = ELFDATA2MSB;
    expect_bad(sizeof(img), "little-endian");
    setup(NULL);
    set(EHDR(e_phnum), 0, 2);
    expect_bad(sizeof(img), "no program headers");
    set(EHDR(e_phnum), 0xffff, 2);
    expect_bad(sizeof(img), "65535 program headers");
    setup(NULL);
    set(EHDR(e_phentsize), 8, 2);
    expect_bad(sizeof(img), "program headers of 8");
    setup(NULL);
    set(EHDR(e_phoff), UINT64_MAX - 8, 8);
    expect_bad(sizeof(img), "truncated");
}

static void test_bad_segments(void **state) {
    (void)state;
    set(PHDR(0, p_offset), UINT64_MAX - 0x10, 8);
    expect_bad(sizeof(img), "truncated");
    setup(NULL);
    set(PHDR(0, p_filesz), UINT64_MAX, 8);
    expect_bad(sizeof(img), "truncated");
    setup(NULL);
    set(PHDR(0, p_memsz), 0x3f, 8);
    expect_bad(sizeof(img), "larger in the file");
    setup(NULL);
    set(PHDR(0, p_paddr), UINT64_MAX - 0x100, 8);
    expect_bad(sizeof(img), "wraps");
    setup(NULL);
    set(PHDR(1, p_filesz), sizeof(img), 8);
    expect_bad(sizeof(img), "truncated");
}

static bool has_pvh(void) {
    struct elf elf;
    uint32_t entry;

    assert_int_equal(elf_parse(&elf, img, sizeof(img), NULL), 0);
    return elf_find_pvh_entry(&elf, &entry);
}

static void test_notes(void **state) {
    (void)state;
    img[0x200 + 8] = 17; /* another type */
    assert_false(has_pvh());
    setup(NULL);
    img[0x200 + 12] = 'Y'; /* another owner */
    assert_false(has_pvh());
    setup(NULL);
    set(img + 0x200, UINT32_MAX, 4); /* a name that doesn't end */
    assert_false(has_pvh());
    setup(NULL);
    set(img + 0x204, 0x1000, 4); /* a description beyond the segment */
    assert_false(has_pvh());
    setup(NULL);
    set(img + 0x204, 8, 4); /* an 8-byte entry, as 64-bit kernels have it */
    set(PHDR(1, p_filesz), 24, 8);
    assert_true(has_pvh());
    set(img + 0x214, 1, 4); /* …but beyond 4 GiB */
    assert_false(has_pvh());
}

/* A note before the one that is looked for, in a segment with 8-byte alignment. */
static void test_notes_aligned_to_8(void **state) {
    (void)state;
    static const uint8_t NOTES[] = {4,   0,   0, 0, 12, 0,   0,   0,   5, 0,    0,    0, 'G',
                                    'N', 'U', 0, 0, 0,  0,   0,   0,   0, 0,    0,    0, 0,
                                    0,   0,   0, 0, 0,  0,   4,   0,   0, 0,    4,    0, 0,
                                    0,   18,  0, 0, 0,  'X', 'e', 'n', 0, 0x34, 0x12, 0, 0};
    struct elf elf;
    uint32_t entry = 0;

    memcpy(img + 0x200, NOTES, sizeof(NOTES));
    set(PHDR(1, p_filesz), sizeof(NOTES), 8);
    set(PHDR(1, p_align), 8, 8);
    assert_int_equal(elf_parse(&elf, img, sizeof(img), NULL), 0);
    assert_true(elf_find_pvh_entry(&elf, &entry));
    assert_int_equal(entry, 0x1234);
}

static void check_pvh_state(const struct x86_state *s) {
    assert_int_equal(s->rip, TEST_ELF_ENTRY);
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(s->cr4, 0);
    assert_int_equal(s->efer, 0);
    assert_int_equal(s->rflags, FLAG_FIXED);
    assert_int_equal(s->seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(s->seg[SEG_CS].limit, 0xffffffff);
    assert_int_equal(s->seg[SEG_DS].attr, 0xc093);
    assert_int_equal(s->seg[SEG_SS].attr, 0xc093);
    assert_int_equal(s->tr.limit, 0x67);
    assert_int_equal(s->tr.attr & 0xf, 0xb);
}

static void test_pvh_boot(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    memset(mem_ptr_w(g.m, GPA(TEST_ELF_PADDR), TEST_ELF_MEMSZ), 0xcc, TEST_ELF_MEMSZ);
    assert_int_equal(guest_boot(&g, img, sizeof(img), "initrd!", 7, "a=b", BOOT_AUTO), 0);
    assert_int_equal(g.result.protocol, BOOT_PVH);
    check_pvh_state(&g.bsp);
    assert_int_equal(guest_u32(&g, TEST_ELF_PADDR), 0x90909090);
    assert_int_equal(guest_u32(&g, TEST_ELF_PADDR + 0x40), 0); /* bss is cleared */

    uint64_t info = g.bsp.gpr[RBX];
    assert_int_equal(guest_u32(&g, info), 0x336ec578);
    assert_int_equal(guest_u32(&g, info + 4), 1);
    assert_int_equal(guest_u32(&g, info + 12), 1);
    uint64_t modules = guest_u64(&g, info + 16);
    assert_memory_equal(guest_at(&g, guest_u64(&g, modules), 7), "initrd!", 7);
    assert_int_equal(guest_u64(&g, modules + 8), 7);
    assert_string_equal(guest_at(&g, guest_u64(&g, info + 24), 4), "a=b");
    assert_int_equal(guest_u64(&g, info + 32), g.result.rsdp);
    uint64_t map = guest_u64(&g, info + 40);
    assert_int_equal(guest_u32(&g, info + 48), g.layout.map_count);
    assert_int_equal(guest_u64(&g, map + 3 * 24), 0x100000);
    assert_int_equal(guest_u64(&g, map + 3 * 24 + 8), 63 << 20);
    assert_int_equal(guest_u32(&g, map + 3 * 24 + 16), E820_RAM);
    guest_free(&g);
}

static void expect_boot_error(uint64_t ram, const char *what) {
    struct guest g;

    guest_init(&g, ram);
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_AUTO) < 0);
    if (!strstr(err_msg(&g.err), what))
        fail_msg("%s: lacks \"%s\"", err_msg(&g.err), what);
    guest_free(&g);
}

static void test_does_not_fit(void **state) {
    (void)state;
    expect_boot_error(2 << 20, "try --memory 128M");
    set(PHDR(0, p_paddr), 0xfee00000, 8);
    expect_boot_error(64 << 20, "not in usable memory");
    set(PHDR(0, p_paddr), 0x9f000, 8);
    expect_boot_error(64 << 20, "not in usable memory");
    set(PHDR(0, p_paddr), TEST_ELF_PADDR, 8);
    set(PHDR(0, p_memsz), 1ull << 40, 8);
    expect_boot_error(64 << 20, "not in usable memory");
    set(PHDR(0, p_memsz), 0, 8);
    set(PHDR(0, p_filesz), 0, 8);
    expect_boot_error(64 << 20, "nothing to load");
}

static void test_initrd_does_not_fit(void **state) {
    (void)state;
    struct guest g;
    static uint8_t big[7 << 20];

    guest_init(&g, 8 << 20);
    assert_true(guest_boot(&g, img, sizeof(img), big, sizeof(big), "", BOOT_AUTO) < 0);
    assert_memory_equal(err_msg(&g.err), "initrd /", 8);
    assert_non_null(strstr(err_msg(&g.err), "7 MiB does not fit beside the kernel in 8 MiB of "
                                            "memory; try --memory 128M"));
    guest_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_parse, setup),
        cmocka_unit_test_setup(test_every_truncation, setup),
        cmocka_unit_test_setup(test_bad_headers, setup),
        cmocka_unit_test_setup(test_bad_segments, setup),
        cmocka_unit_test_setup(test_notes, setup),
        cmocka_unit_test_setup(test_notes_aligned_to_8, setup),
        cmocka_unit_test_setup(test_pvh_boot, setup),
        cmocka_unit_test_setup(test_does_not_fit, setup),
        cmocka_unit_test_setup(test_initrd_does_not_fit, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

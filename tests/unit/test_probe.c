/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel file is, and what is said of one that cannot be started. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot_guest.h"

#include <sys/stat.h>
#include <zlib.h>

#include "base/util.h"
#include "boot/image.h"

static uint8_t img[4096];

/* Starts the image and compares the message behind "kernel PATH: ". */
static void expect(const uint8_t *data, size_t size, const char *message) {
    struct guest g;

    guest_init(&g, 16 << 20);
    assert_true(guest_boot(&g, data, size, NULL, 0, "", BOOT_AUTO) < 0);
    assert_memory_equal(err_msg(&g.err), "kernel /tmp/rf-boot-", 20);
    assert_string_equal(err_msg(&g.err) + 28, message);
    guest_free(&g);
}

static void expect_path(const char *path, const char *message) {
    struct guest g;

    guest_init(&g, 16 << 20);
    struct boot_params_in p = {.kernel = path, .layout = &g.layout, .vcpus = 1};

    assert_true(boot_load(g.m, &p, &g.bsp, NULL, &g.err) < 0);
    assert_non_null(strstr(err_msg(&g.err), path));
    assert_non_null(strstr(err_msg(&g.err), message));
    guest_free(&g);
}

static void elf_header(uint8_t class, uint8_t data, uint16_t type, uint16_t machine) {
    memset(img, 0, sizeof(img));
    memcpy(img, ELFMAG, SELFMAG);
    img[EI_CLASS] = class;
    img[EI_DATA] = data;
    bool big = data == ELFDATA2MSB;
    img[16 + big] = (uint8_t)type;
    img[18 + big] = (uint8_t)machine;
    img[19 - big] = (uint8_t)(machine >> 8);
}

static void test_foreign_elf(void **state) {
    (void)state;
    elf_header(ELFCLASS64, ELFDATA2LSB, ET_EXEC, EM_AARCH64);
    expect(img, sizeof(img), "built for AArch64, not for x86-64");
    elf_header(ELFCLASS64, ELFDATA2LSB, ET_EXEC, EM_RISCV);
    expect(img, sizeof(img), "built for RISC-V, not for x86-64");
    elf_header(ELFCLASS64, ELFDATA2MSB, ET_EXEC, EM_S390);
    expect(img, sizeof(img), "built for s390, not for x86-64");
    elf_header(ELFCLASS64, ELFDATA2MSB, ET_EXEC, EM_PPC64);
    expect(img, sizeof(img), "built for PowerPC64, not for x86-64");
}

static void test_foreign_formats(void **state) {
    (void)state;
    memset(img, 0, sizeof(img));
    memcpy(img + 56, "ARM\x64", 4);
    expect(img, sizeof(img), "built for AArch64, not for x86-64");
    uint8_t packed[4096];
    uLongf n = sizeof(packed);
    z_stream z = {0};

    /* Image.gz, as Debian's arm64 kernels are. */
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = img;
    z.avail_in = sizeof(img);
    z.next_out = packed;
    z.avail_out = (unsigned)n;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    expect(packed, z.total_out, "built for AArch64, not for x86-64");
    expect(packed, z.total_out - 9, "gzip: truncated: unexpected end of input");
    memset(img, 0, sizeof(img));
    memcpy(img + 48, "RISCV\0\0\0RSC\x05", 12);
    expect(img, sizeof(img), "built for RISC-V, not for x86-64");
}

static void test_not_kernels(void **state) {
    (void)state;
    const char *const none = "not a kernel: neither a bzImage nor an ELF file nor multiboot";

    memset(img, 0, sizeof(img));
    expect(img, sizeof(img), none);
    expect((const uint8_t *)"#!/bin/sh\n", 10, none);
    expect((const uint8_t *)"\x7f", 1, none);
    elf_header(ELFCLASS64, ELFDATA2LSB, ET_REL, EM_X86_64);
    expect(img, sizeof(img), "an ELF object or core file, not a kernel");
    elf_header(ELFCLASS64, ELFDATA2LSB, ET_EXEC, EM_X86_64);
    expect(img, sizeof(img),
           "an ELF file with neither a PVH note nor a multiboot header "
           "(Linux: CONFIG_PVH=y)");
}

static void test_kinds(void **state) {
    (void)state;
    uint8_t elf[TEST_ELF_SIZE];

    test_elf64(elf);
    assert_int_equal(image_identify(elf, sizeof(elf)).kind, IMAGE_PVH);
    assert_int_equal(image_identify(elf, 0).kind, IMAGE_UNKNOWN);
    memset(img, 0, sizeof(img));
    memcpy(img + 0x202, "HdrS", 4);
    img[0x1fe] = 0x55;
    img[0x1ff] = 0xaa;
    assert_int_equal(image_identify(img, sizeof(img)).kind, IMAGE_BZIMAGE);
    assert_int_equal(image_identify(img, 1023).kind, IMAGE_UNKNOWN);
    memcpy(img, "BZh9", 4);
    img[0x1fe] = 0;
    assert_int_equal(image_identify(img, sizeof(img)).kind, IMAGE_COMPRESSED);
}

static void test_files(void **state) {
    (void)state;
    char fifo[] = "/tmp/rf-fifo-XXXXXX";
    char *empty = file_with("", 0);

    expect_path("/nonexistent/vmlinuz", "open: No such file or directory");
    expect_path("/", "not a file but a directory");
    expect_path("/dev/null", "not a file but a device");
    expect_path(empty, "the file is empty");
    file_remove(empty);
    assert_int_equal(close(mkstemp(fifo)), 0);
    unlink(fifo);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_path(fifo, "not a file but a pipe"); /* and doesn't wait for a writer */
    unlink(fifo);
}

static void test_unreadable(void **state) {
    (void)state;
    char *path = file_with("x", 1);

    bool root = geteuid() == 0;

    chmod(path, 0);
    if (!root)
        expect_path(path, "open: Permission denied");
    file_remove(path);
    if (root)
        skip();
}

static void test_too_large(void **state) {
    (void)state;
    struct image i;
    struct err e = ERR_INIT;
    char *path = file_with("x", 1);

    assert_int_equal(truncate(path, (off_t)IMAGE_KERNEL_MAX + 1), 0);
    assert_true(image_read(&i, path, IMAGE_KERNEL_MAX, &e) < 0);
    assert_string_equal(err_msg(&e), "1024 MiB is too large: at most 1024 MiB");
    err_clear(&e);
    file_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_foreign_elf), cmocka_unit_test(test_foreign_formats),
        cmocka_unit_test(test_not_kernels), cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_files),       cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Linux kernel files of all protocol versions: header, payload, and what each entry finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot_guest.h"

#include <glob.h>
#include <zlib.h>

#include "base/util.h"
#include "boot/bzimage.h"
#include "dev/pc_layout.h"

#define SETUP_BYTES 2048 /* a boot sector and three more */
#define CODE_BYTES 0x4000
#define PAYLOAD_AT 0x400 /* in the protected-mode part */

static uint8_t img[SETUP_BYTES + CODE_BYTES];

static void set(size_t off, uint64_t v, size_t n) {
    memcpy(img + off, &v, n);
}

static uint32_t gzip(const uint8_t *in, size_t n, uint8_t *out, size_t room) {
    z_stream z = {0};

    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (uint8_t *)(uintptr_t)in;
    z.avail_in = (unsigned)n;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return (uint32_t)z.total_out;
}

/* A kernel of this version; its header fields are those that the version has. */
static void make(uint16_t version, uint8_t loadflags) {
    memset(img, 0, sizeof(img));
    memset(img + SETUP_BYTES, 0xf4, CODE_BYTES);
    img[HDR_SETUP_SECTS] = 3;
    set(HDR_SYSSIZE, CODE_BYTES / 16, 4);
    set(HDR_BOOT_FLAG, 0xaa55, 2);
    set(HDR_JUMP, 0x66eb, 2);
    memcpy(img + HDR_MAGIC, "HdrS", 4);
    set(HDR_VERSION, version, 2);
    img[HDR_LOADFLAGS] = loadflags;
    set(HDR_INITRD_ADDR_MAX, 0x7fffffff, 4);
    img[HDR_RELOCATABLE] = 1;
    set(HDR_XLOADFLAGS, XLF_KERNEL_64, 2);
    set(HDR_CMDLINE_SIZE, 2047, 4);
    set(HDR_PREF_ADDRESS, 0x1000000, 8);
    set(HDR_INIT_SIZE, 0x100000, 4);
}

static void make_with_payload(void) {
    uint8_t vmlinux[TEST_ELF_SIZE];

    make(0x20f, LOADED_HIGH);
    test_elf64(vmlinux);
    set(HDR_PAYLOAD_OFFSET, PAYLOAD_AT, 4);
    set(HDR_PAYLOAD_LENGTH,
        gzip(vmlinux, sizeof(vmlinux), img + SETUP_BYTES + PAYLOAD_AT, CODE_BYTES - PAYLOAD_AT), 4);
}

static void test_defaults(void **state) {
    (void)state;
    struct bzimage k;

    make(0x200, 0);
    assert_int_equal(bzimage_parse(&k, img, sizeof(img), NULL), 0);
    assert_int_equal(k.setup_bytes, SETUP_BYTES);
    assert_int_equal(k.code32_start, 0x10000);
    assert_int_equal(k.initrd_addr_max, 0x37ffffff);
    assert_int_equal(k.cmdline_size, 255);
    assert_false(k.relocatable);
    assert_int_equal(k.xloadflags, 0);
    assert_int_equal(k.init_size, 0);
    make(0x205, LOADED_HIGH);
    assert_int_equal(bzimage_parse(&k, img, sizeof(img), NULL), 0);
    assert_int_equal(k.code32_start, 0x100000);
    assert_int_equal(k.initrd_addr_max, 0x7fffffff);
    assert_true(k.relocatable);
    assert_int_equal(k.cmdline_size, 255);
    make(0x20f, LOADED_HIGH);
    img[HDR_SETUP_SECTS] = 0; /* means 4 */
    set(HDR_SYSSIZE, 0, 4);
    assert_int_equal(bzimage_parse(&k, img, sizeof(img), NULL), 0);
    assert_int_equal(k.setup_bytes, 5 * 512);
    assert_int_equal(k.cmdline_size, 2047);
    assert_int_equal(k.pref_address, 0x1000000);
    assert_int_equal(k.header_end, 0x268);
}

static void test_every_truncation(void **state) {
    (void)state;
    struct bzimage k;

    make_with_payload();
    for (size_t n = 0; n <= sizeof(img) - 16; n += 7) {
        uint8_t *copy = malloc(n + !n);

        memcpy(copy, img, n);
        assert_true(bzimage_parse(&k, copy, n, NULL) < 0);
        free(copy);
    }
}

static void test_bad_payload(void **state) {
    (void)state;
    struct bzimage k;
    struct err e = ERR_INIT;

    make_with_payload();
    set(HDR_PAYLOAD_OFFSET, UINT32_MAX, 4);
    assert_true(bzimage_parse(&k, img, sizeof(img), &e) < 0);
    assert_non_null(strstr(err_msg(&e), "truncated: the payload ends"));
    make_with_payload();
    set(HDR_PAYLOAD_LENGTH, UINT32_MAX, 4);
    assert_true(bzimage_parse(&k, img, sizeof(img), &e) < 0);
    make(0x1ff, 0);
    assert_true(bzimage_parse(&k, img, sizeof(img), &e) < 0);
    assert_non_null(strstr(err_msg(&e), "1.255 is older"));
    err_clear(&e);
}

static void test_pvh(void **state) {
    (void)state;
    struct guest g;

    make_with_payload();
    guest_init(&g, 64 << 20);
    assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, "quiet", BOOT_AUTO), 0);
    assert_int_equal(g.result.protocol, BOOT_PVH);
    assert_int_equal(g.bsp.rip, TEST_ELF_ENTRY);
    assert_int_equal(guest_u32(&g, TEST_ELF_PADDR), 0x90909090);
    img[SETUP_BYTES + PAYLOAD_AT + 40] ^= 0x55;
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "quiet", BOOT_AUTO) < 0);
    assert_non_null(strstr(err_msg(&g.err), ": payload: gzip: corrupt"));
    guest_free(&g);
}

static void test_auto(void **state) {
    (void)state;
    const struct {
        uint16_t version;
        uint8_t loadflags;
        enum boot_protocol want;
    } CASES[] = {
        {0x20f, LOADED_HIGH, BOOT_LINUX64}, {0x20c, LOADED_HIGH, BOOT_LINUX64},
        {0x20a, LOADED_HIGH, BOOT_LINUX32}, {0x205, LOADED_HIGH, BOOT_LINUX32},
        {0x204, LOADED_HIGH, BOOT_LINUX16}, {0x205, 0, BOOT_LINUX16},
        {0x200, 0, BOOT_LINUX16},
    };

    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        struct guest g;

        guest_init(&g, 64 << 20);
        make(CASES[i].version, CASES[i].loadflags);
        assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_AUTO), 0);
        assert_int_equal(g.result.protocol, CASES[i].want);
        assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_PVH) < 0);
        guest_free(&g);
    }
}

static void check_zero_page(const struct guest *g, uint64_t zp) {
    assert_memory_equal(guest_at(g, zp + HDR_MAGIC, 4), "HdrS", 4);
    assert_int_equal(guest_u32(g, zp + HDR_TYPE_OF_LOADER) & 0xff, 0xff);
    assert_string_equal(guest_at(g, guest_u32(g, zp + HDR_CMD_LINE_PTR), 4), "a=b");
    assert_int_equal(guest_u32(g, zp + HDR_RAMDISK_SIZE), 7);
    assert_memory_equal(guest_at(g, guest_u32(g, zp + HDR_RAMDISK_IMAGE), 7), "initrd!", 7);
    assert_int_equal(guest_u64(g, zp + 0x70), g->result.rsdp);
    assert_int_equal(guest_u32(g, zp + 0x1e8) & 0xff, g->layout.map_count);
    assert_int_equal(guest_u64(g, zp + 0x2d0 + 3 * 20), 0x100000);
    assert_int_equal(guest_u64(g, zp + 0x2d0 + 3 * 20 + 8), 63 << 20);
    assert_int_equal(guest_u32(g, zp + 0x2d0 + 3 * 20 + 16), 1);
    assert_int_equal(guest_u32(g, zp + 0x1e0), 63 * 1024);
    assert_int_equal(guest_u32(g, zp + 0x290), 0); /* nothing of the code behind the header */
}

static void test_linux64(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    make(0x20f, LOADED_HIGH);
    assert_int_equal(guest_boot(&g, img, sizeof(img), "initrd!", 7, "a=b", BOOT_LINUX64), 0);
    assert_int_equal(g.bsp.rip, 0x1000200);
    assert_int_equal(guest_u32(&g, 0x1000000), 0xf4f4f4f4);
    assert_int_equal(g.bsp.cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
    assert_int_equal(g.bsp.efer, EFER_LME | EFER_LMA);
    assert_int_equal(g.bsp.seg[SEG_CS].sel, 0x10);
    assert_int_equal(g.bsp.seg[SEG_CS].attr, 0xa09b);
    assert_int_equal(g.bsp.seg[SEG_DS].sel, 0x18);
    assert_int_equal(guest_u64(&g, g.bsp.gdtr.base + 0x10), 0x00af9b000000ffff);
    assert_int_equal(guest_u64(&g, g.bsp.gdtr.base + 0x18), 0x00cf93000000ffff);
    /* Walk the identity map at its last page. */
    uint64_t pdpt = guest_u64(&g, g.bsp.cr3) & ~0xfffull;
    uint64_t pd = guest_u64(&g, pdpt + 8 * 3) & ~0xfffull;
    assert_int_equal(guest_u64(&g, pd + 8 * 511), 0xffe00083);
    check_zero_page(&g, g.bsp.gpr[RSI]);
    guest_free(&g);
}

static void test_linux32(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    make(0x20f, LOADED_HIGH);
    assert_int_equal(guest_boot(&g, img, sizeof(img), "initrd!", 7, "a=b", BOOT_LINUX32), 0);
    assert_int_equal(g.bsp.rip, 0x1000000);
    assert_int_equal(g.bsp.cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(g.bsp.gpr[RBP] | g.bsp.gpr[RDI] | g.bsp.gpr[RBX], 0);
    check_zero_page(&g, g.bsp.gpr[RSI]);
    guest_free(&g);
    /* The preferred address is where it unpacks itself, so memory has to reach there. */
    guest_init(&g, 16 << 20);
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_LINUX32) < 0);
    assert_non_null(strstr(err_msg(&g.err),
                           "the kernel ends at 0x1100000, beyond the guest's 16 MiB "
                           "of memory; try --memory 128M"));
    guest_free(&g);
}

static void test_linux16(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    make(0x204, LOADED_HIGH);
    assert_int_equal(guest_boot(&g, img, sizeof(img), "initrd!", 7, "a=b", BOOT_AUTO), 0);
    assert_int_equal(g.bsp.seg[SEG_CS].base, 0x10200);
    assert_int_equal(g.bsp.rip, 0);
    assert_int_equal(g.bsp.seg[SEG_SS].base, 0x10000);
    assert_int_equal(g.bsp.gpr[RSP], 0xe000);
    assert_int_equal(guest_u32(&g, 0x10000 + HDR_LOADFLAGS) & 0xff, LOADED_HIGH | CAN_USE_HEAP);
    assert_int_equal(guest_u32(&g, 0x10000 + HDR_HEAP_END_PTR) & 0xffff, 0xde00);
    assert_string_equal(guest_at(&g, guest_u32(&g, 0x10000 + HDR_CMD_LINE_PTR), 4), "a=b");
    assert_int_equal(guest_u32(&g, 0x10000 + HDR_RAMDISK_SIZE), 7);
    assert_int_equal(guest_u32(&g, 0x100000), 0xf4f4f4f4);
    /* INT 15h goes to the services, whose map has all entries. */
    assert_int_equal(guest_u32(&g, 0x15 * 4) >> 16, 0xf000);
    assert_int_equal(guest_u32(&g, 0xff108), g.layout.map_count);
    assert_int_equal(guest_u64(&g, 0xff10c + 3 * 20), 0x100000);
    guest_free(&g);
}

static void test_zimage(void **state) {
    (void)state;
    struct guest g;

    guest_init(&g, 64 << 20);
    make(0x201, 0);
    assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, "root=1", BOOT_AUTO), 0);
    assert_int_equal(g.bsp.seg[SEG_CS].base, 0x90200);
    assert_int_equal(guest_u32(&g, 0x10000), 0xf4f4f4f4);
    assert_int_equal(guest_u32(&g, 0x90020), 0x9800a33f);
    assert_string_equal(guest_at(&g, 0x99800, 7), "root=1");
    assert_int_equal(guest_u32(&g, 0x90000 + HDR_SETUP_MOVE_SIZE) & 0xffff, 0xa000);
    guest_free(&g);
}

static void test_long_command_line(void **state) {
    (void)state;
    struct guest g;
    char line[2050];

    memset(line, 'x', sizeof(line));
    line[2048] = 0;
    guest_init(&g, 64 << 20);
    make_with_payload();
    for (enum boot_protocol p = BOOT_PVH; p <= BOOT_LINUX16; p++) {
        assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, line, p) < 0);
        assert_non_null(strstr(err_msg(&g.err), "2048 bytes, this kernel takes at most 2047"));
    }
    line[2047] = 0;
    assert_int_equal(guest_boot(&g, img, sizeof(img), NULL, 0, line, BOOT_AUTO), 0);
    assert_true(guest_boot(&g, img, sizeof(img), NULL, 0, "", BOOT_MULTIBOOT) < 0);
    guest_free(&g);
}

static void test_rom(void **state) {
    (void)state;
    struct guest g;
    static uint8_t rom[0x30000];
    char *path;

    for (size_t i = 0; i < sizeof(rom); i++)
        rom[i] = (uint8_t)(i >> 12 ^ i);
    path = file_with(rom, sizeof(rom) - 8); /* no multiple of a page: it ends where it should */
    guest_init(&g, 16 << 20);
    assert_int_equal(boot_load_rom(g.m, path, NULL), 0);
    assert_memory_equal(guest_at(&g, 0x100000000 - 0x10, 0x10), rom + sizeof(rom) - 0x18, 0x10);
    assert_memory_equal(guest_at(&g, 0xe0000, 0x20000), rom + 0x10000 - 8, 0x20000);
    assert_null(mem_ptr_w(g.m, GPA(0xfffffff0), 1));
    file_remove(path);
    assert_true(boot_load_rom(g.m, "/nonexistent/rom", &g.err) < 0);
    assert_string_equal(err_msg(&g.err),
                        "firmware /nonexistent/rom: open: No such file or directory");
    guest_free(&g);
}

/* Kernels that this host has installed, or that RF_TEST_KERNEL names: every entry must find its
 * way. */
static void test_real_kernels(void **state) {
    (void)state;
    const char *named = getenv("RF_TEST_KERNEL");
    glob_t found;

    if (glob(named ? named : "/boot/vmlinuz-*", 0, NULL, &found) != 0)
        skip();
    for (size_t i = 0; i < found.gl_pathc; i++)
        for (enum boot_protocol p = BOOT_AUTO; p <= BOOT_LINUX16; p++) {
            struct guest g;

            guest_init(&g, 256 << 20);
            struct boot_params_in in = {.kernel = found.gl_pathv[i],
                                        .cmdline = "console=ttyS0",
                                        .layout = &g.layout,
                                        .vcpus = 1,
                                        .protocol = p};

            if (boot_load(g.m, &in, &g.bsp, &g.result, &g.err) < 0)
                fail_msg("%s", err_msg(&g.err));
            assert_true(p == BOOT_AUTO || g.result.protocol == p);
            guest_free(&g);
        }
    globfree(&found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_bad_payload), cmocka_unit_test(test_pvh),
        cmocka_unit_test(test_auto),        cmocka_unit_test(test_linux64),
        cmocka_unit_test(test_linux32),     cmocka_unit_test(test_linux16),
        cmocka_unit_test(test_zimage),      cmocka_unit_test(test_long_command_line),
        cmocka_unit_test(test_rom),         cmocka_unit_test(test_real_kernels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

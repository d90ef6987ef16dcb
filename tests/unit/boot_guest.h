/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of loaders: a machine's memory, temporary files, and a small ELF kernel built by hand.
 */
#ifndef RINGFENCE_TESTS_BOOT_GUEST_H
#define RINGFENCE_TESTS_BOOT_GUEST_H

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "boot/boot.h"
#include "boot/e820.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

struct guest {
    struct mem *m;
    struct e820_layout layout;
    struct x86_state bsp;
    struct boot_result result;
    struct err err;
};

static inline void guest_init(struct guest *g, uint64_t ram_bytes) {
    memset(g, 0, sizeof(*g));
    assert_int_equal(e820_layout_init(&g->layout, ram_bytes, NULL), 0);
    g->m = mem_new(ram_bytes, BOOT_ROM_MAX, NULL);
    assert_non_null(g->m);
    for (unsigned i = 0; i < g->layout.ram_count; i++) {
        const struct e820_ram *r = &g->layout.ram[i];

        assert_int_equal(mem_add_ram(g->m, GPA(r->gpa), r->size, r->backing, NULL), 0);
    }
}

static inline void guest_free(struct guest *g) {
    err_clear(&g->err);
    mem_free(g->m);
}

/* Host memory at a guest-physical address that must be RAM. */
static inline const void *guest_at(const struct guest *g, uint64_t gpa, uint64_t len) {
    const void *p = mem_ptr_r(g->m, GPA(gpa), len);

    assert_non_null(p);
    return p;
}

static inline uint32_t guest_u32(const struct guest *g, uint64_t gpa) {
    uint32_t v;

    memcpy(&v, guest_at(g, gpa, 4), 4);
    return v;
}

static inline uint64_t guest_u64(const struct guest *g, uint64_t gpa) {
    uint64_t v;

    memcpy(&v, guest_at(g, gpa, 8), 8);
    return v;
}

/* A temporary file with these bytes; the path is for the caller to unlink and free. */
static inline char *file_with(const void *data, size_t size) {
    char *path = strdup("/tmp/rf-boot-XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);
    return path;
}

static inline void file_remove(char *path) {
    if (path)
        unlink(path);
    free(path);
}

/* boot_load of an image and an initrd (or NULL) that are in memory. */
static inline int guest_boot(struct guest *g, const void *image, size_t size, const void *initrd,
                             size_t initrd_size, const char *cmdline, enum boot_protocol protocol) {
    char *kernel = file_with(image, size);
    char *ramdisk = initrd ? file_with(initrd, initrd_size) : NULL;
    struct boot_params_in p = {.kernel = kernel,
                               .initrd = ramdisk,
                               .cmdline = cmdline,
                               .layout = &g->layout,
                               .vcpus = 1,
                               .protocol = protocol};
    int r;

    err_clear(&g->err);
    r = boot_load(g->m, &p, &g->bsp, &g->result, &g->err);
    file_remove(kernel);
    file_remove(ramdisk);
    return r;
}

#define TEST_ELF_SIZE 0x1040
#define TEST_ELF_PADDR 0x200000
#define TEST_ELF_MEMSZ 0x3000
#define TEST_ELF_ENTRY 0x200010

/* One segment of 0x40 bytes (0x90) at TEST_ELF_PADDR with some bss, and a note with the PVH entry.
 */
static inline void test_elf64(uint8_t *b) {
    static const uint8_t NOTE[] = {4, 0, 0,   0,   4,   0, 0,    0, 18,   0,
                                   0, 0, 'X', 'e', 'n', 0, 0x10, 0, 0x20, 0};
    Elf64_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_version = EV_CURRENT,
                    .e_entry = 0xffffffff80200010ull,
                    .e_phoff = sizeof(h),
                    .e_ehsize = sizeof(h),
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 2};
    Elf64_Phdr p[2] = {
        {.p_type = PT_LOAD,
         .p_offset = 0x1000,
         .p_vaddr = 0xffffffff80200000ull,
         .p_paddr = TEST_ELF_PADDR,
         .p_filesz = 0x40,
         .p_memsz = TEST_ELF_MEMSZ},
        {.p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = sizeof(NOTE), .p_align = 4},
    };

    memset(b, 0, TEST_ELF_SIZE);
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(b, &h, sizeof(h));
    memcpy(b + sizeof(h), p, sizeof(p));
    memcpy(b + 0x200, NOTE, sizeof(NOTE));
    memset(b + 0x1000, 0x90, 0x40);
}

#endif

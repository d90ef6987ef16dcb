/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot Specification 0.6.96. The command line starts with the kernel's path, as GRUB passes
 * it; a module's string is its path. Video modes are not set (flags[2] asks for one, but doesn't
 * insist).
 */
#include "boot/multiboot.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/bios.h"
#include "boot/e820.h"
#include "boot/elf.h"
#include "boot/entry.h"
#include "boot/loader.h"
#include "cpu/x86/state.h"
#include "dev/pc_layout.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u /* in EAX */
#define SEARCH_BYTES 8192

#define REQUIRED_FLAGS 0xffffu
#define KNOWN_REQUIRED 0x7u /* page-aligned modules, memory information, video mode */

#define CMDLINE_MAX 65535

enum {
    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODS = 1 << 3,
    INFO_MMAP = 1 << 6,
    INFO_LOADER_NAME = 1 << 9,
};

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name;
    uint32_t apm_table, vbe[4];
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

/* `size` doesn't count itself. */
struct __attribute__((packed)) multiboot_mmap {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
};

struct multiboot_tables {
    struct multiboot_info info;
    struct multiboot_module module;
    struct multiboot_mmap mmap[sizeof(((struct e820_layout *)0)->map) / sizeof(struct e820_entry)];
    char loader_name[16];
};

static uint32_t get32(const uint8_t *p) {
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static bool header_at(const uint8_t *data, size_t size, size_t off, struct multiboot_header *h) {
    uint32_t flags = get32(data + off + 4);

    if (get32(data + off) != HEADER_MAGIC || HEADER_MAGIC + flags + get32(data + off + 8) != 0)
        return false;
    *h = (struct multiboot_header){.offset = (uint32_t)off, .flags = flags};
    if (!(flags & MULTIBOOT_ADDRESSES))
        return true;
    if (!range_within(off, 32, size))
        return false;
    h->header_addr = get32(data + off + 12);
    h->load_addr = get32(data + off + 16);
    h->load_end_addr = get32(data + off + 20);
    h->bss_end_addr = get32(data + off + 24);
    h->entry_addr = get32(data + off + 28);
    return true;
}

bool multiboot_find(const uint8_t *data, size_t size, struct multiboot_header *h) {
    struct multiboot_header found;

    for (size_t off = 0; range_within(off, 12, MIN(size, (size_t)SEARCH_BYTES)); off += 4)
        if (header_at(data, size, off, &found)) {
            if (h)
                *h = found;
            return true;
        }
    return false;
}

/* By the header's addresses (3.1.3). A load_end_addr of 0: to the end of the file; bss_end_addr 0:
 * no bss. */
static int load_flat(struct loader *l, const uint8_t *data, size_t size,
                     const struct multiboot_header *h, uint32_t *entry, struct err *e) {
    uint64_t skip = h->header_addr - (uint64_t)h->load_addr;
    uint64_t start, filesz, memsz;
    uint8_t *host;

    if (h->load_addr > h->header_addr || skip > h->offset)
        return err_set(e, 0, "multiboot: load address 0x%x does not precede the header's, 0x%x",
                       h->load_addr, h->header_addr);
    start = h->offset - skip;
    filesz = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr : size - start;
    if (h->load_end_addr && h->load_end_addr < h->load_addr)
        return err_set(e, 0, "multiboot: the image ends before it starts");
    if (!range_within(start, filesz, size))
        return err_set(e, 0, "multiboot: truncated: the image has 0x%llx bytes, the file 0x%zx",
                       (unsigned long long)filesz, size);
    memsz = MAX(filesz, h->bss_end_addr > h->load_addr ? h->bss_end_addr - h->load_addr : 0u);
    host = place_at(&l->place, h->load_addr, memsz, "kernel", e);
    if (!host)
        return -1;
    memcpy(host, data + start, filesz);
    memset(host + filesz, 0, memsz - filesz);
    l->kernel_end = h->load_addr + memsz;
    *entry = h->entry_addr;
    return 0;
}

static int load_elf(struct loader *l, const uint8_t *data, size_t size, uint32_t *entry,
                    struct err *e) {
    struct elf elf;
    uint64_t paddr;
    int r = elf_parse(&elf, data, size, e);

    if (r == 0)
        r = elf_load(&elf, &l->place, &l->kernel_end, e);
    if (r < 0)
        return r;
    paddr = elf_entry_paddr(&elf);
    if (paddr > UINT32_MAX)
        return err_set(e, 0, "multiboot: entry 0x%llx is beyond 4 GiB", (unsigned long long)paddr);
    *entry = (uint32_t)paddr;
    return 0;
}

static void fill_mmap(struct multiboot_tables *t, const struct e820_layout *layout) {
    for (unsigned i = 0; i < layout->map_count; i++)
        t->mmap[i] =
            (struct multiboot_mmap){sizeof(t->mmap[0]) - sizeof(t->mmap[0].size),
                                    layout->map[i].base, layout->map[i].size, layout->map[i].type};
}

static void fill_tables(struct multiboot_tables *t, uint32_t base, const struct loader *l,
                        uint32_t module_string) {
    const struct e820_layout *layout = l->place.layout;

    t->info = (struct multiboot_info){
        .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME,
        .mem_lower = (uint32_t)(E820_EBDA >> 10),
        .mem_upper = (uint32_t)((layout->low_bytes - E820_EXTENDED) >> 10),
        .cmdline = (uint32_t)l->cmdline_base,
        .mods_addr = base + (uint32_t)offsetof(struct multiboot_tables, module),
        .mmap_length = (uint32_t)(layout->map_count * sizeof(t->mmap[0])),
        .mmap_addr = base + (uint32_t)offsetof(struct multiboot_tables, mmap),
        .loader_name = base + (uint32_t)offsetof(struct multiboot_tables, loader_name),
    };
    if (l->initrd_size) {
        t->info.mods_count = 1;
        t->module = (struct multiboot_module){(uint32_t)l->initrd_base,
                                              (uint32_t)(l->initrd_base + l->initrd_size),
                                              module_string, 0};
    }
    fill_mmap(t, layout);
    memcpy(t->loader_name, "ringfence", sizeof("ringfence"));
}

/* The strings that the structure points to. *module_string becomes the address of the module's. */
static int store_strings(struct loader *l, uint64_t *module_string, struct err *e) {
    cleanup_free char *line =
        *l->cmdline ? xasprintf("%s %s", l->kernel, l->cmdline) : xstrdup(l->kernel);
    char *host;

    *module_string = 0;
    if (l->initrd) {
        size_t n = strlen(l->initrd) + 1;

        host = loader_table(l, n, "module's name", module_string, e);
        if (!host)
            return -1;
        memcpy(host, l->initrd, n);
    }
    return loader_cmdline(l, line, CMDLINE_MAX, e);
}

int multiboot_load(struct loader *l, const uint8_t *data, size_t size, struct err *e) {
    struct multiboot_header h;
    struct multiboot_tables *t;
    uint64_t base, module_string;
    uint32_t entry = 0;
    int r;

    if (!multiboot_find(data, size, &h))
        return err_set(e, 0, "no multiboot header");
    if (h.flags & REQUIRED_FLAGS & ~KNOWN_REQUIRED)
        return err_set(e, 0, "multiboot: requires features that don't exist (flags 0x%x)", h.flags);
    /* "Other machine state should be left in normal working order, as initialized by the BIOS"
     * (3.2).
     */
    if ((r = bios_install(&l->place, e)) < 0)
        return r;
    r = h.flags & MULTIBOOT_ADDRESSES ? load_flat(l, data, size, &h, &entry, e)
                                      : load_elf(l, data, size, &entry, e);
    if (r < 0 || (r = loader_initrd(l, LOADER_ABOVE_KERNEL, PC_HOLE, e)) < 0 ||
        (r = store_strings(l, &module_string, e)) < 0)
        return r;
    t = loader_table(l, sizeof(*t), "multiboot information", &base, e);
    if (!t)
        return -1;
    fill_tables(t, (uint32_t)base, l, (uint32_t)module_string);
    r = entry_protected(&l->place, l->bsp, entry, e);
    l->bsp->gpr[RAX] = LOADER_MAGIC;
    l->bsp->gpr[RBX] = base;
    return r;
}

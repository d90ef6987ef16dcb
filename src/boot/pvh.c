/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen's PVH ABI: docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h, version 1.
 * EBX holds the address of hvm_start_info.
 */
#include "boot/pvh.h"

#include <string.h>

#include "base/err.h"
#include "boot/e820.h"
#include "boot/elf.h"
#include "boot/entry.h"
#include "boot/loader.h"
#include "cpu/x86/state.h"

#define HVM_START_MAGIC 0x336ec578u

struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

_Static_assert(sizeof(struct hvm_start_info) == 56, "start_info version 1");

struct hvm_module {
    uint64_t base, size, cmdline, reserved;
};

struct hvm_memmap {
    uint64_t base, size;
    uint32_t type, reserved;
};

/* The three parts in one piece, so that each is aligned. */
struct pvh_tables {
    struct hvm_start_info info;
    struct hvm_module module;
    struct hvm_memmap memmap[sizeof(((struct e820_layout *)0)->map) / sizeof(struct e820_entry)];
};

static void fill_tables(struct pvh_tables *t, uint64_t base, const struct loader *l) {
    const struct e820_layout *layout = l->place.layout;

    t->info = (struct hvm_start_info){
        .magic = HVM_START_MAGIC,
        .version = 1,
        .cmdline = l->cmdline_base,
        .rsdp = l->rsdp,
        .memmap = base + offsetof(struct pvh_tables, memmap),
        .memmap_entries = layout->map_count,
    };
    for (unsigned i = 0; i < layout->map_count; i++)
        t->memmap[i] =
            (struct hvm_memmap){layout->map[i].base, layout->map[i].size, layout->map[i].type, 0};
    if (l->initrd_size) {
        t->info.nr_modules = 1;
        t->info.modlist = base + offsetof(struct pvh_tables, module);
        t->module = (struct hvm_module){.base = l->initrd_base, .size = l->initrd_size};
    }
}

int pvh_load(struct loader *l, const struct elf *elf, uint64_t initrd_limit, uint64_t cmdline_max,
             struct err *e) {
    struct pvh_tables *t;
    uint64_t base;
    uint32_t entry;
    int r;

    if (!elf_find_pvh_entry(elf, &entry))
        return err_set(e, 0, "no PVH entry");
    if ((r = elf_load(elf, &l->place, &l->kernel_end, e)) < 0 ||
        (r = loader_initrd(l, LOADER_HIGH, initrd_limit, e)) < 0 ||
        (r = loader_cmdline(l, l->cmdline, cmdline_max, e)) < 0)
        return r;
    t = loader_table(l, sizeof(*t), "PVH start info", &base, e);
    if (!t)
        return -1;
    fill_tables(t, base, l);
    r = entry_protected(&l->place, l->bsp, entry, e);
    l->bsp->gpr[RBX] = base;
    return r;
}

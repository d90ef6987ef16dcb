/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Documentation/x86/boot.rst ("32-bit Boot Protocol", "64-bit Boot Protocol", "Loading The Rest of
 * The Kernel", "Special Command Line Options") and zero-page.rst. The kernel decompresses itself in
 * these protocols.
 */
#include "boot/linux.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/bios.h"
#include "boot/bzimage.h"
#include "boot/e820.h"
#include "boot/entry.h"
#include "boot/loader.h"
#include "cpu/x86/state.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

/* boot_params, beside the setup header at its own offsets. */
enum {
    ZP_EXT_MEM_K = 0x002,
    ZP_ACPI_RSDP_ADDR = 0x070,
    ZP_ALT_MEM_K = 0x1e0,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_E820_TABLE = 0x2d0,
    ZP_SIZE = 4096,
};

#define E820_ENTRY_BYTES 20
#define LOADER_UNDEFINED 0xff /* type_of_loader without an assigned number */
#define VID_MODE_NORMAL 0xffff

static void put(uint8_t *p, size_t off, uint64_t v, size_t bytes) {
    memcpy(p + off, &v, bytes);
}

static const uint8_t *protected_code(const struct bzimage *k) {
    return k->data + k->setup_bytes;
}

static size_t protected_size(const struct bzimage *k) {
    return k->size - k->setup_bytes;
}

/*
 * Puts the protected-mode code at `base` and keeps init_size bytes from there free for the kernel
 * to unpack itself. A kernel loaded below its preferred address moves up to it.
 */
static int load_protected(struct loader *l, const struct bzimage *k, uint64_t base, struct err *e) {
    uint64_t unpack = base >= E820_EXTENDED ? MAX(base, k->pref_address) : base;
    uint64_t end = MAX(base + protected_size(k), unpack + k->init_size);
    uint8_t *host = end < base ? NULL : place_at(&l->place, base, end - base, "kernel", e);

    if (!host)
        return end < base ? err_set(e, 0, "impossible load address") : -1;
    memcpy(host, protected_code(k), protected_size(k));
    l->kernel_end = end;
    return 0;
}

/* Anywhere lower, a relocatable kernel would unpack itself to its preferred address all the same.
 */
static uint64_t choose_base(const struct bzimage *k) {
    return k->relocatable ? k->pref_address : k->code32_start;
}

static void fill_e820(uint8_t *zp, const struct e820_layout *layout) {
    uint32_t ext_k = (uint32_t)((layout->low_bytes - E820_EXTENDED) >> 10);

    put(zp, ZP_EXT_MEM_K, MIN(ext_k, 0xfc00u), 2);
    put(zp, ZP_ALT_MEM_K, ext_k, 4);
    put(zp, ZP_E820_ENTRIES, layout->map_count, 1);
    for (unsigned i = 0; i < layout->map_count; i++) {
        size_t at = ZP_E820_TABLE + (size_t)i * E820_ENTRY_BYTES;

        put(zp, at, layout->map[i].base, 8);
        put(zp, at + 8, layout->map[i].size, 8);
        put(zp, at + 16, layout->map[i].type, 4);
    }
}

/* What the loader tells through the setup header, wherever that is. */
static void fill_header(uint8_t *hdr, const struct loader *l) {
    put(hdr, HDR_VID_MODE, VID_MODE_NORMAL, 2);
    put(hdr, HDR_TYPE_OF_LOADER, LOADER_UNDEFINED, 1);
    put(hdr, HDR_RAMDISK_IMAGE, l->initrd_base, 4);
    put(hdr, HDR_RAMDISK_SIZE, l->initrd_size, 4);
}

/* Kernel, initrd, command line and zero page. *zero_page becomes the latter's address. */
static int load_flat(struct loader *l, const struct bzimage *k, uint64_t *base, uint64_t *zero_page,
                     struct err *e) {
    uint8_t *zp;
    int r;

    *base = choose_base(k);
    if ((r = load_protected(l, k, *base, e)) < 0 ||
        (r = loader_initrd(l, LOADER_HIGH, k->initrd_addr_max + 1ull, e)) < 0 ||
        (r = loader_cmdline(l, l->cmdline, k->cmdline_size, e)) < 0)
        return r;
    zp = loader_table(l, ZP_SIZE, "zero page", zero_page, e);
    if (!zp)
        return -1;
    memcpy(zp + HDR_SETUP_SECTS, k->data + HDR_SETUP_SECTS, k->header_end - HDR_SETUP_SECTS);
    fill_header(zp, l);
    put(zp, HDR_CODE32_START, *base, 4);
    put(zp, HDR_CMD_LINE_PTR, l->cmdline_base, 4);
    put(zp, ZP_ACPI_RSDP_ADDR, l->rsdp, 8);
    fill_e820(zp, l->place.layout);
    return 0;
}

int linux_load64(struct loader *l, const struct bzimage *k, struct err *e) {
    uint64_t base, zp;
    int r;

    if (!(k->xloadflags & XLF_KERNEL_64))
        return err_set(e, 0, "no 64-bit entry point");
    if ((r = load_flat(l, k, &base, &zp, e)) < 0 ||
        (r = entry_long(&l->place, l->bsp, base + 0x200, e)) < 0)
        return r;
    l->bsp->gpr[RSI] = zp;
    return 0;
}

int linux_load32(struct loader *l, const struct bzimage *k, struct err *e) {
    uint64_t base, zp;
    int r;

    if ((r = load_flat(l, k, &base, &zp, e)) < 0 ||
        (r = entry_protected(&l->place, l->bsp, (uint32_t)base, e)) < 0)
        return r;
    l->bsp->gpr[RSI] = zp;
    return 0;
}

/* Where the real-mode part goes: a segment that starts with setup code and ends with heap, stack,
 * command line. */
struct real_layout {
    uint32_t base, heap_end, cmdline, size;
};

static struct real_layout real_layout(const struct bzimage *k) {
    if (k->version >= 0x202 && k->loadflags & LOADED_HIGH)
        return (struct real_layout){0x10000, 0xe000, 0xe000, 0x10000};
    /* Where old kernels insist on being; zImages use what is below. */
    return (struct real_layout){0x90000, 0x9800, 0x9800, 0xa000};
}

/* Before 2.02 the command line was found through the boot sector's last words. */
#define OLD_CMDLINE_MAGIC_AT 0x20
#define OLD_CMDLINE_OFFSET_AT 0x22
#define OLD_CMDLINE_MAGIC 0xa33f

static void fill_setup(uint8_t *setup, const struct loader *l, const struct bzimage *k,
                       const struct real_layout *at) {
    fill_header(setup, l);
    if (k->version >= 0x202) {
        put(setup, HDR_CMD_LINE_PTR, at->base + at->cmdline, 4);
    } else {
        put(setup, OLD_CMDLINE_MAGIC_AT, OLD_CMDLINE_MAGIC, 2);
        put(setup, OLD_CMDLINE_OFFSET_AT, at->cmdline, 2);
        put(setup, HDR_SETUP_MOVE_SIZE, at->size, 2);
    }
    if (k->version >= 0x201) {
        put(setup, HDR_LOADFLAGS, k->loadflags | CAN_USE_HEAP, 1);
        put(setup, HDR_HEAP_END_PTR, at->heap_end - 0x200, 2);
    }
}

static int load_setup(struct loader *l, const struct bzimage *k, const struct real_layout *at,
                      struct err *e) {
    size_t len = strlen(l->cmdline), most = MIN(k->cmdline_size, at->size - at->cmdline - 1);
    uint8_t *setup;

    if (k->setup_bytes > 0x8000)
        return err_set(e, 0, "setup code of %zu bytes", k->setup_bytes);
    if (len > most)
        return err_set(e, 0, "the command line has %zu bytes, this kernel takes at most %zu", len,
                       most);
    setup = place_at(&l->place, at->base, at->size, "setup code", e);
    if (!setup)
        return -1;
    memset(setup, 0, at->size);
    memcpy(setup, k->data, k->setup_bytes);
    memcpy(setup + at->cmdline, l->cmdline, len + 1);
    fill_setup(setup, l, k, at);
    return 0;
}

int linux_load16(struct loader *l, const struct bzimage *k, struct err *e) {
    struct real_layout at = real_layout(k);
    uint16_t segment = (uint16_t)(at.base >> 4);
    int r;

    if ((r = load_protected(l, k, k->code32_start, e)) < 0 ||
        (r = loader_initrd(l, LOADER_HIGH, k->initrd_addr_max + 1ull, e)) < 0 ||
        (r = load_setup(l, k, &at, e)) < 0 || (r = bios_install(&l->place, e)) < 0)
        return r;
    entry_real(l->bsp, segment + 0x20, segment, (uint16_t)at.heap_end);
    return 0;
}

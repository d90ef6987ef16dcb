/* SPDX-License-Identifier: Apache-2.0 */
/* From files to a machine that can run: what a firmware and a boot loader do on a PC. */
#include "boot/boot.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/acpi.h"
#include "boot/bzimage.h"
#include "boot/decompress.h"
#include "boot/e820.h"
#include "boot/elf.h"
#include "boot/image.h"
#include "boot/linux.h"
#include "boot/loader.h"
#include "boot/multiboot.h"
#include "boot/pvh.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

#define ELF_CMDLINE_MAX 65535 /* an ELF file doesn't say how much it takes */

/* BIOS data area: what kernels look at even without a BIOS. */
enum { BDA_COM1 = 0x400, BDA_EBDA_SEGMENT = 0x40e, BDA_BASE_MEMORY_KIB = 0x413 };

static int write_bda(struct mem *m, struct err *e) {
    const struct {
        uint16_t at, value;
    } WORDS[] = {
        {BDA_COM1, PC_COM1},
        {BDA_EBDA_SEGMENT, E820_EBDA >> 4},
        {BDA_BASE_MEMORY_KIB, E820_EBDA >> 10},
    };

    for (size_t i = 0; i < ARRAY_LEN(WORDS); i++)
        if (mem_write(m, GPA(WORDS[i].at), &WORDS[i].value, 2) < 0)
            return err_set(e, 0, "no RAM at 0x%x", WORDS[i].at);
    return 0;
}

static const char *protocol_name(enum boot_protocol p) {
    static const char *const NAMES[] = {"auto",         "PVH",          "Linux 64-bit",
                                        "Linux 32-bit", "Linux 16-bit", "multiboot"};

    return NAMES[p];
}

static enum boot_protocol best_linux(const struct bzimage *k) {
    if (k->xloadflags & XLF_KERNEL_64)
        return BOOT_LINUX64;
    /* The 32-bit protocol was written down for 2.05; zImages run from low memory. */
    return k->version >= 0x205 && k->loadflags & LOADED_HIGH ? BOOT_LINUX32 : BOOT_LINUX16;
}

/* Whether the payload is in a format that decompress() knows; LZO kernels, for one, are not. */
static bool can_unpack(const struct bzimage *k) {
    return k->payload_length &&
           decompress_probe(k->data + k->payload_offset, k->payload_length) != DECOMPRESS_NONE;
}

/*
 * Decompresses and enters through PVH. Returns 1 when the kernel has no such entry, with nothing
 * loaded.
 */
static int load_payload(struct loader *l, const struct bzimage *k, struct err *e) {
    cleanup_free uint8_t *vmlinux = NULL;
    size_t size;
    struct elf elf;
    uint32_t entry;
    int r;

    if (!can_unpack(k))
        return 1;
    r = bzimage_payload(k, IMAGE_KERNEL_MAX, &vmlinux, &size, e);
    if (r < 0)
        return r;
    if (!elf_is(vmlinux, size))
        return 1;
    if (elf_parse(&elf, vmlinux, size, e) < 0)
        return err_wrap(e, "payload");
    if (!elf_find_pvh_entry(&elf, &entry))
        return 1;
    return pvh_load(l, &elf, k->initrd_addr_max + 1ull, k->cmdline_size, e);
}

static int load_bzimage(struct loader *l, const struct image *img, enum boot_protocol *protocol,
                        struct err *e) {
    struct bzimage k;
    int r = bzimage_parse(&k, img->data, img->size, e);

    if (r < 0)
        return r;
    if (*protocol == BOOT_AUTO || *protocol == BOOT_PVH) {
        r = load_payload(l, &k, e);
        if (r == 1 && *protocol == BOOT_PVH)
            return err_set(e, 0, "no PVH entry (Linux: CONFIG_PVH=y)");
        *protocol = r == 1 ? best_linux(&k) : BOOT_PVH;
        if (r <= 0)
            return r;
    }
    switch (*protocol) {
    case BOOT_LINUX64:
        return linux_load64(l, &k, e);
    case BOOT_LINUX32:
        return linux_load32(l, &k, e);
    case BOOT_LINUX16:
        return linux_load16(l, &k, e);
    default:
        return err_set(e, 0, "a bzImage is not entered by %s", protocol_name(*protocol));
    }
}

static int load_elf(struct loader *l, const struct image *img, struct err *e) {
    struct elf elf;
    int r = elf_parse(&elf, img->data, img->size, e);

    return r < 0 ? r : pvh_load(l, &elf, PC_HOLE, ELF_CMDLINE_MAX, e);
}

static int load_kernel(struct loader *l, const struct image *img, struct image_id id,
                       enum boot_protocol *protocol, struct err *e) {
    bool is_pvh = id.kind == IMAGE_PVH, has_multiboot;

    if (id.kind == IMAGE_BZIMAGE)
        return load_bzimage(l, img, protocol, e);
    if (id.kind != IMAGE_PVH && id.kind != IMAGE_MULTIBOOT)
        return image_reject(id, e);
    has_multiboot = !is_pvh || multiboot_find(img->data, img->size, NULL);
    if (*protocol == BOOT_AUTO)
        *protocol = is_pvh ? BOOT_PVH : BOOT_MULTIBOOT;
    if (*protocol == BOOT_PVH && is_pvh)
        return load_elf(l, img, e);
    if (*protocol == BOOT_MULTIBOOT && has_multiboot)
        return multiboot_load(l, img->data, img->size, e);
    return err_set(e, 0, "this image is not entered by %s", protocol_name(*protocol));
}

static int read_and_load(struct loader *l, enum boot_protocol *protocol, struct err *e) {
    struct image img;
    struct image_id id;
    int r = image_read_kernel(&img, &id, l->kernel, e);

    if (r < 0)
        return r;
    r = load_kernel(l, &img, id, protocol, e);
    image_free(&img);
    return r;
}

int boot_load(struct mem *m, const struct boot_params_in *p, struct x86_state *bsp,
              struct boot_result *result, struct err *e) {
    const struct acpi_params acpi = {
        .vcpus = p->vcpus,
        .i8042 = true,
        .vga = false,
        .virtio_mmio = p->virtio_mmio,
        .hotplug = p->hotplug,
    };
    struct loader l = {
        .kernel = p->kernel,
        .initrd = p->initrd,
        .cmdline = p->cmdline ? p->cmdline : "",
        .bsp = bsp,
    };
    enum boot_protocol protocol = p->protocol;
    int r;

    place_init(&l.place, m, p->layout);
    if ((r = write_bda(m, e)) < 0 || (r = acpi_write(m, &acpi, &l.rsdp, e)) < 0)
        return r;
    r = read_and_load(&l, &protocol, e);
    if (r < 0)
        return l.initrd_failed ? r : err_wrap(e, "kernel %s", p->kernel);
    if (result)
        *result = (struct boot_result){protocol, l.rsdp};
    return 0;
}

/* ROM images need not fill pages; they end where they must, and start with padding. */
static int map_rom(struct mem *m, const struct image *rom, struct err *e) {
    uint64_t size = align_up(rom->size, PAGE_SIZE);
    uint64_t backing = mem_alloc_rom(m, size);
    int r;

    if (backing == UINT64_MAX)
        return err_set(e, 0, "no room for a ROM of %zu KiB", rom->size >> 10);
    r = mem_add_rom(m, GPA(PC_HIGH - size), size, backing, e);
    if (r < 0)
        return r;
    if (mem_write_rom(m, GPA(PC_HIGH - rom->size), rom->data, rom->size) < 0)
        return err_set(e, 0, "the ROM cannot be written");
    return 0;
}

static int shadow_rom(struct mem *m, const struct image *rom, struct err *e) {
    size_t n = MIN(rom->size, (size_t)(E820_EXTENDED - E820_FIRMWARE));

    if (mem_write(m, GPA(E820_EXTENDED - n), rom->data + rom->size - n, n) < 0)
        return err_set(e, 0, "no RAM below 1 MiB");
    return 0;
}

int boot_load_rom(struct mem *m, const char *path, struct err *e) {
    struct image rom;
    int r = image_read(&rom, path, BOOT_ROM_MAX, e);

    if (r == 0) {
        if ((r = map_rom(m, &rom, e)) == 0)
            r = shadow_rom(m, &rom, e);
        image_free(&rom);
    }
    return r < 0 ? err_wrap(e, "firmware %s", path) : 0;
}

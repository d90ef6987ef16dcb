/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a guest without firmware of its own: kernel, initrd and tables into memory, the first
 * vCPU's state. */
#ifndef RINGFENCE_BOOT_BOOT_H
#define RINGFENCE_BOOT_BOOT_H

#include <stdint.h>

struct e820_layout;
struct err;
struct mem;
struct x86_state;

/* How a kernel is entered. BOOT_AUTO takes the first that the kernel offers. */
enum boot_protocol {
    BOOT_AUTO,
    BOOT_PVH,     /* a bzImage's payload is decompressed on the host */
    BOOT_LINUX64, /* the kernel decompresses itself from here on */
    BOOT_LINUX32,
    BOOT_LINUX16,
    BOOT_MULTIBOOT,
};

struct boot_params_in {
    const char *kernel;
    const char *initrd;               /* NULL: none */
    const char *cmdline;              /* NULL: empty */
    const struct e820_layout *layout; /* as given to mem_add_ram */
    unsigned vcpus;
    unsigned virtio_mmio; /* transports, as in struct acpi_params */
    uint32_t hotplug;     /* likewise */
    enum boot_protocol protocol;
};

/* Addresses that a debugger or a later reset may want. */
struct boot_result {
    enum boot_protocol protocol; /* the one that was used */
    uint64_t rsdp;
};

/*
 * Writes everything to the guest's memory and turns `bsp`, which holds the power-up state, into the
 * entry state. Errors name the file and what to do. `result` may be NULL. Also used for a reset:
 * what it writes doesn't depend on what memory held, except that RAM that nothing is loaded to
 * keeps its contents.
 */
int boot_load(struct mem *m, const struct boot_params_in *p, struct x86_state *bsp,
              struct boot_result *result, struct err *e);

/* The largest ROM, which mem_new needs room for when boot_load_rom is to be used. */
#define BOOT_ROM_MAX (16ull << 20)

/*
 * Shows a raw ROM image so that it ends at 4 GiB, and shadows its last 128 KiB (or all of a smaller
 * one) in RAM below 1 MiB, writable, as chipsets do. The vCPU starts from its power-up state, at
 * f000:fff0.
 */
int boot_load_rom(struct mem *m, const char *path, struct err *e);

#endif

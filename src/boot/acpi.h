/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables of machine `pc`, as a firmware would leave them in the area below 1 MiB. */
#ifndef RINGFENCE_BOOT_ACPI_H
#define RINGFENCE_BOOT_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct mem;

/* What differs between machines; everything else is in dev/pc_layout.h. */
struct acpi_params {
    unsigned vcpus;       /* local APIC ids 0 .. vcpus - 1 */
    bool i8042;           /* there is a keyboard controller to be found */
    bool vga;             /* there is a VGA display to be probed */
    unsigned virtio_mmio; /* transports at PC_VIRTIO_MMIO_BASE, one behind the other */
    uint32_t hotplug;     /* bit per PCI slot whose device can come and go */
};

/* All tables, ready to be copied to the guest-physical address they were built for. */
struct acpi_blob {
    uint8_t *data; /* owned: acpi_blob_free() */
    size_t size;
};

#define ACPI_RSDP_OFFSET 0 /* of the RSDP in the blob */

/* Builds the tables for guest-physical address `base` (a multiple of 64, below 4 GiB). */
void acpi_build(struct acpi_blob *b, const struct acpi_params *p, uint32_t base);
void acpi_blob_free(struct acpi_blob *b);

/* Builds the tables and writes them to E820_FIRMWARE. *rsdp becomes the address of the RSDP. */
int acpi_write(struct mem *m, const struct acpi_params *p, uint64_t *rsdp, struct err *e);

#endif

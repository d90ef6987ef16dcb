/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map of machine `pc`: what the guest is told, and where machine/pc.c places RAM. */
#ifndef RINGFENCE_BOOT_E820_H
#define RINGFENCE_BOOT_E820_H

#include <stdint.h>

struct err;

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

/* Below 1 MiB. */
#define E820_EBDA 0x9fc00ull     /* extended BIOS data area, 1 KiB */
#define E820_VGA 0xa0000ull      /* the display's window, 128 KiB: no RAM here */
#define E820_UPPER 0xc0000ull    /* option ROMs */
#define E820_FIRMWARE 0xe0000ull /* ACPI tables, and a ROM's shadow */
#define E820_BIOS 0xff000ull     /* what boot/bios.c provides, 4 KiB */
#define E820_EXTENDED 0x100000ull

/* The least that a machine can have. */
#define E820_MIN_RAM (2ull << 20)

struct e820_entry {
    uint64_t base, size;
    uint32_t type; /* enum e820_type */
};

/* A run of RAM: bytes [backing, backing + size) of guest memory's memfd appear at gpa. */
struct e820_ram {
    uint64_t gpa, size, backing;
};

struct e820_layout {
    uint64_t ram_bytes;  /* of backing, all told */
    uint64_t low_bytes;  /* end of RAM below 4 GiB */
    uint64_t high_bytes; /* RAM from 4 GiB on */
    unsigned ram_count, map_count;
    struct e820_ram ram[3];   /* ascending; give each to mem_add_ram */
    struct e820_entry map[8]; /* ascending, without overlaps: the e820 map */
};

/* Lays out a machine with `ram_bytes` (a multiple of 4 KiB, at least E820_MIN_RAM) of memory. */
int e820_layout_init(struct e820_layout *l, uint64_t ram_bytes, struct err *e);

#endif

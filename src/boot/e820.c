/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map (ACPI 6.4 section 15, "System Address Map Interfaces"): usable RAM below the EBDA,
 * from 1 MiB to the PCI hole at 3 GiB, and from 4 GiB on. RAM under the VGA window is not shown.
 */
#include "boot/e820.h"

#include "base/err.h"
#include "base/util.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

/* Guest-physical addresses have 46 bits on the smallest processor model; leave room for devices
 * above RAM. */
#define RAM_MAX (1ull << 44)

static void map_add(struct e820_layout *l, uint64_t base, uint64_t end, enum e820_type type) {
    l->map[l->map_count++] = (struct e820_entry){base, end - base, type};
}

static void ram_add(struct e820_layout *l, uint64_t gpa, uint64_t end, uint64_t backing) {
    l->ram[l->ram_count++] = (struct e820_ram){gpa, end - gpa, backing};
}

int e820_layout_init(struct e820_layout *l, uint64_t ram_bytes, struct err *e) {
    if (ram_bytes < E820_MIN_RAM)
        return err_set(e, 0, "memory: %llu KiB is too little: a machine needs at least %llu MiB",
                       (unsigned long long)(ram_bytes >> 10), E820_MIN_RAM >> 20);
    if (ram_bytes > RAM_MAX)
        return err_set(e, 0, "memory: %llu GiB is too much: a machine can have at most %llu GiB",
                       (unsigned long long)(ram_bytes >> 30), RAM_MAX >> 30);
    if (ram_bytes & PAGE_MASK)
        return err_set(e, 0, "memory: %llu bytes is not a multiple of 4 KiB",
                       (unsigned long long)ram_bytes);

    *l = (struct e820_layout){.ram_bytes = ram_bytes, .low_bytes = MIN(ram_bytes, PC_HOLE)};
    l->high_bytes = ram_bytes - l->low_bytes;
    ram_add(l, 0, E820_VGA, 0);
    ram_add(l, E820_UPPER, l->low_bytes, E820_UPPER);
    if (l->high_bytes)
        ram_add(l, PC_HIGH, PC_HIGH + l->high_bytes, l->low_bytes);

    map_add(l, 0, E820_EBDA, E820_RAM);
    map_add(l, E820_EBDA, E820_VGA, E820_RESERVED);
    map_add(l, E820_FIRMWARE, E820_EXTENDED, E820_RESERVED);
    map_add(l, E820_EXTENDED, l->low_bytes, E820_RAM);
    /* The I/O APIC, HPET, local APICs and the firmware's flash. */
    map_add(l, PC_IOAPIC_BASE, PC_HIGH, E820_RESERVED);
    if (l->high_bytes)
        map_add(l, PC_HIGH, PC_HIGH + l->high_bytes, E820_RAM);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1 kernels: ELF, or flat with the addresses in the header. */
#ifndef RINGFENCE_BOOT_MULTIBOOT_H
#define RINGFENCE_BOOT_MULTIBOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct loader;

/* The header; the address fields are there when `flags` has MULTIBOOT_ADDRESSES. */
struct multiboot_header {
    uint32_t offset; /* in the file */
    uint32_t flags;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

#define MULTIBOOT_ADDRESSES (1u << 16)

/* Finds the header in the first 8 KiB. `h` may be NULL. */
bool multiboot_find(const uint8_t *data, size_t size, struct multiboot_header *h);

/* Loads the image, the initrd as its only module, and the information structure; sets the entry
 * state. */
int multiboot_load(struct loader *l, const uint8_t *data, size_t size, struct err *e);

#endif

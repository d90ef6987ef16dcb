/* SPDX-License-Identifier: Apache-2.0 */
/* The processor states in which kernels are entered, and the descriptor tables they may rely on. */
#ifndef RINGFENCE_BOOT_ENTRY_H
#define RINGFENCE_BOOT_ENTRY_H

#include <stdint.h>

struct err;
struct place;
struct x86_state;

/* Selectors of the GDT that entry_protected and entry_long leave (Linux's __BOOT_CS and __BOOT_DS).
 */
#define ENTRY_CS 0x10
#define ENTRY_DS 0x18

/* 32-bit protected mode, flat, no paging, interrupts off. General registers are zero but for the
 * caller's. */
int entry_protected(struct place *p, struct x86_state *s, uint32_t eip, struct err *e);

/* 64-bit mode with the low 4 GiB mapped one to one. */
int entry_long(struct place *p, struct x86_state *s, uint64_t rip, struct err *e);

/* Real mode at segment:0 of `cs`, all data segments and the stack at `ds`. */
void entry_real(struct x86_state *s, uint16_t cs, uint16_t ds, uint16_t sp);

/*
 * The memory types that firmware sets in every processor: RAM write-back, the display's window and
 * what lies between RAM and 4 GiB uncached, ROMs write-protected. `phys_bits`: width of addresses.
 */
void entry_memory_types(struct x86_state *s, unsigned phys_bits);

#endif

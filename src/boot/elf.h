/* SPDX-License-Identifier: Apache-2.0 */
/* ELF32 and ELF64 executables from untrusted bytes: parsing, notes, loading by physical address. */
#ifndef RINGFENCE_BOOT_ELF_H
#define RINGFENCE_BOOT_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct place;

/* An image in memory; the bytes belong to the caller and outlive it. */
struct elf {
    const uint8_t *data;
    size_t size;
    bool is64;
    uint16_t machine, type;
    uint64_t entry;
    uint64_t phoff;
    uint16_t phentsize, phnum;
};

struct elf_segment {
    uint32_t type, flags;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct elf_note {
    const char *name; /* name_len bytes, not necessarily terminated */
    uint32_t name_len, type, desc_len;
    const uint8_t *desc;
};

bool elf_is(const uint8_t *data, size_t size);

/*
 * Parses the headers of a little-endian ELF and checks every program header: the file has all bytes
 * it names, sizes don't overflow, p_filesz <= p_memsz. Any machine and type.
 */
int elf_parse(struct elf *elf, const uint8_t *data, size_t size, struct err *e);

/* Program header i < phnum of a parsed image. */
struct elf_segment elf_segment(const struct elf *elf, unsigned i);

/*
 * Steps through the notes of one PT_NOTE segment. *pos starts at 0. Returns false at the end, and
 * at the first note that is malformed.
 */
bool elf_note_next(const struct elf *elf, const struct elf_segment *seg, uint64_t *pos,
                   struct elf_note *note);

/* The 32-bit entry of Xen's PVH ABI (note "Xen", XEN_ELFNOTE_PHYS32_ENTRY), if the image has one.
 */
bool elf_find_pvh_entry(const struct elf *elf, uint32_t *entry);

/* The physical address of the entry point: the header's, translated where a segment's addresses say
 * so. */
uint64_t elf_entry_paddr(const struct elf *elf);

/*
 * Copies all PT_LOAD segments to their physical addresses, and clears the rest of each. *end
 * becomes the first address after the highest.
 */
int elf_load(const struct elf *elf, struct place *p, uint64_t *end, struct err *e);

#endif

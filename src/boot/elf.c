/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF loading (System V gABI, "Object Files" and "Program Loading"). Nothing of the file is
 * trusted: fields are read at checked offsets, and what a segment names must be in the file and in
 * the guest's RAM.
 */
#include "boot/elf.h"

#include <elf.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/place.h"

#define PHNUM_MAX 128 /* kernels have fewer than ten */

#define XEN_ELFNOTE_PHYS32_ENTRY 18

bool elf_is(const uint8_t *data, size_t size) {
    return size >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG);
}

static int parse_ehdr32(struct elf *elf, struct err *e) {
    Elf32_Ehdr h;

    if (elf->size < sizeof(h))
        return err_set(e, 0, "ELF: truncated header");
    memcpy(&h, elf->data, sizeof(h));
    elf->machine = h.e_machine;
    elf->type = h.e_type;
    elf->entry = h.e_entry;
    elf->phoff = h.e_phoff;
    elf->phentsize = h.e_phentsize;
    elf->phnum = h.e_phnum;
    return 0;
}

static int parse_ehdr64(struct elf *elf, struct err *e) {
    Elf64_Ehdr h;

    if (elf->size < sizeof(h))
        return err_set(e, 0, "ELF: truncated header");
    memcpy(&h, elf->data, sizeof(h));
    elf->machine = h.e_machine;
    elf->type = h.e_type;
    elf->entry = h.e_entry;
    elf->phoff = h.e_phoff;
    elf->phentsize = h.e_phentsize;
    elf->phnum = h.e_phnum;
    return 0;
}

struct elf_segment elf_segment(const struct elf *elf, unsigned i) {
    const uint8_t *p = elf->data + elf->phoff + (uint64_t)i * elf->phentsize;

    if (elf->is64) {
        Elf64_Phdr h;

        memcpy(&h, p, sizeof(h));
        return (struct elf_segment){h.p_type,  h.p_flags,  h.p_offset, h.p_vaddr,
                                    h.p_paddr, h.p_filesz, h.p_memsz,  h.p_align};
    }
    Elf32_Phdr h;

    memcpy(&h, p, sizeof(h));
    return (struct elf_segment){h.p_type,  h.p_flags,  h.p_offset, h.p_vaddr,
                                h.p_paddr, h.p_filesz, h.p_memsz,  h.p_align};
}

static int check_segment(const struct elf *elf, unsigned i, struct err *e) {
    struct elf_segment s = elf_segment(elf, i);

    if (s.type != PT_LOAD && s.type != PT_NOTE)
        return 0;
    if (!range_within(s.offset, s.filesz, elf->size))
        return err_set(
            e, 0, "ELF: truncated: segment %u needs %llu bytes at offset %llu, the file has %zu", i,
            (unsigned long long)s.filesz, (unsigned long long)s.offset, elf->size);
    if (s.type != PT_LOAD)
        return 0;
    if (s.filesz > s.memsz)
        return err_set(e, 0, "ELF: segment %u is larger in the file than in memory", i);
    if (s.paddr + s.memsz < s.paddr)
        return err_set(e, 0, "ELF: segment %u wraps around the address space", i);
    return 0;
}

static int check_phdrs(const struct elf *elf, struct err *e) {
    size_t least = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (!elf->phnum)
        return err_set(e, 0, "ELF: no program headers: not an executable");
    if (elf->phentsize < least)
        return err_set(e, 0, "ELF: program headers of %u bytes", elf->phentsize);
    if (elf->phnum > PHNUM_MAX)
        return err_set(e, 0, "ELF: %u program headers, at most %u are supported", elf->phnum,
                       PHNUM_MAX);
    if (!range_within(elf->phoff, (uint64_t)elf->phnum * elf->phentsize, elf->size))
        return err_set(e, 0, "ELF: truncated: program headers lie beyond the end of the file");
    for (unsigned i = 0; i < elf->phnum; i++) {
        int r = check_segment(elf, i, e);

        if (r < 0)
            return r;
    }
    return 0;
}

int elf_parse(struct elf *elf, const uint8_t *data, size_t size, struct err *e) {
    int r;

    *elf = (struct elf){.data = data, .size = size};
    if (!elf_is(data, size))
        return err_set(e, 0, "not an ELF file");
    if (size < EI_NIDENT)
        return err_set(e, 0, "ELF: truncated header");
    if (data[EI_DATA] != ELFDATA2LSB)
        return err_set(e, 0, "ELF: not little-endian");
    if (data[EI_CLASS] != ELFCLASS32 && data[EI_CLASS] != ELFCLASS64)
        return err_set(e, 0, "ELF: class %u is neither 32-bit nor 64-bit", data[EI_CLASS]);
    elf->is64 = data[EI_CLASS] == ELFCLASS64;
    r = elf->is64 ? parse_ehdr64(elf, e) : parse_ehdr32(elf, e);
    return r < 0 ? r : check_phdrs(elf, e);
}

/* Notes are padded to 4 bytes, or to 8 in segments that say so (gABI; .note.gnu.property does). */
bool elf_note_next(const struct elf *elf, const struct elf_segment *seg, uint64_t *pos,
                   struct elf_note *note) {
    const uint8_t *base = elf->data + seg->offset;
    uint64_t pad = seg->align == 8 ? 8 : 4;
    Elf64_Nhdr h;

    if (!range_within(*pos, sizeof(h), seg->filesz))
        return false;
    memcpy(&h, base + *pos, sizeof(h));
    uint64_t name = *pos + sizeof(h);
    uint64_t desc = align_up(name + h.n_namesz, pad);
    if (!range_within(name, h.n_namesz, seg->filesz) ||
        !range_within(desc, h.n_descsz, seg->filesz))
        return false;
    note->name = (const char *)base + name;
    note->name_len = h.n_namesz;
    note->type = h.n_type;
    note->desc = base + desc;
    note->desc_len = h.n_descsz;
    *pos = align_up(desc + h.n_descsz, pad);
    return true;
}

static bool note_is_pvh(const struct elf_note *n) {
    return n->type == XEN_ELFNOTE_PHYS32_ENTRY && n->name_len == 4 && !memcmp(n->name, "Xen", 4) &&
           (n->desc_len == 4 || n->desc_len == 8);
}

bool elf_find_pvh_entry(const struct elf *elf, uint32_t *entry) {
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);
        struct elf_note n;

        for (uint64_t pos = 0; s.type == PT_NOTE && elf_note_next(elf, &s, &pos, &n);) {
            uint64_t v = 0;

            if (!note_is_pvh(&n))
                continue;
            memcpy(&v, n.desc, n.desc_len);
            *entry = (uint32_t)v;
            return v <= UINT32_MAX;
        }
    }
    return false;
}

uint64_t elf_entry_paddr(const struct elf *elf) {
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);

        if (s.type == PT_LOAD && elf->entry >= s.vaddr && elf->entry - s.vaddr < s.memsz)
            return elf->entry - s.vaddr + s.paddr;
    }
    return elf->entry;
}

static uint64_t highest_end(const struct elf *elf) {
    uint64_t end = 0;

    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);

        if (s.type == PT_LOAD && s.memsz)
            end = MAX(end, s.paddr + s.memsz);
    }
    return end;
}

int elf_load(const struct elf *elf, struct place *p, uint64_t *end, struct err *e) {
    *end = highest_end(elf);
    if (!*end)
        return err_set(e, 0, "ELF: nothing to load");
    /* All of it first, so that the advice doesn't come segment by segment. */
    if (place_check_end(p, *end, "kernel", e) < 0)
        return -1;
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);

        if (s.type != PT_LOAD || !s.memsz)
            continue;
        uint8_t *host = place_at(p, s.paddr, s.memsz, "kernel segment", e);
        if (!host)
            return -1;
        memcpy(host, elf->data + s.offset, s.filesz);
        memset(host + s.filesz, 0, s.memsz - s.filesz);
    }
    return 0;
}

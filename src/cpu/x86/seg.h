/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments: descriptor tables, segment register loads and limit checks (SDM 3A chapters 3 and 5).
 * Error codes of raised faults are selectors without RPL; EXT is added while an event is being
 * delivered (exc.c).
 */
#ifndef RINGFENCE_CPU_X86_SEG_H
#define RINGFENCE_CPU_X86_SEG_H

#include "cpu/x86/cpu.h"

/* System descriptor types (SDM 3A table 3-2). */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_CALL16 = 4,
    DESC_TASK = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS32 = 9, /* in long mode 64 bits, as the following */
    DESC_CALL32 = 12,
    DESC_INT32 = 14,
    DESC_TRAP32 = 15,
    DESC_BUSY = 2, /* or-ed to a TSS's type */
};

/* A descriptor as it lies in its table. */
struct seg_desc {
    uint32_t lo, hi;
    uint64_t lin; /* where it lies */
};

static inline unsigned desc_dpl(const struct seg_desc *d) {
    return d->hi >> 13 & 3;
}
static inline unsigned desc_type(const struct seg_desc *d) {
    return d->hi >> 8 & 15;
}
static inline bool desc_present(const struct seg_desc *d) {
    return d->hi >> 15 & 1;
}
static inline bool desc_is_system(const struct seg_desc *d) {
    return !(d->hi >> 12 & 1);
}
static inline bool desc_is_code(const struct seg_desc *d) {
    return (d->hi & 0x1800) == 0x1800;
}
static inline bool desc_is_conforming(const struct seg_desc *d) {
    return (d->hi & 0x1c00) == 0x1c00;
}
static inline bool desc_is_writable_data(const struct seg_desc *d) {
    return (d->hi & 0x1a00) == 0x1200;
}
/* Data, or code that may be read. */
static inline bool desc_is_readable(const struct seg_desc *d) {
    return !desc_is_system(d) && (d->hi & 0xa00) != 0x800;
}
static inline bool sel_is_null(uint16_t sel) {
    return !(sel & ~3u);
}

/* Faults with `sel` (RPL cut off) as the error code. */
noreturn void seg_fault(struct x86_cpu *c, unsigned vector, uint16_t sel);

/* Reads a descriptor. False when the selector lies outside its table, or in an LDT that there
 * isn't. Page faults. */
bool seg_fetch(struct x86_cpu *c, uint16_t sel, struct seg_desc *d);
/* As above; outside is a fault with that vector and the selector. */
void seg_fetch_or_fault(struct x86_cpu *c, uint16_t sel, unsigned vector, struct seg_desc *d);
/* The upper eight bytes of a system descriptor in long mode; #GP(sel) when outside the table or
 * bits 8..12 of the last word are not 0. */
uint64_t seg_fetch_high(struct x86_cpu *c, uint16_t sel, const struct seg_desc *d);

/* What a segment register holds after loading this descriptor. */
struct x86_seg seg_from_desc(const struct seg_desc *d, uint16_t sel);
/* What it holds after a null selector; `dpl` matters for SS, where it is the CPL. */
struct x86_seg seg_null(uint16_t sel, unsigned dpl);

/* Sets the accessed bit in the table when it is not set. May page-fault. */
void seg_set_accessed(struct x86_cpu *c, struct seg_desc *d);
/* Sets or clears a TSS's busy bit in the table, locked. False when it already was as asked. May
 * page-fault. */
bool seg_set_busy(struct x86_cpu *c, uint64_t desc_lin, bool busy);

/* Whether [ea, ea + size) lies within the segment's limit, whatever its type says about access. */
bool seg_within(const struct x86_seg *s, uint64_t ea, unsigned size);

/* Whether an address is canonical for the number of linear-address bits in use. */
static inline bool seg_canonical(const struct x86_cpu *c, uint64_t lin) {
    unsigned shift = c->s.cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(lin << shift) >> shift) == lin;
}

/* Loads ES, SS, DS, FS or GS with all checks, in every mode. Does not call cpu_update_mode(). */
void seg_load(struct x86_cpu *c, unsigned sreg, uint16_t sel);
/* A data segment register in protected mode; what is wrong with the selector or descriptor is a
 * fault with that vector, a segment that is not present #NP. */
void seg_load_data(struct x86_cpu *c, unsigned sreg, uint16_t sel, unsigned vector);
/* Real and virtual-8086 mode: any segment register, CS too. */
void seg_load_real(struct x86_cpu *c, unsigned sreg, uint16_t sel);
/* The checks of an SS load for a given privilege: `vector` for all but presence (#SS). Nothing is
 * loaded, null is not looked at. */
void seg_check_stack(struct x86_cpu *c, uint16_t sel, unsigned cpl, unsigned vector,
                     struct seg_desc *d);
/* LDTR; null makes it unusable. `vector` for everything but presence, which is `absent`. */
void seg_load_ldtr(struct x86_cpu *c, uint16_t sel, unsigned vector, unsigned absent);

#endif

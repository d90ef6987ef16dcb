/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-linear memory as instructions see it: the software TLB's inline hit paths; everything else
 * (page walk, page crossings, MMIO, watchpoints, alignment checks, canonical faults) is in mmu.c.
 * `seg` only chooses between #GP and #SS for a non-canonical address: pass the segment register of
 * the access (SEG_SS for the stack).
 */
#ifndef RINGFENCE_CPU_X86_MMU_H
#define RINGFENCE_CPU_X86_MMU_H

#include "cpu/x86/cpu.h"
#include "mem/guest.h"

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16, PF_PK = 32 };

uint64_t mmu_ld_slow(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg);
void mmu_st_slow(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, unsigned seg);
void *mmu_rmw_slow(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg);
void mmu_wrote_slow(struct x86_cpu *c, const void *host, unsigned size);

/* To be called after every store through a host pointer into guest RAM (self-modifying code, dirty
 * log). */
static inline void mmu_wrote(struct x86_cpu *c, const void *host, unsigned size) {
    atomic_signal_fence(memory_order_seq_cst);
    uint64_t page = (uint64_t)((const uint8_t *)host - c->ram) >> PAGE_SHIFT;
    if (unlikely(atomic_load_explicit(&c->page_flags[page], memory_order_relaxed)))
        mmu_wrote_slow(c, host, size);
}

/*
 * The slot of an address: in the lower half of long mode another in every address space, so that
 * processes that use the same addresses do not push each other's entries out.
 */
static inline struct tlb_entry *tlb_slot(const struct x86_cpu *c, struct tlb_entry *tlb,
                                         uint64_t lin) {
    uint64_t low_half = (lin >> 63) - 1;
    return &tlb[(lin >> PAGE_SHIFT ^ (c->asid_mix & low_half)) & (TLB_SIZE - 1)];
}
static inline bool tlb_hit(const struct x86_cpu *c, const struct tlb_entry *e, uint64_t tag,
                           uint64_t lin) {
    return (((lin >> PAGE_SHIFT | c->asid) ^ tag) & e->mask) == 0;
}

/* mmu_ld8..64, mmu_st8..64: at the current privilege. Unaligned and page-crossing accesses are
 * fine; a store that crosses a page checks both pages before it changes either. */
#define MMU_ACCESS(bits)                                                                           \
    static inline uint##bits##_t mmu_ld##bits(struct x86_cpu *c, uint64_t lin, unsigned seg) {     \
        const struct tlb_entry *e = tlb_slot(c, c->tlb, lin);                                      \
        if (likely(tlb_hit(c, e, e->rd, lin) && (lin & PAGE_MASK) <= PAGE_SIZE - (bits) / 8)) {    \
            return guest_ld##bits((const void *)(lin + e->addend));                                \
        }                                                                                          \
        return (uint##bits##_t)mmu_ld_slow(c, lin, (bits) / 8, seg);                               \
    }                                                                                              \
    static inline void mmu_st##bits(struct x86_cpu *c, uint64_t lin, uint##bits##_t v,             \
                                    unsigned seg) {                                                \
        const struct tlb_entry *e = tlb_slot(c, c->tlb, lin);                                      \
        if (likely(tlb_hit(c, e, e->wr, lin) && (lin & PAGE_MASK) <= PAGE_SIZE - (bits) / 8)) {    \
            void *host = (void *)(lin + e->addend);                                                \
            guest_st##bits(host, v);                                                               \
            mmu_wrote(c, host, (bits) / 8);                                                        \
        } else {                                                                                   \
            mmu_st_slow(c, lin, v, (bits) / 8, seg);                                               \
        }                                                                                          \
    }
MMU_ACCESS(8)
MMU_ACCESS(16)
MMU_ACCESS(32)
MMU_ACCESS(64)
#undef MMU_ACCESS

static inline uint64_t mmu_ld(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    return size == 8   ? mmu_ld64(c, lin, seg)
           : size == 4 ? mmu_ld32(c, lin, seg)
           : size == 2 ? mmu_ld16(c, lin, seg)
                       : mmu_ld8(c, lin, seg);
}
static inline void mmu_st(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size,
                          unsigned seg) {
    if (size == 8)
        mmu_st64(c, lin, v, seg);
    else if (size == 4)
        mmu_st32(c, lin, (uint32_t)v, seg);
    else if (size == 2)
        mmu_st16(c, lin, (uint16_t)v, seg);
    else
        mmu_st8(c, lin, (uint8_t)v, seg);
}

/*
 * For read-modify-write: checks the access as a write (as the processor does) and returns host
 * memory when it is RAM within one page; NULL when it is MMIO, ROM, or crosses a page: then use
 * mmu_ld and mmu_st, which cannot fault any more. Call mmu_wrote() after storing.
 */
static inline void *mmu_rmw(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg) {
    const struct tlb_entry *e = tlb_slot(c, c->tlb, lin);
    if (likely(tlb_hit(c, e, e->wr, lin) && (lin & PAGE_MASK) <= PAGE_SIZE - size))
        return (void *)(lin + e->addend);
    return mmu_rmw_slow(c, lin, size, seg);
}

/* A locked read-modify-write that mmu_rmw answered NULL for runs between these (one lock for the
 * whole vm). */
void mmu_bus_lock(struct x86_cpu *c);
void mmu_bus_unlock(struct x86_cpu *c);

/*
 * Any length (at most 4096), at the current privilege. mmu_write checks all of it before it changes
 * anything. mmu_probe raises what such an access would raise and changes nothing but A and D bits.
 */
void mmu_read(struct x86_cpu *c, uint64_t lin, void *buf, unsigned len, unsigned seg);
void mmu_write(struct x86_cpu *c, uint64_t lin, const void *buf, unsigned len, unsigned seg);
void mmu_probe(struct x86_cpu *c, uint64_t lin, unsigned len, bool write, unsigned seg);

/*
 * The same as mmu_ld and mmu_st for operands whose alignment does not matter where it is checked:
 * vectors and their elements.
 */
uint64_t mmu_ld_unaligned(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg);
void mmu_st_unaligned(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, unsigned seg);
/* Canonical form of all of an operand; returns its address, cut to the address size. */
uint64_t mmu_check_range(struct x86_cpu *c, uint64_t lin, unsigned size, unsigned seg);
/* #AC when alignment is checked and a bit of `mask` is set in `lin`, which must be canonical. */
void mmu_check_alignment(struct x86_cpu *c, uint64_t lin, unsigned mask, unsigned seg);

/* Implicit supervisor accesses (GDT, LDT, IDT, TSS): whatever the CPL, SMAP not overridden by AC.
 */
uint64_t mmu_sys_ld(struct x86_cpu *c, uint64_t lin, unsigned size);
void mmu_sys_st(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size);
void mmu_sys_probe(struct x86_cpu *c, uint64_t lin, unsigned len, bool write);

/*
 * At a privilege that is not the current one (pushes to an inner stack before the switch): user =
 * CPL 3. `wide`: on a stack of 64-bit mode; otherwise `lin` has 32 bits, and 0 follows 4 GiB.
 */
void mmu_probe_as(struct x86_cpu *c, uint64_t lin, unsigned len, bool write, bool user, bool wide);
void mmu_st_as(struct x86_cpu *c, uint64_t lin, uint64_t v, unsigned size, bool user, bool wide);

/* For string instructions: host memory at lin for reading or writing up to the end of its page,
 * with the number of bytes in *avail; NULL when it must go through mmu_ld/mmu_st (MMIO,
 * watchpoints). Raises the fault of a 1-byte access. */
void *mmu_host(struct x86_cpu *c, uint64_t lin, bool write, unsigned seg, uint64_t *avail);

/*
 * Fills the TLB for an access at the current privilege, as it is about to be made. False when it
 * would fault, or is not to memory: nothing but A and D bits has changed.
 */
bool mmu_fill(struct x86_cpu *c, uint64_t lin, bool write);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engines' vCPU: architectural state, the software TLB, and the inline paths that
 * instruction functions use: registers, flags, effective addresses, faults.
 *
 * While the vCPU runs, s.rflags holds no arithmetic flags: those live in `cc` (same bit positions).
 * Use cpu_flags() and cpu_set_flags() for the whole register.
 */
#ifndef RINGFENCE_CPU_X86_CPU_H
#define RINGFENCE_CPU_X86_CPU_H

#include <setjmp.h>
#include <stdnoreturn.h>
#include <string.h>

#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/insn.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)

/*
 * One page's translation. A tag is (linear page number | address-space id << 52), or TLB_INVALID
 * where that access must take the slow path; `mask` hides the id for global pages. addend + linear
 * = host.
 */
struct tlb_entry {
    uint64_t rd, wr, ex, mask;
    uintptr_t addend;
};

#define TLB_INVALID (1ull << 63) /* ids stay below 2048, and no mask hides this bit */
#define TLB_ASID_SHIFT 52
#define TLB_PAGE_BITS ((1ull << TLB_ASID_SHIFT) - 1)

/* Which TLB: by privilege, and by RFLAGS.AC where SMAP is on. TLB_OFF is always empty (alignment
 * checks on). */
enum { TLB_SUPER, TLB_USER, TLB_SUPER_AC, TLB_OFF, TLB_COUNT };

struct x86_exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    bool soft;     /* INT n, INT3, INTO: gate DPL is checked, RIP points behind the instruction */
    bool external; /* interrupt or NMI: sets EXT in error codes of nested faults */
    uint64_t cr2;  /* page faults: stored to CR2 on delivery */
    uint64_t dr6;  /* #DB: bits to set in DR6 on delivery */
};

/* What is counted always, because it is rare. Only the vCPU's thread writes. */
struct x86_counts {
    uint64_t walks, decoded; /* page walks; blocks that were decoded */
    uint64_t exceptions[32], interrupts[256], software[256];
};

struct trace;
struct interp; /* interp.c: blocks and the vm they belong to */

struct x86_cpu {
    struct vcpu v;
    _Alignas(64) struct x86_state s;
    uint32_t cc;   /* arithmetic flags, in their RFLAGS positions, nothing else */
    uint64_t next; /* address of the next instruction */

    /* Derived from the state by cpu_update_mode(). */
    uint8_t cpl;
    uint8_t code_size; /* 16, 32, 64 */
    bool mode64;       /* long mode, 64-bit code segment */
    bool pe, vm86, lma, paging;
    uint8_t
        flat; /* bit per segment register: base 0, limit 4 GiB, usable for reading and writing */
    uint64_t stack_mask;         /* 0xffff, 0xffffffff or ~0 */
    uint64_t base64[6];          /* segment bases as 64-bit mode sees them: only FS and GS count */
    uint64_t asid;               /* current address-space id << 52 */
    struct tlb_entry *tlb;       /* for accesses at this privilege */
    struct tlb_entry *tlb_fetch; /* for instruction fetch */

    struct mem *mem;
    uint8_t *ram;
    _Atomic uint8_t *page_flags;
    struct clock *clock;
    const struct x86_cpuid *cpuid;

    struct x86_exception exc; /* what cpu_raise() left */
    struct x86_exception exc_prev;
    bool exc_nested;      /* exc_prev was being delivered when exc was raised */
    uint64_t dr6_pending; /* debug conditions (B0-B3, BS) to be reported after this instruction */
    jmp_buf jmp;

    /* Address spaces: PCID -> id, 0 where none is assigned (mmu.c). */
    uint16_t asid_of[4096];
    uint16_t asid_last;
    uint64_t large_2m[32], large_1g[32]; /* hashes of large pages that have TLB entries */
    uint64_t asid_mix;   /* what the address-space id does to the slots of the lower half */
    bool low_global;     /* the lower half of long mode has had entries of global pages */
    uint64_t paging_gen; /* bumped when what was looked up by linear address is stale */
    uint64_t space_gen;  /* bumped when global pages are too, beyond single pages */
    uint64_t
        context;    /* asid, paging_gen, privilege and code size in one word: keys the jump cache */
    uint64_t space; /* asid and space_gen */
    /*
     * Pages in [lin, lin + bytes), aligned, left the TLB: for an engine that keeps what it looked
     * up by address and goes by `space` instead of `context`. NULL when there is none.
     */
    void (*pages_dropped)(struct x86_cpu *c, uint64_t lin, uint64_t bytes);
    struct ram_run {
        uint64_t gpa, bytes;
        uint8_t *host;
    } ram_run[8];       /* the largest runs of RAM, for page walks */
    uint64_t apic_page; /* guest-physical address of the local APIC's page */
    bool watching;      /* data breakpoints or a debugger's watchpoints are set */
    bool stopping;      /* instruction breakpoints are set, in DR7 or by a debugger */
    const struct engine_debug *debug;
    uint64_t debug_watch_addr; /* linear address of a debugger's watchpoint that was hit */
    bool debug_watch_hit;

    uint64_t icount;
    unsigned pauses;                       /* PAUSE instructions executed */
    struct trace *trace;                   /* NULL: nobody asked for one */
    unsigned traced;                       /* trace_what() of it */
    const char *trace_mode, *trace_paging; /* trace.c: as it was told last */
    struct x86_counts counts;
    struct interp *interp;
    uint64_t tlb_used[TLB_OFF][TLB_SIZE / 64]; /* slots that may hold something */
    struct tlb_entry tlbs[TLB_COUNT][TLB_SIZE];
};

/* ---- registers: by byte offset into the state, as decoded operands hold them ---- */

#define REG_OFF(n) ((uint8_t)((n)*8))
#define REG_OFF_RIP ((uint8_t)offsetof(struct x86_state, rip))
#define REG_OFF_ZERO ((uint8_t)offsetof(struct x86_state, zero))

static inline void *cpu_reg(struct x86_cpu *c, unsigned off) {
    return (char *)&c->s + off;
}
static inline uint8_t reg8(struct x86_cpu *c, unsigned off) {
    return *(uint8_t *)cpu_reg(c, off);
}
static inline uint16_t reg16(struct x86_cpu *c, unsigned off) {
    return *(uint16_t *)cpu_reg(c, off);
}
static inline uint32_t reg32(struct x86_cpu *c, unsigned off) {
    return *(uint32_t *)cpu_reg(c, off);
}
static inline uint64_t reg64(struct x86_cpu *c, unsigned off) {
    return *(uint64_t *)cpu_reg(c, off);
}
static inline void set_reg8(struct x86_cpu *c, unsigned off, uint8_t v) {
    *(uint8_t *)cpu_reg(c, off) = v;
}
static inline void set_reg16(struct x86_cpu *c, unsigned off, uint16_t v) {
    *(uint16_t *)cpu_reg(c, off) = v;
}
/* A 32-bit result clears the upper half (SDM 1 3.4.1.1). */
static inline void set_reg32(struct x86_cpu *c, unsigned off, uint32_t v) {
    *(uint64_t *)cpu_reg(c, off) = v;
}
static inline void set_reg64(struct x86_cpu *c, unsigned off, uint64_t v) {
    *(uint64_t *)cpu_reg(c, off) = v;
}
/* By operand size in bytes. */
static inline uint64_t reg_get(struct x86_cpu *c, unsigned off, unsigned size) {
    return size == 8   ? reg64(c, off)
           : size == 4 ? reg32(c, off)
           : size == 2 ? reg16(c, off)
                       : reg8(c, off);
}
static inline void reg_set(struct x86_cpu *c, unsigned off, unsigned size, uint64_t v) {
    if (size == 8)
        set_reg64(c, off, v);
    else if (size == 4)
        set_reg32(c, off, (uint32_t)v);
    else if (size == 2)
        set_reg16(c, off, (uint16_t)v);
    else
        set_reg8(c, off, (uint8_t)v);
}

/* ---- flags ---- */

static inline uint64_t cpu_flags(const struct x86_cpu *c) {
    return c->s.rflags | c->cc;
}
/* Takes all of `v` as it is (callers mask). When TF, IF, VM or AC may change, cpu_update_mode()
 * must follow. */
static inline void cpu_set_flags(struct x86_cpu *c, uint64_t v) {
    c->s.rflags = (v & ~(uint64_t)FLAG_ARITH) | FLAG_FIXED;
    c->cc = (uint32_t)v & FLAG_ARITH;
}

/* ---- faults: they do not return ---- */

noreturn void cpu_raise(struct x86_cpu *c, unsigned vector);
noreturn void cpu_raise_err(struct x86_cpu *c, unsigned vector, uint32_t error);
noreturn void cpu_raise_pf(struct x86_cpu *c, uint64_t linear, uint32_t error);
/*
 * Makes the loop take control after the current instruction instead of running on in its block: the
 * code under it was written, or a debug condition is pending. (interp.c)
 */
void cpu_end_block(struct x86_cpu *c);

static inline void cpu_require_cpl0(struct x86_cpu *c) {
    if (unlikely(c->cpl != 0))
        cpu_raise_err(c, EXC_GP, 0);
}

/* ---- mode (cpu.c) ---- */

/* Recomputes everything derived after a change of CR0, CR4, EFER, CS, SS, other segments,
 * RFLAGS.VM/AC or CPL. */
void cpu_update_mode(struct x86_cpu *c);
/* CPL is SS.DPL in protected mode; sets it there and updates the mode. */
void cpu_set_cpl(struct x86_cpu *c, unsigned cpl);

/* ---- TLB maintenance (mmu.c) ---- */

void mmu_flush_all(struct x86_cpu *c);                 /* global entries too */
void mmu_flush_nonglobal(struct x86_cpu *c);           /* every PCID */
void mmu_flush_pcid(struct x86_cpu *c, unsigned pcid); /* non-global entries of one PCID */
void mmu_flush_page(struct x86_cpu *c,
                    uint64_t linear); /* INVLPG: this page in the current PCID, and global */
void mmu_flush_page_pcid(struct x86_cpu *c, uint64_t linear, unsigned pcid); /* INVPCID type 0 */
/* After CR3 has a new value in s.cr3: picks the address-space id; flushes it unless `keep` (bit 63
 * with PCIDE). */
void mmu_switch_space(struct x86_cpu *c, bool keep);
/* Loads s.pdpte from CR3 in PAE paging; #GP(0) on reserved bits. `cr3` is the new value. Raises
 * before it changes anything. */
void mmu_load_pdptes(struct x86_cpu *c, uint64_t cr3);
/* Data breakpoints (DR7, debugger) changed. */
void mmu_watch_changed(struct x86_cpu *c);

/* The map of guest-physical memory or the APIC's base changed: forgets all of it. (mmu.c) */
void mmu_remap(struct x86_cpu *c);

/* ---- effective and linear addresses ---- */

/* Data of 4 GiB that may be read and written: what lies in it is found by adding the base. (cpu.c)
 */
bool seg_is_unlimited(const struct x86_seg *s);

static inline uint64_t insn_ea(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t ea = reg64(c, i->base) + (reg64(c, i->index) << i->scale) + (uint64_t)(int64_t)i->disp;
    return ea << i->ashift >> i->ashift;
}

/*
 * Legacy and compatibility modes: checks usability, type and limit of `seg` for an access of `size`
 * bytes at `ea` and returns the linear address (32 bits). #GP(0), or #SS(0) for SS. (seg.c)
 */
uint64_t seg_linear(struct x86_cpu *c, unsigned seg, uint64_t ea, unsigned size, bool write);

/* Canonical checks in 64-bit mode are made by the TLB-miss path, so none is needed here. */
static inline uint64_t cpu_linear(struct x86_cpu *c, unsigned seg, uint64_t ea, unsigned size,
                                  bool write) {
    if (likely(c->mode64))
        return ea + c->base64[seg];
    if (likely(c->flat >> seg & 1)) /* without a limit: behind 4 GiB it goes on at 0 */
        return ea;
    return seg_linear(c, seg, ea, size, write);
}

/* A linear address that was reached by adding to another. */
static inline uint64_t cpu_wrap(const struct x86_cpu *c, uint64_t lin) {
    return c->mode64 ? lin : (uint32_t)lin;
}

static inline uint64_t insn_linear(struct x86_cpu *c, const struct x86_insn *i, unsigned size,
                                   bool write) {
    return cpu_linear(c, i->seg, insn_ea(c, i), size, write);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native thunks: small host functions that run one guest x87, MMX, SSE or AVX instruction on values
 * that the caller points to. They are shared by the whole process, made on first use, and kept for
 * its life; their number is bounded by the instruction set, as register numbers are not part of a
 * thunk.
 */
#ifndef RINGFENCE_CPU_X86_THUNK_H
#define RINGFENCE_CPU_X86_THUNK_H

#include <stdint.h>

#define THUNK_SLOTS 4

/* What a thunk finds and leaves besides vector registers and memory. */
struct thunk_frame {
    uint64_t gpr[3];     /* RAX, RCX, RDX */
    uint64_t flags;      /* RFLAGS after it; before it, too, with THUNK_FLAGS_IN */
    uint32_t mxcsr;      /* the guest's, with THUNK_MXCSR */
    uint32_t host_mxcsr; /* the thunk's own: the monitor's, whose exception flags may change */
};

/*
 * Returns 0, or 1 when the instruction raised an unmasked SIMD floating-point exception: then
 * frame->mxcsr has its flags and no register was written. `mem` is the memory operand: readable and
 * writable, aligned as the instruction wants. v0..v3 point to the vector registers of the slots.
 * For x87 (THUNK_X87), v0 is a 512-byte FXSAVE64 image, 16-byte aligned.
 */
typedef int thunk_fn(struct thunk_frame *f, void *mem, void *v2, void *v3, void *v0, void *v1);

enum thunk_slot { THUNK_NONE, THUNK_XMM, THUNK_YMM, THUNK_MM };

/* The host register that slot n is kept in: 1, 2, 3, and 0 for the last. */
static inline unsigned thunk_reg(unsigned slot) {
    return (slot + 1) % THUNK_SLOTS;
}

enum {
    THUNK_MXCSR = 1,     /* obeys and changes MXCSR */
    THUNK_FLAGS = 2,     /* changes RFLAGS */
    THUNK_FLAGS_IN = 4,  /* reads RFLAGS */
    THUNK_X87 = 8,       /* the x87 state is loaded from v0 and stored back there */
    THUNK_STORE_V0 = 16, /* writes slot 0's register */
    THUNK_STORE_V3 = 32, /* writes slot 3's register */
};

/* The instruction in its canonical form: memory operand [rsi], vector registers as thunk_reg()
 * says, RAX for a general register in ModRM.reg, RCX for one in ModRM.rm. Unused bytes are zero. */
struct thunk_key {
    uint8_t code[12];
    uint8_t len;
    uint8_t flags;
    uint8_t slot[THUNK_SLOTS];
    uint8_t gpr_in, gpr_out; /* bit n: frame->gpr[n] */
};

struct thunk {
    struct thunk *chain;
    thunk_fn *run;
    struct thunk_key key;
};

/* The thunk for a key, made when there is none yet; NULL when the host has no room for it. Any
 * thread. */
const struct thunk *thunk_get(const struct thunk_key *key);

#endif

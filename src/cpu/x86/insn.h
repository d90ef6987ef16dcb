/* SPDX-License-Identifier: Apache-2.0 */
/* The decoded form of one instruction, and how the instruction families plug into the decoder. */
#ifndef RINGFENCE_CPU_X86_INSN_H
#define RINGFENCE_CPU_X86_INSN_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;
struct x86_cpuid;
struct x86_insn;

/*
 * Executes one instruction. On entry c->s.rip is its address and c->next the address of the
 * following one; a branch stores its target in c->next. Faults leave through cpu_raise() and must
 * find all architectural state as it was before the instruction (apart from what the manual says is
 * partial, as in REP).
 */
typedef void x86_op_fn(struct x86_cpu *c, const struct x86_insn *i);

/* Head of such a function's definition; not every instruction looks at its operands. */
#define X86_OP(name)                                                                               \
    static void name(struct x86_cpu *c __attribute__((unused)),                                    \
                     const struct x86_insn *i __attribute__((unused)))

enum {
    INSN_LOCK = 1,
    INSN_REP = 2,   /* F3 */
    INSN_REPNE = 4, /* F2 */
    INSN_MEM = 8,   /* has a memory operand: base, index, scale, disp, seg are valid */
    INSN_END = 16,  /* ends the block: may branch, change mode, paging or interruptibility */
    INSN_IMM = 32,
};

struct x86_insn {
    x86_op_fn *fn;
    uint64_t imm;     /* immediate, sign-extended to 64 bits; branch displacement; moffs address */
    const void *data; /* for the family's own use (a vector operation's native thunk, …) */
    int32_t disp;
    uint8_t len;
    uint8_t dst, src,
        src2; /* registers as byte offsets into struct x86_state: 8 * n, or 8 * n + 1 for AH..BH */
    uint8_t base, index; /* likewise; the offset of rip or zero where there is none */
    uint8_t scale;       /* shift count */
    uint8_t seg;         /* enum x86_sreg of the memory operand */
    uint8_t ashift;      /* 64 - address size: effective addresses are cut to this by shifting */
    uint8_t osize;       /* operand size in bytes: 1, 2, 4, 8 (for vectors: the family decides) */
    uint8_t flags;       /* INSN_* */
    uint8_t mode;        /* 16, 32 or 64: the code segment's default size */
    uint16_t mnemonic;   /* ZydisMnemonic */
    uint16_t aux;        /* for the family's own use */
};

/* Index into tables by operand size: 1, 2, 4, 8 bytes -> 0, 1, 2, 3. */
static inline unsigned size_index(unsigned bytes) {
    return bytes == 8 ? 3 : bytes == 4 ? 2 : bytes == 2 ? 1 : 0;
}

struct x86_decode {
    const ZydisDecodedInstruction *zi;
    const ZydisDecodedOperand *op; /* zi->operand_count of them, hidden ones too */
    const struct x86_cpuid *cpuid;
    const uint8_t *bytes; /* zi->length of them */
};

/*
 * A family's part of decoding. The common part has filled everything it could: len, mode, flags,
 * the memory operand, imm from the first immediate operand, osize from zi->operand_width, and
 * dst/src/src2 from the first three explicit operands that are general registers in operand order
 * (operand 0 -> dst, 1 -> src, 2 -> src2). Sets i->fn (and INSN_END where due) and returns true;
 * false means #UD.
 */
typedef bool x86_select_fn(const struct x86_decode *d, struct x86_insn *i);

/*
 * Decodes the instruction at `bytes` (`avail` of them readable) for a code size of 16, 32 or 64.
 * Returns 0; -EAGAIN when more than `avail` bytes are needed (never when avail >= 15). What cannot
 * be decoded or does not exist for this CPUID becomes an instruction that raises #UD (or #GP when
 * longer than 15 bytes).
 */
int x86_decode(const struct x86_cpuid *cpuid, unsigned mode, const uint8_t *bytes, unsigned avail,
               struct x86_insn *i);

/* The same, with what Zydis says, for a translator: `zi` and `op` are valid unless i->fn only
 * raises. */
int x86_decode_full(const struct x86_cpuid *cpuid, unsigned mode, const uint8_t *bytes,
                    unsigned avail, struct x86_insn *i, ZydisDecodedInstruction *zi,
                    ZydisDecodedOperand *op);

/* Every family's selector, one per file; decode.c asks them by mnemonic or category. */
x86_select_fn select_alu, select_mov, select_exchange, select_shift, select_muldiv, select_bits,
    select_string, select_stack, select_branch, select_bcd;
x86_select_fn select_far; /* far JMP/CALL/RET, IRET, INT n, INT3, INT1, INTO, BOUND, UD0-2 */
x86_select_fn select_seg; /* MOV/POP/PUSH sreg, LDS..LGS, LAR, LSL, VERR, VERW, ARPL, SLDT, STR,
                             LLDT, LTR, RDFSBASE.. SWAPGS */
x86_select_fn select_sys; /* privileged and system instructions, CPUID, RDTSC, SYSCALL, SYSENTER,
                             HLT, MWAIT, … */
x86_select_fn select_io;  /* IN, OUT, INS, OUTS */
x86_select_fn
    select_flags; /* PUSHF, POPF, CLI, STI, CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC, STAC, CLAC */
x86_select_fn select_x87; /* all of x87, FWAIT, FNSAVE, FRSTOR, … */
x86_select_fn
    select_vector; /* MMX, SSE*, AVX*, FMA, F16C, AES, PCLMUL, SHA, GFNI, LDMXCSR, EMMS, … */
x86_select_fn select_xsave; /* FXSAVE, FXRSTOR, XSAVE*, XRSTOR*, XGETBV, XSETBV */

#endif

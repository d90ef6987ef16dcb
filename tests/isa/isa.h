/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instruction tests against the processor we run on: what the parts of the test program share.
 *
 * A form is one row of the opcode tables with its prefixes, sizes and operand kinds; a case is a
 * form with registers, immediates, operand values and flags filled in. It depends on nothing but
 * (seed, form, instance). Each case runs on the processor (native.c) and on the engine (guest.c),
 * which see the same addresses, and ends at an exception: the breakpoint behind the instruction
 * when nothing else happens.
 */
#ifndef RINGFENCE_TESTS_ISA_H
#define RINGFENCE_TESTS_ISA_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine_ops;
struct x86_cpuid;

/* The user address space, the same on both sides. What is not listed is not mapped. */
#define PAGE_4K 0x1000u
#define CODE_BASE 0x20000000ull /* readable and executable, filled with INT3 */
#define CODE_SIZE 0x2000u
#define DATA_BASE 0x20010000ull /* readable and writable */
#define DATA_SIZE 0x2000u
#define RO_BASE 0x20012000ull /* readable, right behind the writable data */
#define RO_SIZE 0x1000u
/* Writable where the host lets us map it: for 16-bit addresses. */
#define LOW_BASE 0x8000ull
#define LOW_SIZE 0x1000u
#define TOP_BASE 0xfffff000ull /* readable and writable, the last that 32-bit addresses reach */
#define TOP_SIZE 0x1000u
#define GS_BASE (DATA_BASE + 0x100)

/* Selectors, as Linux has them. */
#define SEL_USER32_CS 0x23
#define SEL_USER_DS 0x2b
#define SEL_USER_CS 0x33

struct isa_state {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    uint16_t fcw, fsw, fop;
    uint8_t ftw;
    uint32_t mxcsr;
    uint64_t fip, fdp;
    uint8_t st[8][16];
    uint8_t ymm[16][32];
};

struct isa_result {
    struct isa_state s;
    uint32_t vector, error;
    uint64_t cr2;
    const char *failure; /* not NULL: the engine came back with something else than an exception */
};

/* What is in memory: the image before a case, and each side's after it. */
struct isa_memory {
    uint8_t data[DATA_SIZE];
    uint8_t low[LOW_SIZE];
    uint8_t top[TOP_SIZE];
    uint8_t ro[RO_SIZE];
};

enum { ENC_LEGACY, ENC_VEX };

struct form {
    bool mode32, has_modrm, mem, vsib, announced;
    uint8_t enc, map, opcode, modrm;
    uint8_t prefix[3], prefixes; /* LOCK, 66, F2, F3 in the order they are written */
    bool w, l;
    uint8_t pp;
    const void *def;
    ZydisMnemonic mnemonic;
    uint8_t operand_width;
};

struct forms {
    struct form *list;
    unsigned count;
};

struct isa_case {
    const struct form *form;
    unsigned form_index, instance;
    uint8_t code[16];
    uint8_t len;
    struct isa_state in;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* forms.c */
void forms_enumerate(struct forms *f, const struct x86_cpuid *id, bool with_32);
const ZydisDecoder *forms_decoder(bool mode32);
/* Decodes with all operands; returns the definition that matched, or NULL. */
const void *forms_decode(bool mode32, const uint8_t *code, size_t len,
                         ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops);

/* gen.c */
struct rng {
    uint64_t s;
};
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n);
bool rng_one_in(struct rng *r, unsigned n);
/* Fills in a case and `mem`, which holds the background before. False when the form has no case. */
bool gen_case(struct isa_case *c, const struct form *f, uint64_t seed, unsigned form_index,
              unsigned instance, struct isa_memory *mem, uint64_t fs_base);
void gen_background(struct isa_memory *mem, uint64_t seed);

/* values.c */
uint64_t value_int(struct rng *r);
enum value_style { STYLE_BITS, STYLE_F16, STYLE_F32, STYLE_F64, STYLE_SMALL, STYLE_EDGE, STYLES };
void value_fill(struct rng *r, enum value_style style, uint8_t *p, size_t n);
void value_f80(struct rng *r, uint8_t p[10]);
void value_fpu(struct rng *r, struct isa_state *s, enum value_style style);

/* native.c */
int native_init(void);
bool native_has_low(void);
uint64_t native_fs_base(void);
void native_run(const struct isa_case *c, const struct isa_memory *before, struct isa_result *out,
                struct isa_memory *after);
/* Whether the kernel lets 64-bit processes run compatibility-mode code. */
bool native_can_32(void);

/* guest.c */
int guest_init(const struct engine_ops *engine, const struct x86_cpuid *id, uint64_t fs_base,
               bool low);
void guest_run(const struct isa_case *c, const struct isa_memory *before, struct isa_result *out,
               struct isa_memory *after);

/* compare.c */
/* Appends what differs to `text`; returns the number of differences. */
unsigned compare_results(const struct isa_case *c, const struct isa_result *native,
                         const struct isa_memory *native_mem, const struct isa_result *guest,
                         const struct isa_memory *guest_mem, char *text, size_t size);
/* A case as a reproducer: bytes, disassembly, input state. */
void compare_describe(const struct isa_case *c, const struct isa_memory *before, char *text,
                      size_t size);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random programs of 64-bit code that come to an end. Functions call later functions only, and
 * loops count down counters that nothing else writes. RBX, RBP, R12 and R13 point into the data,
 * R14 is a small index; the other registers take whatever comes.
 */
#include <string.h>

#include "base/util.h"
#include "cpu/x86/cpuid.h"
#include "lockstep.h"

#define DATA_OFF (DATA_PAGE << 12)
#define TABLE_OFF ((DATA_PAGE + DATA_PAGES - 1) << 12) /* the last page of data is not random */
#define COUNTERS_OFF (TABLE_OFF + 0x800)
#define TARGETS_OFF (TABLE_OFF + 0xc00) /* addresses of functions, for calls through memory */
#define STACK_OFF ((STACK_PAGE + STACK_PAGES) << 12)
#define ANY_MEMORY 16u /* where the number of a register may be */

struct gen {
    struct rng rng;
    struct program *p;
    const struct x86_cpuid *id;
    unsigned free; /* registers that this function uses */
    unsigned function;
    unsigned counters;
    uint8_t pops[FUNCTIONS_MAX]; /* bytes of arguments that a function's RET takes off */
};

static unsigned below(struct gen *g, unsigned n) {
    return rng_below(&g->rng, n);
}

/* ---- bytes ---- */

static void byte(struct item *it, unsigned v) {
    it->bytes[it->len++] = (uint8_t)v;
}

static void bytes(struct item *it, uint64_t v, unsigned n) {
    memcpy(it->bytes + it->len, &v, n);
    it->len = (uint8_t)(it->len + n);
}

#define BYTES(it, ...)                                                                             \
    put_all(it, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
static void put_all(struct item *it, const uint8_t *b, size_t n) {
    memcpy(it->bytes + it->len, b, n);
    it->len = (uint8_t)(it->len + n);
}

/* A displacement of 32 bits with `tail` bytes of its instruction behind it. */
static void link32(struct item *it, enum fix_kind kind, unsigned arg, unsigned tail) {
    it->fix[it->fixes++] =
        (struct fix){.kind = (uint8_t)kind, .at = it->len, .tail = (uint8_t)tail, .arg = arg};
    bytes(it, 0, 4);
}

/* ---- what is random ---- */

static unsigned any_reg(struct gen *g) {
    for (;;) {
        unsigned r = below(g, 16);
        if (g->free >> r & 1)
            return r;
    }
}

static unsigned any_pointer(struct gen *g) {
    static const uint8_t pointers[] = {RBX, RBP, R12, R13};
    return pointers[below(g, sizeof pointers)];
}

static uint64_t any_value(struct rng *r) {
    switch (rng_below(r, 5)) {
    case 0:
        return rng_below(r, 4) - 2ull;
    case 1:
        return 1ull << rng_below(r, 64);
    case 2:
        return (1ull << rng_below(r, 64)) - 1;
    case 3:
        return rng_next(r) >> rng_below(r, 64);
    default:
        return rng_next(r);
    }
}

/* Near the end of a page often. */
static uint32_t data_offset(struct rng *r) {
    uint32_t page = rng_below(r, DATA_PAGES - 1), in = rng_below(r, 0xc00) + 0x400;
    if (rng_below(r, 3) == 0)
        in = 0x1000 - rng_below(r, 20);
    return DATA_OFF + (page << 12) + in;
}

/* ---- operands ---- */

/* A memory operand in one of the forms that addresses have. Returns REX.X and REX.B. */
struct address {
    uint8_t prefix, rex, modrm, sib, disp;
    bool has_sib, rip;
    uint32_t value;
};

static struct address any_address(struct gen *g) {
    struct address a = {.disp = 1, .value = below(g, 160) - 80};
    unsigned base = any_pointer(g), scale = below(g, 4);
    unsigned form = below(g, 12);
    a.modrm = (uint8_t)(0x40 | (base & 7));
    a.rex = base >> 3;
    a.has_sib = base == R12;
    a.sib = 0x24;
    if (form < 3)
        return a;
    a.disp = 4;
    a.modrm ^= 0xc0;
    if (form == 3)
        return a;
    if (form == 4) {
        a.prefix = 0x67;
        return a;
    }
    a.has_sib = true;
    a.modrm = 0x84;
    a.sib = (uint8_t)(scale << 6 | (R14 & 7) << 3 | (base & 7));
    a.rex = (uint8_t)(2 | base >> 3);
    if (form < 7)
        return a;
    if (form == 7) { /* below the stack pointer */
        a.rex = 0;
        a.sib = 0x24;
        a.value = 0u - 136 - below(g, 100);
        return a;
    }
    a.modrm = 0x04;
    a.sib = 0x25;
    a.rex = 0;
    a.value = below(g, 0x2000);
    if (form < 10) {
        a.prefix = form == 8 ? 0x64 : 0x65;
        return a;
    }
    a.value = WINDOW + data_offset(&g->rng);
    if (form == 10)
        return a;
    a.has_sib = false;
    a.modrm = 0x05;
    a.rip = true;
    a.value -= WINDOW;
    return a;
}

enum { NO_W = 0, W = 8, MAP_0F = 0x100, MAP_0F38 = 0x200, MAP_0F3A = 0x300 };

static void opcode(struct item *it, unsigned op) {
    if (op >= MAP_0F)
        byte(it, 0x0f);
    if (op >> 8 == MAP_0F38 >> 8)
        byte(it, 0x38);
    if (op >> 8 == MAP_0F3A >> 8)
        byte(it, 0x3a);
    byte(it, op);
}

/* prefix, REX, opcode, modrm …; `rm` is a register or ANY_MEMORY; `tail` bytes of immediate
 * follow. */
static void insn(struct gen *g, struct item *it, unsigned prefix, unsigned w, unsigned op,
                 unsigned reg, unsigned rm, unsigned tail) {
    struct address a = {.modrm = (uint8_t)(0xc0 | (rm & 7)), .rex = (uint8_t)(rm >> 3)};
    if (rm == ANY_MEMORY)
        a = any_address(g);
    if (a.prefix)
        byte(it, a.prefix);
    if (prefix >> 8)
        byte(it, prefix >> 8);
    if (prefix & 0xff)
        byte(it, prefix & 0xff);
    byte(it, 0x40 | w | (reg >> 3) << 2 | a.rex);
    opcode(it, op);
    byte(it, a.modrm | (reg & 7) << 3);
    if (a.has_sib)
        byte(it, a.sib);
    if (a.rip)
        link32(it, FIX_WINDOW, a.value, tail);
    else
        bytes(it, a.value, a.disp);
}

/* 0: bytes, 1: 16 bits, 2: 32, 3: 64. */
static unsigned any_size(struct gen *g) {
    static const uint8_t sizes[] = {0, 0, 1, 2, 2, 2, 3, 3, 3};
    return sizes[below(g, sizeof sizes)];
}

static unsigned size_prefix(unsigned size) {
    return size == 1 ? 0x66 : 0;
}

static unsigned size_w(unsigned size) {
    return size == 3 ? W : NO_W;
}

/* An operation whose byte form is `op` and whose others are op + 1. */
static void sized(struct gen *g, struct item *it, unsigned lock, unsigned op, unsigned size,
                  unsigned reg, unsigned rm, unsigned tail) {
    insn(g, it, lock << 8 | size_prefix(size), size_w(size), op + (size != 0), reg, rm, tail);
}

static unsigned reg_or_memory(struct gen *g) {
    return below(g, 2) ? any_reg(g) : ANY_MEMORY;
}

/* ---- items: registers and memory ---- */

static void make_alu(struct gen *g, struct item *it) {
    unsigned op = below(g, 8) << 3, rm = reg_or_memory(g);
    bool lock = rm == ANY_MEMORY && op != 0x38 && below(g, 6) == 0;
    if (below(g, 2) && !lock)
        op |= 2;
    sized(g, it, lock ? 0xf0 : 0, op, any_size(g), any_reg(g), rm, 0);
}

static void make_alu_imm(struct gen *g, struct item *it) {
    unsigned size = any_size(g), rm = reg_or_memory(g);
    unsigned n = size == 0 ? 1 : size == 1 ? 2 : 4;
    bool small = size && below(g, 2);
    if (small)
        insn(g, it, size_prefix(size), size_w(size), 0x83, below(g, 8), rm, 1);
    else
        sized(g, it, 0, 0x80, size, below(g, 8), rm, n);
    bytes(it, any_value(&g->rng), small ? 1 : n);
}

/* Others may write over its immediate and its operation. */
static void make_patchable(struct gen *g, struct item *it) {
    insn(g, it, 0, below(g, 2) ? W : NO_W, 0x81, below(g, 8), any_reg(g), 4);
    bytes(it, any_value(&g->rng), 4);
    it->patchable = true;
}

static void make_mov(struct gen *g, struct item *it) {
    sized(g, it, 0, below(g, 2) ? 0x88 : 0x8a, any_size(g), any_reg(g), reg_or_memory(g), 0);
}

static void make_mov_imm(struct gen *g, struct item *it) {
    unsigned r = any_reg(g);
    if (below(g, 2)) {
        BYTES(it, 0x48 | r >> 3, 0xb8 | (r & 7));
        bytes(it, any_value(&g->rng), 8);
        return;
    }
    unsigned size = any_size(g), n = size == 0 ? 1 : size == 1 ? 2 : 4;
    sized(g, it, 0, 0xc6, size, 0, reg_or_memory(g), n);
    bytes(it, any_value(&g->rng), n);
}

static void make_extend(struct gen *g, struct item *it) {
    static const uint16_t ops[] = {MAP_0F | 0xb6, MAP_0F | 0xb7, MAP_0F | 0xbe, MAP_0F | 0xbf,
                                   0x63};
    unsigned op = ops[below(g, ARRAY_LEN(ops))];
    insn(g, it, below(g, 4) || op == 0x63 ? 0 : 0x66, op == 0x63 || below(g, 2) ? W : NO_W, op,
         any_reg(g), reg_or_memory(g), 0);
}

static void make_lea(struct gen *g, struct item *it) {
    insn(g, it, below(g, 8) ? 0 : 0x66, below(g, 2) ? W : NO_W, 0x8d, any_reg(g), ANY_MEMORY, 0);
}

static void make_unary(struct gen *g, struct item *it) {
    unsigned rm = reg_or_memory(g), lock = rm == ANY_MEMORY && below(g, 6) == 0 ? 0xf0 : 0;
    if (below(g, 2))
        sized(g, it, lock, 0xf6, any_size(g), 2 + below(g, 2), rm, 0);
    else
        sized(g, it, lock, 0xfe, any_size(g), below(g, 2), rm, 0);
}

static void make_exchange(struct gen *g, struct item *it) {
    static const uint16_t ops[] = {0x86, MAP_0F | 0xc0, MAP_0F | 0xb0};
    unsigned rm = reg_or_memory(g), lock = rm == ANY_MEMORY && below(g, 2) ? 0xf0 : 0;
    sized(g, it, lock, ops[below(g, ARRAY_LEN(ops))], any_size(g), any_reg(g), rm, 0);
}

/* CMPXCHG16B faults when its operand is not aligned: that is skipped by 8 bytes. */
static void pad_to(struct item *it, unsigned len) {
    while (it->len < len)
        byte(it, 0x90);
}

/* An instruction with `immediate` bytes to come that may fault: the handler goes on 8 bytes behind
 * its start. */
static void may_fault(struct gen *g, struct item *it, unsigned immediate) {
    for (; immediate; immediate--)
        byte(it, below(g, 256));
    unsigned len = it->len;
    pad_to(it, len < 8 ? 8 : len + 8);
}

static void make_wide_exchange(struct gen *g, struct item *it) {
    insn(g, it, below(g, 2) ? 0xf000 : 0, below(g, 2) ? W : NO_W, MAP_0F | 0xc7, 1, ANY_MEMORY, 0);
    may_fault(g, it, 0);
}

static void make_shift(struct gen *g, struct item *it) {
    unsigned rm = reg_or_memory(g), size = any_size(g), op = below(g, 8);
    switch (below(g, 3)) {
    case 0:
        sized(g, it, 0, 0xc0, size, op, rm, 1);
        byte(it, below(g, 70));
        break;
    case 1:
        sized(g, it, 0, 0xd0, size, op, rm, 0);
        break;
    default:
        sized(g, it, 0, 0xd2, size, op, rm, 0);
    }
}

/* Counts of the operand size and more are left out: the result is undefined. */
static void make_double_shift(struct gen *g, struct item *it) {
    insn(g, it, 0, below(g, 2) ? W : NO_W, MAP_0F | (below(g, 2) ? 0xa4 : 0xac), any_reg(g),
         reg_or_memory(g), 1);
    byte(it, below(g, 64));
}

static void make_multiply(struct gen *g, struct item *it) {
    unsigned size = any_size(g), w = size_w(size), pre = size_prefix(size);
    switch (below(g, 4)) {
    case 0:
        sized(g, it, 0, 0xf6, size, 4 + below(g, 2), reg_or_memory(g), 0);
        break;
    case 1:
        insn(g, it, pre, w, MAP_0F | 0xaf, any_reg(g), reg_or_memory(g), 0);
        break;
    case 2:
        insn(g, it, pre, w, 0x6b, any_reg(g), reg_or_memory(g), 1);
        byte(it, below(g, 256));
        break;
    default:
        insn(g, it, 0, w, 0x69, any_reg(g), reg_or_memory(g), 4);
        bytes(it, any_value(&g->rng), 4);
    }
}

static void make_bits(struct gen *g, struct item *it) {
    static const uint8_t ops[] = {0xa3, 0xab, 0xb3, 0xbb};
    unsigned w = below(g, 2) ? W : NO_W;
    if (below(g, 2)) { /* memory only with an immediate: a register reaches anywhere */
        insn(g, it, 0, w, MAP_0F | 0xba, 4 + below(g, 4), reg_or_memory(g), 1);
        byte(it, below(g, 256));
    } else {
        insn(g, it, 0, w, MAP_0F | ops[below(g, 4)], any_reg(g), any_reg(g), 0);
    }
}

static void make_scan(struct gen *g, struct item *it) {
    unsigned counted =
        x86_has(g->id, FEAT_POPCNT) && x86_has(g->id, FEAT_BMI1) && x86_has(g->id, FEAT_LZCNT);
    unsigned op = counted && below(g, 2) ? 0xb8 + below(g, 2) * 4 : 0xbc;
    unsigned f3 = op == 0xb8 || (counted && below(g, 2)) ? 0xf3 : 0;
    insn(g, it, f3, below(g, 2) ? W : NO_W, MAP_0F | (op + (op != 0xb8 && below(g, 2))), any_reg(g),
         reg_or_memory(g), 0);
}

static void make_conditional(struct gen *g, struct item *it) {
    if (below(g, 2))
        insn(g, it, 0, NO_W, MAP_0F | 0x90 | below(g, 16), 0, reg_or_memory(g), 0);
    else
        insn(g, it, below(g, 6) ? 0 : 0x66, below(g, 2) ? W : NO_W, MAP_0F | 0x40 | below(g, 16),
             any_reg(g), reg_or_memory(g), 0);
}

static void make_short(struct gen *g, struct item *it) {
    static const uint8_t plain[][2] = {{0x98},       {0x48, 0x98}, {0x66, 0x98}, {0x99},
                                       {0x48, 0x99}, {0x66, 0x99}, {0xf8},       {0xf9},
                                       {0xf5},       {0x9f},       {0x9e},       {0xf3, 0x90}};
    const uint8_t *b = plain[below(g, ARRAY_LEN(plain))];
    put_all(it, b, b[1] ? 2 : 1);
}

static void make_bswap(struct gen *g, struct item *it) {
    unsigned r = any_reg(g);
    BYTES(it, 0x40 | (below(g, 2) ? W : 0) | r >> 3, 0x0f, 0xc8 | (r & 7));
}

/* AH..BH: no REX. */
static void make_high_byte(struct gen *g, struct item *it) {
    static const uint8_t ops[] = {0x00, 0x02, 0x10, 0x28, 0x30, 0x38, 0x84, 0x86, 0x88, 0x8a};
    unsigned reg = below(g, 8), rm = below(g, 8);
    unsigned low = 1u << RAX | 1u << RCX | 1u << RDX; /* BL and BH belong to a pointer */
    if (!(low >> (reg & 3) & 1) || !(low >> (rm & 3) & 1))
        reg = 4, rm = 2;
    BYTES(it, ops[below(g, sizeof ops)], 0xc0 | reg << 3 | rm);
}

static void make_moffs(struct gen *g, struct item *it) {
    unsigned size = any_size(g);
    if (size == 1)
        byte(it, 0x66);
    if (size == 3)
        byte(it, 0x48);
    byte(it, 0xa0 + (size != 0) + 2 * below(g, 2));
    bytes(it, WINDOW + data_offset(&g->rng) + (below(g, 2) ? ALIAS : 0), 8);
}

static void make_sse(struct gen *g, struct item *it) {
    static const struct {
        uint16_t op;
        uint8_t prefix;
    } ops[] = {{MAP_0F | 0x10, 0},    {MAP_0F | 0x11, 0},    {MAP_0F | 0x6f, 0xf3},
               {MAP_0F | 0x7f, 0xf3}, {MAP_0F | 0xd4, 0x66}, {MAP_0F | 0xef, 0x66},
               {MAP_0F | 0x58, 0xf2}, {MAP_0F | 0x59, 0},    {MAP_0F | 0x2a, 0xf2},
               {MAP_0F | 0x61, 0x66}, {MAP_0F | 0xd6, 0x66}, {MAP_0F | 0x12, 0xf2},
               {MAP_0F | 0x6e, 0x66}, {MAP_0F | 0x7e, 0x66}, {MAP_0F | 0x2f, 0x66},
               {MAP_0F | 0x28, 0},    {MAP_0F | 0x29, 0x66}, {MAP_0F | 0xe7, 0x66}};
    unsigned n = below(g, ARRAY_LEN(ops)), op = ops[n].op & 0xff;
    bool general = op == 0x2a || op == 0x6e || op == 0x7e;
    bool to_memory = op == 0xe7 || op == 0xd6;
    unsigned rm = below(g, 2) || to_memory ? ANY_MEMORY : general ? any_reg(g) : below(g, 16);
    bool w = general && ops[n].prefix != 0xf3 && below(g, 2);
    insn(g, it, ops[n].prefix, w ? W : NO_W, ops[n].op, below(g, 16), rm, 0);
    may_fault(g, it, 0);
}

struct vex {
    uint16_t op;
    uint8_t pp, w, tail; /* pp: 1 is 66, 2 F3, 3 F2; w: 2 is either */
    bool three;          /* has a first source in VEX.vvvv */
    bool general;        /* its registers are general ones */
    uint8_t l;           /* 2 is either */
};

static void vex_insn(struct gen *g, struct item *it, const struct vex *v, unsigned reg,
                     unsigned vvvv, unsigned rm) {
    struct address a = {.modrm = (uint8_t)(0xc0 | (rm & 7)), .rex = (uint8_t)(rm >> 3)};
    if (rm == ANY_MEMORY)
        a = any_address(g);
    if (a.prefix)
        byte(it, a.prefix);
    unsigned w = v->w == 2 ? below(g, 2) : v->w, l = v->l == 2 ? below(g, 2) : v->l;
    BYTES(it, 0xc4, (~((reg >> 3) << 2 | a.rex) & 7) << 5 | v->op >> 8,
          w << 7 | (~vvvv & 15) << 3 | l << 2 | v->pp, v->op & 0xff, a.modrm | (reg & 7) << 3);
    if (a.has_sib)
        byte(it, a.sib);
    if (a.rip)
        link32(it, FIX_WINDOW, a.value, v->tail);
    else
        bytes(it, a.value, a.disp);
    may_fault(g, it, v->tail);
}

static const struct vex avx[] = {
    {MAP_0F | 0xfe, 1, 0, 0, true, false, 2},    {MAP_0F | 0xef, 1, 0, 0, true, false, 2},
    {MAP_0F | 0x6f, 2, 0, 0, false, false, 2},   {MAP_0F | 0x7f, 2, 0, 0, false, false, 2},
    {MAP_0F | 0x6f, 1, 0, 0, false, false, 2},   {MAP_0F | 0x7f, 1, 0, 0, false, false, 2},
    {MAP_0F | 0x58, 0, 0, 0, true, false, 2},    {MAP_0F | 0x59, 1, 0, 0, true, false, 2},
    {MAP_0F | 0x5c, 3, 0, 0, true, false, 0},    {MAP_0F38 | 0x00, 1, 0, 0, true, false, 2},
    {MAP_0F38 | 0x17, 1, 0, 0, false, false, 2}, {MAP_0F38 | 0x18, 1, 0, 0, false, false, 2},
    {MAP_0F3A | 0x38, 1, 0, 1, true, false, 1},  {MAP_0F3A | 0x39, 1, 0, 1, false, false, 1},
    {MAP_0F3A | 0x0f, 1, 0, 1, true, false, 2},  {MAP_0F38 | 0xb8, 1, 0, 0, true, false, 2},
    {MAP_0F | 0xd7, 1, 0, 0, false, false, 2},   {MAP_0F | 0x2a, 3, 2, 0, true, true, 0},
    {MAP_0F | 0xf0, 3, 0, 0, false, false, 2},   {MAP_0F | 0x5e, 0, 0, 0, true, false, 2},
};

static void make_avx(struct gen *g, struct item *it) {
    const struct vex *v = &avx[below(g, ARRAY_LEN(avx))];
    unsigned op = v->op & 0xff;
    if (!x86_has(g->id, FEAT_AVX2) || !x86_has(g->id, FEAT_FMA)) {
        make_sse(g, it);
        return;
    }
    if (below(g, 10) == 0) {
        BYTES(it, 0xc5, 0xf8 | below(g, 2) << 2, 0x77);
        may_fault(g, it, 0);
        return;
    }
    bool to_general = v->op == (MAP_0F | 0xd7);
    unsigned rm = v->general    ? reg_or_memory(g)
                  : to_general  ? below(g, 16)
                  : op == 0xf0  ? ANY_MEMORY
                  : below(g, 2) ? below(g, 16)
                                : ANY_MEMORY;
    vex_insn(g, it, v, to_general ? any_reg(g) : below(g, 16), v->three ? below(g, 16) : 0, rm);
}

static const struct vex bmi[] = {
    {MAP_0F38 | 0xf2, 0, 2, 0, true, true, 0}, {MAP_0F38 | 0xf7, 0, 2, 0, true, true, 0},
    {MAP_0F38 | 0xf7, 1, 2, 0, true, true, 0}, {MAP_0F38 | 0xf7, 2, 2, 0, true, true, 0},
    {MAP_0F38 | 0xf7, 3, 2, 0, true, true, 0}, {MAP_0F38 | 0xf5, 0, 2, 0, true, true, 0},
    {MAP_0F38 | 0xf5, 2, 2, 0, true, true, 0}, {MAP_0F38 | 0xf5, 3, 2, 0, true, true, 0},
    {MAP_0F38 | 0xf6, 3, 2, 0, true, true, 0}, {MAP_0F3A | 0xf0, 3, 2, 1, false, true, 0},
};

static void make_bmi(struct gen *g, struct item *it) {
    if (!x86_has(g->id, FEAT_BMI1) || !x86_has(g->id, FEAT_BMI2)) {
        make_alu(g, it);
        return;
    }
    const struct vex *v = &bmi[below(g, ARRAY_LEN(bmi))];
    if (below(g, 8) == 0) { /* BLSR, BLSMSK, BLSI */
        static const struct vex group = {MAP_0F38 | 0xf3, 0, 2, 0, true, true, 0};
        vex_insn(g, it, &group, 1 + below(g, 3), any_reg(g), reg_or_memory(g));
        return;
    }
    vex_insn(g, it, v, any_reg(g), v->three ? any_reg(g) : 0, reg_or_memory(g));
}

/* MOVBE, CRC32, ADCX, ADOX. */
static void make_three_byte(struct gen *g, struct item *it) {
    unsigned w = below(g, 2) ? W : NO_W;
    switch (below(g, 4)) {
    case 0:
        insn(g, it, below(g, 3) ? 0 : 0x66, w, MAP_0F38 | 0xf0 | below(g, 2), any_reg(g),
             ANY_MEMORY, 0);
        break;
    case 1:
        insn(g, it, 0xf2, w, MAP_0F38 | 0xf0 | below(g, 2), any_reg(g), reg_or_memory(g), 0);
        break;
    default:
        insn(g, it, below(g, 2) ? 0x66 : 0xf3, w, MAP_0F38 | 0xf6, any_reg(g), reg_or_memory(g), 0);
    }
    may_fault(g, it, 0);
}

static void make_x87(struct gen *g, struct item *it) {
    static const uint8_t plain[][2] = {
        {0xd9, 0xe8}, {0xd9, 0xc1}, {0xde, 0xc1}, {0xd8, 0xc9}, {0xd9, 0xfa}, {0xdd, 0xd8},
        {0xdf, 0xe0}, {0xdb, 0xe3}, {0xd9, 0xc9}, {0xdb, 0xf1}, {0xd9, 0xe0}, {0xd9, 0xeb},
        {0xd9, 0xee}, {0xdc, 0xc2}, {0xde, 0xf9}, {0xd8, 0xd3}, {0xdf, 0xe9}, {0xda, 0xc1},
        {0xd9, 0xf7}, {0xdd, 0xc3}, {0xd9, 0xd0}, {0xd9, 0xfc}, {0xdb, 0xe2}, {0x9b, 0x90}};
    static const uint8_t memory[][2] = {
        {0xd9, 0}, {0xd9, 3}, {0xdd, 0}, {0xdd, 3}, {0xdb, 0}, {0xdb, 5}, {0xdb, 7}, {0xdc, 0},
        {0xdf, 7}, {0xd9, 7}, {0xdd, 7}, {0xd8, 1}, {0xdd, 1}, {0xda, 2}, {0xdf, 0}, {0xdf, 4},
        {0xdf, 6}, {0xd9, 6}, {0xdd, 6}, {0xde, 1}, {0xd9, 2}, {0xdd, 0}, {0xdb, 5}, {0xd8, 4}};
    if (below(g, 2)) {
        put_all(it, plain[below(g, ARRAY_LEN(plain))], 2);
    } else {
        const uint8_t *m = memory[below(g, ARRAY_LEN(memory))];
        insn(g, it, 0, NO_W, m[0], m[1], ANY_MEMORY, 0);
    }
    may_fault(g, it, 0);
}

/* PUSH; FLDCW [RSP]; POP: all exceptions masked, or at times not. */
static void make_x87_control(struct gen *g, struct item *it) {
    unsigned mask = below(g, 8) ? 0x3f : below(g, 0x40);
    byte(it, 0x68);
    bytes(it, (rng_next(&g->rng) & 0xffc0) | mask, 4);
    BYTES(it, 0xd9, 0x2c, 0x24, 0x90, 0x90, 0x90, 0x90, 0x90, 0x58);
}

static void make_mmx(struct gen *g, struct item *it) {
    static const uint16_t ops[] = {MAP_0F | 0x6f, MAP_0F | 0x7f, MAP_0F | 0xfe,   MAP_0F | 0xef,
                                   MAP_0F | 0x60, MAP_0F | 0x63, MAP_0F | 0xd4,   MAP_0F | 0xe7,
                                   MAP_0F | 0x2a, MAP_0F | 0x2d, MAP_0F38 | 0x1c, MAP_0F | 0xf4};
    unsigned op = ops[below(g, ARRAY_LEN(ops))];
    if (below(g, 6) == 0) {
        BYTES(it, 0x0f, 0x77);
    } else if (below(g, 5) == 0) { /* MOVD, MOVQ */
        insn(g, it, 0, below(g, 2) ? W : NO_W, MAP_0F | (below(g, 2) ? 0x6e : 0x7e), below(g, 8),
             reg_or_memory(g), 0);
    } else {
        unsigned rm = below(g, 2) || op == (MAP_0F | 0xe7) ? ANY_MEMORY : below(g, 8);
        insn(g, it, 0, NO_W, op, below(g, 8), rm, 0);
    }
    may_fault(g, it, 0);
}

/* What arithmetic of vectors goes by: MXCSR, with exceptions unmasked at times; CR0.TS; areas of
 * FXSAVE. */
static void make_vector_state(struct gen *g, struct item *it) {
    switch (below(g, g->p->user ? 3 : 4)) {
    case 0: /* PUSH; LDMXCSR [RSP]; POP */
        byte(it, 0x68);
        bytes(it,
              (rng_next(&g->rng) & 0xe07f) | (below(g, 3) ? 0x1f80 : rng_next(&g->rng) & 0x1f80),
              4);
        BYTES(it, 0x0f, 0xae, 0x14, 0x24, 0x90, 0x90, 0x90, 0x90, 0x58);
        break;
    case 1:
        insn(g, it, 0, NO_W, MAP_0F | 0xae, 3, ANY_MEMORY, 0);
        may_fault(g, it, 0);
        break;
    case 2:
        insn(g, it, 0, below(g, 2) ? W : NO_W, MAP_0F | 0xae, 0, ANY_MEMORY, 0);
        may_fault(g, it, 0);
        break;
    default:
        BYTES(it, 0x0f, 0x20, 0xc0, 0x34, below(g, 3) ? 0 : 8, 0x0f, 0x22, 0xc0);
        if (below(g, 2))
            BYTES(it, 0x0f, 0x06);
    }
}

/* ---- items: pointers, stack, strings ---- */

static void make_pointer(struct gen *g, struct item *it) {
    unsigned r = any_pointer(g);
    if (below(g, 2)) {
        BYTES(it, 0x48 | (r >> 3) << 2, 0x8d, 0x05 | (r & 7) << 3);
        link32(it, FIX_WINDOW, data_offset(&g->rng), 0);
    } else {
        BYTES(it, 0x48 | r >> 3, 0xc7, 0xc0 | (r & 7));
        bytes(it, WINDOW + data_offset(&g->rng) + (below(g, 2) ? ALIAS : 0), 4);
    }
}

static void make_index(struct gen *g, struct item *it) {
    BYTES(it, 0x41, 0xbe);
    bytes(it, below(g, 16), 4);
}

static void push_pop(struct item *it, unsigned base, unsigned r) {
    if (r >> 3)
        byte(it, 0x41);
    byte(it, base | (r & 7));
}

static void make_push_pop(struct gen *g, struct item *it) {
    unsigned n = 1 + below(g, 3), popped = 0;
    for (unsigned k = 0; k < n; k++) {
        switch (below(g, 5)) {
        case 0:
            BYTES(it, 0x6a, below(g, 256));
            break;
        case 1:
            byte(it, 0x68);
            bytes(it, any_value(&g->rng), 4);
            break;
        case 2:
            byte(it, 0x54); /* RSP itself */
            break;
        default:
            push_pop(it, 0x50, any_reg(g));
        }
    }
    for (; popped < n; popped++)
        push_pop(it, 0x58, any_reg(g));
}

static void make_push_memory(struct gen *g, struct item *it) {
    insn(g, it, 0, NO_W, 0xff, 6, ANY_MEMORY, 0);
    if (below(g, 2))
        insn(g, it, 0, NO_W, 0x8f, 0, ANY_MEMORY, 0);
    else
        BYTES(it, 0x48, 0x8d, 0x64, 0x24, 8);
}

/* PUSH and POP of 16 bits, ENTER and LEAVE. */
static void make_frame(struct gen *g, struct item *it) {
    if (below(g, 2)) {
        BYTES(it, 0x66, 0x50, 0x66, 0x51, 0x66, 0x5a, 0x66, 0x58);
        return;
    }
    BYTES(it, 0x55, 0xc8, 8 * below(g, 6), 0, below(g, 3), 0xc9, 0x5d);
}

/* Arithmetic flags only, or a single step through what lies between. */
static void make_flags(struct gen *g, struct item *it) {
    if (below(g, 3)) {
        BYTES(it, 0x9c, 0x48, 0x81, 0x34, 0x24);
        bytes(it, rng_next(&g->rng) & FLAG_ARITH, 4);
        byte(it, 0x9d);
        return;
    }
    BYTES(it, 0x9c, 0x80, 0x4c, 0x24, 1, 1, 0x9d, 0x90, 0xf5, 0x9c, 0x80, 0x64, 0x24, 1, 0xfe,
          0x9d);
}

static void make_string(struct gen *g, struct item *it) {
    static const uint8_t ops[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    unsigned size = any_size(g), op = ops[below(g, sizeof ops)];
    bool down = below(g, 4) == 0;
    BYTES(it, 0x48, 0xc7, 0xc6);
    bytes(it, WINDOW + data_offset(&g->rng), 4);
    BYTES(it, 0x48, 0xc7, 0xc7);
    bytes(it, WINDOW + data_offset(&g->rng), 4);
    byte(it, 0xb9);
    bytes(it, below(g, 70), 4);
    if (down)
        byte(it, 0xfd);
    if (below(g, 4))
        byte(it, 0xf2 + below(g, 2));
    if (size == 1)
        byte(it, 0x66);
    if (size == 3)
        byte(it, 0x48);
    byte(it, op + (size != 0));
    if (down)
        byte(it, 0xfc);
}

/* ---- items: what faults ---- */

/* The handler goes on 8 bytes behind where it began. */
static void make_fault(struct gen *g, struct item *it) {
    switch (below(g, 6)) {
    case 0:
        BYTES(it, 0x0f, 0x0b);
        break;
    case 1:
        byte(it, 0xcc);
        break;
    case 2:
        sized(g, it, 0, 0xf6, any_size(g), 6 + below(g, 2), any_reg(g), 0);
        break;
    case 3: /* where nothing is mapped */
        BYTES(it, 0x8b + 2 * below(g, 2) - 2 * below(g, 2), 0x05);
        link32(it, FIX_WINDOW, (HOLE_PAGE << 12) + below(g, 0x4000), 0);
        break;
    case 4: /* across into it */
        BYTES(it, below(g, 2) ? 0x89 : 0x8b, 0x05);
        link32(it, FIX_WINDOW, (HOLE_PAGE << 12) - 2, 0);
        break;
    default: /* not canonical, perhaps */
        BYTES(it, 0x48, below(g, 2) ? 0x89 : 0x8b, 0x04, 0x12);
    }
    pad_to(it, 8);
}

/* ---- items: control flow ---- */

static unsigned number(const struct gen *g, const struct item *it) {
    return (unsigned)(it - g->p->item);
}

static void make_forward(struct gen *g, struct item *it) {
    BYTES(it, 0x0f, 0x80 | below(g, 16));
    link32(it, FIX_ITEM, number(g, it) + 1 + below(g, 6), 0);
}

/* Over an instruction, or into its middle. */
static void make_short_forward(struct gen *g, struct item *it) {
    unsigned cc = 0x70 | below(g, 16), r = any_reg(g);
    switch (below(g, 4)) {
    case 0:
        BYTES(it, cc, 1, 0xa9, 0x90, 0xf5, 0x90, 0x90);
        break;
    case 1:
        BYTES(it, 0xe3, 3);
        BYTES(it, 0x40 | r >> 3, 0xff, 0xc0 | (r & 7));
        break;
    case 2:
        BYTES(it, 0xe0 | below(g, 3), 3, 0x40 | r >> 3, 0xff, 0xc8 | (r & 7));
        break;
    default:
        BYTES(it, cc, 3, 0x40 | r >> 3, 0xf7, 0xd0 | (r & 7));
    }
}

static unsigned first_of_function(const struct gen *g) {
    return g->p->function[g->function];
}

static void make_loop(struct gen *g, struct item *it) {
    unsigned back = number(g, it) - first_of_function(g), counter = g->counters++ % 128;
    BYTES(it, 0x83, 0x2d);
    link32(it, FIX_WINDOW, COUNTERS_OFF + counter * 4, 1);
    byte(it, 1);
    BYTES(it, 0x0f, 0x8f);
    link32(it, FIX_ITEM, number(g, it) - below(g, MIN(back, 12u) + 1), 0);
}

/* LEA RAX, [target]; then there: by a register, memory or RET. */
static void make_indirect(struct gen *g, struct item *it) {
    BYTES(it, 0x48, 0x8d, 0x05);
    link32(it, FIX_ITEM, number(g, it) + 1 + below(g, 4), 0);
    if (below(g, 2)) { /* two targets */
        BYTES(it, 0x48, 0x8d, 0x15);
        link32(it, FIX_ITEM, number(g, it) + 1 + below(g, 4), 0);
        BYTES(it, 0x48, 0x0f, 0x40 | below(g, 16), 0xc2);
    }
    if (below(g, 3) == 0) /* goes on at the other address, until this function's end */
        BYTES(it, 0x48, 0x0f, 0xba, 0xf8, 28);
    switch (below(g, 3)) {
    case 0:
        BYTES(it, 0xff, 0xe0);
        break;
    case 1:
        BYTES(it, 0x50, 0xc3);
        break;
    default:
        BYTES(it, 0x48, 0x89, 0x44, 0x24, 0x80, 0xff, 0x64, 0x24, 0x80);
    }
}

static void make_call(struct gen *g, struct item *it) {
    unsigned left = g->p->functions - g->function - 1;
    if (!left) {
        make_alu(g, it);
        return;
    }
    unsigned to = g->function + 1 + below(g, left);
    for (unsigned n = 0; n < g->pops[to]; n += 8)
        push_pop(it, 0x50, any_reg(g));
    switch (below(g, 4)) {
    case 0:
        BYTES(it, 0x48, 0x8d, 0x05);
        link32(it, FIX_FUNCTION, to, 0);
        if (below(g, 2))
            BYTES(it, 0x48, 0x0f, 0xba, 0xf8, 28);
        BYTES(it, 0xff, 0xd0);
        break;
    case 1:
        BYTES(it, 0xff, 0x15);
        link32(it, FIX_WINDOW, TARGETS_OFF + to * 8, 0);
        break;
    default:
        byte(it, 0xe8);
        link32(it, FIX_FUNCTION, to, 0);
    }
}

static void make_system_call(struct gen *g, struct item *it) {
    if (g->p->user)
        BYTES(it, 0x0f, 0x05);
    else
        BYTES(it, 0x53, 0x0f, 0xa2, 0x5b);
}

/* ---- items: code that changes ---- */

/* Writes to an operation that is patchable, whichever program_patches() picks. */
static void make_patch(struct gen *g, struct item *it) {
    unsigned r = any_reg(g);
    switch (below(g, 4)) {
    case 0:
        BYTES(it, 0x40 | (r >> 3) << 2, 0x89, 0x05 | (r & 7) << 3);
        link32(it, FIX_IMM, 0, 0);
        break;
    case 1:
        BYTES(it, 0x80, 0x35);
        link32(it, FIX_MODRM, 0, 1);
        byte(it, below(g, 8) << 3);
        break;
    case 2: /* at its other address */
        BYTES(it, 0x48, 0x8d, 0x05);
        link32(it, FIX_IMM, 0, 0);
        BYTES(it, 0x48, 0x0f, 0xba, 0xf8, 28, 0x01, 0x08);
        break;
    default:
        BYTES(it, 0xf0, 0x81, 0x05);
        link32(it, FIX_IMM, 0, 4);
        bytes(it, any_value(&g->rng), 4);
    }
}

/* ADD EAX, imm32; RET is written among data, and called. */
static void make_written_code(struct gen *g, struct item *it) {
    uint32_t at = data_offset(&g->rng);
    BYTES(it, 0x49, 0xbf); /* mov r15, imm64 */
    bytes(it, 0x9090c30000000005 | (rng_next(&g->rng) & 0xffffffff) << 8, 8);
    BYTES(it, 0x4c, 0x89, 0x3d);
    link32(it, FIX_WINDOW, at, 0);
    byte(it, 0xe8);
    link32(it, FIX_WINDOW, at, 0);
}

/* CPL 0: a page is taken away, changes places, or all that is known of them is forgotten. */
static void make_paging(struct gen *g, struct item *it) {
    uint32_t page = DATA_PAGE + below(g, DATA_PAGES - 1);
    if (g->p->user) {
        make_alu(g, it);
        return;
    }
    if (below(g, 4) == 0) {
        BYTES(it, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8);
        return;
    }
    BYTES(it, 0x48, 0xb8);
    bytes(it, KERNEL + P_PT + page * 8ull, 8);
    if (below(g, 2))
        BYTES(it, 0x80, 0x20, 0xfe - 2 * below(g, 2));
    else
        BYTES(it, 0x80, 0x70, 1, 0x10); /* the page beside it */
    BYTES(it, 0x0f, 0x01, 0x3d);
    link32(it, FIX_WINDOW, page << 12, 0);
    BYTES(it, 0x48, 0x8d, 0x05);
    link32(it, FIX_WINDOW, page << 12, 0);
    BYTES(it, 0x48, 0x0f, 0xba, 0xf8, 28, 0x0f, 0x01, 0x38);
}

/* ---- programs ---- */

typedef void make_fn(struct gen *g, struct item *it);

static const struct {
    make_fn *make;
    unsigned weight;
} makers[] = {
    {make_avx, 8},          {make_bmi, 3},           {make_three_byte, 2},
    {make_x87, 8},          {make_x87_control, 1},   {make_mmx, 2},
    {make_vector_state, 1}, {make_alu, 14},          {make_alu_imm, 10},
    {make_patchable, 5},    {make_mov, 14},          {make_mov_imm, 5},
    {make_extend, 5},       {make_lea, 5},           {make_unary, 5},
    {make_exchange, 4},     {make_wide_exchange, 1}, {make_shift, 6},
    {make_double_shift, 2}, {make_multiply, 4},      {make_bits, 4},
    {make_scan, 3},         {make_conditional, 6},   {make_short, 4},
    {make_bswap, 2},        {make_high_byte, 3},     {make_moffs, 2},
    {make_sse, 8},          {make_pointer, 6},       {make_index, 1},
    {make_push_pop, 7},     {make_push_memory, 2},   {make_frame, 1},
    {make_flags, 2},        {make_string, 2},        {make_fault, 2},
    {make_forward, 8},      {make_short_forward, 3}, {make_loop, 7},
    {make_indirect, 4},     {make_call, 5},          {make_system_call, 1},
    {make_patch, 4},        {make_written_code, 2},  {make_paging, 2},
};

static make_fn *any_maker(struct gen *g) {
    unsigned sum = 0;
    for (unsigned n = 0; n < ARRAY_LEN(makers); n++)
        sum += makers[n].weight;
    unsigned at = below(g, sum), n = 0;
    while (at >= makers[n].weight)
        at -= makers[n++].weight;
    return makers[n].make;
}

static struct item *item_new(struct gen *g) {
    return &g->p->item[g->p->count++];
}

static void make_end(struct gen *g) {
    struct item *it = item_new(g);
    it->fixed = true;
    if (g->function == 0)
        BYTES(it, 0xcd, EXIT_VECTOR);
    else if (g->pops[g->function])
        BYTES(it, 0xc2, g->pops[g->function], 0);
    else
        byte(it, 0xc3);
}

static void make_function(struct gen *g, unsigned items) {
    static const uint16_t usable = 1 << RAX | 1 << RCX | 1 << RDX | 1 << RSI | 1 << RDI | 1 << R8 |
                                   1 << R9 | 1 << R10 | 1 << R11 | 1 << R15;
    do
        g->free = usable & (unsigned)(rng_next(&g->rng) >> 7 | rng_next(&g->rng));
    while (!g->free);
    unsigned first = g->p->count;
    g->p->function[g->function] = first;
    for (unsigned n = 0; n < items; n++) {
        struct item *it = item_new(g);
        any_maker(g)(g, it);
    }
    make_end(g);
    /* Now and then its end, or what is in its middle, comes to lie across a page's. */
    struct item *gapped = &g->p->item[first + (below(g, 2) ? 0 : below(g, items))];
    gapped->gap = gapped == &g->p->item[first] ? (uint16_t)below(g, 6000) : 0;
    for (unsigned n = first; n < g->p->count; n++) {
        struct item *it = &g->p->item[n];
        for (unsigned f = 0; f < it->fixes; f++)
            if (it->fix[f].kind == FIX_ITEM)
                it->fix[f].arg = MIN(it->fix[f].arg, g->p->count - 1);
    }
}

static void pick_patched(struct gen *g) {
    struct program *p = g->p;
    unsigned list[ITEMS_MAX], count = 0;
    for (unsigned n = 0; n < p->count; n++)
        if (p->item[n].patchable)
            list[count++] = n;
    for (unsigned n = 0; n < p->count; n++)
        for (unsigned f = 0; f < p->item[n].fixes; f++) {
            struct fix *fix = &p->item[n].fix[f];
            if (fix->kind != FIX_IMM && fix->kind != FIX_MODRM)
                continue;
            fix->arg = count ? list[below(g, count)] : ITEMS_MAX;
        }
}

void program_generate(struct program *p, uint64_t seed, const struct x86_cpuid *id) {
    struct gen g = {.rng = {seed}, .p = p, .id = id};
    memset(p, 0, sizeof *p);
    p->seed = seed;
    p->user = below(&g, 2);
    p->smap = !p->user && x86_has(id, FEAT_SMAP) && below(&g, 3) == 0;
    p->functions = 1 + below(&g, FUNCTIONS_MAX);
    for (unsigned n = 1; n < p->functions; n++)
        g.pops[n] = below(&g, 3) ? 0 : (uint8_t)(8 * below(&g, 3));
    for (g.function = 0; g.function < p->functions; g.function++)
        make_function(&g, 4 + below(&g, ITEMS_MAX / FUNCTIONS_MAX - 6));
    p->function[p->functions] = p->count;
    pick_patched(&g);
}

/* ---- code and data ---- */

static void place(struct program *p) {
    uint32_t at = 64;
    for (unsigned n = 0; n < p->count; n++) {
        struct item *it = &p->item[n];
        at += it->gap;
        it->at = at;
        at += it->state == ITEM_GONE ? 0 : it->len;
    }
}

static uint32_t target(const struct program *p, const struct fix *fix) {
    const struct item *to =
        fix->kind == FIX_WINDOW || fix->arg >= p->count ? NULL : &p->item[fix->arg];
    switch (fix->kind) {
    case FIX_WINDOW:
        return fix->arg;
    case FIX_ITEM:
        return to ? to->at : 0;
    case FIX_FUNCTION:
        return p->item[p->function[fix->arg]].at;
    default: /* to somewhere harmless when there is nothing to patch */
        if (!to || to->state != ITEM_KEPT)
            return TABLE_OFF + 0xf00;
        return to->at + to->len - (fix->kind == FIX_IMM ? 4 : 5);
    }
}

static void put_item(const struct program *p, const struct item *it, uint8_t *window) {
    uint8_t *code = window + it->at;
    if (it->state == ITEM_GONE)
        return;
    if (it->state == ITEM_NOPS) {
        memset(code, 0x90, it->len);
        return;
    }
    memcpy(code, it->bytes, it->len);
    for (unsigned f = 0; f < it->fixes; f++) {
        const struct fix *fix = &it->fix[f];
        uint32_t rel = target(p, fix) - (it->at + fix->at + 4u + fix->tail);
        memcpy(code + fix->at, &rel, 4);
    }
}

void program_build(struct program *p, uint8_t *window) {
    place(p);
    memset(window, 0xcc, CODE_PAGES << 12);
    for (unsigned n = 0; n < p->count; n++)
        put_item(p, &p->item[n], window);
}

void program_data(const struct program *p, unsigned pass, uint8_t *window, struct x86_state *s) {
    struct rng r = {p->seed * 31 + pass};
    for (uint32_t at = DATA_OFF; at < TABLE_OFF; at += 8) {
        uint64_t v = any_value(&r);
        memcpy(window + at, &v, 8);
    }
    for (unsigned n = 0; n < 128; n++)
        memcpy(window + COUNTERS_OFF + n * 4, &(uint32_t){rng_below(&r, 50)}, 4);
    for (unsigned n = 0; n < p->functions; n++) {
        uint64_t to = WINDOW + p->item[p->function[n]].at + (rng_below(&r, 2) ? ALIAS : 0);
        memcpy(window + TARGETS_OFF + n * 8, &to, 8);
    }
    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = any_value(&r);
    static const uint8_t pointers[] = {RBX, RBP, R12, R13};
    for (unsigned n = 0; n < sizeof pointers; n++)
        s->gpr[pointers[n]] = WINDOW + data_offset(&r) + (rng_below(&r, 2) ? ALIAS : 0);
    s->gpr[R14] = rng_below(&r, 16);
    s->gpr[RSP] = WINDOW + STACK_OFF - 256 - 8 * rng_below(&r, 64);
    s->seg[SEG_FS].base = WINDOW + DATA_OFF + rng_below(&r, 0x8000);
    s->seg[SEG_GS].base = WINDOW + DATA_OFF + rng_below(&r, 0x8000);
    s->rip = WINDOW + p->item[0].at;
    s->rflags = FLAG_FIXED | (rng_next(&r) & FLAG_ARITH) | (p->smap ? FLAG_AC : 0);
    for (unsigned n = 0; n < 16; n++)
        for (unsigned k = 0; k < 4; k++)
            memcpy(s->fpu.zmm[n] + k * 8, &(uint64_t){any_value(&r)}, 8);
}

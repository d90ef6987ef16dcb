/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS, STOS, LODS, CMPS, SCAS with their repeat prefixes (SDM 2). Repeats go page by page where
 * both sides are plain memory; otherwise element by element. Registers always say what is left, so
 * a fault or an interrupt between elements resumes exactly.
 */
#include "cpu/x86/hostflags.h"
#include "cpu/x86/mmu.h"

/* A long repeat looks for events this often, in elements; then it goes round the loop and resumes.
 */
#define CHUNK 65536u

static uint64_t addr_mask(const struct x86_insn *i) {
    return UINT64_MAX >> i->ashift;
}

/* Index and count registers are as wide as the address size. */
static uint64_t index_get(struct x86_cpu *c, const struct x86_insn *i, unsigned reg) {
    return c->s.gpr[reg] & addr_mask(i);
}

static void index_set(struct x86_cpu *c, const struct x86_insn *i, unsigned reg, uint64_t v) {
    reg_set(c, REG_OFF(reg), (64 - i->ashift) / 8, v);
}

static void index_add(struct x86_cpu *c, const struct x86_insn *i, unsigned reg, uint64_t n) {
    index_set(c, i, reg, c->s.gpr[reg] + n);
}

static uint64_t step(const struct x86_cpu *c, const struct x86_insn *i) {
    return c->s.rflags & FLAG_DF ? -(uint64_t)i->osize : i->osize;
}

static bool repeated(const struct x86_insn *i) {
    return i->flags & (INSN_REP | INSN_REPNE);
}

/* Where an element at an index register lies. */
static uint64_t linear_at(struct x86_cpu *c, const struct x86_insn *i, unsigned reg, unsigned seg,
                          bool write) {
    return cpu_linear(c, seg, index_get(c, i, reg), i->osize, write);
}

/* ---- one element ---- */

static void one_movs(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t v = mmu_ld(c, linear_at(c, i, RSI, i->seg, false), i->osize, i->seg);
    mmu_st(c, linear_at(c, i, RDI, SEG_ES, true), v, i->osize, SEG_ES);
    index_add(c, i, RSI, step(c, i));
    index_add(c, i, RDI, step(c, i));
}

static void one_stos(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t lin = linear_at(c, i, RDI, SEG_ES, true);
    mmu_st(c, lin, reg_get(c, REG_OFF(RAX), i->osize), i->osize, SEG_ES);
    index_add(c, i, RDI, step(c, i));
}

static void one_lods(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t v = mmu_ld(c, linear_at(c, i, RSI, i->seg, false), i->osize, i->seg);
    reg_set(c, REG_OFF(RAX), i->osize, v);
    index_add(c, i, RSI, step(c, i));
}

static uint32_t compare(uint64_t a, uint64_t b, unsigned size) {
    /* Shifted to the top, the 64-bit comparison gives every flag but PF and AF, which depend on the
     * low byte. */
    uint16_t top, low;
    unsigned up = 64 - 8 * size;
    __asm__("cmpq %2, %1" TAKE_FLAGS : "=&a"(top) : "r"(a << up), "r"(b << up) : "cc");
    __asm__("cmpb %2, %1" TAKE_FLAGS : "=&a"(low) : "q"((uint8_t)a), "q"((uint8_t)b) : "cc");
    const uint32_t from_low = FLAG_PF | FLAG_AF;
    return (flags_unpack(top) & ~from_low) | (flags_unpack(low) & from_low);
}

static void one_cmps(struct x86_cpu *c, const struct x86_insn *i) {
    /* Processors read ES:[RDI] first, which shows when both fault. */
    uint64_t b = mmu_ld(c, linear_at(c, i, RDI, SEG_ES, false), i->osize, SEG_ES);
    uint64_t a = mmu_ld(c, linear_at(c, i, RSI, i->seg, false), i->osize, i->seg);
    c->cc = compare(a, b, i->osize);
    index_add(c, i, RSI, step(c, i));
    index_add(c, i, RDI, step(c, i));
}

static void one_scas(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t b = mmu_ld(c, linear_at(c, i, RDI, SEG_ES, false), i->osize, SEG_ES);
    c->cc = compare(reg_get(c, REG_OFF(RAX), i->osize), b, i->osize);
    index_add(c, i, RDI, step(c, i));
}

/* ---- many elements within one page, upwards ---- */

/* Elements from `lin` to the end of its page, at most `left`; 0 when they are not plain memory. */
static uint64_t run_at(struct x86_cpu *c, const struct x86_insn *i, unsigned reg, unsigned seg,
                       bool write, uint64_t left, uint8_t **host) {
    uint64_t avail = 0, ea = index_get(c, i, reg);
    uint64_t lin = cpu_linear(c, seg, ea, i->osize, write);
    uint64_t room = addr_mask(i) - ea;
    *host = NULL;
    if ((lin & PAGE_MASK) + i->osize > PAGE_SIZE) /* checked as a whole before it is translated */
        return 0;
    *host = mmu_host(c, lin, write, seg, &avail);
    if (!*host || room < avail || (!c->mode64 && !(c->flat >> seg & 1)))
        return 0;
    return MIN(avail / i->osize, left);
}

static void fill(uint8_t *to, uint64_t v, unsigned size, uint64_t count) {
    if (size == 1 || v == 0) {
        guest_fill(to, (uint8_t)v, count * size);
        return;
    }
    for (uint64_t n = 0; n < count; n++)
        guest_st(to + n * size, v, size);
}

/* Overlapping upward copies repeat what they have just written, as element-wise execution does. */
static void copy_up(uint8_t *to, const uint8_t *from, unsigned size, uint64_t count) {
    uint64_t ahead = (uint64_t)(to - from);
    if (ahead >= count * size) {
        guest_copy(to, from, count * size);
        return;
    }
    for (uint64_t n = 0; n < count; n++)
        guest_st(to + n * size, guest_ld(from + n * size, size), size);
}

static uint64_t bulk_movs(struct x86_cpu *c, const struct x86_insn *i, uint64_t left) {
    uint8_t *from, *to;
    uint64_t n = run_at(c, i, RSI, i->seg, false, left, &from);
    n = n ? run_at(c, i, RDI, SEG_ES, true, n, &to) : 0;
    if (!n)
        return 0;
    copy_up(to, from, i->osize, n);
    mmu_wrote(c, to, (unsigned)(n * i->osize));
    index_add(c, i, RSI, n * i->osize);
    index_add(c, i, RDI, n * i->osize);
    return n;
}

static uint64_t bulk_stos(struct x86_cpu *c, const struct x86_insn *i, uint64_t left) {
    uint8_t *to;
    uint64_t n = run_at(c, i, RDI, SEG_ES, true, left, &to);
    if (!n)
        return 0;
    fill(to, reg_get(c, REG_OFF(RAX), i->osize), i->osize, n);
    mmu_wrote(c, to, (unsigned)(n * i->osize));
    index_add(c, i, RDI, n * i->osize);
    return n;
}

static uint64_t bulk_none(struct x86_cpu *c, const struct x86_insn *i, uint64_t left) {
    (void)c, (void)i, (void)left;
    return 0;
}

/* ---- repeats ---- */

typedef void one_fn(struct x86_cpu *c, const struct x86_insn *i);
typedef uint64_t bulk_fn(struct x86_cpu *c, const struct x86_insn *i, uint64_t left);

struct string_op {
    one_fn *one;
    bulk_fn *bulk;
    bool compares;
};
static const struct string_op MOVS = {one_movs, bulk_movs, false},
                              STOS = {one_stos, bulk_stos, false},
                              LODS = {one_lods, bulk_none, false},
                              CMPS = {one_cmps, bulk_none, true},
                              SCAS = {one_scas, bulk_none, true};

static bool goes_on(const struct x86_cpu *c, const struct x86_insn *i, const struct string_op *op) {
    bool zf = c->cc & FLAG_ZF;
    return !op->compares || zf == !!(i->flags & INSN_REP);
}

static uint64_t some(struct x86_cpu *c, const struct x86_insn *i, const struct string_op *op,
                     uint64_t left) {
    bool bulk = left > 1 && !(c->s.rflags & (FLAG_DF | FLAG_TF)) && !c->watching &&
                c->tlb != c->tlbs[TLB_OFF];
    uint64_t n = bulk ? op->bulk(c, i, left) : 0;
    if (n)
        return n;
    op->one(c, i);
    return 1;
}

/* Whether to leave the repeat for the loop: a trap or event is due, or it has been long. */
static bool must_pause(struct x86_cpu *c, uint64_t done) {
    return done >= CHUNK || c->s.rflags & FLAG_TF || c->dr6_pending ||
           atomic_load_explicit(&c->v.events, memory_order_relaxed);
}

/*
 * A repeat with 32-bit registers in 64-bit mode cuts the count before the first element, which may
 * fault, and those that processors do in bulk cut their indices too.
 */
static void cut_registers(struct x86_cpu *c, const struct x86_insn *i, const struct string_op *op) {
    index_add(c, i, RCX, 0);
    if (op == &MOVS)
        index_add(c, i, RSI, 0);
    if (op == &MOVS || op == &STOS)
        index_add(c, i, RDI, 0);
}

/* Comparisons change the flags when they end: a fault or trap between elements finds the old ones.
 */
static void repeat(struct x86_cpu *c, const struct x86_insn *i, const struct string_op *op) {
    uint64_t left = index_get(c, i, RCX), done = 0;
    uint32_t cc = c->cc;
    if (c->mode64 && i->ashift == 32)
        cut_registers(c, i, op);
    while (left) {
        c->cc = cc;
        uint64_t n = some(c, i, op, left);
        left -= n;
        done += n;
        index_set(c, i, RCX, left);
        if (!goes_on(c, i, op))
            return;
        if (left && must_pause(c, done)) {
            c->cc = cc;
            c->s.rflags |= FLAG_RF; /* SDM 3B 18.3.1.1: what comes in between returns with RF */
            c->next = c->s.rip;
            return;
        }
    }
}

X86_OP(op_string) {
    const struct string_op *op = i->data;
    if (repeated(i))
        repeat(c, i, op);
    else
        op->one(c, i);
}

static const struct string_op *string_of(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
        return &MOVS;
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
        return &STOS;
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ:
        return &LODS;
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
        return &CMPS;
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
        return &SCAS;
    default:
        return NULL;
    }
}

/* The source's segment, which a prefix may override; the destination is always in ES. */
static uint8_t source_segment(const struct x86_decode *d) {
    for (unsigned n = 0; n < d->zi->operand_count; n++)
        if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            ZydisRegisterGetId(d->op[n].mem.base) == RSI)
            return (uint8_t)(d->op[n].mem.segment - ZYDIS_REGISTER_ES);
    return SEG_DS;
}

bool select_string(const struct x86_decode *d, struct x86_insn *i) {
    i->data = string_of(d->zi->mnemonic);
    if (!i->data || d->zi->meta.category != ZYDIS_CATEGORY_STRINGOP)
        return false;
    i->seg = source_segment(d);
    /* Either prefix repeats those that do not compare. */
    if (d->zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        i->flags |= INSN_REP;
    if (repeated(i))
        i->flags |= INSN_END;
    i->fn = op_string;
    return true;
}

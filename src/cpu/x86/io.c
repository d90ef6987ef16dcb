/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IN, OUT, INS, OUTS (SDM 1 chapter 19; SDM 2A, 2B): permission by IOPL and the TSS's I/O map, I/O
 * breakpoints, and REP forms that can be interrupted and restarted between iterations.
 */
#include "base/where.h"
#include "cpu/x86/debugreg.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/task.h"
#include "cpu/x86/trace.h"

static void check_port(struct x86_cpu *c, uint16_t port, unsigned size) {
    unsigned iopl = (c->s.rflags & FLAG_IOPL) >> 12;
    if (unlikely(c->pe && (c->vm86 || c->cpl > iopl)) && !task_io_allowed(c, port, size))
        cpu_raise_err(c, EXC_GP, 0);
}

/* The access is made: an I/O breakpoint on it traps behind the instruction. */
static void note_port(struct x86_cpu *c, uint16_t port, unsigned size) {
    uint64_t hits = debugreg_io_hits(c, port, size);
    if (likely(!hits))
        return;
    c->dr6_pending |= hits;
    cpu_end_block(c);
}

static uint32_t port_read(struct x86_cpu *c, uint16_t port, unsigned size) {
    enum where from = where_go(WHERE_DEVICE);
    uint32_t v = mem_port_read(c->mem, port, size);
    where_go(from);
    if (unlikely(c->traced & TRACE_IO))
        cpu_trace_port(c, false, port, size, v);
    return v;
}

static void port_write(struct x86_cpu *c, uint16_t port, unsigned size, uint32_t v) {
    if (unlikely(c->traced & TRACE_IO))
        cpu_trace_port(c, true, port, size, v);
    enum where from = where_go(WHERE_DEVICE);
    mem_port_write(c->mem, port, size, v);
    where_go(from);
}

static uint16_t port_operand(struct x86_cpu *c, const struct x86_insn *i) {
    return i->flags & INSN_IMM ? (uint8_t)i->imm : (uint16_t)c->s.gpr[RDX];
}

static void op_in(struct x86_cpu *c, const struct x86_insn *i) {
    uint16_t port = port_operand(c, i);
    check_port(c, port, i->osize);
    reg_set(c, REG_OFF(RAX), i->osize, port_read(c, port, i->osize));
    note_port(c, port, i->osize);
}

static void op_out(struct x86_cpu *c, const struct x86_insn *i) {
    uint16_t port = port_operand(c, i);
    check_port(c, port, i->osize);
    port_write(c, port, i->osize, (uint32_t)reg_get(c, REG_OFF(RAX), i->osize));
    note_port(c, port, i->osize);
}

/* ---- INS, OUTS ---- */

static uint64_t index_get(struct x86_cpu *c, const struct x86_insn *i, enum x86_gpr r) {
    return c->s.gpr[r] << i->ashift >> i->ashift;
}

static void index_add(struct x86_cpu *c, const struct x86_insn *i, enum x86_gpr r, int64_t delta) {
    unsigned bytes = (64u - i->ashift) / 8;
    reg_set(c, REG_OFF(r), bytes, c->s.gpr[r] + (uint64_t)delta);
}

static int64_t string_step(const struct x86_cpu *c, const struct x86_insn *i) {
    return c->s.rflags & FLAG_DF ? -(int64_t)i->osize : i->osize;
}

/* The store is checked before the port is read: reading may have side effects. */
static void ins_once(struct x86_cpu *c, const struct x86_insn *i) {
    uint16_t port = (uint16_t)c->s.gpr[RDX];
    check_port(c, port, i->osize);
    uint64_t lin = cpu_linear(c, SEG_ES, index_get(c, i, RDI), i->osize, true);
    mmu_probe(c, lin, i->osize, true, SEG_ES);
    mmu_st(c, lin, port_read(c, port, i->osize), i->osize, SEG_ES);
    note_port(c, port, i->osize);
    index_add(c, i, RDI, string_step(c, i));
}

static void outs_once(struct x86_cpu *c, const struct x86_insn *i) {
    uint16_t port = (uint16_t)c->s.gpr[RDX];
    check_port(c, port, i->osize);
    uint64_t lin = cpu_linear(c, i->seg, index_get(c, i, RSI), i->osize, false);
    port_write(c, port, i->osize, (uint32_t)mmu_ld(c, lin, i->osize, i->seg));
    note_port(c, port, i->osize);
    index_add(c, i, RSI, string_step(c, i));
}

/* Between two iterations: an event, a single step or a debug trap comes before the next. */
static bool must_stop(const struct x86_cpu *c) {
    return atomic_load_explicit(&c->v.events, memory_order_relaxed) || c->s.rflags & FLAG_TF ||
           c->dr6_pending;
}

/* Permission is asked for also when the count is zero. */
static void repeat(struct x86_cpu *c, const struct x86_insn *i, x86_op_fn *once) {
    check_port(c, (uint16_t)c->s.gpr[RDX], i->osize);
    while (index_get(c, i, RCX)) {
        once(c, i);
        index_add(c, i, RCX, -1);
        if (index_get(c, i, RCX) && must_stop(c)) {
            c->next = c->s.rip;
            return;
        }
    }
}

static void op_rep_ins(struct x86_cpu *c, const struct x86_insn *i) {
    repeat(c, i, ins_once);
}

static void op_rep_outs(struct x86_cpu *c, const struct x86_insn *i) {
    repeat(c, i, outs_once);
}

/* ---- selection ---- */

static uint8_t outs_segment(const struct x86_decode *d) {
    for (unsigned n = 0; n < d->zi->operand_count; n++)
        if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return (uint8_t)(d->op[n].mem.segment - ZYDIS_REGISTER_ES);
    return SEG_DS;
}

static bool select_in_out(const struct x86_decode *d, struct x86_insn *i, bool in) {
    i->osize = (uint8_t)(d->op[in ? 0 : 1].size / 8);
    i->fn = in ? op_in : op_out;
    i->flags |= INSN_END; /* the device may raise an interrupt, or stop the machine */
    return true;
}

/* REPNE repeats too: there is no condition to end it. */
static bool select_string_io(const struct x86_decode *d, struct x86_insn *i, bool in,
                             uint8_t size) {
    bool rep = i->flags & (INSN_REP | INSN_REPNE);
    i->osize = size;
    i->seg = in ? SEG_ES : outs_segment(d);
    i->fn = in ? (rep ? op_rep_ins : ins_once) : (rep ? op_rep_outs : outs_once);
    i->flags |= INSN_END;
    return true;
}

bool select_io(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
        return select_in_out(d, i, true);
    case ZYDIS_MNEMONIC_OUT:
        return select_in_out(d, i, false);
    case ZYDIS_MNEMONIC_INSB:
        return select_string_io(d, i, true, 1);
    case ZYDIS_MNEMONIC_INSW:
        return select_string_io(d, i, true, 2);
    case ZYDIS_MNEMONIC_INSD:
        return select_string_io(d, i, true, 4);
    case ZYDIS_MNEMONIC_OUTSB:
        return select_string_io(d, i, false, 1);
    case ZYDIS_MNEMONIC_OUTSW:
        return select_string_io(d, i, false, 2);
    case ZYDIS_MNEMONIC_OUTSD:
        return select_string_io(d, i, false, 4);
    default:
        return false;
    }
}

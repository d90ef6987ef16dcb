/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raising and delivering exceptions and interrupts: real-mode vectors, 16- and 32-bit gates, task
 * gates, the 64-bit IDT with its interrupt stacks; double faults and shutdown. SDM 3A chapter 6,
 * SDM 2A (INT n), SDM 3B 17.3 and 20.3.
 */
#include "cpu/x86/exc.h"

#include "cpu/x86/frame.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/task.h"
#include "cpu/x86/trace.h"

const char *exc_name(unsigned vector) {
    static const char *const names[32] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9",  "#TS",
        "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    };
    return vector < ARRAY_LEN(names) && names[vector] ? names[vector] : "reserved";
}

/* ---- raising ---- */

static bool pushes_error(unsigned vector) {
    return vector < 32 && (1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS |
                           1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC) >>
                                  vector &
                              1;
}

noreturn static void raise_exception(struct x86_cpu *c, const struct x86_exception *x) {
    c->exc = *x;
    longjmp(c->jmp, 1);
}

/* Bit 0 of a selector error code, EXT: the fault came up while something external to the program
 * was delivered. */
static uint32_t ext_bit(const struct x86_cpu *c, unsigned vector) {
    bool selector = vector >= EXC_TS && vector <= EXC_GP;
    return selector && c->exc_nested && !c->exc_prev.soft;
}

void cpu_raise_err(struct x86_cpu *c, unsigned vector, uint32_t error) {
    struct x86_exception x = {.vector = (uint8_t)vector, .has_error = pushes_error(vector)};
    x.error = error | ext_bit(c, vector);
    raise_exception(c, &x);
}

void cpu_raise(struct x86_cpu *c, unsigned vector) {
    cpu_raise_err(c, vector, 0);
}

void cpu_raise_pf(struct x86_cpu *c, uint64_t linear, uint32_t error) {
    struct x86_exception x = {.vector = EXC_PF, .has_error = true, .error = error, .cr2 = linear};
    raise_exception(c, &x);
}

void exc_raise_debug(struct x86_cpu *c, uint64_t dr6) {
    struct x86_exception x = {.vector = EXC_DB, .dr6 = dr6};
    raise_exception(c, &x);
}

/* ---- delivery ---- */

struct delivery {
    const struct x86_exception *x;
    uint64_t rip, flags; /* what is pushed */
    unsigned cpl;        /* of the handler */
    struct seg_desc cs, ss;
    uint16_t cs_sel;
    uint64_t offset;
    bool inner;     /* onto the stack of a more privileged level */
    bool trap_gate; /* IF stays */
    struct frame f;
};

/* The pushed RF is 1 for faults except instruction breakpoints (SDM 3B 17.3.1.1). */
static bool pushes_rf(const struct x86_exception *x) {
    if (x->soft || x->external)
        return false;
    switch (x->vector) {
    case EXC_DB:
        return x->dr6 & DR6_BD;
    case EXC_NMI:
    case EXC_BP:
    case EXC_OF:
    case EXC_DF:
    case EXC_MC:
        return false;
    default:
        return true;
    }
}

static void end_shadows(struct x86_cpu *c) {
    c->s.shadow_sti = false;
    c->s.shadow_movss = false;
}

static void jump_to(struct x86_cpu *c, uint64_t rip) {
    c->s.rip = rip;
    c->next = rip;
    end_shadows(c);
    cpu_update_mode(c);
}

/* Real mode, and virtual-8086 mode's redirected INT n: three words, then the vector. */
static void enter_vector(struct x86_cpu *c, uint32_t vector, uint64_t flags, uint64_t rip) {
    struct frame f;
    frame_current(c, &f, 2);
    frame_probe(c, &f, 3);
    if ((vector & 0xffff) > c->s.seg[SEG_CS].limit)
        cpu_raise_err(c, EXC_GP, 0);
    frame_push(c, &f, flags);
    frame_push(c, &f, c->s.seg[SEG_CS].sel);
    frame_push(c, &f, rip);
    frame_set_sp(c, &f);
    seg_load_real(c, SEG_CS, (uint16_t)(vector >> 16));
    jump_to(c, vector & 0xffff);
}

static void deliver_real(struct x86_cpu *c, const struct x86_exception *x, uint64_t rip) {
    if (x->vector * 4u + 3 > c->s.idtr.limit)
        cpu_raise_err(c, EXC_GP, x->vector * 8u + 2);
    uint32_t vector = (uint32_t)mmu_sys_ld(c, c->s.idtr.base + x->vector * 4u, 4);
    uint64_t flags = cpu_flags(c);
    enter_vector(c, vector, flags, rip);
    cpu_set_flags(c, flags & ~(uint64_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
    cpu_update_mode(c);
}

void exc_v86_redirect(struct x86_cpu *c, uint8_t vector) {
    uint64_t flags = cpu_flags(c), image = flags, interrupt = FLAG_IF;
    if ((flags & FLAG_IOPL) != FLAG_IOPL) {
        image = (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
        interrupt = FLAG_VIF;
    }
    uint32_t entry = mmu_ld32(c, vector * 4u, SEG_DS);
    enter_vector(c, entry, image, c->next);
    cpu_set_flags(c, flags & ~(interrupt | FLAG_TF | FLAG_RF));
    cpu_update_mode(c);
}

/* The code segment that a gate names; decides the handler's privilege. SDM 2A, INT n. */
static void check_code(struct x86_cpu *c, struct delivery *d) {
    if (sel_is_null(d->cs_sel))
        cpu_raise_err(c, EXC_GP, 0);
    seg_fetch_or_fault(c, d->cs_sel, EXC_GP, &d->cs);
    unsigned dpl = desc_dpl(&d->cs);
    bool l = d->cs.hi >> 21 & 1, db = d->cs.hi >> 22 & 1;
    if (!desc_is_code(&d->cs) || dpl > c->cpl || (c->lma && (!l || db)))
        seg_fault(c, EXC_GP, d->cs_sel);
    if (!desc_present(&d->cs))
        seg_fault(c, EXC_NP, d->cs_sel);
    d->cpl = desc_is_conforming(&d->cs) ? c->cpl : dpl;
    d->inner = d->cpl < c->cpl;
    if (c->vm86 && d->cpl != 0)
        seg_fault(c, EXC_GP, d->cs_sel);
}

static void check_offset(struct x86_cpu *c, const struct delivery *d) {
    bool ok =
        c->lma ? seg_canonical(c, d->offset) : d->offset <= seg_from_desc(&d->cs, d->cs_sel).limit;
    if (!ok)
        cpu_raise_err(c, EXC_GP, 0);
}

static void push_v86_segments(struct x86_cpu *c, struct frame *f) {
    frame_push(c, f, c->s.seg[SEG_GS].sel);
    frame_push(c, f, c->s.seg[SEG_FS].sel);
    frame_push(c, f, c->s.seg[SEG_DS].sel);
    frame_push(c, f, c->s.seg[SEG_ES].sel);
}

static void push_frame(struct x86_cpu *c, struct delivery *d) {
    if (c->vm86)
        push_v86_segments(c, &d->f);
    if (d->inner || c->lma) {
        frame_push(c, &d->f, c->s.seg[SEG_SS].sel);
        frame_push(c, &d->f, c->s.gpr[RSP]);
    }
    frame_push(c, &d->f, d->flags);
    frame_push(c, &d->f, c->s.seg[SEG_CS].sel);
    frame_push(c, &d->f, d->rip);
    if (d->x->has_error)
        frame_push(c, &d->f, d->x->error);
}

static unsigned frame_slots(const struct x86_cpu *c, const struct delivery *d) {
    return 3u + (c->vm86 ? 4 : 0) + (d->inner || c->lma ? 2 : 0) + d->x->has_error;
}

static void null_data_segments(struct x86_cpu *c) {
    c->s.seg[SEG_ES] = seg_null(0, 0);
    c->s.seg[SEG_DS] = seg_null(0, 0);
    c->s.seg[SEG_FS] = seg_null(0, 0);
    c->s.seg[SEG_GS] = seg_null(0, 0);
}

/* Everything is checked: the stack is written and the handler entered. */
static void enter_handler(struct x86_cpu *c, struct delivery *d) {
    uint32_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (d->trap_gate ? 0 : FLAG_IF);
    push_frame(c, d);
    if (c->vm86)
        null_data_segments(c);
    if (d->inner)
        c->s.seg[SEG_SS] = d->f.ss;
    frame_set_sp(c, &d->f);
    c->s.seg[SEG_CS] = seg_from_desc(&d->cs, (uint16_t)((d->cs_sel & ~3u) | d->cpl));
    cpu_set_flags(c, cpu_flags(c) & ~(uint64_t)clear);
    jump_to(c, d->offset);
}

/* Interrupt or trap gate of 16 or 32 bits. */
static void deliver_gate(struct x86_cpu *c, struct delivery *d, unsigned size) {
    check_code(c, d);
    if (d->inner)
        frame_from_tss(c, &d->f, d->cpl, size, &d->ss);
    else
        frame_current(c, &d->f, size);
    frame_probe(c, &d->f, frame_slots(c, d));
    check_offset(c, d);
    if (d->inner) {
        seg_set_accessed(c, &d->ss);
        d->f.ss = seg_from_desc(&d->ss, d->f.ss.sel);
    }
    seg_set_accessed(c, &d->cs);
    enter_handler(c, d);
}

static void deliver_gate64(struct x86_cpu *c, struct delivery *d, unsigned ist) {
    check_code(c, d);
    if (d->inner || ist)
        frame_from_tss64(c, &d->f, d->cpl, ist);
    else
        frame_current64(c, &d->f);
    d->f.user = d->cpl == 3;
    d->f.sp &= ~15ull;
    frame_probe(c, &d->f, frame_slots(c, d));
    check_offset(c, d);
    seg_set_accessed(c, &d->cs);
    enter_handler(c, d);
}

static void check_gate(struct x86_cpu *c, const struct x86_exception *x, bool type_ok,
                       uint32_t hi) {
    uint32_t error = x->vector * 8u + 2;
    if (!type_ok || (x->soft && (hi >> 13 & 3) < c->cpl))
        cpu_raise_err(c, EXC_GP, error);
    if (!(hi & 0x8000))
        cpu_raise_err(c, EXC_NP, error);
}

static void deliver_task(struct x86_cpu *c, struct delivery *d, uint16_t sel) {
    struct task_from from = {.cause = TASK_EVENT,
                             .rip = d->rip,
                             .flags = d->flags,
                             .has_error = d->x->has_error,
                             .error = d->x->error};
    task_switch(c, sel, &from);
    end_shadows(c);
}

static void deliver_protected(struct x86_cpu *c, struct delivery *d) {
    uint32_t at = d->x->vector * 8u;
    if (at + 7 > c->s.idtr.limit)
        cpu_raise_err(c, EXC_GP, at + 2);
    uint64_t gate = mmu_sys_ld(c, c->s.idtr.base + at, 8);
    uint32_t hi = (uint32_t)(gate >> 32);
    unsigned type = hi >> 8 & 31;
    bool gate32 = type == DESC_INT32 || type == DESC_TRAP32;
    bool gate16 = type == DESC_INT16 || type == DESC_TRAP16;
    check_gate(c, d->x, gate32 || gate16 || type == DESC_TASK, hi);
    d->cs_sel = (uint16_t)(gate >> 16);
    d->offset = (gate & 0xffff) | (gate32 ? hi & 0xffff0000 : 0);
    d->trap_gate = type & 1;
    if (type == DESC_TASK)
        deliver_task(c, d, d->cs_sel);
    else
        deliver_gate(c, d, gate32 ? 4 : 2);
}

static void deliver_long(struct x86_cpu *c, struct delivery *d) {
    uint32_t at = d->x->vector * 16u;
    if (at + 15 > c->s.idtr.limit)
        cpu_raise_err(c, EXC_GP, d->x->vector * 8u + 2);
    uint64_t gate = mmu_sys_ld(c, c->s.idtr.base + at, 8);
    uint64_t high = mmu_sys_ld(c, c->s.idtr.base + at + 8, 8);
    uint32_t hi = (uint32_t)(gate >> 32);
    unsigned type = hi >> 8 & 31;
    check_gate(c, d->x, type == DESC_INT32 || type == DESC_TRAP32, hi);
    d->cs_sel = (uint16_t)(gate >> 16);
    d->offset = (gate & 0xffff) | (hi & 0xffff0000) | high << 32;
    d->trap_gate = type & 1;
    deliver_gate64(c, d, hi & 7);
}

static void count_event(struct x86_cpu *c, const struct x86_exception *x) {
    uint64_t *counts = x->soft ? c->counts.software : c->counts.interrupts;
    if (!x->soft && (!x->external || x->vector == EXC_NMI))
        counts = c->counts.exceptions;
    counts[x->vector]++;
    if (unlikely(c->traced & TRACE_INT))
        cpu_trace_event(c, x, c->s.rip);
}

/* While it runs, exc_prev says what a nested fault interrupted. */
static void begin(struct x86_cpu *c, const struct x86_exception *x, uint64_t rip) {
    c->exc_prev = *x;
    c->exc_nested = true;
    count_event(c, x);
    struct delivery d = {.x = &c->exc_prev, .rip = rip};
    d.flags = cpu_flags(c) | (pushes_rf(x) ? FLAG_RF : 0);
    if (!c->pe)
        deliver_real(c, d.x, rip);
    else if (c->lma)
        deliver_long(c, &d);
    else
        deliver_protected(c, &d);
    c->exc_nested = false;
}

/* ---- nested faults (SDM 3A tables 6-4 and 6-5) ---- */

static bool is_contributory(const struct x86_exception *x) {
    const uint32_t set = 1u << EXC_DE | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP;
    return !x->soft && !x->external && x->vector < 32 && set >> x->vector & 1;
}

static bool is_vector(const struct x86_exception *x, unsigned vector) {
    return !x->soft && !x->external && x->vector == vector;
}

static bool is_double(const struct x86_exception *first, const struct x86_exception *second) {
    if (is_vector(first, EXC_PF))
        return is_contributory(second) || is_vector(second, EXC_PF);
    return is_contributory(first) && is_contributory(second);
}

static bool is_triple(const struct x86_exception *first, const struct x86_exception *second) {
    return is_vector(first, EXC_DF) && (is_contributory(second) || is_vector(second, EXC_PF));
}

/* CR2 and DR6 tell of the event itself, even where it is delivered as a double fault. */
static void note_cause(struct x86_cpu *c, const struct x86_exception *x) {
    if (x->vector == EXC_PF)
        c->s.cr2 = x->cr2;
    if (x->vector == EXC_DB) {
        if (x->dr6)
            c->s.dr[6] = (c->s.dr[6] & ~0xfull) | x->dr6;
        c->s.dr[7] &= ~(uint64_t)DR6_BD; /* GD is the same bit */
    }
}

void exc_deliver(struct x86_cpu *c) {
    struct x86_exception x = c->exc;
    if (x.vector == EXC_DB)
        x.dr6 |= c->dr6_pending;
    c->dr6_pending = 0; /* otherwise of an instruction that will run again */
    note_cause(c, &x);
    if (c->exc_nested && is_triple(&c->exc_prev, &x)) {
        c->exc_nested = false;
        c->s.activity = X86_SHUTDOWN;
        if (unlikely(c->traced & TRACE_INT))
            cpu_trace_shutdown(c);
        return;
    }
    if (c->exc_nested && is_double(&c->exc_prev, &x))
        x = (struct x86_exception){.vector = EXC_DF, .has_error = true};
    begin(c, &x, c->s.rip);
}

/* ---- events that are not faults ---- */

void exc_interrupt(struct x86_cpu *c, uint8_t vector) {
    struct x86_exception x = {.vector = vector, .external = true};
    begin(c, &x, c->s.rip);
}

void exc_nmi(struct x86_cpu *c) {
    struct x86_exception x = {.vector = EXC_NMI, .external = true};
    c->s.nmi_blocked = true;
    begin(c, &x, c->s.rip);
}

void exc_debug_trap(struct x86_cpu *c) {
    struct x86_exception x = {.vector = EXC_DB, .dr6 = c->dr6_pending};
    c->dr6_pending = 0;
    note_cause(c, &x);
    begin(c, &x, c->s.rip);
}

void exc_soft(struct x86_cpu *c, uint8_t vector) {
    struct x86_exception x = {.vector = vector, .soft = true};
    begin(c, &x, c->next);
}

/* Takes along what a MOV SS before it has held back: there is one #DB, not two. */
void exc_int1(struct x86_cpu *c) {
    struct x86_exception x = {.vector = EXC_DB, .dr6 = c->dr6_pending};
    c->dr6_pending = 0;
    note_cause(c, &x);
    begin(c, &x, c->next);
}

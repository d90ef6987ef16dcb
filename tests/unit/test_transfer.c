/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segment loads, far transfers, event delivery, task switches and flag instructions of the
 * reference engine, one instruction at a time, against SDM 2 and SDM 3A chapters 3 and 5 to 7.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/task.h"

enum {
    GDT = 0x1000,
    IDT = 0x2000,
    TSS = 0x3000,
    TSS_B = 0x3800,
    CODE = 0x8000,
    STACK0 = 0x10000,
    STACK3 = 0x18000,
    PML4 = 0x100000,
};

/* Selectors, without RPL. */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18,
    DATA3 = 0x20,
    TSS_A_SEL = 0x28, /* two slots, for long mode */
    CODE64_0 = 0x38,
    CODE64_3 = 0x40,
    GATE = 0x48, /* two slots */
    DOWN = 0x58,
    ABSENT = 0x60,
    CONFORMING = 0x68,
    READ_ONLY = 0x70,
    TSS_B_SEL = 0x78,
    GDT_LAST = 0x87,
};

enum { NO_FAULT = -1 };

struct rig {
    struct loop *loop;
    struct clock *clock;
    struct mem *mem;
    struct x86_cpuid id;
    struct engine_vm *vm;
    struct vcpu *v;
    struct x86_cpu *c;
};

static void put(struct rig *r, uint64_t at, uint64_t v, unsigned size) {
    memcpy(r->mem->ram + at, &v, size);
}

static uint64_t get(const struct rig *r, uint64_t at, unsigned size) {
    uint64_t v = 0;
    memcpy(&v, r->mem->ram + at, size);
    return v;
}

/* `attr` as in struct x86_seg; limit in the descriptor's own units. */
static void put_desc(struct rig *r, unsigned sel, uint32_t base, uint32_t limit, uint32_t attr) {
    uint32_t lo = (limit & 0xffff) | base << 16;
    uint32_t hi = (base >> 16 & 0xff) | attr << 8 | (limit & 0xf0000) | (base & 0xff000000);
    put(r, GDT + sel, lo, 4);
    put(r, GDT + sel + 4, hi, 4);
}

static void put_gate(struct rig *r, uint64_t at, uint16_t sel, uint32_t off, uint32_t attr) {
    put(r, at, (off & 0xffff) | (uint32_t)sel << 16, 4);
    put(r, at + 4, (off & 0xffff0000) | attr, 4);
}

static void fill_gdt(struct rig *r) {
    put_desc(r, CODE0, 0, 0xfffff, 0xc09a);
    put_desc(r, DATA0, 0, 0xfffff, 0xc092);
    put_desc(r, CODE3, 0, 0xfffff, 0xc0fa);
    put_desc(r, DATA3, 0, 0xfffff, 0xc0f2);
    put_desc(r, TSS_A_SEL, TSS, 0x7ff, 0x0089);
    put_desc(r, CODE64_0, 0, 0xfffff, 0xa09a);
    put_desc(r, CODE64_3, 0, 0xfffff, 0xa0fa);
    put_desc(r, DOWN, 0, 0x0fff, 0x4096);
    put_desc(r, ABSENT, 0, 0xfffff, 0xc012);
    put_desc(r, CONFORMING, 0, 0xfffff, 0xc09e);
    put_desc(r, READ_ONLY, 0, 0xfffff, 0xc090);
    put_desc(r, TSS_B_SEL, TSS_B, 0x67, 0x0089);
}

static struct x86_seg seg_of(struct rig *r, uint16_t sel) {
    struct seg_desc d = {.lo = (uint32_t)get(r, GDT + (sel & ~7u), 4),
                         .hi = (uint32_t)get(r, GDT + (sel & ~7u) + 4, 4)};
    return seg_from_desc(&d, sel);
}

/* 32-bit protected mode at the given privilege; no paging. */
static void protected_mode(struct rig *r, unsigned cpl) {
    struct x86_state *s = &r->c->s;
    fill_gdt(r);
    s->cr0 = CR0_PE | CR0_ET;
    s->gdtr = (struct x86_dtr){GDT, GDT_LAST};
    s->idtr = (struct x86_dtr){IDT, 0x7ff};
    s->tr = seg_of(r, TSS_A_SEL);
    s->tr.attr |= 2;
    put(r, GDT + TSS_A_SEL + 5, 0x8b, 1);
    s->ldtr = seg_null(0, 0);
    for (unsigned n = 0; n < 6; n++)
        s->seg[n] = seg_of(r, (uint16_t)(cpl ? DATA3 | 3 : DATA0));
    s->seg[SEG_CS] = seg_of(r, (uint16_t)(cpl ? CODE3 | 3 : CODE0));
    s->rip = CODE;
    s->gpr[RSP] = cpl ? STACK3 : STACK0;
    put(r, TSS + 4, STACK0, 4);
    put(r, TSS + 8, DATA0, 4);
    cpu_set_flags(r->c, FLAG_FIXED);
    cpu_update_mode(r->c);
}

/* Long mode with the first 4 MiB mapped 1:1 for everybody. */
static void long_mode(struct rig *r, unsigned cpl) {
    struct x86_state *s = &r->c->s;
    protected_mode(r, cpl);
    put(r, PML4, (PML4 + 0x1000) | 7, 8);
    put(r, PML4 + 0x1000, (PML4 + 0x2000) | 7, 8);
    put(r, PML4 + 0x2000, 0x87, 8);
    put(r, PML4 + 0x2008, 0x200087, 8);
    s->cr3 = PML4;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->cr0 |= CR0_PG;
    s->idtr.limit = 0xfff;
    s->seg[SEG_CS] = seg_of(r, (uint16_t)(cpl ? CODE64_3 | 3 : CODE64_0));
    put(r, TSS + 4, STACK0, 8);
    mmu_remap(r->c);
}

static int rig_setup(void **state) {
    struct err e = ERR_INIT;
    struct rig *r = xcalloc(1, sizeof *r);
    r->loop = loop_new(&e);
    r->clock = clock_new(r->loop);
    r->mem = mem_new(4 << 20, 0, &e);
    assert_non_null(r->mem);
    assert_int_equal(mem_add_ram(r->mem, GPA(0), 4 << 20, 0, &e), 0);
    assert_int_equal(x86_cpuid_build(&r->id, "x86-64-v2", 1, 1000000000, &e), 0);
    struct engine_vm_params p = {.mem = r->mem, .clock = r->clock, .cpuid = &r->id, .vcpus = 1};
    r->vm = engine_interp.vm_create(&p, &e);
    r->v = engine_interp.vcpu_create(r->vm, 0, &e);
    assert_non_null(r->v);
    r->c = (struct x86_cpu *)(void *)r->v;
    *state = r;
    return 0;
}

static int rig_teardown(void **state) {
    struct rig *r = *state;
    engine_interp.vcpu_destroy(r->v);
    engine_interp.vm_destroy(r->vm);
    mem_free(r->mem);
    clock_free(r->clock);
    loop_free(r->loop);
    free(r);
    return 0;
}

/* Executes one instruction; returns the vector it raised, which is left in c->exc undelivered. */
static int exec(struct rig *r, unsigned len, ...) {
    struct x86_cpu *c = r->c;
    struct x86_insn i;
    uint8_t bytes[15] = {0};
    va_list ap;
    va_start(ap, len);
    for (unsigned n = 0; n < len; n++)
        bytes[n] = (uint8_t)va_arg(ap, int);
    va_end(ap);
    assert_int_equal(x86_decode(&r->id, c->code_size, bytes, sizeof bytes, &i), 0);
    c->next = c->s.rip + i.len;
    if (setjmp(c->jmp))
        return c->exc.vector;
    i.fn(c, &i);
    c->s.rip = c->next;
    return NO_FAULT;
}

/* As the engine's loop does: faults on the way come back here. */
static void deliver(struct rig *r) {
    (void)setjmp(r->c->jmp);
    exc_deliver(r->c);
}

static uint64_t slot(const struct rig *r, unsigned n, unsigned size) {
    return get(r, r->c->s.gpr[RSP] + (uint64_t)n * size, size);
}

#define assert_fault(r, v, err, ...)                                                               \
    do {                                                                                           \
        assert_int_equal(exec(r, __VA_ARGS__), v);                                                 \
        assert_int_equal((r)->c->exc.error, err);                                                  \
    } while (0)

/* ---- segment loads and limits ---- */

static void test_data_loads(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    static const struct {
        uint16_t sel;
        bool stack;
        int vector;
        uint16_t error;
    } cases[] = {
        {DATA0, false, NO_FAULT, 0},
        {DATA0 | 3, false, EXC_GP, DATA0},
        {0, false, NO_FAULT, 0},
        {3, false, NO_FAULT, 0},
        {TSS_B_SEL, false, EXC_GP, 0x78},
        {ABSENT, false, EXC_NP, ABSENT},
        {0x200, false, EXC_GP, 0x200},
        {DATA0 | 4, false, EXC_GP, DATA0 | 4},
        {CODE0, false, NO_FAULT, 0},
        {CONFORMING | 3, false, NO_FAULT, 0},
        {0, true, EXC_GP, 0},
        {DATA0 | 1, true, EXC_GP, DATA0},
        {DATA3 | 3, true, EXC_GP, DATA3},
        {READ_ONLY, true, EXC_GP, READ_ONLY},
        {ABSENT, true, EXC_SS, ABSENT},
        {DOWN, true, NO_FAULT, 0},
        {READ_ONLY, false, NO_FAULT, 0},
    };
    for (unsigned n = 0; n < ARRAY_LEN(cases); n++) {
        protected_mode(r, 0);
        c->s.gpr[RAX] = cases[n].sel;
        struct x86_seg before = c->s.seg[cases[n].stack ? SEG_SS : SEG_DS];
        int got = exec(r, 2, 0x8e, cases[n].stack ? 0xd0 : 0xd8);
        const struct x86_seg *after = &c->s.seg[cases[n].stack ? SEG_SS : SEG_DS];
        assert_int_equal(got, cases[n].vector);
        assert_int_equal(after->sel, got == NO_FAULT ? cases[n].sel : before.sel);
        if (got != NO_FAULT)
            assert_int_equal(c->exc.error, cases[n].error);
        assert_int_equal(c->s.shadow_movss, got == NO_FAULT && cases[n].stack);
        c->s.shadow_movss = false;
    }
    assert_int_equal(get(r, GDT + READ_ONLY + 5, 1), 0x91); /* accessed */
}

static void test_limits(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    c->s.seg[SEG_DS] = seg_of(r, DOWN);
    cpu_update_mode(c);
    c->s.gpr[RBX] = 0xfff;
    assert_fault(r, EXC_GP, 0, 2, 0x8a, 0x03); /* mov al, [ebx] */
    c->s.gpr[RBX] = 0x1000;
    assert_int_equal(exec(r, 2, 0x8a, 0x03), NO_FAULT);
    c->s.seg[SEG_DS] = seg_of(r, READ_ONLY);
    cpu_update_mode(c);
    assert_fault(r, EXC_GP, 0, 2, 0x88, 0x03); /* mov [ebx], al */
    c->s.seg[SEG_SS].limit = 0xffff;
    c->s.gpr[RSP] = 0x10002;
    cpu_update_mode(c);
    assert_fault(r, EXC_SS, 0, 1, 0x50); /* push eax */
}

static void test_looking_at_descriptors(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    c->s.gpr[RAX] = CODE0;
    assert_int_equal(exec(r, 3, 0x0f, 0x02, 0xd8), NO_FAULT); /* lar ebx, eax */
    assert_int_equal(c->s.gpr[RBX], 0xcf9a00);
    assert_true(c->cc & FLAG_ZF);
    assert_int_equal(exec(r, 3, 0x0f, 0x03, 0xd8), NO_FAULT); /* lsl */
    assert_int_equal(c->s.gpr[RBX], 0xffffffff);
    c->s.gpr[RAX] = DATA0 | 3;
    assert_int_equal(exec(r, 3, 0x0f, 0x00, 0xe0), NO_FAULT); /* verr ax */
    assert_false(c->cc & FLAG_ZF);
    c->s.gpr[RAX] = READ_ONLY;
    assert_int_equal(exec(r, 3, 0x0f, 0x00, 0xe8), NO_FAULT); /* verw ax */
    assert_false(c->cc & FLAG_ZF);
    assert_int_equal(exec(r, 3, 0x0f, 0x00, 0xe0), NO_FAULT);
    assert_true(c->cc & FLAG_ZF);
}

/* ---- call gates ---- */

static void test_call_gate(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 3);
    put_gate(r, GDT + GATE, CODE0, 0x9000, 0xec00);
    put(r, GDT + GATE + 4, 2, 1); /* parameters */
    put(r, STACK3, 0x11111111, 4);
    put(r, STACK3 + 4, 0x22222222, 4);
    assert_int_equal(exec(r, 7, 0x9a, 0, 0, 0, 0, GATE | 3, 0), NO_FAULT);
    assert_int_equal(c->s.rip, 0x9000);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->s.seg[SEG_CS].sel, CODE0);
    assert_int_equal(c->s.seg[SEG_SS].sel, DATA0);
    assert_int_equal(c->s.gpr[RSP], STACK0 - 24);
    const uint32_t want[] = {CODE + 7, CODE3 | 3, 0x11111111, 0x22222222, STACK3, DATA3 | 3};
    for (unsigned n = 0; n < ARRAY_LEN(want); n++)
        assert_int_equal(slot(r, n, 4), want[n]);

    c->s.seg[SEG_DS] = seg_of(r, DATA0);
    assert_int_equal(exec(r, 3, 0xca, 8, 0), NO_FAULT); /* retf 8 */
    assert_int_equal(c->s.rip, CODE + 7);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->s.gpr[RSP], STACK3 + 8);
    assert_int_equal(c->s.seg[SEG_DS].sel, 0);
    assert_true(c->s.seg[SEG_DS].attr & SEG_UNUSABLE);
    assert_int_equal(c->s.seg[SEG_ES].sel, DATA3 | 3);
}

static void test_call_gate_faults(void **state) {
    struct rig *r = *state;
    protected_mode(r, 3);
    put_gate(r, GDT + GATE, CODE0, 0x9000, 0x8c00); /* DPL 0 */
    assert_fault(r, EXC_GP, GATE, 7, 0x9a, 0, 0, 0, 0, GATE | 3, 0);
    put_gate(r, GDT + GATE, CODE0, 0x9000, 0x6c00); /* not present */
    assert_fault(r, EXC_NP, GATE, 7, 0x9a, 0, 0, 0, 0, GATE | 3, 0);
    put_gate(r, GDT + GATE, CODE0, 0x9000, 0xec00);
    assert_fault(r, EXC_GP, CODE0, 7, 0xea, 0, 0, 0, 0, GATE | 3, 0); /* JMP goes no deeper */
    put(r, TSS + 8, DATA3 | 3, 4);
    assert_fault(r, EXC_TS, DATA3, 7, 0x9a, 0, 0, 0, 0, GATE | 3, 0);
    r->c->s.tr.limit = 8;
    assert_fault(r, EXC_TS, TSS_A_SEL, 7, 0x9a, 0, 0, 0, 0, GATE | 3, 0);
    assert_int_equal(r->c->s.gpr[RSP], STACK3);
    assert_int_equal(r->c->cpl, 3);
}

/* ---- interrupts in protected mode ---- */

static void test_interrupt_inner(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 3);
    cpu_set_flags(c, FLAG_FIXED | FLAG_IF | FLAG_TF | FLAG_CF);
    put_gate(r, IDT + 0x80 * 8, CODE0, 0x9000, 0xee00); /* interrupt gate, DPL 3 */
    assert_int_equal(exec(r, 2, 0xcd, 0x80), NO_FAULT);
    const uint32_t want[] = {CODE + 2, CODE3 | 3, 0x303, STACK3, DATA3 | 3};
    for (unsigned n = 0; n < ARRAY_LEN(want); n++)
        assert_int_equal(slot(r, n, 4), want[n]);
    assert_int_equal(cpu_flags(c), FLAG_FIXED | FLAG_CF);
    assert_int_equal(exec(r, 1, 0xcf), NO_FAULT); /* iret */
    assert_int_equal(cpu_flags(c), 0x303);
    assert_int_equal(c->s.rip, CODE + 2);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->s.gpr[RSP], STACK3);
}

static void test_fault_frame(void **state) {
    struct rig *r = *state;
    protected_mode(r, 0);
    put_gate(r, IDT + EXC_GP * 8, CODE0, 0x9000, 0x8f00);
    assert_fault(r, EXC_GP, DATA0, 7, 0xea, 0, 0, 0, 0, DATA0, 0); /* jump to data */
    deliver(r);
    assert_int_equal(r->c->s.rip, 0x9000);
    assert_int_equal(slot(r, 0, 4), DATA0);
    assert_int_equal(slot(r, 1, 4), CODE);
    assert_int_equal(slot(r, 3, 4), FLAG_FIXED | FLAG_RF); /* a fault resumes */
}

/* EXT is set for what the program did not ask for, and not for INT n. */
static void test_ext_bit(void **state) {
    struct rig *r = *state;
    protected_mode(r, 0);
    put_gate(r, IDT + 0x40 * 8, CODE0, 0x9000, 0x6e00); /* not present */
    assert_fault(r, EXC_NP, 0x40 * 8 + 2, 2, 0xcd, 0x40);
    if (!setjmp(r->c->jmp)) {
        r->c->exc_nested = false;
        exc_interrupt(r->c, 0x40);
        fail();
    }
    assert_int_equal(r->c->exc.vector, EXC_NP);
    assert_int_equal(r->c->exc.error, 0x40 * 8 + 3);
}

static void test_double_and_triple_fault(void **state) {
    struct rig *r = *state;
    protected_mode(r, 0);
    memset(r->mem->ram + IDT, 0, 0x800);
    put_gate(r, IDT + EXC_DF * 8, CODE0, 0x9000, 0x8e00);
    assert_fault(r, EXC_GP, DATA0, 7, 0xea, 0, 0, 0, 0, DATA0, 0);
    deliver(r);
    assert_int_equal(r->c->s.rip, 0x9000);
    assert_int_equal(slot(r, 0, 4), 0);
    assert_int_equal(r->c->s.activity, X86_RUNNING);
    put(r, IDT + EXC_DF * 8 + 4, 0, 4);
    assert_fault(r, EXC_GP, DATA0, 7, 0xea, 0, 0, 0, 0, DATA0, 0);
    deliver(r);
    assert_int_equal(r->c->s.activity, X86_SHUTDOWN);
    r->c->s.activity = X86_RUNNING;
}

/* A benign event first: what its delivery raises is simply the next exception. */
static void test_benign_first(void **state) {
    struct rig *r = *state;
    protected_mode(r, 0);
    memset(r->mem->ram + IDT, 0, 0x800);
    put_gate(r, IDT + EXC_GP * 8, CODE0, 0x9000, 0x8e00);
    assert_int_equal(exec(r, 2, 0x0f, 0x0b), EXC_UD);
    deliver(r);
    assert_int_equal(r->c->s.rip, 0x9000);
    assert_int_equal(slot(r, 0, 4), EXC_UD * 8 + 3);
    assert_int_equal(slot(r, 1, 4), CODE);
}

/* ---- virtual-8086 mode ---- */

/* By IRET from ring 0, with these flags besides VM. */
static void enter_v86(struct rig *r, uint32_t flags) {
    const uint32_t frame[] = {
        0x100, 0x800, flags | FLAG_VM | FLAG_FIXED, 0xff00, 0x1000, 0x1111, 0x2222, 0x3333, 0x4444};
    protected_mode(r, 0);
    r->c->s.gpr[RSP] = STACK0 - sizeof frame;
    for (unsigned n = 0; n < ARRAY_LEN(frame); n++)
        put(r, STACK0 - sizeof frame + n * 4, frame[n], 4);
    assert_int_equal(exec(r, 1, 0xcf), NO_FAULT);
    assert_true(r->c->vm86);
    assert_int_equal(r->c->cpl, 3);
    assert_int_equal(r->c->s.seg[SEG_CS].base, 0x8000);
    assert_int_equal(r->c->s.seg[SEG_GS].sel, 0x4444);
}

static void test_v86_interrupt(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    enter_v86(r, FLAG_IOPL | FLAG_IF);
    put_gate(r, IDT + 0x30 * 8, CODE0, 0x9000, 0xee00);
    assert_int_equal(exec(r, 2, 0xcd, 0x30), NO_FAULT);
    assert_false(c->vm86);
    assert_int_equal(c->cpl, 0);
    const uint32_t want[] = {0x102,  0x800,  FLAG_VM | FLAG_IOPL | FLAG_IF | FLAG_FIXED,
                             0xff00, 0x1000, 0x1111,
                             0x2222, 0x3333, 0x4444};
    for (unsigned n = 0; n < ARRAY_LEN(want); n++)
        assert_int_equal(slot(r, n, 4), want[n]);
    assert_true(c->s.seg[SEG_DS].attr & SEG_UNUSABLE);
    put_gate(r, IDT + 0x30 * 8, CODE3, 0x9000, 0xee00);
    enter_v86(r, FLAG_IOPL);
    assert_fault(r, EXC_GP, CODE3, 2, 0xcd, 0x30); /* must lead to ring 0 */
    enter_v86(r, 0);
    assert_fault(r, EXC_GP, 0, 2, 0xcd, 0x30);
    assert_fault(r, EXC_GP, 0, 1, 0xfa);
    assert_fault(r, EXC_GP, 0, 1, 0x9c);
}

/* SDM 3B 20.3.3, method 6: the virtual machine's own handler, VIF for IF. */
static void test_v86_redirection(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    enter_v86(r, FLAG_VIF | FLAG_IF);
    c->s.cr4 = CR4_VME;
    put(r, TSS + 0x66, 0x100, 2);
    memset(r->mem->ram + TSS + 0xe0, 0, 32);
    put(r, TSS + 0xe0 + 0x31 / 8, 1u << (0x31 & 7), 1);
    put(r, 0x30 * 4, 0x0900 << 16 | 0x0020, 4);
    assert_int_equal(exec(r, 2, 0xcd, 0x30), NO_FAULT);
    assert_true(c->vm86);
    assert_int_equal(c->s.seg[SEG_CS].sel, 0x900);
    assert_int_equal(c->s.rip, 0x20);
    assert_int_equal(c->s.rflags & (FLAG_VIF | FLAG_IF), FLAG_IF);
    assert_int_equal(get(r, 0x10000 + 0xff00 - 2, 2), FLAG_IOPL | FLAG_IF | FLAG_FIXED);
    assert_int_equal(get(r, 0x10000 + 0xff00 - 6, 2), 0x102);
    assert_int_equal(exec(r, 1, 0xcf), NO_FAULT); /* 16-bit iret: IF goes to VIF */
    assert_int_equal(c->s.rflags & (FLAG_VIF | FLAG_IF | FLAG_IOPL), FLAG_VIF | FLAG_IF);
    assert_int_equal(c->s.rip, 0x102);
    assert_fault(r, EXC_GP, 0, 2, 0xcd, 0x31);
    assert_int_equal(exec(r, 1, 0xfa), NO_FAULT);
    assert_int_equal(c->s.rflags & (FLAG_VIF | FLAG_IF), FLAG_IF);
    c->s.rflags |= FLAG_VIP;
    assert_fault(r, EXC_GP, 0, 1, 0xfb);
    c->s.cr4 = 0;
}

/* ---- 64-bit mode ---- */

static void put_gate64(struct rig *r, unsigned vector, uint16_t sel, uint64_t off, unsigned ist) {
    put_gate(r, IDT + vector * 16, sel, (uint32_t)off, 0x8e00);
    put(r, IDT + vector * 16 + 4, ist, 1);
    put(r, IDT + vector * 16 + 8, off >> 32, 8);
}

static void test_long_interrupt(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    long_mode(r, 3);
    put_gate64(r, EXC_GP, CODE64_0, 0x9000, 2);
    put(r, TSS + 28 + 16, 0x1234f, 8);
    assert_int_equal(exec(r, 1, 0xf4), EXC_GP); /* hlt */
    deliver(r);
    assert_int_equal(c->s.rip, 0x9000);
    assert_int_equal(c->s.gpr[RSP], 0x12340 - 48);
    const uint64_t want[] = {0, CODE, CODE64_3 | 3, FLAG_FIXED | FLAG_RF, STACK3, DATA3 | 3};
    for (unsigned n = 0; n < ARRAY_LEN(want); n++)
        assert_int_equal(slot(r, n, 8), want[n]);
    assert_int_equal(c->s.seg[SEG_SS].sel, 0);
    assert_int_equal(c->cpl, 0);
    c->s.gpr[RSP] += 8;
    put(r, c->s.gpr[RSP], 1ull << 47, 8);
    assert_fault(r, EXC_GP, 0, 2, 0x48, 0xcf); /* not canonical */
    put(r, c->s.gpr[RSP], CODE, 8);
    assert_int_equal(exec(r, 2, 0x48, 0xcf), NO_FAULT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->s.gpr[RSP], STACK3);
    assert_true(c->s.rflags & FLAG_RF);
}

static void test_long_to_compat(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    const uint64_t frame[] = {0x12345, CODE3 | 3, FLAG_FIXED, 0x77778888, DATA3 | 3};
    long_mode(r, 0);
    c->s.gpr[RSP] = STACK0 - sizeof frame;
    memcpy(r->mem->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(exec(r, 2, 0x48, 0xcf), NO_FAULT);
    assert_int_equal(c->code_size, 32);
    assert_int_equal(c->s.rip, 0x12345);
    assert_int_equal(c->s.gpr[RSP], 0x77778888);
    long_mode(r, 0);
    c->s.rflags |= FLAG_NT;
    assert_fault(r, EXC_GP, 0, 2, 0x48, 0xcf);
}

static void test_long_null_stack(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    long_mode(r, 0);
    c->s.gpr[RAX] = 0;
    assert_int_equal(exec(r, 2, 0x8e, 0xd0), NO_FAULT); /* mov ss, eax */
    assert_int_equal(c->cpl, 0);
    c->s.gpr[RAX] = 1;
    assert_fault(r, EXC_GP, 0, 2, 0x8e, 0xd0);
    long_mode(r, 3);
    c->s.gpr[RAX] = 3;
    assert_fault(r, EXC_GP, 0, 2, 0x8e, 0xd0);
}

static void test_long_system_descriptors(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    long_mode(r, 0);
    put(r, GDT + TSS_A_SEL + 5, 0x89, 1);
    put(r, GDT + TSS_A_SEL + 8, 0xffff8000, 8);
    c->s.gpr[RAX] = TSS_A_SEL;
    assert_int_equal(exec(r, 3, 0x0f, 0x00, 0xd8), NO_FAULT); /* ltr ax */
    assert_int_equal(c->s.tr.base, 0xffff800000000000 + TSS);
    assert_int_equal(get(r, GDT + TSS_A_SEL + 5, 1), 0x8b);
    assert_fault(r, EXC_GP, TSS_A_SEL, 3, 0x0f, 0x00, 0xd8); /* busy */
    put(r, CODE, (uint64_t)TSS_B_SEL << 32, 8);
    assert_fault(r, EXC_GP, TSS_B_SEL, 7, 0xff, 0x2c, 0x25, 0, 0x80, 0, 0); /* no tasks here */
}

/* ---- tasks ---- */

static void put_task_b(struct rig *r) {
    static const uint16_t sregs[] = {DATA0, CODE0, DATA0, DATA0, 0, 0};
    memset(r->mem->ram + TSS_B, 0, 0x68);
    put(r, TSS_B + 0x20, 0xa000, 4);
    put(r, TSS_B + 0x24, FLAG_FIXED, 4);
    put(r, TSS_B + 0x28, 0xaaaa, 4);
    put(r, TSS_B + 0x38, 0x14000, 4);
    for (unsigned n = 0; n < 6; n++)
        put(r, TSS_B + 0x48 + n * 4, sregs[n], 2);
}

static void test_task_call(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    put_task_b(r);
    c->s.gpr[RAX] = 0x5555;
    assert_int_equal(exec(r, 7, 0x9a, 0, 0, 0, 0, TSS_B_SEL, 0), NO_FAULT);
    assert_int_equal(c->s.rip, 0xa000);
    assert_int_equal(c->s.gpr[RAX], 0xaaaa);
    assert_int_equal(c->s.tr.sel, TSS_B_SEL);
    assert_true(c->s.cr0 & CR0_TS);
    assert_true(c->s.rflags & FLAG_NT);
    assert_int_equal(get(r, TSS_B, 2), TSS_A_SEL);
    assert_int_equal(get(r, TSS + 0x20, 4), CODE + 7);
    assert_int_equal(get(r, TSS + 0x28, 4), 0x5555);
    assert_int_equal(get(r, GDT + TSS_A_SEL + 5, 1), 0x8b);
    assert_int_equal(get(r, GDT + TSS_B_SEL + 5, 1), 0x8b);
    assert_fault(r, EXC_GP, TSS_A_SEL, 7, 0xea, 0, 0, 0, 0, TSS_A_SEL, 0); /* busy */

    assert_int_equal(exec(r, 1, 0xcf), NO_FAULT); /* iret */
    assert_int_equal(c->s.rip, CODE + 7);
    assert_int_equal(c->s.gpr[RAX], 0x5555);
    assert_false(c->s.rflags & FLAG_NT);
    assert_false(get(r, TSS_B + 0x24, 4) & FLAG_NT);
    assert_int_equal(get(r, GDT + TSS_B_SEL + 5, 1), 0x89);
    assert_int_equal(get(r, TSS_B + 0x20, 4), 0xa001);
}

/* What is wrong with the new task's segments is the new task's fault. */
static void test_task_faults(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    put_task_b(r);
    put_desc(r, TSS_B_SEL, TSS_B, 0x66, 0x89);
    assert_fault(r, EXC_TS, TSS_B_SEL, 7, 0xea, 0, 0, 0, 0, TSS_B_SEL, 0);
    assert_int_equal(c->s.tr.sel, TSS_A_SEL);
    put_desc(r, TSS_B_SEL, TSS_B, 0x67, 0x89);
    put(r, TSS_B + 0x54, ABSENT, 2);
    assert_fault(r, EXC_NP, ABSENT, 7, 0xea, 0, 0, 0, 0, TSS_B_SEL, 0);
    assert_int_equal(c->s.tr.sel, TSS_B_SEL);
    assert_int_equal(c->s.rip, 0xa000);
    assert_int_equal(c->s.seg[SEG_SS].sel, DATA0);
    assert_int_equal(get(r, GDT + TSS_A_SEL + 5, 1), 0x89);
}

static void test_task_gate_error(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    put_task_b(r);
    put_gate(r, IDT + EXC_GP * 8, TSS_B_SEL, 0, 0x8500);
    assert_fault(r, EXC_GP, DATA0, 7, 0xea, 0, 0, 0, 0, DATA0, 0);
    deliver(r);
    assert_int_equal(c->s.rip, 0xa000);
    assert_int_equal(c->s.gpr[RSP], 0x14000 - 4);
    assert_int_equal(slot(r, 0, 4), DATA0);
    assert_int_equal(get(r, TSS + 0x20, 4), CODE);
    assert_true(get(r, TSS + 0x24, 4) & FLAG_RF);
}

static void test_io_map(void **state) {
    struct rig *r = *state;
    protected_mode(r, 3);
    put(r, TSS + 0x66, 0x100, 2);
    memset(r->mem->ram + TSS + 0x100, 0, 0x20);
    put(r, TSS + 0x100, 0x0180, 2); /* ports 7 and 8 are closed */
    r->c->s.tr.limit = 0x104;
    assert_true(task_io_allowed(r->c, 6, 1));
    assert_false(task_io_allowed(r->c, 6, 2));
    assert_false(task_io_allowed(r->c, 8, 1));
    assert_true(task_io_allowed(r->c, 9, 4));
    assert_true(task_io_allowed(r->c, 31, 1));
    assert_false(task_io_allowed(r->c, 32, 1)); /* its second byte lies outside */
    r->c->s.tr.attr = 0x83;                     /* a 16-bit TSS has no map */
    assert_false(task_io_allowed(r->c, 9, 1));
}

/* ---- flags ---- */

static void test_popf(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    static const struct {
        unsigned cpl, iopl, osize;
        uint32_t want;
    } cases[] = {
        {0, 0, 4, 0x247fd7}, {3, 0, 4, 0x244dd7}, {3, 3, 4, 0x247fd7},
        {0, 0, 2, 0x7fd7},   {3, 0, 2, 0x4dd7},
    };
    for (unsigned n = 0; n < ARRAY_LEN(cases); n++) {
        protected_mode(r, cases[n].cpl);
        cpu_set_flags(c, FLAG_FIXED | cases[n].iopl << 12);
        put(r, c->s.gpr[RSP], 0xffffffff, 4);
        int got = cases[n].osize == 4 ? exec(r, 1, 0x9d) : exec(r, 2, 0x66, 0x9d);
        assert_int_equal(got, NO_FAULT);
        assert_int_equal(cpu_flags(c), cases[n].want);
    }
}

static void test_cli_sti(void **state) {
    struct rig *r = *state;
    struct x86_cpu *c = r->c;
    protected_mode(r, 0);
    assert_int_equal(exec(r, 1, 0xfb), NO_FAULT);
    assert_true(c->s.shadow_sti && c->s.rflags & FLAG_IF);
    c->s.shadow_sti = false;
    assert_int_equal(exec(r, 1, 0xfb), NO_FAULT);
    assert_false(c->s.shadow_sti); /* was on already */
    protected_mode(r, 3);
    assert_fault(r, EXC_GP, 0, 1, 0xfa);
    c->s.cr4 = CR4_PVI;
    assert_int_equal(exec(r, 1, 0xfb), NO_FAULT);
    assert_int_equal(c->s.rflags & (FLAG_VIF | FLAG_IF), FLAG_VIF);
    c->s.rflags |= FLAG_VIP;
    assert_fault(r, EXC_GP, 0, 1, 0xfb);
    assert_int_equal(exec(r, 1, 0xfa), NO_FAULT);
    assert_int_equal(c->s.rflags & FLAG_VIF, 0);
    c->s.cr4 = 0;
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_data_loads),
        T(test_limits),
        T(test_looking_at_descriptors),
        T(test_call_gate),
        T(test_call_gate_faults),
        T(test_interrupt_inner),
        T(test_fault_frame),
        T(test_ext_bit),
        T(test_double_and_triple_fault),
        T(test_benign_first),
        T(test_v86_interrupt),
        T(test_v86_redirection),
        T(test_long_interrupt),
        T(test_long_to_compat),
        T(test_long_null_stack),
        T(test_long_system_descriptors),
        T(test_task_call),
        T(test_task_faults),
        T(test_task_gate_error),
        T(test_io_map),
        T(test_popf),
        T(test_cli_sti),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

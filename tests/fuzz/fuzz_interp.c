/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop that fetches, decodes and executes: one processor in one of its modes, with registers,
 * code and patches to its tables that come from the input. Instruction by instruction first, then
 * in blocks until it halts, crashes or has run for a moment.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    P_GDT = 0x1000,
    P_TSS = 0x1100,
    P_IDT32 = 0x1800,
    P_IDT64 = 0x2000,
    P_PD32 = 0x3000,
    P_PML4 = 0x4000,
    P_PDPT = 0x5000,
    P_PD = 0x6000,
    P_STOP = 0x7000, /* HLT, where all gates lead */
    P_STACK = 0x9000,
    P_CODE = 0x10000,
    RAM = 0x20000,
};
enum {
    SEL_CODE32 = 0x08,
    SEL_DATA = 0x10,
    SEL_CODE64 = 0x18,
    SEL_USER32 = 0x23,
    SEL_USER_DATA = 0x2b,
    SEL_USER64 = 0x33,
    SEL_TSS = 0x40,
};
enum { REAL, V86, FLAT32, USER32, PAGED32, COMPAT, LONG, USER64, MODES };

#define STEPS 64
#define TICK_NS 300000

/* How an input begins; then `code_len` bytes of code, then patches. */
struct __attribute__((packed)) input {
    uint8_t mode, cr4;
    uint32_t flags;
    uint32_t gpr[16];
    uint8_t code_len;
};
struct __attribute__((packed)) patch {
    uint16_t at; /* in units of two bytes */
    uint16_t value;
};

static struct {
    struct mem *mem;
    struct vcpu *v;
    struct x86_cpuid id;
    uint8_t pristine[RAM];
    _Atomic unsigned runs; /* odd while the processor runs */
} f;

static void put(size_t at, uint64_t v, size_t size) {
    memcpy(f.pristine + at, &v, size);
}

static void put_tables(void) {
    static const uint64_t gdt[] = {
        0,
        0x00cf9b000000ffff,
        0x00cf93000000ffff,
        0x00af9b000000ffff,
        0x00cffb000000ffff,
        0x00cff3000000ffff,
        0x00affb000000ffff,
        0x00009b000000ffff, /* 16-bit code */
        0x00008b0011000067,
        0, /* the TSS that is used */
        0x0000890011000067,
        0, /* and one to switch to */
        0x0000ec0000087000,
        0,                  /* a call gate */
        0x0000e50000500000, /* a task gate */
    };

    memcpy(f.pristine + P_GDT, gdt, sizeof(gdt));
    put(P_TSS + 4, P_STACK, 8); /* ESP0, SS0; RSP0 */
    put(P_TSS + 8, SEL_DATA, 2);
    for (unsigned i = 0; i < 256; i++) {
        put(i * 4, P_STOP >> 4 << 16, 4);
        put(P_IDT64 + i * 16, 0x00008e0000180000 | P_STOP, 8);
    }
    for (unsigned i = 0; i < 32; i++)
        put(P_IDT32 + i * 8, 0x00008e0000080000 | P_STOP, 8);
    put(P_PD32, 0x87, 4);
    put(P_PML4, P_PDPT | 7, 8);
    put(P_PDPT, P_PD | 7, 8);
    put(P_PD, 0x87, 8);
    f.pristine[P_STOP] = 0xf4;
}

static void *watch(void *arg) {
    unsigned last = 0;

    (void)arg;
    for (;;) {
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
        unsigned now = atomic_load(&f.runs);
        if (now == last && now & 1)
            vcpu_raise(f.v, VCPU_EVENT_STOP);
        last = now;
    }
    return NULL;
}

static void make_processor(void) {
    struct loop *loop = loop_new(NULL);
    struct clock *clock = loop ? clock_new(loop) : NULL;
    struct engine_vm_params p = {.clock = clock, .cpuid = &f.id, .vcpus = 1};
    pthread_t watcher;

    f.mem = p.mem = mem_new(RAM, 0, NULL);
    if (!clock || !f.mem || mem_add_ram(f.mem, GPA(0), RAM, 0, NULL) < 0 ||
        x86_cpuid_build(&f.id, "host", 1, NS_PER_S, NULL) < 0)
        abort();
    struct engine_vm *vm = engine_interp.vm_create(&p, NULL);
    f.v = vm ? engine_interp.vcpu_create(vm, 0, NULL) : NULL;
    if (!f.v || pthread_create(&watcher, NULL, watch, NULL) != 0)
        abort();
    put_tables();
}

static struct x86_seg segment(unsigned sel, uint32_t attr) {
    return (struct x86_seg){
        .limit = UINT32_MAX, .attr = attr | SEG_S | SEG_P | SEG_G, .sel = (uint16_t)sel};
}

static void set_segments(struct x86_state *s, unsigned mode) {
    bool user = mode == USER32 || mode == USER64, wide = mode >= COMPAT;
    bool long_code = mode == LONG || mode == USER64;
    unsigned code =
        user ? (long_code ? SEL_USER64 : SEL_USER32) : (long_code ? SEL_CODE64 : SEL_CODE32);
    uint32_t dpl = user ? SEG_DPL : 0;

    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(user ? SEL_USER_DATA : SEL_DATA, 0x3 | SEG_DB | dpl);
    s->seg[SEG_CS] = segment(code, 0xb | dpl | (long_code ? SEG_L : SEG_DB));
    s->tr = (struct x86_seg){P_TSS, 0x67, 0xb | SEG_P, SEL_TSS};
    s->gdtr = (struct x86_dtr){P_GDT, 0xff};
    s->idtr = (struct x86_dtr){wide ? P_IDT64 : P_IDT32, wide ? 0xfff : 0xff};
}

static void set_v86(struct x86_state *s) {
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = (struct x86_seg){i == SEG_CS ? P_CODE : 0, 0xffff,
                                     0x3 | SEG_S | SEG_DPL | SEG_P, i == SEG_CS ? P_CODE >> 4 : 0};
    s->rflags |= FLAG_VM;
}

static void set_mode(struct x86_state *s, unsigned mode) {
    s->rip = P_CODE;
    if (mode == REAL) {
        s->seg[SEG_CS].base = P_CODE;
        s->seg[SEG_CS].sel = P_CODE >> 4;
        s->rip = 0;
        return;
    }
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM;
    set_segments(s, mode);
    if (mode == V86) {
        set_v86(s);
        s->rip = 0;
    } else if (mode == PAGED32) {
        s->cr0 |= CR0_PG;
        s->cr3 = P_PD32;
        s->cr4 |= CR4_PSE;
    } else if (mode >= COMPAT) {
        s->cr0 |= CR0_PG;
        s->cr3 = P_PML4;
        s->cr4 |= CR4_PAE;
        s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    }
}

static void set_up(const struct input *in, const uint8_t *code, const uint8_t *patches, size_t n) {
    struct x86_state s;
    struct patch p;

    x86_state_reset(&s, true);
    memcpy(f.mem->ram, f.pristine, RAM);
    memcpy(f.mem->ram + P_CODE, code, in->code_len);
    for (; n >= sizeof(p); n -= sizeof(p), patches += sizeof(p)) {
        memcpy(&p, patches, sizeof(p));
        memcpy(f.mem->ram + 2 * p.at, &p.value, 2);
    }
    mem_wrote(f.mem, f.mem->ram, RAM);
    s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE |
            (in->cr4 & (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE));
    s.xcr0 = f.id.xcr0_mask;
    s.rflags =
        FLAG_FIXED | (in->flags & (FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC));
    for (unsigned i = 0; i < 16; i++)
        s.gpr[i] = (uint64_t)(int32_t)in->gpr[i];
    set_mode(&s, in->mode % MODES);
    f.v->ops->set_state(f.v, &s);
}

static enum vcpu_reason run(void) {
    struct vcpu_exit x;

    atomic_fetch_add(&f.runs, 1);
    f.v->ops->run(f.v, &x);
    atomic_fetch_add(&f.runs, 1);
    atomic_fetch_and(&f.v->events, ~(uint32_t)VCPU_EVENT_STOP);
    return x.reason;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct engine_debug stepping = {.active = true, .step = true}, free_running;
    struct input in;

    if (!f.v)
        make_processor();
    if (size < sizeof(in))
        return 0;
    memcpy(&in, data, sizeof(in));
    data += sizeof(in);
    size -= sizeof(in);
    in.code_len = (uint8_t)MIN(in.code_len, size);
    f.v->ops->set_debug(f.v, &stepping);
    set_up(&in, data, data + in.code_len, size - in.code_len);
    for (unsigned i = 0; i < STEPS && run() == VCPU_DEBUG; i++)
        ;
    f.v->ops->set_debug(f.v, &free_running);
    set_up(&in, data, data + in.code_len, size - in.code_len);
    run();
    return 0;
}

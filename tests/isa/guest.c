/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a case on the engine: a machine of one vCPU and 2 MiB whose page tables show the case the
 * same user addresses as native.c maps, at CPL 3. Each of the 256 gates leads to a HLT of its own,
 * so run() comes back as soon as the case ends, and the frame on the kernel's stack tells the rest.
 */
#include "isa.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "cpu/engine.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

/* Guest-physical addresses; all of it is also mapped at KERNEL for CPL 0. */
enum {
    P_PML4 = 0x1000,
    P_PDPT = 0x2000,
    P_PD = 0x3000,
    P_PT = 0x4000,
    P_PT_LOW = 0x5000,
    P_PD_TOP = 0x10000,
    P_PT_TOP = 0x11000,
    P_PDPT_K = 0x6000,
    P_PD_K = 0x7000,
    P_GDT = 0x8000,
    P_TSS = 0x9000,
    P_IDT = 0xa000,
    P_GATES = 0xb000,
    P_STACK = 0xf000, /* grows down from its end */
    P_STACK_END = 0x10000,
    P_CODE = 0x100000,
    P_DATA = 0x110000,
    P_RO = 0x112000,
    P_LOW = 0x120000,
    P_TOP = 0x121000,
    RAM = 0x200000,
};
#define KERNEL 0xffff800000000000ull
#define SEL_KERNEL_CS 0x10
#define SEL_TSS 0x40
#define GATE_BYTES 16

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };
#define PTE_NX (1ull << 63)
#define PTE_DIR (PTE_P | PTE_W | PTE_U | PTE_A)

static struct {
    const struct engine_ops *engine;
    struct mem *mem;
    uint8_t *ram;
    struct vcpu *v;
    struct x86_state base;
} guest;

static void put64(uint64_t at, uint64_t v) {
    memcpy(guest.ram + at, &v, 8);
}

static void map_pages(uint64_t pt, uint64_t va, uint64_t pa, uint64_t size, uint64_t flags) {
    for (uint64_t off = 0; off < size; off += PAGE_SIZE)
        put64(pt + ((va + off) >> 12 & 511) * 8, (pa + off) | flags | PTE_P | PTE_U | PTE_A);
}

static void build_page_tables(bool low) {
    put64(P_PML4, P_PDPT | PTE_DIR);
    put64(P_PML4 + 256 * 8, P_PDPT_K | PTE_DIR);
    put64(P_PDPT, P_PD | PTE_DIR);
    put64(P_PD, P_PT_LOW | PTE_DIR);
    put64(P_PD + (CODE_BASE >> 21) * 8, P_PT | PTE_DIR);
    map_pages(P_PT, CODE_BASE, P_CODE, CODE_SIZE, 0);
    map_pages(P_PT, DATA_BASE, P_DATA, DATA_SIZE, PTE_W | PTE_D | PTE_NX);
    map_pages(P_PT, RO_BASE, P_RO, RO_SIZE, PTE_NX);
    put64(P_PDPT + 3 * 8, P_PD_TOP | PTE_DIR);
    put64(P_PD_TOP + 511 * 8, P_PT_TOP | PTE_DIR);
    map_pages(P_PT_TOP, TOP_BASE, P_TOP, TOP_SIZE, PTE_W | PTE_D | PTE_NX);
    if (low)
        map_pages(P_PT_LOW, LOW_BASE, P_LOW, LOW_SIZE, PTE_W | PTE_D | PTE_NX);
    put64(P_PDPT_K, P_PD_K | PTE_DIR);
    put64(P_PD_K, PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
}

static void build_tables(void) {
    put64(P_GDT + 0x10, 0x00af9b000000ffff);
    put64(P_GDT + 0x18, 0x00cf93000000ffff);
    put64(P_GDT + 0x20, 0x00cffb000000ffff);
    put64(P_GDT + 0x28, 0x00cff3000000ffff);
    put64(P_GDT + 0x30, 0x00affb000000ffff);
    uint64_t tss = KERNEL + P_TSS;
    put64(P_GDT + SEL_TSS, 0x0000890000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
    put64(P_GDT + SEL_TSS + 8, tss >> 32);
    put64(P_TSS + 4, KERNEL + P_STACK_END);
    memcpy(guest.ram + P_TSS + 102, &(uint16_t){104}, 2); /* no I/O permission bitmap */
    for (unsigned i = 0; i < 256; i++) {
        uint64_t to = KERNEL + P_GATES + i * GATE_BYTES;
        uint64_t dpl = i == EXC_BP || i == EXC_OF ? 3 : 0;
        put64(P_IDT + i * 16, (to & 0xffff) | SEL_KERNEL_CS << 16 | (0x8e00 | dpl << 13) << 32 |
                                  (to >> 16 & 0xffff) << 48);
        put64(P_IDT + i * 16 + 8, to >> 32);
        guest.ram[P_GATES + i * GATE_BYTES] = 0xf4;
    }
    memset(guest.ram + P_CODE, 0xcc, CODE_SIZE);
}

static struct x86_seg segment(uint16_t sel, uint32_t attr) {
    return (struct x86_seg){.limit = 0xffffffff, .attr = attr, .sel = sel};
}

static void build_state(const struct x86_cpuid *id, uint64_t fs_base) {
    struct x86_state *s = &guest.base;
    x86_state_reset(s, true);
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(SEL_USER_DS, 0x3 | SEG_S | SEG_DPL | SEG_P | SEG_DB | SEG_G);
    s->seg[SEG_FS] = (struct x86_seg){.base = fs_base, .attr = SEG_UNUSABLE};
    s->seg[SEG_GS] = (struct x86_seg){.base = GS_BASE, .attr = SEG_UNUSABLE};
    s->ldtr = (struct x86_seg){.attr = SEG_UNUSABLE};
    s->tr = (struct x86_seg){KERNEL + P_TSS, 0x67, 0xb | SEG_P, SEL_TSS};
    s->gdtr = (struct x86_dtr){KERNEL + P_GDT, 0x4f};
    s->idtr = (struct x86_dtr){KERNEL + P_IDT, 0xfff};
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = P_PML4;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
    s->xcr0 = id->xcr0_mask & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
}

int guest_init(const struct engine_ops *engine, const struct x86_cpuid *id, uint64_t fs_base,
               bool low) {
    guest.engine = engine;
    cleanup_err struct err e = ERR_INIT;
    struct loop *loop = loop_new(&e);
    struct clock *clock = loop ? clock_new(loop) : NULL;
    guest.mem = mem_new(RAM, 0, &e);
    if (!clock || !guest.mem || mem_add_ram(guest.mem, GPA(0), RAM, 0, &e))
        goto failed;
    guest.ram = guest.mem->ram;
    build_page_tables(low);
    build_tables();
    build_state(id, fs_base);
    struct engine_vm_params p = {.mem = guest.mem, .clock = clock, .cpuid = id, .vcpus = 1};
    struct engine_vm *vm = guest.engine->vm_create(&p, &e);
    guest.v = vm ? guest.engine->vcpu_create(vm, 0, &e) : NULL;
    if (guest.v)
        return 0;
failed:
    fprintf(stderr, "isa: %s\n", err_msg(&e));
    return -1;
}

static void put_fpu(struct x86_fpu *f, const struct isa_state *s) {
    f->fcw = s->fcw;
    f->fsw = s->fsw;
    f->ftw = s->ftw;
    f->fop = s->fop;
    f->fip = s->fip;
    f->fdp = s->fdp;
    f->mxcsr = s->mxcsr;
    memcpy(f->st, s->st, sizeof f->st);
    for (unsigned i = 0; i < 16; i++)
        memcpy(f->zmm[i], s->ymm[i], 32);
}

static void get_fpu(const struct x86_fpu *f, struct isa_state *s) {
    s->fcw = f->fcw;
    s->fsw = f->fsw;
    s->ftw = f->ftw;
    s->fop = f->fop;
    s->fip = f->fip;
    s->fdp = f->fdp;
    s->mxcsr = f->mxcsr;
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], f->st[i], 10);
        memset(s->st[i] + 10, 0, 6);
    }
    for (unsigned i = 0; i < 16; i++)
        memcpy(s->ymm[i], f->zmm[i], 32);
}

static bool pushes_error(unsigned vector) {
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* Reads the exception's frame off the kernel's stack, which RSP points to. */
static void get_frame(struct isa_result *r, const struct x86_state *s) {
    uint64_t rsp = s->gpr[RSP] - KERNEL, gate = s->rip - KERNEL - P_GATES;
    if (gate >= 256 * GATE_BYTES || gate % GATE_BYTES > 1 || rsp < P_STACK ||
        rsp > P_STACK_END - 40) {
        r->failure = "no exception was delivered";
        return;
    }
    uint64_t frame[6] = {0};
    r->vector = (uint32_t)(gate / GATE_BYTES);
    unsigned skip = pushes_error(r->vector) ? 0 : 1;
    memcpy(frame + skip, guest.ram + rsp, (6 - skip) * 8);
    r->error = (uint32_t)frame[0];
    r->s.rip = frame[1];
    r->s.rflags = frame[3];
    r->s.gpr[RSP] = frame[4];
    r->cr2 = s->cr2;
}

static const char *const reason_names[] = {
    [VCPU_KICKED] = "kicked", [VCPU_HALT] = "halt", [VCPU_SHUTDOWN] = "shutdown (triple fault)",
    [VCPU_DEBUG] = "debug",   [VCPU_IO] = "io",     [VCPU_MMIO] = "mmio",
    [VCPU_FAILED] = "failed",
};

/*
 * The state without what set_state() forgets: an engine that translates goes its fast ways only
 * with what it learned from the run before.
 */
static void put_state_warm(const struct x86_state *s) {
    struct x86_cpu *c = (struct x86_cpu *)(void *)guest.v;
    c->s = *s;
    c->s.zero = 0;
    cpu_set_flags(c, s->rflags);
    cpu_update_mode(c);
}

static void load_case(const struct isa_case *c, const struct isa_memory *before, uint64_t off,
                      size_t n, bool warm) {
    memcpy(guest.ram + P_DATA, before->data, DATA_SIZE);
    memcpy(guest.ram + P_RO, before->ro, RO_SIZE);
    memcpy(guest.ram + P_LOW, before->low, LOW_SIZE);
    memcpy(guest.ram + P_TOP, before->top, TOP_SIZE);
    memcpy(guest.ram + P_CODE + off, c->code, n);
    mem_wrote(guest.mem, guest.ram + P_CODE + off, n);
    struct x86_state s = guest.base;
    memcpy(s.gpr, c->in.gpr, sizeof s.gpr);
    s.rip = c->in.rip;
    s.rflags = c->in.rflags;
    uint32_t db = c->form->mode32 ? SEG_DB : SEG_L;
    s.seg[SEG_CS] = segment(c->form->mode32 ? SEL_USER32_CS : SEL_USER_CS,
                            0xb | SEG_S | SEG_DPL | SEG_P | SEG_G | db);
    put_fpu(&s.fpu, &c->in);
    if (warm)
        put_state_warm(&s);
    else
        guest.engine->set_state(guest.v, &s);
}

void guest_run(const struct isa_case *c, const struct isa_memory *before, struct isa_result *out,
               struct isa_memory *after) {
    uint64_t off = c->in.rip - CODE_BASE;
    size_t n = off + c->len > CODE_SIZE ? CODE_SIZE - off : c->len;
    struct vcpu_exit x;
    load_case(c, before, off, n, false);
    guest.engine->run(guest.v, &x);
    if (guest.engine != &engine_interp) {
        load_case(c, before, off, n, true);
        guest.engine->run(guest.v, &x);
    }
    struct x86_state s;
    guest.engine->get_state(guest.v, &s);
    memset(out, 0, sizeof *out);
    memcpy(out->s.gpr, s.gpr, sizeof s.gpr);
    get_fpu(&s.fpu, &out->s);
    if (x.reason == VCPU_HALT)
        get_frame(out, &s);
    else
        out->failure = reason_names[x.reason];
    memset(guest.ram + P_CODE + off, 0xcc, n);
    mem_wrote(guest.mem, guest.ram + P_CODE + off, n);
    memcpy(after->data, guest.ram + P_DATA, DATA_SIZE);
    memcpy(after->low, guest.ram + P_LOW, LOW_SIZE);
    memcpy(after->top, guest.ram + P_TOP, TOP_SIZE);
}

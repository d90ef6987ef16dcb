/* SPDX-License-Identifier: Apache-2.0 */
/* The machine of a lockstep guest: 2 MiB, one vCPU, page tables, the kernel of kernel.S. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/cpuid.h"
#include "lockstep.h"
#include "mem/mem.h"

#define SEL_KERNEL_CS 0x10
#define SEL_KERNEL_SS 0x18
#define SEL_USER_DS 0x2b
#define SEL_USER_CS 0x33
#define SEL_TSS 0x40
#define HANG_SECONDS 4

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };
#define PTE_DIR (PTE_P | PTE_W | PTE_U | PTE_A)

extern const uint8_t lockstep_kernel[], lockstep_kernel_end[], lockstep_system_call[];

struct machine_side {
    const struct engine_ops *engine;
    struct mem *mem;
    struct vcpu *v;
};

/* ---- what is in memory ---- */

static void put64(uint8_t *ram, uint64_t at, uint64_t v) {
    memcpy(ram + at, &v, 8);
}

static void page_tables(uint8_t *ram) {
    put64(ram, P_PML4, P_PDPT | PTE_DIR);
    put64(ram, P_PML4 + 256 * 8, P_PDPT_K | PTE_DIR);
    put64(ram, P_PDPT, P_PD | PTE_DIR);
    put64(ram, P_PD + (WINDOW >> 21) * 8, P_PT | PTE_DIR);
    put64(ram, P_PD + ((WINDOW + ALIAS) >> 21) * 8, P_PT | PTE_DIR);
    for (uint64_t n = 0; n < HOLE_PAGE; n++)
        put64(ram, P_PT + n * 8, (P_WINDOW + (n << 12)) | PTE_DIR);
    put64(ram, P_PDPT_K, P_PD_K | PTE_DIR);
    put64(ram, P_PD_K, PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
}

static void descriptors(uint8_t *ram) {
    uint64_t tss = KERNEL + P_TSS;
    put64(ram, P_GDT + 0x10, 0x00af9b000000ffff);
    put64(ram, P_GDT + 0x18, 0x00cf93000000ffff);
    put64(ram, P_GDT + 0x20, 0x00cffb000000ffff);
    put64(ram, P_GDT + 0x28, 0x00cff3000000ffff);
    put64(ram, P_GDT + 0x30, 0x00affb000000ffff);
    put64(ram, P_GDT + SEL_TSS,
          0x0000890000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
    put64(ram, P_GDT + SEL_TSS + 8, tss >> 32);
    put64(ram, P_TSS + 4, KERNEL + P_STACK_END);
    memcpy(ram + P_TSS + 102, &(uint16_t){104}, 2); /* no I/O permission bitmap */
    for (uint64_t i = 0; i < 256; i++) {
        uint64_t to = KERNEL + P_KERNEL + i * 16;
        uint64_t dpl = i == EXC_BP || i == EXIT_VECTOR ? 3 : 0;
        put64(ram, P_IDT + i * 16,
              (to & 0xffff) | SEL_KERNEL_CS << 16 | (0x8e00 | dpl << 13) << 32 |
                  (to >> 16 & 0xffff) << 48);
        put64(ram, P_IDT + i * 16 + 8, to >> 32);
    }
}

void machine_image(uint8_t *ram) {
    page_tables(ram);
    descriptors(ram);
    memcpy(ram + P_KERNEL, lockstep_kernel, (size_t)(lockstep_kernel_end - lockstep_kernel));
    put64(ram, P_LOG, KERNEL + P_LOG + 16);
}

static struct x86_seg segment(uint16_t sel, uint32_t attr) {
    return (struct x86_seg){.limit = 0xffffffff, .attr = attr | SEG_S | SEG_P | SEG_G, .sel = sel};
}

void machine_state(struct x86_state *s, const struct x86_cpuid *id, bool user, bool smap) {
    uint32_t dpl = user ? SEG_DPL : 0;
    x86_state_reset(s, true);
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(SEL_USER_DS, 0x3 | SEG_DPL | SEG_DB);
    s->seg[SEG_SS] = segment(user ? SEL_USER_DS : SEL_KERNEL_SS, 0x3 | dpl | SEG_DB);
    s->seg[SEG_CS] = segment(user ? SEL_USER_CS : SEL_KERNEL_CS, 0xb | dpl | SEG_L);
    s->ldtr = (struct x86_seg){.attr = SEG_UNUSABLE};
    s->tr = (struct x86_seg){KERNEL + P_TSS, 0x67, 0xb | SEG_P, SEL_TSS};
    s->gdtr = (struct x86_dtr){KERNEL + P_GDT, 0x4f};
    s->idtr = (struct x86_dtr){KERNEL + P_IDT, 0xfff};
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = P_PML4;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | (smap ? CR4_SMAP : 0);
    s->xcr0 = id->xcr0_mask & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->msr.star = (uint64_t)SEL_KERNEL_CS << 32 | (uint64_t)(SEL_USER_DS - 8) << 48;
    s->msr.lstar = KERNEL + P_KERNEL + (uint64_t)(lockstep_system_call - lockstep_kernel);
    s->msr.sfmask = FLAG_TF | FLAG_DF;
}

/* ---- running ---- */

static struct vcpu *_Atomic on_watch;

/* A program ends within milliseconds; one that hangs is brought back here. */
static void on_alarm(int sig) {
    (void)sig;
    struct vcpu *v = atomic_load(&on_watch);
    if (!v)
        return;
    atomic_fetch_or(&v->events, VCPU_EVENT_STOP);
    v->ops->kick(v);
}

static void watch(struct vcpu *v) {
    struct itimerval t = {.it_value.tv_sec = v ? HANG_SECONDS : 0};
    atomic_store(&on_watch, v);
    setitimer(ITIMER_REAL, &t, NULL);
}

struct machine_side *side_new(const struct engine_ops *engine, const struct x86_cpuid *id) {
    struct machine_side *m = xcalloc(1, sizeof *m);
    cleanup_err struct err e = ERR_INIT;
    struct loop *loop = loop_new(&e);
    struct clock *clock = loop ? clock_new(loop) : NULL;
    struct engine_vm *vm = NULL;
    m->engine = engine;
    m->mem = mem_new(RAM, 0, &e);
    if (clock && m->mem && mem_add_ram(m->mem, GPA(0), RAM, 0, &e) == 0) {
        struct engine_vm_params p = {.mem = m->mem, .clock = clock, .cpuid = id, .vcpus = 1};
        vm = engine->vm_create(&p, &e);
    }
    m->v = vm ? engine->vcpu_create(vm, 0, &e) : NULL;
    if (!m->v) {
        fprintf(stderr, "lockstep: %s\n", err_msg(&e));
        exit(2);
    }
    /* On a stack of its own: RSP may be the guest's. */
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    return m;
}

uint8_t *side_ram(struct machine_side *m) {
    return m->mem->ram;
}

static void load_image(struct machine_side *m, const uint8_t *image) {
    for (uint64_t at = 0; at < RAM; at += PAGE_SIZE) {
        if (memcmp(m->mem->ram + at, image + at, PAGE_SIZE) == 0)
            continue;
        memcpy(m->mem->ram + at, image + at, PAGE_SIZE);
        mem_wrote(m->mem, m->mem->ram + at, PAGE_SIZE);
    }
}

/* set_state() forgets all that the engine knows. */
static void load_warm(struct machine_side *m, const struct x86_state *s, bool flush) {
    struct x86_cpu *c = (struct x86_cpu *)(void *)m->v;
    c->s = *s;
    c->s.zero = 0;
    c->dr6_pending = 0;
    cpu_set_flags(c, s->rflags);
    if (flush)
        mmu_flush_all(c);
    cpu_update_mode(c);
}

void side_load(struct machine_side *m, const uint8_t *image, const struct x86_state *s,
               enum side_memory how) {
    load_image(m, image);
    if (how == SIDE_NEW)
        m->engine->set_state(m->v, s);
    else
        load_warm(m, s, how == SIDE_FLUSHED);
}

const char *side_run(struct machine_side *m, struct x86_state *s) {
    struct vcpu_exit x;
    atomic_store(&m->v->events, 0);
    watch(m->v);
    m->engine->run(m->v, &x);
    watch(NULL);
    m->engine->get_state(m->v, s);
    switch (x.reason) {
    case VCPU_HALT:
        return NULL;
    case VCPU_SHUTDOWN:
        return "triple fault";
    case VCPU_KICKED:
        return "no end";
    case VCPU_FAILED:
        return x.why;
    default:
        return "a reason that no program gives";
    }
}

uint64_t side_icount(const struct machine_side *m) {
    return m->engine->icount(m->v);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one instruction of user code on the processor itself and in the reference engine, from the
 * same state on the same memory: linear addresses of the engine's vCPU are host addresses. For the
 * tests of the vector, x87 and XSAVE families.
 */
#ifndef RINGFENCE_TESTS_NATIVE_H
#define RINGFENCE_TESTS_NATIVE_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cpuid.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/thunk.h"

#define NATIVE_CODE                                                                                \
    2048 /* of the page of generated code; behind it lies what it loads and stores */

struct native_frame {
    _Alignas(64) uint8_t in[832], out[832];
    uint64_t gpr[16], gpr_out[16];
    uint64_t flags, flags_out, rsp;
    uint32_t mxcsr;
};

static uint8_t *native_page;
static sigjmp_buf native_jmp;
static volatile sig_atomic_t native_running;

static struct native_frame *native_frame(void) {
    return (struct native_frame *)(void *)(native_page + NATIVE_CODE);
}

/* ---- random values ---- */

static uint64_t native_seed = 0x9e3779b97f4a7c15u;

static uint64_t rnd(void) {
    native_seed ^= native_seed << 13;
    native_seed ^= native_seed >> 7;
    native_seed ^= native_seed << 17;
    return native_seed * 0x2545f4914f6cdd1du >> 8 | native_seed << 56;
}

static unsigned rnd_below(unsigned n) {
    return (unsigned)(rnd() >> 16) % n;
}

/* Eight bytes that arithmetic finds interesting. */
static uint64_t rnd_value(void) {
    static const uint64_t special[] = {
        0,
        1,
        0x8000000000000000u,
        0x3ff0000000000000u,
        0x7ff0000000000000u,
        0xfff8000000000001u,
        0x7ff0000000000001u,
        0x000fffffffffffffu,
        0x3f80000040000000u,
        0x7f800000ff800000u,
        0x7fc000007f800001u,
        0x00000001807fffffu,
        0x7fefffffffffffffu,
        0x7f7fffff00800000u,
        0x41dfffffffc00000u,
        0x43e0000000000000u,
        0x4f0000004effffffu,
        0x7fff7fff80008000u,
    };
    switch (rnd_below(4)) {
    case 0:
        return special[rnd_below(sizeof special / sizeof special[0])];
    case 1: /* floats near one */
        return (rnd() & 0x83ffffff83ffffffu) | 0x3c0000003c000000u;
    default:
        return rnd();
    }
}

static void rnd_fill(void *p, size_t n) {
    for (size_t off = 0; off < n; off += 8) {
        uint64_t v = rnd_value();
        memcpy((uint8_t *)p + off, &v, n - off < 8 ? n - off : 8);
    }
}

/* ---- natively ---- */

/* The vector and x87 state that the fault left: the signal frame has it in XSAVE's format, its size
 * behind a magic number (Linux, asm/sigcontext.h). */
static void native_keep_fpu(const void *fpregs) {
    uint8_t *out = native_frame()->out;
    uint32_t magic, size;
    memcpy(&magic, (const uint8_t *)fpregs + 464, 4);
    memcpy(&size, (const uint8_t *)fpregs + 468, 4);
    memset(out, 0, 832);
    memcpy(out, fpregs, magic != 0x46505853 ? 512 : size - 4 < 832 ? size - 4 : 832);
}

static void native_signal(int sig, siginfo_t *info, void *context) {
    const ucontext_t *uc = context;
    (void)info;
    if (!native_running) {
        signal(sig, SIG_DFL);
        return;
    }
    native_keep_fpu(uc->uc_mcontext.fpregs);
    siglongjmp(native_jmp, sig);
}

static struct sigaction native_sigfpe; /* the thunks' handler, on top of ours */

static void native_init(void) {
    struct sigaction sa = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct thunk_key nop = {.code = {0x90}, .len = 1};
    native_page =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(native_page != MAP_FAILED);
    sigaction(SIGFPE, &sa, NULL);
    assert_non_null(thunk_get(&nop));
    sigaction(SIGFPE, NULL, &native_sigfpe);
}

/* At the start of a test: cmocka has its own handlers in place by then. */
static void native_arm(void) {
    struct sigaction sa = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    sigaction(SIGFPE, &native_sigfpe, NULL);
}

static inline bool native_has_avx2(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static uint8_t *native_put(uint8_t *p, const char *bytes, size_t n) {
    memcpy(p, bytes, n);
    return p + n;
}

#define PUT(p, s) native_put(p, s, sizeof(s) - 1)

/* An instruction whose ModRM is [rip + disp32] of a frame's field. */
static uint8_t *native_rip(uint8_t *p, const char *op, size_t n, unsigned reg, const void *field) {
    p = native_put(p, op, n);
    *p++ = (uint8_t)(reg << 3 | 5);
    int32_t disp = (int32_t)((const uint8_t *)field - (p + 4));
    memcpy(p, &disp, 4);
    return p + 4;
}

#define RIP(p, s, reg, field) native_rip(p, s, sizeof(s) - 1, reg, field)

static uint8_t *native_gprs(uint8_t *p, const char *op, uint64_t *regs) {
    for (unsigned n = 0; n < 16; n++)
        if (n != RSP)
            p = native_rip(p, (char[]){(char)(n < 8 ? 0x48 : 0x4c), op[0]}, 2, n & 7, &regs[n]);
    return p;
}

/* Writes the code; returns the address of the instruction in it. */
static const uint8_t *native_write(const uint8_t *insn, unsigned len) {
    struct native_frame *f = native_frame();
    uint8_t *p = native_page;
    p = PUT(p, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57");
    p = RIP(p, "\x48\x89", RSP, &f->rsp);
    p = RIP(p, "\x0f\xae", 3, &f->mxcsr);
    p = PUT(p, "\xb8\x07\0\0\0\x31\xd2");
    p = RIP(p, "\x48\x0f\xae", 5, f->in);
    p = RIP(p, "\xff", 6, &f->flags);
    p = PUT(p, "\x9d");
    p = native_gprs(p, "\x8b", f->gpr);
    const uint8_t *at = p;
    memcpy(p, insn, len);
    p = native_gprs(p + len, "\x89", f->gpr_out);
    p = RIP(p, "\x48\x8b", RSP, &f->rsp);
    p = PUT(p, "\x9c");
    p = RIP(p, "\x8f", 0, &f->flags_out);
    p = PUT(p, "\xb8\x07\0\0\0\x31\xd2");
    p = RIP(p, "\x48\x0f\xae", 4, f->out);
    p = PUT(p, "\xdb\xe3\xc5\xf8\x77\xfc");
    p = RIP(p, "\x0f\xae", 2, &f->mxcsr);
    PUT(p, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
    return at;
}

static bool native_zero(const uint8_t *p, size_t n) {
    while (n && *p == 0)
        p++, n--;
    return n == 0;
}

/* XSTATE_BV: what is in its initial configuration is loaded as such, so that the processor knows
 * that it is. */
static uint8_t native_in_use(const uint8_t *area) {
    static const uint8_t fcw_init[2] = {0x7f, 3};
    bool x87 = memcmp(area, fcw_init, 2) != 0 || !native_zero(area + 2, 22) ||
               !native_zero(area + 32, 128);
    return (uint8_t)(x87 | !native_zero(area + 160, 256) << 1 | !native_zero(area + 576, 256) << 2);
}

static void native_load_fpu(uint8_t *area, const struct x86_fpu *f) {
    memset(area, 0, 832);
    memcpy(area, &f->fcw, 2);
    memcpy(area + 2, &f->fsw, 2);
    area[4] = f->ftw;
    memcpy(area + 6, &f->fop, 2);
    memcpy(area + 8, &f->fip, 8);
    memcpy(area + 16, &f->fdp, 8);
    memcpy(area + 24, &f->mxcsr, 4);
    memcpy(area + 32, f->st, 128);
    for (unsigned n = 0; n < 16; n++) {
        memcpy(area + 160 + 16 * n, f->zmm[n], 16);
        memcpy(area + 576 + 16 * n, f->zmm[n] + 16, 16);
    }
    area[512] = native_in_use(area);
}

static void native_store_fpu(const uint8_t *area, struct x86_fpu *f) {
    memcpy(&f->fcw, area, 2);
    memcpy(&f->fsw, area + 2, 2);
    f->ftw = area[4];
    memcpy(&f->fop, area + 6, 2);
    memcpy(&f->fip, area + 8, 8);
    memcpy(&f->fdp, area + 16, 8);
    memcpy(&f->mxcsr, area + 24, 4);
    memcpy(f->st, area + 32, 128);
    for (unsigned n = 0; n < 16; n++) {
        memcpy(f->zmm[n], area + 160 + 16 * n, 16);
        memcpy(f->zmm[n] + 16, area + 576 + 16 * n, 16);
    }
}

/* Runs it on the processor and updates `s`. Returns 0, or the signal, and then changes nothing but
 * the vector and x87 state. */
static int native_run(struct x86_state *s, const uint8_t *insn, unsigned len) {
    struct native_frame *f = native_frame();
    const uint8_t *at = native_write(insn, len);
    s->rip = (uintptr_t)at;
    native_load_fpu(f->in, &s->fpu);
    memcpy(f->gpr, s->gpr, sizeof f->gpr);
    f->flags = s->rflags | 2;
    int sig = sigsetjmp(native_jmp, 1);
    if (sig == 0) {
        native_running = 1;
        ((void (*)(void))(void *)native_page)();
        native_running = 0;
        uint64_t rsp = s->gpr[RSP];
        memcpy(s->gpr, f->gpr_out, sizeof s->gpr);
        s->gpr[RSP] = rsp;
        s->rflags = f->flags_out & FLAG_ARITH;
        native_store_fpu(f->out, &s->fpu);
        return 0;
    }
    native_running = 0;
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(f->mxcsr));
    native_store_fpu(f->out, &s->fpu);
    return sig;
}

/* ---- in the engine ---- */

static struct x86_cpuid native_cpuid;
static _Atomic uint8_t native_page_flags[64];

static void engine_features(struct x86_cpuid *id) {
    unsigned a = 0, b = 0, c, d;
    memset(id, 0, sizeof *id);
    memset(id->features, 0xff, sizeof id->features);
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    id->features[FW_7_EBX] = b;
    id->xcr0_mask = 7;
    __get_cpuid(0x80000008, &a, &b, &c, &d);
    id->virt_bits = a >> 8 & 0xff;
}

/* `ram` is what the vCPU may access: up to 64 pages, page-aligned. */
static struct x86_cpu *engine_new(void *ram, unsigned pages) {
    struct x86_cpu *c = NULL;
    assert_int_equal(posix_memalign((void **)&c, 64, sizeof *c), 0);
    memset(c, 0, sizeof *c);
    engine_features(&native_cpuid);
    c->cpuid = &native_cpuid;
    c->s.cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP;
    c->s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->s.efer = EFER_LME | EFER_LMA;
    c->s.xcr0 = 7;
    c->s.seg[SEG_CS].attr = SEG_P | SEG_S | SEG_L | 0xb;
    c->s.seg[SEG_SS].attr = SEG_P | SEG_S | SEG_DB | 3;
    c->asid = 1ull << 52;
    cpu_update_mode(c);
    memset(c->tlbs, 0, sizeof c->tlbs);
    for (unsigned k = 0; k < TLB_COUNT; k++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            c->tlbs[k][n] = (struct tlb_entry){TLB_INVALID, TLB_INVALID, TLB_INVALID, ~0ull, 0};
    c->ram = ram;
    c->page_flags = native_page_flags;
    for (unsigned n = 0; n < pages; n++) {
        uint64_t lin = (uintptr_t)ram + n * PAGE_SIZE;
        struct tlb_entry *e = tlb_slot(c, c->tlb, lin);
        e->rd = e->wr = lin >> PAGE_SHIFT | c->asid;
    }
    return c;
}

static void *engine_ram(unsigned pages) {
    void *p =
        mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

/* Decodes and executes at c->s.rip (set by the caller). Returns -1, or the vector of the fault. */
static int engine_run(struct x86_cpu *c, unsigned mode, const uint8_t *insn, unsigned len) {
    struct x86_insn i;
    uint8_t bytes[16] = {0};
    memcpy(bytes, insn, len);
    if (x86_decode(c->cpuid, mode, bytes, 15, &i) != 0)
        return EXC_UD;
    c->next = c->s.rip + i.len;
    c->cc = (uint32_t)c->s.rflags & FLAG_ARITH;
    c->s.rflags &= ~(uint64_t)FLAG_ARITH;
    if (setjmp(c->jmp) != 0) {
        c->s.rflags |= c->cc;
        return c->exc.vector;
    }
    i.fn(c, &i);
    c->s.rflags |= c->cc;
    return -1;
}

/* ---- comparing ---- */

static void dump(const char *what, const void *p, size_t n) {
    printf("  %s", what);
    for (size_t k = 0; k < n; k++)
        printf("%s%02x", k % 8 ? "" : " ", ((const uint8_t *)p)[k]);
    printf("\n");
}

static bool differs(const char *what, const void *native, const void *engine, size_t n) {
    if (memcmp(native, engine, n) == 0)
        return false;
    const uint8_t *a = native, *b = engine;
    size_t off = 0;
    while (a[off] == b[off])
        off++;
    printf("  %s, from byte %zu\n", what, off);
    off &= ~(size_t)7;
    dump("native", a + off, n - off < 16 ? n - off : 16);
    dump("engine", b + off, n - off < 16 ? n - off : 16);
    return true;
}

/* Prints what differs. FIP, FDP and FOP count only with `pointers`. */
static bool states_differ(const struct x86_state *a, const struct x86_state *b, bool pointers) {
    const struct x86_fpu *fa = &a->fpu, *fb = &b->fpu;
    uint64_t flags_a = a->rflags & FLAG_ARITH, flags_b = b->rflags & FLAG_ARITH;
    bool bad = differs("gpr", a->gpr, b->gpr, sizeof a->gpr);
    bad |= differs("flags", &flags_a, &flags_b, 8);
    bad |= differs("fcw fsw", &fa->fcw, &fb->fcw, 4);
    bad |= differs("ftw", &fa->ftw, &fb->ftw, 1);
    bad |= differs("mxcsr", &fa->mxcsr, &fb->mxcsr, 4);
    for (unsigned n = 0; n < 8; n++)
        bad |= differs("st", fa->st[n], fb->st[n], 10);
    for (unsigned n = 0; n < 16; n++)
        bad |= differs("ymm", fa->zmm[n], fb->zmm[n], 32);
    if (pointers) {
        bad |= differs("fop", &fa->fop, &fb->fop, 2);
        bad |= differs("fip", &fa->fip, &fb->fip, 8);
        bad |= differs("fdp", &fa->fdp, &fb->fdp, 8);
    }
    return bad;
}

#endif

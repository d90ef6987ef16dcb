/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a case on the processor itself. A breakpoint enters the signal handler, which puts the
 * case's registers (general, flags, vector state, code segment) into the context it returns to; the
 * exception that ends the case enters it again, and it takes the registers out and goes back to the
 * breakpoint's context. FS and GS are never changed.
 */
#include "isa.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/x86/state.h"

/* The alternate stack has room for frames with AVX-512 and AMX state. */
#define ALT_STACK 0x20000

/* Offsets in the XSAVE area (SDM 1, 13.4). */
enum { XS_BV = 512, XS_COMP = 520, XS_HEADER = 512, XS_HEADER_SIZE = 64 };

#define FLAG_NT_ID (FLAG_NT | FLAG_ID)
#define FLAG_HANDLER_MUST_CLEAR (FLAG_AC | FLAG_NT_ID)

static struct {
    uint8_t *code, *data, *ro, *low, *top; /* writable views */
    uint64_t fs_base;
    unsigned ymm_offset;
    bool entering;
    const struct isa_case *c;
    struct isa_result *out;
    greg_t harness[NGREG];
} nat;

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

static void put_fpu(uint8_t *x, const struct isa_state *s) {
    memcpy(x, &s->fcw, 2);
    memcpy(x + 2, &s->fsw, 2);
    x[4] = s->ftw;
    x[5] = 0;
    memcpy(x + 6, &s->fop, 2);
    memcpy(x + 8, &s->fip, 8);
    memcpy(x + 16, &s->fdp, 8);
    memcpy(x + 24, &s->mxcsr, 4);
    memset(x + 32, 0, 128);
    for (unsigned i = 0; i < 8; i++)
        memcpy(x + 32 + i * 16, s->st[i], 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(x + 160 + i * 16, s->ymm[i], 16);
        memcpy(x + nat.ymm_offset + i * 16, s->ymm[i] + 16, 16);
    }
    memset(x + XS_HEADER, 0, XS_HEADER_SIZE);
    x[XS_BV] = XCR0_X87 | XCR0_SSE | XCR0_AVX;
}

static void get_fpu(const uint8_t *x, struct isa_state *s) {
    memcpy(&s->fcw, x, 2);
    memcpy(&s->fsw, x + 2, 2);
    s->ftw = x[4];
    memcpy(&s->fop, x + 6, 2);
    memcpy(&s->fip, x + 8, 8);
    memcpy(&s->fdp, x + 16, 8);
    memcpy(&s->mxcsr, x + 24, 4);
    memset(s->st, 0, sizeof s->st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(s->st[i], x + 32 + i * 16, 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(s->ymm[i], x + 160 + i * 16, 16);
        memcpy(s->ymm[i] + 16, x + nat.ymm_offset + i * 16, 16);
    }
}

static uint64_t with_cs(greg_t csgsfs, uint16_t cs) {
    return ((uint64_t)csgsfs & 0x0000ffffffff0000) | cs | (uint64_t)SEL_USER_DS << 48;
}

static void enter_case(ucontext_t *uc, uint8_t *x) {
    const struct isa_case *c = nat.c;
    greg_t *g = uc->uc_mcontext.gregs;
    memcpy(nat.harness, g, sizeof nat.harness);
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    g[REG_CSGSFS] = (greg_t)with_cs(g[REG_CSGSFS], c->form->mode32 ? SEL_USER32_CS : SEL_USER_CS);
    put_fpu(x, &c->in);
}

static void leave_case(ucontext_t *uc, uint8_t *x) {
    struct isa_result *r = nat.out;
    greg_t *g = uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < 16; i++)
        r->s.gpr[i] = (uint64_t)g[greg_of[i]];
    r->s.rip = (uint64_t)g[REG_RIP];
    r->s.rflags = (uint64_t)g[REG_EFL];
    r->vector = (uint32_t)g[REG_TRAPNO];
    r->error = (uint32_t)g[REG_ERR];
    r->cr2 = (uint64_t)g[REG_CR2];
    get_fpu(x, &r->s);
    memcpy(g, nat.harness, sizeof nat.harness);
    /* The harness goes on with the vector state that a new process has. */
    memset(x + XS_HEADER, 0, XS_HEADER_SIZE);
    memcpy(x + 24, &(uint32_t){0x1f80}, 4);
}

static void flags_change(uint64_t clear, uint64_t set) {
    __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\torq %1, (%%rsp)\n\tpopfq"
                     :
                     : "r"(~clear), "r"(set)
                     : "memory", "cc");
}

static void handler(int sig, siginfo_t *info, void *context) {
    flags_change(FLAG_HANDLER_MUST_CLEAR, 0);
    (void)sig;
    (void)info;
    ucontext_t *uc = context;
    uint8_t *x = (uint8_t *)uc->uc_mcontext.fpregs;
    if (nat.entering) {
        nat.entering = false;
        enter_case(uc, x);
        /* sigreturn leaves NT and ID as they are, so they are set here. */
        flags_change(0, nat.c->in.rflags & FLAG_NT_ID);
    } else if (nat.out) {
        leave_case(uc, x);
        nat.out = NULL;
    } else {
        signal(sig, SIG_DFL); /* the harness itself: die */
    }
}

static int handlers_install(void) {
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    stack_t st = {.ss_size = ALT_STACK};
    st.ss_sp = mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (st.ss_sp == MAP_FAILED || sigaltstack(&st, NULL))
        return -1;
    struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sa.sa_sigaction = handler;
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], &sa, NULL))
            return -1;
    return 0;
}

/* Maps pages of the memfd at a fixed address for the case and anywhere for us. */
static uint8_t *map_both(int fd, uint64_t at, size_t size, off_t off, int prot) {
    void *fixed =
        mmap((void *)at, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, off);
    if (fixed == MAP_FAILED)
        return NULL;
    void *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, off);
    return view == MAP_FAILED ? NULL : view;
}

static int memory_map(void) {
    int fd = memfd_create("isa", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 0x14000))
        return -1;
    nat.code = map_both(fd, CODE_BASE, CODE_SIZE, 0, PROT_READ | PROT_EXEC);
    nat.data = map_both(fd, DATA_BASE, DATA_SIZE, 0x4000, PROT_READ | PROT_WRITE);
    nat.ro = map_both(fd, RO_BASE, RO_SIZE, 0x8000, PROT_READ);
    nat.top = map_both(fd, TOP_BASE, TOP_SIZE, 0x10000, PROT_READ | PROT_WRITE);
    nat.low = map_both(fd, LOW_BASE, LOW_SIZE, 0xc000, PROT_READ | PROT_WRITE);
    close(fd);
    if (!nat.code || !nat.data || !nat.ro || !nat.top)
        return -1;
    memset(nat.code, 0xcc, CODE_SIZE);
    return 0;
}

/* After fork: the memory is shared with no other worker. */
int native_init(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(0xd, 2, &a, &b, &c, &d) || a < 256) {
        fprintf(stderr, "isa: this processor has no AVX state\n");
        return -1;
    }
    nat.ymm_offset = b;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &nat.fs_base);
    syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
    /* 64-bit code needs no data segments; compatibility mode does. */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(SEL_USER_DS));
    if (memory_map() || handlers_install()) {
        perror("isa: setting up native execution");
        return -1;
    }
    return 0;
}

bool native_has_low(void) {
    return nat.low;
}

uint64_t native_fs_base(void) {
    return nat.fs_base;
}

static void native_go(void) {
    __asm__ volatile("int3"
                     :
                     :
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15");
}

void native_run(const struct isa_case *c, const struct isa_memory *before, struct isa_result *out,
                struct isa_memory *after) {
    memcpy(nat.data, before->data, DATA_SIZE);
    memcpy(nat.ro, before->ro, RO_SIZE);
    memcpy(nat.top, before->top, TOP_SIZE);
    if (nat.low)
        memcpy(nat.low, before->low, LOW_SIZE);
    uint64_t off = c->in.rip - CODE_BASE;
    size_t n = off + c->len > CODE_SIZE ? CODE_SIZE - off : c->len;
    memcpy(nat.code + off, c->code, n);
    nat.c = c;
    nat.out = out;
    nat.entering = true;
    out->failure = NULL;
    native_go();
    memset(nat.code + off, 0xcc, n);
    memcpy(after->data, nat.data, DATA_SIZE);
    memcpy(after->top, nat.top, TOP_SIZE);
    if (nat.low)
        memcpy(after->low, nat.low, LOW_SIZE);
}

bool native_can_32(void) {
    static const struct form f = {.mode32 = true};
    static struct isa_memory m, after;
    struct isa_case c = {.form = &f, .code = {0x40}, .len = 1}; /* INC EAX, or a REX prefix */
    struct isa_result r;
    c.in.rip = CODE_BASE;
    c.in.rflags = FLAG_FIXED | FLAG_IF;
    c.in.mxcsr = 0x1f80;
    c.in.fcw = 0x37f;
    native_run(&c, &m, &r, &after);
    return r.vector == EXC_BP && r.s.gpr[RAX] == 1;
}

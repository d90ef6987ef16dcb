/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions, executed by the reference engine: a few bytes of 64-bit code on an identity
 * map, and an exception handler per vector that halts, so that where the vCPU halted says what it
 * raised.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    GDT = 0x3000,
    IDT = 0x4000,
    IDT32 = 0x5000,
    HANDLERS = 0x6000, /* 16 bytes each */
    TSS = 0x10000,
    CODE = 0x8000,
    DATA = 0x9000,
    STACK = 0xb000,
    USER_STACK = 0xd000,
    PDPTES = 0x14000, /* of PAE paging */
    PAE_DIR = 0x15000,
    RAM = 0x200000,
};

enum {
    KERNEL_CS = 8,
    KERNEL_SS = 16,
    USER_CS32 = 24 | 3,
    USER_SS = 32 | 3,
    USER_CS = 40 | 3,
    TR = 48,
    KERNEL_CS32 = 56
};

/* A halt that no exception led to: the end of the code. */
#define DONE (-1)

static struct loop *loop;
static struct clock *clk;
static struct mem *mem;
static struct x86_cpuid cpuid;
static struct engine_vm *vm;
static struct vcpu *cpu;
static struct x86_state s;
static uint8_t tpr, port_byte, port_log[8];
static unsigned port_count, tsc_changes;

/* ---- an interrupt controller and a port device to look at ---- */

static bool no_interrupt(void *apic) {
    (void)apic;
    return false;
}
static int no_vector(void *apic) {
    (void)apic;
    return -1;
}
static uint8_t get_cr8(void *apic) {
    return *(uint8_t *)apic;
}
static void set_cr8(void *apic, uint8_t value) {
    *(uint8_t *)apic = value;
}
static bool read_msr(void *apic, uint32_t msr, uint64_t *value) {
    (void)apic;
    *value = msr == 0x1b ? 0xfee00900 : 0x1234;
    return msr == 0x1b || msr == 0x802;
}
static bool write_msr(void *apic, uint32_t msr, uint64_t value) {
    (void)apic;
    return msr == 0x6e0 && value != 0;
}
static uint64_t mmio_base(void *apic) {
    (void)apic;
    return UINT64_MAX;
}
static void tsc_changed(void *apic) {
    (void)apic;
    tsc_changes++;
}

static const struct x86_irqchip_ops IRQCHIP = {
    .pending = no_interrupt,
    .ack = no_vector,
    .get_cr8 = get_cr8,
    .set_cr8 = set_cr8,
    .read_msr = read_msr,
    .write_msr = write_msr,
    .mmio_base = mmio_base,
    .tsc_changed = tsc_changed,
};

static uint64_t port_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    return port_byte++;
}
static void port_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)dev;
    (void)off;
    (void)size;
    port_log[port_count++ % sizeof port_log] = (uint8_t)value;
}

static const struct io_ops PORT = {.read = port_read, .write = port_write, .max_size = 1};

/* ---- the machine ---- */

static uint8_t *at(uint64_t gpa, uint64_t len) {
    return mem_ptr_w(mem, GPA(gpa), len);
}

static void put(uint64_t gpa, uint64_t v) {
    memcpy(at(gpa, 8), &v, 8);
}

static void make_tables(void) {
    memset(at(0, RAM), 0, RAM);
    put(PML4, PDPT | 7);
    put(PDPT, 0x87);            /* the first GiB; the second is absent */
    put(PDPT + 16, 0xc0000087); /* no RAM there */
    put(GDT + 8, 0x00af9b000000ffff);
    put(GDT + 16, 0x00cf93000000ffff);
    put(GDT + 24, 0x00cffb000000ffff);
    put(GDT + 32, 0x00cff3000000ffff);
    put(GDT + 40, 0x00affb000000ffff);
    put(GDT + 56, 0x00cf9b000000ffff);
    put(PDPTES, PAE_DIR | 1);
    put(PAE_DIR, 0x87); /* the first 2 MiB */
    for (unsigned n = 0; n < 32; n++) {
        uint64_t h = HANDLERS + 16 * n;
        put(IDT32 + 8 * n, (h & 0xffff) | (uint64_t)KERNEL_CS32 << 16 | 0x8eull << 40);
        put(IDT + 16 * n, (h & 0xffff) | (uint64_t)KERNEL_CS << 16 | 0x8eull << 40);
        *at(h, 1) = 0xf4; /* HLT */
    }
    put(TSS + 4, STACK); /* RSP0 */
    memset(at(TSS + 104, 8193), 0xff, 8193);
    uint16_t map = 104;
    memcpy(at(TSS + 102, 2), &map, 2);
}

static struct x86_seg flat(uint16_t sel, uint32_t attr) {
    return (struct x86_seg){.limit = UINT32_MAX, .attr = attr, .sel = sel};
}

/* 64-bit mode at CPL 0 or 3. */
static void make_state(unsigned cpl) {
    x86_state_reset(&s, true);
    s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s.cr4 = CR4_PAE | CR4_PGE | CR4_DE;
    s.cr3 = PML4;
    s.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s.seg[SEG_CS] = flat(cpl ? USER_CS : KERNEL_CS, 0xa09b | cpl << 5);
    s.seg[SEG_SS] = flat(cpl ? USER_SS : KERNEL_SS, 0xc093 | cpl << 5);
    s.seg[SEG_DS] = s.seg[SEG_ES] = s.seg[SEG_SS];
    s.tr = (struct x86_seg){.base = TSS, .limit = 104 + 8192, .attr = 0x8b, .sel = TR};
    s.gdtr = (struct x86_dtr){GDT, 0xff};
    s.idtr = (struct x86_dtr){IDT, 32 * 16 - 1};
    s.rip = CODE;
    s.gpr[RSP] = cpl ? USER_STACK : STACK;
}

static int setup(void **state) {
    (void)state;
    tpr = port_byte = 0;
    port_count = tsc_changes = 0;
    make_tables();
    make_state(0);
    return 0;
}

/* 32-bit protected mode without paging. */
static void make_state32(void) {
    make_state(0);
    s.cr0 &= ~(uint64_t)CR0_PG;
    s.cr4 = 0;
    s.efer = 0;
    s.seg[SEG_CS] = flat(KERNEL_CS32, 0xc09b);
    s.idtr = (struct x86_dtr){IDT32, 32 * 8 - 1};
}

/* Executes `code` and a HLT behind it from the state `s`; returns the vector of the exception, or
 * DONE. */
static int run(const void *code, size_t len) {
    struct vcpu_exit x;
    uint8_t *p = at(s.rip, len + 1);
    memcpy(p, code, len);
    p[len] = 0xf4;
    mem_wrote(mem, p, len + 1);
    uint64_t end = s.rip + len + 1;
    cpu->ops->set_state(cpu, &s);
    cpu->ops->run(cpu, &x);
    cpu->ops->get_state(cpu, &s);
    assert_int_equal(x.reason, VCPU_HALT);
    s.activity = X86_RUNNING;
    if (s.rip == end)
        return DONE;
    assert_in_range(s.rip, HANDLERS, HANDLERS + 0x1ff);
    return (int)((s.rip - HANDLERS) / 16);
}

#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* From a fresh kernel state with this in RAX. */
static int run_rax(uint64_t rax, const void *code, size_t len) {
    make_state(0);
    s.gpr[RAX] = rax;
    return run(code, len);
}

#define RUN_RAX(rax, ...)                                                                          \
    run_rax(rax, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint64_t pushed(unsigned n) {
    uint64_t v;
    memcpy(&v, at(s.gpr[RSP] + 8 * n, 8), 8);
    return v;
}

static int wrmsr(uint32_t index, uint64_t v) {
    s.rip = CODE;
    s.gpr[RCX] = index;
    s.gpr[RAX] = (uint32_t)v;
    s.gpr[RDX] = v >> 32;
    return RUN(0x0f, 0x30);
}

static int rdmsr(uint32_t index, uint64_t *v) {
    s.rip = CODE;
    s.gpr[RCX] = index;
    int vector = RUN(0x0f, 0x32);
    *v = s.gpr[RDX] << 32 | (uint32_t)s.gpr[RAX];
    return vector;
}

/* ---- control registers ---- */

#define TO_CR0 0x0f, 0x22, 0xc0
#define TO_CR3 0x0f, 0x22, 0xd8
#define TO_CR4 0x0f, 0x22, 0xe0

static void cr0_combinations(void **state) {
    (void)state;
    uint64_t cr0 = s.cr0;
    assert_int_equal(RUN_RAX(cr0 | CR0_NW, TO_CR0), EXC_GP);
    assert_int_equal(s.cr0, cr0);
    assert_int_equal(pushed(0), 0);
    assert_int_equal(pushed(1), CODE); /* a fault: before the instruction */
    assert_int_equal(RUN_RAX(cr0 & ~(uint64_t)CR0_PG, TO_CR0), EXC_GP); /* from 64-bit code */
    assert_int_equal(RUN_RAX(cr0 & ~(uint64_t)CR0_PE, TO_CR0), EXC_GP);
    assert_int_equal(RUN_RAX(cr0 | 1ull << 32, TO_CR0), EXC_GP);
    assert_int_equal(RUN_RAX((cr0 | CR0_AM | 1u << 7) & ~(uint64_t)CR0_ET, TO_CR0), DONE);
    assert_int_equal(s.cr0, cr0 | CR0_AM); /* ET is fixed, bit 7 reserved */
}

static void cr3_reserved_bits(void **state) {
    (void)state;
    assert_int_equal(RUN_RAX(PML4 | 1ull << 46, TO_CR3), EXC_GP);
    assert_int_equal(RUN_RAX(PML4 | 1ull << 63, TO_CR3), EXC_GP);
    assert_int_equal(RUN_RAX(PML4 | 0x18, TO_CR3), DONE);
    assert_int_equal(s.cr3, PML4 | 0x18);
}

static void cr4_legality(void **state) {
    (void)state;
    uint64_t cr4 = s.cr4;
    assert_int_equal(RUN_RAX(cr4 | CR4_LA57, TO_CR4), EXC_GP);
    assert_int_equal(RUN_RAX(cr4 | CR4_VMXE, TO_CR4), EXC_GP);
    assert_int_equal(RUN_RAX(cr4 | CR4_OSXSAVE, TO_CR4), EXC_GP); /* not in this CPUID */
    assert_int_equal(RUN_RAX(cr4 & ~(uint64_t)CR4_PAE, TO_CR4), EXC_GP);
    assert_int_equal(s.cr4, cr4);
    assert_int_equal(RUN_RAX(cr4 | CR4_UMIP | CR4_FSGSBASE | CR4_PCE, TO_CR4), DONE);
    assert_int_equal(s.cr4, cr4 | CR4_UMIP | CR4_FSGSBASE | CR4_PCE);
}

static void pcid(void **state) {
    (void)state;
    s.cr3 |= 8;
    s.gpr[RAX] = s.cr4 | CR4_PCIDE;
    assert_int_equal(RUN(TO_CR4), EXC_GP); /* CR3[11:0] is not 0 */
    /* mov cr4, rax; mov cr3, rbx; mov rcx, cr3 */
    make_state(0);
    s.gpr[RAX] = s.cr4 | CR4_PCIDE;
    s.gpr[RBX] = PML4 | 5 | 1ull << 63;
    assert_int_equal(RUN(TO_CR4, 0x0f, 0x22, 0xdb, 0x0f, 0x20, 0xd9), DONE);
    assert_int_equal(s.gpr[RCX], PML4 | 5);
}

static void entering_and_leaving_long_mode(void **state) {
    (void)state;
    make_state32();
    s.efer = EFER_LME;
    s.gpr[RAX] = s.cr0 | CR0_PG;
    assert_int_equal(RUN(TO_CR0), EXC_GP); /* no PAE */
    make_state32();
    s.efer = EFER_LME;
    s.cr4 = CR4_PAE;
    s.tr.attr = 0x83;
    s.gpr[RAX] = s.cr0 | CR0_PG;
    assert_int_equal(RUN(TO_CR0), EXC_GP); /* a 16-bit TSS */
    make_state32();
    s.efer = EFER_LME;
    s.cr4 = CR4_PAE;
    s.gpr[RAX] = s.cr0 | CR0_PG;
    assert_int_equal(RUN(TO_CR0), DONE);
    assert_int_equal(s.efer, EFER_LME | EFER_LMA);
    s.rip = CODE;
    s.gpr[RAX] = s.cr0 & ~(uint64_t)CR0_PG;
    assert_int_equal(RUN(TO_CR0), DONE); /* from compatibility mode */
    assert_int_equal(s.efer, EFER_LME);
}

static void pae_pointers(void **state) {
    (void)state;
    make_state32();
    s.cr3 = PDPTES;
    s.cr4 = CR4_PAE;
    s.gpr[RAX] = s.cr0 | CR0_PG;
    s.gpr[RBX] = PDPTES + 32;
    put(PDPTES + 32, PAE_DIR | 3); /* bit 1 is reserved */
    assert_int_equal(RUN(TO_CR0), DONE);
    assert_int_equal(s.pdpte[0], PAE_DIR | 1);
    s.rip = CODE;
    assert_int_equal(RUN(0x0f, 0x22, 0xdb), EXC_GP); /* mov cr3, ebx */
    assert_int_equal(s.cr3, PDPTES);
    assert_int_equal(s.pdpte[0], PAE_DIR | 1);
    make_state32();
    s.cr3 = PDPTES + 32;
    s.cr4 = CR4_PAE;
    s.gpr[RAX] = s.cr0 | CR0_PG;
    assert_int_equal(RUN(TO_CR0), EXC_GP);
    assert_false(s.cr0 & CR0_PG);
}

static void cr8_is_the_tpr(void **state) {
    (void)state;
    assert_int_equal(RUN_RAX(5, 0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3), DONE);
    assert_int_equal(tpr, 5);
    assert_int_equal(s.gpr[RBX], 5);
    assert_int_equal(RUN_RAX(16, 0x44, 0x0f, 0x22, 0xc0), EXC_GP);
}

static void machine_status_word(void **state) {
    (void)state;
    uint64_t cr0 = s.cr0;
    assert_int_equal(RUN_RAX(CR0_TS, 0x0f, 0x01, 0xf0, 0x0f, 0x01, 0xe3),
                     DONE);                                      /* lmsw; smsw ebx */
    assert_int_equal(s.cr0, (cr0 | CR0_TS) & ~(uint64_t)CR0_MP); /* PE stays */
    assert_int_equal(s.gpr[RBX], (uint32_t)s.cr0);
    s.rip = CODE;
    assert_int_equal(RUN(0x0f, 0x06), DONE); /* clts */
    assert_false(s.cr0 & CR0_TS);
}

static void efer(void **state) {
    (void)state;
    uint64_t v = s.efer;
    assert_int_equal(wrmsr(0xc0000080, v & ~(uint64_t)EFER_LME), EXC_GP);
    assert_int_equal(wrmsr(0xc0000080, v | EFER_SVME), EXC_GP);
    assert_int_equal(wrmsr(0xc0000080, v & ~(uint64_t)(EFER_LMA | EFER_SCE)), DONE);
    assert_int_equal(s.efer, v & ~(uint64_t)EFER_SCE); /* LMA cannot be written */
}

/* ---- MSRs ---- */

static void msr_rules(void **state) {
    (void)state;
    static const struct {
        uint32_t index;
        uint64_t good, bad;
    } rules[] = {
        {0xc0000082, 0xffff800000001000, 0x0000800000000000}, /* LSTAR: canonical */
        {0xc0000102, 0x0000123456789abc, 0xaaaaaaaaaaaaaaaa}, /* KERNEL_GS_BASE */
        {0xc0000100, 0x0000123456789abc, 0xaaaaaaaaaaaaaaaa}, /* FS_BASE */
        {0xc0000084, 0x47700, 1ull << 32},                    /* FMASK */
        {0xc0000103, 7, 1ull << 32},                          /* TSC_AUX */
        {0x277, 0x0007040600070406, 0x0002040600070406},      /* PAT: 2 is no type */
        {0x250, 0x0606060606060606, 0x0606060606060603},      /* MTRR_FIX64K */
        {0x200, 0x80000006, 0x80000002},                      /* MTRR_PHYSBASE0 */
        {0x201, 0x3fff80000800, 0x400000000800},              /* MTRR_PHYSMASK0: 46 bits */
        {0x2ff, 0xc06, 0x1006},                               /* MTRR_DEF_TYPE */
        {0x48, 0x401, 8},                                     /* SPEC_CTRL */
        {0x174, 0x10, 1ull << 32},                            /* SYSENTER_CS */
        {0x1a0, 0x400c51809, 2},                              /* MISC_ENABLE */
        {0x17a, 4, 8},                                        /* MCG_STATUS */
    };
    for (unsigned n = 0; n < ARRAY_LEN(rules); n++) {
        uint64_t v;
        make_state(0);
        assert_int_equal(wrmsr(rules[n].index, rules[n].good), DONE);
        assert_int_equal(wrmsr(rules[n].index, rules[n].bad), EXC_GP);
        assert_int_equal(rdmsr(rules[n].index, &v), DONE);
        assert_true(v == rules[n].good);
    }
}

static void msr_others(void **state) {
    (void)state;
    uint64_t v;
    assert_int_equal(rdmsr(0x12345, &v), EXC_GP);
    assert_int_equal(wrmsr(0x10a, 0), EXC_GP); /* ARCH_CAPABILITIES is read-only */
    assert_int_equal(rdmsr(0x10a, &v), DONE);
    assert_int_equal(v & 3, 3);                /* RDCL_NO, IBRS_ALL */
    assert_int_equal(rdmsr(0x49, &v), EXC_GP); /* PRED_CMD is write-only */
    assert_int_equal(wrmsr(0x49, 1), DONE);
    assert_int_equal(wrmsr(0x3a, 0), EXC_GP); /* FEATURE_CONTROL is locked */
    assert_int_equal(wrmsr(0x8b, 0), DONE);
    assert_int_equal(rdmsr(0x8b, &v), DONE);
    assert_true(v >> 32 != 0);
    assert_int_equal(rdmsr(0xfe, &v), DONE);
    assert_int_equal(v, 0x508);
    assert_int_equal(rdmsr(0x179, &v), DONE);
    assert_int_equal(v, 0);
    assert_int_equal(rdmsr(0x400, &v), EXC_GP); /* no bank 0 */
    assert_int_equal(wrmsr(0x1d9, 3), DONE);    /* DEBUGCTL */
    assert_int_equal(rdmsr(0x1d9, &v), DONE);
    assert_int_equal(v, 0);
    assert_int_equal(wrmsr(0x1d9, 0x40), EXC_GP);
    make_state(3);
    assert_int_equal(rdmsr(0x10, &v), EXC_GP);
}

static void msr_of_the_apic(void **state) {
    (void)state;
    uint64_t v;
    assert_int_equal(rdmsr(0x1b, &v), DONE);
    assert_int_equal(v, 0xfee00900);
    assert_int_equal(rdmsr(0x802, &v), DONE);
    assert_int_equal(rdmsr(0x803, &v), EXC_GP);
    assert_int_equal(wrmsr(0x6e0, 1), DONE);
    assert_int_equal(wrmsr(0x6e0, 0), EXC_GP);
}

static void tsc_and_tsc_adjust(void **state) {
    (void)state;
    const uint64_t far = 100000000000ull;
    uint64_t before, after, adjust;
    assert_int_equal(rdmsr(0x10, &before), DONE);
    assert_int_equal(wrmsr(0x3b, far), DONE);
    assert_int_equal(rdmsr(0x10, &after), DONE);
    assert_true(after - before >= far);
    assert_int_equal(tsc_changes, 1);
    assert_int_equal(wrmsr(0x3b, 0), DONE);
    assert_int_equal(wrmsr(0x10, far), DONE);
    assert_int_equal(rdmsr(0x3b, &adjust), DONE);
    assert_true((int64_t)adjust == s.tsc_offset);
    s.rip = CODE;
    s.msr.tsc_aux = 77;
    assert_int_equal(RUN(0x0f, 0x01, 0xf9, 0xf3, 0x0f, 0xc7, 0xfb), DONE); /* rdtscp; rdpid rbx */
    assert_true((s.gpr[RDX] << 32 | s.gpr[RAX]) >= far);
    assert_int_equal(s.gpr[RCX], 77);
    assert_int_equal(s.gpr[RBX], 77);
    make_state(3);
    s.cr4 |= CR4_TSD;
    assert_int_equal(RUN(0x0f, 0x31), EXC_GP);
    make_state(0);
    assert_int_equal(RUN(0x0f, 0x33), EXC_GP); /* rdpmc */
}

/* ---- protection keys ---- */

#define RDPKRU 0x0f, 0x01, 0xee
#define WRPKRU 0x0f, 0x01, 0xef

#define KEYED 0x40000000u /* memory once more, with protection key 3 */

static void make_keyed(unsigned cpl, uint32_t pkru) {
    make_state(cpl);
    put(PDPT + 8, 0x87 | 3ull << 59);
    s.cr4 |= CR4_PKE;
    s.pkru = pkru;
    s.gpr[RBX] = KEYED + DATA;
    s.gpr[RDX] = 0; /* as WRPKRU wants it */
}

static void pkru_register(void **st) {
    (void)st;
    make_state(0);
    assert_int_equal(RUN(RDPKRU), EXC_UD); /* CR4.PKE = 0 */
    make_keyed(0, 0);
    s.gpr[RAX] = 0x10;
    assert_int_equal(RUN(WRPKRU, 0x31, 0xc0, RDPKRU), DONE); /* xor %eax,%eax between them */
    assert_int_equal(s.gpr[RAX], 0x10);
    make_keyed(0, 4);
    s.gpr[RDX] = 1;
    assert_int_equal(RUN(WRPKRU), EXC_GP);
    assert_int_equal(s.pkru, 4);
    make_keyed(0, 4);
    s.gpr[RCX] = 1;
    assert_int_equal(RUN(RDPKRU), EXC_GP);
}

static void keys_forbid(void **st) {
    const uint32_t access = 1u << 6, write = 1u << 7;
    (void)st;
    make_keyed(0, write);
    s.cr0 &= ~(uint64_t)CR0_WP;
    assert_int_equal(RUN(0x88, 0x03), DONE); /* mov %al,(%rbx) */
    make_keyed(0, write);
    assert_int_equal(RUN(0x8a, 0x03, 0x88, 0x03), EXC_PF); /* may read, but not write */
    assert_int_equal(pushed(0), 0x23);
    assert_int_equal(s.cr2, KEYED + DATA);
    make_keyed(3, access);
    assert_int_equal(RUN(0x8a, 0x03), EXC_PF);
    assert_int_equal(pushed(0), 0x25);
    make_keyed(0, ~(access | write));
    assert_int_equal(RUN(0x8a, 0x03, 0x88, 0x03), DONE);
    make_keyed(0, 0);
    s.gpr[RAX] = access;
    assert_int_equal(RUN(0x8a, 0x0b, 0x31, 0xc9, WRPKRU, 0x8a, 0x03),
                     EXC_PF); /* not from the TLB */
}

/* ---- system calls ---- */

#define STAR ((uint64_t)(USER_CS32 & ~3) << 48 | (uint64_t)KERNEL_CS << 32)

static void syscall_and_back(void **state) {
    (void)state;
    make_state(3);
    s.msr.star = STAR;
    s.msr.lstar = CODE + 0x100;
    s.msr.sfmask = FLAG_IF | FLAG_DF | FLAG_AC;
    s.rflags = FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF;
    *at(CODE + 0x100, 1) = 0xf4;
    cpu->ops->set_state(cpu, &s);
    memcpy(at(CODE, 2), "\x0f\x05", 2);
    mem_wrote(mem, at(CODE, 0x200), 0x200);
    struct vcpu_exit x;
    cpu->ops->run(cpu, &x);
    cpu->ops->get_state(cpu, &s);
    assert_int_equal(x.reason, VCPU_HALT);
    assert_int_equal(s.rip, CODE + 0x101);
    assert_int_equal(s.gpr[RCX], CODE + 2);
    assert_int_equal(s.gpr[R11], FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF);
    assert_int_equal(s.rflags, FLAG_FIXED | FLAG_CF);
    assert_int_equal(s.seg[SEG_CS].sel, KERNEL_CS);
    assert_int_equal(s.seg[SEG_CS].attr, 0xa09b);
    assert_int_equal(s.seg[SEG_SS].sel, KERNEL_SS);
    assert_int_equal(s.seg[SEG_SS].attr, 0xc093);
    /* sysretq: the HLT that follows in user code is #GP, pushed with the user's segments */
    s.activity = X86_RUNNING;
    s.rip = CODE + 0x40;
    s.gpr[RCX] = CODE + 0x43;
    s.gpr[R11] = FLAG_RF | FLAG_VM | FLAG_ZF;
    assert_int_equal(RUN(0x48, 0x0f, 0x07), EXC_GP);
    assert_int_equal(pushed(1), CODE + 0x43);
    assert_int_equal(pushed(2), USER_CS);
    assert_int_equal(pushed(3) & ~(uint64_t)FLAG_RF, FLAG_ZF | FLAG_FIXED);
    assert_int_equal(pushed(5), USER_SS);
}

static void sysret_faults(void **state) {
    (void)state;
    s.msr.star = STAR;
    s.gpr[RCX] = 0x0000800000000000;
    assert_int_equal(RUN(0x48, 0x0f, 0x07), EXC_GP);
    assert_int_equal(pushed(1), CODE);
    assert_int_equal(pushed(2), KERNEL_CS); /* still in the kernel */
    make_state(0);
    s.efer &= ~(uint64_t)EFER_SCE;
    assert_int_equal(RUN(0x0f, 0x05), EXC_UD);
    make_state(3);
    assert_int_equal(RUN(0x48, 0x0f, 0x07), EXC_GP);
}

static void syscall_outside_64_bit_mode(void **state) {
    (void)state;
    make_state32();
    s.efer = EFER_SCE;
    assert_int_equal(RUN(0x0f, 0x05), EXC_UD);
    make_state32();
    s.msr.sysenter_cs = KERNEL_CS32;
    s.msr.sysenter_eip = CODE + 2;
    s.msr.sysenter_esp = STACK - 16;
    assert_int_equal(RUN(0x0f, 0x34), DONE);
    assert_int_equal(s.seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(s.seg[SEG_SS].sel, KERNEL_CS32 + 8);
    assert_int_equal(s.gpr[RSP], STACK - 16);
}

static void sysret_to_32_bits(void **state) {
    (void)state;
    s.msr.star = STAR;
    s.gpr[RCX] = 0xffffffff00000000 | (CODE + 2);
    assert_int_equal(RUN(0x0f, 0x07), EXC_GP); /* the HLT, in compatibility mode */
    assert_int_equal(pushed(1), CODE + 2);
    assert_int_equal(pushed(2), USER_CS32);
}

static void sysenter_and_sysexit(void **state) {
    (void)state;
    make_state(3);
    assert_int_equal(RUN(0x0f, 0x34), EXC_GP); /* SYSENTER_CS is null */
    make_state(3);
    s.msr.sysenter_cs = KERNEL_CS;
    s.msr.sysenter_esp = STACK - 64;
    s.msr.sysenter_eip = CODE + 2;
    s.rflags |= FLAG_IF;
    assert_int_equal(RUN(0x0f, 0x34), DONE);
    assert_int_equal(s.gpr[RSP], STACK - 64);
    assert_int_equal(s.seg[SEG_CS].attr, 0xa09b);
    assert_false(s.rflags & FLAG_IF);
    s.rip = CODE;
    s.gpr[RDX] = CODE + 3;
    s.gpr[RCX] = USER_STACK;
    s.msr.sysenter_cs = USER_CS - 3 - 32;
    assert_int_equal(RUN(0x48, 0x0f, 0x35), EXC_GP); /* the HLT, as a user */
    assert_int_equal(pushed(1), CODE + 3);
    assert_int_equal(pushed(2), USER_CS);
    assert_int_equal(pushed(4), USER_STACK);
    make_state(0);
    s.msr.sysenter_cs = KERNEL_CS;
    s.gpr[RDX] = 1ull << 47;
    assert_int_equal(RUN(0x48, 0x0f, 0x35), EXC_GP);
    assert_int_equal(pushed(2), KERNEL_CS);
}

/* ---- descriptor tables ---- */

static void descriptor_table_registers(void **state) {
    (void)state;
    s.gpr[RBX] = DATA;
    put(DATA, 0x123456780abc);
    put(DATA + 8, 0);
    assert_int_equal(RUN(0x0f, 0x01, 0x13, 0x0f, 0x01, 0x43, 0x10), DONE); /* lgdt [rbx]; sgdt */
    assert_int_equal(s.gdtr.limit, 0x0abc);
    assert_int_equal(s.gdtr.base, 0x12345678);
    assert_memory_equal(at(DATA + 16, 10), at(DATA, 10), 10);
    make_state(0);
    s.gpr[RBX] = DATA;
    put(DATA + 2, 1ull << 47);
    assert_int_equal(RUN(0x0f, 0x01, 0x1b), EXC_GP); /* lidt, not canonical */
    assert_int_equal(s.idtr.base, IDT);
    make_state(3);
    s.gpr[RBX] = DATA;
    assert_int_equal(RUN(0x0f, 0x01, 0x13), EXC_GP);
}

/* A 16-bit operand loads 24 bits of base, but all 32 are stored. */
static void descriptor_tables_with_16_bits(void **state) {
    (void)state;
    make_state32();
    put(DATA, 0x123456780abc);
    s.gpr[RBX] = DATA;
    assert_int_equal(RUN(0x66, 0x0f, 0x01, 0x13), DONE);
    assert_int_equal(s.gdtr.base, 0x345678);
    s.rip = CODE;
    s.gdtr.base = 0x12345678;
    assert_int_equal(RUN(0x66, 0x0f, 0x01, 0x43, 0x10), DONE);
    assert_memory_equal(at(DATA + 16, 6), at(DATA, 6), 6);
}

static void umip(void **state) {
    (void)state;
    static const uint8_t forms[][3] = {{0x0f, 0x01, 0x03}, {0x0f, 0x01, 0x0b}, {0x0f, 0x01, 0xe0}};
    for (unsigned n = 0; n < ARRAY_LEN(forms); n++) {
        make_state(3);
        s.gpr[RBX] = DATA;
        assert_int_equal(run(forms[n], 3), EXC_GP); /* at the HLT */
        assert_int_equal(pushed(1), CODE + 3);
        make_state(3);
        s.gpr[RBX] = DATA;
        s.cr4 |= CR4_UMIP;
        assert_int_equal(run(forms[n], 3), EXC_GP);
        assert_int_equal(pushed(1), CODE);
    }
}

/* ---- debug registers ---- */

static void debug_register_access(void **state) {
    (void)state;
    assert_int_equal(RUN_RAX(0xffffffff, 0x0f, 0x23, 0xf0), DONE); /* mov dr6 */
    assert_int_equal(s.dr[6], 0xffffefff);
    assert_int_equal(RUN_RAX(0xffffdc00, 0x0f, 0x23, 0xf8), DONE); /* mov dr7 */
    assert_int_equal(s.dr[7], 0xffff0400);
    assert_int_equal(RUN_RAX(1ull << 32, 0x0f, 0x23, 0xf8), EXC_GP);
    assert_int_equal(RUN_RAX(0, 0x0f, 0x23, 0xe0), EXC_UD); /* DR4 with CR4.DE */
    make_state(0);
    s.cr4 &= ~(uint64_t)CR4_DE;
    s.gpr[RAX] = 0;
    assert_int_equal(RUN(0x0f, 0x23, 0xe0, 0x0f, 0x21, 0xe3), DONE);
    assert_int_equal(s.gpr[RBX], 0xffff0ff0);
    make_state(3);
    assert_int_equal(RUN(0x0f, 0x21, 0xc0), EXC_GP);
}

static void general_detect(void **state) {
    (void)state;
    s.dr[7] |= 1u << 13;
    assert_int_equal(RUN(0x0f, 0x21, 0xc0), EXC_DB);
    assert_int_equal(pushed(0), CODE);
    assert_int_equal(s.dr[6], 0xffff0ff0 | 1u << 13);
    assert_false(s.dr[7] & 1u << 13);
}

static void breakpoints(void **state) {
    (void)state;
    /* mov [DATA+4], al with a 4-byte write watch on DATA+4..7 set by the guest itself */
    s.gpr[RAX] = DATA + 6;
    s.gpr[RDX] = 0xd0402;
    s.gpr[RBX] = DATA + 4;
    assert_int_equal(RUN(0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xfa, 0x88, 0x03, 0x90), EXC_DB);
    assert_int_equal(pushed(0), CODE + 8);
    assert_int_equal(s.dr[6] & 0xf, 1);
    make_state(0);
    s.dr[1] = CODE + 1;
    s.dr[7] = 0x404;
    assert_int_equal(RUN(0x90, 0x90), EXC_DB); /* before the second NOP */
    assert_int_equal(pushed(0), CODE + 1);
    assert_int_equal(s.dr[6] & 0xf, 2);
    make_state(0);
    s.dr[2] = 0x80;
    s.dr[7] = 0x02000420;
    assert_int_equal(RUN(0xe6, 0x80, 0x90), EXC_DB); /* behind out 0x80, al */
    assert_int_equal(pushed(0), CODE + 2);
    assert_int_equal(s.dr[6] & 0xf, 4);
}

/* ---- ports ---- */

static void ports(void **state) {
    (void)state;
    port_byte = 0x41;
    assert_int_equal(RUN_RAX(0xaabbccdd11223344, 0xe4, 0x80), DONE); /* in al, 0x80 */
    assert_true(s.gpr[RAX] == 0xaabbccdd11223341);
    s.rip = CODE;
    s.gpr[RDX] = 0x80;
    assert_int_equal(RUN(0xed), DONE); /* in eax, dx: one byte answers at 0x80 only */
    assert_int_equal(s.gpr[RAX], 0xffffff42);
    s.rip = CODE;
    assert_int_equal(RUN(0xee), DONE);
    assert_int_equal(port_log[0], 0x42);
}

static void string_io(void **state) {
    (void)state;
    s.gpr[RDX] = 0x80;
    s.gpr[RCX] = 4;
    s.gpr[RDI] = DATA;
    port_byte = 1;
    assert_int_equal(RUN(0xf3, 0x6c), DONE);
    assert_memory_equal(at(DATA, 5), "\1\2\3\4", 5);
    assert_int_equal(s.gpr[RCX], 0);
    assert_int_equal(s.gpr[RDI], DATA + 4);
    s.rip = CODE;
    s.gpr[RCX] = 3;
    s.gpr[RSI] = DATA + 3;
    s.rflags |= FLAG_DF;
    assert_int_equal(RUN(0xf3, 0x6e), DONE);
    assert_memory_equal(port_log, "\4\3\2", 3);
    assert_int_equal(s.gpr[RSI], DATA);
}

/* The port is not read when the store would fault; what was done before stays. */
static void string_io_faults_between(void **state) {
    (void)state;
    s.gpr[RDX] = 0x80;
    s.gpr[RCX] = 4;
    s.gpr[RDI] = 0x3ffffffe; /* two bytes before what is not mapped; no RAM there */
    port_byte = 1;
    assert_int_equal(RUN(0xf3, 0x6c), EXC_PF);
    assert_int_equal(port_byte, 3);
    assert_int_equal(s.gpr[RCX], 2);
    assert_int_equal(s.gpr[RDI], 0x40000000);
    assert_int_equal(s.cr2, 0x40000000);
    assert_int_equal(pushed(1), CODE);
}

static void port_permission(void **state) {
    (void)state;
    make_state(3);
    assert_int_equal(RUN(0xe6, 0x80), EXC_GP);
    assert_int_equal(pushed(1), CODE);
    make_state(3);
    *at(TSS + 104 + 0x80 / 8, 1) = 0xfe;
    assert_int_equal(RUN(0xe6, 0x80), EXC_GP); /* the HLT */
    assert_int_equal(pushed(1), CODE + 2);
    make_state(3);
    assert_int_equal(RUN(0xe7, 0x80), EXC_GP); /* four ports, one allowed */
    assert_int_equal(pushed(1), CODE);
    make_state(3);
    s.rflags |= FLAG_IOPL;
    assert_int_equal(RUN(0xe6, 0x99), EXC_GP); /* the HLT */
    assert_int_equal(pushed(1), CODE + 2);
}

/* ---- the rest ---- */

static void invalidation(void **state) {
    (void)state;
    s.gpr[RBX] = DATA;
    s.gpr[RAX] = 4;
    assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x03), EXC_GP); /* invpcid rax, [rbx]: type 4 */
    make_state(0);
    s.gpr[RBX] = DATA;
    put(DATA, 1); /* PCID 1 without CR4.PCIDE */
    put(DATA + 8, 0);
    assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x03), EXC_GP);
    make_state(0);
    s.gpr[RBX] = DATA;
    s.gpr[RAX] = 2; /* all: the descriptor's PCID does not count */
    assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x03), DONE);
    /* A page that was mapped is looked up anew after invlpg: mov al,[rbx]; mov [rcx],rdx; invlpg;
     * mov */
    make_state(0);
    s.gpr[RBX] = 0x80000000;
    s.gpr[RCX] = PDPT + 16;
    assert_int_equal(RUN(0x8a, 0x03, 0x48, 0x89, 0x11, 0x0f, 0x01, 0x3b, 0x8a, 0x03), EXC_PF);
    assert_int_equal(pushed(1), CODE + 8);
    make_state(0);
    s.gpr[RBX] = 1ull << 47;
    assert_int_equal(RUN(0x0f, 0x01, 0x3b), DONE); /* not canonical: nothing */
}

static void hints_and_caches(void **state) {
    (void)state;
    s.gpr[RBX] = 0x40000000; /* not mapped */
    /* nop [rbx]; prefetcht0 [rbx]; endbr64; pause; mfence; wbinvd; prefetchw [rbx] */
    assert_int_equal(RUN(0x0f, 0x1f, 0x03, 0x0f, 0x18, 0x0b, 0xf3, 0x0f, 0x1e, 0xfa, 0xf3, 0x90,
                         0x0f, 0xae, 0xf0, 0x0f, 0x09, 0x0f, 0x0d, 0x0b),
                     DONE);
    s.rip = CODE;
    assert_int_equal(RUN(0x0f, 0xae, 0x3b), EXC_PF); /* clflush [rbx] */
    make_state(3);
    assert_int_equal(RUN(0x0f, 0x09), EXC_GP);
    make_state(0);
    assert_int_equal(RUN(0x0f, 0x01, 0xc8), EXC_UD); /* monitor */
    assert_int_equal(RUN(0x0f, 0x01, 0xc1), EXC_UD); /* vmcall */
    make_state(0);
    assert_int_equal(RUN(0x0f, 0xaa), EXC_UD); /* rsm */
}

static void random_numbers(void **state) {
    (void)state;
    s.rflags |= FLAG_ZF | FLAG_OF | FLAG_SF;
    assert_int_equal(RUN(0x48, 0x0f, 0xc7, 0xf0, 0x48, 0x0f, 0xc7, 0xfb), DONE);
    assert_int_equal(s.rflags, FLAG_FIXED | FLAG_CF);
    assert_true(s.gpr[RAX] != s.gpr[RBX]);
}

static void cpuid_follows_the_state(void **state) {
    (void)state;
    assert_int_equal(RUN_RAX(0xffffffff00000001, 0x0f, 0xa2), DONE);
    assert_false(s.gpr[RCX] >> 27 & 1);
    assert_true(s.gpr[RDX] >> 9 & 1); /* the APIC is on */
    assert_int_equal(s.gpr[RAX] >> 32, 0);
}

/* ---- */

static int group_setup(void **state) {
    (void)state;
    struct err e = ERR_INIT;
    struct region *r = NULL;
    loop = loop_new(&e);
    clk = clock_new(loop);
    mem = mem_new(RAM, 0, &e);
    if (mem && mem_add_ram(mem, GPA(0), RAM, 0, &e) == 0)
        r = mem_add_port(mem, 0x80, 1, "test", &PORT, NULL, &e);
    if (!r || x86_cpuid_build(&cpuid, "x86-64-v2,+pku", 1, clock_tsc_hz(clk), &e) < 0)
        return -1;
    vm = engine_interp.vm_create(
        &(struct engine_vm_params){.mem = mem, .clock = clk, .cpuid = &cpuid, .vcpus = 1}, &e);
    cpu = engine_interp.vcpu_create(vm, 0, &e);
    cpu->irqchip = &IRQCHIP;
    cpu->apic = &tpr;
    return 0;
}

static int group_teardown(void **state) {
    (void)state;
    engine_interp.vcpu_destroy(cpu);
    engine_interp.vm_destroy(vm);
    mem_free(mem);
    clock_free(clk);
    loop_free(loop);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(cr0_combinations),
        TEST(cr3_reserved_bits),
        TEST(cr4_legality),
        TEST(pcid),
        TEST(entering_and_leaving_long_mode),
        TEST(pae_pointers),
        TEST(cr8_is_the_tpr),
        TEST(machine_status_word),
        TEST(efer),
        TEST(msr_rules),
        TEST(msr_others),
        TEST(msr_of_the_apic),
        TEST(tsc_and_tsc_adjust),
        TEST(syscall_and_back),
        TEST(sysret_faults),
        TEST(syscall_outside_64_bit_mode),
        TEST(sysret_to_32_bits),
        TEST(sysenter_and_sysexit),
        TEST(descriptor_table_registers),
        TEST(descriptor_tables_with_16_bits),
        TEST(umip),
        TEST(debug_register_access),
        TEST(general_detect),
        TEST(breakpoints),
        TEST(ports),
        TEST(string_io),
        TEST(string_io_faults_between),
        TEST(port_permission),
        TEST(invalidation),
        TEST(hints_and_caches),
        TEST(random_numbers),
        TEST(cpuid_follows_the_state),
        TEST(pkru_register),
        TEST(keys_forbid),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

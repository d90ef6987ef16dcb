/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the test guests share: reporting on COM1, traps that a test expects, CPL 3, and the
 * processor's registers. A guest defines main(); a 64-bit guest runs in the identity map that
 * boot.S makes, a 32-bit guest starts with paging off. Interrupts are off until a test turns them
 * on.
 */
#ifndef GUEST_LIB_H
#define GUEST_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sel.h"

typedef unsigned long ulong;

/* Reporting. A check is one line, PASS NAME or FAIL NAME: why; the run ends with DONE. */
void print(const char *format, ...)
    __attribute__((format(printf, 1, 2))); /* %s %d %u %x %lx %lu %% */
void check(bool ok, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void check_eq(const char *name, ulong got, ulong want);
void skip(const char *name, const char *why);
void guest_done(void) __attribute__((noreturn));
int main(void);

/* What the last trap that had no handler of its own brought. */
struct trap {
    int vector; /* -1: none */
    ulong error, ip, cs, flags, sp, ss, cr2;
    unsigned count;
};
extern volatile struct trap trap;
extern volatile ulong trap_resume;

#ifdef __x86_64__
struct frame {
    ulong r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
    ulong vector, error, ip, cs, flags, sp, ss;
};
#define INSN_MOV "movq"
#else
struct frame {
    ulong es, ds, di, si, bp, unused_sp, bx, dx, cx, ax;
    ulong vector, error, ip, cs, flags;
    ulong sp, ss;                         /* only from an outer ring */
    ulong v86_es, v86_ds, v86_fs, v86_gs; /* only from virtual-8086 mode */
};
#define INSN_MOV "movl"
#endif

/* A trap with a handler goes there and nowhere else. NULL: recorded in `trap`, then trap_resume. */
typedef void trap_handler_fn(struct frame *f);
void trap_handle(unsigned vector, trap_handler_fn *fn);

/*
 * Executes instructions of which one may trap; the value is the vector, or -1. Operands may follow
 * as in asm(). After a trap the code behind the macro goes on, with the registers as they were.
 */
#define TRY(code, ...)                                                                             \
    ({                                                                                             \
        trap.vector = -1;                                                                          \
        asm volatile(INSN_MOV " $99f, trap_resume\n\t" code "\n99:\n\t" INSN_MOV                   \
                              " $0, trap_resume" __VA_ARGS__);                                     \
        trap.vector;                                                                               \
    })

/* That the last TRY or user_run ended with this vector and error code. */
void check_trap(const char *name, int vector, ulong error);
#define CHECK_TRY(name, vector, error, code, ...)                                                  \
    do {                                                                                           \
        TRY(code, ##__VA_ARGS__);                                                                  \
        check_trap(name, vector, error);                                                           \
    } while (0)

/* Calls fn at CPL 3 (IOPL 0) on a stack of its own. The vector that ended it; VECTOR_USER_EXIT: it
 * returned. */
int user_run(void (*fn)(void));
int user_run_flags(void (*fn)(void), ulong flags);
void user_enter(void (*fn)(void), ulong flags);
void user_leave(void) __attribute__((noreturn));
extern char user_stack[], user_stack_top[], trap_stack_top[], stack_top[], trap_entries[];

/* Descriptors. */
struct __attribute__((packed)) table_register {
    uint16_t limit;
    ulong base;
};
extern uint64_t gdt[GDT_ENTRIES];
void gdt_set(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags);
#ifdef __x86_64__
struct __attribute__((packed)) tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
    uint8_t bitmap[8193];
};
#else
struct __attribute__((packed)) tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp,
        esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t redirect[32], bitmap[8193];
};
#endif
extern struct tss tss;
/* type: 0xe interrupt gate, 0xf trap gate; `ist` only in 64-bit guests. */
void idt_set(unsigned vector, void (*entry)(void), unsigned selector, unsigned type, unsigned dpl,
             unsigned ist);
void idt_set_present(unsigned vector, bool present);
extern uint64_t idt[];

/* Memory: pages of zeroes, from 16 MiB on. */
void *page_alloc(unsigned count);
void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/* Registers and instructions. */
#define READ_REG(reg, name)                                                                        \
    static inline ulong name(void) {                                                               \
        ulong v;                                                                                   \
        asm volatile("mov %%" #reg ", %0" : "=r"(v));                                              \
        return v;                                                                                  \
    }
#define WRITE_REG(reg, name)                                                                       \
    static inline void name(ulong v) {                                                             \
        asm volatile("mov %0, %%" #reg ::"r"(v) : "memory");                                       \
    }
READ_REG(cr0, read_cr0)
READ_REG(cr2, read_cr2)
READ_REG(cr3, read_cr3)
READ_REG(cr4, read_cr4)
READ_REG(dr6, read_dr6)
READ_REG(dr7, read_dr7)
WRITE_REG(cr0, write_cr0)
WRITE_REG(cr2, write_cr2)
WRITE_REG(cr3, write_cr3)
WRITE_REG(cr4, write_cr4)
WRITE_REG(dr0, write_dr0)
WRITE_REG(dr1, write_dr1)
WRITE_REG(dr2, write_dr2)
WRITE_REG(dr3, write_dr3)
WRITE_REG(dr6, write_dr6)
WRITE_REG(dr7, write_dr7)
#ifdef __x86_64__
READ_REG(cr8, read_cr8)
WRITE_REG(cr8, write_cr8)
#endif

enum {
    CR0_PE = 1,
    CR0_MP = 2,
    CR0_EM = 4,
    CR0_TS = 8,
    CR0_NE = 0x20,
    CR0_WP = 0x10000,
    CR0_AM = 0x40000
};
enum { CR0_NW = 0x20000000, CR0_CD = 0x40000000 };
#define CR0_PG 0x80000000ul
enum {
    CR4_VME = 1,
    CR4_PVI = 2,
    CR4_TSD = 4,
    CR4_DE = 8,
    CR4_PSE = 0x10,
    CR4_PAE = 0x20,
    CR4_PGE = 0x80
};
enum { CR4_PCE = 0x100, CR4_UMIP = 0x800, CR4_FSGSBASE = 0x10000, CR4_PCIDE = 0x20000 };
enum { CR4_OSXSAVE = 0x40000, CR4_SMEP = 0x100000, CR4_SMAP = 0x200000, CR4_PKE = 0x400000 };
enum {
    EFLAGS_FIXED = 2,
    EFLAGS_TF = 0x100,
    EFLAGS_IF = 0x200,
    EFLAGS_NT = 0x4000,
    EFLAGS_RF = 0x10000
};
enum { EFLAGS_VM = 0x20000, EFLAGS_AC = 0x40000, EFLAGS_VIF = 0x80000, EFLAGS_VIP = 0x100000 };

static inline void outb(uint16_t port, uint8_t v) {
    asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t v) {
    asm volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v) {
    asm volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port) {
    uint8_t v;
    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint16_t inw(uint16_t port) {
    uint16_t v;
    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint32_t inl(uint16_t port) {
    uint32_t v;
    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint64_t rdtsc(void) {
    uint32_t lo, hi;
    asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (uint64_t)hi << 32 | lo;
}
static inline uint64_t rdmsr(uint32_t msr) {
    uint32_t lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t msr, uint64_t v) {
    asm volatile("wrmsr" ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline void invlpg(const volatile void *p) {
    asm volatile("invlpg (%0)" ::"r"(p) : "memory");
}
static inline void sti(void) {
    asm volatile("sti" ::: "memory");
}
static inline void cli(void) {
    asm volatile("cli" ::: "memory");
}
static inline void barrier(void) {
    asm volatile("" ::: "memory");
}
static inline void pause(void) {
    asm volatile("pause" ::: "memory");
}
static inline ulong read_flags(void) {
    ulong f;
    asm volatile("pushf; pop %0" : "=r"(f)::"memory");
    return f;
}
static inline void write_flags(ulong f) {
    asm volatile("push %0; popf" ::"r"(f) : "memory", "cc");
}

struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub) {
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}
/* Of leaf 7: whether EBX has the bit. */
bool cpu_has7(unsigned bit);
bool cpu_has1c(unsigned bit);

/* wrmsr and rdmsr that may fault: the vector, or -1. */
int try_wrmsr(uint32_t msr, uint64_t v);
int try_rdmsr(uint32_t msr, uint64_t *v);
int try_cr4(ulong v);
int try_cr0(ulong v);

#endif

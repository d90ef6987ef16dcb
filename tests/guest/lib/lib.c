/* SPDX-License-Identifier: Apache-2.0 */
/* Reporting, traps and descriptor tables of the test guests; see lib.h. */
#include "lib.h"

#include <stdarg.h>

volatile struct trap trap;
volatile ulong trap_resume;
struct tss tss;
__attribute__((aligned(16))) uint64_t idt[512];
static trap_handler_fn *handlers[256];
static char *next_page = (char *)0x1000000;

static void put(char c) {
    while (!(inb(0x3fd) & 0x20))
        pause();
    outb(0x3f8, (uint8_t)c);
}

static void put_number(ulong v, unsigned base) {
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[v % base];
    } while (v /= base);
    while (n)
        put(digits[--n]);
}

static void print_args(const char *f, va_list ap) {
    for (; *f; f++) {
        bool wide = false;

        if (*f != '%') {
            put(*f);
            continue;
        }
        if (*++f == 'l') {
            wide = true;
            f++;
        }
        if (*f == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
        } else if (*f == 'd') {
            long v = wide ? va_arg(ap, long) : va_arg(ap, int);

            if (v < 0)
                put('-');
            put_number(v < 0 ? -(ulong)v : (ulong)v, 10);
        } else if (*f == 'x' || *f == 'u') {
            put_number(wide ? va_arg(ap, ulong) : va_arg(ap, unsigned), *f == 'x' ? 16 : 10);
        } else {
            put(*f);
        }
    }
}

void print(const char *format, ...) {
    va_list ap;

    va_start(ap, format);
    print_args(format, ap);
    va_end(ap);
}

void check(bool ok, const char *name, const char *format, ...) {
    va_list ap;

    if (ok) {
        print("PASS %s\n", name);
        return;
    }
    print("FAIL %s: ", name);
    va_start(ap, format);
    print_args(format, ap);
    va_end(ap);
    print("\n");
}

void check_eq(const char *name, ulong got, ulong want) {
    check(got == want, name, "got 0x%lx, want 0x%lx", got, want);
}

void skip(const char *name, const char *why) {
    print("SKIP %s: %s\n", name, why);
}

void guest_done(void) {
    print("DONE\n");
    outb(0xf4, 0);
    for (;;)
        asm volatile("cli; hlt");
}

void check_trap(const char *name, int vector, ulong error) {
    check(trap.vector == vector && (vector < 0 || trap.error == error), name,
          "got vector %d error 0x%lx at 0x%lx cr2 0x%lx, want vector %d error 0x%lx", trap.vector,
          trap.error, trap.ip, trap.cr2, vector, error);
}

void trap_handle(unsigned vector, trap_handler_fn *fn) {
    handlers[vector] = fn;
}

static bool from_user(const struct frame *f) {
#ifndef __x86_64__
    if (f->flags & EFLAGS_VM)
        return true;
#endif
    return (f->cs & 3) == 3;
}

static void record(const struct frame *f) {
    trap.vector = (int)f->vector;
    trap.error = f->error;
    trap.ip = f->ip;
    trap.cs = f->cs;
    trap.flags = f->flags;
    trap.cr2 = read_cr2();
    trap.count++;
#ifndef __x86_64__
    if (!from_user(f))
        return;
#endif
    trap.sp = f->sp;
    trap.ss = f->ss;
}

void trap_dispatch(struct frame *f);
void trap_dispatch(struct frame *f) {
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    record(f);
    if (trap_resume) {
        f->ip = trap_resume;
        f->flags &= ~(ulong)EFLAGS_TF;
        trap_resume = 0;
        return;
    }
    if (from_user(f))
        user_leave();
    print("FAIL unexpected trap: vector %lu error 0x%lx at 0x%lx:0x%lx cr2 0x%lx\n", f->vector,
          f->error, f->cs, f->ip, trap.cr2);
    guest_done();
}

int user_run_flags(void (*fn)(void), ulong flags) {
    trap.vector = -1;
    trap_resume = 0;
    user_enter(fn, flags | EFLAGS_FIXED);
    return trap.vector;
}

int user_run(void (*fn)(void)) {
    return user_run_flags(fn, 0);
}

void gdt_set(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags) {
    gdt[selector >> 3] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
                         (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 0xf) << 48 |
                         (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

void idt_set(unsigned vector, void (*entry)(void), unsigned selector, unsigned type, unsigned dpl,
             unsigned ist) {
    uint64_t at = (ulong)entry;
    uint64_t low = (at & 0xffff) | (uint64_t)selector << 16 |
                   (uint64_t)(0x80 | dpl << 5 | type) << 40 | (at >> 16 & 0xffff) << 48;

#ifdef __x86_64__
    idt[vector * 2] = low | (uint64_t)ist << 32;
    idt[vector * 2 + 1] = at >> 32;
#else
    (void)ist;
    idt[vector] = low;
#endif
}

void idt_set_present(unsigned vector, bool present) {
    volatile uint64_t *gate = &idt[vector * (sizeof(ulong) / 4)];

    *gate = (*gate & ~(1ull << 47)) | (uint64_t)present << 47;
}

static void load_tables(void) {
    struct table_register r = {sizeof(ulong) == 8 ? 4095 : 2047, (ulong)idt};

    for (unsigned v = 0; v < 256; v++) {
        bool user = v == 3 || v == 4 || v == 0x80 || v == VECTOR_USER_EXIT;

        idt_set(v, (void (*)(void))(ulong)(trap_entries + 16 * v), SEL_CODE, 0xe, user ? 3 : 0, 0);
    }
    asm volatile("lidt %0" ::"m"(r));
    gdt_set(SEL_TSS, (uint32_t)(ulong)&tss, sizeof(tss) - 1, 0x89, 0);
#ifdef __x86_64__
    tss.rsp[0] = (ulong)trap_stack_top;
#else
    tss.esp0 = (ulong)trap_stack_top;
    tss.ss0 = SEL_DATA;
#endif
    tss.iomap = sizeof(tss); /* no bitmap: no port at CPL 3 */
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

void guest_init(void);
void guest_init(void) {
    trap.vector = -1;
    /* Neither 8259 is to interrupt what doesn't ask for it. */
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    load_tables();
}

void *page_alloc(unsigned count) {
    void *p = next_page;

    next_page += count * 4096ul;
    return memset(p, 0, count * 4096ul);
}

void *memset(void *to, int byte, size_t size) {
    void *d = to;

    asm volatile("rep stosb" : "+D"(d), "+c"(size) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t size) {
    void *d = to;

    asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(size)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *p = a, *q = b;

    for (; size; size--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

bool cpu_has7(unsigned bit) {
    return cpuid(0, 0).a >= 7 && (cpuid(7, 0).b >> bit & 1);
}

bool cpu_has1c(unsigned bit) {
    return cpuid(1, 0).c >> bit & 1;
}

int try_wrmsr(uint32_t msr, uint64_t v) {
    return TRY("wrmsr", ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

int try_rdmsr(uint32_t msr, uint64_t *v) {
    uint32_t lo = 0, hi = 0;
    int r = TRY("rdmsr", : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");

    *v = (uint64_t)hi << 32 | lo;
    return r;
}

int try_cr4(ulong v) {
    return TRY("mov %0, %%cr4", ::"r"(v) : "memory");
}

int try_cr0(ulong v) {
    return TRY("mov %0, %%cr0", ::"r"(v) : "memory");
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that no compiler makes: it changes under itself and under loops that do not end otherwise,
 * is entered in the middle of its instructions, runs off pages into nothing, and lies in devices.
 * Faults come in the middle of it all, and within their own handlers.
 */
#include "apic.h"
#include "paging.h"

#define V 0x20000000000ul
#define RAM_END 0x4000000ul /* run.py gives 64 MiB */
#define HPET 0xfed00000ul

static uint8_t *code;

static ulong call(const void *at) {
    ulong r = 0;

    asm volatile("call *%1" : "+a"(r) : "r"(at) : "rcx", "rdx", "memory", "cc");
    return r;
}

/* Code that may lie anywhere; CODE(name, text) and place(at, name). */
#define CODE(name, text)                                                                           \
    extern const uint8_t name[], name##_end[];                                                     \
    asm(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end: .popsection")
#define place(at, name) memcpy(at, name, (size_t)(name##_end - name))

/* ---- changing itself ---- */

/* A store over the opcode of the very instruction that makes it: it is done, and the next time it
 * is another one. */
CODE(overwrites_itself, "1: movb $0xc3, 1b(%rip); mov $7, %eax; ret");

static void test_same_instruction(void) {
    for (unsigned i = 0; i < 3; i++) {
        place(code, overwrites_itself);
        check_eq("an instruction overwrites itself, and ends", call(code), 7);
        check_eq("and is a RET then", call(code), 0);
    }
}

/* Each round increments the immediates of two ADDs that follow, one of them on the next page. */
CODE(counts_up, "1: incb 2f + 3(%rip); incb 3f + 3(%rip); 2: add $0, %rax; .fill 20, 1, 0x90\n"
                "3: add $0, %rax; dec %ecx; jnz 1b; ret");
#define COUNTS_UP_SECOND 36 /* the second ADD's offset */

static void test_loop(void) {
    uint8_t *at = code + 4096 - COUNTS_UP_SECOND - 2;
    ulong want = 0;

    for (unsigned round = 0; round < 3; round++) {
        ulong r = 0, n = 100;

        place(at, counts_up);
        asm volatile("call *%2" : "+a"(r), "+c"(n) : "r"(at) : "memory", "cc");
        for (want = 0, n = 1; n <= 100; n++)
            want += 2 * n;
        check_eq("a loop over two pages changes both", r, want);
    }
}

/* Copied by one REP MOVS over three pages, of which one holds it. */
CODE(copies, "rep movsb; mov $1, %eax; ret");
CODE(copied, "rep movsb; mov $2, %eax; ret");
CODE(constant, "mov $0, %eax; ret; nop; nop");
#define COPIES_AT (4096 + 64)

static void test_rep_movs(void) {
    uint8_t *from = page_alloc(3), *to = page_alloc(3);

    for (unsigned round = 0; round < 3; round++) {
        ulong r, n = 3 * 4096, src = (ulong)from, dst = (ulong)to;
        unsigned bad = 0;

        for (unsigned i = 0; i < 3 * 4096; i += 8) {
            place(from + i, constant);
            *(volatile uint32_t *)(from + i + 1) = i + round;
        }
        place(from + COPIES_AT, copied);
        memset(to, 0xcc, 3 * 4096);
        place(to + COPIES_AT, copies);
        asm volatile("call *%4"
                     : "=a"(r), "+c"(n), "+S"(src), "+D"(dst)
                     : "r"(to + COPIES_AT)
                     : "memory", "cc");
        check_eq("rep movsb over itself goes on in what it copied", r, 2);
        for (unsigned i = 0; i < 3 * 4096; i += 8)
            bad += i != COPIES_AT && call(to + i) != i + round;
        check_eq("and all else that it copied is there", bad, 0);
    }
}

/* ---- made at run time ---- */

static void put_function(uint8_t *at, uint32_t value) {
    at[0] = 0xb8; /* mov $value, %eax; ret */
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void test_one_page(void) {
    unsigned bad = 0;

    for (unsigned round = 0; round < 8; round++) {
        for (unsigned i = 0; i < 682; i++)
            put_function(code + 6 * i, round << 16 | i);
        for (unsigned i = 0; i < 682; i++)
            bad += call(code + 6 * i) != (round << 16 | i);
    }
    check_eq("682 functions in a page, written anew in turns", bad, 0);
    for (unsigned i = 0; i < 5000; i++) {
        unsigned n = i * 7919 % 682;

        put_function(code + 6 * n, i);
        bad += call(code + 6 * n) != i;
        n = i * 104729 % 682;
        bad += call(code + 6 * n) > (7u << 16 | 681); /* whichever it is by now */
    }
    check_eq("one written and called at a time", bad, 0);
}

static void test_many_pages(void) {
    enum { PAGES = 1024, EACH = 4 };
    uint8_t *area = page_alloc(PAGES);
    unsigned bad = 0;

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < PAGES * EACH; i++)
            put_function(area + i * (4096 / EACH), round * 100000 + i);
        for (unsigned i = 0; i < PAGES * EACH; i++)
            bad += call(area + i * (4096 / EACH)) != round * 100000 + i;
        for (unsigned i = 0; i < PAGES * EACH; i += 3) {
            put_function(area + i * (4096 / EACH), i);
            bad += call(area + i * (4096 / EACH)) != i;
        }
    }
    check_eq("4096 functions in 1024 pages, written anew", bad, 0);
}

/* ---- in the middle of instructions ---- */

CODE(two_ways, ".byte 0xb8, 0, 0; mov $1, %al; ret"); /* MOV to EAX; from its middle, to AL */
CODE(into_the_middle, "xor %eax, %eax; mov $50, %ecx\n"
                      ".byte 0xba; 1: inc %eax; .byte 0xeb, 0\n" /* mov $0xebc0ff, %edx */
                      "dec %ecx; jnz 1b; ret");

static void test_middle(void) {
    unsigned bad = 0;

    place(code, two_ways);
    for (unsigned i = 0; i < 1000; i++) {
        bad += call(code) != 0x01b00000;
        bad += (call(code + 3) & 0xff) != 1;
    }
    check_eq("entered at an instruction and in its middle", bad, 0);
    code[4] = 9;
    check_eq("a byte of both changes the one", call(code), 0x09b00000);
    check_eq("and the other", call(code + 3) & 0xff, 9);
    place(code, into_the_middle);
    for (unsigned i = 0; i < 3; i++)
        check_eq("a loop into the middle of an instruction", call(code), 49);
}

/* ---- all that at CPL 3 ---- */

static volatile ulong user_itself, user_then, user_way, user_other, user_middle;
static volatile unsigned user_bad;

static void user_part(void) {
    place(code, overwrites_itself);
    user_itself = call(code);
    user_then = call(code);
    place(code, two_ways);
    for (unsigned i = 0; i < 100; i++) {
        user_way = call(code);
        user_other = call(code + 3) & 0xff;
    }
    place(code, into_the_middle);
    user_middle = call(code);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned n = i * 7919 % 682;

        put_function(code + 6 * n, i);
        user_bad += call(code + 6 * n) != i;
    }
}

static void test_user(void) {
    check_eq("at CPL 3, it returns", (ulong)user_run(user_part), VECTOR_USER_EXIT);
    check_eq("an instruction overwrites itself at CPL 3", user_itself, 7);
    check_eq("and is a RET then at CPL 3", user_then, 0);
    check_eq("entered at an instruction at CPL 3", user_way, 0x01b00000);
    check_eq("and in its middle", user_other, 1);
    check_eq("a loop into the middle at CPL 3", user_middle, 49);
    check_eq("functions written and called at CPL 3", user_bad, 0);
}

/* ---- off a page's end ---- */

static uint64_t next_pte;
static volatile ulong fault_error, fault_ip, fault_at;
static volatile unsigned faults;

static void map_next(struct frame *f) {
    faults++;
    fault_error = f->error;
    fault_ip = f->ip;
    fault_at = read_cr2();
    page_map(V + 4096, next_pte, 1, PTE_P | PTE_W);
}

static void expect_fetch_fault(const char *name, ulong ip) {
    check(faults == 1 && fault_error == 0x10 && fault_ip == ip && fault_at == V + 4096, name,
          "%u faults, error 0x%lx at 0x%lx cr2 0x%lx", faults, fault_error, fault_ip, fault_at);
    faults = 0;
}

CODE(in_two, "mov $5, %eax; add $2, %eax; ret");
CODE(long_one, "mov $0x44332211, %eax; ret");
CODE(jumps, "jmp 1f; 1: mov $3, %eax; ret");

static void test_page_end(void) {
    uint8_t *pages = page_alloc(2);

    next_pte = (ulong)pages + 4096;
    page_map(V, (ulong)pages, 1, PTE_P | PTE_W);
    trap_handle(14, map_next);
    for (unsigned round = 0; round < 3; round++) {
        page_map(V + 4096, 0, 1, 0);
        place(pages + 4096 - 5, in_two);
        check_eq("off the end between two instructions", call((void *)(V + 4096 - 5)), 7);
        expect_fetch_fault("it faulted at the next page", V + 4096);
        page_map(V + 4096, 0, 1, 0);
        place(pages + 4096 - 3, long_one);
        check_eq("off the end within an instruction", call((void *)(V + 4096 - 3)), 0x44332211);
        expect_fetch_fault("it faulted before it", V + 4096 - 3);
        page_map(V + 4096, 0, 1, 0);
        place(pages + 4096 - 2, jumps);
        check_eq("a jump off the end", call((void *)(V + 4096 - 2)), 3);
        expect_fetch_fault("it faulted where it went", V + 4096);
    }
    trap_handle(14, NULL);
}

/* Memory ends at RAM_END; behind it is nothing, which reads as ones: FF FF is no instruction. */
static void test_end_of_memory(void) {
    uint8_t *end = (uint8_t *)RAM_END;

    for (unsigned round = 0; round < 3; round++) {
        end[-1] = 0x90;
        TRY("jmp *%0", ::"r"(end - 1) : "memory");
        check_trap("#UD behind the last byte of memory", 6, 0);
        check_eq("at the first byte of nothing", trap.ip, RAM_END);
        end[-1] = 0xb8; /* mov $0xffffffff, %eax */
        ulong r = 0;
        TRY("jmp *%1", : "+a"(r) : "r"(end - 1) : "memory");
        check_trap("#UD behind an instruction that goes beyond memory", 6, 0);
        check_eq("four bytes on", trap.ip, RAM_END + 4);
        TRY("jmp *%0", ::"r"(RAM_END + 0x1000 + round) : "memory");
        check_trap("#UD in nothing", 6, 0);
    }
}

/* ---- in a device ---- */

/* The main counter of an HPET that stands still holds what is written to it. */
static void test_device(void) {
    volatile uint32_t *config = (volatile uint32_t *)(HPET + 0x10);
    volatile uint32_t *counter = (volatile uint32_t *)(HPET + 0xf0);
    uint8_t *pages = page_alloc(1);

    *config = 0;
    page_map(V, (ulong)pages, 1, PTE_P | PTE_W);
    page_map(V + 4096, HPET, 1, PTE_P | PTE_W);
    for (unsigned i = 1; i < 4; i++) {
        counter[0] = 0xb8 | i << 8; /* mov $i, %eax; ret */
        counter[1] = 0x9090c300;
        check_eq("code in a device's register", call((void *)(HPET + 0xf0)), i);
        counter[0] = 0x01ebc031; /* xor %eax, %eax; jmp 1f; ret; 1: inc %eax; ret */
        counter[1] = 0xc3c0ffc3;
        check_eq("that jumps in the device", call((void *)(HPET + 0xf0)), 1);
        static const uint8_t jump[] = {0xe9, 0xf0, 0, 0, 0};
        memcpy(pages + 4096 - 5, jump, sizeof(jump));
        check_eq("from memory into a device", call((void *)(V + 4096 - 5)), 1);
    }
}

/* ---- faults within faults ---- */

#define DEPTH 6
static volatile unsigned depth, deepest;

/* Each level touches the next page, which faults too, before it maps its own. */
static void nested(struct frame *f) {
    ulong at = read_cr2();

    (void)f;
    if (++depth > deepest)
        deepest = depth;
    if (at < V + (DEPTH - 1) * 4096)
        *(volatile uint64_t *)(at + 4096) = at;
    page_map(at & ~0xffful, next_pte + (at - V), 1, PTE_P | PTE_W);
    depth--;
}

static void test_nested(void) {
    trap_handle(14, nested);
    next_pte = (ulong)page_alloc(DEPTH);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < DEPTH; i++)
            page_map(V + i * 4096ul, 0, 1, 0);
        deepest = 0;
        *(volatile uint64_t *)V = 42;
        check_eq("page faults within their handler", deepest, DEPTH);
        check_eq("each store was made", *(uint64_t *)V, 42);
        check_eq("the last too", *(uint64_t *)(V + (DEPTH - 1) * 4096ul), V + (DEPTH - 2) * 4096ul);
    }
    trap_handle(14, NULL);
}

static volatile unsigned double_faults;
static volatile ulong df_cr2;

static volatile ulong df_resume, df_sp;

static void on_double_fault(struct frame *f) {
    double_faults++;
    df_cr2 = read_cr2();
    f->ip = df_resume;
    f->sp = df_sp;
}

/* A loop pushes until its stack ends: the #PF has no stack either. */
static void test_stack_end(void) {
    ulong stack = (ulong)page_alloc(1);

    trap_handle(8, on_double_fault);
    idt_set(8, (void (*)(void))(ulong)(trap_entries + 16 * 8), SEL_CODE, 0xe, 0, 1);
    tss.ist[0] = (ulong)page_alloc(2) + 8192;
    page_map(V, 0, 1, 0);
    page_map(V + 4096, stack, 1, PTE_P | PTE_W);
    for (unsigned round = 1; round < 4; round++) {
        ulong pushed = 0;

        asm volatile("movq $2f, df_resume; mov %%rsp, df_sp; mov %1, %%rsp\n\t"
                     "1: push %%rax; inc %0; jmp 1b\n\t"
                     "2:"
                     : "+r"(pushed)
                     : "r"(V + 8192)
                     : "memory", "cc");
        check_eq("pushes until the stack ends", pushed, 512);
        check_eq("a page fault without a stack is a double fault", double_faults, round);
        check_eq("CR2 is of the last fault", df_cr2 >> 12, V >> 12);
    }
    trap_handle(8, NULL);
    idt_set(8, (void (*)(void))(ulong)(trap_entries + 16 * 8), SEL_CODE, 0xe, 0, 0);
}

/* ---- the time-stamp counter under running code ---- */

enum { MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b };

/* RDTSC before and behind WRMSR, in one piece of code. */
static void tsc_write(uint32_t msr, uint64_t v, uint64_t *before, uint64_t *after) {
    uint32_t lo, hi, lo2, hi2;

    asm volatile("rdtsc; mov %%eax, %0; mov %%edx, %1\n\t"
                 "mov %5, %%eax; mov %6, %%edx; wrmsr; rdtsc"
                 : "=&r"(lo), "=&r"(hi), "=&a"(lo2), "=&d"(hi2)
                 : "c"(msr), "r"((uint32_t)v), "r"((uint32_t)(v >> 32)));
    *before = (uint64_t)hi << 32 | lo;
    *after = (uint64_t)hi2 << 32 | lo2;
}

#define SOON 10000000000ul /* some seconds of the TSC: the host may be busy */

static void test_tsc(void) {
    const uint64_t step = 1ul << 45;
    uint64_t before, after, adjust;
    unsigned bad = 0;

    for (unsigned i = 0; i < 50; i++) {
        uint64_t want = (uint64_t)(i % 5) << 42;

        tsc_write(MSR_TSC, want, &before, &after);
        bad += after < want || after - want > SOON;
    }
    check_eq("WRMSR of the TSC is seen by the RDTSC behind it", bad, 0);
    if (!cpu_has7(1)) {
        skip("TSC_ADJUST", "not there");
        return;
    }
    adjust = rdmsr(MSR_TSC_ADJUST);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t by = i & 1 ? -step : step;

        adjust += by;
        tsc_write(MSR_TSC_ADJUST, adjust, &before, &after);
        bad += after - (before + by) > SOON;
        bad += rdmsr(MSR_TSC_ADJUST) != adjust;
    }
    check_eq("WRMSR of TSC_ADJUST moves it by the difference", bad, 0);
    adjust = rdmsr(MSR_TSC_ADJUST);
    tsc_write(MSR_TSC, 2 * step, &before, &after);
    uint64_t moved = rdmsr(MSR_TSC_ADJUST) - adjust, by = 2 * step - before;
    check(by - moved < SOON, "writing the TSC moves TSC_ADJUST as far", "0x%lx, not 0x%lx", moved,
          by);
    wrmsr(MSR_TSC_ADJUST, 0);
    bad = 0;
    uint64_t last = rdtsc();
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t now = rdtsc();

        bad += now < last;
        last = now;
    }
    check_eq("and it never goes back by itself", bad, 0);
}

/* ---- changed by another processor ---- */

CODE(waits, "nop; nop; nop; nop; 1: mov $0, %eax; test %eax, %eax; jz 1b; ret");
#define WAITS_FOR 2053 /* the immediate */

static volatile unsigned turn, returned;

/* Code that is not left until an immediate in it is not zero. */
static void loop_in_code(void) {
    for (unsigned i = 1; i <= 20; i++) {
        while (turn != i)
            pause();
        call(code + 2048);
        returned = i;
    }
}

static void test_other_processor(void) {
    volatile uint8_t *immediate = code + WAITS_FOR;
    unsigned early = 0, late = 0;

    place(code + 2048, waits);
    smp_run(1, loop_in_code);
    for (unsigned i = 1; i <= 20; i++) {
        *immediate = 0;
        turn = i;
        delay_us(2000); /* it loops */
        early += returned == i;
        *immediate = 1;
        late += !wait_for(&returned, i, 5000);
    }
    check_eq("a loop ends when another processor's store ends it", late, 0);
    check_eq("and not before", early, 0);
    check(smp_wait(1, 5000), "all of them", "they do not");
}

static volatile unsigned wrong;

/* Writes functions that the other calls, and calls those that it writes. */
static void exchange(unsigned mine) {
    for (unsigned i = 0; i < 3000; i++) {
        unsigned n = i % 64;

        put_function(code + 4096 * mine + 64 * n, i | mine << 24);
        cpuid(0, 0);
        wrong += call(code + 4096 * mine + 64 * n) != (i | mine << 24);
    }
}

static void exchange_other(void) {
    exchange(1);
}

static void test_both_write(void) {
    wrong = 0;
    smp_run(1, exchange_other);
    exchange(0);
    check(smp_wait(1, 20000), "two processors make code side by side", "one does not end");
    check_eq("and each runs its own", wrong, 0);
}

int main(void) {
    code = page_alloc(2);
    test_same_instruction();
    test_loop();
    test_rep_movs();
    test_one_page();
    test_many_pages();
    test_middle();
    test_user();
    test_page_end();
    test_end_of_memory();
    test_device();
    test_nested();
    test_stack_end();
    test_tsc();
    check(smp_start(1), "second processor", "%u started", smp_started);
    test_other_processor();
    test_both_write();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Locked operations by four processors at once: none is lost and none is torn, also across lines
 * and pages. */
#include "apic.h"

enum { OTHERS = 3, ROUNDS = 20000 };

static struct __attribute__((aligned(4096))) { uint8_t bytes[8192]; } area;
static volatile unsigned ready;
static void (*volatile body)(void);

static void together(void) {
    asm volatile("lock incl %0" : "+m"(ready));
    while (ready <= OTHERS)
        pause();
    body();
}

static void contend(const char *name, void (*fn)(void)) {
    bool ended = true;

    ready = 0;
    body = fn;
    for (unsigned i = 1; i <= OTHERS; i++)
        smp_run(i, together);
    together();
    for (unsigned i = 1; i <= OTHERS; i++)
        ended &= smp_wait(i, 20000);
    check(ended, name, "a processor does not end");
}

#define REPEAT(code, ...)                                                                          \
    for (unsigned i = 0; i < ROUNDS; i++)                                                          \
    asm volatile(code ::__VA_ARGS__ : "memory", "cc", "rax", "rbx", "rcx", "rdx")

static void by_inc(void) {
    REPEAT("lock incq (%0)", "r"(area.bytes));
}
static void by_xadd(void) {
    REPEAT("mov $1, %%eax; lock xadd %%eax, (%0)", "r"(area.bytes));
}
static void by_cross_line(void) {
    REPEAT("lock incq (%0)", "r"(area.bytes + 61));
}
static void by_cross_page(void) {
    REPEAT("lock incq (%0)", "r"(area.bytes + 4096 - 3));
}
static void by_cmpxchg(void) {
    REPEAT("mov (%0), %%eax; 1: lea 1(%%rax), %%ecx; lock cmpxchg %%ecx, (%0); jne 1b",
           "r"(area.bytes));
}
static void by_cmpxchg8b(void) {
    REPEAT(
        "mov (%0), %%eax; mov 4(%0), %%edx; 1: lea 1(%%rax), %%ebx; lea -1(%%rdx), %%ecx; lock cmpxchg8b (%0); jne 1b",
        "r"(area.bytes));
}
static void by_cmpxchg16b(void) {
    REPEAT(
        "mov (%0), %%rax; mov 8(%0), %%rdx; 1: lea 1(%%rax), %%rbx; lea -1(%%rdx), %%rcx; lock cmpxchg16b (%0); jne 1b",
        "r"(area.bytes));
}
static void by_bts(void) {
    REPEAT("1: lock btsl $5, (%0); jc 1b; incl 64(%0); lock btrl $5, (%0)", "r"(area.bytes));
}
static void by_xchg(void) {
    REPEAT(
        "1: mov $1, %%eax; xchg %%eax, (%0); test %%eax, %%eax; jz 2f; pause; jmp 1b; 2: incl 64(%0); movl $0, (%0)",
        "r"(area.bytes));
}
static void by_neg(void) {
    REPEAT("lock notl (%0); lock negl (%0); lock decl (%0); lock addl $2, (%0)", "r"(area.bytes));
}

static uint64_t get(unsigned at) {
    uint64_t v;

    memcpy(&v, area.bytes + at, 8);
    return v;
}

static void test(const char *name, void (*fn)(void), unsigned at, uint64_t want) {
    memset(&area, 0, sizeof(area));
    contend(name, fn);
    check_eq("the sum of that", get(at), want);
}

int main(void) {
    const uint64_t all = (OTHERS + 1) * (uint64_t)ROUNDS;

    check(smp_start(OTHERS), "processors", "%u started", smp_started);
    test("lock inc", by_inc, 0, all);
    test("lock xadd", by_xadd, 0, all);
    test("lock cmpxchg", by_cmpxchg, 0, all);
    test("lock cmpxchg8b", by_cmpxchg8b, 0, (uint64_t)-all << 32 | all);
    if (cpu_has1c(13)) {
        test("lock cmpxchg16b", by_cmpxchg16b, 0, all);
        check_eq("its upper half", get(8), -all);
    }
    test("lock bts as a lock", by_bts, 64, all);
    test("xchg as a lock", by_xchg, 64, all);
    test("lock across lines", by_cross_line, 61, all);
    test("lock across pages", by_cross_page, 4096 - 3, all);
    /* not, neg is +1; dec and add 2 are +1: each round adds 2 whatever comes between. */
    memset(&area, 0, sizeof(area));
    by_neg();
    check_eq("lock not, neg, dec, add", get(0), 2 * ROUNDS);
    return 0;
}

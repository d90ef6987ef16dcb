/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that no compiler makes, in 32-bit mode without paging: it changes itself, is entered in the
 * middle of its instructions, and goes on at 0 behind the last byte of 4 GiB.
 */
#include "lib.h"

static uint8_t *code;

/* Code that may lie anywhere; EBX is where. */
#define CODE(name, text)                                                                           \
    extern const uint8_t name[], name##_end[];                                                     \
    asm(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end: .popsection")
#define place(at, name) memcpy(at, name, (size_t)(name##_end - name))

static ulong call(const void *at, ulong count) {
    ulong r = 0;

    asm volatile("call *%%ebx" : "+a"(r), "+c"(count) : "b"(at) : "edx", "memory", "cc");
    return r;
}

CODE(overwrites_itself, "movb $0xc3, (%ebx); mov $7, %eax; ret");
CODE(counts_up, "1: incb 2f - 1b + 2(%ebx); incb 3f - 1b + 2(%ebx); 2: add $0, %eax\n"
                ".fill 20, 1, 0x90; 3: add $0, %eax; dec %ecx; jnz 1b; ret");
#define COUNTS_UP_SECOND 29 /* the second ADD's offset */

static void test_itself(void) {
    ulong want = 0;

    for (unsigned n = 1; n <= 100; n++)
        want += 2 * n;
    for (unsigned i = 0; i < 3; i++) {
        place(code, overwrites_itself);
        check_eq("an instruction overwrites itself, and ends", call(code, 0), 7);
        check_eq("and is a RET then", call(code, 0), 0);
        place(code + 4096 - COUNTS_UP_SECOND - 2, counts_up);
        check_eq("a loop over two pages changes both",
                 call(code + 4096 - COUNTS_UP_SECOND - 2, 100), want);
    }
}

CODE(two_ways, ".byte 0xb8, 0, 0; mov $1, %al; ret"); /* MOV to EAX; from its middle, to AL */
CODE(into_the_middle, "xor %eax, %eax; mov $50, %ecx\n"
                      ".byte 0xba; 1: .byte 0xff, 0xc0, 0xeb, 0\n" /* mov $0xebc0ff, %edx */
                      "dec %ecx; jnz 1b; ret");                    /* and inc %eax; jmp .+0 */

static void test_middle(void) {
    unsigned bad = 0;

    place(code, two_ways);
    for (unsigned i = 0; i < 1000; i++) {
        bad += call(code, 0) != 0x01b00000;
        bad += (call(code + 3, 0) & 0xff) != 1;
    }
    check_eq("entered at an instruction and in its middle", bad, 0);
    place(code, into_the_middle);
    for (unsigned i = 0; i < 3; i++)
        check_eq("a loop into the middle of an instruction", call(code, 0), 49);
}

/* mov $value, %eax; ret */
static void put_function(uint8_t *at, uint32_t value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void test_functions(void) {
    unsigned bad = 0;

    for (unsigned i = 0; i < 5000; i++) {
        unsigned n = i * 7919 % 682;

        put_function(code + 6 * n, i);
        bad += call(code + 6 * n, 0) != i;
    }
    check_eq("functions written and called in turns", bad, 0);
}

/* There is no memory below 4 GiB, but there may be a segment that begins there. */
static void test_wrap(void) {
    static const uint8_t jumps[] = {0xb8, 1, 0, 0, 0, 0xeb, 0x00}; /* mov $1, %eax; jmp .+0 */
    uint8_t *end = code + 4096;
    ulong r = 0;

    /* EIP FFFFFFF9..FFFFFFFF is the end of the first page, 0 the start of the second. */
    gdt_set(SEL_FREE, (uint32_t)(ulong)end, 0xfffff, 0x9b, 0xc);
    memcpy(end - sizeof(jumps), jumps, sizeof(jumps));
    memcpy(end, "\x40\xcb", 2); /* inc %eax; lret */
    for (unsigned i = 0; i < 3; i++) {
        asm volatile("push %%cs; push $1f; push %1; push %2; lret; 1:"
                     : "=a"(r)
                     : "i"(SEL_FREE), "r"((ulong) - sizeof(jumps))
                     : "memory", "cc");
        check_eq("a jump from the end of 4 GiB to 0", r, 2);
    }
    memset(end - 2, 0x90, 2);
    for (unsigned i = 0; i < 3; i++) {
        asm volatile("mov $5, %%eax; push %%cs; push $1f; push %1; push %2; lret; 1:"
                     : "=&a"(r)
                     : "i"(SEL_FREE), "r"(-2ul)
                     : "memory", "cc");
        check_eq("and from instruction to instruction", r, 6);
    }
}

int main(void) {
    code = page_alloc(2);
    test_itself();
    test_middle();
    test_functions();
    test_wrap();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes: the next instruction, the same and another page, through an alias, by string
 * operations, by a changed mapping; and by another processor with the synchronization that the SDM
 * (8.1.3) asks for.
 */
#include "apic.h"
#include "paging.h"

#define ALIAS 0x10000000000ul

static uint8_t *code;

static unsigned call(const void *at) {
    unsigned r;

    asm volatile("call *%1" : "=a"(r) : "r"(at) : "memory", "cc");
    return r;
}

/* mov $value, %eax; ret */
static void emit(uint8_t *at, uint32_t value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void test_next_instruction(void) {
    unsigned r = 0;

    for (unsigned i = 0; i < 3; i++) {
        /* The byte written is the immediate of the very next instruction. */
        asm volatile("movb %b1, 1f + 1(%%rip); 1: mov $0x55, %%al; movzbl %%al, %0"
                     : "=r"(r)
                     : "q"(i + 1)
                     : "rax", "memory");
        check_eq("the next instruction changes", r, i + 1);
    }
    asm volatile(
        "mov $0, %0; lea 2f(%%rip), %%rax; movw $0x9090, (%%rax); 2: jmp 3f; mov $7, %0; 3:"
        : "=&r"(r)::"rax", "memory");
    check_eq("a jump becomes two nops", r, 7);
    asm volatile(
        "lea 1f(%%rip), %%rdi; mov $3, %%ecx; mov $0x90, %%al; xor %0, %0; rep stosb; 1: jmp 2f; .byte 0x90; inc %0; 2:"
        : "=&r"(r)::"rax", "rcx", "rdi", "memory");
    check_eq("rep stosb over what follows it", r, 1);
}

static void test_pages(void) {
    uint8_t *across = code + 4096 - 3;

    for (unsigned i = 1; i < 4; i++) {
        emit(code, i);
        check_eq("another page", call(code), i);
        emit(across, i * 0x01010101);
        check_eq("across two pages", call(across), i * 0x01010101);
        code[4096] = (uint8_t)(i + 5); /* only on the second */
        check_eq("the second page of an instruction", call(across) >> 16 & 0xff, i + 5);
        page_map(ALIAS, (ulong)code, 1, PTE_P | PTE_W);
        emit((uint8_t *)ALIAS + 64, i);
        check_eq("written through an alias", call(code + 64), i);
        emit(code + 128, i);
        check_eq("executed through an alias", call((void *)(ALIAS + 128)), i);
    }
    for (unsigned i = 0; i < 64; i++) {
        uint8_t copy[6];

        emit(copy, i);
        memcpy(code + 256, copy, 6);
        if (call(code + 256) != i)
            check(false, "copied by rep movsb", "%u", i);
    }
    check_eq("copied by rep movsb", call(code + 256), 63);
    /* A loop that counts its own immediate up. */
    {
        static const uint8_t loop[] = {0xb8, 0,    0,    0,    0,    0xff, 0x05,
                                       0xf6, 0xff, 0xff, 0xff, 0xe2, 0xf3, 0xc3};
        unsigned r, n = 100;

        /* mov $0, %eax; incl -10(%rip) [the immediate]; loop back; ret */
        memcpy(code + 512, loop, sizeof(loop));
        asm volatile("call *%2" : "=a"(r), "+c"(n) : "r"(code + 512) : "memory", "cc");
        check_eq("a loop that changes itself", r, 99);
    }
}

/* A mapping that changes without a write: other code at the same address. */
static void test_mapping(void) {
    emit(code, 0x11);
    emit(code + 4096, 0x22);
    for (unsigned i = 0; i < 3; i++) {
        page_map(ALIAS, (ulong)code, 1, PTE_P | PTE_W);
        check_eq("mapping to the one", call((void *)ALIAS), 0x11);
        page_map(ALIAS, (ulong)code + 4096, 1, PTE_P | PTE_W);
        check_eq("mapping to the other", call((void *)ALIAS), 0x22);
    }
}

static volatile unsigned round, seen, value;

static void other(void) {
    unsigned last = 0;

    while (last < 200) {
        while (round == last)
            pause();
        last = round;
        cpuid(0, 0); /* serializes */
        value = call(code + 1024);
        seen = last;
    }
}

static void test_other_processor(void) {
    unsigned bad = 0;

    emit(code + 1024, 0);
    smp_run(1, other);
    for (unsigned i = 1; i <= 200; i++) {
        emit(code + 1024, i);
        round = i;
        if (!wait_for(&seen, i, 2000))
            break;
        bad += value != i;
    }
    check_eq("code that another processor wrote", bad, 0);
    check_eq("all rounds", seen, 200);
    smp_wait(1, 1000);
}

static volatile bool stop;
static volatile unsigned wrong;

static void hammer(void) {
    while (!stop) {
        unsigned r = call(code + 2048);

        if (r != 0x11111111 && r != 0x22222222)
            wrong++;
    }
}

/* An aligned 4-byte immediate that changes under a running loop: the old or the new one, never a
 * mix. */
static void test_running(void) {
    uint8_t *at = code + 2048 + 3; /* the immediate is aligned */

    memset(code + 2048, 0x90, 3);
    emit(at, 0x11111111);
    smp_run(1, hammer);
    for (unsigned i = 0; i < 2000; i++) {
        *(volatile uint32_t *)(at + 1) = i & 1 ? 0x11111111 : 0x22222222;
        for (volatile unsigned j = 0; j < 100; j++)
            ; /* not pause(): an engine may give the processor away for it */
    }
    stop = true;
    check(smp_wait(1, 2000), "it ends", "it does not");
    check_eq("an immediate changed under a running loop", wrong, 0);
}

int main(void) {
    code = page_alloc(2);
    test_next_instruction();
    test_pages();
    test_mapping();
    check(smp_start(1), "second processor", "%u started", smp_started);
    test_other_processor();
    test_running();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Misses of the inline TLB and the jump table, without leaving translated code for good: the way in
 * and out (bt.h tells the contract), and the refill by a page walk.
 */
#include "cpu/bt/refill.h"

#include "cpu/bt/bt.h"
#include "cpu/bt/vectors.h"
#include "cpu/x86/mmu.h"

/*
 * The guest's RSP is put aside for the host's stack, where what C may change is saved. The first
 * look does without vector registers.
 */
#define REFILL(quick, is_write, WALK)                                                              \
    __asm__("movq %%rsp, %%gs:%c[guest_rsp]\n\t"                                                   \
            "movq %%gs:%c[host_rsp], %%rsp\n\t"                                                    \
            "pushq %%rax\n\tpushq %%rcx\n\tpushq %%rdx\n\tpushq %%rsi\n\tpushq %%rdi\n\t"          \
            "pushq %%r8\n\tpushq %%r9\n\tpushq %%r10\n\tpushq %%r11\n\t"                           \
            "lahf\n\tseto %%al\n\tpushq %%rax\n\t"                                                 \
            "movq 80(%%rsp), %%rdi\n\t"                                                            \
            "movq %%gs:%c[lin], %%rsi\n\t"                                                         \
            "movl $" #is_write ", %%edx\n\t"                                                       \
            "call " #quick "\n\t" WALK(                                                            \
                is_write) "cmpl $%c[done], %%eax\n\t"                                              \
                          "je 4f\n\t"                                                              \
                          "addq $5, %%gs:%c[back]\n\t"                                             \
                          "4:\n\t"                                                                 \
                          "popq %%rax\n\taddb $127, %%al\n\tsahf\n\t"                              \
                          "popq %%r11\n\tpopq %%r10\n\tpopq %%r9\n\tpopq %%r8\n\t"                 \
                          "popq %%rdi\n\tpopq %%rsi\n\tpopq %%rdx\n\tpopq %%rcx\n\tpopq %%rax\n\t" \
                          "movq %%gs:%c[guest_rsp], %%rsp\n\t"                                     \
                          "jmpq *%%gs:%c[back]\n\t"                                                \
            :                                                                                      \
            : [guest_rsp] "i"(BT_GPR(RSP)), [host_rsp] "i"(BT_OFF(host_rsp)),                      \
              [lin] "i"(BT_OFF(refill_lin)), [back] "i"(BT_OFF(refill_back)),                      \
              [vector] "i"(BT_OFF(vector)), [zmm] "i"(BT_OFF(c.s.fpu.zmm)),                        \
              [walk] "i"(REFILL_WALK), [done] "i"(REFILL_DONE))

/* The walk gets the vector registers empty. It computes nothing in floating point, so MXCSR stays
 * the guest's. */
#define WALK(is_write)                                                                             \
    "cmpl $%c[walk], %%eax\n\t"                                                                    \
    "jne 3f\n\t"                                                                                   \
    "cmpb $0, %%gs:%c[vector]\n\t"                                                                 \
    "je 1f\n\t" VECTORS_STORE "1:\n\t"                                                             \
    "movq 80(%%rsp), %%rdi\n\t"                                                                    \
    "movq %%gs:%c[lin], %%rsi\n\t"                                                                 \
    "movl $" #is_write ", %%edx\n\t"                                                               \
    "call bt_refill_walk\n\t"                                                                      \
    "cmpb $0, %%gs:%c[vector]\n\t"                                                                 \
    "je 3f\n\t" VECTORS_LOAD "3:\n\t"
#define NO_WALK(is_write) ""

__attribute__((naked)) void bt_refill_read(void) {
    REFILL(bt_refill_quick, 0, WALK);
}

__attribute__((naked)) void bt_refill_write(void) {
    REFILL(bt_refill_quick, 1, WALK);
}

__attribute__((naked)) void bt_refill_jump(void) {
    REFILL(bt_find_quick, 0, NO_WALK);
}

enum bt_refill bt_refill_walk(struct bt_cpu *b, uint64_t lin, bool write) {
    b->stats.walked[write]++;
    return mmu_fill(&b->c, lin, write) ? bt_refill_quick(b, lin, write) : REFILL_FAILED;
}

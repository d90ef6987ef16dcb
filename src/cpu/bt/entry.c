/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In and out of translated code. All sixteen guest registers and the guest's arithmetic flags are
 * in the host's on one side, in struct bt_cpu on the other; GS points to that structure while a
 * vCPU's thread runs.
 *
 * The host's stack pointer stays in host_rsp while the guest has RSP; below it lie the callee-saved
 * registers and the pointer to the structure.
 */
#include "cpu/bt/bt.h"
#include "cpu/bt/vectors.h"

/* Offsets as assembler operands. */
#define GPR(n) [gpr##n] "i"(BT_GPR(n))

/* RAX is free in both; AX <-> arithmetic flags. */
#define FLAGS_TO_CC                                                                                \
    "lahf\n\t"                                                                                     \
    "seto %%al\n\t"                                                                                \
    "movzbl %%ah, %%ecx\n\t"                                                                       \
    "movzbl %%al, %%eax\n\t"                                                                       \
    "andl $0xd5, %%ecx\n\t"                                                                        \
    "shll $11, %%eax\n\t"                                                                          \
    "orl %%ecx, %%eax\n\t"                                                                         \
    "movl %%eax, %%gs:%c[cc]\n\t"

#define CC_TO_FLAGS                                                                                \
    "movl %%gs:%c[cc], %%ecx\n\t"                                                                  \
    "movl %%ecx, %%eax\n\t"                                                                        \
    "shrl $11, %%eax\n\t"                                                                          \
    "andl $1, %%eax\n\t"                                                                           \
    "movb %%cl, %%ah\n\t"                                                                          \
    "addb $127, %%al\n\t"                                                                          \
    "sahf\n\t"

#define EACH_BUT_RAX_RSP(M)                                                                        \
    M(1, rcx)                                                                                      \
    M(2, rdx)                                                                                      \
    M(3, rbx)                                                                                      \
    M(5, rbp)                                                                                      \
    M(6, rsi)                                                                                      \
    M(7, rdi) M(8, r8) M(9, r9) M(10, r10) M(11, r11) M(12, r12) M(13, r13) M(14, r14) M(15, r15)
#define EACH_CALLER_SAVED(M)                                                                       \
    M(1, rcx) M(2, rdx) M(6, rsi) M(7, rdi) M(8, r8) M(9, r9) M(10, r10) M(11, r11)
#define EACH_CALLEE_SAVED(M) M(3, rbx) M(5, rbp) M(12, r12) M(13, r13) M(14, r14) M(15, r15)
#define STORE_GPR(n, r) "movq %%" #r ", %%gs:%c[gpr" #n "]\n\t"
#define LOAD_GPR(n, r) "movq %%gs:%c[gpr" #n "], %%" #r "\n\t"

#define OPERANDS                                                                                   \
    [cc] "i"(offsetof(struct bt_cpu, c.cc)), [host] "i"(BT_OFF(host_rsp)),                         \
        [to] "i"(BT_OFF(jump_to)), [link] "i"(BT_OFF(link_exit)), [save] "i"(BT_OFF(save_rax)),    \
        [linked] "i"(BT_OFF(leave_linked)), [site] "i"(BT_OFF(site)),                              \
        [via] "i"(offsetof(struct bt_site, via)), [quick] "i"(offsetof(struct bt_site, quick)),    \
        [vector] "i"(BT_OFF(vector)), [zmm] "i"(BT_OFF(c.s.fpu.zmm)),                              \
        [mxcsr] "i"(BT_OFF(c.s.fpu.mxcsr)), [hostmxcsr] "i"(BT_OFF(host_mxcsr)), GPR(0), GPR(1),   \
        GPR(2), GPR(3), GPR(4), GPR(5), GPR(6), GPR(7), GPR(8), GPR(9), GPR(10), GPR(11), GPR(12), \
        GPR(13), GPR(14), GPR(15)

/*
 * RAX is free. MXCSR is loaded only where it differs: arithmetic right behind LDMXCSR is slow
 * (thunk.c).
 */
#define VECTORS_OUT                                                                                \
    "cmpb $0, %%gs:%c[vector]\n\t"                                                                 \
    "je 7f\n\t" VECTORS_STORE "stmxcsr %%gs:%c[mxcsr]\n\t"                                         \
    "movl %%gs:%c[mxcsr], %%eax\n\t"                                                               \
    "xorl %%gs:%c[hostmxcsr], %%eax\n\t"                                                           \
    "testl $0xffc0, %%eax\n\t"                                                                     \
    "jz 7f\n\t"                                                                                    \
    "ldmxcsr %%gs:%c[hostmxcsr]\n\t"                                                               \
    "7:\n\t"

#define VECTORS_IN                                                                                 \
    "cmpb $0, %%gs:%c[vector]\n\t"                                                                 \
    "je 8f\n\t" VECTORS_LOAD "stmxcsr %%gs:%c[hostmxcsr]\n\t"                                      \
    "movl %%gs:%c[mxcsr], %%eax\n\t"                                                               \
    "cmpl %%gs:%c[hostmxcsr], %%eax\n\t"                                                           \
    "je 8f\n\t"                                                                                    \
    "ldmxcsr %%gs:%c[mxcsr]\n\t"                                                                   \
    "8:\n\t"

#define RESUME                                                                                     \
    VECTORS_IN CC_TO_FLAGS EACH_BUT_RAX_RSP(LOAD_GPR) "movq %%gs:%c[gpr0], %%rax\n\t"              \
                                                      "movq %%gs:%c[gpr4], %%rsp\n\t"              \
                                                      "jmpq *%%gs:%c[to]\n\t"

#define RETURN                                                                                     \
    "popq %%rdi\n\t"                                                                               \
    "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbp\n\tpopq %%rbx\n\t"         \
    "ret\n\t"

/* The bodies of naked functions: the compiler adds nothing. */
__attribute__((naked)) void bt_enter(struct bt_cpu *b __attribute__((unused)),
                                     uint64_t code __attribute__((unused))) {
    __asm__(
        "pushq %%rbx\n\tpushq %%rbp\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
        "pushq %%rdi\n\t"
        "movq %%rsp, %%gs:%c[host]\n\t"
        "movq %%rsi, %%gs:%c[to]\n\t" RESUME
        :
        : OPERANDS);
}

/* With the exit's record in link_exit, or c.s.rip, and all registers and flags the guest's. */
__attribute__((naked)) void bt_leave_linked(void) {
    __asm__("movq %%rax, %%gs:%c[gpr0]\n\t"
            "movq %%rsp, %%gs:%c[gpr4]\n\t" EACH_BUT_RAX_RSP(STORE_GPR) FLAGS_TO_CC VECTORS_OUT
            "movq %%gs:%c[host], %%rsp\n\t"
            "movq (%%rsp), %%rdi\n\t"
            "call bt_exit_run\n\t"
            "testb %%al, %%al\n\t"
            "jz 1f\n\t" RESUME "1:\n\t" RETURN
            :
            : OPERANDS);
}

/* From an exit's stub: RAX is the exit's record, the guest's is in save_rax. */
__attribute__((naked)) void bt_leave(void) {
    __asm__("movq %%rax, %%gs:%c[link]\n\t"
            "movq %%gs:%c[save], %%rax\n\t"
            "jmpq *%%gs:%c[linked]\n\t"
            :
            : OPERANDS);
}

/*
 * Called with the guest's RSP stored, the host's in place, and the site's record named. At this
 * point RSP is 16-byte aligned.
 */
__attribute__((naked)) void bt_call_out(void) {
    __asm__("movq %%rax, %%gs:%c[gpr0]\n\t"
            "movq %%gs:%c[site], %%rax\n\t"
            "jmpq *%c[via](%%rax)\n\t"
            :
            : OPERANDS);
}

/* RAX is stored already. */
__attribute__((naked)) void bt_call_engine(void) {
    __asm__(EACH_BUT_RAX_RSP(STORE_GPR) FLAGS_TO_CC VECTORS_OUT "popq %%rax\n\t"
                                                                "movq %%rax, %%gs:%c[to]\n\t"
                                                                "jmp bt_call_stored\n\t"
            :
            : OPERANDS);
}

/* All is. */
__attribute__((naked)) void bt_call_stored(void) {
    __asm__("movq %%gs:%c[site], %%rsi\n\t"
            "movq (%%rsp), %%rdi\n\t"
            "call bt_site_run\n\t"
            "testb %%al, %%al\n\t"
            "jz 1f\n\t" RESUME "1:\n\t" RETURN
            :
            : OPERANDS);
}

/* The registers that functions keep stay where they are, unless the engine is called after all. */
__attribute__((naked)) void bt_call_quick(void) {
    __asm__(EACH_CALLER_SAVED(STORE_GPR) FLAGS_TO_CC VECTORS_OUT
            "popq %%rax\n\t"
            "movq %%rax, %%gs:%c[to]\n\t"
            "movq %%gs:%c[site], %%rsi\n\t"
            "movq (%%rsp), %%rdi\n\t"
            "call *%c[quick](%%rsi)\n\t"
            "testb %%al, %%al\n\t"
            "jz 1f\n\t" VECTORS_IN CC_TO_FLAGS EACH_CALLER_SAVED(
                LOAD_GPR) "movq %%gs:%c[gpr0], %%rax\n\t"
                          "movq %%gs:%c[gpr4], %%rsp\n\t"
                          "jmpq *%%gs:%c[to]\n\t"
                          "1:\n\t" EACH_CALLEE_SAVED(STORE_GPR) "jmp bt_call_stored\n\t"
            :
            : OPERANDS);
}

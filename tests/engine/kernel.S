/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel of a lockstep guest: position-independent code that lockstep.c copies to guest memory.
 * Faults on data pages are mended and retried; behind any other the guest goes on 8 bytes further
 * on. Each is logged: vector, error code, RIP, CR2, RFLAGS.
 */
#include "layout.h"

    .section .rodata
    .globl lockstep_kernel, lockstep_kernel_end, lockstep_system_call
lockstep_kernel:
/* 256 entries of 16 bytes. */
    .set vector, 0
    .rept 256
    .p2align 4
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    .if vector == EXIT_VECTOR
    hlt
    .endif
    jmp trap
    .set vector, vector + 1
    .endr

    .p2align 4
trap:
    push %rax
    push %rcx
    push %rdx
    movabs $(KERNEL + P_LOG), %rax
    incl 8(%rax)
    cmpl $LOG_ENTRIES, 8(%rax)
    ja full
    mov (%rax), %rcx
    addq $40, (%rax)
    mov 24(%rsp), %rdx
    mov %rdx, (%rcx)
    mov 32(%rsp), %rdx
    mov %rdx, 8(%rcx)
    mov 40(%rsp), %rdx
    mov %rdx, 16(%rcx)
    mov %cr2, %rdx
    mov %rdx, 24(%rcx)
    mov 56(%rsp), %rdx
    mov %rdx, 32(%rcx)
    cmpl $1, 24(%rsp)
    je out
    cmpl $3, 24(%rsp)
    je out
    cmpl $14, 24(%rsp)
    jne skip
    mov %cr2, %rcx
    btr $28, %rcx
    mov %rcx, %rdx
    shr $21, %rdx
    cmp $(WINDOW >> 21), %rdx
    jne skip
    shr $12, %rcx
    and $511, %ecx
    cmp $HOLE_PAGE, %ecx
    jae skip
    movabs $(KERNEL + P_PT), %rax
    orl $3, (%rax, %rcx, 8)
    mov %cr2, %rdx
    invlpg (%rdx)
    jmp out
skip:
    addq $8, 40(%rsp)
out:
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
full:
    hlt
    jmp full

lockstep_system_call:
    add %rcx, %rax
    sysretq
lockstep_kernel_end:

    .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: Apache-2.0 */
/* 256 interrupt entries that end in trap_dispatch(), and the way to CPL 3 and back. */
#include "sel.h"

    .text
    .globl trap_entries
    .balign 16
trap_entries:
    vector = 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    .else
#ifdef __x86_64__
    pushq $0
#else
    pushl $0
#endif
    .endif
#ifdef __x86_64__
    pushq $vector
#else
    pushl $vector
#endif
    jmp trap_common
    vector = vector + 1
    .endr

#ifdef __x86_64__
trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    cld
    call trap_dispatch
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    /* void user_enter(void (*fn)(void), uint64_t flags): returns through user_leave(). */
    .globl user_enter
user_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, user_kernel_sp
    movq $user_stack_top - 8, %rax
    movq $user_return, (%rax)
    pushq $SEL_UDATA
    pushq %rax
    pushq %rsi
    pushq $SEL_UCODE64
    pushq %rdi
    iretq
user_return:
    int $VECTOR_USER_EXIT

    .globl user_leave
user_leave:
    movq user_kernel_sp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
#else
trap_common:
    pushal
    pushl %ds
    pushl %es
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %esp, %eax
    cld
    pushl %eax
    call trap_dispatch
    addl $4, %esp
    popl %es
    popl %ds
    popal
    addl $8, %esp
    iretl

    .globl user_enter
user_enter:
    movl 4(%esp), %eax
    movl 8(%esp), %ecx
    pushl %ebx
    pushl %ebp
    pushl %esi
    pushl %edi
    movl %esp, user_kernel_sp
    movl $user_stack_top - 4, %edx
    movl $user_return, (%edx)
    pushl $SEL_UDATA
    pushl %edx
    pushl %ecx
    pushl $SEL_UCODE32
    pushl %eax
    movl $SEL_UDATA, %eax
    movl %eax, %ds
    movl %eax, %es
    iretl
user_return:
    int $VECTOR_USER_EXIT

    .globl user_leave
user_leave:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl user_kernel_sp, %esp
    popl %edi
    popl %esi
    popl %ebp
    popl %ebx
    ret
#endif

    .bss
    .globl user_kernel_sp
user_kernel_sp:
    .skip 8
    .balign 4096
    .globl user_stack, user_stack_top, trap_stack_top
user_stack:
    .skip 8192
user_stack_top:
    .skip 8192
trap_stack_top:
    .section .note.GNU-stack, "", @progbits

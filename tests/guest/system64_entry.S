/* SPDX-License-Identifier: Apache-2.0 */
/* Entries for system64.c, and the user code that reaches them. */
#include "sel.h"

    .macro look
    movq %rcx, entry_rcx
    movq %r11, entry_r11
    movq %rsp, entry_rsp
    pushfq
    popq entry_flags
    movl %cs, %eax
    movq %rax, entry_cs
    movl %ss, %eax
    movq %rax, entry_ss
    incq entry_count
    .endm

    .text
    .globl entry_syscall, entry_sysret32, entry_sysenter, entry_sysexit32, entry_gate
entry_syscall:
    look
    sysretq
entry_sysret32:
    movl $compat_code, %ecx
    sysretl
entry_sysenter:
    look
    movq $after_sysenter, %rdx
    movq %rbx, %rcx
    sysexitq
entry_sysexit32:
    movl $compat_code, %edx
    movq %rbx, %rcx
    sysexitl
entry_gate:
    look
    movq (%rsp), %rax
    movq %rax, entry_frame
    movq 8(%rsp), %rax
    movq %rax, entry_frame + 8
    movq 24(%rsp), %rax
    movq %rax, entry_frame + 24
    lretq

    .globl user_syscall, user_after_syscall, user_sysenter, user_gate, user_after_gate, user_sysret
    .globl user_swapgs, user_compat, user_syscall32, user_noncanonical_return
user_syscall:
    syscall
user_after_syscall:
    ret
user_sysenter:
    movq %rsp, %rbx
    sysenter
after_sysenter:
    ret
user_gate:
    lcall *gate_pointer
user_after_gate:
    ret
user_sysret:
    sysretq
user_swapgs:
    swapgs
user_noncanonical_return:
    movabsq $0x800000000000, %rax
    pushq %rax
    ret
user_compat:
    ljmpl *compat_pointer
user_syscall32:
    ljmpl *syscall32_pointer

    .code32
    .globl compat_code
compat_code:
    movl $SEL_UDATA, %eax
    movl %eax, %ds
    movl $0x12345678, %eax
    .byte 0x40 /* inc %eax here, REX in 64-bit code */
    movl %eax, compat_result
    int $VECTOR_USER_EXIT
syscall32:
    syscall

    .data
    .balign 8
gate_pointer:
    .long 0
    .word SEL_FREE + 3
compat_pointer:
    .long compat_code
    .word SEL_UCODE32
syscall32_pointer:
    .long syscall32
    .word SEL_UCODE32

    .bss
    .balign 16
    .globl entry_rcx, entry_r11, entry_rsp, entry_flags, entry_cs, entry_ss, entry_count, compat_result, entry_stack_top, entry_frame
entry_rcx: .skip 8
entry_r11: .skip 8
entry_rsp: .skip 8
entry_flags: .skip 8
entry_cs: .skip 8
entry_ss: .skip 8
entry_count: .skip 8
compat_result: .skip 8
entry_frame: .skip 32
    .skip 4096
entry_stack_top:
    .section .note.GNU-stack, "", @progbits

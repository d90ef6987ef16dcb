/* SPDX-License-Identifier: Apache-2.0 */
/* Where a started processor begins: real mode at 0x7000, then long mode with boot.S's tables and smp_main(number). */
#include "sel.h"

    .text
    .globl smp_trampoline, smp_trampoline_end
    .code16
smp_trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl smp_gdtr - smp_trampoline
    movl %cr0, %eax
    andl $0x9fffffff, %eax /* INIT left CD and NW */
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $smp32
smp_gdtr:
    .word GDT_ENTRIES * 8 - 1
    .long gdt
smp_trampoline_end:
    .code32
smp32:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl $page_tables, %eax
    movl %eax, %cr3
    movl $smp_temporary_top, %esp
    /* One after the other: enter_long uses a stack. */
1:  lock btsl $0, smp_lock
    jc 1b
    call enter_long
    .code64
    movl $1, %edi
    lock xaddl %edi, smp_next
    movl %edi, %eax
    incl %eax
    shll $13, %eax
    leaq smp_stacks(%rax), %rsp
    movl $0, smp_lock
    call smp_main

    .data
smp_next:
    .long 1
smp_lock:
    .long 0
    .bss
    .balign 16
    .skip 64
smp_temporary_top:
    .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves long mode through compatibility mode, turns paging off and on, and comes back. */
#include "sel.h"

    .text
    .globl paging_off_and_on
paging_off_and_on:
    pushq %rbx
    movq %rsp, %rbx
    ljmpl *to_compat
    .code32
compat:
    movl $SEL_DATA, %eax
    movl %eax, %ss
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    jmp 1f
1:  orl $0x80000000, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE, $1f
    .code64
1:  movq %rbx, %rsp
    popq %rbx
    ret
    .data
to_compat:
    .long compat
    .word SEL_CODE32
    .section .note.GNU-stack, "", @progbits

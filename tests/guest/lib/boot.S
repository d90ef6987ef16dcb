/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot entry of a test guest: 32-bit guests go on with paging off, 64-bit guests behind an identity
 * map of the first 4 GiB (2 MiB pages, writable, user). Then guest_init() and main().
 */
#include "sel.h"

    .section .multiboot, "a"
    .balign 4
header:
    .long 0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
    .long header, image_start, image_end, bss_end, start

    .text
    .code32
    .globl start
start:
    cli
    cld
    movl $stack_top, %esp
    movl %ebx, multiboot_info
#ifdef __x86_64__
    movl $page_tables, %edi
    leal 4096 + 7(%edi), %eax
    movl %eax, (%edi)
    movl $page_tables + 2 * 4096 + 7, %eax
    xorl %ecx, %ecx
2:  movl %eax, 4096(%edi, %ecx, 8)
    addl $4096, %eax
    incl %ecx
    cmpl $4, %ecx
    jb 2b
    movl $0x87, %eax
    xorl %ecx, %ecx
3:  movl %eax, 8192(%edi, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 3b
    movl %edi, %cr3
    call enter_long
    .code64
    movq $stack_top, %rsp
    call guest_init
    call main
    call guest_done
1:  hlt
    jmp 1b

    /* Turns long mode on with CR3 as it is; returns to the caller's next instruction as 64-bit code. */
    .code32
    .globl enter_long
enter_long:
    movl %cr4, %eax
    orl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax /* SCE, LME, NXE */
    wrmsr
    movl %cr0, %eax
    andl $~0x4, %eax
    orl $0x80010022, %eax /* PG, WP, NE, MP */
    movl %eax, %cr0
    lgdtl gdtr
    popl %edx
    ljmpl $SEL_CODE, $1f
    .code64
1:  movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    jmp *%rdx
#else
    lgdtl gdtr
    ljmpl $SEL_CODE, $1f
1:  movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl %cr0, %eax
    andl $~0x4, %eax
    orl $0x22, %eax
    movl %eax, %cr0
    movl %cr4, %eax
    orl $0x600, %eax
    movl %eax, %cr4
    call guest_init
    call main
    call guest_done
1:  hlt
    jmp 1b
#endif

    .data
    .balign 16
    .globl gdt, gdtr
gdt:
    .quad 0
#ifdef __x86_64__
    .quad 0x00af9b000000ffff /* SEL_CODE */
#else
    .quad 0x00cf9b000000ffff
#endif
    .quad 0x00cf93000000ffff /* SEL_DATA */
    .quad 0x00cffb000000ffff /* SEL_UCODE32 */
    .quad 0x00cff3000000ffff /* SEL_UDATA */
    .quad 0x00affb000000ffff /* SEL_UCODE64 */
    .quad 0x00cff3000000ffff /* SEL_UDATA64 */
    .quad 0x00cf9b000000ffff /* SEL_CODE32 */
    .quad 0x00009b000000ffff /* SEL_CODE16 */
    .quad 0x000093000000ffff /* SEL_DATA16 */
    .quad 0, 0               /* SEL_TSS, set by guest_init() */
    .fill GDT_ENTRIES - 12, 8, 0
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .long gdt, 0
    .globl multiboot_info
multiboot_info:
    .long 0

    .bss
    .balign 4096
    .globl page_tables
page_tables:
    .skip 6 * 4096
    .skip 16384
    .globl stack_top
stack_top:
    .section .note.GNU-stack, "", @progbits

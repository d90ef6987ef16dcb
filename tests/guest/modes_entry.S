/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways between modes for modes.c: from 32-bit protected mode through 16-bit protected to real mode and back; from
 * 32-bit to long mode, its compatibility modes, and back. What runs with 16-bit offsets is copied to LOW.
 */
#include "sel.h"

#define LOW 0x8000
#define AT(label) (label - low_start + LOW)
#define RESULT 0x6000 /* where real-mode code leaves words for C */

    .text
    .code32
    /* void real_run(void (*low_function)(void)): the function is one of those below. */
    .globl real_run, low_start, low_end
real_run:
    movl 4(%esp), %eax
    subl $low_start - LOW, %eax
    pushal
    movl %esp, saved_sp
    movw %ax, low_function - low_start + LOW
    lidtl real_idtr
    ljmpl $SEL_CODE16, $AT(in16)
back32:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl saved_sp, %esp
    lidtl protected_idtr
    popal
    ret

    .balign 16
low_start:
    .code16
in16:
    movw $SEL_DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmpw $0, $AT(in_real)
in_real:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $RESULT, %di
    callw *AT(low_function)
real_out:
    pushw $2 /* also ends single steps */
    popfw
    xorw %ax, %ax
    movw %ax, %ds
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $SEL_CODE, $back32
low_function:
    .word 0

    /* The handler of every vector: its number and the frame it found, then to where the test wants. */
    .globl real_handlers, real_resume
real_resume:
    .word 0
    .balign 8
real_handlers:
    vector = 0
    .rept 0x64
    .balign 8
    pushw $vector
    jmp real_common
    vector = vector + 1
    .endr
real_common:
    popw %cs:RESULT
    movw %sp, %cs:RESULT + 2
    pushw %bp
    movw %sp, %bp
    pushw %ax
    movw 2(%bp), %ax
    movw %ax, %cs:RESULT + 4
    movw 4(%bp), %ax
    movw %ax, %cs:RESULT + 6
    movw 6(%bp), %ax
    movw %ax, %cs:RESULT + 8
    pushfw
    popw %cs:RESULT + 10
    cmpw $0, %cs:AT(real_resume)
    je 1f
    movw %cs:AT(real_resume), %ax
    movw %ax, 2(%bp)
1:  popw %ax
    popw %bp
    iretw

    .macro low name
    .globl \name
\name:
    .endm

    low real_int
    sti
    pushw $0x1234
    int $0x60
after_int:
    movw %sp, RESULT + 12
    popw %ax
    ret
    /* Between these is what may trap. */
    .macro faults name
    low \name
    movw $AT(9f), AT(real_resume)
    .endm
    .macro end
9:  movw $0, AT(real_resume)
    ret
    .endm
    faults real_wrap_read
    movw 0xffff, %ax
    end
    faults real_wrap_dword
    movl 0xfffd, %eax
    end
    faults real_far_offset
    .byte 0x67, 0xa0 /* addr32 movb 0x10000, %al, which clang's assembler refuses in 16-bit code */
    .long 0x10000
    end
    faults real_jump
    ljmpl $0, $0x10000
    end
    faults real_divide
    xorw %cx, %cx
real_divide_at:
    divw %cx
    end
    faults real_lldt
    .byte 0x0f, 0x00, 0xd0
    end
    faults real_arpl
    .byte 0x63, 0xc0
    end
    faults real_ud2
    ud2
    end
    faults real_int3
    int3
    end
    faults real_into
    movb $0x7f, %al
    incb %al
    into
    end
    faults real_bound
    movw $9, %ax
    .byte 0x62, 0x06 /* boundw %ax, bounds */
    .word AT(bounds)
    end
    faults real_no_vector
    int $0x61
    end
    faults real_above_1m
    pushw %ds
    movw $0xffff, %ax
    movw %ax, %ds
    movl 0x10, %eax
    popw %ds
    movl %eax, RESULT + 12
    end
    faults real_push_wrap
    movw %sp, %bx
    xorw %sp, %sp
    pushw $0x7788
    movw %sp, RESULT + 12
    movw %bx, %sp
    movw 0xfffe, %ax
    movw %ax, RESULT + 14
    end
    faults real_string
    movw $0xfffe, %si
    cld
    lodsw
    lodsb
    movw %si, RESULT + 12
    end
    faults real_ea_wrap
    movw $0xffff, %bx
    movb 0x7(%bx), %al
    movb %al, RESULT + 12
    end
    faults real_far
    lcallw $0x10, $(AT(far_target) - 0x100)
    movw %ax, RESULT + 12
    end
    faults real_cpuid
    movl $0x80000000, %eax
    cpuid
    movl %eax, RESULT + 12
    end
    faults real_rdmsr
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, RESULT + 12
    end
    faults real_ret32
    pushl $AT(9f)
    retl
    end
    faults real_step
    pushfw
    popw %ax
    orw $0x100, %ax
    pushw %ax
    popfw
    nop
    nop
    end
far_target:
    movw %cs, %ax
    lretw
bounds:
    .word 1, 5

    .macro far_load
    .byte 0x66, 0x67, 0xa1 /* addr32 movl 0x100004, %eax */
    .long 0x100004
    .endm

    /* Unreal mode: DS keeps the 4 GiB limit of protected mode in real mode. */
    low real_unreal
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $SEL_DATA, %bx
    movw %bx, %ds
    andb $0xfe, %al
    movl %eax, %cr0
    jmp 1f
1:  far_load
    movl %eax, RESULT + 12
    xorw %ax, %ax
    movw %ax, %ds
    far_load /* a load in real mode changes the base alone */
    movl %eax, RESULT + 16
    movl $1, %eax
    movl %eax, RESULT + 20
    ret
    low real_divide_offset
    .word AT(real_divide_at)
    low real_after_int_offset
    .word AT(after_int)

    .code16
compat16:
    movw $0x1111, %ax
    .byte 0x05, 0x11, 0x11 /* add $0x1111, %ax: with 32-bit operands it would eat the next instruction */
    movl %eax, %ecx
    ljmpl $SEL_CODE, $compat32_again
low_end:

    /* void long_run(void): 64-bit code and both kinds of compatibility code, with CR3 as it is. */
    .text
    .code32
    .globl long_run
long_run:
    pushal
    movl %esp, saved_sp
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %eax, long_result /* LMA is still 0 */
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    rdmsr
    movl %eax, long_result + 4
    movl $1, %eax
    .byte 0x40 /* inc %eax: compatibility mode */
    movl %eax, long_result + 8
    ljmpl $SEL_FREE, $in64
    .code64
in64:
    movabsq $0x123456789abcdef0, %r8
    addq $1, %r8
    movq %r8, long_result + 16(%rip)
    leaq in64(%rip), %rax
    movl %eax, long_result + 12(%rip)
    xorl %eax, %eax
    movl %eax, %ds
    movq long_result + 16(%rip), %r9 /* a null DS does not matter */
    movq %r9, long_result + 24(%rip)
    movq %cr0, %rax
    ljmpl *to_compat(%rip)
    .code32
compat32:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    ljmpl $SEL_CODE16, $AT(compat16)
compat32_again:
    movl %ecx, long_result + 32
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, long_result + 36
    andl $~0x100, %eax
    wrmsr
    movl %cr4, %eax
    andl $~0x20, %eax
    movl %eax, %cr4
    movl $SEL_DATA, %eax
    movl %eax, %ss
    movl saved_sp, %esp
    popal
    ret
    .globl in64

    .data
to_compat:
    .long compat32
    .word SEL_CODE
    .globl real_idtr
real_idtr:
    .word 0x3ff
    .long 0
    .globl protected_idtr
protected_idtr:
    .word 2047
    .long idt
saved_sp:
    .long 0
    .balign 8
    .globl long_result
long_result:
    .skip 64
    .section .note.GNU-stack, "", @progbits

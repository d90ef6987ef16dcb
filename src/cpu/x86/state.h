/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The architectural state of one x86-64 vCPU, as every engine loads and stores it at an instruction
 * boundary. Names follow the Intel SDM, volumes 1 and 3A.
 */
#ifndef RINGFENCE_CPU_X86_STATE_H
#define RINGFENCE_CPU_X86_STATE_H

#include <stdbool.h>
#include <stdint.h>

enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum x86_sreg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

/* Segment attributes as in bits 8..15 and 20..23 of a descriptor's upper half, moved down (as VMX
 * and KVM keep them). */
enum {
    SEG_TYPE =
        0x000f, /* with S: bit 0 accessed, 1 writable/readable, 2 expand-down/conforming, 3 code */
    SEG_S = 0x0010,
    SEG_DPL = 0x0060,
    SEG_P = 0x0080,
    SEG_AVL = 0x1000,
    SEG_L = 0x2000,
    SEG_DB = 0x4000,
    SEG_G = 0x8000,
    SEG_UNUSABLE = 0x10000, /* a null selector was loaded */
};

struct x86_seg {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied: the last valid offset */
    uint32_t attr;
    uint16_t sel;
};

struct x86_dtr {
    uint64_t base;
    uint16_t limit;
};

enum {
    FLAG_CF = 1u << 0,
    FLAG_FIXED = 1u << 1,
    FLAG_PF = 1u << 2,
    FLAG_AF = 1u << 4,
    FLAG_ZF = 1u << 6,
    FLAG_SF = 1u << 7,
    FLAG_TF = 1u << 8,
    FLAG_IF = 1u << 9,
    FLAG_DF = 1u << 10,
    FLAG_OF = 1u << 11,
    FLAG_IOPL = 3u << 12,
    FLAG_NT = 1u << 14,
    FLAG_RF = 1u << 16,
    FLAG_VM = 1u << 17,
    FLAG_AC = 1u << 18,
    FLAG_VIF = 1u << 19,
    FLAG_VIP = 1u << 20,
    FLAG_ID = 1u << 21,
    FLAG_ARITH = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};

enum {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_ET = 1u << 4,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR0_AM = 1u << 18,
    CR0_NW = 1u << 29,
    CR0_CD = 1u << 30,
    CR0_PG = 1u << 31,
};

enum {
    CR4_VME = 1u << 0,
    CR4_PVI = 1u << 1,
    CR4_TSD = 1u << 2,
    CR4_DE = 1u << 3,
    CR4_PSE = 1u << 4,
    CR4_PAE = 1u << 5,
    CR4_MCE = 1u << 6,
    CR4_PGE = 1u << 7,
    CR4_PCE = 1u << 8,
    CR4_OSFXSR = 1u << 9,
    CR4_OSXMMEXCPT = 1u << 10,
    CR4_UMIP = 1u << 11,
    CR4_LA57 = 1u << 12,
    CR4_VMXE = 1u << 13,
    CR4_SMXE = 1u << 14,
    CR4_FSGSBASE = 1u << 16,
    CR4_PCIDE = 1u << 17,
    CR4_OSXSAVE = 1u << 18,
    CR4_SMEP = 1u << 20,
    CR4_SMAP = 1u << 21,
    CR4_PKE = 1u << 22,
    CR4_PKS = 1u << 24,
};

enum {
    EFER_SCE = 1u << 0,
    EFER_LME = 1u << 8,
    EFER_LMA = 1u << 10,
    EFER_NXE = 1u << 11,
    EFER_SVME = 1u << 12,
    EFER_FFXSR = 1u << 14,
};

enum {
    XCR0_X87 = 1u << 0,
    XCR0_SSE = 1u << 1,
    XCR0_AVX = 1u << 2,
    XCR0_OPMASK = 1u << 5,
    XCR0_ZMM_HI256 = 1u << 6,
    XCR0_HI16_ZMM = 1u << 7,
    XCR0_PKRU = 1u << 9,
};

/* Exception vectors. */
enum {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
};

/* x87, MMX (aliased to st), SSE, AVX and AVX-512 registers. */
struct x86_fpu {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged, as in FXSAVE: bit n set = physical register n not empty */
    uint16_t fop;
    uint64_t fip, fdp;
    uint16_t fcs, fds;
    uint32_t mxcsr;
    _Alignas(16) uint8_t st[8][16];   /* ST(0)..ST(7), relative to TOP as in FXSAVE; 80 bits each */
    _Alignas(64) uint8_t zmm[32][64]; /* XMM and YMM are the low parts */
    uint64_t k[8];
};

#define X86_MTRR_VAR 8

/* Model-specific registers that are plain storage to the processor. */
struct x86_msrs {
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, debugctl, xss, pkrs;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[X86_MTRR_VAR], mtrr_mask[X86_MTRR_VAR];
    uint64_t mcg_status, mcg_ctl, tsc_adjust;
    uint64_t feature_control, arch_capabilities;
};

enum x86_activity { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI, X86_SHUTDOWN };

struct x86_state {
    uint64_t gpr[16];
    uint64_t rip;  /* directly behind gpr[15]: decoded operands address it by offset */
    uint64_t zero; /* always 0: the base or index register of an operand that has none */
    uint64_t rflags;
    struct x86_seg seg[6], ldtr, tr;
    struct x86_dtr gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    uint64_t dr[8];    /* 0..3, 6, 7 are used */
    uint64_t pdpte[4]; /* PAE paging: loaded by MOV CR3 (SDM 3A 4.4.1) */
    struct x86_msrs msr;
    int64_t tsc_offset; /* guest TSC = clock_tsc() + tsc_offset */
    uint32_t pkru;      /* rights of the protection keys of user pages */
    struct x86_fpu fpu;
    uint64_t dr6_pending; /* debug conditions that were met and are not reported yet */
    bool nmi_blocked;     /* between NMI delivery and IRET */
    /* The next eight bytes are all zero in the common case; loops test them as one word. */
    _Alignas(8) enum x86_activity activity;
    bool shadow_sti;   /* interrupts are inhibited for the next instruction */
    bool shadow_movss; /* interrupts and debug traps are inhibited for the next instruction */
    bool nmi_pending;
    bool zero_pad;
    /* The local APIC keeps its own state (dev/lapic.h), TPR (CR8) and IA32_APIC_BASE included. */
};

/* Power-up state (SDM 3A 9.1.1, table 9-1); `bsp` picks the activity. */
void x86_state_reset(struct x86_state *s, bool bsp);
/* INIT# (same table): keeps caches, x87 and SSE state, and most MSRs. Leaves WAIT_SIPI unless bsp.
 */
void x86_state_init_ipi(struct x86_state *s, bool bsp);
/* Startup IPI: real mode at vector:0000. */
void x86_state_sipi(struct x86_state *s, uint8_t vector);

#endif

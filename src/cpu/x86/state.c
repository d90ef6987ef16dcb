/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state after power-up, INIT and a startup IPI: SDM 3A 10.1.1, table 10-1, and 9.4.4. What the
 * table leaves to the model (DX, IA32_MISC_ENABLE, IA32_ARCH_CAPABILITIES) says what is true of a
 * software engine.
 */
#include "cpu/x86/state.h"

#include <string.h>

/*
 * IA32_ARCH_CAPABILITIES. A guest's speculation is not the host's: its branches and loads are data
 * to the engine, so nothing that leaks between privileges on real processors leaks here, and guests
 * are told that they need none of the costly mitigations: no separate page tables (RDCL_NO), no
 * retpolines (IBRS_ALL), no aligned thunks (ITS_NO). Linux clears branch history on every system
 * call whatever BHI_NO says, unless CPUID offers BHI_CTRL, which it therefore does.
 */
enum {
    ARCH_CAP_RDCL_NO = 1u << 0,
    ARCH_CAP_IBRS_ALL = 1u << 1,
    ARCH_CAP_SKIP_L1DFL_VMENTRY = 1u << 3,
    ARCH_CAP_SSB_NO = 1u << 4,
    ARCH_CAP_MDS_NO = 1u << 5,
    ARCH_CAP_IF_PSCHANGE_MC_NO = 1u << 6,
    ARCH_CAP_TAA_NO = 1u << 8,
    ARCH_CAP_SBDR_SSDP_NO = 1u << 13,
    ARCH_CAP_FBSDP_NO = 1u << 14,
    ARCH_CAP_PSDP_NO = 1u << 15,
    ARCH_CAP_BHI_NO = 1u << 20,
    ARCH_CAP_PBRSB_NO = 1u << 24,
    ARCH_CAP_GDS_NO = 1u << 26,
    ARCH_CAP_RFDS_NO = 1u << 27,
};
#define ARCH_CAP_ITS_NO (1ull << 62)

#define ARCH_CAPABILITIES                                                                          \
    (ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL_VMENTRY | ARCH_CAP_SSB_NO |        \
     ARCH_CAP_MDS_NO | ARCH_CAP_IF_PSCHANGE_MC_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO |      \
     ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO |                  \
     ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO)

/* Fast strings on; no branch trace store, no PEBS. */
#define MISC_ENABLE_RESET (1u | 1u << 11 | 1u << 12)

#define FAMILY_6_SIGNATURE 0x600u
#define ATTR_RW_DATA (SEG_P | SEG_S | 3)
#define ATTR_LDT (SEG_P | 2)
#define ATTR_BUSY_TSS (SEG_P | 11)
#define DR6_RESET 0xffff0ff0u
#define DR7_RESET 0x400u
#define PAT_RESET 0x0007040600070406ull
#define FEATURE_CONTROL_LOCKED 1u

static void reset_segments(struct x86_state *s) {
    const struct x86_seg data = {.limit = 0xffff, .attr = ATTR_RW_DATA};
    for (unsigned n = 0; n < 6; n++)
        s->seg[n] = data;
    s->seg[SEG_CS].sel = 0xf000;
    s->seg[SEG_CS].base = 0xffff0000;
    s->ldtr = (struct x86_seg){.limit = 0xffff, .attr = ATTR_LDT};
    s->tr = (struct x86_seg){.limit = 0xffff, .attr = ATTR_BUSY_TSS};
    s->gdtr = s->idtr = (struct x86_dtr){.limit = 0xffff};
}

/* What power-up and INIT have in common. `cache` is CR0's CD and NW. */
static void reset_core(struct x86_state *s, uint64_t cache, bool bsp) {
    memset(s->gpr, 0, sizeof s->gpr);
    memset(s->dr, 0, sizeof s->dr);
    memset(s->pdpte, 0, sizeof s->pdpte);
    s->gpr[RDX] = FAMILY_6_SIGNATURE;
    s->rip = 0xfff0;
    s->rflags = FLAG_FIXED;
    s->cr0 = CR0_ET | cache;
    s->cr2 = s->cr3 = s->cr4 = s->efer = 0;
    s->dr[6] = DR6_RESET;
    s->dr[7] = DR7_RESET;
    reset_segments(s);
    s->activity = bsp ? X86_RUNNING : X86_WAIT_SIPI;
    s->nmi_blocked = s->nmi_pending = s->shadow_sti = s->shadow_movss = false;
}

void x86_state_reset(struct x86_state *s, bool bsp) {
    memset(s, 0, sizeof *s);
    reset_core(s, CR0_CD | CR0_NW, bsp);
    s->xcr0 = XCR0_X87;
    s->fpu.fcw = 0x40;
    s->fpu.ftw = 0xff; /* eight times +0.0, which is not "empty" */
    s->fpu.mxcsr = 0x1f80;
    s->msr.pat = PAT_RESET;
    s->msr.misc_enable = MISC_ENABLE_RESET;
    s->msr.feature_control = FEATURE_CONTROL_LOCKED;
    s->msr.arch_capabilities = ARCH_CAPABILITIES;
}

void x86_state_init_ipi(struct x86_state *s, bool bsp) {
    reset_core(s, s->cr0 & (CR0_CD | CR0_NW), bsp);
}

void x86_state_sipi(struct x86_state *s, uint8_t vector) {
    if (s->activity != X86_WAIT_SIPI)
        return;
    s->seg[SEG_CS].sel = (uint16_t)(vector << 8);
    s->seg[SEG_CS].base = (uint64_t)vector << 12;
    s->rip = 0;
    s->activity = X86_RUNNING;
}

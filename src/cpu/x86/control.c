/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control registers and EFER (SDM 3A 2.5, 2.2.1), entering and leaving paging and long mode (SDM
 * 3A 4.1, 10.8.5), and what each change invalidates (SDM 3A 4.10.4.1; the software TLB also caches
 * what WP, PSE, SMEP, SMAP and NXE decide, so their changes empty it). 5-level paging does not
 * exist.
 */
#include "cpu/x86/control.h"

#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/trace.h"

#define CR0_WRITABLE                                                                               \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)

noreturn static void gp0(struct x86_cpu *c) {
    cpu_raise_err(c, EXC_GP, 0);
}

/* What is to be true of the mode once all registers have their new values. */
static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer) {
    return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LMA);
}

static void trace_write(struct x86_cpu *c, const char *name, uint64_t was, uint64_t is) {
    if (unlikely(c->traced & TRACE_MODE && was != is))
        cpu_trace_control(c, name, was, is);
}

/* ---- CR0 ---- */

/* SDM 3A 10.8.5: neither a 64-bit code segment nor a 16-bit TSS on the way in. */
static bool long_mode_allowed(const struct x86_cpu *c) {
    uint32_t tss = c->s.tr.attr & SEG_TYPE;
    return c->s.cr4 & CR4_PAE && !(c->s.seg[SEG_CS].attr & SEG_L) && tss != 1 && tss != 3;
}

static bool cr0_allowed(const struct x86_cpu *c, uint64_t v) {
    bool paging = v & CR0_PG;
    if (v >> 32 || (v & (CR0_NW | CR0_CD)) == CR0_NW || (v & (CR0_PG | CR0_PE)) == CR0_PG)
        return false;
    if (paging && !c->paging && c->s.efer & EFER_LME)
        return long_mode_allowed(c);
    if (!paging && c->paging)
        return !c->mode64 && !(c->s.cr4 & CR4_PCIDE);
    return true;
}

static uint64_t efer_with_paging(const struct x86_cpu *c, bool paging) {
    uint64_t efer = c->s.efer & ~(uint64_t)EFER_LMA;
    return paging && efer & EFER_LME ? efer | EFER_LMA : efer;
}

void control_set_cr0(struct x86_cpu *c, uint64_t v) {
    if (!cr0_allowed(c, v))
        gp0(c);
    v = (v & CR0_WRITABLE) | CR0_ET;
    uint64_t changed = v ^ c->s.cr0, efer = efer_with_paging(c, v & CR0_PG);
    if (pae_paging(v, c->s.cr4, efer) && changed & (CR0_CD | CR0_NW | CR0_PG))
        mmu_load_pdptes(c, c->s.cr3);
    trace_write(c, "cr0", c->s.cr0, v);
    c->s.cr0 = v;
    trace_write(c, "efer", c->s.efer, efer);
    c->s.efer = efer;
    if (changed & (CR0_PG | CR0_WP))
        mmu_flush_all(c);
    cpu_update_mode(c);
}

/* ---- CR3 ---- */

void control_set_cr3(struct x86_cpu *c, uint64_t v) {
    bool keep = c->s.cr4 & CR4_PCIDE && v & CR3_NO_FLUSH;
    if (keep)
        v &= ~CR3_NO_FLUSH;
    if (v >> c->cpuid->phys_bits)
        gp0(c);
    if (pae_paging(c->s.cr0, c->s.cr4, c->s.efer))
        mmu_load_pdptes(c, v);
    trace_write(c, "cr3", c->s.cr3, v);
    c->s.cr3 = v;
    mmu_switch_space(c, keep);
}

/* ---- CR4 ---- */

static uint64_t cr4_valid(const struct x86_cpuid *id) {
    static const struct {
        enum x86_feature feature;
        uint32_t bits;
    } known[] = {
        {FEAT_VME, CR4_VME | CR4_PVI}, {FEAT_TSC, CR4_TSD},       {FEAT_DE, CR4_DE},
        {FEAT_PSE, CR4_PSE},           {FEAT_PAE, CR4_PAE},       {FEAT_MCE, CR4_MCE},
        {FEAT_PGE, CR4_PGE},           {FEAT_NONE, CR4_PCE},      {FEAT_FXSR, CR4_OSFXSR},
        {FEAT_SSE, CR4_OSXMMEXCPT},    {FEAT_UMIP, CR4_UMIP},     {FEAT_FSGSBASE, CR4_FSGSBASE},
        {FEAT_PCID, CR4_PCIDE},        {FEAT_XSAVE, CR4_OSXSAVE}, {FEAT_SMEP, CR4_SMEP},
        {FEAT_SMAP, CR4_SMAP},         {FEAT_PKU, CR4_PKE},       {FEAT_PKS, CR4_PKS},
    };
    uint64_t valid = 0;
    for (unsigned n = 0; n < ARRAY_LEN(known); n++)
        if (x86_has(id, known[n].feature))
            valid |= known[n].bits;
    return valid;
}

static bool cr4_allowed(const struct x86_cpu *c, uint64_t v) {
    if (v & ~cr4_valid(c->cpuid))
        return false;
    if (c->lma && !(v & CR4_PAE))
        return false;
    bool set_pcide = v & CR4_PCIDE && !(c->s.cr4 & CR4_PCIDE);
    return !set_pcide || (c->lma && !(c->s.cr3 & 0xfff));
}

void control_set_cr4(struct x86_cpu *c, uint64_t v) {
    if (!cr4_allowed(c, v))
        gp0(c);
    uint64_t changed = v ^ c->s.cr4;
    if (pae_paging(c->s.cr0, v, c->s.efer) && changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP))
        mmu_load_pdptes(c, c->s.cr3);
    trace_write(c, "cr4", c->s.cr4, v);
    c->s.cr4 = v;
    if (changed &
        (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS))
        mmu_flush_all(c);
    cpu_update_mode(c);
}

void control_set_pkru(struct x86_cpu *c, uint32_t v) {
    bool changed = c->s.pkru != v;
    c->s.pkru = v;
    if (changed && c->s.cr4 & CR4_PKE)
        mmu_flush_all(c); /* the TLB holds rights with the keys taken into account */
}

/* ---- CR8 ---- */

uint64_t control_get_cr8(const struct x86_cpu *c) {
    return c->v.irqchip ? c->v.irqchip->get_cr8(c->v.apic) : 0;
}

void control_set_cr8(struct x86_cpu *c, uint64_t v) {
    if (v & ~0xfull)
        gp0(c);
    if (!c->v.irqchip)
        return;
    c->v.irqchip->set_cr8(c->v.apic, (uint8_t)v);
    /* A lower priority may let through what was pending all along. */
    atomic_fetch_or(&c->v.events, VCPU_EVENT_INTR);
}

/* ---- EFER ---- */

bool control_set_efer(struct x86_cpu *c, uint64_t v) {
    uint64_t valid = 0;
    if (x86_has(c->cpuid, FEAT_SYSCALL))
        valid |= EFER_SCE;
    if (x86_has(c->cpuid, FEAT_LM))
        valid |= EFER_LME | EFER_LMA;
    if (x86_has(c->cpuid, FEAT_NX))
        valid |= EFER_NXE;
    uint64_t changed = v ^ c->s.efer;
    if (v & ~valid || (changed & EFER_LME && c->paging))
        return false;
    v = (v & ~(uint64_t)EFER_LMA) | (c->s.efer & EFER_LMA);
    trace_write(c, "efer", c->s.efer, v);
    c->s.efer = v;
    if (changed & EFER_NXE)
        mmu_flush_all(c);
    cpu_update_mode(c);
    return true;
}

/* ---- instructions ---- */

void op_mov_to_cr(struct x86_cpu *c, const struct x86_insn *i) {
    cpu_require_cpl0(c);
    uint64_t v = reg_get(c, i->src, i->osize);
    switch (i->aux) {
    case 0:
        control_set_cr0(c, v);
        break;
    case 2:
        c->s.cr2 = v;
        break;
    case 3:
        control_set_cr3(c, v);
        break;
    case 4:
        control_set_cr4(c, v);
        break;
    default:
        control_set_cr8(c, v);
        break;
    }
}

void op_mov_from_cr(struct x86_cpu *c, const struct x86_insn *i) {
    cpu_require_cpl0(c);
    const struct x86_state *s = &c->s;
    uint64_t v = i->aux == 0   ? s->cr0
                 : i->aux == 2 ? s->cr2
                 : i->aux == 3 ? s->cr3
                 : i->aux == 4 ? s->cr4
                               : control_get_cr8(c);
    reg_set(c, i->dst, i->osize, v);
}

/* LMSW sets PE but cannot clear it. */
static void lmsw(struct x86_cpu *c, uint16_t msw) {
    const uint64_t low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    control_set_cr0(c, (c->s.cr0 & (~low | CR0_PE)) | (msw & low));
}

void op_lmsw_r(struct x86_cpu *c, const struct x86_insn *i) {
    cpu_require_cpl0(c);
    lmsw(c, reg16(c, i->dst));
}

void op_lmsw_m(struct x86_cpu *c, const struct x86_insn *i) {
    cpu_require_cpl0(c);
    lmsw(c, mmu_ld16(c, insn_linear(c, i, 2, false), i->seg));
}

void control_check_umip(struct x86_cpu *c) {
    if (c->s.cr4 & CR4_UMIP && c->cpl > 0)
        gp0(c);
}

void op_smsw_r(struct x86_cpu *c, const struct x86_insn *i) {
    control_check_umip(c);
    reg_set(c, i->dst, i->osize, c->s.cr0);
}

void op_smsw_m(struct x86_cpu *c, const struct x86_insn *i) {
    control_check_umip(c);
    mmu_st16(c, insn_linear(c, i, 2, true), (uint16_t)c->s.cr0, i->seg);
}

void op_clts(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_require_cpl0(c);
    trace_write(c, "cr0", c->s.cr0, c->s.cr0 & ~(uint64_t)CR0_TS);
    c->s.cr0 &= ~(uint64_t)CR0_TS;
}

/* ---- INVLPG, INVPCID ---- */

/* Neither limit nor type of the segment is checked; a non-canonical address makes it a NOP. */
void op_invlpg(struct x86_cpu *c, const struct x86_insn *i) {
    cpu_require_cpl0(c);
    uint64_t ea = insn_ea(c, i);
    if (!c->mode64)
        mmu_flush_page(c, (uint32_t)(ea + c->s.seg[i->seg].base));
    else if (seg_canonical(c, ea + c->base64[i->seg]))
        mmu_flush_page(c, ea + c->base64[i->seg]);
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

static bool invpcid_allowed(const struct x86_cpu *c, uint64_t type, const uint64_t desc[2]) {
    if (type > INVPCID_ALL_NONGLOBAL || desc[0] >> 12)
        return false;
    if (type >= INVPCID_ALL)
        return true;
    if (desc[0] && !(c->s.cr4 & CR4_PCIDE))
        return false;
    return type != INVPCID_ADDRESS || seg_canonical(c, desc[1]);
}

void op_invpcid(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t type = reg_get(c, i->dst, i->osize), desc[2];
    cpu_require_cpl0(c);
    mmu_read(c, insn_linear(c, i, sizeof desc, false), desc, sizeof desc, i->seg);
    if (!invpcid_allowed(c, type, desc))
        gp0(c);
    if (type == INVPCID_ADDRESS)
        mmu_flush_page_pcid(c, desc[1], (unsigned)desc[0]);
    else if (type == INVPCID_CONTEXT)
        mmu_flush_pcid(c, (unsigned)desc[0]);
    else if (type == INVPCID_ALL)
        mmu_flush_all(c);
    else
        mmu_flush_nonglobal(c);
}

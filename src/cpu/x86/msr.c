/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers (SDM 4, chapter 2): the architectural ones that the announced CPUID
 * implies, with their reserved bits. Memory types (MTRRs, PAT) are kept but have no effect; there
 * are no machine-check banks, no performance counters, no last-branch records and no VMX. The rest
 * is #GP(0).
 */
#include "cpu/x86/msr.h"

#include "base/clock.h"
#include "cpu/x86/control.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"

enum {
    IA32_P5_MC_ADDR = 0x0,
    IA32_P5_MC_TYPE = 0x1,
    IA32_TIME_STAMP_COUNTER = 0x10,
    IA32_PLATFORM_ID = 0x17,
    IA32_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    IA32_FEATURE_CONTROL = 0x3a,
    IA32_TSC_ADJUST = 0x3b,
    IA32_SPEC_CTRL = 0x48,
    IA32_PRED_CMD = 0x49,
    IA32_BIOS_UPDT_TRIG = 0x79,
    IA32_BIOS_SIGN_ID = 0x8b,
    IA32_MTRRCAP = 0xfe,
    IA32_ARCH_CAPABILITIES = 0x10a,
    IA32_SYSENTER_CS = 0x174,
    IA32_SYSENTER_ESP = 0x175,
    IA32_SYSENTER_EIP = 0x176,
    IA32_MCG_CAP = 0x179,
    IA32_MCG_STATUS = 0x17a,
    IA32_MISC_ENABLE = 0x1a0,
    IA32_DEBUGCTL = 0x1d9,
    IA32_MTRR_PHYSBASE0 = 0x200,
    IA32_MTRR_FIX64K_00000 = 0x250,
    IA32_MTRR_FIX16K_80000 = 0x258,
    IA32_MTRR_FIX4K_C0000 = 0x268,
    IA32_PAT = 0x277,
    IA32_MTRR_DEF_TYPE = 0x2ff,
    IA32_TSC_DEADLINE = 0x6e0,
    IA32_PKRS = 0x6e1,
    IA32_X2APIC_FIRST = 0x800,
    IA32_X2APIC_LAST = 0x8ff,
    IA32_XSS = 0xda0,
};

#define IA32_EFER 0xc0000080u
#define IA32_STAR 0xc0000081u
#define IA32_LSTAR 0xc0000082u
#define IA32_CSTAR 0xc0000083u
#define IA32_FMASK 0xc0000084u
#define IA32_FS_BASE 0xc0000100u
#define IA32_GS_BASE 0xc0000101u
#define IA32_KERNEL_GS_BASE 0xc0000102u
#define IA32_TSC_AUX 0xc0000103u

/* Microcode revision that IA32_BIOS_SIGN_ID tells, in its upper half. */
#define MICROCODE_REVISION 1ull

/* Fixed-range MTRRs and write-combining exist; no SMRR. */
#define MTRRCAP (X86_MTRR_VAR | 1u << 8 | 1u << 10)

/* ---- registers that are a field of the state ---- */

enum field_rule {
    FIELD_ANY,
    FIELD_32,        /* bits 63:32 are reserved */
    FIELD_CANONICAL, /* a linear address */
};

struct field {
    uint32_t index;
    uint32_t offset; /* into struct x86_state */
    enum x86_feature feature;
    enum field_rule rule;
};

#define FIELD(index, member, feature, rule)                                                        \
    { index, offsetof(struct x86_state, member), feature, rule }

static const struct field FIELDS[] = {
    FIELD(IA32_SYSENTER_CS, msr.sysenter_cs, FEAT_SEP, FIELD_32),
    FIELD(IA32_SYSENTER_ESP, msr.sysenter_esp, FEAT_SEP, FIELD_CANONICAL),
    FIELD(IA32_SYSENTER_EIP, msr.sysenter_eip, FEAT_SEP, FIELD_CANONICAL),
    FIELD(IA32_STAR, msr.star, FEAT_LM, FIELD_ANY),
    FIELD(IA32_LSTAR, msr.lstar, FEAT_LM, FIELD_CANONICAL),
    FIELD(IA32_CSTAR, msr.cstar, FEAT_LM, FIELD_CANONICAL),
    FIELD(IA32_FMASK, msr.sfmask, FEAT_LM, FIELD_32),
    FIELD(IA32_FS_BASE, seg[SEG_FS].base, FEAT_LM, FIELD_CANONICAL),
    FIELD(IA32_GS_BASE, seg[SEG_GS].base, FEAT_LM, FIELD_CANONICAL),
    FIELD(IA32_KERNEL_GS_BASE, msr.kernel_gs_base, FEAT_LM, FIELD_CANONICAL),
    FIELD(IA32_PKRS, msr.pkrs, FEAT_PKS, FIELD_32),
};

static const struct field *field_find(const struct x86_cpu *c, uint32_t index) {
    for (unsigned n = 0; n < ARRAY_LEN(FIELDS); n++)
        if (FIELDS[n].index == index)
            return x86_has(c->cpuid, FIELDS[n].feature) ? &FIELDS[n] : NULL;
    return NULL;
}

static uint64_t *field_ptr(struct x86_cpu *c, const struct field *f) {
    return (uint64_t *)(void *)((char *)&c->s + f->offset);
}

static bool field_write(struct x86_cpu *c, const struct field *f, uint64_t v) {
    if ((f->rule == FIELD_32 && v >> 32) || (f->rule == FIELD_CANONICAL && !seg_canonical(c, v)))
        return false;
    *field_ptr(c, f) = v;
    if (f->index == IA32_FS_BASE || f->index == IA32_GS_BASE)
        cpu_update_mode(c);
    if (f->index == IA32_PKRS)
        mmu_flush_all(c);
    return true;
}

/* ---- memory types: MTRRs and PAT (SDM 3A 12.11, 12.12) ---- */

static bool mtrr_type_ok(uint64_t type) {
    return type <= 6 && type != 2 && type != 3;
}

static bool mtrr_types_ok(uint64_t v) {
    for (unsigned n = 0; n < 64; n += 8)
        if (!mtrr_type_ok(v >> n & 0xff))
            return false;
    return true;
}

static bool pat_ok(uint64_t v) {
    for (unsigned n = 0; n < 64; n += 8)
        if ((v >> n & 0xff) != 7 && !mtrr_type_ok(v >> n & 0xff))
            return false;
    return true;
}

/* Where a fixed- or variable-range MTRR is kept; NULL when `index` is none. */
static uint64_t *mtrr_ptr(struct x86_cpu *c, uint32_t index) {
    struct x86_msrs *m = &c->s.msr;
    if (index - IA32_MTRR_PHYSBASE0 < 2 * X86_MTRR_VAR) {
        unsigned n = (index - IA32_MTRR_PHYSBASE0) / 2;
        return index & 1 ? &m->mtrr_mask[n] : &m->mtrr_base[n];
    }
    if (index == IA32_MTRR_FIX64K_00000)
        return &m->mtrr_fixed[0];
    if (index - IA32_MTRR_FIX16K_80000 < 2)
        return &m->mtrr_fixed[1 + index - IA32_MTRR_FIX16K_80000];
    if (index - IA32_MTRR_FIX4K_C0000 < 8)
        return &m->mtrr_fixed[3 + index - IA32_MTRR_FIX4K_C0000];
    return index == IA32_MTRR_DEF_TYPE ? &m->mtrr_def_type : NULL;
}

static bool mtrr_value_ok(const struct x86_cpu *c, uint32_t index, uint64_t v) {
    if (index == IA32_MTRR_DEF_TYPE)
        return !(v & ~0xcffull) && mtrr_type_ok(v & 0xff);
    if (index >= IA32_MTRR_FIX64K_00000)
        return mtrr_types_ok(v);
    if (v >> c->cpuid->phys_bits)
        return false;
    return index & 1 ? !(v & 0x7ff) : !(v & 0xf00) && mtrr_type_ok(v & 0xff);
}

/* ---- time-stamp counter (SDM 3B 18.17) ---- */

uint64_t msr_tsc(const struct x86_cpu *c) {
    return clock_tsc(c->clock) + (uint64_t)c->s.tsc_offset;
}

/* Moving the counter moves IA32_TSC_ADJUST by as much, and the other way round. */
static void tsc_move(struct x86_cpu *c, uint64_t delta) {
    c->s.tsc_offset = (int64_t)((uint64_t)c->s.tsc_offset + delta);
    c->s.msr.tsc_adjust += delta;
    atomic_store(&c->v.tsc_offset, c->s.tsc_offset);
    if (c->v.irqchip)
        c->v.irqchip->tsc_changed(c->v.apic);
}

/* ---- the local APIC's ---- */

static bool is_apic(uint32_t index) {
    return index == IA32_APIC_BASE || index == IA32_TSC_DEADLINE ||
           (index >= IA32_X2APIC_FIRST && index <= IA32_X2APIC_LAST);
}

static bool apic_exists(const struct x86_cpu *c, uint32_t index) {
    enum x86_feature f = index == IA32_APIC_BASE      ? FEAT_APIC
                         : index == IA32_TSC_DEADLINE ? FEAT_TSC_DEADLINE
                                                      : FEAT_X2APIC;
    return c->v.irqchip && x86_has(c->cpuid, f);
}

static bool apic_read(struct x86_cpu *c, uint32_t index, uint64_t *v) {
    return apic_exists(c, index) && c->v.irqchip->read_msr(c->v.apic, index, v);
}

static bool apic_write(struct x86_cpu *c, uint32_t index, uint64_t v) {
    const uint64_t extd = 1u << 10; /* reserved without x2APIC */
    if (index == IA32_APIC_BASE && v & extd && !x86_has(c->cpuid, FEAT_X2APIC))
        return false;
    if (!apic_exists(c, index) || !c->v.irqchip->write_msr(c->v.apic, index, v))
        return false;
    if (index == IA32_APIC_BASE)
        mmu_remap(c); /* its page may lie elsewhere now */
    else
        atomic_fetch_or(&c->v.events, VCPU_EVENT_INTR); /* EOI and TPR let interrupts through */
    return true;
}

/* ---- speculation controls ---- */

static bool spec_ctrl_exists(const struct x86_cpuid *id) {
    return x86_has(id, FEAT_SPEC_CTRL) || x86_has(id, FEAT_STIBP) || x86_has(id, FEAT_SSBD) ||
           x86_has(id, FEAT_BHI_CTRL);
}

static bool spec_ctrl_write(struct x86_cpu *c, uint64_t v) {
    /* STIBP may be set wherever IBRS exists (SDM 4, IA32_SPEC_CTRL). */
    uint64_t valid =
        (x86_has(c->cpuid, FEAT_SPEC_CTRL) ? 3 : 0) | (x86_has(c->cpuid, FEAT_STIBP) ? 2 : 0) |
        (x86_has(c->cpuid, FEAT_SSBD) ? 4 : 0) | (x86_has(c->cpuid, FEAT_BHI_CTRL) ? 1u << 10 : 0);
    if (!spec_ctrl_exists(c->cpuid) || v & ~valid)
        return false;
    c->s.msr.spec_ctrl = v;
    return true;
}

/* ---- the others ---- */

enum { DEBUGCTL_LBR = 1, DEBUGCTL_BTF = 2 };

/* IA32_MISC_ENABLE: what may change, and what is fixed but may be written with anything. */
#define MISC_ENABLE_WRITABLE                                                                       \
    (1ull | 1u << 3 | 1u << 16 | 1u << 18 | 1u << 22 | 1u << 23 | 1ull << 34)
#define MISC_ENABLE_FIXED (1ull << 7 | 1u << 11 | 1u << 12)

static bool misc_enable_write(struct x86_cpu *c, uint64_t v) {
    if (v & ~(MISC_ENABLE_WRITABLE | MISC_ENABLE_FIXED))
        return false;
    c->s.msr.misc_enable = (v & MISC_ENABLE_WRITABLE) | (c->s.msr.misc_enable & MISC_ENABLE_FIXED);
    return true;
}

static bool has_tsc_aux(const struct x86_cpu *c) {
    return x86_has(c->cpuid, FEAT_RDTSCP) || x86_has(c->cpuid, FEAT_RDPID);
}

static bool constant_read(const struct x86_cpu *c, uint32_t index, uint64_t *v) {
    switch (index) {
    case IA32_P5_MC_ADDR:
    case IA32_P5_MC_TYPE:
    case IA32_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
        *v = 0;
        return true;
    case IA32_MCG_CAP:
        *v = 0; /* no banks, no MCG_CTL */
        return x86_has(c->cpuid, FEAT_MCA);
    case IA32_BIOS_SIGN_ID:
        *v = MICROCODE_REVISION << 32;
        return true;
    case IA32_MTRRCAP:
        *v = MTRRCAP;
        return x86_has(c->cpuid, FEAT_MTRR);
    case IA32_FEATURE_CONTROL:
        *v = c->s.msr.feature_control;
        return true;
    case IA32_ARCH_CAPABILITIES:
        *v = c->s.msr.arch_capabilities;
        return x86_has(c->cpuid, FEAT_ARCH_CAPABILITIES);
    default:
        return false;
    }
}

static bool other_read(struct x86_cpu *c, uint32_t index, uint64_t *v) {
    const struct x86_msrs *m = &c->s.msr;
    switch (index) {
    case IA32_TIME_STAMP_COUNTER:
        *v = msr_tsc(c);
        return true;
    case IA32_TSC_ADJUST:
        *v = m->tsc_adjust;
        return x86_has(c->cpuid, FEAT_TSC_ADJUST);
    case IA32_TSC_AUX:
        *v = m->tsc_aux;
        return has_tsc_aux(c);
    case IA32_SPEC_CTRL:
        *v = m->spec_ctrl;
        return spec_ctrl_exists(c->cpuid);
    case IA32_PAT:
        *v = m->pat;
        return x86_has(c->cpuid, FEAT_PAT);
    case IA32_MCG_STATUS:
        *v = m->mcg_status;
        return x86_has(c->cpuid, FEAT_MCA);
    case IA32_MISC_ENABLE:
        *v = m->misc_enable;
        return true;
    case IA32_DEBUGCTL:
        *v = m->debugctl;
        return true;
    case IA32_XSS:
        *v = m->xss;
        return x86_has(c->cpuid, FEAT_XSAVES);
    case IA32_EFER:
        *v = c->s.efer;
        return x86_has(c->cpuid, FEAT_LM) || x86_has(c->cpuid, FEAT_NX);
    default:
        return constant_read(c, index, v);
    }
}

bool msr_read(struct x86_cpu *c, uint32_t index, uint64_t *value) {
    const struct field *f = field_find(c, index);
    if (f) {
        *value = *field_ptr(c, f);
        return true;
    }
    if (is_apic(index))
        return apic_read(c, index, value);
    const uint64_t *mtrr = x86_has(c->cpuid, FEAT_MTRR) ? mtrr_ptr(c, index) : NULL;
    if (mtrr) {
        *value = *mtrr;
        return true;
    }
    return other_read(c, index, value);
}

static bool tsc_write(struct x86_cpu *c, uint32_t index, uint64_t v) {
    if (index == IA32_TIME_STAMP_COUNTER)
        tsc_move(c, v - msr_tsc(c));
    else if (x86_has(c->cpuid, FEAT_TSC_ADJUST))
        tsc_move(c, v - c->s.msr.tsc_adjust);
    else
        return false;
    return true;
}

static bool store_if(bool ok, uint64_t *field, uint64_t v) {
    if (ok)
        *field = v;
    return ok;
}

static bool other_write(struct x86_cpu *c, uint32_t index, uint64_t v) {
    struct x86_msrs *m = &c->s.msr;
    const struct x86_cpuid *id = c->cpuid;
    switch (index) {
    case IA32_TIME_STAMP_COUNTER:
    case IA32_TSC_ADJUST:
        return tsc_write(c, index, v);
    case IA32_TSC_AUX:
        return store_if(has_tsc_aux(c) && !(v >> 32), &m->tsc_aux, v);
    case IA32_SPEC_CTRL:
        return spec_ctrl_write(c, v);
    case IA32_PRED_CMD: /* a command without a state to keep */
        return x86_has(id, FEAT_SPEC_CTRL) && v <= 1;
    case IA32_BIOS_UPDT_TRIG:
    case IA32_BIOS_SIGN_ID: /* written before CPUID to read the revision back; updates are not taken
                             */
    case IA32_P5_MC_ADDR:
    case IA32_P5_MC_TYPE:
        return true;
    case IA32_PAT:
        return store_if(x86_has(id, FEAT_PAT) && pat_ok(v), &m->pat, v);
    case IA32_MCG_STATUS:
        return store_if(x86_has(id, FEAT_MCA) && v <= 7, &m->mcg_status, v);
    case IA32_MISC_ENABLE:
        return misc_enable_write(c, v);
    case IA32_DEBUGCTL: /* neither branch records nor branch steps: bits that ask for them stay 0 */
        return v <= (DEBUGCTL_LBR | DEBUGCTL_BTF);
    case IA32_XSS:
        return store_if(x86_has(id, FEAT_XSAVES) && !v, &m->xss, v);
    case IA32_EFER:
        return (x86_has(id, FEAT_LM) || x86_has(id, FEAT_NX)) && control_set_efer(c, v);
    default:
        return false;
    }
}

bool msr_write(struct x86_cpu *c, uint32_t index, uint64_t value) {
    const struct field *f = field_find(c, index);
    if (f)
        return field_write(c, f, value);
    if (is_apic(index))
        return apic_write(c, index, value);
    uint64_t *mtrr = x86_has(c->cpuid, FEAT_MTRR) ? mtrr_ptr(c, index) : NULL;
    if (mtrr)
        return store_if(mtrr_value_ok(c, index, value), mtrr, value);
    return other_write(c, index, value);
}

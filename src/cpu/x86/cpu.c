/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processor derives from its control registers and segments: privilege, address and stack
 * size, which TLB is in use. SDM 3A chapters 2, 3 and 4.
 */
#include "cpu/x86/cpu.h"

#include "cpu/x86/trace.h"

bool seg_is_unlimited(const struct x86_seg *s) {
    const uint32_t need = SEG_P | SEG_S;
    bool data_rw = (s->attr & (SEG_TYPE & 0xe)) == 0x2; /* writable, expand-up, not code */
    return s->limit == UINT32_MAX && data_rw && (s->attr & need) == need &&
           !(s->attr & SEG_UNUSABLE);
}

static bool seg_is_flat(const struct x86_seg *s) {
    return s->base == 0 && seg_is_unlimited(s);
}

static unsigned current_tlb(const struct x86_cpu *c) {
    if (c->cpl == 3)
        return c->s.cr0 & CR0_AM && c->s.rflags & FLAG_AC ? TLB_OFF : TLB_USER;
    if (c->s.cr4 & CR4_SMAP && c->s.rflags & FLAG_AC)
        return TLB_SUPER_AC;
    return TLB_SUPER;
}

static uint8_t current_code_size(const struct x86_cpu *c) {
    const struct x86_seg *cs = &c->s.seg[SEG_CS];
    if (!c->pe || c->vm86)
        return cs->attr & SEG_DB && !c->vm86 ? 32 : 16;
    if (c->lma && cs->attr & SEG_L)
        return 64;
    return cs->attr & SEG_DB ? 32 : 16;
}

static void update_context(struct x86_cpu *c) {
    uint64_t size = c->code_size == 64 ? 2 : c->code_size == 32 ? 1 : 0;
    c->space = c->asid | (c->space_gen & TLB_PAGE_BITS);
    /* 32-bit kernels, whose global pages lie anywhere, have one space at a time anyway. */
    c->asid_mix = c->lma ? (c->asid >> TLB_ASID_SHIFT) * 0x9e5 : 0;
    c->context = c->asid | (c->paging_gen << 4 & TLB_PAGE_BITS) | size << 1 | (c->cpl == 3);
}

void cpu_update_mode(struct x86_cpu *c) {
    const struct x86_state *s = &c->s;
    c->pe = s->cr0 & CR0_PE;
    c->paging = s->cr0 & CR0_PG;
    c->lma = s->efer & EFER_LMA;
    c->vm86 = c->pe && s->rflags & FLAG_VM;
    c->cpl = !c->pe ? 0 : c->vm86 ? 3 : (s->seg[SEG_SS].attr & SEG_DPL) >> 5;
    c->code_size = current_code_size(c);
    c->mode64 = c->code_size == 64;
    c->stack_mask = c->mode64 ? UINT64_MAX : s->seg[SEG_SS].attr & SEG_DB ? UINT32_MAX : 0xffff;
    c->flat = 0;
    for (unsigned n = 0; n < 6; n++)
        c->flat |= (uint8_t)(c->pe && !c->vm86 && seg_is_flat(&s->seg[n])) << n;
    c->base64[SEG_FS] = s->seg[SEG_FS].base;
    c->base64[SEG_GS] = s->seg[SEG_GS].base;
    c->tlb = c->tlbs[current_tlb(c)];
    c->tlb_fetch = c->tlbs[c->cpl == 3 ? TLB_USER : TLB_SUPER];
    update_context(c);
    if (unlikely(c->traced & TRACE_MODE))
        cpu_trace_mode(c);
}

void cpu_set_cpl(struct x86_cpu *c, unsigned cpl) {
    uint32_t *attr = &c->s.seg[SEG_SS].attr;
    *attr = (*attr & ~(uint32_t)SEG_DPL) | cpl << 5;
    cpu_update_mode(c);
}

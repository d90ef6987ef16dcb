/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast system calls (SDM 2B), as Intel defines them: SYSCALL and SYSRET in 64-bit mode only,
 * SYSENTER and SYSEXIT in every protected mode; SYSRET to a non-canonical RCX faults before
 * anything has changed. They load flat segments without looking at a descriptor.
 */
#include "cpu/x86/syscall.h"

#include "cpu/x86/cpu.h"
#include "cpu/x86/seg.h"

#define ATTR_CODE (SEG_G | SEG_P | SEG_S | 0xb)
#define ATTR_DATA (SEG_G | SEG_DB | SEG_P | SEG_S | 0x3)
#define SYSRET_FLAGS 0x3c7fd7u

static void load_flat(struct x86_cpu *c, uint16_t cs, uint16_t ss, unsigned cpl, bool code64) {
    uint32_t attr = ATTR_CODE | cpl << 5 | (code64 ? SEG_L : SEG_DB);
    c->s.seg[SEG_CS] = (struct x86_seg){.limit = UINT32_MAX, .attr = attr, .sel = cs};
    c->s.seg[SEG_SS] =
        (struct x86_seg){.limit = UINT32_MAX, .attr = ATTR_DATA | cpl << 5, .sel = ss};
    cpu_update_mode(c);
}

static void require_syscall(struct x86_cpu *c) {
    if (!c->mode64 || !(c->s.efer & EFER_SCE))
        cpu_raise(c, EXC_UD);
}

void op_syscall(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_syscall(c);
    const struct x86_msrs *m = &c->s.msr;
    uint16_t cs = (m->star >> 32) & 0xfffc;
    uint64_t flags = cpu_flags(c) & ~(uint64_t)FLAG_RF;
    c->s.gpr[RCX] = c->next;
    c->s.gpr[R11] = flags;
    c->next = m->lstar;
    cpu_set_flags(c, flags & ~m->sfmask);
    load_flat(c, cs, (uint16_t)(cs + 8), 0, true);
}

void op_sysret(struct x86_cpu *c, const struct x86_insn *i) {
    require_syscall(c);
    cpu_require_cpl0(c);
    bool wide = i->osize == 8;
    uint64_t target = wide ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX];
    if (!seg_canonical(c, target))
        cpu_raise_err(c, EXC_GP, 0);
    uint16_t base = (uint16_t)(c->s.msr.star >> 48);
    c->next = target;
    cpu_set_flags(c, c->s.gpr[R11] & SYSRET_FLAGS);
    load_flat(c, (uint16_t)((wide ? base + 16 : base) | 3), (uint16_t)((base + 8) | 3), 3, wide);
}

static uint16_t sysenter_selector(struct x86_cpu *c) {
    uint16_t cs = c->s.msr.sysenter_cs & 0xfffc;
    if (!c->pe || !cs)
        cpu_raise_err(c, EXC_GP, 0);
    return cs;
}

void op_sysenter(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint16_t cs = sysenter_selector(c);
    const struct x86_msrs *m = &c->s.msr;
    c->s.gpr[RSP] = c->lma ? m->sysenter_esp : (uint32_t)m->sysenter_esp;
    c->next = c->lma ? m->sysenter_eip : (uint32_t)m->sysenter_eip;
    c->s.rflags &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
    load_flat(c, cs, (uint16_t)(cs + 8), 0, c->lma);
}

void op_sysexit(struct x86_cpu *c, const struct x86_insn *i) {
    uint16_t cs = sysenter_selector(c);
    cpu_require_cpl0(c);
    bool wide = i->osize == 8;
    uint64_t sp = c->s.gpr[RCX], ip = c->s.gpr[RDX];
    if (wide && !(seg_canonical(c, sp) && seg_canonical(c, ip)))
        cpu_raise_err(c, EXC_GP, 0);
    c->s.gpr[RSP] = wide ? sp : (uint32_t)sp;
    c->next = wide ? ip : (uint32_t)ip;
    uint16_t target = (uint16_t)((cs + (wide ? 32 : 16)) | 3);
    load_flat(c, target, (uint16_t)(target + 8), 3, wide);
}

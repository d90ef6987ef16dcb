/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that have no file of their own: descriptor-table registers, MSR, time-stamp
 * and CPUID access, random numbers, cache control, fences, HLT, MONITOR/MWAIT, and NOPs; and the
 * selector of all system instructions. Caches are not modelled. VMX, SVM, SMX and system management
 * mode do not exist: #UD.
 */
#include <errno.h>
#include <sched.h>
#include <sys/random.h>

#include "cpu/x86/control.h"
#include "cpu/x86/debugreg.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/msr.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/syscall.h"

noreturn static void gp0(struct x86_cpu *c) {
    cpu_raise_err(c, EXC_GP, 0);
}

/* ---- GDTR and IDTR (SDM 2A LGDT, 2B SGDT) ---- */

struct pseudo_descriptor {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static unsigned table_operand_size(const struct x86_cpu *c) {
    return c->mode64 ? 10 : 6;
}

static void load_table(struct x86_cpu *c, const struct x86_insn *i, struct x86_dtr *t) {
    struct pseudo_descriptor d = {0, 0};
    unsigned size = table_operand_size(c);
    cpu_require_cpl0(c);
    mmu_read(c, insn_linear(c, i, size, false), &d, size, i->seg);
    if (!c->mode64 && i->osize == 2)
        d.base &= 0xffffff;
    if (c->mode64 && !seg_canonical(c, d.base))
        gp0(c);
    t->limit = d.limit;
    t->base = d.base;
}

/* All 32 bits of the base are stored with a 16-bit operand too, as on every processor since the
 * 386. */
static void store_table(struct x86_cpu *c, const struct x86_insn *i, const struct x86_dtr *t) {
    const struct pseudo_descriptor d = {t->limit, t->base};
    unsigned size = table_operand_size(c);
    control_check_umip(c);
    mmu_write(c, insn_linear(c, i, size, true), &d, size, i->seg);
}

static void op_lgdt(struct x86_cpu *c, const struct x86_insn *i) {
    load_table(c, i, &c->s.gdtr);
}

static void op_lidt(struct x86_cpu *c, const struct x86_insn *i) {
    load_table(c, i, &c->s.idtr);
}

static void op_sgdt(struct x86_cpu *c, const struct x86_insn *i) {
    store_table(c, i, &c->s.gdtr);
}

static void op_sidt(struct x86_cpu *c, const struct x86_insn *i) {
    store_table(c, i, &c->s.idtr);
}

/* ---- MSRs, time-stamp counter, CPUID ---- */

static void set_edx_eax(struct x86_cpu *c, uint64_t v) {
    c->s.gpr[RAX] = (uint32_t)v;
    c->s.gpr[RDX] = v >> 32;
}

static void op_rdmsr(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint64_t v;
    cpu_require_cpl0(c);
    if (!msr_read(c, (uint32_t)c->s.gpr[RCX], &v))
        gp0(c);
    set_edx_eax(c, v);
}

static void op_wrmsr(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_require_cpl0(c);
    uint64_t v = c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX];
    if (!msr_write(c, (uint32_t)c->s.gpr[RCX], v))
        gp0(c);
}

static void check_tsd(struct x86_cpu *c) {
    if (c->s.cr4 & CR4_TSD)
        cpu_require_cpl0(c);
}

static void op_rdtsc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    check_tsd(c);
    set_edx_eax(c, msr_tsc(c));
}

static void op_rdtscp(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    check_tsd(c);
    set_edx_eax(c, msr_tsc(c));
    c->s.gpr[RCX] = (uint32_t)c->s.msr.tsc_aux;
}

static void op_rdpid(struct x86_cpu *c, const struct x86_insn *i) {
    reg_set(c, i->dst, c->mode64 ? 8 : 4, c->s.msr.tsc_aux);
}

/* There are no counters, so that every number is out of range; CR4.PCE makes no difference. */
static void op_rdpmc(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    gp0(c);
}

static void require_pke(struct x86_cpu *c, bool zero) {
    if (!(c->s.cr4 & CR4_PKE))
        cpu_raise(c, EXC_UD);
    if (!zero)
        gp0(c);
}

static void op_rdpkru(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_pke(c, !(uint32_t)c->s.gpr[RCX]);
    c->s.gpr[RAX] = c->s.pkru;
    c->s.gpr[RDX] = 0;
}

static void op_wrpkru(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_pke(c, !(uint32_t)c->s.gpr[RCX] && !(uint32_t)c->s.gpr[RDX]);
    control_set_pkru(c, (uint32_t)c->s.gpr[RAX]);
}

static bool apic_enabled(const struct x86_cpu *c) {
    uint64_t base;
    return c->v.irqchip && c->v.irqchip->read_msr(c->v.apic, 0x1b, &base) && base >> 11 & 1;
}

static void op_cpuid(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint32_t out[4];
    uint32_t leaf = (uint32_t)c->s.gpr[RAX];
    const struct x86_cpuid_dynamic dyn = {
        .osxsave = c->s.cr4 & CR4_OSXSAVE,
        .ospke = c->s.cr4 & CR4_PKE,
        .apic_enabled = leaf == 1 && apic_enabled(c),
        .xcr0 = c->s.xcr0,
        .xss = c->s.msr.xss,
    };
    x86_cpuid_query(c->cpuid, c->v.index, &dyn, leaf, (uint32_t)c->s.gpr[RCX], out);
    c->s.gpr[RAX] = out[0];
    c->s.gpr[RBX] = out[1];
    c->s.gpr[RCX] = out[2];
    c->s.gpr[RDX] = out[3];
}

/* ---- RDRAND, RDSEED ---- */

/* CF tells success; the other arithmetic flags are 0, and so is the result of a failure. */
static void op_random(struct x86_cpu *c, const struct x86_insn *i) {
    uint64_t v = 0;
    ssize_t got;
    do
        got = getrandom(&v, sizeof v, GRND_NONBLOCK);
    while (got < 0 && errno == EINTR);
    bool ok = got == sizeof v;
    reg_set(c, i->dst, i->osize, ok ? v : 0);
    c->cc = ok ? FLAG_CF : 0;
}

/* ---- caches, fences, hints ---- */

static void op_nop(struct x86_cpu *c, const struct x86_insn *i) {
    (void)c;
    (void)i;
}

static void op_privileged_nop(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_require_cpl0(c);
}

/* CLFLUSH and its kin fault as a load of the byte would. */
static void op_flush_line(struct x86_cpu *c, const struct x86_insn *i) {
    mmu_probe(c, insn_linear(c, i, 1, false), 1, false, i->seg);
}

static void op_fence(struct x86_cpu *c, const struct x86_insn *i) {
    (void)c;
    (void)i;
    atomic_thread_fence(memory_order_seq_cst);
}

/*
 * Whom a guest waits for in a spin loop may be waiting for our host processor: give it away now and
 * then. On a busy host that costs a time slice, so not for each of the few that a short wait takes.
 */
#define PAUSES_PER_YIELD 64

static void op_pause(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    if (c->cpuid->vcpus > 1 && ++c->pauses % PAUSES_PER_YIELD == 0)
        sched_yield();
    else
        __builtin_ia32_pause();
}

/* ---- HLT, MONITOR, MWAIT ---- */

static void op_hlt(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    cpu_require_cpl0(c);
    c->s.activity = X86_HALTED;
}

static void require_monitor_privilege(struct x86_cpu *c) {
    if (c->cpl != 0)
        cpu_raise(c, EXC_UD);
}

/* Arms nothing: MWAIT may return at any time, and here does so at once. */
static void op_monitor(struct x86_cpu *c, const struct x86_insn *i) {
    require_monitor_privilege(c);
    if (c->mode64 ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX])
        gp0(c);
    uint64_t ea = c->s.gpr[RAX] << i->ashift >> i->ashift;
    mmu_probe(c, cpu_linear(c, i->seg, ea, 1, false), 1, false, i->seg);
}

/* The only extension is ECX[0], interrupts as break events though IF is 0. */
static void op_mwait(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    require_monitor_privilege(c);
    if ((c->mode64 ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX]) & ~1ull)
        gp0(c);
    sched_yield();
}

/* ---- selection ---- */

static bool take(struct x86_insn *i, x86_op_fn *fn, unsigned flags) {
    i->fn = fn;
    i->flags |= (uint8_t)flags;
    return true;
}

static bool take_if(const struct x86_decode *d, enum x86_feature f, struct x86_insn *i,
                    x86_op_fn *fn, unsigned flags) {
    return x86_has(d->cpuid, f) && take(i, fn, flags);
}

/* The operand is 64 bits wide in 64-bit mode and 32 otherwise, whatever the prefixes. */
static bool select_mov_special(const struct x86_decode *d, struct x86_insn *i) {
    const ZydisDecodedInstruction *zi = d->zi;
    if (zi->opcode_map != ZYDIS_OPCODE_MAP_0F || zi->opcode < 0x20 || zi->opcode > 0x23)
        return false;
    bool to = zi->opcode & 2, debug = zi->opcode & 1;
    i->aux = zi->raw.modrm.reg | (unsigned)zi->raw.rex.R << 3;
    i->osize = i->mode == 64 ? 8 : 4;
    if (debug)
        return i->aux < 8 && take(i, to ? op_mov_to_dr : op_mov_from_dr, INSN_END);
    const unsigned known = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 8;
    return known >> i->aux & 1 && take(i, to ? op_mov_to_cr : op_mov_from_cr, to ? INSN_END : 0);
}

static bool select_fast_call(const struct x86_decode *d, struct x86_insn *i) {
    i->osize = d->zi->raw.rex.W ? 8 : 4;
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return take_if(d, FEAT_SYSCALL, i, op_syscall, INSN_END);
    case ZYDIS_MNEMONIC_SYSRET:
        return take_if(d, FEAT_SYSCALL, i, op_sysret, INSN_END);
    case ZYDIS_MNEMONIC_SYSENTER:
        return take_if(d, FEAT_SEP, i, op_sysenter, INSN_END);
    case ZYDIS_MNEMONIC_SYSEXIT:
        return take_if(d, FEAT_SEP, i, op_sysexit, INSN_END);
    default:
        return false;
    }
}

static bool select_hint(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_CLDEMOTE:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
        return take(i, op_nop, 0);
    case ZYDIS_MNEMONIC_MFENCE:
        return take(i, op_fence, 0);
    case ZYDIS_MNEMONIC_SERIALIZE:
        return take_if(d, FEAT_SERIALIZE, i, op_fence, INSN_END);
    case ZYDIS_MNEMONIC_PAUSE:
        return take(i, op_pause, 0);
    case ZYDIS_MNEMONIC_CLFLUSH:
        return take_if(d, FEAT_CLFSH, i, op_flush_line, 0);
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
        return take_if(d, FEAT_CLFLUSHOPT, i, op_flush_line, 0);
    case ZYDIS_MNEMONIC_CLWB:
        return take_if(d, FEAT_CLWB, i, op_flush_line, 0);
    default:
        return false;
    }
}

/* What any privilege may execute, some of it subject to CR4. */
static bool select_user(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
        return take(i, op_cpuid, 0);
    case ZYDIS_MNEMONIC_RDTSC:
        return take_if(d, FEAT_TSC, i, op_rdtsc, 0);
    case ZYDIS_MNEMONIC_RDTSCP:
        return take_if(d, FEAT_RDTSCP, i, op_rdtscp, 0);
    case ZYDIS_MNEMONIC_RDPID:
        return take_if(d, FEAT_RDPID, i, op_rdpid, 0);
    case ZYDIS_MNEMONIC_RDPMC:
        return take(i, op_rdpmc, 0);
    case ZYDIS_MNEMONIC_RDPKRU:
        return take_if(d, FEAT_PKU, i, op_rdpkru, 0);
    case ZYDIS_MNEMONIC_WRPKRU:
        return take_if(d, FEAT_PKU, i, op_wrpkru, INSN_END);
    case ZYDIS_MNEMONIC_RDRAND:
        return take_if(d, FEAT_RDRAND, i, op_random, 0);
    case ZYDIS_MNEMONIC_RDSEED:
        return take_if(d, FEAT_RDSEED, i, op_random, 0);
    case ZYDIS_MNEMONIC_SGDT:
        return take(i, op_sgdt, 0);
    case ZYDIS_MNEMONIC_SIDT:
        return take(i, op_sidt, 0);
    case ZYDIS_MNEMONIC_SMSW:
        return take(i, i->flags & INSN_MEM ? op_smsw_m : op_smsw_r, 0);
    default:
        return select_hint(d, i) || select_fast_call(d, i);
    }
}

/* Zydis knows of no memory operand here, so the prefixes are looked at; 64-bit mode ignores all but
 * two. */
static uint8_t monitor_segment(const struct x86_decode *d) {
    uint8_t seg = SEG_DS;
    for (unsigned n = 0; n < d->zi->raw.prefix_count; n++)
        switch (d->zi->raw.prefixes[n].value) {
        case 0x26:
            seg = SEG_ES;
            break;
        case 0x2e:
            seg = SEG_CS;
            break;
        case 0x36:
            seg = SEG_SS;
            break;
        case 0x3e:
            seg = SEG_DS;
            break;
        case 0x64:
            seg = SEG_FS;
            break;
        case 0x65:
            seg = SEG_GS;
            break;
        default:
            break;
        }
    return seg;
}

bool select_sys(const struct x86_decode *d, struct x86_insn *i) {
    switch (d->zi->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return select_mov_special(d, i);
    case ZYDIS_MNEMONIC_LMSW:
        return take(i, i->flags & INSN_MEM ? op_lmsw_m : op_lmsw_r, INSN_END);
    case ZYDIS_MNEMONIC_CLTS:
        return take(i, op_clts, INSN_END);
    case ZYDIS_MNEMONIC_LGDT:
        return take(i, op_lgdt, 0);
    case ZYDIS_MNEMONIC_LIDT:
        return take(i, op_lidt, 0);
    case ZYDIS_MNEMONIC_RDMSR:
        return take_if(d, FEAT_MSR, i, op_rdmsr, 0);
    case ZYDIS_MNEMONIC_WRMSR:
        return take_if(d, FEAT_MSR, i, op_wrmsr, INSN_END);
    case ZYDIS_MNEMONIC_INVLPG:
        return take(i, op_invlpg, INSN_END);
    case ZYDIS_MNEMONIC_INVPCID:
        i->osize = i->mode == 64 ? 8 : 4;
        return take_if(d, FEAT_INVPCID, i, op_invpcid, INSN_END);
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return take(i, op_privileged_nop, 0);
    case ZYDIS_MNEMONIC_HLT:
        return take(i, op_hlt, INSN_END);
    case ZYDIS_MNEMONIC_MONITOR:
        i->seg = monitor_segment(d);
        return take_if(d, FEAT_MONITOR, i, op_monitor, 0);
    case ZYDIS_MNEMONIC_MWAIT:
        return take_if(d, FEAT_MONITOR, i, op_mwait, INSN_END);
    default:
        return select_user(d, i);
    }
}

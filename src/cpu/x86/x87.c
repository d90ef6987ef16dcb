/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 arithmetic, run by the host's x87 on the guest's state (thunk.h), and the checks and pointers
 * around it. Control instructions and environments are in x87env.c. SDM 1 chapter 8.
 *
 * FOP is kept for unmasked exceptions only, as every processor since the Pentium 4 does; FDP
 * likewise where CPUID says so.
 */
#include "cpu/x86/x87.h"

#include "cpu/x86/mmu.h"
#include "cpu/x86/thunk.h"

/* What a decoded instruction carries: FOP in aux, bytes of the memory operand in osize, these in
 * imm. */
enum { X87_READ = 1, X87_WRITE = 2, X87_FLAGS = 4, X87_FLAGS_IN = 8 };

struct x87_image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[352];
} __attribute__((aligned(16)));

_Static_assert(sizeof(struct x87_image) == 512, "FXSAVE image");

/* ---- checks ---- */

void x87_require(struct x86_cpu *c) {
    if (unlikely(c->s.cr0 & (CR0_EM | CR0_TS)))
        cpu_raise(c, EXC_NM);
}

void x87_ferr(struct x86_cpu *c) {
    const struct x86_irqchip_ops *chip = c->v.irqchip;
    if (!(c->s.cr0 & CR0_NE) && chip && chip->ferr)
        chip->ferr(c->v.apic, c->s.fpu.fsw & FSW_ES);
}

static bool interrupt_comes_first(const struct x86_cpu *c) {
    return (c->s.rflags & FLAG_IF) && !c->s.shadow_sti && !c->s.shadow_movss && c->v.irqchip &&
           c->v.irqchip->pending(c->v.apic);
}

static bool pending_error(struct x86_cpu *c) {
    if (c->s.cr0 & CR0_NE)
        cpu_raise(c, EXC_MF);
    x87_ferr(c);
    if (!interrupt_comes_first(c))
        return false;
    c->next = c->s.rip;
    cpu_end_block(c);
    return true;
}

bool x87_wait(struct x86_cpu *c) {
    return unlikely(c->s.fpu.fsw & FSW_ES) && pending_error(c);
}

void x87_set_top(struct x86_fpu *f, unsigned top) {
    unsigned old = x87_top(f);
    if (old != top) {
        uint8_t st[8][16];
        memcpy(st, f->st, sizeof st);
        for (unsigned n = 0; n < 8; n++)
            memcpy(f->st[n], st[(top + n - old) & 7], sizeof st[0]);
    }
    f->fsw = (uint16_t)((f->fsw & ~FSW_TOP) | top << 11);
}

/* ---- running an instruction ---- */

/* Errors that are still pending (CR0.NE = 0) must not reach the host: they are put aside. */
static void to_image(const struct x86_fpu *f, struct x87_image *image) {
    bool pending = f->fsw & FSW_ES;
    image->fcw = f->fcw;
    image->fsw = f->fsw & (uint16_t)(pending ? ~(FSW_ES | FSW_B | FSW_EXCEPTIONS) : ~0);
    image->ftw = f->ftw;
    image->fop = 0;
    image->fip = image->fdp = 0;
    image->mxcsr = __builtin_ia32_stmxcsr();
    memcpy(image->st, f->st, sizeof image->st);
}

static void from_image(struct x86_fpu *f, const struct x87_image *image) {
    uint16_t kept = f->fsw & FSW_ES ? f->fsw & FSW_EXCEPTIONS : 0;
    f->fcw = image->fcw;
    f->fsw = image->fsw | kept;
    f->ftw = image->ftw;
    memcpy(f->st, image->st, sizeof f->st);
    x87_update_summary(f);
}

static void note_pointers(struct x86_cpu *c, const struct x86_insn *i, uint64_t ea, bool unmasked) {
    struct x86_fpu *f = &c->s.fpu;
    f->fip = c->s.rip;
    f->fcs = c->s.seg[SEG_CS].sel;
    if (unmasked)
        f->fop = i->aux;
    if ((i->flags & INSN_MEM) && (unmasked || !x86_has(c->cpuid, FEAT_FDP_EXCPTN_ONLY))) {
        f->fdp = ea;
        f->fds = c->s.seg[i->seg].sel;
    }
}

/* An unmasked stack fault, invalid operation, overflow or underflow leaves the destination alone;
 * an inexact result is stored (SDM 1 8.5). */
static bool store_suppressed(const struct x87_image *image) {
    enum { IE = 1, OE = 8, UE = 16 };
    return image->fsw & ~image->fcw & (IE | OE | UE);
}

static void load_operand(struct x86_cpu *c, const struct x86_insn *i, uint64_t ea, uint8_t *buf) {
    uint64_t lin = cpu_linear(c, i->seg, ea, i->osize, false);
    if (i->osize == 10) {
        mmu_read(c, lin, buf, 10, i->seg);
    } else {
        uint64_t v = mmu_ld(c, lin, i->osize, i->seg);
        memcpy(buf, &v, 8);
    }
}

static void store_operand(struct x86_cpu *c, const struct x86_insn *i, uint64_t ea,
                          const uint8_t *buf) {
    uint64_t lin = cpu_linear(c, i->seg, ea, i->osize, true), v;
    memcpy(&v, buf, 8);
    if (i->osize == 10)
        mmu_write(c, lin, buf, 10, i->seg);
    else
        mmu_st(c, lin, v, i->osize, i->seg);
}

static void x87_run(struct x86_cpu *c, const struct x86_insn *i, uint8_t *buf,
                    struct x87_image *image) {
    const struct thunk *t = i->data;
    struct thunk_frame f = {.flags = c->cc | FLAG_FIXED};
    to_image(&c->s.fpu, image);
    t->run(&f, buf, NULL, NULL, image, NULL);
    if (i->imm & X87_FLAGS)
        c->cc = (uint32_t)f.flags & FLAG_ARITH;
}

/* A store that is suppressed does not touch memory; one that faults leaves the state alone. */
static void op_x87(struct x86_cpu *c, const struct x86_insn *i) {
    struct x87_image image;
    _Alignas(16) uint8_t buf[16];
    uint64_t ea = 0;
    x87_require(c);
    if (x87_wait(c))
        return;
    if (i->flags & INSN_MEM)
        ea = insn_ea(c, i);
    if (i->imm & X87_READ)
        load_operand(c, i, ea, buf);
    x87_run(c, i, buf, &image);
    if ((i->imm & X87_WRITE) && !store_suppressed(&image))
        store_operand(c, i, ea, buf);
    from_image(&c->s.fpu, &image);
    note_pointers(c, i, ea, image.fsw & FSW_ES);
}

bool x87_notes_pointers(const struct x86_insn *i) {
    return i->fn == op_x87;
}

static void op_fwait(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    if ((c->s.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        cpu_raise(c, EXC_NM);
    x87_wait(c);
}

/* ---- selection ---- */

static unsigned flag_use(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP:
        return X87_FLAGS | X87_FLAGS_IN;
    case ZYDIS_MNEMONIC_FCMOVB:
    case ZYDIS_MNEMONIC_FCMOVBE:
    case ZYDIS_MNEMONIC_FCMOVE:
    case ZYDIS_MNEMONIC_FCMOVNB:
    case ZYDIS_MNEMONIC_FCMOVNBE:
    case ZYDIS_MNEMONIC_FCMOVNE:
    case ZYDIS_MNEMONIC_FCMOVNU:
    case ZYDIS_MNEMONIC_FCMOVU:
        return X87_FLAGS_IN;
    default:
        return 0;
    }
}

static unsigned memory_use(const struct x86_decode *d, struct x86_insn *i) {
    for (unsigned n = 0; n < d->zi->operand_count; n++) {
        if (d->op[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        i->osize = (uint8_t)(d->op[n].size / 8);
        return d->op[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? X87_WRITE : X87_READ;
    }
    return 0;
}

static bool select_arithmetic(const struct x86_decode *d, struct x86_insn *i) {
    unsigned opcode = d->zi->opcode, flags = flag_use(d->zi->mnemonic);
    const ZydisDecodedInstruction *zi = d->zi;
    unsigned modrm =
        (unsigned)zi->raw.modrm.mod << 6 | (unsigned)zi->raw.modrm.reg << 3 | zi->raw.modrm.rm;
    unsigned native = i->flags & INSN_MEM ? (modrm & 0x38) | RSI : modrm;
    struct thunk_key key = {
        .code = {(uint8_t)opcode, (uint8_t)native}, .len = 2, .flags = THUNK_X87};
    if (flags & X87_FLAGS)
        key.flags |= THUNK_FLAGS;
    if (flags & X87_FLAGS_IN)
        key.flags |= THUNK_FLAGS_IN;
    i->imm = flags | memory_use(d, i);
    i->aux = (uint16_t)((opcode & 7) << 8 | modrm);
    i->data = thunk_get(&key);
    i->fn = op_x87;
    return i->data != NULL;
}

bool select_x87(const struct x86_decode *d, struct x86_insn *i) {
    if (d->zi->mnemonic == ZYDIS_MNEMONIC_FWAIT)
        i->fn = op_fwait;
    else
        i->fn = x87_select_control(d, i);
    return i->fn != NULL || select_arithmetic(d, i);
}

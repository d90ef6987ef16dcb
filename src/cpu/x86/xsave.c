/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR, the XSAVE family, XGETBV and XSETBV, for x87, SSE, AVX and PKRU state.
 * SDM 1 chapters 10.5 and 13.
 *
 * XINUSE is exact: a component is in use when it is not in its initial configuration. XSAVEOPT and
 * XSAVES have no modified optimization (a processor may have none).
 */
#include "cpu/x86/control.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/x87.h"

#define LEGACY_SIZE 512
#define HEADER 512
#define AVX_OFFSET 576 /* in the compacted format, too: nothing comes before it */
#define AVX_SIZE 256
#define PKRU_OFFSET 2688 /* in the standard format; the compacted one has it behind AVX */
#define PKRU_SIZE 8
#define AC_MASK 3 /* what is misaligned by less is #AC where alignment is checked, by more #GP */
#define MXCSR_RESERVED 0xffff0000u
#define MXCSR_INIT 0x1f80u
#define FCW_INIT 0x37f

/* Fields of the legacy region (SDM 1 table 10-2). */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FCS = 12,
    FX_FDP = 16,
    FX_FDS = 20,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160
};

/* What is saved by one instruction, and where. */
struct save {
    uint64_t rfbm;  /* components asked for */
    uint64_t write; /* components to be written */
    uint64_t bv;    /* XSTATE_BV to store */
    bool compact;
};

static uint16_t get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t get64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static void put16(uint8_t *p, uint16_t v) {
    memcpy(p, &v, 2);
}
static void put32(uint8_t *p, uint32_t v) {
    memcpy(p, &v, 4);
}
static void put64(uint8_t *p, uint64_t v) {
    memcpy(p, &v, 8);
}

static unsigned visible_registers(const struct x86_insn *i) {
    return i->mode == 64 ? 16 : 8;
}

/* REX.W: 64-bit pointers instead of 32-bit ones with selectors. */
static bool wide(const struct x86_insn *i) {
    return i->aux;
}

/* ---- the legacy region ---- */

static void x87_to_image(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *image) {
    const struct x86_fpu *f = &c->s.fpu;
    bool selectors = !x86_has(c->cpuid, FEAT_FCS_FDS_DEPRECATED);
    put16(image + FX_FCW, f->fcw);
    put16(image + FX_FSW, f->fsw);
    put16(image + FX_FTW, f->ftw);
    put16(image + FX_FOP, f->fop);
    if (wide(i)) {
        put64(image + FX_FIP, f->fip);
        put64(image + FX_FDP, f->fdp);
    } else {
        put64(image + FX_FIP, (uint32_t)f->fip | (selectors ? (uint64_t)f->fcs << 32 : 0));
        put64(image + FX_FDP, (uint32_t)f->fdp | (selectors ? (uint64_t)f->fds << 32 : 0));
    }
    memset(image + FX_ST, 0, sizeof f->st);
    for (unsigned n = 0; n < 8; n++)
        memcpy(image + FX_ST + 16 * n, f->st[n], 10);
}

/* FIP is a register as wide as a linear address, and is kept canonical; FDP is not. */
static uint64_t canonical(const struct x86_cpu *c, uint64_t fip) {
    unsigned shift = 64 - c->cpuid->virt_bits;
    return (uint64_t)((int64_t)(fip << shift) >> shift);
}

static void x87_from_image(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *image) {
    struct x86_fpu *f = &c->s.fpu;
    f->fcw = x87_valid_fcw(get16(image + FX_FCW));
    f->fsw = get16(image + FX_FSW);
    f->ftw = image[FX_FTW];
    f->fop = get16(image + FX_FOP) & 0x7ff;
    f->fip = wide(i) ? canonical(c, get64(image + FX_FIP)) : get32(image + FX_FIP);
    f->fdp = wide(i) ? get64(image + FX_FDP) : get32(image + FX_FDP);
    f->fcs = wide(i) ? 0 : get16(image + FX_FCS);
    f->fds = wide(i) ? 0 : get16(image + FX_FDS);
    memset(f->st, 0, sizeof f->st);
    for (unsigned n = 0; n < 8; n++)
        memcpy(f->st[n], image + FX_ST + 16 * n, 10);
    x87_update_summary(f);
}

static void xmm_to_image(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *image) {
    for (unsigned n = 0; n < visible_registers(i); n++)
        memcpy(image + FX_XMM + 16 * n, c->s.fpu.zmm[n], 16);
}

static void xmm_from_image(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *image) {
    for (unsigned n = 0; n < visible_registers(i); n++)
        memcpy(c->s.fpu.zmm[n], image + FX_XMM + 16 * n, 16);
}

static void mxcsr_to_image(const struct x86_cpu *c, uint8_t *image) {
    put32(image + FX_MXCSR, c->s.fpu.mxcsr);
    put32(image + FX_MXCSR_MASK, ~MXCSR_RESERVED);
}

static void check_mxcsr(struct x86_cpu *c, const uint8_t *image) {
    if (get32(image + FX_MXCSR) & MXCSR_RESERVED)
        cpu_raise_err(c, EXC_GP, 0);
}

/* ---- areas in memory ---- */

/* Every access forms its own address, so the area wraps where addresses do. */
static uint64_t area_linear(struct x86_cpu *c, const struct x86_insn *i, unsigned off,
                            unsigned size, bool write) {
    uint64_t ea = insn_ea(c, i) + off;
    return cpu_linear(c, i->seg, ea << i->ashift >> i->ashift, size, write);
}

static void area_check_alignment(struct x86_cpu *c, const struct x86_insn *i, unsigned mask,
                                 bool write) {
    uint64_t lin = area_linear(c, i, 0, 1, write);
    mmu_check_alignment(c, lin, AC_MASK, i->seg);
    if (lin & mask)
        cpu_raise_err(c, EXC_GP, 0);
}

/* How much of it lies together: addresses wrap at the end of a page only. */
static unsigned area_piece(struct x86_cpu *c, const struct x86_insn *i, unsigned off,
                           unsigned left) {
    uint64_t ea = insn_ea(c, i) + off;
    return MIN(left, (unsigned)(PAGE_SIZE - (ea & PAGE_MASK)));
}

static void area_read(struct x86_cpu *c, const struct x86_insn *i, unsigned off, uint8_t *to,
                      unsigned size) {
    for (unsigned n = 0, step; n < size; n += step) {
        step = area_piece(c, i, off + n, size - n);
        mmu_read(c, area_linear(c, i, off + n, step, false), to + n, step, i->seg);
    }
}

static void area_write(struct x86_cpu *c, const struct x86_insn *i, unsigned off,
                       const uint8_t *from, unsigned size) {
    for (unsigned n = 0, step; n < size; n += step) {
        step = area_piece(c, i, off + n, size - n);
        mmu_write(c, area_linear(c, i, off + n, step, true), from + n, step, i->seg);
    }
}

static void area_touch(struct x86_cpu *c, const struct x86_insn *i, unsigned off, bool write) {
    mmu_probe(c, area_linear(c, i, off, 1, write), 1, write, i->seg);
}

/* ---- FXSAVE, FXRSTOR ---- */

static void fx_check(struct x86_cpu *c, const struct x86_insn *i, bool write) {
    if (c->s.cr0 & (CR0_EM | CR0_TS))
        cpu_raise(c, EXC_NM);
    area_check_alignment(c, i, 15, write);
    area_touch(c, i, LEGACY_SIZE - 1, write);
    area_touch(c, i, 0, write);
}

/* Bytes behind the last XMM register are not written. */
static void op_fxsave(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t image[LEGACY_SIZE];
    fx_check(c, i, true);
    x87_to_image(c, i, image);
    mxcsr_to_image(c, image);
    xmm_to_image(c, i, image);
    area_write(c, i, 0, image, FX_XMM + 16 * visible_registers(i));
}

static void op_fxrstor(struct x86_cpu *c, const struct x86_insn *i) {
    uint8_t image[LEGACY_SIZE];
    fx_check(c, i, false);
    area_read(c, i, 0, image, LEGACY_SIZE);
    check_mxcsr(c, image);
    x87_from_image(c, i, image);
    c->s.fpu.mxcsr = get32(image + FX_MXCSR);
    xmm_from_image(c, i, image);
}

/* ---- components ---- */

/* `n` is a multiple of 8. */
static bool all_zero(const uint8_t *p, size_t n) {
    uint64_t any = 0;
    for (size_t off = 0; off < n; off += 8)
        any |= get64(p + off);
    return any == 0;
}

static bool x87_in_use(const struct x86_fpu *f) {
    return f->fcw != FCW_INIT || f->fsw || f->ftw || f->fop || f->fip || f->fdp || f->fcs ||
           f->fds || !all_zero(f->st[0], sizeof f->st);
}

static uint64_t components_in_use(const struct x86_cpu *c) {
    const struct x86_fpu *f = &c->s.fpu;
    uint64_t used = x87_in_use(f) ? XCR0_X87 : 0;
    for (unsigned n = 0; n < 16; n++) {
        if (!all_zero(f->zmm[n], 16))
            used |= XCR0_SSE;
        if (!all_zero(f->zmm[n] + 16, 16))
            used |= XCR0_AVX;
    }
    if (c->s.pkru)
        used |= XCR0_PKRU;
    return used;
}

static void x87_init(struct x86_fpu *f) {
    f->fcw = FCW_INIT;
    f->fsw = f->fop = f->fcs = f->fds = 0;
    f->ftw = 0;
    f->fip = f->fdp = 0;
    memset(f->st, 0, sizeof f->st);
}

static void avx_to_image(const struct x86_cpu *c, const struct x86_insn *i, uint8_t *image) {
    for (unsigned n = 0; n < visible_registers(i); n++)
        memcpy(image + 16 * n, c->s.fpu.zmm[n] + 16, 16);
}

/* ---- the XSAVE area ---- */

static void require_xsave(struct x86_cpu *c) {
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, EXC_UD);
    if (c->s.cr0 & CR0_TS)
        cpu_raise(c, EXC_NM);
}

static uint64_t requested(const struct x86_cpu *c, uint64_t enabled) {
    return ((uint64_t)(uint32_t)c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX]) & enabled;
}

/* The standard format has MXCSR with SSE and AVX, the compacted one with SSE. */
static bool has_mxcsr(uint64_t components, bool compact) {
    return components & (compact ? XCR0_SSE : XCR0_SSE | XCR0_AVX);
}

/*
 * Faults that the area has, before any of it is changed or looked at: processors go by what is
 * asked for, not by what is in use. The order is Sapphire Rapids'. What lies between AVX and PKRU
 * is not touched.
 */
static void area_probe(struct x86_cpu *c, const struct x86_insn *i, uint64_t rfbm, unsigned pkru,
                       bool compact, bool write) {
    if (rfbm & XCR0_PKRU)
        area_touch(c, i, pkru + PKRU_SIZE - 1, write);
    area_touch(c, i, (rfbm & XCR0_AVX ? AVX_OFFSET + AVX_SIZE : AVX_OFFSET) - 1, write);
    if (rfbm & XCR0_X87)
        area_touch(c, i, 0, write);
    if (has_mxcsr(rfbm, compact))
        area_touch(c, i, FX_MXCSR, write);
    area_touch(c, i, HEADER, write);
}

static void write_legacy(struct x86_cpu *c, const struct x86_insn *i, const struct save *s) {
    uint8_t image[LEGACY_SIZE];
    if (s->write & XCR0_X87) {
        x87_to_image(c, i, image);
        area_write(c, i, 0, image, FX_MXCSR);
        area_write(c, i, FX_ST, image + FX_ST, FX_XMM - FX_ST);
    }
    if (has_mxcsr(s->compact ? s->write : s->rfbm, s->compact)) {
        mxcsr_to_image(c, image);
        area_write(c, i, FX_MXCSR, image + FX_MXCSR, 8);
    }
    if (s->write & XCR0_SSE) {
        xmm_to_image(c, i, image);
        area_write(c, i, FX_XMM, image + FX_XMM, 16 * visible_registers(i));
    }
}

/* The standard format keeps the header's other bytes, the compacted one writes XCOMP_BV. */
static void write_header(struct x86_cpu *c, const struct x86_insn *i, const struct save *s) {
    uint8_t header[16];
    put64(header, s->bv);
    put64(header + 8, s->rfbm | 1ull << 63);
    area_write(c, i, HEADER, header, s->compact ? 16 : 8);
}

/* `components`: those that the area has room for. */
static unsigned pkru_offset(uint64_t components, bool compact) {
    return !compact ? PKRU_OFFSET : AVX_OFFSET + (components & XCR0_AVX ? AVX_SIZE : 0);
}

static void write_area(struct x86_cpu *c, const struct x86_insn *i, const struct save *s) {
    uint8_t image[AVX_SIZE];
    write_legacy(c, i, s);
    if (s->write & XCR0_AVX) {
        avx_to_image(c, i, image);
        area_write(c, i, AVX_OFFSET, image, 16 * visible_registers(i));
    }
    if (s->write & XCR0_PKRU) {
        put64(image, c->s.pkru);
        area_write(c, i, pkru_offset(s->rfbm, s->compact), image, PKRU_SIZE);
    }
    write_header(c, i, s);
}

/* ---- XSAVE, XSAVEOPT ---- */

static void xsave_standard(struct x86_cpu *c, const struct x86_insn *i, bool optimized) {
    require_xsave(c);
    uint64_t rfbm = requested(c, c->s.xcr0), used = components_in_use(c);
    uint8_t old[8];
    area_check_alignment(c, i, 63, true);
    area_probe(c, i, rfbm, PKRU_OFFSET, false, true);
    area_read(c, i, HEADER, old, 8);
    struct save s = {
        .rfbm = rfbm,
        .write = optimized ? rfbm & used : rfbm,
        .bv = (get64(old) & ~rfbm) | (rfbm & used),
    };
    write_area(c, i, &s);
}

static void op_xsave(struct x86_cpu *c, const struct x86_insn *i) {
    xsave_standard(c, i, false);
}

static void op_xsaveopt(struct x86_cpu *c, const struct x86_insn *i) {
    xsave_standard(c, i, true);
}

/* ---- XSAVEC, XSAVES ---- */

static void xsave_compact(struct x86_cpu *c, const struct x86_insn *i, uint64_t enabled) {
    uint64_t rfbm = requested(c, enabled), saved = rfbm & components_in_use(c);
    if (c->s.fpu.mxcsr != MXCSR_INIT)
        saved |= rfbm & XCR0_SSE;
    area_check_alignment(c, i, 63, true);
    area_probe(c, i, rfbm, pkru_offset(rfbm, true), true, true);
    write_area(c, i, &(struct save){.rfbm = rfbm, .write = saved, .bv = saved, .compact = true});
}

static void op_xsavec(struct x86_cpu *c, const struct x86_insn *i) {
    require_xsave(c);
    xsave_compact(c, i, c->s.xcr0);
}

static void require_supervisor(struct x86_cpu *c) {
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, EXC_UD);
    cpu_require_cpl0(c);
    require_xsave(c);
}

static void op_xsaves(struct x86_cpu *c, const struct x86_insn *i) {
    require_supervisor(c);
    xsave_compact(c, i, c->s.xcr0 | c->s.msr.xss);
}

/* ---- XRSTOR, XRSTORS ---- */

/* SDM 1 13.8.1. */
static bool standard_header_ok(const struct x86_cpu *c, const uint8_t *h) {
    return !(get64(h) & ~c->s.xcr0) && all_zero(h + 8, 16);
}

/* SDM 1 13.8.2 and 13.12. */
static bool compact_header_ok(const uint8_t *h, uint64_t enabled) {
    uint64_t bv = get64(h), comp = get64(h + 8) & ~(1ull << 63);
    return !(comp & ~enabled) && !(bv & ~comp) && all_zero(h + 16, 48);
}

static void restore_x87(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *image,
                        bool load) {
    if (load)
        x87_from_image(c, i, image);
    else
        x87_init(&c->s.fpu);
}

static void restore_sse(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *image,
                        bool load) {
    if (load)
        xmm_from_image(c, i, image);
    else
        for (unsigned n = 0; n < visible_registers(i); n++)
            memset(c->s.fpu.zmm[n], 0, 16);
}

static void restore_avx(struct x86_cpu *c, const struct x86_insn *i, const uint8_t *image,
                        bool load) {
    for (unsigned n = 0; n < visible_registers(i); n++)
        if (load)
            memcpy(c->s.fpu.zmm[n] + 16, image + AVX_OFFSET + 16 * n, 16);
        else
            memset(c->s.fpu.zmm[n] + 16, 0, 16);
}

/* What MXCSR becomes: the standard format loads it with SSE or AVX, the compacted one as part of
 * SSE. */
static uint32_t restored_mxcsr(struct x86_cpu *c, const uint8_t *image, uint64_t rfbm,
                               bool compact) {
    bool touched = has_mxcsr(rfbm, compact);
    bool load = touched && (!compact || (get64(image + HEADER) & XCR0_SSE));
    if (load)
        check_mxcsr(c, image);
    return load ? get32(image + FX_MXCSR) : touched ? MXCSR_INIT : c->s.fpu.mxcsr;
}

/* After area_probe(): these do not fault any more. */
static void load_parts(struct x86_cpu *c, const struct x86_insn *i, uint8_t *image, uint64_t load,
                       bool mxcsr) {
    if (load & XCR0_X87)
        area_read(c, i, 0, image, FX_XMM);
    else if (mxcsr)
        area_read(c, i, FX_MXCSR, image + FX_MXCSR, 4);
    if (load & XCR0_SSE)
        area_read(c, i, FX_XMM, image + FX_XMM, 16 * visible_registers(i));
    if (load & XCR0_AVX)
        area_read(c, i, AVX_OFFSET, image + AVX_OFFSET, 16 * visible_registers(i));
}

static void xrstor(struct x86_cpu *c, const struct x86_insn *i, uint64_t enabled,
                   bool must_compact) {
    uint8_t image[AVX_OFFSET + AVX_SIZE], pkru[4] = {0};
    uint64_t rfbm = requested(c, enabled);
    const uint8_t *h = image + HEADER;
    area_check_alignment(c, i, 63, false);
    area_read(c, i, HEADER, image + HEADER, AVX_OFFSET - HEADER);
    bool compact = get64(h + 8) >> 63;
    if (compact && (get64(h + 8) << 1 >> 1) & ~enabled) /* its layout is not known */
        cpu_raise_err(c, EXC_GP, 0);
    unsigned pkru_at = pkru_offset(get64(h + 8), compact);
    uint64_t there = compact ? rfbm & get64(h + 8) : rfbm;
    area_probe(c, i, there, pkru_at, compact, false);
    bool ok = compact ? x86_has(c->cpuid, FEAT_XSAVEC) && compact_header_ok(h, enabled)
                      : !must_compact && standard_header_ok(c, h);
    if (!ok)
        cpu_raise_err(c, EXC_GP, 0);
    uint64_t load = get64(h) & rfbm;
    load_parts(c, i, image, load, has_mxcsr(there, compact));
    if (load & XCR0_PKRU)
        area_read(c, i, pkru_at, pkru, sizeof pkru);
    c->s.fpu.mxcsr = restored_mxcsr(c, image, rfbm, compact);
    if (rfbm & XCR0_X87)
        restore_x87(c, i, image, load & XCR0_X87);
    if (rfbm & XCR0_SSE)
        restore_sse(c, i, image, load & XCR0_SSE);
    if (rfbm & XCR0_AVX)
        restore_avx(c, i, image, load & XCR0_AVX);
    if (rfbm & XCR0_PKRU)
        control_set_pkru(c, get32(pkru));
}

static void op_xrstor(struct x86_cpu *c, const struct x86_insn *i) {
    require_xsave(c);
    xrstor(c, i, c->s.xcr0, false);
}

static void op_xrstors(struct x86_cpu *c, const struct x86_insn *i) {
    require_supervisor(c);
    xrstor(c, i, c->s.xcr0 | c->s.msr.xss, true);
}

/* ---- XCR0 ---- */

static void op_xgetbv(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint32_t n = (uint32_t)c->s.gpr[RCX];
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, EXC_UD);
    if (n > 1 || (n == 1 && !x86_has(c->cpuid, FEAT_XGETBV1)))
        cpu_raise_err(c, EXC_GP, 0);
    uint64_t v = n == 0 ? c->s.xcr0 : c->s.xcr0 & components_in_use(c);
    c->s.gpr[RAX] = (uint32_t)v;
    c->s.gpr[RDX] = v >> 32;
}

/* SDM 1 13.3: SSE is AVX's base, and AVX that of AVX-512, whose three parts come together. */
static bool xcr0_valid(uint64_t v, uint64_t mask) {
    uint64_t avx512 = XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;
    if ((v & ~mask) || !(v & XCR0_X87) || ((v & XCR0_AVX) && !(v & XCR0_SSE)))
        return false;
    return !(v & avx512) || ((v & avx512) == avx512 && (v & XCR0_AVX));
}

static void op_xsetbv(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    uint64_t v = (uint64_t)(uint32_t)c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX];
    if (!(c->s.cr4 & CR4_OSXSAVE))
        cpu_raise(c, EXC_UD);
    cpu_require_cpl0(c);
    if ((uint32_t)c->s.gpr[RCX] != 0 || !xcr0_valid(v, c->cpuid->xcr0_mask))
        cpu_raise_err(c, EXC_GP, 0);
    c->s.xcr0 = v;
}

/* ---- selection ---- */

static x86_op_fn *pick(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return op_fxsave;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return op_fxrstor;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        return op_xsave;
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        return op_xsaveopt;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        return op_xsavec;
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
        return op_xsaves;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return op_xrstor;
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return op_xrstors;
    case ZYDIS_MNEMONIC_XGETBV:
        return op_xgetbv;
    case ZYDIS_MNEMONIC_XSETBV:
        return op_xsetbv;
    default:
        return NULL;
    }
}

bool select_xsave(const struct x86_decode *d, struct x86_insn *i) {
    i->fn = pick(d->zi->mnemonic);
    i->aux = d->zi->raw.rex.W;
    if (i->fn == op_xsetbv || i->fn == op_xrstor || i->fn == op_xrstors)
        i->flags |= INSN_END; /* what may be accessed may change with PKRU */
    return i->fn != NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Every MMX, SSE and AVX instruction that Zydis knows and the host has, on random operands: engine
 * against processor. */
#include "native.h"

#define RAM_PAGES 2
#define CASES 24

static struct x86_cpu *cpu;
static uint8_t *ram;
static unsigned forms, runs, faults, failures;

/* ---- random states ---- */

static uint32_t rnd_mxcsr(void) {
    uint32_t v = 0x1f80;
    if (rnd_below(3) == 0)
        v = (uint32_t)rnd() & 0xffff;
    else if (rnd_below(2))
        v |= (uint32_t)rnd() & 0xe07f;
    return v;
}

static void rnd_state(struct x86_state *s) {
    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = rnd_value();
    s->rflags = rnd() & FLAG_ARITH;
    struct x86_fpu *f = &s->fpu;
    memset(f, 0, sizeof *f);
    f->fcw = 0x37f;
    f->fsw = (uint16_t)(rnd() & 0x7800);
    f->ftw = (uint8_t)rnd();
    f->mxcsr = rnd_mxcsr();
    rnd_fill(f->zmm, 16 * 64);
    for (unsigned n = 0; n < 16; n++)
        memset(f->zmm[n] + 32, 0, 32);
    for (unsigned n = 0; n < 8; n++)
        rnd_fill(f->st[n], 10);
}

/* ---- one instruction ---- */

static int expected_signal(int vector) {
    return vector < 0                             ? 0
           : vector == EXC_UD                     ? SIGILL
           : vector == EXC_XM || vector == EXC_MF ? SIGFPE
                                                  : SIGSEGV;
}

static void report(const ZydisDecodedInstruction *zi, const uint8_t *insn) {
    printf("%s:", ZydisMnemonicGetString(zi->mnemonic));
    for (unsigned n = 0; n < zi->length; n++)
        printf(" %02x", insn[n]);
    printf("\n");
    failures++;
}

static bool compare(const ZydisDecodedInstruction *zi, const uint8_t *insn,
                    const struct x86_state *start) {
    static uint8_t before[RAM_PAGES * PAGE_SIZE], native_ram[RAM_PAGES * PAGE_SIZE];
    struct x86_state native = *start;
    memcpy(before, ram, sizeof before);
    int sig = native_run(&native, insn, zi->length);
    if (sig == SIGILL) /* not on this processor */
        return false;
    memcpy(native_ram, ram, sizeof native_ram);
    memcpy(ram, before, sizeof before);
    cpu->s.rip = native.rip;
    memcpy(cpu->s.gpr, start->gpr, sizeof start->gpr);
    cpu->s.rflags = start->rflags;
    cpu->s.fpu = start->fpu;
    int vector = engine_run(cpu, 64, insn, zi->length);
    bool bad = false;
    if (expected_signal(vector) != sig) {
        printf("signal %d, engine's vector %d\n", sig, vector);
        bad = true;
    }
    bad |= states_differ(&native, &cpu->s, false);
    bad |= memcmp(native_ram, ram, sizeof native_ram) != 0;
    if (bad)
        report(zi, insn);
    runs++;
    faults += sig != 0;
    return true;
}

/* ---- which instructions ---- */

static bool is_family(const ZydisDecodedInstruction *zi) {
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return true;
    default:
        return false;
    }
}

/* Integer instructions, and those that depend on what was there before the test. */
static bool is_excluded(const ZydisDecodedInstruction *zi) {
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_FISTTP:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_CLFLUSH:
        return true;
    default:
        return zi->meta.category == ZYDIS_CATEGORY_PREFETCH;
    }
}

/* The memory operand is [rbx + disp8]; RSP is not loaded. */
static bool uses_reserved(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op) {
    for (unsigned n = 0; n < zi->operand_count; n++) {
        if (op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && op[n].mem.index == ZYDIS_REGISTER_RBX)
            return true;
        if (op[n].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegister r = op[n].reg.value;
        ZydisRegisterClass k = ZydisRegisterGetClass(r);
        if ((k == ZYDIS_REGCLASS_GPR32 || k == ZYDIS_REGCLASS_GPR64) &&
            ZydisRegisterGetId(r) == RSP)
            return true;
    }
    return false;
}

static ZydisDecoder decoder;

static bool decode(const uint8_t *insn, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op) {
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, insn, 15, zi, op)) && is_family(zi) &&
           !is_excluded(zi) && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX;
}

/* Indices that stay inside the RAM; odd opcodes have 64-bit ones. */
static void tame_indices(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op,
                         struct x86_state *s) {
    uint8_t *v = s->fpu.zmm[ZydisRegisterGetId(op->mem.index)];
    unsigned size = zi->opcode & 1 ? 8 : 4;
    for (unsigned n = 0; n < 32 / size; n++) {
        int64_t index = (int64_t)rnd_below(200) - 100;
        memcpy(v + n * size, &index, size);
    }
}

static void rnd_memory(struct x86_state *s, const ZydisDecodedInstruction *zi,
                       const ZydisDecodedOperand *op) {
    static const unsigned offsets[] = {
        0, 0, 0, 0, 1, 8, 16, 4, PAGE_SIZE / 2 - 8, PAGE_SIZE / 2 - 16};
    rnd_fill(ram + PAGE_SIZE / 2, PAGE_SIZE);
    unsigned off = offsets[rnd_below(sizeof offsets / sizeof offsets[0])];
    s->gpr[RBX] = (uintptr_t)ram + PAGE_SIZE / 2 + 1024 + off;
    if (off >= 1024) /* near or across the pages' border */
        s->gpr[RBX] = (uintptr_t)ram + PAGE_SIZE / 2 + off;
    s->gpr[RDI] = s->gpr[RBX];
    for (unsigned n = 0; n < zi->operand_count; n++) {
        if (op[n].type != ZYDIS_OPERAND_TYPE_MEMORY || op[n].mem.index == ZYDIS_REGISTER_NONE)
            continue;
        s->gpr[RBX] = (uintptr_t)ram + PAGE_SIZE;
        if (op[n].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
            tame_indices(zi, &op[n], s);
        else
            s->gpr[ZydisRegisterGetId(op[n].mem.index)] = rnd_below(8) * 4;
    }
}

/* Runs what `make` writes again and again with other registers and values. */
static void run_form(unsigned (*make)(uint8_t *, const unsigned *), const unsigned *form) {
    struct x86_state s;
    memset(&s, 0, sizeof s);
    bool known = false;
    for (unsigned n = 0; n < CASES; n++) {
        uint8_t insn[16] = {0};
        ZydisDecodedInstruction zi;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        if (make(insn, form) == 0 || !decode(insn, &zi, op)) {
            if (n > 3 && !known)
                return;
            continue;
        }
        if (uses_reserved(&zi, op))
            continue;
        rnd_state(&s);
        rnd_memory(&s, &zi, op);
        if (!compare(&zi, insn, &s))
            return;
        forms += !known;
        known = true;
    }
}

/* ModRM and what follows: a register, or [rbx + disp8] with `memory`, [rbx + index * scale] with
 * `memory` 2. */
static unsigned put_operands(uint8_t *p, unsigned memory, unsigned reg, unsigned rm,
                             unsigned index) {
    unsigned n = 0;
    if (memory == 0) {
        p[n++] = (uint8_t)(0xc0 | reg << 3 | rm);
    } else if (memory == 1) {
        p[n++] = (uint8_t)(0x43 | reg << 3);
        p[n++] = 0;
    } else {
        p[n++] = (uint8_t)(0x44 | reg << 3);
        p[n++] = (uint8_t)(rnd_below(4) << 6 | index << 3 | RBX);
        p[n++] = 16;
    }
    p[n++] = (uint8_t)rnd(); /* the immediate, where there is one */
    return n;
}

enum { F_MAP, F_OPCODE, F_PREFIX, F_W, F_L, F_MEMORY, F_REG, F_COUNT };

static unsigned make_legacy(uint8_t *p, const unsigned *f) {
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
    if (f[F_MAP] == 1 && (f[F_OPCODE] == 0x38 || f[F_OPCODE] == 0x3a))
        return 0; /* the other maps */
    unsigned n = 0, reg = f[F_REG], rm = rnd_below(8);
    unsigned rex = f[F_W] << 3 | (unsigned)(rnd() & 4) | (f[F_MEMORY] ? 0 : (unsigned)(rnd() & 1));
    if (f[F_PREFIX])
        p[n++] = prefix[f[F_PREFIX]];
    if (rex)
        p[n++] = (uint8_t)(0x40 | rex);
    p[n++] = 0x0f;
    if (f[F_MAP] > 1)
        p[n++] = f[F_MAP] == 2 ? 0x38 : 0x3a;
    p[n++] = (uint8_t)f[F_OPCODE];
    return n + put_operands(p + n, f[F_MEMORY], reg, rm, 0);
}

static unsigned make_vex(uint8_t *p, const unsigned *f) {
    unsigned r = rnd_below(2), x = rnd_below(2), b = f[F_MEMORY] ? 1 : rnd_below(2);
    unsigned vvvv = rnd_below(3) == 0 ? 15 : rnd_below(16);
    p[0] = 0xc4;
    p[1] = (uint8_t)(r << 7 | x << 6 | b << 5 | f[F_MAP]);
    p[2] = (uint8_t)(f[F_W] << 7 | vvvv << 3 | f[F_L] << 2 | f[F_PREFIX]);
    p[3] = (uint8_t)f[F_OPCODE];
    return 4 + put_operands(p + 4, f[F_MEMORY], f[F_REG], rnd_below(8), rnd_below(8));
}

static void each_operand(unsigned (*make)(uint8_t *, const unsigned *), unsigned *f,
                         unsigned memories) {
    for (f[F_MEMORY] = 0; f[F_MEMORY] < memories; f[F_MEMORY]++)
        for (f[F_REG] = 0; f[F_REG] < 8; f[F_REG]++)
            run_form(make, f);
}

static void finish(const char *what) {
    printf("%s: %u forms, %u runs, %u faults, %u failures\n", what, forms, runs, faults, failures);
    assert_int_equal(failures, 0);
    assert_true(forms > 100);
}

static void test_legacy(void **state) {
    (void)state;
    unsigned f[F_COUNT] = {0};
    native_arm();
    forms = runs = faults = failures = 0;
    for (f[F_MAP] = 1; f[F_MAP] <= 3; f[F_MAP]++)
        for (f[F_OPCODE] = 0; f[F_OPCODE] < 256; f[F_OPCODE]++)
            for (f[F_PREFIX] = 0; f[F_PREFIX] < 4; f[F_PREFIX]++)
                for (f[F_W] = 0; f[F_W] < 2; f[F_W]++)
                    each_operand(make_legacy, f, 2);
    finish("legacy");
}

static void test_vex(void **state) {
    (void)state;
    unsigned f[F_COUNT] = {0};
    if (!native_has_avx2())
        skip();
    native_arm();
    forms = runs = faults = failures = 0;
    for (f[F_MAP] = 1; f[F_MAP] <= 3; f[F_MAP]++)
        for (f[F_OPCODE] = 0; f[F_OPCODE] < 256; f[F_OPCODE]++)
            for (f[F_PREFIX] = 0; f[F_PREFIX] < 4; f[F_PREFIX]++)
                for (unsigned wl = 0; wl < 4; wl++) {
                    f[F_W] = wl & 1;
                    f[F_L] = wl >> 1;
                    each_operand(make_vex, f, 3);
                }
    finish("VEX");
}

/* ---- checks that need privilege, and restartable faults ---- */

static int run(unsigned mode, const uint8_t *insn, unsigned len) {
    cpu->s.rip = 0x1000;
    cpu->s.gpr[RBX] = (uintptr_t)ram;
    return engine_run(cpu, mode, insn, len);
}

#define RUN(...) run(64, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define ADDPS 0x0f, 0x58, 0xc1
#define MOVUPS 0x0f, 0x10, 0xc1
#define MOVNTPS_MEM 0x0f, 0x2b, 0x03
#define PADDB_MMX 0x0f, 0xfc, 0xc1
#define VADDPS 0xc5, 0xf4, 0x58, 0xc2
#define VMOVUPS 0xc5, 0xfc, 0x10, 0xc1

static void expect_sse(int vector) {
    assert_int_equal(RUN(ADDPS), vector);
    assert_int_equal(RUN(MOVUPS), vector);
    assert_int_equal(RUN(MOVNTPS_MEM), vector);
    assert_int_equal(RUN(0x0f, 0xae, 0x1b), vector); /* stmxcsr */
}

static void expect_avx(int vector) {
    assert_int_equal(RUN(VADDPS), vector);
    assert_int_equal(RUN(VMOVUPS), vector);
    assert_int_equal(RUN(0xc5, 0xf8, 0x77), vector); /* vzeroupper */
}

static void test_control_registers(void **state) {
    (void)state;
    memset(&cpu->s.fpu, 0, sizeof cpu->s.fpu);
    cpu->s.fpu.mxcsr = 0x1f80;
    cpu->s.fpu.fcw = 0x37f;
    struct x86_state old = cpu->s;
    expect_sse(-1);
    expect_avx(-1);
    cpu->s.cr0 |= CR0_TS;
    expect_sse(EXC_NM);
    expect_avx(EXC_NM);
    assert_int_equal(RUN(PADDB_MMX), EXC_NM);
    cpu->s.cr0 |= CR0_EM;
    expect_sse(EXC_UD);
    expect_avx(EXC_NM);
    assert_int_equal(RUN(PADDB_MMX), EXC_UD);
    cpu->s.cr0 = old.cr0;
    cpu->s.cr4 &= ~(uint64_t)CR4_OSFXSR;
    expect_sse(EXC_UD);
    expect_avx(-1);
    assert_int_equal(RUN(PADDB_MMX), -1);
    cpu->s.cr4 = old.cr4 & ~(uint64_t)CR4_OSXSAVE;
    expect_sse(-1);
    expect_avx(EXC_UD);
    cpu->s.cr4 = old.cr4;
    cpu->s.xcr0 = 3;
    expect_avx(EXC_UD);
    cpu->s.xcr0 = 7;
    cpu->s.fpu.fcw = 0x37b;
    cpu->s.fpu.fsw = 0x8084;
    assert_int_equal(RUN(PADDB_MMX), EXC_MF);
    assert_int_equal(RUN(0x0f, 0x77), EXC_MF); /* emms */
    expect_sse(-1);
    cpu->s.fpu.fsw = 0;
}

static void test_simd_exception_without_osxmmexcpt(void **state) {
    (void)state;
    native_arm();
    memset(&cpu->s.fpu, 0, sizeof cpu->s.fpu);
    cpu->s.fpu.mxcsr = 0x1f00; /* invalid operation unmasked */
    assert_int_equal(RUN(0x0f, 0x5e, 0xc1), EXC_XM);
    assert_int_equal(cpu->s.fpu.mxcsr, 0x1f01);
    cpu->s.cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
    assert_int_equal(RUN(0x0f, 0x5e, 0xc1), EXC_UD);
    cpu->s.cr4 |= CR4_OSXMMEXCPT;
    cpu->s.fpu.mxcsr = 0x1f80;
}

static void test_ldmxcsr_reserved(void **state) {
    (void)state;
    memcpy(ram, &(uint32_t){0x10000}, 4);
    assert_int_equal(RUN(0x0f, 0xae, 0x13), EXC_GP);
    assert_int_equal(cpu->s.fpu.mxcsr, 0x1f80);
    memcpy(ram, &(uint32_t){0xffff}, 4);
    assert_int_equal(RUN(0x0f, 0xae, 0x13), -1);
    assert_int_equal(cpu->s.fpu.mxcsr, 0xffff);
    cpu->s.fpu.mxcsr = 0x1f80;
}

/* vpgatherqq ymm0, [rbx + ymm1*8], ymm2, whose third element is at no canonical address. */
static void test_gather_stops_at_a_fault(void **state) {
    (void)state;
    const uint64_t index[4] = {0, 1, 1ull << 59, 3};
    uint64_t data[4] = {11, 22, 33, 44}, dst[4], mask[4];
    memcpy(ram, data, sizeof data);
    memset(cpu->s.fpu.zmm[0], 0xee, 32);
    memcpy(cpu->s.fpu.zmm[1], index, 32);
    memset(cpu->s.fpu.zmm[2], 0xff, 32);
    assert_int_equal(RUN(0xc4, 0xe2, 0xed, 0x91, 0x04, 0xcb), EXC_GP);
    memcpy(dst, cpu->s.fpu.zmm[0], 32);
    memcpy(mask, cpu->s.fpu.zmm[2], 32);
    assert_memory_equal(dst, ((uint64_t[]){11, 22, 0xeeeeeeeeeeeeeeee, 0xeeeeeeeeeeeeeeee}), 32);
    assert_memory_equal(mask, ((uint64_t[]){0, 0, UINT64_MAX, UINT64_MAX}), 32);
    memset(cpu->s.fpu.zmm[1] + 16, 0, 8); /* repaired, it goes on */
    assert_int_equal(RUN(0xc4, 0xe2, 0xed, 0x91, 0x04, 0xcb), -1);
    memcpy(dst, cpu->s.fpu.zmm[0], 32);
    assert_memory_equal(dst, ((uint64_t[]){11, 22, 11, 44}), 32);
}

/* vmaskmovps [rbx], ymm1, ymm0: elements that are not selected are not touched, wherever they are.
 */
static void test_masked_elements_do_not_fault(void **state) {
    (void)state;
    const uint32_t mask[8] = {0x80000000, 0, 0, 0, 0, 0, 0, 0}, one = 0x3f800000;
    memcpy(cpu->s.fpu.zmm[1], mask, 32);
    memcpy(cpu->s.fpu.zmm[0], &one, 4);
    cpu->s.rip = 0x1000;
    cpu->s.gpr[RBX] = (uintptr_t)ram + RAM_PAGES * PAGE_SIZE - 4;
    assert_int_equal(engine_run(cpu, 64, (const uint8_t[]){0xc4, 0xe2, 0x75, 0x2e, 0x03}, 5), -1);
    assert_memory_equal(ram + RAM_PAGES * PAGE_SIZE - 4, &one, 4);
    assert_int_equal(engine_run(cpu, 64, (const uint8_t[]){0xc4, 0xe2, 0x75, 0x2c, 0x13}, 5), -1);
    assert_memory_equal(cpu->s.fpu.zmm[2], &one, 4);
}

/* vmaskmovps ymm2, ymm1, [rbx], and the store: what is selected must be canonical, all of it first.
 */
static void test_masked_elements_out_of_bounds(void **state) {
    (void)state;
    const uint8_t load[] = {0xc4, 0xe2, 0x75, 0x2c, 0x13}, store[] = {0xc4, 0xe2, 0x75, 0x2e, 0x13};
    cpu->s.gpr[RBX] = 0x7ffffffffffe;
    memset(cpu->s.fpu.zmm[1], 0, 32);
    assert_int_equal(engine_run(cpu, 64, load, 5), -1);
    assert_int_equal(engine_run(cpu, 64, store, 5), -1);
    cpu->s.fpu.zmm[1][7] = 0x80;
    assert_int_equal(engine_run(cpu, 64, load, 5), EXC_GP);
    assert_int_equal(engine_run(cpu, 64, store, 5), EXC_GP);
}

/* vpcmpestri xmm0, xmm0, 0 with VEX.W: its lengths are RAX and RDX in 64-bit mode only. */
static void test_string_lengths(void **state) {
    (void)state;
    const uint8_t insn[] = {0xc4, 0xe3, 0xf9, 0x61, 0xc0, 0};
    memset(cpu->s.fpu.zmm[0], 1, 16);
    cpu->s.gpr[RAX] = cpu->s.gpr[RDX] = 1ull << 32;
    assert_int_equal(engine_run(cpu, 32, insn, sizeof insn), -1);
    assert_int_equal(cpu->s.gpr[RCX], 16);
    assert_int_equal(engine_run(cpu, 64, insn, sizeof insn), -1);
    assert_int_equal(cpu->s.gpr[RCX], 0);
}

/* In 32-bit mode VEX.W does not widen VMOVD, and the upper registers cannot be named. */
static void test_32_bit_mode(void **state) {
    (void)state;
    cpu->s.gpr[RAX] = 0x1122334455667788;
    memset(cpu->s.fpu.zmm[0], 0xff, 32);
    assert_int_equal(run(32, (const uint8_t[]){0xc4, 0xe1, 0xf9, 0x6e, 0xc0}, 5), -1);
    assert_memory_equal(cpu->s.fpu.zmm[0], ((uint64_t[]){0x55667788, 0, 0, 0}), 32);
    memset(cpu->s.fpu.zmm[0], 0xff, 32);
    memset(cpu->s.fpu.zmm[8], 0xff, 32);
    assert_int_equal(run(32, (const uint8_t[]){0xc5, 0xfc, 0x77}, 3), -1); /* vzeroall */
    assert_memory_equal(cpu->s.fpu.zmm[0], ((uint64_t[]){0, 0, 0, 0}), 32);
    assert_memory_equal(cpu->s.fpu.zmm[8], ((uint64_t[]){~0ull, ~0ull, ~0ull, ~0ull}), 32);
}

static int setup(void **state) {
    (void)state;
    native_init();
    ram = engine_ram(RAM_PAGES);
    cpu = engine_new(ram, RAM_PAGES);
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_vex),
        cmocka_unit_test(test_control_registers),
        cmocka_unit_test(test_simd_exception_without_osxmmexcpt),
        cmocka_unit_test(test_ldmxcsr_reserved),
        cmocka_unit_test(test_gather_stops_at_a_fault),
        cmocka_unit_test(test_masked_elements_do_not_fault),
        cmocka_unit_test(test_masked_elements_out_of_bounds),
        cmocka_unit_test(test_string_lengths),
        cmocka_unit_test(test_32_bit_mode),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Every x87 instruction on random states and operands, with and without unmasked exceptions: engine
 * against processor. */
#include "native.h"

#include "cpu/x86/x87.h"

#define CASES 400

static struct x86_cpu *cpu;
static uint8_t *ram;

/* ---- random states ---- */

static void rnd_extended(uint8_t *st) {
    static const uint16_t exponents[] = {0,      0x3fff, 0x7fff, 0xffff, 0x8000,
                                         0xbfff, 0x4040, 1,      0x3c00};
    uint64_t significand = rnd_value();
    uint16_t exponent = exponents[rnd_below(sizeof exponents / sizeof exponents[0])];
    if (rnd_below(3) == 0)
        exponent = (uint16_t)(0x3ff0 + rnd_below(64)) | (uint16_t)(rnd() & 0x8000);
    if (rnd_below(4) && exponent & 0x7fff)
        significand |= 1ull << 63;
    memcpy(st, &significand, 8);
    memcpy(st + 8, &exponent, 2);
}

static uint16_t rnd_fcw(void) {
    uint16_t v = (uint16_t)(0x37f | (rnd() & 0xc00));
    if (rnd_below(3) == 0)
        v = (uint16_t)((rnd() & 0x1f3f) | 0x40);
    return v;
}

static void rnd_state(struct x86_state *s) {
    struct x86_fpu *f = &s->fpu;
    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = rnd_value();
    s->gpr[RBX] = (uintptr_t)ram + 64;
    s->rflags = rnd() & FLAG_ARITH;
    f->fcw = rnd_fcw();
    f->fsw = (uint16_t)(rnd() & 0x7f7f);
    if (rnd_below(8))
        f->fsw &= 0x7f00;
    x87_update_summary(f);
    f->ftw = rnd_below(3) ? 0xff : (uint8_t)rnd();
    f->mxcsr = 0x1f80;
    f->fip = 0x1234;
    f->fdp = 0x5678;
    f->fop = 0x123;
    for (unsigned n = 0; n < 8; n++)
        rnd_extended(f->st[n]);
    for (unsigned n = 0; n < 256; n += 16) {
        rnd_fill(ram + n, 16);
        if (rnd_below(2))
            rnd_extended(ram + n);
    }
}

/* ---- one instruction ---- */

static void engine_load(const struct x86_state *s, uint64_t rip) {
    cpu->s.rip = rip;
    memcpy(cpu->s.gpr, s->gpr, sizeof s->gpr);
    cpu->s.rflags = s->rflags;
    cpu->s.fpu = s->fpu;
}

static bool compare(const uint8_t *insn, unsigned len, const struct x86_state *start) {
    uint8_t before[256], after[256];
    struct x86_state native = *start;
    memcpy(before, ram, sizeof before);
    int sig = native_run(&native, insn, len);
    memcpy(after, ram, sizeof after);
    memcpy(ram, before, sizeof before);
    engine_load(start, native.rip);
    int vector = engine_run(cpu, 64, insn, len);
    if (sig != 0) {
        bool same = vector == (sig == SIGFPE ? EXC_MF : EXC_UD);
        if (!same)
            printf("signal %d, engine's vector %d\n", sig, vector);
        return same;
    }
    bool bad = vector >= 0 || states_differ(&native, &cpu->s, true);
    bad |= differs("memory", after, ram, sizeof after);
    return !bad;
}

static unsigned failures, forms;

static void run_form(const uint8_t *insn, unsigned len) {
    ZydisDecoder z;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct x86_state s;
    ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, insn, 15, &zi, op)))
        return;
    memset(&s, 0, sizeof s);
    forms++;
    for (unsigned n = 0; n < CASES; n++) {
        rnd_state(&s);
        if (compare(insn, len, &s))
            continue;
        printf("%s: %02x %02x, fcw %04x fsw %04x ftw %02x\n", ZydisMnemonicGetString(zi.mnemonic),
               insn[0], insn[1], s.fpu.fcw, s.fpu.fsw, s.fpu.ftw);
        dump("st0", s.fpu.st[0], 10);
        failures++;
        return;
    }
}

static void test_every_form(void **state) {
    (void)state;
    native_arm();
    failures = forms = 0;
    for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++)
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            uint8_t insn[16] = {(uint8_t)opcode, (uint8_t)modrm};
            if (modrm < 0xc0 && (modrm & 0xc7) != 3)
                continue; /* memory: [rbx] */
            run_form(insn, 2);
        }
    run_form((uint8_t[16]){0x9b}, 1);
    run_form((uint8_t[16]){0x66, 0xd9, 0x33}, 3); /* 16-bit environments */
    run_form((uint8_t[16]){0x66, 0xd9, 0x23}, 3);
    run_form((uint8_t[16]){0x66, 0xdd, 0x33}, 3);
    run_form((uint8_t[16]){0x66, 0xdd, 0x23}, 3);
    printf("%u forms, %u failures\n", forms, failures);
    assert_int_equal(failures, 0);
    assert_true(forms > 450);
}

/* ---- checks ---- */

static int run_with(uint64_t cr0, uint16_t fcw, uint16_t fsw, const uint8_t *insn, unsigned len) {
    uint64_t old = cpu->s.cr0;
    struct x86_state s;
    memset(&s, 0, sizeof s);
    s.gpr[RBX] = (uintptr_t)ram + 64;
    engine_load(&s, 0x1000);
    cpu->s.fpu.fcw = fcw;
    cpu->s.fpu.fsw = fsw;
    cpu->s.cr0 = CR0_PE | CR0_PG | cr0;
    int vector = engine_run(cpu, 64, insn, len);
    cpu->s.cr0 = old;
    return vector;
}

#define RUN(cr0, fcw, fsw, ...)                                                                    \
    run_with(cr0, fcw, fsw, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void test_device_not_available(void **state) {
    (void)state;
    assert_int_equal(RUN(CR0_TS, 0x37f, 0, 0xd9, 0xe8), EXC_NM); /* fld1 */
    assert_int_equal(RUN(CR0_EM, 0x37f, 0, 0xd9, 0xe8), EXC_NM);
    assert_int_equal(RUN(CR0_EM, 0x37f, 0, 0xdf, 0xe0), EXC_NM); /* fnstsw ax */
    assert_int_equal(RUN(CR0_TS, 0x37f, 0, 0x9b), -1);           /* fwait */
    assert_int_equal(RUN(CR0_TS | CR0_MP, 0x37f, 0, 0x9b), EXC_NM);
    assert_int_equal(RUN(CR0_EM, 0x37f, 0, 0x9b), -1);
    assert_int_equal(RUN(0, 0x37f, 0, 0xd9, 0xe8), -1);
}

static unsigned ferr_raised, ferr_lowered;
static bool irq_open;

static void on_ferr(void *apic, bool level) {
    (void)apic;
    ferr_raised += level;
    ferr_lowered += !level;
}

static bool on_pending(void *apic) {
    (void)apic;
    return irq_open;
}

/* CR0.NE = 0: FERR#, and the instruction runs as with IGNNE#, keeping the error. */
static void test_external_error(void **state) {
    (void)state;
    static const struct x86_irqchip_ops chip = {.ferr = on_ferr, .pending = on_pending};
    assert_int_equal(RUN(CR0_NE, 0x37b, 0x8084, 0xd9, 0xe8), EXC_MF);
    cpu->v.irqchip = &chip;
    assert_int_equal(RUN(0, 0x37b, 0x8084, 0xd9, 0xe8), -1);
    assert_int_equal(ferr_raised, 1);
    assert_int_equal(cpu->s.fpu.fsw, 0xb884);
    assert_int_equal(cpu->s.fpu.st[0][9], 0x3f);
    assert_int_equal(RUN(0, 0x37b, 0x8084, 0xdb, 0xe2), -1); /* fnclex */
    assert_int_equal(ferr_lowered, 1);
    assert_int_equal(cpu->s.fpu.fsw, 0);
    cpu->v.irqchip = NULL;
}

/* FNSTENV as virtual-8086 and 16-bit real-mode code see it (SDM 1 figures 8-10 and 8-12). */
static void test_real_environment(void **state) {
    (void)state;
    uint32_t env[7];
    uint16_t env16[7];
    cpu->pe = false;
    cpu->s.fpu = (struct x86_fpu){.fcw = 0x37f, .fip = 0x12345678, .fdp = 0xabcdef, .fop = 0x7ab};
    struct x86_insn i = {0};
    uint8_t fnstenv[15] = {0xd9, 0x33}, fnstenv16[15] = {0x66, 0xd9, 0x33};
    cpu->s.gpr[RBX] = (uintptr_t)ram;
    assert_int_equal(x86_decode(cpu->cpuid, 64, fnstenv, 15, &i), 0);
    i.fn(cpu, &i);
    memcpy(env, ram, 28);
    assert_int_equal(x86_decode(cpu->cpuid, 64, fnstenv16, 15, &i), 0);
    i.fn(cpu, &i);
    memcpy(env16, ram, 14);
    cpu->pe = true;
    const uint32_t want[7] = {0xffff037f, 0xffff0000, 0xffffffff, 0xffff5678,
                              0x012347ab, 0xffffcdef, 0x000ab000};
    const uint16_t want16[7] = {0x37f, 0, 0xffff, 0x5678, 0x47ab, 0xcdef, 0xb000};
    assert_memory_equal(env, want, 28);
    assert_memory_equal(env16, want16, 14);
}

/* fist word [rbx] of an empty register, where there is no memory: a store that an unmasked
 * exception suppresses does not look. */
static void test_suppressed_store(void **state) {
    (void)state;
    const uint8_t fist[] = {0xdf, 0x13};
    cpu->s.gpr[RBX] = 0x800000000000;
    cpu->s.fpu = (struct x86_fpu){.fcw = 0x37e};
    assert_int_equal(engine_run(cpu, 64, fist, 2), -1);
    assert_int_equal(cpu->s.fpu.fsw & (FSW_IE | FSW_SF | FSW_ES), FSW_IE | FSW_SF | FSW_ES);
    cpu->s.fpu = (struct x86_fpu){.fcw = 0x37f};
    assert_int_equal(engine_run(cpu, 64, fist, 2), EXC_GP);
    assert_int_equal(cpu->s.fpu.fsw, 0);
}

static int setup(void **state) {
    (void)state;
    native_init();
    ram = engine_ram(1);
    cpu = engine_new(ram, 1);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_form),       cmocka_unit_test(test_device_not_available),
        cmocka_unit_test(test_external_error),   cmocka_unit_test(test_real_environment),
        cmocka_unit_test(test_suppressed_store),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

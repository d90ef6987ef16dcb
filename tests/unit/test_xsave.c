/* SPDX-License-Identifier: Apache-2.0 */
/* FXSAVE, FXRSTOR and the XSAVE family: images and restored states against the processor's, and
 * what must fault. */
#include "native.h"

#include "cpu/x86/x87.h"

#define AREA 1024

static struct x86_cpu *cpu;
static uint8_t *ram;

/* Some components in their initial configuration, some not. */
static void rnd_state(struct x86_state *s) {
    struct x86_fpu *f = &s->fpu;
    memset(f, 0, sizeof *f);
    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = rnd();
    s->gpr[RBX] = (uintptr_t)ram;
    s->gpr[RAX] = rnd() & 7;
    s->gpr[RDX] = 0;
    s->rflags = 0;
    f->mxcsr = rnd_below(2) ? 0x1f80 : (uint32_t)rnd() & 0xffff;
    f->fcw = 0x37f;
    if (rnd_below(4)) {
        f->fcw = x87_valid_fcw((unsigned)rnd());
        f->fsw = (uint16_t)rnd();
        f->ftw = (uint8_t)rnd();
        f->fop = rnd() & 0x7ff;
        f->fip = rnd() >> 17;
        f->fdp = rnd() >> 17;
        for (unsigned n = 0; n < 8; n++)
            rnd_fill(f->st[n], 10);
        x87_update_summary(f);
    }
    bool xmm = rnd_below(3), ymm = rnd_below(3);
    for (unsigned n = 0; n < 16; n++) {
        if (xmm)
            rnd_fill(f->zmm[n], 16);
        if (ymm)
            rnd_fill(f->zmm[n] + 16, 16);
    }
}

static void put64(unsigned off, uint64_t v) {
    memcpy(ram + off, &v, 8);
}

/* An area to be restored from, mostly valid. */
static void rnd_area(void) {
    rnd_fill(ram, AREA);
    uint32_t mxcsr = (uint32_t)rnd() & (rnd_below(8) ? 0xffff : 0x1ffff);
    uint64_t bv = rnd() & 7;
    memcpy(ram + 24, &mxcsr, 4);
    memset(ram + 512, 0, 64);
    put64(512, bv);
    if (rnd_below(2))
        put64(520, (bv | (rnd() & (rnd_below(8) ? 7 : 15))) | 1ull << 63);
    if (rnd_below(8) == 0)
        ram[528 + rnd_below(48)] |= 1u << rnd_below(8);
    if (rnd_below(8) == 0)
        put64(512, bv | 1ull << 60);
}

static bool compare(const uint8_t *insn, unsigned len, const struct x86_state *start) {
    uint8_t before[PAGE_SIZE], after[PAGE_SIZE];
    struct x86_state native = *start;
    memcpy(before, ram, sizeof before);
    int sig = native_run(&native, insn, len);
    memcpy(after, ram, sizeof after);
    memcpy(ram, before, sizeof before);
    cpu->s.rip = native.rip;
    memcpy(cpu->s.gpr, start->gpr, sizeof start->gpr);
    cpu->s.rflags = start->rflags;
    cpu->s.fpu = start->fpu;
    int vector = engine_run(cpu, 64, insn, len);
    if (sig != 0) {
        native.fpu = start->fpu;
        if (sig == SIGILL)
            return true;
    }
    bool bad = sig != (vector < 0 ? 0 : SIGSEGV);
    if (bad)
        printf("signal %d, engine's vector %d\n", sig, vector);
    bad |= states_differ(&native, &cpu->s, true);
    bad |= differs("memory", after, ram, AREA);
    return !bad;
}

/* An interrupt may leave components in use that were in their initial configuration. */
static bool compare_twice(const uint8_t *insn, unsigned len, const struct x86_state *start) {
    uint8_t before[PAGE_SIZE];
    memcpy(before, ram, sizeof before);
    if (compare(insn, len, start))
        return true;
    memcpy(ram, before, sizeof before);
    return compare(insn, len, start);
}

static void check(const char *name, const uint8_t *insn, unsigned len, bool restore) {
    struct x86_state s;
    memset(&s, 0, sizeof s);
    for (unsigned n = 0; n < 3000; n++) {
        rnd_state(&s);
        if (restore)
            rnd_area();
        else
            rnd_fill(ram, AREA);
        if (n % 16 == 15)
            s.gpr[RBX] += 8u << rnd_below(4);
        if (compare_twice(insn, len, &s))
            continue;
        printf("%s: rax %lx, mxcsr %x\n", name, (unsigned long)s.gpr[RAX], s.fpu.mxcsr);
        dump("header", ram + 512, 64);
        fail();
    }
}

#define CHECK(name, restore, ...)                                                                  \
    check(name, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), restore)

static void test_fxsave(void **state) {
    (void)state;
    native_arm();
    CHECK("fxsave", false, 0x0f, 0xae, 0x03);
    CHECK("fxsave64", false, 0x48, 0x0f, 0xae, 0x03);
    CHECK("fxrstor", true, 0x0f, 0xae, 0x0b);
    CHECK("fxrstor64", true, 0x48, 0x0f, 0xae, 0x0b);
}

static void test_xsave(void **state) {
    (void)state;
    if (!native_has_avx2())
        skip();
    native_arm();
    CHECK("xsave", false, 0x0f, 0xae, 0x23);
    CHECK("xsave64", false, 0x48, 0x0f, 0xae, 0x23);
    CHECK("xsaveopt64", false, 0x48, 0x0f, 0xae, 0x33);
    CHECK("xsavec64", false, 0x48, 0x0f, 0xc7, 0x23);
    CHECK("xrstor", true, 0x0f, 0xae, 0x2b);
    CHECK("xrstor64", true, 0x48, 0x0f, 0xae, 0x2b);
}

/* ---- an area of which a part is not there ---- */

/* The last page of canonical addresses, which is `ram` here: an area may hang over its end. */
#define LAST_PAGE 0x7ffffffff000

static int run_at_end(const uint8_t *insn, unsigned len, unsigned inside, uint64_t rfbm) {
    struct tlb_entry *e = tlb_slot(cpu, cpu->tlb, LAST_PAGE);
    struct tlb_entry kept = *e;
    *e = (struct tlb_entry){.mask = ~0ull, .addend = (uintptr_t)ram - LAST_PAGE, .ex = TLB_INVALID};
    e->rd = e->wr = LAST_PAGE >> PAGE_SHIFT | cpu->asid;
    memset(ram, 0, PAGE_SIZE);
    memset(&cpu->s.fpu, 0, sizeof cpu->s.fpu);
    cpu->s.fpu.mxcsr = 0x1f80;
    cpu->s.gpr[RAX] = rfbm;
    cpu->s.gpr[RDX] = 0;
    cpu->s.gpr[RBX] = LAST_PAGE + PAGE_SIZE - inside;
    cpu->s.rip = 0x1000;
    int vector = engine_run(cpu, 64, insn, len);
    *e = kept;
    return vector;
}

/* What is asked for has to be there, whether it is in use or not; the rest has not. */
static void check_missing_part(const uint8_t *insn, unsigned len) {
    for (uint64_t rfbm = 0; rfbm < 8; rfbm++)
        for (unsigned inside = 512; inside <= 832; inside += 64) {
            unsigned size = rfbm & XCR0_AVX ? 832 : 576;
            assert_int_equal(run_at_end(insn, len, inside, rfbm), inside < size ? EXC_GP : -1);
        }
}

static void test_missing_part(void **state) {
    (void)state;
    check_missing_part((const uint8_t[]){0x0f, 0xae, 0x23}, 3);       /* xsave [rbx] */
    check_missing_part((const uint8_t[]){0x0f, 0xc7, 0x23}, 3);       /* xsavec [rbx] */
    check_missing_part((const uint8_t[]){0x48, 0x0f, 0xae, 0x33}, 4); /* xsaveopt64 [rbx] */
    check_missing_part((const uint8_t[]){0x48, 0x0f, 0xae, 0x2b}, 4); /* xrstor64 [rbx] */
}

/* ---- what user code cannot try ---- */

static int run_at(unsigned cpl, uint64_t eax, uint64_t ecx, const uint8_t *insn, unsigned len) {
    memset(cpu->s.gpr, 0, sizeof cpu->s.gpr);
    cpu->s.gpr[RAX] = eax;
    cpu->s.gpr[RCX] = ecx;
    cpu->s.gpr[RBX] = (uintptr_t)ram;
    cpu->s.rip = 0x1000;
    cpu->cpl = (uint8_t)cpl;
    int vector = engine_run(cpu, 64, insn, len);
    cpu->cpl = 0;
    return vector;
}

#define RUN_AT(cpl, eax, ecx, ...)                                                                 \
    run_at(cpl, eax, ecx, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define XSETBV 0x0f, 0x01, 0xd1
#define XGETBV 0x0f, 0x01, 0xd0

static void test_xsetbv(void **state) {
    (void)state;
    assert_int_equal(RUN_AT(3, 7, 0, XSETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 7, 1, XSETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 6, 0, XSETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 5, 0, XSETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 0xf, 0, XSETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 3, 0, XSETBV), -1);
    assert_int_equal(cpu->s.xcr0, 3);
    assert_int_equal(RUN_AT(3, 0, 0, XGETBV), -1);
    assert_int_equal(cpu->s.gpr[RAX], 3);
    assert_int_equal(RUN_AT(3, 0, 2, XGETBV), EXC_GP);
    assert_int_equal(RUN_AT(0, 7, 0, XSETBV), -1);
    cpu->s.cr4 &= ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(RUN_AT(0, 7, 0, XSETBV), EXC_UD);
    assert_int_equal(RUN_AT(0, 7, 0, XGETBV), EXC_UD);
    assert_int_equal(RUN_AT(0, 7, 0, 0x0f, 0xae, 0x23), EXC_UD); /* xsave */
    cpu->s.cr4 |= CR4_OSXSAVE;
}

static void test_xgetbv_in_use(void **state) {
    (void)state;
    memset(&cpu->s.fpu, 0, sizeof cpu->s.fpu);
    cpu->s.fpu.fcw = 0x37f;
    assert_int_equal(RUN_AT(3, 0, 1, XGETBV), -1);
    assert_int_equal(cpu->s.gpr[RAX], 0);
    cpu->s.fpu.zmm[15][31] = 1;
    cpu->s.fpu.st[7][9] = 1;
    assert_int_equal(RUN_AT(3, 0, 1, XGETBV), -1);
    assert_int_equal(cpu->s.gpr[RAX], XCR0_X87 | XCR0_AVX);
}

/* XSAVES and XRSTORS: supervisor only, compacted only. */
static void test_supervisor(void **state) {
    (void)state;
    struct x86_state s;
    memset(&s, 0, sizeof s);
    rnd_state(&s);
    memset(s.fpu.zmm[3], 0x5a, 32);
    s.fpu.st[2][3] = 1;
    cpu->s.fpu = s.fpu;
    memset(ram, 0, AREA);
    assert_int_equal(RUN_AT(3, 7, 0, 0x48, 0x0f, 0xc7, 0x2b), EXC_GP);
    assert_int_equal(RUN_AT(3, 7, 0, 0x48, 0x0f, 0xc7, 0x1b), EXC_GP);
    assert_int_equal(RUN_AT(0, 7, 0, 0x48, 0x0f, 0xc7, 0x1b),
                     EXC_GP);                                      /* xrstors of a standard area */
    assert_int_equal(RUN_AT(0, 7, 0, 0x48, 0x0f, 0xc7, 0x2b), -1); /* xsaves */
    uint64_t comp;
    memcpy(&comp, ram + 520, 8);
    assert_int_equal(comp, 1ull << 63 | 7);
    memset(&cpu->s.fpu, 0, sizeof cpu->s.fpu);
    assert_int_equal(RUN_AT(0, 7, 0, 0x48, 0x0f, 0xc7, 0x1b), -1);
    assert_memory_equal(&cpu->s.fpu, &s.fpu, sizeof s.fpu);
}

/* PKRU lies at 2688 in the standard format, and behind AVX, or without it, in the compacted one. */
static void test_pkru(void **state) {
    const struct {
        uint8_t save;
        unsigned rfbm, at;
    } CASES[] = {{0xae, 0x200, 2688}, {0xc7, 0x204, 832}, {0xc7, 0x200, 576}};
    (void)state;
    cpu->s.xcr0 |= XCR0_PKRU;
    for (unsigned n = 0; n < ARRAY_LEN(CASES); n++) {
        uint64_t image, bv;
        memset(ram, 0, PAGE_SIZE);
        cpu->s.pkru = 0x12345678;
        assert_int_equal(RUN_AT(3, CASES[n].rfbm, 0, 0x0f, CASES[n].save, 0x23), -1);
        memcpy(&image, ram + CASES[n].at, 8);
        assert_int_equal(image, 0x12345678);
        memcpy(&bv, ram + 512, 8);
        assert_true(bv & XCR0_PKRU);
        cpu->s.pkru = 0;
        assert_int_equal(RUN_AT(3, XCR0_PKRU, 0, 0x0f, 0xae, 0x2b), -1); /* xrstor */
        assert_int_equal(cpu->s.pkru, 0x12345678);
        put64(512, 0);
        assert_int_equal(RUN_AT(3, XCR0_PKRU, 0, 0x0f, 0xae, 0x2b), -1);
        assert_int_equal(cpu->s.pkru, 0);
    }
    cpu->s.xcr0 = 7;
}

static void test_task_switched(void **state) {
    (void)state;
    cpu->s.cr0 |= CR0_TS;
    assert_int_equal(RUN_AT(0, 7, 0, 0x0f, 0xae, 0x03), EXC_NM); /* fxsave */
    assert_int_equal(RUN_AT(0, 7, 0, 0x0f, 0xae, 0x23), EXC_NM); /* xsave */
    cpu->s.cr0 ^= CR0_TS | CR0_EM;
    assert_int_equal(RUN_AT(0, 7, 0, 0x0f, 0xae, 0x03), EXC_NM);
    assert_int_equal(RUN_AT(0, 7, 0, 0x0f, 0xae, 0x23), -1);
    cpu->s.cr0 &= ~(uint64_t)CR0_EM;
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
        cmocka_unit_test(test_fxsave),        cmocka_unit_test(test_xsave),
        cmocka_unit_test(test_missing_part),  cmocka_unit_test(test_xsetbv),
        cmocka_unit_test(test_xgetbv_in_use), cmocka_unit_test(test_supervisor),
        cmocka_unit_test(test_task_switched), cmocka_unit_test(test_pkru),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

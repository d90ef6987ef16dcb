/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID by model, the --cpu syntax, and what the leaves must say to each other. SDM 2A, CPUID. */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/x86/cpuid.h"

#define HZ 2600000000ull

static const struct x86_cpuid_dynamic ON = {.apic_enabled = true, .xcr0 = 7};

static struct x86_cpuid built(const char *spec, unsigned vcpus, uint64_t hz) {
    struct x86_cpuid id;
    struct err e = ERR_INIT;
    if (x86_cpuid_build(&id, spec, vcpus, hz, &e) < 0)
        fail_msg("%s", err_msg(&e));
    return id;
}

static void query(const struct x86_cpuid *id, uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
    x86_cpuid_query(id, 0, &ON, leaf, subleaf, r);
}

static void expect_error(const char *spec, const char *part) {
    struct x86_cpuid id;
    struct err e = ERR_INIT;
    assert_true(x86_cpuid_build(&id, spec, 1, HZ, &e) < 0);
    if (!strstr(err_msg(&e), part))
        fail_msg("'%s' does not contain '%s'", err_msg(&e), part);
    err_clear(&e);
}

static void levels_have_what_the_abi_says(void **state) {
    (void)state;
    struct x86_cpuid v1 = built("x86-64", 1, HZ), v2 = built("x86-64-v2", 1, HZ);
    assert_true(x86_has(&v1, FEAT_SSE2) && x86_has(&v1, FEAT_SYSCALL) && x86_has(&v1, FEAT_CX8));
    assert_false(x86_has(&v1, FEAT_SSE3) || x86_has(&v1, FEAT_CX16));
    assert_true(x86_has(&v2, FEAT_SSE42) && x86_has(&v2, FEAT_POPCNT) && x86_has(&v2, FEAT_CX16));
    assert_false(x86_has(&v2, FEAT_AVX) || x86_has(&v2, FEAT_XSAVE) || x86_has(&v2, FEAT_AES));
    assert_string_equal(v2.model, "x86-64-v2");
}

static void never_announced(void **state) {
    (void)state;
    static const enum x86_feature no[] = {FEAT_PKU, FEAT_LA57, FEAT_AVX512F, FEAT_MONITOR};
    const char *const *m = x86_cpuid_models();
    for (; *m; m++) {
        struct x86_cpuid id;
        if (x86_cpuid_build(&id, *m, 1, HZ, NULL) < 0)
            continue; /* the host lacks what this model needs */
        for (unsigned n = 0; n < ARRAY_LEN(no); n++)
            assert_false(x86_has(&id, no[n]));
        uint32_t r[4];
        query(&id, 1, 0, r);
        assert_false(r[2] >> 5 & 1); /* VMX */
        query(&id, 0xa, 0, r);
        assert_int_equal(r[0], 0); /* no performance monitoring */
        assert_true(x86_has(&id, FEAT_HYPERVISOR));
    }
}

static void changes_are_taken(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2,-sse4.2,+monitor,-pcid", 1, HZ);
    uint32_t r[4];
    assert_false(x86_has(&id, FEAT_SSE42) || x86_has(&id, FEAT_PCID));
    assert_true(x86_has(&id, FEAT_SSE41) && x86_has(&id, FEAT_MONITOR));
    query(&id, 1, 0, r);
    assert_false(r[2] >> 20 & 1);
    assert_true(r[2] >> 3 & 1);
    query(&id, 5, 0, r);
    assert_int_equal(r[0], 64);
}

static void names_in_every_spelling(void **state) {
    (void)state;
    static const char *const same[] = {"x86-64-v2,-sse4_1", "x86-64-v2,-SSE41",
                                       "x86-64-v2,-sse4.1"};
    for (unsigned n = 0; n < ARRAY_LEN(same); n++) {
        struct x86_cpuid id = built(same[n], 1, HZ);
        assert_false(x86_has(&id, FEAT_SSE41));
        assert_false(x86_has(&id, FEAT_SSE42)); /* it needs the other */
    }
    struct x86_cpuid id = built("x86-64-v2,-pni", 1, HZ);
    assert_false(x86_has(&id, FEAT_SSE3));
}

static void errors_say_why(void **state) {
    (void)state;
    expect_error("pentium", "no such model 'pentium'");
    expect_error("pentium", "x86-64-v3");
    expect_error("host,+zork", "no such feature 'zork'");
    expect_error("host,+zork", " sse41 ");
    expect_error("host,sse2", "expected +feature or -feature");
    expect_error("host,", "expected +feature or -feature");
    expect_error("", "no such model ''");
    expect_error("host,+la57", "no engine offers it");
    expect_error("x86-64-v2,-xsave,+avx", "+avx needs xsave");
}

static void beyond_the_last_leaf(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2", 1, HZ);
    uint32_t last[4], r[4];
    query(&id, 0, 0, r);
    assert_int_equal(r[0], id.max_basic);
    query(&id, id.max_basic, 0, last);
    query(&id, 0x7ffffff0, 0, r);
    assert_memory_equal(r, last, sizeof r);
    query(&id, 0x80000009, 0, r);
    assert_memory_equal(r, last, sizeof r);
    query(&id, 0x40000011, 0, r);
    assert_memory_equal(r, last, sizeof r);
    query(&id, 3, 0, r); /* within, but not there */
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    query(&id, 7, 3, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void state_shows(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2", 1, HZ);
    struct x86_cpuid_dynamic dyn = {.osxsave = true, .apic_enabled = false};
    uint32_t r[4];
    x86_cpuid_query(&id, 5, &dyn, 1, 0, r);
    assert_int_equal(r[1] >> 24, 5);
    assert_true(r[2] >> 27 & 1);
    assert_false(r[3] >> 9 & 1);
    x86_cpuid_query(&id, 5, &ON, 1, 0, r);
    assert_false(r[2] >> 27 & 1);
    assert_true(r[3] >> 9 & 1);
}

static void topology(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2", 6, HZ);
    uint32_t r[4];
    x86_cpuid_query(&id, 3, &ON, 0xb, 0, r);
    assert_int_equal(r[0], 0); /* no threads to shift away */
    assert_int_equal(r[1], 1);
    assert_int_equal(r[2], 0x100);
    x86_cpuid_query(&id, 3, &ON, 0xb, 1, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 6);
    assert_int_equal(r[2], 0x201);
    assert_int_equal(r[3], 3);
    x86_cpuid_query(&id, 3, &ON, 0xb, 2, r);
    assert_int_equal(r[1], 0);
    assert_int_equal(r[2], 2); /* level type 0, the number echoed */
    assert_int_equal(r[3], 3);
    query(&id, 1, 0, r);
    assert_true(r[3] >> 28 & 1);
    assert_int_equal(r[1] >> 16 & 0xff, 8);
    query(&id, 4, 3, r);
    assert_int_equal(r[0] >> 14 & 0xfff, 7); /* the last level is shared by all */
    assert_int_equal(r[0] >> 26, 7);
    struct x86_cpuid one = built("x86-64-v2", 1, HZ);
    query(&one, 1, 0, r);
    assert_false(r[3] >> 28 & 1);
}

static void xsave_area(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2,+xsave,+xsavec", 1, HZ);
    struct x86_cpuid_dynamic dyn = {.xcr0 = 3};
    uint32_t r[4];
    x86_cpuid_query(&id, 0, &dyn, 0xd, 0, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], 576);
    query(&id, 0xd, 2, r);
    assert_int_equal(r[0], 0);
    id = built("x86-64-v2", 1, HZ);
    query(&id, 0xd, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void xsave_area_with_avx(void **state) {
    (void)state;
    struct x86_cpuid id;
    uint32_t r[4];
    if (x86_cpuid_build(&id, "x86-64-v3", 1, HZ, NULL) < 0)
        skip();
    query(&id, 0xd, 0, r);
    assert_int_equal(r[0], 7);
    assert_int_equal(r[1], 832);
    assert_int_equal(r[2], 832);
    query(&id, 0xd, 1, r);
    assert_int_equal(r[1], 832);
    query(&id, 0xd, 2, r);
    assert_int_equal(r[0], 256);
    assert_int_equal(r[1], 576);
}

/* Linux computes the TSC's kHz in 32 bits. */
static void tsc_frequency(void **state) {
    (void)state;
    static const uint64_t hz[] = {1000000000, 2000000000, 2600000000, 2599998000, 2793437000,
                                  3000000000, 2894560000, 4200000000, 2194843000, 800000000};
    for (unsigned n = 0; n < ARRAY_LEN(hz); n++) {
        struct x86_cpuid id = built("x86-64", 1, hz[n]);
        uint32_t r[4];
        query(&id, 0x15, 0, r);
        uint32_t crystal_khz = r[2] / 1000;
        assert_true((uint64_t)crystal_khz * r[1] <= UINT32_MAX);
        assert_int_equal(r[2], 1000000000);
        int64_t off = (int64_t)(crystal_khz * r[1] / r[0]) - (int64_t)(hz[n] / 1000);
        assert_true(llabs(off) * 1000000 <= (int64_t)(hz[n] / 1000));
        query(&id, 0x40000010, 0, r);
        assert_int_equal(r[0], hz[n] / 1000);
    }
    struct x86_cpuid id = built("x86-64", 1, HZ);
    uint32_t r[4];
    query(&id, 0x80000007, 0, r);
    assert_int_equal(r[3], 0x100);
}

static void signature_and_brand(void **state) {
    (void)state;
    struct x86_cpuid id = built("x86-64-v2", 1, HZ);
    char text[49] = "";
    uint32_t r[4];
    query(&id, 0, 0, r);
    memcpy(text, &r[1], 4);
    memcpy(text + 4, &r[3], 4);
    memcpy(text + 8, &r[2], 4);
    assert_string_equal(text, "GenuineIntel");
    for (unsigned n = 0; n < 3; n++) {
        query(&id, 0x80000002 + n, 0, r);
        memcpy(text + 16 * n, r, 16);
    }
    assert_string_equal(text, "Ringfence x86-64-v2 processor");
    memset(text, 0, sizeof text);
    query(&id, 0x40000000, 0, r);
    memcpy(text, &r[1], 12);
    assert_string_equal(text, "RingfenceRF ");
}

/* Programs with code for several processors choose by it. */
static void signature_promises_no_more_than_there_is(void **state) {
    (void)state;
    struct x86_cpuid id = built("host", 1, HZ);
    unsigned eax, ebx, ecx, edx;
    uint32_t r[4];
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX512F))
        skip();
    query(&id, 7, 0, r);
    assert_false(r[1] & bit_AVX512F);
    query(&id, 1, 0, r);
    assert_int_equal(r[0], 0x306f2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_have_what_the_abi_says),
        cmocka_unit_test(never_announced),
        cmocka_unit_test(changes_are_taken),
        cmocka_unit_test(names_in_every_spelling),
        cmocka_unit_test(errors_say_why),
        cmocka_unit_test(beyond_the_last_leaf),
        cmocka_unit_test(state_shows),
        cmocka_unit_test(topology),
        cmocka_unit_test(xsave_area),
        cmocka_unit_test(xsave_area_with_avx),
        cmocka_unit_test(tsc_frequency),
        cmocka_unit_test(signature_and_brand),
        cmocka_unit_test(signature_promises_no_more_than_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

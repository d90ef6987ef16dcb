/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "cpu/x86/thunk.h"

/* divps xmm1, xmm2 and its like: slots 0 and 1. */
static struct thunk_key sse_key(uint8_t opcode, unsigned flags) {
    return (struct thunk_key){
        .code = {0x0f, opcode, 0xca},
        .len = 3,
        .flags = (uint8_t)(flags | THUNK_STORE_V0),
        .slot = {THUNK_XMM, THUNK_XMM},
    };
}

#define DIVPS 0x5e
#define XORPS 0x57

static volatile sig_atomic_t passed_on;
static struct sigaction thunk_action;

static void other_handler(int sig) {
    passed_on = sig;
}

/* cmocka puts its own handlers in place before each test. */
static void arm(void) {
    sigaction(SIGFPE, &thunk_action, NULL);
}

static void test_runs_and_stores_the_destination(void **state) {
    (void)state;
    struct thunk_key k = sse_key(XORPS, 0);
    _Alignas(16) uint64_t a[2] = {0xff00, 3}, b[2] = {0x0ff0, 5};
    struct thunk_frame f;
    assert_int_equal(thunk_get(&k)->run(&f, NULL, NULL, NULL, a, b), 0);
    assert_int_equal(a[0], 0xf0f0);
    assert_int_equal(a[1], 6);
    assert_int_equal(b[0], 0x0ff0);
}

static void test_one_thunk_for_one_key(void **state) {
    (void)state;
    struct thunk_key k = sse_key(XORPS, 0), other = sse_key(DIVPS, THUNK_MXCSR);
    assert_ptr_equal(thunk_get(&k), thunk_get(&k));
    assert_ptr_not_equal(thunk_get(&k), thunk_get(&other));
}

static void test_masked_exception_sets_flags(void **state) {
    (void)state;
    arm();
    struct thunk_key k = sse_key(DIVPS, THUNK_MXCSR);
    _Alignas(16) float a[4] = {1, 1, 1, 1}, b[4] = {0, 1, 3, 2};
    struct thunk_frame f = {.mxcsr = 0x1f80};
    uint32_t before = __builtin_ia32_stmxcsr();
    assert_int_equal(thunk_get(&k)->run(&f, NULL, NULL, NULL, a, b), 0);
    assert_int_equal(f.mxcsr, 0x1fa4); /* divide by zero, inexact */
    assert_int_equal(__builtin_ia32_stmxcsr() & 0xffc0, before & 0xffc0);
}

static void test_unmasked_exception_returns(void **state) {
    (void)state;
    arm();
    struct thunk_key k = sse_key(DIVPS, THUNK_MXCSR);
    _Alignas(16) float a[4] = {1, 2, 3, 4}, b[4] = {0, 1, 1, 1}, old[4];
    struct thunk_frame f = {.mxcsr = 0x1d80}; /* divide by zero unmasked */
    uint32_t before = __builtin_ia32_stmxcsr();
    memcpy(old, a, sizeof old);
    for (unsigned n = 0; n < 3; n++) {
        f.mxcsr = 0x1d80;
        assert_int_equal(thunk_get(&k)->run(&f, NULL, NULL, NULL, a, b), 1);
        assert_int_equal(f.mxcsr, 0x1d84);
    }
    assert_memory_equal(a, old, sizeof old);
    assert_int_equal(__builtin_ia32_stmxcsr(), before);
}

static void test_other_sigfpe_is_passed_on(void **state) {
    (void)state;
    arm();
    passed_on = 0;
    raise(SIGFPE);
    assert_int_equal(passed_on, SIGFPE);
}

static void *get_many(void *arg) {
    const struct thunk **out = arg;
    for (unsigned n = 0; n < 256; n++) { /* shufps xmm1, xmm2, n */
        struct thunk_key k = {.code = {0x0f, 0xc6, 0xca, (uint8_t)n},
                              .len = 4,
                              .flags = THUNK_STORE_V0,
                              .slot = {THUNK_XMM, THUNK_XMM}};
        out[n] = thunk_get(&k);
    }
    return NULL;
}

static void test_threads_share_thunks(void **state) {
    (void)state;
    static const struct thunk *got[4][256];
    pthread_t t[4];
    for (unsigned n = 0; n < 4; n++)
        assert_int_equal(pthread_create(&t[n], NULL, get_many, got[n]), 0);
    for (unsigned n = 0; n < 4; n++)
        pthread_join(t[n], NULL);
    for (unsigned n = 1; n < 4; n++)
        assert_memory_equal(got[0], got[n], sizeof got[0]);
    _Alignas(16) uint32_t a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
    struct thunk_frame f;
    got[0][0x1b]->run(&f, NULL, NULL, NULL, a, b);
    assert_memory_equal(a, ((uint32_t[]){4, 3, 6, 5}), 16);
}

static void test_no_page_is_writable_and_executable(void **state) {
    (void)state;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    unsigned mapped = 0;
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, "memfd:thunks"))
            continue;
        mapped++;
        assert_null(strstr(line, "rwx"));
    }
    fclose(maps);
    assert_int_equal(mapped, 2);
}

static int setup(void **state) {
    (void)state;
    struct thunk_key k = sse_key(XORPS, 0);
    signal(SIGFPE, other_handler);
    assert_non_null(thunk_get(&k));
    sigaction(SIGFPE, NULL, &thunk_action);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_and_stores_the_destination),
        cmocka_unit_test(test_one_thunk_for_one_key),
        cmocka_unit_test(test_masked_exception_sets_flags),
        cmocka_unit_test(test_unmasked_exception_returns),
        cmocka_unit_test(test_other_sigfpe_is_passed_on),
        cmocka_unit_test(test_threads_share_thunks),
        cmocka_unit_test(test_no_page_is_writable_and_executable),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

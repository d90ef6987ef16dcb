/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean": what counts as near, and what does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "domain/suggest.h"

static const char *const verbs[] = {"run", "check", "help", "create", "console", "memory", "vcpus"};

static const char *nearest(const char *typed) {
    struct suggest s;

    suggest_init(&s, typed);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        suggest_try(&s, verbs[i]);
    return suggest_best(&s);
}

static void one_mistake_is_near(void **state) {
    (void)state;
    assert_string_equal(nearest("chekc"), "check");
    assert_string_equal(nearest("memroy"), "memory");
    assert_string_equal(nearest("hepl"), "help");
    assert_string_equal(nearest("rn"), "run");
    assert_string_equal(nearest("vcpu"), "vcpus");
    assert_string_equal(nearest("crate"), "create");
}

static void a_beginning_is_near(void **state) {
    (void)state;
    assert_string_equal(nearest("con"), "console");
}

static void the_nearest_wins(void **state) {
    (void)state;
    assert_string_equal(nearest("run"), "run");
    assert_string_equal(nearest("consol"), "console");
}

static void far_is_far(void **state) {
    static const char endless[300] = {[0 ... 298] = 'x'};

    (void)state;
    assert_null(nearest("xyzzy"));
    assert_null(nearest(""));
    assert_null(nearest("q"));
    assert_null(nearest(endless));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_mistake_is_near),
        cmocka_unit_test(a_beginning_is_near),
        cmocka_unit_test(the_nearest_wins),
        cmocka_unit_test(far_is_far),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

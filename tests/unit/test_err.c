/* SPDX-License-Identifier: Apache-2.0 */
/* Error chains: contexts, errno values, quoting the old message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "base/err.h"

static void message_and_errno(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_string_equal(err_msg(&e), "no error");
    assert_int_equal(err_set(&e, ENOENT, "open %s", "base.qcow2"), -ENOENT);
    assert_string_equal(err_msg(&e), "open base.qcow2: No such file or directory");
    assert_int_equal(e.code, ENOENT);
    assert_int_equal(err_wrap(&e, "disk %d", 7), -ENOENT);
    assert_string_equal(err_msg(&e), "disk 7: open base.qcow2: No such file or directory");
}

static void no_errno(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(err_set(&e, 0, "bad"), -1);
    assert_string_equal(err_msg(&e), "bad");
    assert_int_equal(err_wrap(&e, "very"), -1);
    assert_string_equal(err_msg(&e), "very: bad");
}

static void may_quote_itself(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    err_set(&e, 0, "one");
    err_set(&e, EINVAL, "two, after %s", err_msg(&e));
    assert_string_equal(err_msg(&e), "two, after one: Invalid argument");
    err_clear(&e);
    assert_null(e.msg);
    assert_int_equal(e.code, 0);
    assert_int_equal(err_set(&e, 0, "again"), -1);
    assert_string_equal(err_msg(&e), "again");
}

static void null_is_allowed(void **state) {
    (void)state;
    assert_int_equal(err_set(NULL, EPERM, "dropped"), -EPERM);
    assert_int_equal(err_set(NULL, 0, "dropped"), -1);
    assert_true(err_wrap(NULL, "dropped") < 0);
    assert_string_equal(err_msg(NULL), "no error");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message_and_errno),
        cmocka_unit_test(no_errno),
        cmocka_unit_test(may_quote_itself),
        cmocka_unit_test(null_is_allowed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

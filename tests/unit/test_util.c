/* SPDX-License-Identifier: Apache-2.0 */
/* Clean-up by scope and checked arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

static void ranges(void **state) {
    (void)state;
    assert_true(range_within(0, 0, 0));
    assert_true(range_within(3, 5, 8));
    assert_false(range_within(4, 5, 8));
    assert_false(range_within(UINT64_MAX, 2, 8));
    assert_false(range_within(2, UINT64_MAX, 8));
    assert_true(range_within(1, UINT64_MAX - 1, UINT64_MAX));
}

static void alignment(void **state) {
    (void)state;
    assert_int_equal(align_down(0x1fff, 0x1000), 0x1000);
    assert_int_equal(align_up(0x1001, 0x1000), 0x2000);
    assert_int_equal(align_up(0x1000, 0x1000), 0x1000);
}

static unsigned calls;

static unsigned grows(void) {
    return calls++;
}

static void least_and_most(void **state) {
    (void)state;
    assert_int_equal(MIN(grows(), 5u), 0);
    assert_int_equal(MAX(grows(), 0u), 1);
    assert_int_equal(MIN(MAX(grows(), 1u), 7u), 2);
    assert_int_equal(calls, 3);
}

static void descriptor_closes_with_its_scope(void **state) {
    int kept;

    (void)state;
    {
        cleanup_close int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        kept = fd;
    }
    assert_int_equal(fcntl(kept, F_GETFD), -1);
    assert_int_equal(errno, EBADF);
}

static void allocation(void **state) {
    cleanup_free char *s = xasprintf("%s-%d", "a", 1);
    cleanup_free char *d = xstrdup(s);
    cleanup_free uint8_t *z = xcalloc(16, 4);
    static const uint8_t zero[64];

    (void)state;
    assert_string_equal(d, "a-1");
    assert_memory_equal(z, zero, 64);
}

static void growth(void **state) {
    uint8_t *buf = NULL;
    size_t cap = 0;

    (void)state;
    for (size_t len = 0; len < 5000; len += 7) {
        xreserve(&buf, &cap, len, 7);
        assert_true(cap >= len + 7);
        memset(buf + len, (int)(len & 0xff), 7);
    }
    for (size_t len = 0; len < 5000; len += 7)
        assert_int_equal(buf[len], len & 0xff);
    free(buf);
}

static void container(void **state) {
    struct outer {
        int a;
        int b;
    } o = {1, 2};

    (void)state;
    assert_ptr_equal(container_of(&o.b, struct outer, b), &o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges),         cmocka_unit_test(alignment),
        cmocka_unit_test(least_and_most), cmocka_unit_test(descriptor_closes_with_its_scope),
        cmocka_unit_test(allocation),     cmocka_unit_test(growth),
        cmocka_unit_test(container),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

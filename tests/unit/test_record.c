/* SPDX-License-Identifier: Apache-2.0 */
/* Save records: the bytes, and readers of damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/err.h"
#include "base/record.h"

static void exact_bytes(void **state) {
    static const uint8_t want[] = {3,    'p',  'i',  't',  2,    0,    0,    0,    5,    0,    17,
                                   0,    0,    0,    0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x01,
                                   0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 'x',  'y'};
    struct record_writer w = {0};

    (void)state;
    rec_begin(&w, "pit", 2, 5);
    rec_put_u8(&w, 0x11);
    rec_put_u16(&w, 0x3322);
    rec_put_u32(&w, 0x77665544);
    rec_put_u64(&w, 0x0807060504030201);
    rec_put_bytes(&w, "xy", 2);
    rec_end(&w);
    assert_int_equal(w.len, sizeof(want));
    assert_memory_equal(w.buf, want, sizeof(want));
    rec_writer_free(&w);
    assert_null(w.buf);
}

static void several_records(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct record_writer w = {0};
    struct record_reader r;
    uint8_t big[1000], back[1000];

    (void)state;
    memset(big, 0xa5, sizeof(big));
    rec_begin(&w, "empty", 0, 1);
    rec_end(&w);
    rec_begin(&w, "big", 1, 2);
    rec_put_bytes(&w, big, sizeof(big));
    rec_put_u64(&w, UINT64_MAX);
    rec_end(&w);

    const uint8_t *at = w.buf, *end = w.buf + w.len;
    assert_int_equal(rec_next(&at, end, &r, &e), 1);
    assert_string_equal(r.tag, "empty");
    assert_int_equal(rec_done(&r, &e), 0);
    assert_int_equal(rec_next(&at, end, &r, &e), 1);
    assert_string_equal(r.tag, "big");
    assert_int_equal(r.instance, 1);
    assert_int_equal(r.version, 2);
    rec_get_bytes(&r, back, sizeof(back));
    assert_memory_equal(big, back, sizeof(big));
    assert_true(rec_get_u64(&r) == UINT64_MAX);
    assert_int_equal(rec_done(&r, &e), 0);
    assert_int_equal(rec_next(&at, end, &r, &e), 0);
    rec_writer_free(&w);
}

static void underflow_is_sticky(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct record_writer w = {0};
    struct record_reader r;
    uint8_t bytes[4] = {1, 1, 1, 1};

    (void)state;
    rec_begin(&w, "x", 0, 1);
    rec_put_u16(&w, 0x1234);
    rec_end(&w);
    rec_begin(&w, "y", 0, 1);
    rec_put_u64(&w, 1);
    rec_end(&w);
    const uint8_t *at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, &e), 1);
    assert_int_equal(rec_get_u32(&r), 0);
    assert_true(r.bad);
    assert_int_equal(rec_get_u8(&r), 0);
    rec_get_bytes(&r, bytes, 4);
    assert_int_equal(bytes[0] | bytes[3], 0);
    assert_true(rec_done(&r, &e) < 0);
    assert_string_equal(err_msg(&e), "save record x.0: a field is missing");
    rec_writer_free(&w);
}

static void left_over(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct record_writer w = {0};
    struct record_reader r;

    (void)state;
    rec_begin(&w, "x", 4, 1);
    rec_put_u32(&w, 0);
    rec_end(&w);
    const uint8_t *at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, &e), 1);
    rec_get_u8(&r);
    assert_true(rec_done(&r, &e) < 0);
    assert_string_equal(err_msg(&e), "save record x.4: 3 bytes are left over");
    rec_writer_free(&w);
}

static void damaged(void **state) {
    struct record_writer w = {0};
    struct record_reader r;

    (void)state;
    rec_begin(&w, "tag", 0, 1);
    rec_put_u32(&w, 7);
    rec_end(&w);
    for (size_t len = 1; len < w.len; len++) {
        cleanup_err struct err e = ERR_INIT;
        const uint8_t *at = w.buf;

        assert_true(rec_next(&at, w.buf + len, &r, &e) < 0);
        assert_ptr_equal(at, w.buf);
        assert_non_null(e.msg);
    }
    static const uint8_t tag_sizes[] = {0, 32, 255};
    for (size_t i = 0; i < sizeof(tag_sizes); i++) {
        const uint8_t *at = w.buf;

        w.buf[0] = tag_sizes[i];
        assert_true(rec_next(&at, w.buf + w.len, &r, NULL) < 0);
    }
    w.buf[0] = 3;
    w.buf[2] = 0;
    const uint8_t *at = w.buf;
    assert_true(rec_next(&at, w.buf + w.len, &r, NULL) < 0);
    rec_writer_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_bytes),
        cmocka_unit_test(several_records),
        cmocka_unit_test(underflow_is_sticky),
        cmocka_unit_test(left_over),
        cmocka_unit_test(damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

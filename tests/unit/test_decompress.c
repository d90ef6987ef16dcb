/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression against what the libraries themselves compress; bounds, truncation, corruption. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/decompress.h"

#define SIZE ((size_t)9 << 20) /* more than one LZ4 block, more than the first buffer */
#define PACKED_MAX (SIZE + (SIZE >> 2))

static uint8_t *plain, *packed;

/* Compressible, but not trivially so. */
static int setup(void **state) {
    uint32_t x = 1;

    (void)state;
    plain = malloc(SIZE);
    packed = malloc(PACKED_MAX);
    for (size_t i = 0; i < SIZE; i++) {
        x = x * 1664525 + 1013904223;
        plain[i] = (uint8_t)(x >> 24 & (i & 0x1000 ? 3 : 0x1f));
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    free(plain);
    free(packed);
    return 0;
}

static size_t pack_gzip(void) {
    z_stream z = {0};

    deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    z.next_in = plain;
    z.avail_in = SIZE;
    z.next_out = packed;
    z.avail_out = PACKED_MAX;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static size_t pack_xz(void) {
    size_t n = 0;

    assert_int_equal(
        lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, NULL, plain, SIZE, packed, &n, PACKED_MAX),
        LZMA_OK);
    return n;
}

static size_t pack_lzma(void) {
    lzma_stream s = LZMA_STREAM_INIT;
    lzma_options_lzma o;
    size_t n;

    lzma_lzma_preset(&o, 0);
    assert_int_equal(lzma_alone_encoder(&s, &o), LZMA_OK);
    s.next_in = plain;
    s.avail_in = SIZE;
    s.next_out = packed;
    s.avail_out = PACKED_MAX;
    assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
    n = s.total_out;
    lzma_end(&s);
    return n;
}

static size_t pack_lz4(void) {
    uint32_t magic = 0x184c2102;
    size_t n = 4;

    memcpy(packed, &magic, 4);
    for (size_t i = 0; i < SIZE; i += 8 << 20) {
        int len =
            LZ4_compress_default((char *)plain + i, (char *)packed + n + 4,
                                 (int)MIN(SIZE - i, (size_t)8 << 20), (int)(PACKED_MAX - n - 4));

        assert_true(len > 0);
        memcpy(packed + n, &len, 4);
        n += 4 + (size_t)len;
    }
    return n;
}

static size_t pack_zstd(void) {
    size_t n = ZSTD_compress(packed, PACKED_MAX, plain, SIZE, 1);

    assert_false(ZSTD_isError(n));
    return n;
}

static size_t pack_bzip2(void) {
    unsigned n = PACKED_MAX;

    assert_int_equal(BZ2_bzBuffToBuffCompress((char *)packed, &n, (char *)plain, SIZE, 1, 0, 0),
                     BZ_OK);
    return n;
}

static const struct {
    enum decompress_kind kind;
    const char *name;
    size_t (*pack)(void);
} FORMATS[] = {
    {DECOMPRESS_GZIP, "gzip", pack_gzip}, {DECOMPRESS_XZ, "xz", pack_xz},
    {DECOMPRESS_LZMA, "lzma", pack_lzma}, {DECOMPRESS_LZ4, "lz4", pack_lz4},
    {DECOMPRESS_ZSTD, "zstd", pack_zstd}, {DECOMPRESS_BZIP2, "bzip2", pack_bzip2},
};

static void expect_plain(size_t n, size_t max, size_t hint) {
    uint8_t *out;
    size_t size;
    struct err e = ERR_INIT;
    int r = decompress(packed, n, max, hint, &out, &size, &e);

    if (r < 0)
        fail_msg("%s", err_msg(&e));
    assert_int_equal(size, SIZE);
    assert_memory_equal(out, plain, SIZE);
    free(out);
}

static void expect_error(size_t n, size_t max, const char *name, const char *what) {
    uint8_t *out;
    size_t size;
    struct err e = ERR_INIT;

    assert_true(decompress(packed, n, max, 0, &out, &size, &e) < 0);
    assert_memory_equal(err_msg(&e), name, strlen(name));
    if (!strstr(err_msg(&e), what))
        fail_msg("%s: lacks \"%s\"", err_msg(&e), what);
    err_clear(&e);
}

static void test_round_trip(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++) {
        size_t n = FORMATS[i].pack();

        assert_int_equal(decompress_probe(packed, n), FORMATS[i].kind);
        assert_string_equal(decompress_name(FORMATS[i].kind), FORMATS[i].name);
        expect_plain(n, SIZE * 2, 0);
        expect_plain(n, SIZE, SIZE); /* an exact bound, an exact hint */
        expect_plain(n, SIZE, 1);    /* hints may be wrong */
        expect_plain(n, SIZE, SIZE_MAX / 2);
    }
}

static void test_bound(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++) {
        size_t n = FORMATS[i].pack();

        expect_error(n, SIZE - 1, FORMATS[i].name, "more than");
        expect_error(n, 0, FORMATS[i].name, "more than");
    }
}

static void test_truncated(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++) {
        size_t n = FORMATS[i].pack();

        for (size_t cut = 14; cut < n; cut += n / 5)
            expect_error(cut, SIZE * 2, FORMATS[i].name, "truncated");
        expect_error(n - 1, SIZE * 2, FORMATS[i].name, "truncated");
    }
}

/* gzip, xz, bzip2 have checksums: a flipped bit is always seen. The others must merely survive. */
static void test_corrupt(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++) {
        size_t n = FORMATS[i].pack(), size;
        bool checked = FORMATS[i].kind == DECOMPRESS_GZIP || FORMATS[i].kind == DECOMPRESS_XZ ||
                       FORMATS[i].kind == DECOMPRESS_BZIP2;

        for (size_t at = n / 7; at < n; at += n / 7) {
            uint8_t *out = NULL;

            packed[at] ^= 0x10;
            int r = decompress(packed, n, SIZE * 2, 0, &out, &size, NULL);
            packed[at] ^= 0x10;
            if (r == 0)
                free(out);
            assert_true(r < 0 || !checked);
        }
    }
}

static void test_trailing(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++) {
        size_t n = FORMATS[i].pack();

        if (FORMATS[i].kind == DECOMPRESS_LZ4)
            continue;
        memset(packed + n, 0xa5, 100);
        expect_plain(n + 100, SIZE, 0);
    }
}

static void test_not_compressed(void **state) {
    (void)state;
    uint8_t *out;
    size_t size;

    for (size_t i = 0; i < 256; i++) {
        uint8_t junk[16] = {(uint8_t)i, 1, 2, 3};

        assert_int_equal(decompress_probe(junk, sizeof(junk)), DECOMPRESS_NONE);
        assert_int_equal(decompress_probe(junk, 0), DECOMPRESS_NONE);
        assert_true(decompress(junk, sizeof(junk), SIZE, 0, &out, &size, NULL) < 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bound),
        cmocka_unit_test(test_truncated),  cmocka_unit_test(test_corrupt),
        cmocka_unit_test(test_trailing),   cmocka_unit_test(test_not_compressed),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}

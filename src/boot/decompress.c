/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gzip (RFC 1952), xz and lzma (xz-file-format 1.1.0), LZ4's legacy frame (lz4_Frame_format.md),
 * Zstandard (RFC 8878) and bzip2, by their own libraries. Each decoder fills a buffer that grows up
 * to a bound; memory that a stream asks for its dictionary is bounded too.
 */
#include "boot/decompress.h"

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "base/err.h"
#include "base/util.h"

#define FIRST_CAP (4u << 20)
#define LZ4_MAGIC 0x184c2102u
#define LZ4_BLOCK (8u << 20) /* what one block of a legacy frame holds at most */
#define XZ_MEMLIMIT (256ull << 20)
#define ZSTD_WINDOW_LOG 28 /* kernels use 27 at most: 128 MiB */

/* What is being decompressed, and to where. */
struct job {
    const uint8_t *in;
    size_t in_size;
    uint8_t *out; /* cap bytes, of which len are filled */
    size_t len, cap;
    size_t max; /* one more than the bound, so that a stream that fills it can end */
};

static const char *const NAMES[] = {
    [DECOMPRESS_NONE] = "none",   [DECOMPRESS_GZIP] = "gzip", [DECOMPRESS_XZ] = "xz",
    [DECOMPRESS_LZMA] = "lzma",   [DECOMPRESS_LZ4] = "lz4",   [DECOMPRESS_ZSTD] = "zstd",
    [DECOMPRESS_BZIP2] = "bzip2",
};

const char *decompress_name(enum decompress_kind kind) {
    return NAMES[kind];
}

/* LZMA-alone has no magic: properties below 225, a dictionary of 2^n or 2^n + 2^(n-1), a plausible
 * size. */
static bool probe_lzma(const uint8_t *d, size_t size) {
    uint32_t dict;
    uint64_t out;

    if (size < 13 || d[0] != 0x5d)
        return false;
    memcpy(&dict, d + 1, 4);
    memcpy(&out, d + 5, 8);
    if (dict % 3 == 0)
        dict /= 3;
    if (dict < 1024 || dict & (dict - 1))
        return false;
    return out == UINT64_MAX || out < 1ull << 38;
}

enum decompress_kind decompress_probe(const uint8_t *data, size_t size) {
    static const struct {
        enum decompress_kind kind;
        uint8_t len;
        char magic[7];
    } MAGICS[] = {
        {DECOMPRESS_GZIP, 3, "\x1f\x8b\x08"},
        {DECOMPRESS_XZ, 6,
         "\xfd"
         "7zXZ\0"},
        {DECOMPRESS_LZ4, 4, "\x02\x21\x4c\x18"},
        {DECOMPRESS_ZSTD, 4, "\x28\xb5\x2f\xfd"},
        {DECOMPRESS_BZIP2, 3, "BZh"},
    };

    for (size_t i = 0; i < ARRAY_LEN(MAGICS); i++)
        if (size >= MAGICS[i].len && !memcmp(data, MAGICS[i].magic, MAGICS[i].len))
            return MAGICS[i].kind;
    return probe_lzma(data, size) ? DECOMPRESS_LZMA : DECOMPRESS_NONE;
}

static int too_large(const struct job *j, struct err *e) {
    return err_set(e, 0, "decompresses to more than %zu MiB", (j->max - 1) >> 20);
}

static int truncated(struct err *e) {
    return err_set(e, 0, "truncated: unexpected end of input");
}

static int corrupt(const char *why, struct err *e) {
    return err_set(e, 0, "corrupt: %s", why);
}

static int set_cap(struct job *j, size_t cap, struct err *e) {
    uint8_t *p = realloc(j->out, cap);

    if (!p)
        return err_set(e, 0, "no memory for %zu MiB", cap >> 20);
    j->out = p;
    j->cap = cap;
    return 0;
}

/* Makes room for at least one more byte. */
static int grow(struct job *j, struct err *e) {
    if (j->len < j->cap)
        return 0;
    if (j->cap >= j->max)
        return too_large(j, e);
    return set_cap(j, j->cap > j->max / 2 ? j->max : j->cap * 2, e);
}

/* zlib and bzip2 count in 32 bits. */
static unsigned chunk(size_t n) {
    return (unsigned)MIN(n, (size_t)1 << 30);
}

static int gzip_run(struct job *j, z_stream *z, struct err *e) {
    size_t pos = 0;

    for (int r = Z_OK; r != Z_STREAM_END;) {
        if (grow(j, e) < 0)
            return -1;
        unsigned in = chunk(j->in_size - pos), out = chunk(j->cap - j->len);

        z->next_in = j->in + pos;
        z->avail_in = in;
        z->next_out = j->out + j->len;
        z->avail_out = out;
        r = inflate(z, Z_NO_FLUSH);
        pos += in - z->avail_in;
        j->len += out - z->avail_out;
        if (r == Z_BUF_ERROR || (r == Z_OK && pos == j->in_size && z->avail_out))
            return truncated(e);
        if (r != Z_OK && r != Z_STREAM_END)
            return corrupt(z->msg ? z->msg : "not a gzip stream", e);
    }
    return 0;
}

static int gzip(struct job *j, struct err *e) {
    z_stream z = {0};
    int r;

    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return err_set(e, 0, "zlib cannot start");
    r = gzip_run(j, &z, e);
    inflateEnd(&z);
    return r;
}

static int xz_error(lzma_ret r, struct err *e) {
    switch (r) {
    case LZMA_BUF_ERROR:
        return truncated(e);
    case LZMA_MEM_ERROR:
    case LZMA_MEMLIMIT_ERROR:
        return err_set(e, 0, "asks for a dictionary of more than %llu MiB", XZ_MEMLIMIT >> 20);
    case LZMA_OPTIONS_ERROR:
        return err_set(e, 0, "uses options that liblzma doesn't know");
    default:
        return corrupt("invalid data", e);
    }
}

static int xz_run(struct job *j, lzma_stream *s, struct err *e) {
    s->next_in = j->in;
    s->avail_in = j->in_size;
    for (lzma_ret r = LZMA_OK; r != LZMA_STREAM_END;) {
        if (grow(j, e) < 0)
            return -1;
        s->next_out = j->out + j->len;
        s->avail_out = j->cap - j->len;
        r = lzma_code(s, LZMA_FINISH);
        j->len = j->cap - s->avail_out;
        if (r != LZMA_OK && r != LZMA_STREAM_END)
            return xz_error(r, e);
    }
    return 0;
}

static int xz(struct job *j, bool alone, struct err *e) {
    lzma_stream s = LZMA_STREAM_INIT;
    lzma_ret started =
        alone ? lzma_alone_decoder(&s, XZ_MEMLIMIT) : lzma_stream_decoder(&s, XZ_MEMLIMIT, 0);
    int r;

    if (started != LZMA_OK)
        return err_set(e, 0, "liblzma cannot start");
    r = xz_run(j, &s, e);
    lzma_end(&s);
    return r;
}

static int bzip2_run(struct job *j, bz_stream *z, struct err *e) {
    size_t pos = 0;

    for (int r = BZ_OK; r != BZ_STREAM_END;) {
        if (grow(j, e) < 0)
            return -1;
        unsigned in = chunk(j->in_size - pos), out = chunk(j->cap - j->len);

        /* The library's interface lacks const; it doesn't write to its input. */
        z->next_in = (char *)(uintptr_t)(j->in + pos);
        z->avail_in = in;
        z->next_out = (char *)j->out + j->len;
        z->avail_out = out;
        r = BZ2_bzDecompress(z);
        pos += in - z->avail_in;
        j->len += out - z->avail_out;
        if (r != BZ_OK && r != BZ_STREAM_END)
            return corrupt("invalid data", e);
        if (r == BZ_OK && pos == j->in_size && z->avail_out)
            return truncated(e);
    }
    return 0;
}

static int bzip2(struct job *j, struct err *e) {
    bz_stream z = {0};
    int r;

    if (BZ2_bzDecompressInit(&z, 0, 0) != BZ_OK)
        return err_set(e, 0, "bzip2 cannot start");
    r = bzip2_run(j, &z, e);
    BZ2_bzDecompressEnd(&z);
    return r;
}

static int zstd_run(struct job *j, ZSTD_DStream *s, struct err *e) {
    ZSTD_inBuffer in = {j->in, j->in_size, 0};

    for (size_t left = 1; left;) {
        if (grow(j, e) < 0)
            return -1;
        ZSTD_outBuffer out = {j->out, j->cap, j->len};

        left = ZSTD_decompressStream(s, &out, &in);
        j->len = out.pos;
        if (ZSTD_isError(left))
            return corrupt(ZSTD_getErrorName(left), e);
        if (left && in.pos == in.size && out.pos < out.size)
            return truncated(e);
    }
    return 0;
}

static int zstd(struct job *j, struct err *e) {
    ZSTD_DStream *s = ZSTD_createDStream();
    int r;

    if (!s)
        return err_set(e, 0, "zstd cannot start");
    ZSTD_DCtx_setParameter(s, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
    r = zstd_run(j, s, e);
    ZSTD_freeDStream(s);
    return r;
}

/* Decodes one block of a legacy frame; each is compressed on its own. */
static int lz4_block(struct job *j, const uint8_t *in, uint32_t size, struct err *e) {
    size_t want = MIN(j->len + LZ4_BLOCK, j->max);
    int n;

    if (j->cap < want && set_cap(j, MAX(want, MIN(j->cap * 2, j->max)), e) < 0)
        return -1;
    n = LZ4_decompress_safe((const char *)in, (char *)j->out + j->len, (int)size,
                            (int)MIN(j->cap - j->len, (size_t)LZ4_BLOCK));
    if (n < 0)
        return j->max - j->len < LZ4_BLOCK ? too_large(j, e) : corrupt("invalid block", e);
    j->len += (size_t)n;
    return 0;
}

static int lz4(struct job *j, struct err *e) {
    size_t pos = 0;
    uint32_t size;

    while (j->in_size - pos >= sizeof(size)) {
        memcpy(&size, j->in + pos, sizeof(size));
        pos += sizeof(size);
        if (size == LZ4_MAGIC) /* frames may be concatenated */
            continue;
        if (size > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK))
            return corrupt("block too large", e);
        if (size > j->in_size - pos)
            return truncated(e);
        if (lz4_block(j, j->in + pos, size, e) < 0)
            return -1;
        pos += size;
    }
    return pos == j->in_size ? 0 : truncated(e);
}

static int run(struct job *j, enum decompress_kind kind, struct err *e) {
    switch (kind) {
    case DECOMPRESS_GZIP:
        return gzip(j, e);
    case DECOMPRESS_XZ:
        return xz(j, false, e);
    case DECOMPRESS_LZMA:
        return xz(j, true, e);
    case DECOMPRESS_LZ4:
        return lz4(j, e);
    case DECOMPRESS_ZSTD:
        return zstd(j, e);
    case DECOMPRESS_BZIP2:
        return bzip2(j, e);
    case DECOMPRESS_NONE:
        break;
    }
    return err_set(e, 0, "not compressed in a way that is known");
}

int decompress(const uint8_t *data, size_t size, size_t max, size_t hint, uint8_t **out,
               size_t *out_size, struct err *e) {
    enum decompress_kind kind = decompress_probe(data, size);
    struct job j = {.in = data, .in_size = size, .max = max + 1};
    int r;

    /* One byte more than expected, so that the end is seen without growing. */
    r = set_cap(&j, MIN(hint ? hint + 1 : FIRST_CAP, j.max), e);
    if (r == 0)
        r = run(&j, kind, e);
    if (r == 0 && j.len > max)
        r = too_large(&j, e);
    if (r < 0) {
        free(j.out);
        return kind == DECOMPRESS_NONE ? r : err_wrap(e, "%s", decompress_name(kind));
    }
    *out = j.out;
    *out_size = j.len;
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The compressions that Linux kernels come in, told apart by content, decompressed into bounded
 * memory. */
#ifndef RINGFENCE_BOOT_DECOMPRESS_H
#define RINGFENCE_BOOT_DECOMPRESS_H

#include <stddef.h>
#include <stdint.h>

struct err;

enum decompress_kind {
    DECOMPRESS_NONE,
    DECOMPRESS_GZIP,
    DECOMPRESS_XZ,
    DECOMPRESS_LZMA, /* .lzma ("LZMA alone") */
    DECOMPRESS_LZ4,  /* the legacy frame that `lz4 -l` writes */
    DECOMPRESS_ZSTD,
    DECOMPRESS_BZIP2,
};

enum decompress_kind decompress_probe(const uint8_t *data, size_t size);

/* "gzip", "xz", …; "none". */
const char *decompress_name(enum decompress_kind kind);

/*
 * Decompresses one stream. At most `max` bytes come out; more is an error. `hint` is the expected
 * size, or 0: it only saves copying. What follows the stream is ignored, except after LZ4, whose
 * legacy frame has no end: there `size` must be exact. *out is for the caller to free.
 */
int decompress(const uint8_t *data, size_t size, size_t max, size_t hint, uint8_t **out,
               size_t *out_size, struct err *e);

#endif

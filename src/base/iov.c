/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded copies between vectors and plain buffers. */
#include "base/iov.h"

#include <string.h>

#include "base/util.h"

size_t iov_size(const struct iovec *iov, unsigned count) {
    size_t n = 0;

    for (unsigned i = 0; i < count; i++)
        n += iov[i].iov_len;
    return n;
}

/* What to do with one contiguous piece; `done` bytes of the whole are before it. */
typedef void piece_fn(uint8_t *piece, size_t n, size_t done, const void *arg);

static size_t each_piece(const struct iovec *iov, unsigned count, size_t off, size_t len,
                         piece_fn *fn, const void *arg) {
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        if (off >= iov[i].iov_len) {
            off -= iov[i].iov_len;
            continue;
        }
        size_t n = MIN(iov[i].iov_len - off, len - done);
        fn((uint8_t *)iov[i].iov_base + off, n, done, arg);
        done += n;
        off = 0;
    }
    return done;
}

static void copy_out(uint8_t *piece, size_t n, size_t done, const void *arg) {
    uint8_t *const *buf = arg;

    memcpy(*buf + done, piece, n);
}

static void copy_in(uint8_t *piece, size_t n, size_t done, const void *arg) {
    const uint8_t *const *buf = arg;

    memcpy(piece, *buf + done, n);
}

static void fill(uint8_t *piece, size_t n, size_t done, const void *arg) {
    const uint8_t *value = arg;

    (void)done;
    memset(piece, *value, n);
}

size_t iov_read(const struct iovec *iov, unsigned count, size_t off, void *buf, size_t len) {
    return each_piece(iov, count, off, len, copy_out, &buf);
}

size_t iov_write(const struct iovec *iov, unsigned count, size_t off, const void *buf, size_t len) {
    return each_piece(iov, count, off, len, copy_in, &buf);
}

size_t iov_fill(const struct iovec *iov, unsigned count, size_t off, uint8_t value, size_t len) {
    return each_piece(iov, count, off, len, fill, &value);
}

unsigned iov_slice(const struct iovec *from, unsigned count, size_t off, size_t len,
                   struct iovec *to) {
    unsigned n = 0;

    for (unsigned i = 0; i < count && len; i++) {
        if (off >= from[i].iov_len) {
            off -= from[i].iov_len;
            continue;
        }
        size_t bytes = MIN(from[i].iov_len - off, len);
        to[n++] = (struct iovec){(uint8_t *)from[i].iov_base + off, bytes};
        len -= bytes;
        off = 0;
    }
    return n;
}

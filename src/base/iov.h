/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of host memory that may be a guest's: bounded copies, which guests may race with. What is
 * read from a guest is read once, into memory of our own, before it is looked at.
 */
#ifndef RINGFENCE_BASE_IOV_H
#define RINGFENCE_BASE_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Bytes in all. */
size_t iov_size(const struct iovec *iov, unsigned count);

/*
 * Copy up to `len` bytes from, to, or zeroes to the vector, starting `off` bytes into it. Return
 * how many there were.
 */
size_t iov_read(const struct iovec *iov, unsigned count, size_t off, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, unsigned count, size_t off, const void *buf, size_t len);
size_t iov_fill(const struct iovec *iov, unsigned count, size_t off, uint8_t value, size_t len);

/*
 * The part [off, off + len) of a vector, as a vector in `to` (which may be `from`), which has room
 * for as many elements as `from` has. Returns how many it takes; less than `len` bytes when `from`
 * ends before.
 */
unsigned iov_slice(const struct iovec *from, unsigned count, size_t off, size_t len,
                   struct iovec *to);

#endif

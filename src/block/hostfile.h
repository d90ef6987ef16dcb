/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ground that disk formats stand on: a file of the host (or a block device), read and written
 * whole or not at all, with its lock. Calls wait; any number of threads may use one file.
 */
#ifndef RINGFENCE_BLOCK_HOSTFILE_H
#define RINGFENCE_BLOCK_HOSTFILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;

/* What is read into or written from: a vector, from `skip` bytes into it on. */
struct span {
    const struct iovec *iov;
    unsigned count;
    uint64_t skip;
};

/* One buffer as a span; lives as long as the block that it stands in. */
#define SPAN(buf, len) ((struct span){&(const struct iovec){(buf), (len)}, 1, 0})

static inline struct span span_from(struct span s, uint64_t more) {
    s.skip += more;
    return s;
}

struct hostfile {
    int fd;
    char *path;
    bool read_only, is_device, no_lock;
    atomic_bool can_punch, can_zero;
};

struct hostfile_options {
    bool read_only;
    bool no_lock; /* others may have it open, too */
};

/* NULL with the error set, which names the process that has the file when it is locked. */
struct hostfile *hostfile_open(const char *path, const struct hostfile_options *o, struct err *e);
/* An empty file of our own. One that is there is an error, or emptied when `force` is set. */
struct hostfile *hostfile_create(const char *path, bool force, struct err *e);
void hostfile_close(struct hostfile *f); /* NULL is allowed */

/* Bytes; a block device's, too. 0 or -errno. */
int hostfile_size(const struct hostfile *f, uint64_t *size);
int hostfile_truncate(struct hostfile *f, uint64_t size);
/* Bytes of the host's disk that it takes. */
uint64_t hostfile_allocated(const struct hostfile *f);

/* 0 or -errno. Behind the end of the file there are zeroes. */
int hostfile_readv(const struct hostfile *f, uint64_t off, struct span s, uint64_t len);
int hostfile_writev(const struct hostfile *f, uint64_t off, struct span s, uint64_t len);
int hostfile_read(const struct hostfile *f, uint64_t off, void *buf, uint64_t len);
int hostfile_write(const struct hostfile *f, uint64_t off, const void *buf, uint64_t len);
int hostfile_sync(const struct hostfile *f);
/* Reads zeroes afterwards; with `unmap` the space may be given back. */
int hostfile_zero(struct hostfile *f, uint64_t off, uint64_t len, bool unmap);
/* A hint. */
int hostfile_discard(struct hostfile *f, uint64_t off, uint64_t len);
/*
 * Whether `off`, within the file, lies in a hole, and where (at most at `end`) that changes. A file
 * system that cannot tell has no holes.
 */
bool hostfile_hole(const struct hostfile *f, uint64_t off, uint64_t end, uint64_t *until);

/* Locks an open file for one writer or any readers. */
int hostfile_lock(int fd, const char *path, bool read_only, struct err *e);

#endif

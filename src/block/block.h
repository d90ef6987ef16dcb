/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's back end: an array of bytes that is read and written in pieces, asynchronously. A back
 * end embeds `struct block` first; formats are back ends that use another one.
 *
 * Threads: a back end belongs to the loop it was opened with. Requests are submitted on that loop's
 * thread and completed there, from the loop or before block_submit returns. They may complete in
 * any order and overlap as on a disk: only what is complete before another is submitted is ordered.
 */
#ifndef RINGFENCE_BLOCK_BLOCK_H
#define RINGFENCE_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct err;
struct loop;

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,        /* what is complete before it is on stable storage after it */
    BLOCK_DISCARD,      /* the contents are not needed any more; reads give anything or zeroes */
    BLOCK_WRITE_ZEROES, /* reads give zeroes */
};

/* Owned by who submits; valid and unchanged until done() is called. */
struct block_req {
    enum block_op op;
    bool unmap;        /* WRITE_ZEROES: space may be given back */
    uint64_t off, len; /* bytes; multiples of the logical block, within the size; not for FLUSH */
    const struct iovec *iov; /* READ, WRITE: at least `len` bytes, which may be a guest's memory */
    unsigned iov_count;
    /* 0, or -errno when all or a part of it was not done. May submit again. */
    void (*done)(struct block_req *r, int result);

    /* For the back end. */
    struct block *block;
    struct block_req *next;
    int result;
};

struct block_info {
    uint64_t size;           /* bytes */
    uint32_t logical_block;  /* 512 or 4096: the least that is read or written */
    uint32_t physical_block; /* what the host writes at a time; at least logical_block */
    uint32_t optimal_io;     /* bytes; 0: not known */
    uint32_t discard_align;  /* bytes; 0: discards do nothing */
    bool read_only;
    bool write_cache; /* completed writes may be lost with the host's power until a flush */
};

struct block_ops {
    const char *name; /* "raw" */
    void (*submit)(struct block *b, struct block_req *r);
    /* Asks the host anew for the size; may be NULL. */
    int (*refresh)(struct block *b, struct err *e);
    /* Waits for what is under way, whose done() is called; then frees. The loop does not run. */
    void (*close)(struct block *b);
};

struct block {
    const struct block_ops *ops;
    struct loop *loop;
    struct block_info info; /* fixed, but for refresh */
};

/* Checks a request's range and passes it on; one that is out of range completes with -EINVAL, a
 * write to a read-only disk with -EROFS. */
void block_submit(struct block *b, struct block_req *r);
void block_close(struct block *b); /* NULL is allowed */

struct block_options {
    bool read_only;
    bool no_lock; /* others may have it open, too */
};

/* A raw file or block device. NULL with the error set. */
struct block *block_raw_open(const char *path, const struct block_options *o, struct loop *l,
                             struct err *e);

#endif

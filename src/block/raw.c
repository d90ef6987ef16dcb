/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw files and block devices. What the host's page cache can do at once is done in place
 * (RWF_NOWAIT), which spares two thread switches; the rest goes to threads.
 *
 * A file whose size is not a multiple of 512 is a disk that ends with zeroes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"
#include "block/block.h"
#include "block/hostfile.h"
#include "block/pool.h"

#define SECTOR 512u
#define THREADS 4
#define ZEROES (64u << 10)
#define PIECES 256u /* elements of a vector in one system call */

struct block_raw {
    struct block b;
    int fd;
    bool is_device;
    uint64_t bytes; /* size of the file */
    char *path;
    struct block_pool *pool;
    atomic_bool nowait_read, nowait_write, can_punch, can_zero;
};

static struct block_raw *raw_of(struct block *b) {
    return container_of(b, struct block_raw, b);
}

/* --- reading and writing --- */

/* Up to PIECES elements from `done` bytes into the request on. */
static unsigned part(const struct block_req *r, uint64_t done, struct iovec *to) {
    unsigned first = 0, n = 0;
    uint64_t skip = done, left = r->len - done;

    while (skip >= r->iov[first].iov_len)
        skip -= r->iov[first++].iov_len;
    for (; first < r->iov_count && n < PIECES && left; first++) {
        size_t len = MIN(r->iov[first].iov_len - skip, left);

        to[n++] = (struct iovec){(uint8_t *)r->iov[first].iov_base + skip, len};
        left -= len;
        skip = 0;
    }
    return n;
}

static ssize_t transfer(int fd, const struct block_req *r, uint64_t done, int flags) {
    struct iovec iov[PIECES];
    int n = (int)part(r, done, iov);
    off_t at = (off_t)(r->off + done);

    return r->op == BLOCK_READ ? preadv2(fd, iov, n, at, flags) : pwritev2(fd, iov, n, at, flags);
}

/* The file ended: behind its last bytes there are zeroes up to the end of their sector. */
static int read_tail(const struct block_raw *raw, const struct block_req *r, uint64_t done) {
    if (r->off + done < raw->bytes)
        return -EIO;
    iov_fill(r->iov, r->iov_count, done, 0, r->len - done);
    return 0;
}

static int do_transfer(const struct block_raw *raw, const struct block_req *r) {
    for (uint64_t done = 0; done < r->len;) {
        ssize_t n = transfer(raw->fd, r, done, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return r->op == BLOCK_READ ? read_tail(raw, r, done) : -ENOSPC;
        done += (uint64_t)n;
    }
    return 0;
}

/* --- zeroes and holes --- */

static int write_zeroes(const struct block_raw *raw, uint64_t off, uint64_t len) {
    cleanup_free uint8_t *zeroes = xcalloc(1, ZEROES);

    while (len) {
        ssize_t n = pwrite(raw->fd, zeroes, MIN(len, (uint64_t)ZEROES), (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        off += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

static bool on_device(const struct block_raw *raw, unsigned long request,
                      const struct block_req *r) {
    uint64_t range[2] = {r->off, r->len};

    return ioctl(raw->fd, request, range) == 0;
}

static bool allocate(const struct block_raw *raw, int mode, const struct block_req *r) {
    return fallocate(raw->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len) == 0;
}

static bool unsupported(int errnum) {
    return errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == ENOTTY;
}

/* A discard is a hint: a host that cannot do it has done it. */
static int do_discard(struct block_raw *raw, const struct block_req *r) {
    if (!raw->can_punch)
        return 0;
    if (raw->is_device ? on_device(raw, BLKDISCARD, r) : allocate(raw, FALLOC_FL_PUNCH_HOLE, r))
        return 0;
    if (!unsupported(errno))
        return -errno;
    raw->can_punch = false;
    return 0;
}

static bool zero_range(const struct block_raw *raw, const struct block_req *r) {
    if (raw->is_device)
        return on_device(raw, BLKZEROOUT, r);
    return allocate(raw, r->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, r);
}

static int do_write_zeroes(struct block_raw *raw, const struct block_req *r) {
    if (raw->can_zero) {
        if (zero_range(raw, r))
            return 0;
        if (!unsupported(errno))
            return -errno;
        /* There are file systems with holes but without zeroed ranges. */
        if (!r->unmap && !raw->is_device)
            return write_zeroes(raw, r->off, r->len);
        raw->can_zero = false;
    }
    return write_zeroes(raw, r->off, r->len);
}

static int work(struct block_req *r) {
    struct block_raw *raw = raw_of(r->block);

    switch (r->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return do_transfer(raw, r);
    case BLOCK_FLUSH:
        return fdatasync(raw->fd) < 0 ? -errno : 0;
    case BLOCK_DISCARD:
        return do_discard(raw, r);
    case BLOCK_WRITE_ZEROES:
        return do_write_zeroes(raw, r);
    }
    return -EINVAL;
}

/* --- requests --- */

/* Whether all of it could be done without waiting. */
static bool at_once(struct block_raw *raw, const struct block_req *r) {
    atomic_bool *may = r->op == BLOCK_READ ? &raw->nowait_read : &raw->nowait_write;

    if (r->op > BLOCK_WRITE || !*may || r->iov_count > PIECES)
        return false;
    ssize_t n = transfer(raw->fd, r, 0, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP)
        *may = false;
    return n >= 0 && (uint64_t)n == r->len;
}

static void raw_submit(struct block *b, struct block_req *r) {
    struct block_raw *raw = raw_of(b);

    if (at_once(raw, r))
        r->done(r, 0);
    else
        block_pool_add(raw->pool, r);
}

/* --- opening --- */

static int read_size(struct block_raw *raw, struct err *e) {
    struct stat st;
    uint64_t bytes;

    if (fstat(raw->fd, &st) < 0)
        return err_set(e, errno, "%s", raw->path);
    raw->is_device = S_ISBLK(st.st_mode);
    if (!raw->is_device && !S_ISREG(st.st_mode))
        return err_set(e, 0, "%s: neither a file nor a block device", raw->path);
    bytes = (uint64_t)st.st_size;
    if (raw->is_device && ioctl(raw->fd, BLKGETSIZE64, &bytes) < 0)
        return err_set(e, errno, "%s: size", raw->path);
    if (!bytes)
        return err_set(e, 0, "%s: the disk is empty", raw->path);
    raw->bytes = bytes;
    raw->b.info.size = align_up(bytes, SECTOR);
    return 0;
}

static void read_topology(struct block_raw *raw) {
    struct block_info *info = &raw->b.info;
    int logical = SECTOR;
    unsigned physical = SECTOR, optimal = 0;

    if (raw->is_device) {
        ioctl(raw->fd, BLKSSZGET, &logical);
        ioctl(raw->fd, BLKPBSZGET, &physical);
        ioctl(raw->fd, BLKIOOPT, &optimal);
    }
    info->logical_block = (uint32_t)logical;
    info->physical_block = MAX(physical, (uint32_t)logical);
    info->optimal_io = optimal;
    info->discard_align = info->logical_block;
    info->write_cache = true;
}

static int open_file(struct block_raw *raw, const struct block_options *o, struct err *e) {
    int mode = o->read_only ? O_RDONLY : O_RDWR;

    raw->fd = open(raw->path, mode | O_CLOEXEC | O_NONBLOCK);
    if (raw->fd < 0)
        return err_set(e, errno, "%s: open", raw->path);
    if (read_size(raw, e) < 0)
        return -1;
    /* Two writers, or a writer and readers, would destroy each other's file systems. */
    return o->no_lock ? 0 : hostfile_lock(raw->fd, raw->path, o->read_only, e);
}

static int raw_refresh(struct block *b, struct err *e) {
    return read_size(raw_of(b), e);
}

static void raw_close(struct block *b) {
    struct block_raw *raw = raw_of(b);

    block_pool_free(raw->pool);
    cleanup_close_fn(&raw->fd);
    free(raw->path);
    free(raw);
}

static const struct block_ops raw_ops = {
    .name = "raw",
    .submit = raw_submit,
    .refresh = raw_refresh,
    .close = raw_close,
};

struct block *block_raw_open(const char *path, const struct block_options *o, struct loop *l,
                             struct err *e) {
    struct block_raw *raw = xcalloc(1, sizeof(*raw));

    raw->b.ops = &raw_ops;
    raw->b.loop = l;
    raw->path = xstrdup(path);
    raw->b.info.read_only = o->read_only;
    raw->nowait_read = raw->nowait_write = raw->can_punch = raw->can_zero = true;
    if (open_file(raw, o, e) == 0) {
        read_topology(raw);
        raw->pool = block_pool_new(l, THREADS, work, e);
    }
    if (raw->pool)
        return &raw->b;
    raw_close(&raw->b);
    return NULL;
}

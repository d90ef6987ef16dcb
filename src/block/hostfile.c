/* SPDX-License-Identifier: Apache-2.0 */
/* Whole transfers, zeroes and holes with what the file system offers, and locks that say who. */
#include "block/hostfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"

#define PIECES 64u           /* elements of a vector in one system call */
#define ZEROES (256u << 10)  /* written at a time */
#define OFFSET_MAX INT64_MAX /* off_t's */

/* --- transfers --- */

/* Up to PIECES elements from `done` bytes into the span on, `len` bytes at most. */
static int part(struct span s, uint64_t done, uint64_t len, struct iovec *to) {
    uint64_t skip = s.skip + done;
    unsigned i = 0;
    int n = 0;

    while (i < s.count && skip >= s.iov[i].iov_len)
        skip -= s.iov[i++].iov_len;
    for (; i < s.count && n < (int)PIECES && len; i++) {
        size_t take = MIN(s.iov[i].iov_len - skip, len);

        to[n++] = (struct iovec){(uint8_t *)s.iov[i].iov_base + skip, take};
        len -= take;
        skip = 0;
    }
    return n;
}

int hostfile_readv(const struct hostfile *f, uint64_t off, struct span s, uint64_t len) {
    struct iovec iov[PIECES];

    if (!range_within(off, len, OFFSET_MAX))
        return -EFBIG;
    for (uint64_t done = 0; done < len;) {
        ssize_t n = preadv(f->fd, iov, part(s, done, len - done, iov), (off_t)(off + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            iov_fill(s.iov, s.count, s.skip + done, 0, len - done);
            return 0;
        }
        done += (uint64_t)n;
    }
    return 0;
}

int hostfile_writev(const struct hostfile *f, uint64_t off, struct span s, uint64_t len) {
    struct iovec iov[PIECES];

    if (!range_within(off, len, OFFSET_MAX))
        return -EFBIG;
    for (uint64_t done = 0; done < len;) {
        ssize_t n = pwritev(f->fd, iov, part(s, done, len - done, iov), (off_t)(off + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        done += (uint64_t)n;
    }
    return 0;
}

int hostfile_read(const struct hostfile *f, uint64_t off, void *buf, uint64_t len) {
    return hostfile_readv(f, off, SPAN(buf, len), len);
}

int hostfile_write(const struct hostfile *f, uint64_t off, const void *buf, uint64_t len) {
    struct iovec iov = {.iov_len = len};

    /* An iovec is for both directions; pwritev only reads. */
    memcpy(&iov.iov_base, &buf, sizeof(buf));
    return hostfile_writev(f, off, (struct span){&iov, 1, 0}, len);
}

int hostfile_sync(const struct hostfile *f) {
    return fdatasync(f->fd) < 0 ? -errno : 0;
}

/* --- zeroes and holes --- */

static int write_zeroes(const struct hostfile *f, uint64_t off, uint64_t len) {
    cleanup_free uint8_t *zeroes = xcalloc(1, MIN(len, (uint64_t)ZEROES));
    int r = 0;

    while (r == 0 && len) {
        uint64_t n = MIN(len, (uint64_t)ZEROES);

        r = hostfile_write(f, off, zeroes, n);
        off += n;
        len -= n;
    }
    return r;
}

static bool unsupported(int errnum) {
    return errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == ENOTTY;
}

static bool on_device(const struct hostfile *f, unsigned long request, uint64_t off, uint64_t len) {
    uint64_t range[2] = {off, len};

    return ioctl(f->fd, request, range) == 0;
}

static bool zero_range(const struct hostfile *f, uint64_t off, uint64_t len, bool unmap) {
    int mode = unmap ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;

    if (f->is_device)
        return on_device(f, BLKZEROOUT, off, len);
    return fallocate(f->fd, mode, (off_t)off, (off_t)len) == 0;
}

int hostfile_zero(struct hostfile *f, uint64_t off, uint64_t len, bool unmap) {
    atomic_bool *can = unmap ? &f->can_punch : &f->can_zero;

    if (!len)
        return 0;
    if (*can) {
        if (zero_range(f, off, len, unmap))
            return 0;
        if (!unsupported(errno))
            return -errno;
        *can = false;
    }
    return write_zeroes(f, off, len);
}

int hostfile_discard(struct hostfile *f, uint64_t off, uint64_t len) {
    if (!f->can_punch || !len)
        return 0;
    if (f->is_device ? on_device(f, BLKDISCARD, off, len)
                     : fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
                                 (off_t)len) == 0)
        return 0;
    if (!unsupported(errno))
        return -errno;
    f->can_punch = false;
    return 0;
}

bool hostfile_hole(const struct hostfile *f, uint64_t off, uint64_t end, uint64_t *until) {
    off_t data = f->is_device ? (off_t)off : lseek(f->fd, (off_t)off, SEEK_DATA);
    off_t hole;

    *until = end;
    if (data < 0)
        return errno == ENXIO;
    if ((uint64_t)data > off) {
        *until = MIN(end, (uint64_t)data);
        return true;
    }
    hole = f->is_device ? -1 : lseek(f->fd, (off_t)off, SEEK_HOLE);
    if (hole >= 0)
        *until = MIN(end, (uint64_t)hole);
    return false;
}

/* --- locks --- */

/* Whether one of a process's descriptors is this file. */
static bool has_open(const char *pid, const struct stat *file) {
    cleanup_free char *dir = xasprintf("/proc/%s/fd", pid);
    DIR *d = opendir(dir);
    bool found = false;

    for (struct dirent *fd; d && !found && (fd = readdir(d));) {
        cleanup_free char *path = xasprintf("%s/%s", dir, fd->d_name);
        struct stat st;

        found = stat(path, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino &&
                S_ISREG(st.st_mode) == S_ISREG(file->st_mode);
    }
    if (d)
        closedir(d);
    return found;
}

/* The kernel does not say who holds this kind of lock, so we look who has the file open. */
static char *find_holder(int fd) {
    cleanup_free char *self = xasprintf("%d", (int)getpid());
    DIR *d = opendir("/proc");
    char *holder = NULL;
    struct stat st;

    if (fstat(fd, &st) < 0)
        st.st_ino = 0;
    for (struct dirent *p; d && !holder && (p = readdir(d));) {
        char name[32] = "?";

        if (strspn(p->d_name, "0123456789") != strlen(p->d_name) || strcmp(p->d_name, self) == 0 ||
            !has_open(p->d_name, &st))
            continue;
        cleanup_free char *comm = xasprintf("/proc/%s/comm", p->d_name);
        FILE *c = fopen(comm, "re");
        if (c && fgets(name, sizeof(name), c))
            name[strcspn(name, "\n")] = 0;
        if (c)
            fclose(c);
        holder = xasprintf("process %s (%s)", p->d_name, name);
    }
    if (d)
        closedir(d);
    return holder;
}

int hostfile_lock(int fd, const char *path, bool read_only, struct err *e) {
    struct flock l = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl(fd, F_OFD_SETLK, &l) == 0 || errno == EINVAL)
        return 0;
    if (errno != EAGAIN && errno != EACCES)
        return err_set(e, errno, "%s: lock", path);
    cleanup_free char *holder = find_holder(fd);
    return err_set(e, 0, "%s: in use by %s", path, holder ? holder : "another program");
}

/* --- opening --- */

static int judge(struct hostfile *f, struct err *e) {
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return err_set(e, errno, "%s", f->path);
    f->is_device = S_ISBLK(st.st_mode);
    if (!f->is_device && !S_ISREG(st.st_mode))
        return err_set(e, 0, "%s: neither a file nor a block device", f->path);
    return 0;
}

static struct hostfile *new_file(const char *path, int fd, bool read_only) {
    struct hostfile *f = xcalloc(1, sizeof(*f));

    f->fd = fd;
    f->path = xstrdup(path);
    f->read_only = read_only;
    f->can_punch = f->can_zero = true;
    return f;
}

struct hostfile *hostfile_open(const char *path, const struct hostfile_options *o, struct err *e) {
    int fd = open(path, (o->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    struct hostfile *f;

    if (fd < 0) {
        err_set(e, errno, "%s: open", path);
        return NULL;
    }
    f = new_file(path, fd, o->read_only);
    f->no_lock = o->no_lock;
    if (judge(f, e) == 0 && (o->no_lock || hostfile_lock(fd, path, o->read_only, e) == 0))
        return f;
    hostfile_close(f);
    return NULL;
}

struct hostfile *hostfile_create(const char *path, bool force, struct err *e) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_CREAT | (force ? O_NONBLOCK : O_EXCL), 0644);
    struct hostfile *f;

    if (fd < 0 && errno == EEXIST) {
        err_set(e, 0, "%s: is there already; --force overwrites it", path);
        return NULL;
    }
    if (fd < 0) {
        err_set(e, errno, "%s: create", path);
        return NULL;
    }
    f = new_file(path, fd, false);
    if (judge(f, e) == 0 && hostfile_lock(fd, path, false, e) == 0) {
        if (f->is_device || ftruncate(fd, 0) == 0)
            return f;
        err_set(e, errno, "%s: truncate", path);
    }
    hostfile_close(f);
    return NULL;
}

void hostfile_close(struct hostfile *f) {
    if (!f)
        return;
    cleanup_close_fn(&f->fd);
    free(f->path);
    free(f);
}

int hostfile_size(const struct hostfile *f, uint64_t *size) {
    struct stat st;

    if (f->is_device)
        return ioctl(f->fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    return 0;
}

int hostfile_truncate(struct hostfile *f, uint64_t size) {
    if (size > OFFSET_MAX)
        return -EFBIG;
    return ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
}

uint64_t hostfile_allocated(const struct hostfile *f) {
    struct stat st;

    return fstat(f->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

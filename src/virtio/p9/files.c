/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are about open files and folders. Data goes between guest memory and file in place.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/util.h"
#include "virtio/p9/session.h"

#define READ_HEADER (P9_HEADER + 4)   /* of Rread: up to the data */
#define WRITE_HEADER (P9_HEADER + 16) /* of Twrite: up to the data */
#define ENTRY_HEADER (13 + 8 + 1 + 2) /* of an entry of Rreaddir: up to the name */

static void opened(struct p9_server *s, struct p9_msg *m, const struct stat *st) {
    struct p9_qid qid = p9_qid_of(s, st);

    p9_put_qid(&m->out, &qid);
    p9_put_u32(&m->out, 0); /* iounit: as much as fits in a message */
}

int p9_t_lopen(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint32_t wanted = p9_get_u32(&m->in);
    struct stat st;
    int r = p9_msg_check(m), flags, fd;

    if (r < 0)
        return r;
    flags = p9_open_flags(s, wanted);
    if (flags < 0)
        return flags;
    if (f->kind != P9_FILE || f->fd >= 0)
        return -EBADF;
    if (!p9_may_open(s))
        return -EMFILE;
    fd = p9_node_open(s->tree, f->node, flags & ~O_EXCL);
    if (fd < 0)
        return fd;
    p9_fid_opened(s, f, fd, flags);
    if (fstat(fd, &st) < 0)
        return -errno;
    opened(s, m, &st);
    return 0;
}

/* Opens a regular file that is made if need be. */
static int create(struct p9_server *s, struct p9_fid *f, const struct p9_place *p, int flags,
                  uint32_t mode, uint32_t gid, struct stat *st) {
    const int always = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_CREAT;
    int fd, r = 0;
    bool fresh = fstatat(p->dir, p->name, st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;

    if (!fresh && !S_ISREG(st->st_mode))
        return -EEXIST;
    fd = openat(p->dir, p->name, flags | always, mode & 0777);
    if (fd < 0)
        return -errno;
    if (fresh)
        r = p9_adopt(s, fd, f->uid, gid, mode, st);
    if (r == 0 && fstat(fd, st) < 0)
        r = -errno;
    if (r == 0 && !S_ISREG(st->st_mode))
        r = -EEXIST;
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

/* The fid, until now the folder's, is the new file's. */
static int become(struct p9_server *s, struct p9_fid *f, const char *name, int fd, int flags) {
    struct p9_node *n = p9_node_child(s->tree, f->node, name);

    if (!n) {
        close(fd);
        return -ENFILE;
    }
    p9_fid_set_node(s, f, n);
    p9_fid_opened(s, f, fd, flags & ~(O_EXCL | O_TRUNC));
    return 0;
}

int p9_t_lcreate(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    uint32_t wanted, mode, gid;
    struct stat st;
    int r, flags;

    p9_msg_name(m, name);
    wanted = p9_get_u32(&m->in);
    mode = p9_get_u32(&m->in);
    gid = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    flags = p9_open_flags(s, wanted & ~(uint32_t)O_DIRECTORY);
    if (flags < 0)
        return flags;
    if (f->kind != P9_FILE || f->fd >= 0)
        return -EBADF;
    if (!p9_may_open(s))
        return -EMFILE;
    r = p9_place_in(s->tree, f->node, name, &p);
    if (r == 0)
        r = create(s, f, &p, flags, mode, gid, &st);
    if (r >= 0)
        r = become(s, f, name, r, flags);
    if (r == 0)
        opened(s, m, &st);
    return r;
}

/* Data goes right into the guest's buffer, behind the header that follows when it is known how much
 * it was. */
static int read_file(struct p9_server *s, struct p9_msg *m, const struct p9_fid *f, uint64_t off,
                     uint32_t count) {
    const size_t room = MIN(m->in_size, (size_t)s->msize) - READ_HEADER;
    unsigned iovs;
    ssize_t n;

    if (off > INT64_MAX)
        return -EINVAL;
    iovs = iov_slice(m->in_iov, m->in_count, READ_HEADER, MIN((size_t)count, room), s->scratch);
    n = preadv(f->fd, s->scratch, (int)iovs, (off_t)off);
    if (n < 0)
        return -errno;
    p9_put_u32(&m->out, (uint32_t)n);
    m->direct = (size_t)n;
    return 0;
}

int p9_t_read(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint64_t off = p9_get_u64(&m->in);
    uint32_t count = p9_get_u32(&m->in);
    int r = p9_msg_check(m);

    if (r < 0)
        return r;
    if (m->in_size < READ_HEADER)
        return -EMSGSIZE;
    if (f->kind == P9_XATTR_READ)
        return p9_xattr_read(m, f, off, count);
    return f->fd < 0 ? -EBADF : read_file(s, m, f, off, count);
}

static int write_file(struct p9_server *s, struct p9_msg *m, const struct p9_fid *f, uint64_t off,
                      uint32_t count) {
    unsigned iovs;
    ssize_t n;

    if (off > INT64_MAX)
        return -EFBIG;
    iovs = iov_slice(m->out_iov, m->out_count, WRITE_HEADER, count, s->scratch);
    n = pwritev(f->fd, s->scratch, (int)iovs, (off_t)off);
    if (n < 0)
        return -errno;
    p9_put_u32(&m->out, (uint32_t)n);
    return 0;
}

static int write_xattr(struct p9_server *s, struct p9_msg *m, struct p9_fid *f, uint64_t off,
                       uint32_t count) {
    size_t n = iov_read(m->out_iov, m->out_count, WRITE_HEADER, s->request,
                        MIN((size_t)count, sizeof(s->request)));

    m->in = (struct p9_in){s->request, s->request + n, false};
    return n < count ? -EMSGSIZE : p9_xattr_write(s, m, f, off, count);
}

/* Only the header was copied; what the data are is none of our business. */
int p9_t_write(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint64_t off = p9_get_u64(&m->in);
    uint32_t count = p9_get_u32(&m->in);
    int r = p9_msg_check(m);

    if (r < 0)
        return r;
    if (count > m->out_size - WRITE_HEADER)
        return -EINVAL;
    if (f->kind == P9_XATTR_WRITE)
        return write_xattr(s, m, f, off, count);
    return f->fd < 0 ? -EBADF : write_file(s, m, f, off, count);
}

/* Folders */

static uint8_t qid_type(uint8_t d_type) {
    return d_type == DT_DIR ? 0x80 : d_type == DT_LNK ? 0x02 : 0;
}

/* False when there is no room. The parent of the shared folder is nobody's business. */
static bool put_entry(struct p9_server *s, struct p9_msg *m, const struct p9_fid *f,
                      const struct stat *folder, const struct dirent64 *d) {
    const bool top = !f->node->parent && strcmp(d->d_name, "..") == 0;
    struct p9_qid qid = {
        .type = qid_type(d->d_type),
        .path = p9_tree_ino(s->tree, folder->st_dev, top ? folder->st_ino : d->d_ino),
    };

    if (m->out.cap - m->out.len < ENTRY_HEADER + strlen(d->d_name))
        return false;
    p9_put_qid(&m->out, &qid);
    p9_put_u64(&m->out, (uint64_t)d->d_off);
    p9_put_u8(&m->out, d->d_type);
    p9_put_str(&m->out, d->d_name);
    return true;
}

/* 1 when there may be more and room for it, 0 at an end of either. */
static int read_entries(struct p9_server *s, struct p9_msg *m, const struct p9_fid *f,
                        const struct stat *folder) {
    union {
        struct dirent64 d;
        char bytes[8192];
    } u;
    ssize_t n = getdents64(f->fd, u.bytes, sizeof(u.bytes)), at = 0;

    while (at < n) {
        const struct dirent64 *d = (const struct dirent64 *)(const void *)(u.bytes + at);

        if (!put_entry(s, m, f, folder, d))
            return 0;
        at += d->d_reclen;
    }
    return n < 0 ? -errno : n > 0;
}

int p9_t_readdir(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint64_t off = p9_get_u64(&m->in);
    uint32_t count = p9_get_u32(&m->in);
    struct p9_out count_field = m->out;
    struct stat st;
    int r = p9_msg_check(m);

    if (r < 0)
        return r;
    if (f->fd < 0)
        return -EBADF;
    if (fstat(f->fd, &st) < 0 || lseek(f->fd, (off_t)off, SEEK_SET) < 0)
        return -errno;
    p9_put_u32(&m->out, 0);
    m->out.cap = MIN(m->out.cap, m->out.len + count);
    do
        r = read_entries(s, m, f, &st);
    while (r > 0);
    p9_put_u32(&count_field, (uint32_t)(m->out.len - count_field.len - 4));
    return r;
}

int p9_t_fsync(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint32_t data_only = p9_get_u32(&m->in);
    int r = p9_msg_check(m);

    if (r < 0)
        return r;
    if (f->fd < 0)
        return -EBADF;
    return (data_only ? fdatasync(f->fd) : fsync(f->fd)) < 0 ? -errno : 0;
}

/* Locks: open file description locks, as each of the guest's open files is one of ours. */

enum { LOCK_SUCCESS = 0, LOCK_BLOCKED = 1 };

struct lock {
    uint8_t type; /* 0 read, 1 write, 2 none: as Linux's */
    uint64_t start, length;
    uint32_t process;
    char client[NAME_MAX + 1];
};

static void get_lock(struct p9_msg *m, struct lock *k, bool with_flags) {
    k->type = p9_get_u8(&m->in);
    if (with_flags)
        p9_get_u32(&m->in); /* whether the guest waits: it asks again */
    k->start = p9_get_u64(&m->in);
    k->length = p9_get_u64(&m->in);
    k->process = p9_get_u32(&m->in);
    p9_get_str(&m->in, k->client, sizeof(k->client), &m->too_long);
}

static int to_flock(const struct p9_fid *f, const struct lock *k, struct flock *fl) {
    static const short types[] = {F_RDLCK, F_WRLCK, F_UNLCK};

    if (f->fd < 0)
        return -EBADF;
    if (k->type > 2 || k->start > INT64_MAX || k->length > INT64_MAX)
        return -EINVAL;
    *fl = (struct flock){.l_type = types[k->type],
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)k->start,
                         .l_len = (off_t)k->length};
    return 0;
}

/* What both messages ask about. */
static int asked(struct p9_server *s, struct p9_msg *m, bool set, struct p9_fid **f, struct lock *k,
                 struct flock *fl) {
    int r;

    *f = p9_msg_fid(s, m);
    get_lock(m, k, set);
    r = p9_msg_check(m);
    return r == 0 ? to_flock(*f, k, fl) : r;
}

int p9_t_lock(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f;
    struct flock fl;
    struct lock k;
    int r = asked(s, m, true, &f, &k, &fl);

    if (r != 0)
        return r;
    if (fcntl(f->fd, F_OFD_SETLK, &fl) == 0)
        p9_put_u8(&m->out, LOCK_SUCCESS);
    else if (errno == EAGAIN || errno == EACCES)
        p9_put_u8(&m->out, LOCK_BLOCKED);
    else
        return -errno;
    return 0;
}

int p9_t_getlock(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f;
    struct flock fl;
    struct lock k;
    int r = asked(s, m, false, &f, &k, &fl);

    if (r != 0)
        return r;
    if (k.type == 2)
        return -EINVAL;
    if (fcntl(f->fd, F_OFD_GETLK, &fl) < 0)
        return -errno;
    p9_put_u8(&m->out, fl.l_type == F_RDLCK ? 0 : fl.l_type == F_WRLCK ? 1 : 2);
    p9_put_u64(&m->out, fl.l_type == F_UNLCK ? k.start : (uint64_t)fl.l_start);
    p9_put_u64(&m->out, fl.l_type == F_UNLCK ? k.length : (uint64_t)fl.l_len);
    p9_put_u32(&m->out, k.process);
    p9_put_str(&m->out, k.client);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages that are about attributes. Extended attributes are those of the "user." namespace: the
 * others mean something to the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/util.h"
#include "virtio/p9/session.h"

#define V9FS_MAGIC 0x01021997u

/* Tgetattr's and Tsetattr's masks. */
enum { GETATTR_BASIC = 0x7ff };
enum {
    SET_MODE = 1,
    SET_UID = 2,
    SET_GID = 4,
    SET_SIZE = 8,
    SET_ATIME = 16,
    SET_MTIME = 32,
    SET_ATIME_TO = 128,
    SET_MTIME_TO = 256,
};

static void put_time(struct p9_out *out, const struct timespec *t) {
    p9_put_u64(out, (uint64_t)t->tv_sec);
    p9_put_u64(out, (uint64_t)t->tv_nsec);
}

int p9_t_getattr(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint64_t mask = p9_get_u64(&m->in);
    struct p9_qid qid;
    struct stat st;
    int r = p9_msg_check(m);

    if (r == 0)
        r = p9_fid_stat(s, f, &st);
    if (r != 0)
        return r;
    qid = p9_qid_of(s, &st);
    p9_put_u64(&m->out, mask & GETATTR_BASIC);
    p9_put_qid(&m->out, &qid);
    p9_put_u32(&m->out, st.st_mode);
    p9_put_u32(&m->out, p9_uid_to_guest(s, st.st_uid));
    p9_put_u32(&m->out, p9_gid_to_guest(s, st.st_gid));
    p9_put_u64(&m->out, st.st_nlink);
    p9_put_u64(&m->out, st.st_rdev);
    p9_put_u64(&m->out, (uint64_t)st.st_size);
    p9_put_u64(&m->out, (uint64_t)st.st_blksize);
    p9_put_u64(&m->out, (uint64_t)st.st_blocks);
    put_time(&m->out, &st.st_atim);
    put_time(&m->out, &st.st_mtim);
    put_time(&m->out, &st.st_ctim);
    for (int i = 0; i < 4; i++) /* birth time, generation, data version: not asked for */
        p9_put_u64(&m->out, 0);
    return 0;
}

struct setattr {
    uint32_t valid, mode, uid, gid;
    uint64_t size;
    struct timespec times[2];
};

static void get_time(struct p9_msg *m, struct timespec *t, bool set, bool to) {
    t->tv_sec = (time_t)p9_get_u64(&m->in);
    t->tv_nsec = (long)p9_get_u64(&m->in);
    if (!set)
        t->tv_nsec = UTIME_OMIT;
    else if (!to)
        t->tv_nsec = UTIME_NOW;
    else if ((uint64_t)t->tv_nsec >= 1000000000)
        m->error = -EINVAL;
}

static void get_setattr(struct p9_msg *m, struct setattr *a) {
    a->valid = p9_get_u32(&m->in);
    a->mode = p9_get_u32(&m->in);
    a->uid = p9_get_u32(&m->in);
    a->gid = p9_get_u32(&m->in);
    a->size = p9_get_u64(&m->in);
    get_time(m, &a->times[0], a->valid & SET_ATIME, a->valid & SET_ATIME_TO);
    get_time(m, &a->times[1], a->valid & SET_MTIME, a->valid & SET_MTIME_TO);
}

static int set_owner(struct p9_server *s, const struct p9_fid *f, const struct p9_place *p,
                     const struct setattr *a) {
    uint32_t uid = (uint32_t)-1, gid = (uint32_t)-1;

    if ((a->valid & SET_UID) && !p9_uid_to_host(s, a->uid, &uid))
        return -EPERM;
    if ((a->valid & SET_GID) && !p9_gid_to_host(s, a->gid, &gid))
        return -EPERM;
    if (f->fd >= 0)
        return fchown(f->fd, uid, gid) < 0 ? -errno : 0;
    return fchownat(p->dir, p->name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_mode(const struct p9_fid *f, const struct p9_place *p, const struct stat *st,
                    uint32_t mode) {
    mode = p9_mode_allowed(mode, S_ISDIR(st->st_mode));
    if (f->fd >= 0)
        return fchmod(f->fd, mode) < 0 ? -errno : 0;
    return fchmodat(p->dir, p->name, mode, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_size(struct p9_server *s, const struct p9_fid *f, uint64_t size) {
    int fd = -1, r;

    if (size > INT64_MAX)
        return -EFBIG;
    if (f->fd >= 0 && (f->flags & O_ACCMODE) != O_RDONLY)
        return ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
    fd = p9_node_open(s->tree, f->node, O_WRONLY);
    if (fd < 0)
        return fd;
    r = ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
    close(fd);
    return r;
}

static int set_times(const struct p9_fid *f, const struct p9_place *p, const struct setattr *a) {
    if (f->fd >= 0)
        return futimens(f->fd, a->times) < 0 ? -errno : 0;
    return utimensat(p->dir, p->name, a->times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_all(struct p9_server *s, const struct p9_fid *f, const struct p9_place *p,
                   const struct setattr *a) {
    struct stat st;
    int r = p9_fid_stat(s, f, &st);

    if (r == 0 && (a->valid & (SET_UID | SET_GID)))
        r = set_owner(s, f, p, a);
    if (r == 0 && (a->valid & SET_MODE))
        r = set_mode(f, p, &st, a->mode);
    if (r == 0 && (a->valid & SET_SIZE))
        r = set_size(s, f, a->size);
    if (r == 0 && (a->valid & (SET_ATIME | SET_MTIME)))
        r = set_times(f, p, a);
    return r;
}

int p9_t_setattr(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    struct setattr a;
    int r;

    get_setattr(m, &a);
    r = p9_msg_check(m);
    if (r == 0 && f->fd < 0)
        r = p9_place_find(s->tree, f->node, &p);
    return r != 0 ? r : set_all(s, f, &p, &a);
}

int p9_t_statfs(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    struct statfs fs;
    int r = p9_msg_check(m);

    if (r == 0)
        r = p9_place_find(s->tree, f->node, &p);
    if (r != 0)
        return r;
    if (fstatfs(p.dir, &fs) < 0)
        return -errno;
    p9_put_u32(&m->out, V9FS_MAGIC);
    p9_put_u32(&m->out, (uint32_t)fs.f_bsize);
    p9_put_u64(&m->out, fs.f_blocks);
    p9_put_u64(&m->out, fs.f_bfree);
    p9_put_u64(&m->out, fs.f_bavail);
    p9_put_u64(&m->out, fs.f_files);
    p9_put_u64(&m->out, fs.f_ffree);
    p9_put_u64(&m->out, (uint32_t)fs.f_fsid.__val[0] | (uint64_t)fs.f_fsid.__val[1] << 32);
    p9_put_u32(&m->out, NAME_MAX);
    return 0;
}

int p9_t_readlink(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    char target[PATH_MAX];
    ssize_t n;
    int r = p9_msg_check(m);

    if (r == 0)
        r = p9_place_find(s->tree, f->node, &p);
    if (r != 0)
        return r;
    n = readlinkat(p.dir, p.name, target, sizeof(target) - 1);
    if (n < 0)
        return -errno;
    target[n] = 0;
    p9_put_str(&m->out, target);
    return 0;
}

/* Extended attributes */

static bool is_users(const char *name) {
    return strncmp(name, "user.", 5) == 0;
}

/* Keeps the names of the user's namespace; returns what is left. */
static uint32_t keep_users(char *names, size_t len) {
    size_t kept = 0, n;

    for (size_t at = 0; at < len; at += n) {
        n = strnlen(names + at, len - at) + 1;
        n = MIN(n, len - at);
        if (is_users(names + at)) {
            memmove(names + kept, names + at, n);
            kept += n;
        }
    }
    return (uint32_t)kept;
}

static int fetch(struct p9_server *s, struct p9_fid *f, const char *name) {
    int fd = p9_node_open(s->tree, f->node, O_RDONLY);
    ssize_t n;

    if (fd == -ENXIO || fd == -ELOOP)
        return *name ? -ENODATA : 0; /* such files have none */
    if (fd < 0)
        return fd;
    f->data = xcalloc(1, P9_XATTR_SIZE_MAX);
    n = *name ? fgetxattr(fd, name, f->data, P9_XATTR_SIZE_MAX)
              : flistxattr(fd, (char *)f->data, P9_XATTR_SIZE_MAX);
    n = n < 0 ? -errno : n;
    close(fd);
    if (n < 0)
        return (int)n;
    f->size = *name ? (uint32_t)n : keep_users((char *)f->data, (size_t)n);
    return 0;
}

int p9_t_xattrwalk(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m), *x;
    uint32_t new_id = p9_get_u32(&m->in);
    char name[XATTR_NAME_MAX + 1];
    int r;

    p9_get_str(&m->in, name, sizeof(name), &m->too_long);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (*name && !is_users(name))
        return -EOPNOTSUPP;
    if (f->kind != P9_FILE)
        return -EBADF;
    if (s->xattr_count == P9_XATTRS_MAX)
        return -ENFILE;
    x = p9_fid_new(s, new_id, p9_node_get(f->node), f->uid, &r);
    if (!x)
        return r;
    x->kind = P9_XATTR_READ;
    s->xattr_count++;
    r = fetch(s, x, name);
    if (r < 0)
        p9_fid_clunk(s, x);
    else
        p9_put_u64(&m->out, x->size);
    return r;
}

int p9_t_xattrcreate(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[XATTR_NAME_MAX + 1];
    uint64_t size;
    uint32_t flags;
    int r;

    p9_get_str(&m->in, name, sizeof(name), &m->too_long);
    size = p9_get_u64(&m->in);
    flags = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (!is_users(name))
        return -EOPNOTSUPP;
    if (f->kind != P9_FILE || f->fd >= 0)
        return -EBADF;
    if (size > P9_XATTR_SIZE_MAX)
        return -E2BIG;
    if (flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if (s->xattr_count == P9_XATTRS_MAX)
        return -ENFILE;
    f->kind = P9_XATTR_WRITE;
    f->xattr = xstrdup(name);
    f->xattr_flags = (int)flags;
    f->size = (uint32_t)size;
    f->data = xcalloc(1, MAX(f->size, 1u));
    s->xattr_count++;
    return 0;
}

int p9_xattr_read(struct p9_msg *m, const struct p9_fid *f, uint64_t off, uint32_t count) {
    size_t n = off < f->size ? MIN((size_t)count, (size_t)(f->size - off)) : 0;

    n = MIN(n, m->out.cap - m->out.len - 4);
    p9_put_u32(&m->out, (uint32_t)n);
    if (n)
        memcpy(m->out.buf + m->out.len, f->data + off, n);
    m->out.len += n;
    return 0;
}

/* In order, as it is written. */
int p9_xattr_write(struct p9_server *s, struct p9_msg *m, struct p9_fid *f, uint64_t off,
                   uint32_t count) {
    uint32_t n = MIN(count, f->size - f->done);

    (void)s;
    if (off != f->done)
        return -EINVAL;
    if (n < count)
        return -ENOSPC;
    for (uint32_t i = 0; i < n; i++)
        f->data[f->done + i] = m->in.p[i];
    f->done += n;
    p9_put_u32(&m->out, n);
    return 0;
}

/* A size of nothing removes it: that is how Linux asks for that. */
int p9_xattr_commit(struct p9_server *s, const struct p9_fid *f) {
    int fd, r;

    if (f->done < f->size)
        return -EINVAL;
    fd = p9_node_open(s->tree, f->node, O_RDONLY);
    if (fd < 0)
        return fd == -ENXIO || fd == -ELOOP ? -EPERM : fd;
    r = f->size ? fsetxattr(fd, f->xattr, f->data, f->size, f->xattr_flags)
                : fremovexattr(fd, f->xattr);
    r = r < 0 ? -errno : 0;
    close(fd);
    return r;
}

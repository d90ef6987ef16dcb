/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 9P2000.L (the protocol of Linux's v9fs; messages as in diod's protocol.md): framing, version,
 * and the table of messages. One request at a time, so Tflush finds its request answered.
 */
#include "virtio/p9/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"
#include "virtio/p9/session.h"

enum {
    R_LERROR = 7,
    T_STATFS = 8,
    T_LOPEN = 12,
    T_LCREATE = 14,
    T_SYMLINK = 16,
    T_MKNOD = 18,
    T_RENAME = 20,
    T_READLINK = 22,
    T_GETATTR = 24,
    T_SETATTR = 26,
    T_XATTRWALK = 30,
    T_XATTRCREATE = 32,
    T_READDIR = 40,
    T_FSYNC = 50,
    T_LOCK = 52,
    T_GETLOCK = 54,
    T_LINK = 70,
    T_MKDIR = 72,
    T_RENAMEAT = 74,
    T_UNLINKAT = 76,
    T_VERSION = 100,
    T_ATTACH = 104,
    T_FLUSH = 108,
    T_WALK = 110,
    T_READ = 116,
    T_WRITE = 118,
    T_CLUNK = 120,
    T_REMOVE = 122,
    T_COUNT,
};

#define ERROR_SIZE (P9_HEADER + 4)
#define WRITE_HEADER (P9_HEADER + 16)
#define OPEN_MAX_DEFAULT 65536u

struct p9_fid *p9_msg_fid(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_fid_find(s, p9_get_u32(&m->in));

    if (!f)
        m->error = -EBADF;
    else if (f->lost)
        m->error = -ESTALE;
    return f;
}

void p9_msg_name(struct p9_msg *m, char name[NAME_MAX + 1]) {
    int r;

    p9_get_str(&m->in, name, NAME_MAX + 1, &m->too_long);
    r = p9_name_check(name);
    if (r < 0 && !m->too_long)
        m->error = r;
}

int p9_msg_check(const struct p9_msg *m) {
    return m->in.bad ? -EINVAL : m->too_long ? -ENAMETOOLONG : m->error;
}

/* The other side starts anew: nothing of what it had is left. */
static int t_version(struct p9_server *s, struct p9_msg *m) {
    uint32_t msize = p9_get_u32(&m->in);
    char version[32];
    bool known;
    int r;

    p9_get_str(&m->in, version, sizeof(version), &m->too_long);
    if (m->in.bad)
        return -EINVAL;
    r = msize < P9_MSIZE_MIN ? -EMSGSIZE : 0;
    if (r < 0)
        return r;
    p9_server_reset(s);
    known = strcmp(version, "9P2000.L") == 0;
    msize = MIN(msize, P9_MSIZE_MAX);
    if (known)
        s->msize = msize;
    p9_put_u32(&m->out, msize);
    p9_put_str(&m->out, known ? "9P2000.L" : "unknown");
    return 0;
}

static int t_flush(struct p9_server *s, struct p9_msg *m) {
    (void)s;
    p9_get_u16(&m->in);
    return p9_msg_check(m);
}

static const struct {
    p9_handler *handle;
    bool changes; /* the host's files */
} messages[T_COUNT] = {
    [T_STATFS] = {p9_t_statfs, false},
    [T_LOPEN] = {p9_t_lopen, false},
    [T_LCREATE] = {p9_t_lcreate, true},
    [T_SYMLINK] = {p9_t_symlink, true},
    [T_MKNOD] = {p9_t_mknod, true},
    [T_RENAME] = {p9_t_rename, true},
    [T_READLINK] = {p9_t_readlink, false},
    [T_GETATTR] = {p9_t_getattr, false},
    [T_SETATTR] = {p9_t_setattr, true},
    [T_XATTRWALK] = {p9_t_xattrwalk, false},
    [T_XATTRCREATE] = {p9_t_xattrcreate, true},
    [T_READDIR] = {p9_t_readdir, false},
    [T_FSYNC] = {p9_t_fsync, false},
    [T_LOCK] = {p9_t_lock, false},
    [T_GETLOCK] = {p9_t_getlock, false},
    [T_LINK] = {p9_t_link, true},
    [T_MKDIR] = {p9_t_mkdir, true},
    [T_RENAMEAT] = {p9_t_renameat, true},
    [T_UNLINKAT] = {p9_t_unlinkat, true},
    [T_VERSION] = {t_version, false},
    [T_ATTACH] = {p9_t_attach, false},
    [T_FLUSH] = {t_flush, false},
    [T_WALK] = {p9_t_walk, false},
    [T_READ] = {p9_t_read, false},
    [T_WRITE] = {p9_t_write, false},
    [T_CLUNK] = {p9_t_clunk, false},
    [T_REMOVE] = {p9_t_remove, false},
};

static int handle(struct p9_server *s, struct p9_msg *m, uint8_t type) {
    if (type >= T_COUNT || !messages[type].handle)
        return -EOPNOTSUPP;
    if (!s->msize && type != T_VERSION)
        return -EPROTO;
    if (messages[type].changes && s->options.read_only)
        return -EROFS;
    return messages[type].handle(s, m);
}

/* Loads what there is of the message; the data of a write stay where they are. */
static int load(struct p9_server *s, struct p9_msg *m, uint32_t size, uint8_t type) {
    size_t want = type == T_WRITE ? MIN(size, (uint32_t)WRITE_HEADER) : size;

    if (size < P9_HEADER || size > m->out_size)
        return -EINVAL;
    if (want > sizeof(s->request) || (s->msize && size > s->msize) || m->out_count > P9_IOV_MAX ||
        m->in_count > P9_IOV_MAX)
        return -EMSGSIZE;
    iov_read(m->out_iov, m->out_count, P9_HEADER, s->request, want - P9_HEADER);
    m->in = (struct p9_in){s->request, s->request + want - P9_HEADER, false};
    return 0;
}

static size_t finish(struct p9_msg *m, uint8_t type, uint16_t tag) {
    struct p9_out head = {m->out.buf, 0, P9_HEADER, false};

    p9_put_u32(&head, (uint32_t)(m->out.len + m->direct));
    p9_put_u8(&head, type);
    p9_put_u16(&head, tag);
    iov_write(m->in_iov, m->in_count, 0, m->out.buf, m->out.len);
    return m->out.len + m->direct;
}

size_t p9_serve(struct p9_server *s, const struct iovec *out, unsigned out_count,
                const struct iovec *in, unsigned in_count) {
    struct p9_msg m = {.out_iov = out, .in_iov = in, .out_count = out_count, .in_count = in_count};
    uint8_t head[P9_HEADER];
    struct p9_in h = {head, head + P9_HEADER, false};
    uint32_t size;
    uint8_t type;
    uint16_t tag;
    int r;

    m.out_size = iov_size(out, out_count);
    m.in_size = iov_size(in, in_count);
    if (m.in_size < ERROR_SIZE || iov_read(out, out_count, 0, head, P9_HEADER) < P9_HEADER)
        return 0;
    size = p9_get_u32(&h);
    type = p9_get_u8(&h);
    tag = p9_get_u16(&h);
    m.out = (struct p9_out){s->answer, P9_HEADER, MIN(m.in_size, sizeof(s->answer)), false};
    if (s->msize)
        m.out.cap = MIN(m.out.cap, (size_t)s->msize);
    r = load(s, &m, size, type);
    if (r == 0)
        r = handle(s, &m, type);
    if (r == 0 && m.out.full)
        r = -EMSGSIZE;
    if (r == 0)
        return finish(&m, (uint8_t)(type + 1), tag);
    m.out.len = P9_HEADER;
    m.direct = 0;
    p9_put_u32(&m.out, (uint32_t)-r);
    return finish(&m, R_LERROR, tag);
}

/* Half of what the process may open: disks and networks want some, too. */
static unsigned open_max(void) {
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur == RLIM_INFINITY)
        return OPEN_MAX_DEFAULT;
    return (unsigned)MIN(l.rlim_cur / 2, (rlim_t)OPEN_MAX_DEFAULT);
}

struct p9_server *p9_server_new(const char *path, const struct p9_options *o, struct err *e) {
    struct p9_tree *t = p9_tree_open(path, e);
    struct p9_server *s;

    if (!t)
        return NULL;
    s = xcalloc(1, sizeof(*s));
    s->tree = t;
    s->options = *o;
    s->open_max = open_max();
    return s;
}

void p9_server_free(struct p9_server *s) {
    if (!s)
        return;
    p9_server_reset(s);
    p9_tree_close(s->tree);
    free(s);
}

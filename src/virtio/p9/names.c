/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are about names: attach and walk, making, linking, renaming and removing. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "virtio/p9/session.h"

#define WALK_MAX 16

int p9_t_attach(struct p9_server *s, struct p9_msg *m) {
    uint32_t id = p9_get_u32(&m->in), afid = p9_get_u32(&m->in), uid;
    char uname[NAME_MAX + 1], aname[NAME_MAX + 1];
    struct p9_qid qid;
    struct stat st;
    int r;

    p9_get_str(&m->in, uname, sizeof(uname), &m->too_long);
    p9_get_str(&m->in, aname, sizeof(aname), &m->too_long);
    uid = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (afid != P9_NOFID)
        return -EOPNOTSUPP;
    if (aname[0] && (aname[0] != '/' || aname[1]))
        return -ENOENT;
    r = p9_node_stat(s->tree, p9_tree_root(s->tree), &st);
    if (r < 0)
        return r;
    if (!p9_fid_new(s, id, p9_node_get(p9_tree_root(s->tree)), uid, &r))
        return r;
    qid = p9_qid_of(s, &st);
    p9_put_qid(&m->out, &qid);
    return 0;
}

/* One step from *n, which it replaces. */
static int step(struct p9_server *s, struct p9_node **n, const char *name, struct stat *st) {
    const bool up = name[0] == '.' && name[1] == '.' && !name[2];
    struct p9_node *next;
    int r = up ? 0 : p9_name_check(name);

    if (r < 0)
        return r;
    if (up)
        next = p9_node_get((*n)->parent ? (*n)->parent : *n);
    else
        next = p9_node_child(s->tree, *n, name);
    if (!next)
        return -ENFILE;
    r = p9_node_stat(s->tree, next, st);
    if (r < 0) {
        p9_node_put(s->tree, next);
        return r;
    }
    p9_node_put(s->tree, *n);
    *n = next;
    return 0;
}

/* Steps as far as it goes; the answer says how far that was. */
static int steps(struct p9_server *s, struct p9_msg *m, struct p9_node **n, unsigned count) {
    const size_t count_at = m->out.len;
    struct p9_in names = m->in;
    unsigned done = 0;
    int r = 0;

    p9_put_u16(&m->out, 0);
    for (; done < count && r == 0; done += r == 0) {
        char name[NAME_MAX + 1];
        bool too_long = false;
        struct p9_qid qid;
        struct stat st;

        p9_get_str(&names, name, sizeof(name), &too_long);
        r = too_long ? -ENAMETOOLONG : step(s, n, name, &st);
        if (r < 0)
            continue;
        qid = p9_qid_of(s, &st);
        p9_put_qid(&m->out, &qid);
    }
    m->out.buf[count_at] = (uint8_t)done;
    return count && !done ? r : (int)done;
}

static int settle(struct p9_server *s, struct p9_fid *f, uint32_t new_id, struct p9_node *n) {
    int r = 0;

    if (new_id != f->id) {
        p9_fid_new(s, new_id, n, f->uid, &r);
        return r;
    }
    if (f->fd >= 0) {
        p9_node_put(s->tree, n);
        return -EBADF;
    }
    p9_fid_set_node(s, f, n);
    return 0;
}

int p9_t_walk(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    uint32_t new_id = p9_get_u32(&m->in);
    unsigned count = p9_get_u16(&m->in);
    struct p9_in check = m->in;
    bool ignored = false;
    struct p9_node *n;
    int r;

    for (unsigned i = 0; i < count && !check.bad; i++) {
        char name[NAME_MAX + 1];

        p9_get_str(&check, name, sizeof(name), &ignored);
    }
    m->in.bad |= check.bad || count > WALK_MAX;
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (f->kind != P9_FILE || (new_id != f->id && p9_fid_find(s, new_id)))
        return -EBADF;
    n = p9_node_get(f->node);
    r = steps(s, m, &n, count);
    if (r == (int)count)
        return settle(s, f, new_id, n);
    p9_node_put(s->tree, n);
    return MIN(r, 0);
}

int p9_t_clunk(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_fid_find(s, p9_get_u32(&m->in));
    int r = p9_msg_check(m);

    if (r < 0 || !f)
        return r < 0 ? r : -EBADF;
    return p9_fid_clunk(s, f);
}

/* The fid goes in any case. */
int p9_t_remove(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_fid_find(s, p9_get_u32(&m->in));
    struct stat st;
    int r = p9_msg_check(m);

    if (r < 0 || !f)
        return r < 0 ? r : -EBADF;
    if (s->options.read_only)
        r = -EROFS;
    else if (f->lost || f->node->removed)
        r = -ESTALE;
    else if (!f->node->parent)
        r = -EBUSY;
    else
        r = p9_node_stat(s->tree, f->node, &st);
    if (r == 0)
        r = p9_unlink(s->tree, f->node->parent, f->node->name, S_ISDIR(st.st_mode));
    p9_fid_clunk(s, f);
    return r;
}

/* Something new is there: it gets its owner and mode, and its qid is the answer. */
static int made(struct p9_server *s, struct p9_msg *m, const struct p9_fid *f,
                const struct p9_place *p, uint32_t gid, uint32_t mode) {
    int r, fd = openat(p->dir, p->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct p9_qid qid;
    struct stat st;

    if (fd < 0)
        return -errno;
    r = p9_adopt(s, fd, f->uid, gid, mode, &st);
    close(fd);
    if (r < 0)
        return r;
    qid = p9_qid_of(s, &st);
    p9_put_qid(&m->out, &qid);
    return 0;
}

int p9_t_mkdir(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    uint32_t mode, gid;
    int r;

    p9_msg_name(m, name);
    mode = p9_get_u32(&m->in);
    gid = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r == 0)
        r = p9_place_in(s->tree, f->node, name, &p);
    if (r != 0)
        return r;
    if (mkdirat(p.dir, name, mode & 0777) < 0)
        return -errno;
    return made(s, m, f, &p, gid, mode);
}

/* Devices of the host are not a guest's to make. */
static int make_node(const struct p9_place *p, uint32_t mode) {
    if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        return -EPERM;
    return mknodat(p->dir, p->name, (mode & S_IFMT) | (mode & 0777), 0) < 0 ? -errno : 0;
}

int p9_t_mknod(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    uint32_t mode, gid;
    int r;

    p9_msg_name(m, name);
    mode = p9_get_u32(&m->in);
    p9_get_u64(&m->in); /* major and minor */
    gid = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r == 0)
        r = p9_place_in(s->tree, f->node, name, &p);
    if (r == 0)
        r = make_node(&p, mode);
    return r != 0 ? r : made(s, m, f, &p, gid, mode);
}

int p9_t_symlink(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1], target[PATH_MAX];
    uint32_t gid;
    int r;

    p9_msg_name(m, name);
    p9_get_str(&m->in, target, sizeof(target), &m->too_long);
    gid = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r == 0)
        r = p9_place_in(s->tree, f->node, name, &p);
    if (r != 0)
        return r;
    if (symlinkat(target, p.dir, name) < 0)
        return -errno;
    return made(s, m, f, &p, gid, 0);
}

int p9_t_link(struct p9_server *s, struct p9_msg *m) {
    cleanup_place struct p9_place from = P9_PLACE_INIT, to = P9_PLACE_INIT;
    struct p9_fid *folder = p9_msg_fid(s, m), *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    int r;

    p9_msg_name(m, name);
    r = p9_msg_check(m);
    if (r == 0)
        r = p9_place_find(s->tree, f->node, &from);
    if (r == 0)
        r = p9_place_in(s->tree, folder->node, name, &to);
    if (r != 0)
        return r;
    return linkat(from.dir, from.name, to.dir, name, 0) < 0 ? -errno : 0;
}

int p9_t_rename(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m), *to = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    int r;

    p9_msg_name(m, name);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (!f->node->parent)
        return -EBUSY;
    if (f->node->removed)
        return -ENOENT;
    return p9_rename(s->tree, f->node->parent, f->node->name, to->node, name);
}

int p9_t_renameat(struct p9_server *s, struct p9_msg *m) {
    char name[NAME_MAX + 1], new_name[NAME_MAX + 1];
    struct p9_fid *from = p9_msg_fid(s, m), *to;
    int r;

    p9_msg_name(m, name);
    to = p9_msg_fid(s, m);
    p9_msg_name(m, new_name);
    r = p9_msg_check(m);
    return r < 0 ? r : p9_rename(s->tree, from->node, name, to->node, new_name);
}

int p9_t_unlinkat(struct p9_server *s, struct p9_msg *m) {
    struct p9_fid *f = p9_msg_fid(s, m);
    char name[NAME_MAX + 1];
    uint32_t flags;
    int r;

    p9_msg_name(m, name);
    flags = p9_get_u32(&m->in);
    r = p9_msg_check(m);
    if (r < 0)
        return r;
    if (flags & ~(uint32_t)AT_REMOVEDIR)
        return -EINVAL;
    return p9_unlink(s->tree, f->node, name, flags & AT_REMOVEDIR);
}

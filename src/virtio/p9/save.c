/* SPDX-License-Identifier: Apache-2.0 */
/* A session in a save record: fids by path. Descriptors are opened anew where it is loaded. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "virtio/p9/session.h"

static void put_text(struct record_writer *w, const char *s) {
    rec_put_u16(w, (uint16_t)strlen(s));
    rec_put_bytes(w, s, strlen(s));
}

static void put_fid(const struct p9_fid *f, struct record_writer *w) {
    char path[PATH_MAX];
    bool lost = f->lost || p9_node_path(f->node, path, sizeof(path)) < 0;

    rec_put_u32(w, f->id);
    rec_put_u32(w, f->uid);
    rec_put_u8(w, f->kind);
    rec_put_u8(w, lost);
    rec_put_u8(w, f->fd >= 0 && !lost);
    rec_put_u32(w, lost ? 0 : (uint32_t)f->flags);
    put_text(w, lost ? "" : path);
    if (f->kind == P9_FILE)
        return;
    put_text(w, f->xattr ? f->xattr : "");
    rec_put_u8(w, (uint8_t)f->xattr_flags);
    rec_put_u32(w, f->size);
    rec_put_u32(w, f->done);
    rec_put_bytes(w, f->data, f->size);
}

void p9_server_save(const struct p9_server *s, struct record_writer *w) {
    rec_put_u32(w, s->msize);
    rec_put_u32(w, s->fid_count);
    for (unsigned i = 0; i < P9_BUCKETS; i++)
        for (const struct p9_fid *f = s->fids[i]; f; f = f->next)
            put_fid(f, w);
}

/* One fid as it was saved. */
struct saved {
    uint32_t id, uid, flags, size, done;
    uint8_t kind, lost, open, xattr_flags;
    char path[PATH_MAX], xattr[NAME_MAX + 1];
    const uint8_t *data; /* in the record */
};

static void get_text(struct record_reader *r, char *s, size_t size) {
    size_t len = rec_get_u16(r);

    *s = 0;
    if (len >= size)
        r->bad = true;
    if (r->bad)
        return;
    rec_get_bytes(r, s, len);
    s[len] = 0;
    if (strlen(s) != len)
        r->bad = true;
}

static void get_xattr(struct record_reader *r, struct saved *v) {
    get_text(r, v->xattr, sizeof(v->xattr));
    v->xattr_flags = rec_get_u8(r);
    v->size = rec_get_u32(r);
    v->done = rec_get_u32(r);
    v->data = r->p;
    if (r->bad || v->size > P9_XATTR_SIZE_MAX || v->done > v->size ||
        v->size > (size_t)(r->end - r->p)) {
        r->bad = true;
        return;
    }
    r->p += v->size;
}

static void get_fid(struct record_reader *r, struct saved *v) {
    v->id = rec_get_u32(r);
    v->uid = rec_get_u32(r);
    v->kind = rec_get_u8(r);
    v->lost = rec_get_u8(r);
    v->open = rec_get_u8(r);
    v->flags = rec_get_u32(r);
    get_text(r, v->path, sizeof(v->path));
    if (!r->bad && v->kind != P9_FILE)
        get_xattr(r, v);
}

/* Names that a server would not have accepted don't come in through a record either. */
static bool path_is_good(const char *path) {
    char copy[PATH_MAX], *rest = NULL;

    memcpy(copy, path, strlen(path) + 1);
    if (*path == '/' || strstr(path, "//") || (*path && path[strlen(path) - 1] == '/'))
        return false;
    for (char *c = strtok_r(copy, "/", &rest); c; c = strtok_r(NULL, "/", &rest))
        if (p9_name_check(c) < 0)
            return false;
    return true;
}

static bool fid_is_good(const struct saved *v) {
    if (v->id == P9_NOFID || v->kind > P9_XATTR_WRITE || v->lost > 1 || v->open > 1)
        return false;
    if (v->kind != P9_FILE && v->open)
        return false;
    if (v->kind == P9_XATTR_WRITE && strncmp(v->xattr, "user.", 5) != 0)
        return false;
    return (v->flags & O_ACCMODE) != O_ACCMODE && path_is_good(v->path);
}

int p9_server_check(struct record_reader *r, struct err *e) {
    uint32_t msize = rec_get_u32(r), count = rec_get_u32(r), xattrs = 0;
    struct saved v;

    if (r->bad || msize > P9_MSIZE_MAX || (msize && msize < P9_MSIZE_MIN) || count > P9_FIDS_MAX)
        return err_set(e, EINVAL, "9p: session");
    for (uint32_t i = 0; i < count; i++) {
        get_fid(r, &v);
        xattrs += v.kind != P9_FILE;
        if (r->bad || !fid_is_good(&v) || xattrs > P9_XATTRS_MAX)
            return err_set(e, EINVAL, "9p: fid %u of %u", i + 1, count);
    }
    return 0;
}

/* NULL when there are too many names. */
static struct p9_node *node_of(struct p9_server *s, char *path) {
    struct p9_node *n = p9_node_get(p9_tree_root(s->tree)), *next;
    char *rest = NULL;

    for (char *c = strtok_r(path, "/", &rest); c && n; c = strtok_r(NULL, "/", &rest)) {
        next = p9_node_child(s->tree, n, c);
        p9_node_put(s->tree, n);
        n = next;
    }
    return n;
}

static void reopen(struct p9_server *s, struct p9_fid *f, uint32_t wanted) {
    int flags = p9_open_flags(s, wanted & ~(uint32_t)(O_EXCL | O_TRUNC)), fd;

    fd = flags < 0 || !p9_may_open(s) ? -ESTALE : p9_node_open(s->tree, f->node, flags);
    if (fd < 0)
        f->lost = true;
    else
        p9_fid_opened(s, f, fd, flags);
}

static void load_fid(struct p9_server *s, struct saved *v) {
    struct p9_node *n = node_of(s, v->path);
    struct p9_fid *f;
    int ignored;

    f = p9_fid_new(s, v->id, n ? n : p9_node_get(p9_tree_root(s->tree)), v->uid, &ignored);
    if (!f)
        return;
    f->lost = v->lost || !n;
    f->kind = v->kind;
    if (v->open && !f->lost)
        reopen(s, f, v->flags);
    if (f->kind == P9_FILE)
        return;
    s->xattr_count++;
    f->xattr = xstrdup(v->xattr);
    f->xattr_flags = v->xattr_flags;
    f->size = v->size;
    f->done = v->done;
    f->data = xcalloc(1, MAX(f->size, 1u));
    memcpy(f->data, v->data, f->size);
}

void p9_server_load(struct p9_server *s, struct record_reader *r) {
    uint32_t msize, count;
    struct saved v;

    p9_server_reset(s);
    msize = rec_get_u32(r);
    count = rec_get_u32(r);
    for (uint32_t i = 0; i < count; i++) {
        get_fid(r, &v);
        load_fid(s, &v);
    }
    s->msize = msize;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The table of fids, each of them bounded in number and in what it holds. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"
#include "virtio/p9/session.h"

static struct p9_fid **bucket(struct p9_server *s, uint32_t id) {
    return &s->fids[(id * 2654435761u >> 16) % P9_BUCKETS];
}

struct p9_fid *p9_fid_find(const struct p9_server *s, uint32_t id) {
    struct p9_fid *f = s->fids[(id * 2654435761u >> 16) % P9_BUCKETS];

    while (f && f->id != id)
        f = f->next;
    return f;
}

struct p9_fid *p9_fid_new(struct p9_server *s, uint32_t id, struct p9_node *node, uint32_t uid,
                          int *error) {
    struct p9_fid *f, **head = bucket(s, id); /* new ones come last */

    *error = id == P9_NOFID || p9_fid_find(s, id) ? -EBADF
             : s->fid_count == P9_FIDS_MAX        ? -ENFILE
                                                  : 0;
    if (*error) {
        p9_node_put(s->tree, node);
        return NULL;
    }
    f = xcalloc(1, sizeof(*f));
    f->id = id;
    f->node = node;
    f->uid = uid;
    f->fd = -1;
    while (*head)
        head = &(*head)->next;
    *head = f;
    s->fid_count++;
    return f;
}

/* It's in no bucket any more. */
static void fid_free(struct p9_server *s, struct p9_fid *f) {
    if (f->fd >= 0) {
        close(f->fd);
        s->open_count--;
    }
    s->xattr_count -= f->kind != P9_FILE;
    s->fid_count--;
    p9_node_put(s->tree, f->node);
    free(f->xattr);
    free(f->data);
    free(f);
}

int p9_fid_clunk(struct p9_server *s, struct p9_fid *f) {
    int r = f->kind == P9_XATTR_WRITE && !f->lost ? p9_xattr_commit(s, f) : 0;
    struct p9_fid **p = bucket(s, f->id);

    while (*p != f)
        p = &(*p)->next;
    *p = f->next;
    fid_free(s, f);
    return r;
}

/* Attributes that were being written are lost: nobody is there any more who could have said that
 * they are complete. */
void p9_server_reset(struct p9_server *s) {
    for (unsigned i = 0; i < P9_BUCKETS; i++)
        while (s->fids[i]) {
            struct p9_fid *f = s->fids[i];

            s->fids[i] = f->next;
            fid_free(s, f);
        }
    s->msize = 0;
}

void p9_fid_set_node(struct p9_server *s, struct p9_fid *f, struct p9_node *node) {
    p9_node_put(s->tree, f->node);
    f->node = node;
}

int p9_fid_stat(struct p9_server *s, const struct p9_fid *f, struct stat *st) {
    if (f->fd >= 0)
        return fstat(f->fd, st) < 0 ? -errno : 0;
    return p9_node_stat(s->tree, f->node, st);
}

bool p9_may_open(const struct p9_server *s) {
    return s->open_count < s->open_max;
}

void p9_fid_opened(struct p9_server *s, struct p9_fid *f, int fd, int flags) {
    f->fd = fd;
    f->flags = flags;
    s->open_count++;
}

unsigned p9_server_fids(const struct p9_server *s) {
    return s->fid_count;
}

struct p9_qid p9_qid_of(struct p9_server *s, const struct stat *st) {
    return (struct p9_qid){
        .type = S_ISDIR(st->st_mode)   ? 0x80
                : S_ISLNK(st->st_mode) ? 0x02
                                       : 0,
        .version = (uint32_t)st->st_mtim.tv_sec ^ (uint32_t)st->st_mtim.tv_nsec ^
                   (uint32_t)st->st_size << 8,
        .path = p9_tree_ino(s->tree, st->st_dev, st->st_ino),
    };
}

/* 9P2000.L's flags have the values of Linux on x86-64. */
int p9_open_flags(const struct p9_server *s, uint32_t flags) {
    const unsigned meant = O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC | O_DIRECTORY | O_EXCL;

    if ((flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    if (s->options.read_only && (flags & (O_ACCMODE | O_TRUNC)))
        return -EROFS;
    return (int)(flags & meant);
}

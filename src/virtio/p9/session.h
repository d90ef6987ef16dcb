/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the 9P server share: fids, a message under way, and the handlers of messages.
 */
#ifndef RINGFENCE_VIRTIO_P9_SESSION_H
#define RINGFENCE_VIRTIO_P9_SESSION_H

#include <limits.h>

#include "virtio/p9/server.h"
#include "virtio/p9/tree.h"
#include "virtio/p9/wire.h"

#define P9_MSIZE_MAX (512u << 10)
#define P9_MSIZE_MIN 4096u
#define P9_REQUEST_MAX 16384u /* of requests other than writes */
#define P9_ANSWER_MAX 65536u  /* of answers other than reads */
#define P9_BUCKETS 1024
#define P9_IOV_MAX 1024
#define P9_XATTRS_MAX 64 /* fids that hold one, each up to 64 KiB */
#define P9_XATTR_SIZE_MAX 65536u
#define P9_HEADER 7
#define P9_NOFID UINT32_MAX

enum p9_fid_kind { P9_FILE, P9_XATTR_READ, P9_XATTR_WRITE };

struct p9_fid {
    struct p9_fid *next; /* in its bucket */
    uint32_t id;
    uint8_t kind;
    bool lost; /* was not found again after a restore */
    struct p9_node *node;
    uint32_t uid; /* the guest's user that attached */
    int fd;       /* -1: not open */
    int flags;    /* as opened */
    /* Extended attributes: a value (or the list of names) being read or written. */
    char *xattr;
    int xattr_flags;
    uint8_t *data;
    uint32_t size, done;
};

struct p9_server {
    struct p9_tree *tree;
    struct p9_options options;
    uint32_t msize; /* 0: no version agreed on yet */
    struct p9_fid *fids[P9_BUCKETS];
    unsigned fid_count, open_count, xattr_count, open_max;
    struct iovec scratch[P9_IOV_MAX];
    uint8_t request[P9_REQUEST_MAX];
    uint8_t answer[P9_ANSWER_MAX];
};

struct p9_msg {
    struct p9_in in;
    struct p9_out out; /* starts behind the header */
    int error;         /* of a field: no such fid, a bad name */
    bool too_long;
    const struct iovec *out_iov, *in_iov; /* the whole request, the room for the answer */
    unsigned out_count, in_count;
    size_t out_size, in_size;
    size_t direct; /* bytes that were put into in_iov behind `out` */
};

typedef int p9_handler(struct p9_server *s, struct p9_msg *m);

/* Fields with a meaning; what is wrong is kept in the message. */
struct p9_fid *p9_msg_fid(struct p9_server *s, struct p9_msg *m);
void p9_msg_name(struct p9_msg *m, char name[NAME_MAX + 1]);
/* 0 when all fields that were got are good. */
int p9_msg_check(const struct p9_msg *m);

/* fids.c */
struct p9_fid *p9_fid_find(const struct p9_server *s, uint32_t id);
/* Takes over the reference to the node, also when it returns NULL with *error set: the number is
 * taken, or there are too many. */
struct p9_fid *p9_fid_new(struct p9_server *s, uint32_t id, struct p9_node *node, uint32_t uid,
                          int *error);
/* Lets the fid go; what it still has to do may fail. */
int p9_fid_clunk(struct p9_server *s, struct p9_fid *f);
void p9_fid_set_node(struct p9_server *s, struct p9_fid *f, struct p9_node *node);
int p9_fid_stat(struct p9_server *s, const struct p9_fid *f, struct stat *st);
/* Whether one more file may be open. */
bool p9_may_open(const struct p9_server *s);
void p9_fid_opened(struct p9_server *s, struct p9_fid *f, int fd, int flags);

struct p9_qid p9_qid_of(struct p9_server *s, const struct stat *st);
/* Of a guest's flags, those that mean something here; -EINVAL or -EROFS. */
int p9_open_flags(const struct p9_server *s, uint32_t flags);

/* ids.c */
uint32_t p9_uid_to_guest(const struct p9_server *s, uint32_t uid);
uint32_t p9_gid_to_guest(const struct p9_server *s, uint32_t gid);
/* False: the guest's id has no counterpart. */
bool p9_uid_to_host(const struct p9_server *s, uint32_t uid, uint32_t *host);
bool p9_gid_to_host(const struct p9_server *s, uint32_t gid, uint32_t *host);
/*
 * Gives something new (by a descriptor, which may be O_PATH) the owner and mode that the guest
 * asked for, as far as this process may: one that is not root keeps its own files.
 */
int p9_adopt(struct p9_server *s, int fd, uint32_t uid, uint32_t gid, uint32_t mode,
             struct stat *st);
/* What a guest may set: no set-id bits on files, which the host's other users could run. */
uint32_t p9_mode_allowed(uint32_t mode, bool directory);

/* attrs.c */
p9_handler p9_t_getattr, p9_t_setattr, p9_t_statfs, p9_t_readlink;
p9_handler p9_t_xattrwalk, p9_t_xattrcreate;
int p9_xattr_read(struct p9_msg *m, const struct p9_fid *f, uint64_t off, uint32_t count);
int p9_xattr_write(struct p9_server *s, struct p9_msg *m, struct p9_fid *f, uint64_t off,
                   uint32_t count);
int p9_xattr_commit(struct p9_server *s, const struct p9_fid *f);

/* files.c */
p9_handler p9_t_lopen, p9_t_lcreate, p9_t_read, p9_t_write, p9_t_readdir, p9_t_fsync, p9_t_lock,
    p9_t_getlock;

/* names.c */
p9_handler p9_t_attach, p9_t_walk, p9_t_clunk, p9_t_remove, p9_t_mkdir, p9_t_mknod, p9_t_symlink,
    p9_t_link, p9_t_rename, p9_t_renameat, p9_t_unlinkat;

#endif

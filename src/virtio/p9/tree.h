/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host that a guest shares: names below it, and the one way from a name to the
 * host's files. Every path is resolved anew below the folder by the kernel, without following any
 * symbolic link, so that there is no way out whatever guest or host do to the tree meanwhile. What
 * is open keeps its descriptor. One thread. Functions return 0 or -errno, except where they say
 * otherwise.
 */
#ifndef RINGFENCE_VIRTIO_P9_TREE_H
#define RINGFENCE_VIRTIO_P9_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct err;
struct p9_tree;

/* A name in a folder. Renames through the tree move it; once it is removed it is nobody's name. */
struct p9_node {
    struct p9_node *parent; /* NULL: the shared folder itself */
    char *name;
    struct p9_node *next; /* in the table */
    unsigned refs;        /* fids and children */
    bool removed;
};

#define P9_NODES_MAX 131072

/* NULL with the error set. */
struct p9_tree *p9_tree_open(const char *path, struct err *e);
/* All nodes are put. NULL is allowed. */
void p9_tree_close(struct p9_tree *t);

struct p9_node *p9_tree_root(struct p9_tree *t);

/* References; p9_node_child makes one, or NULL when there are too many names. */
struct p9_node *p9_node_get(struct p9_node *n);
void p9_node_put(struct p9_tree *t, struct p9_node *n);
struct p9_node *p9_node_child(struct p9_tree *t, struct p9_node *parent, const char *name);

/* Whether a name from a guest is one component and nothing special: 0, -EINVAL, -ENAMETOOLONG. */
int p9_name_check(const char *name);

/*
 * Where a node is: a directory's descriptor and a name in it that has no slash ("." for the
 * root). To be used without following links.
 */
struct p9_place {
    int dir;
    bool own;
    const char *name; /* valid as long as the node */
};
int p9_place_find(struct p9_tree *t, const struct p9_node *n, struct p9_place *p);
/* A name in the folder that a node is. */
int p9_place_in(struct p9_tree *t, const struct p9_node *folder, const char *name,
                struct p9_place *p);
void p9_place_done(struct p9_place *p);
#define cleanup_place __attribute__((cleanup(p9_place_done)))
#define P9_PLACE_INIT                                                                              \
    { -1, false, NULL }

int p9_node_stat(struct p9_tree *t, const struct p9_node *n, struct stat *st);
/* A regular file or a folder; returns a descriptor or -errno. -ENXIO: something else. */
int p9_node_open(struct p9_tree *t, const struct p9_node *n, int flags);

/* The path below the root, "" for itself; -ENAMETOOLONG, or -ENOENT when it was removed. */
int p9_node_path(const struct p9_node *n, char *path, size_t size);

/* Change the host's tree and what nodes stand for. */
int p9_unlink(struct p9_tree *t, struct p9_node *folder, const char *name, bool directory);
int p9_rename(struct p9_tree *t, struct p9_node *from, const char *name, struct p9_node *to,
              const char *new_name);

/* An inode's number that is unique in the tree, over the host's file systems. */
uint64_t p9_tree_ino(struct p9_tree *t, dev_t dev, ino_t ino);

#endif

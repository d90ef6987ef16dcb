/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names are nodes, which know their parents; a path is put together when it is needed and resolved
 * by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, or component by component where the
 * host has no openat2. Nodes hold no descriptors, so their number is bounded by memory alone.
 */
#include "virtio/p9/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define BUCKETS 4096
#define DEVICES_MAX 255

struct p9_tree {
    int fd; /* O_PATH, of the folder */
    bool has_openat2;
    struct p9_node root;
    struct p9_node *table[BUCKETS];
    unsigned nodes;
    dev_t devices[DEVICES_MAX]; /* seen so far; the first is the folder's */
    unsigned device_count;
};

/* Names */

static unsigned bucket(const struct p9_node *parent, const char *name) {
    uint64_t h = (uint64_t)(uintptr_t)parent;

    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3ull;
    h ^= h >> 29;
    return (unsigned)(h % BUCKETS);
}

static struct p9_node *find(struct p9_tree *t, const struct p9_node *parent, const char *name) {
    struct p9_node *n = t->table[bucket(parent, name)];

    while (n && (n->parent != parent || strcmp(n->name, name) != 0))
        n = n->next;
    return n;
}

static void insert(struct p9_tree *t, struct p9_node *n) {
    struct p9_node **head = &t->table[bucket(n->parent, n->name)];

    n->next = *head;
    *head = n;
}

static void take_out(struct p9_tree *t, struct p9_node *n) {
    struct p9_node **p = &t->table[bucket(n->parent, n->name)];

    while (*p != n)
        p = &(*p)->next;
    *p = n->next;
}

static void mark_removed(struct p9_tree *t, struct p9_node *n) {
    take_out(t, n);
    n->removed = true;
}

struct p9_node *p9_tree_root(struct p9_tree *t) {
    return &t->root;
}

struct p9_node *p9_node_get(struct p9_node *n) {
    n->refs++;
    return n;
}

void p9_node_put(struct p9_tree *t, struct p9_node *n) {
    while (n && --n->refs == 0 && n->parent) {
        struct p9_node *parent = n->parent;

        if (!n->removed)
            take_out(t, n);
        free(n->name);
        free(n);
        t->nodes--;
        n = parent;
    }
}

struct p9_node *p9_node_child(struct p9_tree *t, struct p9_node *parent, const char *name) {
    struct p9_node *n = find(t, parent, name);

    if (n)
        return p9_node_get(n);
    if (t->nodes == P9_NODES_MAX)
        return NULL;
    n = xcalloc(1, sizeof(*n));
    n->parent = p9_node_get(parent);
    n->name = xstrdup(name);
    n->refs = 1;
    t->nodes++;
    insert(t, n);
    return n;
}

int p9_name_check(const char *name) {
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

int p9_node_path(const struct p9_node *n, char *path, size_t size) {
    size_t at = size - 1;

    path[at] = 0;
    for (; n->parent; n = n->parent) {
        size_t len = strlen(n->name);

        if (n->removed)
            return -ENOENT;
        if (len + 1 > at)
            return -ENAMETOOLONG;
        if (path[at])
            path[--at] = '/';
        at -= len;
        memcpy(path + at, n->name, len);
    }
    memmove(path, path + at, size - at);
    return 0;
}

/* Places */

static int beneath(const struct p9_tree *t, const char *path) {
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, t->fd, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* Each component is a plain name, so the only way out would be a link; and those aren't followed.
 */
static int step_by_step(const struct p9_tree *t, char *path) {
    int fd = t->fd;
    char *rest = NULL;

    for (char *c = strtok_r(path, "/", &rest); c; c = strtok_r(NULL, "/", &rest)) {
        int next = openat(fd, c, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = errno;

        if (fd != t->fd)
            close(fd);
        if (next < 0)
            return -error;
        fd = next;
    }
    return fd;
}

static int folder_fd(struct p9_tree *t, const struct p9_node *n, struct p9_place *p) {
    char path[PATH_MAX];
    int r = p9_node_path(n, path, sizeof(path));

    if (r < 0)
        return r;
    r = !*path ? t->fd : t->has_openat2 ? beneath(t, path) : step_by_step(t, path);
    if (r < 0)
        return r == -ELOOP || r == -EXDEV ? -ENOTDIR : r;
    p->dir = r;
    p->own = r != t->fd;
    return 0;
}

int p9_place_in(struct p9_tree *t, const struct p9_node *folder, const char *name,
                struct p9_place *p) {
    p->name = name;
    return folder_fd(t, folder, p);
}

int p9_place_find(struct p9_tree *t, const struct p9_node *n, struct p9_place *p) {
    if (n->removed)
        return -ENOENT;
    return n->parent ? p9_place_in(t, n->parent, n->name, p) : p9_place_in(t, n, ".", p);
}

void p9_place_done(struct p9_place *p) {
    if (p->own)
        close(p->dir);
    p->own = false;
}

/* What nodes stand for */

int p9_node_stat(struct p9_tree *t, const struct p9_node *n, struct stat *st) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    int r = p9_place_find(t, n, &p);

    if (r < 0)
        return r;
    return fstatat(p.dir, p.name, st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static bool can_open(const struct stat *st) {
    return S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
}

/* Looks before and after: opening a device or a FIFO may have effects, and names may change hands.
 */
int p9_node_open(struct p9_tree *t, const struct p9_node *n, int flags) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    struct stat st;
    int r = p9_place_find(t, n, &p);

    if (r < 0)
        return r;
    if (fstatat(p.dir, p.name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode))
        return -ELOOP;
    if (!can_open(&st))
        return -ENXIO;
    r = openat(p.dir, p.name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (r < 0)
        return -errno;
    if (fstat(r, &st) == 0 && can_open(&st))
        return r;
    close(r);
    return -ENXIO;
}

int p9_unlink(struct p9_tree *t, struct p9_node *folder, const char *name, bool directory) {
    cleanup_place struct p9_place p = P9_PLACE_INIT;
    int r = p9_place_in(t, folder, name, &p);
    struct p9_node *n;

    if (r < 0)
        return r;
    if (unlinkat(p.dir, name, directory ? AT_REMOVEDIR : 0) < 0)
        return -errno;
    n = find(t, folder, name);
    if (n)
        mark_removed(t, n);
    return 0;
}

/* Whether `n` is `top` or below it. */
static bool below(const struct p9_node *n, const struct p9_node *top) {
    for (; n; n = n->parent)
        if (n == top)
            return true;
    return false;
}

static void move_node(struct p9_tree *t, struct p9_node *n, struct p9_node *to, const char *name) {
    struct p9_node *old = n->parent;
    char *copy = xstrdup(name);

    take_out(t, n);
    free(n->name);
    n->name = copy;
    n->parent = p9_node_get(to);
    insert(t, n);
    p9_node_put(t, old);
}

static bool same_file(const struct p9_place *a, const struct p9_place *b) {
    struct stat x, y;

    return fstatat(a->dir, a->name, &x, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(b->dir, b->name, &y, AT_SYMLINK_NOFOLLOW) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

int p9_rename(struct p9_tree *t, struct p9_node *from, const char *name, struct p9_node *to,
              const char *new_name) {
    cleanup_place struct p9_place a = P9_PLACE_INIT, b = P9_PLACE_INIT;
    struct p9_node *n = find(t, from, name), *over;
    int r = p9_place_in(t, from, name, &a);

    if (r < 0)
        return r;
    r = p9_place_in(t, to, new_name, &b);
    if (r < 0)
        return r;
    /* The host refuses this too; but it may have seen another tree than our nodes. */
    if (n && below(to, n))
        return -EINVAL;
    /* Two links to one file: rename(2) does nothing. */
    if (same_file(&a, &b))
        return 0;
    if (renameat(a.dir, name, b.dir, new_name) < 0)
        return -errno;
    over = find(t, to, new_name);
    if (over)
        mark_removed(t, over);
    if (n)
        move_node(t, n, to, new_name);
    return 0;
}

/* The first file system's numbers are as they are; others have the upper byte changed. */
uint64_t p9_tree_ino(struct p9_tree *t, dev_t dev, ino_t ino) {
    unsigned i = 0;

    while (i < t->device_count && t->devices[i] != dev)
        i++;
    if (i == t->device_count && i < DEVICES_MAX)
        t->devices[t->device_count++] = dev;
    return (uint64_t)ino ^ (uint64_t)i << 56;
}

/* Opening */

struct p9_tree *p9_tree_open(const char *path, struct err *e) {
    struct p9_tree *t;
    struct stat st;
    int probe, fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    /* Who has opened a path may still not look into it. */
    if (fd < 0 || fstat(fd, &st) < 0 || faccessat(fd, ".", R_OK | X_OK, AT_EACCESS) < 0) {
        err_set(e, errno, "open %s", path);
        cleanup_close_fn(&fd);
        return NULL;
    }
    t = xcalloc(1, sizeof(*t));
    t->fd = fd;
    t->root.refs = 1;
    t->devices[0] = st.st_dev;
    t->device_count = 1;
    probe = beneath(t, ".");
    t->has_openat2 = probe >= 0;
    cleanup_close_fn(&probe);
    return t;
}

void p9_tree_close(struct p9_tree *t) {
    if (!t)
        return;
    close(t->fd);
    free(t);
}

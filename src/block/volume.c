/* SPDX-License-Identifier: Apache-2.0 */
/* Which format a file has, chains of backing volumes, and what all formats have in common. */
#include "block/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"

#define HEAD 512u
#define CHAIN_MAX 64u

const struct volume_format *const volume_formats[] = {
    &volume_raw, &volume_qcow2, &volume_vdi, &volume_vhd, &volume_vmdk, NULL,
};

/* --- formats --- */

const struct volume_format *volume_format_find(const char *name, struct err *e) {
    cleanup_free char *all = xstrdup("");

    for (size_t i = 0; volume_formats[i]; i++) {
        if (strcmp(volume_formats[i]->name, name) == 0)
            return volume_formats[i];
        char *more = xasprintf("%s%s%s", all, *all ? ", " : "", volume_formats[i]->name);
        free(all);
        all = more;
    }
    err_set(e, 0, "format '%s' is none of %s", name, all);
    return NULL;
}

const char *volume_subformat_find(const char *name) {
    for (size_t i = 0; volume_formats[i]; i++)
        for (size_t k = 0; volume_formats[i]->subformats && volume_formats[i]->subformats[k]; k++)
            if (strcmp(volume_formats[i]->subformats[k], name) == 0)
                return volume_formats[i]->subformats[k];
    return NULL;
}

static bool named_as(const char *path, const struct volume_format *f) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');

    for (size_t i = 0; dot && f->suffixes[i]; i++)
        if (strcasecmp(dot + 1, f->suffixes[i]) == 0)
            return true;
    return false;
}

const struct volume_format *volume_looks_like(const char *path, struct err *e) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    uint8_t head[HEAD];
    off_t size;
    ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);

    if (n < 0) {
        err_set(e, errno, "%s: %s", path, fd < 0 ? "open" : "read");
        return NULL;
    }
    for (size_t i = 0; volume_formats[i]; i++)
        if (volume_formats[i]->probe && volume_formats[i]->probe(head, (size_t)n))
            return volume_formats[i];
    size = lseek(fd, 0, SEEK_END);
    n = size < (off_t)HEAD ? 0 : pread(fd, head, sizeof(head), size - (off_t)HEAD);
    for (size_t i = 0; n > 0 && volume_formats[i]; i++)
        if (volume_formats[i]->probe_end && volume_formats[i]->probe_end(head, (size_t)n))
            return volume_formats[i];
    return &volume_raw;
}

const struct volume_format *volume_probe(const char *path, struct err *e) {
    const struct volume_format *f = volume_looks_like(path, e);

    for (size_t i = 0; f == &volume_raw && volume_formats[i]; i++)
        if (volume_formats[i] != f && named_as(path, volume_formats[i])) {
            err_set(e, 0, "%s: not a %s image; give its format (raw) if it is none", path,
                    volume_formats[i]->name);
            return NULL;
        }
    if (!f || f == &volume_raw || named_as(path, f))
        return f;
    err_set(e, 0,
            "%s: the content is that of a %s image, the name is not, and the header may be a "
            "guest's: give its format (%s or raw)",
            path, f->name, f->name);
    return NULL;
}

/* --- chains --- */

char *volume_relative(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');

    if (*name == '/' || !slash)
        return xstrdup(name);
    return xasprintf("%.*s%s", (int)(slash - path + 1), path, name);
}

static bool same_file(const struct hostfile *a, const struct hostfile *b) {
    struct stat x, y;

    return fstat(a->fd, &x) == 0 && fstat(b->fd, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

static struct volume *open_alone(const char *path, const struct volume_options *o, struct err *e) {
    const struct hostfile_options file_options = {o->read_only, o->no_lock};
    const struct volume_format *f = o->format ? o->format : volume_probe(path, e);
    struct hostfile *file = f ? hostfile_open(path, &file_options, e) : NULL;
    struct volume *v = file ? f->open(file, o->for_repair, e) : NULL;

    if (file && !v)
        err_wrap(e, "%s", path);
    return v;
}

/* A format that nobody recorded may be a guest's choice, except for raw, which chooses nothing. */
static const struct volume_format *backing_format(const struct volume *v, const char *path,
                                                  struct err *e) {
    const struct volume_format *f;

    if (v->backing_format)
        return volume_format_find(v->backing_format, e);
    f = volume_looks_like(path, e);
    if (!f || f == &volume_raw)
        return f;
    err_set(e, 0,
            "%s: the image does not record this file's format, which looks like %s; 'rf image "
            "rebase --unsafe --backing %s --backing-format %s IMAGE' records it",
            path, f->name, path, f->name);
    return NULL;
}

static int open_backing(struct volume *top, struct volume *v, bool no_lock, unsigned depth,
                        struct err *e) {
    cleanup_free char *path = volume_relative(v->file->path, v->backing_name);
    const struct volume_options o = {
        .format = backing_format(v, path, e), .read_only = true, .no_lock = true};

    if (!o.format)
        return -1;
    v->backing = open_alone(path, &o, e);
    if (!v->backing)
        return -1;
    for (struct volume *above = top; above != v->backing; above = above->backing)
        if (same_file(above->file, v->backing->file))
            return err_set(e, 0, "%s: the chain of backing files comes back to it", path);
    /* Only now: a chain that is circular would be in use by ourselves. */
    if (!no_lock && hostfile_lock(v->backing->file->fd, path, true, e) < 0)
        return -1;
    if (!v->backing->backing_name)
        return 0;
    if (depth == CHAIN_MAX)
        return err_set(e, 0, "%s: more than %u backing files", path, CHAIN_MAX);
    return open_backing(top, v->backing, no_lock, depth + 1, e);
}

struct volume *volume_open(const char *path, const struct volume_options *o, struct err *e) {
    struct volume *v = open_alone(path, o, e);

    if (!v || !v->backing_name || o->no_backing || open_backing(v, v, o->no_lock, 1, e) == 0)
        return v;
    err_wrap(e, "%s: backing file", path);
    volume_close(v);
    return NULL;
}

/* $TMPDIR, or where larger things go than what fits into memory. */
static struct hostfile *nameless_file(struct err *e) {
    const char *dir = getenv("TMPDIR");
    cleanup_free char *path = xasprintf("%s/rf-disk-XXXXXX", dir && *dir ? dir : "/var/tmp");
    cleanup_close int fd = mkostemp(path, O_CLOEXEC);
    struct hostfile *file;

    if (fd < 0) {
        err_set(e, errno, "%s: create", path);
        return NULL;
    }
    file = hostfile_create(path, true, e);
    unlink(path);
    return file;
}

struct volume *volume_open_throwaway(struct volume *base, struct err *e) {
    const struct volume_create c = {.size = base->size};
    struct hostfile *file = nameless_file(e);
    struct volume *v = NULL;

    if (file && volume_qcow2.create(file, &c, e) < 0)
        hostfile_close(file);
    else if (file)
        v = volume_qcow2.open(file, false, e);
    if (!v) {
        volume_close(base);
        return NULL;
    }
    v->backing = base;
    v->backing_name = xstrdup(base->file->path);
    return v;
}

int volume_close(struct volume *v) {
    struct volume *backing = v ? v->backing : NULL;
    struct hostfile *file = v ? v->file : NULL;
    char *name = v ? v->backing_name : NULL, *format = v ? v->backing_format : NULL;
    int r;

    if (!v)
        return 0;
    r = v->ops->close(v);
    free(name);
    free(format);
    hostfile_close(file);
    volume_close(backing);
    return r;
}

/* --- making --- */

/* The backing volume must be there, and its size is the default. */
static int take_backing(const char *path, struct volume_create *c, struct err *e) {
    cleanup_free char *at = volume_relative(path, c->backing);
    struct volume_options o = {.read_only = true};
    struct volume *v;

    if (!c->backing_format)
        return err_set(e, 0, "backing file %s: its format must be given", c->backing);
    o.format = volume_format_find(c->backing_format, e);
    v = o.format ? volume_open(at, &o, e) : NULL;
    if (!v)
        return err_wrap(e, "backing file");
    if (!c->size)
        c->size = v->size;
    volume_close(v);
    return 0;
}

int volume_create_plain(const struct hostfile *file, const struct volume_create *c,
                        const struct volume_format *f, struct err *e) {
    if (file->is_device)
        return err_set(e, 0, "a %s image is a file, no device", f->name);
    if (c->backing)
        return err_set(e, 0, "a %s image with a backing file cannot be made", f->name);
    if (c->version || c->cluster || c->refcount_bits || c->lazy_refcounts || c->extended_l2 ||
        c->zstd)
        return err_set(e, 0, "a %s image has no option but subformat", f->name);
    return 0;
}

static int judge_subformat(const struct volume_format *f, const char *name, struct err *e) {
    cleanup_free char *all = xstrdup("");

    if (!name)
        return 0;
    if (!f->subformats)
        return err_set(e, 0, "a %s image has no subformats", f->name);
    for (size_t i = 0; f->subformats[i]; i++) {
        if (strcmp(f->subformats[i], name) == 0)
            return 0;
        char *more = xasprintf("%s%s%s", all, *all ? ", " : "", f->subformats[i]);
        free(all);
        all = more;
    }
    return err_set(e, 0, "subformat '%s' is none of %s", name, all);
}

int volume_create(const char *path, const struct volume_format *f, const struct volume_create *c,
                  struct err *e) {
    struct volume_create with = *c;
    struct hostfile *file;
    int r;

    if (c->backing && take_backing(path, &with, e) < 0)
        return -1;
    if (!with.size || with.size % 512)
        return err_set(e, 0, "%s: the size is not a multiple of 512 bytes above 0", path);
    if (judge_subformat(f, c->subformat, e) < 0)
        return err_wrap(e, "%s", path);
    file = hostfile_create(path, c->force, e);
    if (!file)
        return -1;
    r = f->create(file, &with, e);
    if (r < 0) {
        err_wrap(e, "%s", path);
        if (!file->is_device)
            unlink(path);
    }
    hostfile_close(file);
    return r;
}

/* --- reading and writing --- */

int volume_read(struct volume *v, uint64_t off, void *buf, uint64_t len) {
    return v->ops->readv(v, off, SPAN(buf, len), len);
}

int volume_write(struct volume *v, uint64_t off, const void *buf, uint64_t len) {
    struct iovec iov = {.iov_len = len};

    memcpy(&iov.iov_base, &buf, sizeof(buf));
    return v->ops->writev(v, off, (struct span){&iov, 1, 0}, len);
}

int volume_readv_padded(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    uint64_t there = v && off < v->size ? MIN(len, v->size - off) : 0;

    iov_fill(s.iov, s.count, s.skip + there, 0, len - there);
    return there ? v->ops->readv(v, off, s, there) : 0;
}

int volume_chain_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x,
                        unsigned *depth) {
    unsigned n = 0;

    for (;; v = v->backing, n++) {
        int r = v->ops->extent(v, off, len, x);

        if (r < 0)
            return r;
        if (depth)
            *depth = n;
        if (x->kind != VOLUME_ABSENT)
            return 0;
        if (!v->backing || off >= v->backing->size) {
            x->kind = VOLUME_ZERO;
            return 0;
        }
        len = MIN(x->len, v->backing->size - off);
    }
}

void volume_snapshots_free(struct volume_snapshot *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free(list[i].id);
        free(list[i].name);
    }
    free(list);
}

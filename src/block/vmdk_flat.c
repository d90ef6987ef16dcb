/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMDK disks whose data is in raw files that a descriptor names. Of an image, no file is opened
 * that is not beside it.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/util.h"
#include "block/vmdk.h"

#define EXTENTS_MAX 1024u
#define PART_BYTES (2047ull << 20) /* of twoGbMaxExtentFlat's files */

struct part {
    struct hostfile *file; /* NULL: zeroes */
    uint64_t start, len, offset;
};

struct flat {
    struct volume v;
    struct part *parts;
    unsigned count;
    char *type;
};

static struct flat *of_volume(struct volume *v) {
    return (struct flat *)(void *)v;
}

/* --- reading and writing --- */

/* The part that `off` is in, and how far, `*len` at most. */
static const struct part *find(const struct flat *f, uint64_t off, uint64_t *len) {
    const struct part *p = f->parts;

    while (off >= p->start + p->len)
        p++;
    *len = MIN(*len, p->start + p->len - off);
    return p;
}

static int flat_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        n = len - done;
        const struct part *p = find(of_volume(v), off + done, &n);
        struct span to = span_from(s, done);

        if (p->file)
            r = hostfile_readv(p->file, p->offset + off + done - p->start, to, n);
        else
            iov_fill(to.iov, to.count, to.skip, 0, n);
    }
    return r;
}

static int flat_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        n = len - done;
        const struct part *p = find(of_volume(v), off + done, &n);

        r = !p->file ? -EROFS
                     : hostfile_writev(p->file, p->offset + off + done - p->start,
                                       span_from(s, done), n);
    }
    return r;
}

static int flat_flush(struct volume *v) {
    const struct flat *f = of_volume(v);
    int r = 0;

    for (unsigned i = 0; i < f->count && r == 0; i++)
        r = f->parts[i].file ? hostfile_sync(f->parts[i].file) : 0;
    return r;
}

static int flat_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        n = len - done;
        const struct part *p = find(of_volume(v), off + done, &n);

        if (p->file)
            r = hostfile_zero(p->file, p->offset + off + done - p->start, n, unmap);
    }
    return r;
}

static int flat_discard(struct volume *v, uint64_t off, uint64_t len) {
    return flat_zero(v, off, len, true);
}

static int flat_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    const struct part *p = find(of_volume(v), off, &len);
    uint64_t at = p->offset + off - p->start, until = at + len;
    bool hole = !p->file || hostfile_hole(p->file, at, at + len, &until);

    /* It has no place in the volume's own file. */
    *x = (struct volume_extent){.kind = hole ? VOLUME_ZERO : VOLUME_DATA, .len = until - at};
    return 0;
}

static void flat_describe(const struct volume *v, struct json_t *o) {
    const struct flat *f = (const struct flat *)(const void *)v;

    json_object_set_new(
        o, "vmdk",
        json_pack("{s:s, s:i}", "subformat", f->type ? f->type : "flat", "extents", (int)f->count));
}

static void flat_remove_others(const struct volume *v) {
    const struct flat *f = (const struct flat *)(const void *)v;

    for (unsigned i = 0; i < f->count; i++)
        if (f->parts[i].file)
            unlink(f->parts[i].file->path);
}

static int flat_close(struct volume *v) {
    struct flat *f = of_volume(v);

    for (unsigned i = 0; i < f->count; i++)
        hostfile_close(f->parts[i].file);
    free(f->parts);
    free(f->type);
    free(f);
    return 0;
}

static const struct volume_ops ops = {
    .readv = flat_readv,
    .writev = flat_writev,
    .flush = flat_flush,
    .zero = flat_zero,
    .discard = flat_discard,
    .extent = flat_extent,
    .describe = flat_describe,
    .remove_others = flat_remove_others,
    .close = flat_close,
};

/* --- opening --- */

static int open_part(const struct flat *f, const struct vmdk_extent *x, struct part *p,
                     struct err *e) {
    const struct hostfile_options o = {f->v.file->read_only, f->v.file->no_lock};
    cleanup_free char *path = NULL;
    uint64_t size;
    int r;

    if (strcmp(x->type, "ZERO") == 0)
        return 0;
    if (strcmp(x->type, "FLAT") != 0 && strcmp(x->type, "VMFS") != 0)
        return err_set(e, 0, "extents of type %s are not supported", x->type);
    if (strcmp(x->access, "RW") != 0 && !f->v.read_only)
        return err_set(e, 0, "%s: the extent is %s; the image can be read only", x->name,
                       x->access);
    if (strchr(x->name, '/') || strcmp(x->name, ".") == 0 || strcmp(x->name, "..") == 0)
        return err_set(e, 0, "the extent '%s' is in another folder", x->name);
    path = volume_relative(f->v.file->path, x->name);
    p->file = hostfile_open(path, &o, e);
    if (!p->file)
        return -1;
    r = hostfile_size(p->file, &size);
    if (r < 0)
        return err_set(e, -r, "%s: size", path);
    if (x->offset > size / VMDK_SECTOR || !range_within(p->offset, p->len, size))
        return err_set(e, 0, "%s: the file ends before the extent does", path);
    return 0;
}

static int open_parts(struct flat *f, const char *text, struct err *e) {
    struct vmdk_extent x;
    int r;

    while ((r = vmdk_next_extent(&text, &x, e)) == 1) {
        struct part *p = &f->parts[f->count];

        if (f->count == EXTENTS_MAX)
            return err_set(e, 0, "more than %u extents", EXTENTS_MAX);
        if (!x.sectors || x.sectors > (uint64_t)INT64_MAX / 2 / VMDK_SECTOR ||
            x.sectors * VMDK_SECTOR > INT64_MAX / 2 - f->v.size)
            return err_set(e, 0, "an extent of %" PRIu64 " sectors", x.sectors);
        *p = (struct part){.start = f->v.size, .len = x.sectors * VMDK_SECTOR};
        p->offset = x.offset > INT64_MAX / VMDK_SECTOR ? INT64_MAX : x.offset * VMDK_SECTOR;
        f->count++;
        f->v.size += p->len;
        if (open_part(f, &x, p, e) < 0)
            return -1;
    }
    if (r == 0 && !f->count)
        return err_set(e, 0, "the descriptor has no extents");
    return r;
}

struct volume *vmdk_flat_open(struct hostfile *file, const char *text, struct err *e) {
    struct flat *f = xcalloc(1, sizeof(*f));

    f->v = (struct volume){
        .ops = &ops, .format = &volume_vmdk, .file = file, .read_only = file->read_only};
    f->parts = xcalloc(EXTENTS_MAX, sizeof(*f->parts));
    f->type = vmdk_value(text, "createType");
    if (open_parts(f, text, e) == 0)
        return &f->v;
    volume_close(&f->v);
    return NULL;
}

/* --- making --- */

struct making {
    const char *path, *stem; /* of the image, without its suffix */
    int stem_len;
    bool one; /* file for all */
    uint64_t size;
};

static char *part_name(const struct making *m, unsigned i) {
    return m->one ? xasprintf("%.*s-flat.vmdk", m->stem_len, m->stem)
                  : xasprintf("%.*s-f%03u.vmdk", m->stem_len, m->stem, i + 1);
}

static uint64_t part_bytes(const struct making *m, unsigned i) {
    return m->one ? m->size : MIN(PART_BYTES, m->size - i * PART_BYTES);
}

static unsigned part_count(const struct making *m) {
    return m->one ? 1 : (unsigned)((m->size + PART_BYTES - 1) / PART_BYTES);
}

static int make_part(const struct making *m, unsigned i, bool force, char **lines, struct err *e) {
    cleanup_free char *name = part_name(m, i), *path = volume_relative(m->path, name);
    struct hostfile *file = hostfile_create(path, force, e);
    char *more;
    int r;

    if (!file)
        return -1;
    r = hostfile_truncate(file, part_bytes(m, i));
    hostfile_close(file);
    more =
        xasprintf("%sRW %" PRIu64 " FLAT \"%s\" 0\n", *lines, part_bytes(m, i) / VMDK_SECTOR, name);
    free(*lines);
    *lines = more;
    if (r == 0)
        return 0;
    unlink(path);
    return err_set(e, -r, "%s", path);
}

static void remove_parts(const struct making *m, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        cleanup_free char *name = part_name(m, i), *path = volume_relative(m->path, name);

        unlink(path);
    }
}

int vmdk_flat_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    const char *name = vmdk_name(file, c), *dot = strrchr(name, '.');
    const struct making m = {file->path, name, dot ? (int)(dot - name) : (int)strlen(name),
                             strcmp(c->subformat, "monolithicFlat") == 0, c->size};
    cleanup_free char *lines = xstrdup(""), *text = NULL;
    unsigned made = 0;
    int r;

    while (made < part_count(&m) &&
           make_part(&m, made, c->force && !c->keep_others, &lines, e) == 0)
        made++;
    if (made == part_count(&m))
        text = vmdk_text(c->subformat, lines, c->size, e);
    if (text) {
        r = hostfile_write(file, 0, text, strlen(text));
        if (r == 0)
            r = hostfile_sync(file);
        if (r == 0)
            return 0;
        err_set(e, -r, "write");
    }
    remove_parts(&m, made);
    return -1;
}

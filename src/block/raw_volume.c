/* SPDX-License-Identifier: Apache-2.0 */
/* Raw files and devices as volumes. (A guest's raw disk goes through raw.c, which needs no
 * threads.) */
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "block/volume.h"

static int raw_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    return hostfile_readv(v->file, off, s, len);
}

static int raw_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    return hostfile_writev(v->file, off, s, len);
}

static int raw_flush(struct volume *v) {
    return hostfile_sync(v->file);
}

static int raw_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    return hostfile_zero(v->file, off, len, unmap);
}

static int raw_discard(struct volume *v, uint64_t off, uint64_t len) {
    return hostfile_discard(v->file, off, len);
}

static int raw_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    uint64_t until;
    bool hole = hostfile_hole(v->file, off, off + len, &until);

    *x = (struct volume_extent){hole ? VOLUME_ZERO : VOLUME_DATA, until - off, !hole, off};
    return 0;
}

static int raw_resize(struct volume *v, uint64_t size, struct err *e) {
    int r = v->file->is_device ? -EINVAL : hostfile_truncate(v->file, size);

    if (r < 0)
        return err_set(e, -r, "resize");
    v->size = size;
    return 0;
}

static int raw_close(struct volume *v) {
    free(v);
    return 0;
}

static const struct volume_ops ops = {
    .readv = raw_readv,
    .writev = raw_writev,
    .flush = raw_flush,
    .zero = raw_zero,
    .discard = raw_discard,
    .extent = raw_extent,
    .resize = raw_resize,
    .close = raw_close,
};

static struct volume *raw_open(struct hostfile *file, bool for_repair, struct err *e) {
    struct volume *v = xcalloc(1, sizeof(*v));
    int r = hostfile_size(file, &v->size);

    (void)for_repair;
    v->ops = &ops;
    v->format = &volume_raw;
    v->file = file;
    v->read_only = file->read_only;
    v->size = align_up(v->size, 512);
    if (r == 0 && v->size)
        return v;
    if (r < 0)
        err_set(e, -r, "size");
    else
        err_set(e, 0, "the disk is empty");
    volume_close(v);
    return NULL;
}

static int raw_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    uint64_t there = 0;
    int r;

    if (c->backing)
        return err_set(e, 0, "a raw disk has no backing file");
    if (!file->is_device) {
        r = hostfile_truncate(file, c->size);
        return r < 0 ? err_set(e, -r, "size") : 0;
    }
    r = hostfile_size(file, &there);
    if (r < 0)
        return err_set(e, -r, "size");
    return there < c->size
               ? err_set(e, 0, "the device has %llu bytes only", (unsigned long long)there)
               : 0;
}

static int raw_measure(const struct volume_create *c, uint64_t data, uint64_t *required,
                       uint64_t *full, struct err *e) {
    (void)data;
    (void)e;
    *required = *full = c->size;
    return 0;
}

static const char *const suffixes[] = {"raw", "img", NULL};

const struct volume_format volume_raw = {
    .name = "raw",
    .suffixes = suffixes,
    .open = raw_open,
    .create = raw_create,
    .measure = raw_measure,
};

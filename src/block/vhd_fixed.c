/* SPDX-License-Identifier: Apache-2.0 */
/* VHD images of fixed size: a raw disk, with a footer behind it that is not written again. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "block/vhd.h"

static int fixed_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    return hostfile_readv(v->file, off, s, len);
}

static int fixed_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    return hostfile_writev(v->file, off, s, len);
}

static int fixed_flush(struct volume *v) {
    return hostfile_sync(v->file);
}

static int fixed_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    return hostfile_zero(v->file, off, len, unmap);
}

static int fixed_discard(struct volume *v, uint64_t off, uint64_t len) {
    return hostfile_discard(v->file, off, len);
}

static int fixed_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x) {
    uint64_t until;
    bool hole = hostfile_hole(v->file, off, off + len, &until);

    *x = (struct volume_extent){hole ? VOLUME_ZERO : VOLUME_DATA, until - off, !hole, off};
    return 0;
}

static void fixed_describe(const struct volume *v, struct json_t *o) {
    json_object_set_new(o, v->format->name, json_pack("{s:s}", "subformat", "fixed"));
}

static int fixed_close(struct volume *v) {
    free(v);
    return 0;
}

static const struct volume_ops ops = {
    .readv = fixed_readv,
    .writev = fixed_writev,
    .flush = fixed_flush,
    .zero = fixed_zero,
    .discard = fixed_discard,
    .extent = fixed_extent,
    .describe = fixed_describe,
    .close = fixed_close,
};

struct volume *vhd_fixed_open(struct hostfile *file, uint64_t size, uint64_t file_size,
                              struct err *e) {
    struct volume *v = xcalloc(1, sizeof(*v));

    v->ops = &ops;
    v->format = &volume_vhd;
    v->file = file;
    v->read_only = file->read_only;
    v->size = size;
    if (size && size % 512 == 0 && range_within(size, VHD_FOOTER, file_size))
        return v;
    err_set(e, 0, "a disk of %" PRIu64 " bytes in a file of %" PRIu64, size, file_size);
    volume_close(v);
    return NULL;
}

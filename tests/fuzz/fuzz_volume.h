/* SPDX-License-Identifier: Apache-2.0 */
/* What fuzz targets of disk formats share: opening, looking around, writing, checking, repairing.
 * Nothing that is named as a backing file is opened. */
#ifndef RINGFENCE_TESTS_FUZZ_VOLUME_H
#define RINGFENCE_TESTS_FUZZ_VOLUME_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/volume.h"

#define FUZZ_FILE_MAX (1u << 20)

static struct volume *fuzz_open(const struct volume_format *format, const uint8_t *data,
                                size_t size, bool read_only, bool for_repair) {
    struct hostfile *f = xcalloc(1, sizeof(*f));

    *f = (struct hostfile){.fd = memfd_create("volume", MFD_CLOEXEC),
                           .path = xstrdup("fuzz"),
                           .read_only = read_only,
                           .can_punch = true,
                           .can_zero = true};
    if (f->fd < 0 || write(f->fd, data, size) != (ssize_t)size)
        abort();
    return format->open(f, for_repair, NULL);
}

static void fuzz_look_around(struct volume *v) {
    struct volume_extent x;
    uint8_t buf[4096];
    uint64_t off = 0;

    for (unsigned i = 0; i < 64 && off < v->size; i++, off += x.len) {
        if (v->ops->extent(v, off, v->size - off, &x) < 0 || !x.len)
            break;
        volume_read(v, off, buf, MIN((uint64_t)sizeof(buf), v->size - off));
    }
}

static void fuzz_change(struct volume *v) {
    uint64_t step = align_up(v->size / 8 + 1, 512);
    uint8_t buf[512] = {1};

    for (uint64_t off = 0; off < v->size; off += step) {
        volume_write(v, off, buf, sizeof(buf));
        v->ops->discard(v, off, 512);
        v->ops->zero(v, off, MIN((uint64_t)65536, v->size - off), off & 512);
    }
    v->ops->flush(v);
    if (v->ops->resize)
        v->ops->resize(v, v->size + (16u << 20), NULL);
    volume_write(v, 0, buf, sizeof(buf));
}

static int fuzz_volume(const struct volume_format *format, const uint8_t *data, size_t size) {
    struct volume_check c = {0};

    log_set_level(LOG_ERROR);
    for (unsigned way = 0; way < 3; way++) {
        struct volume *v = fuzz_open(format, data, size, way == 0, way == 2);

        if (!v)
            continue;
        if (way == 0)
            fuzz_look_around(v);
        else if (way == 1)
            fuzz_change(v);
        else if (v->ops->check)
            v->ops->check(v, VOLUME_REPAIR_ALL, &c, NULL);
        volume_close(v);
    }
    return 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 metadata: opening, looking around, writing, snapshots, checking and repairing. Nothing that
 * is named as a backing file is opened. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/volume.h"

#define FILE_MAX (1u << 20)

static struct volume *open_copy(const uint8_t *data, size_t size, bool read_only, bool for_repair) {
    struct hostfile *f = xcalloc(1, sizeof(*f));

    *f = (struct hostfile){.fd = memfd_create("qcow2", MFD_CLOEXEC),
                           .path = xstrdup("fuzz"),
                           .read_only = read_only,
                           .can_punch = true,
                           .can_zero = true};
    if (f->fd < 0 || write(f->fd, data, size) != (ssize_t)size)
        abort();
    return volume_qcow2.open(f, for_repair, NULL);
}

static void look_around(struct volume *v) {
    struct volume_snapshot *list = NULL;
    struct volume_extent x;
    uint8_t buf[4096];
    size_t count = 0;
    uint64_t off = 0;

    for (unsigned i = 0; i < 64 && off < v->size; i++, off += x.len) {
        uint64_t len = MIN((uint64_t)sizeof(buf), v->size - off);

        if (v->ops->extent(v, off, v->size - off, &x) < 0 || !x.len)
            break;
        volume_read(v, off, buf, len);
    }
    if (v->ops->snapshots->list(v, &list, &count, NULL) == 0)
        volume_snapshots_free(list, count);
}

static void change(struct volume *v) {
    uint8_t buf[512] = {1};

    for (uint64_t off = 0, i = 0; off < v->size && i < 8; i++, off += v->size / 8 & ~511ull) {
        volume_write(v, off, buf, sizeof(buf));
        v->ops->discard(v, off, 512);
        v->ops->zero(v, off, MIN(2ull * v->cluster, v->size - off), i & 1);
        if (!(v->size / 8 & ~511ull))
            break;
    }
    v->ops->flush(v);
    v->ops->snapshots->create(v, "x", NULL);
    volume_write(v, 0, buf, sizeof(buf));
    v->ops->snapshots->apply(v, "x", NULL);
    v->ops->snapshots->remove(v, "1", NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct volume_check c = {0};
    struct volume *v;

    log_set_level(LOG_ERROR);
    if (size > FILE_MAX)
        return 0;
    v = open_copy(data, size, true, false);
    if (v) {
        look_around(v);
        v->ops->check(v, VOLUME_REPAIR_NONE, &c, NULL);
        volume_close(v);
    }
    v = open_copy(data, size, false, false);
    if (v) {
        change(v);
        volume_close(v);
    }
    v = open_copy(data, size, false, true);
    if (v) {
        v->ops->check(v, VOLUME_REPAIR_ALL, &c, NULL);
        volume_close(v);
    }
    return 0;
}

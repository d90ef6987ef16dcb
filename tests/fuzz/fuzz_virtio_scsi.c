/* SPDX-License-Identifier: Apache-2.0 */
/* A disk and a CD drive in memory, whose commands a guest makes up. */
#include <errno.h>

#include "base/iov.h"
#include "block/block.h"
#include "fuzz_virtio.h"
#include "virtio/scsi.h"

#define DISK_BYTES (256u << 10)

static uint8_t disk[DISK_BYTES];

static void submit(struct block *b, struct block_req *r) {
    (void)b;
    if (r->op == BLOCK_READ)
        iov_write(r->iov, r->iov_count, 0, disk + r->off, r->len);
    if (r->op == BLOCK_WRITE && iov_read(r->iov, r->iov_count, 0, disk + r->off, r->len) < r->len)
        abort();
    r->done(r, 0);
}

static const struct block_ops ops = {.name = "ram", .submit = submit};

static struct virtio_device *make(struct mem *m, struct loop *l) {
    static struct block blocks[2];
    const struct virtio_scsi_target targets[2] = {{&blocks[0], false, "SERIAL"},
                                                  {&blocks[1], true, NULL}};

    for (int i = 0; i < 2; i++)
        blocks[i] = (struct block){.ops = &ops,
                                   .loop = l,
                                   .info = {.size = DISK_BYTES,
                                            .logical_block = 512,
                                            .physical_block = 4096,
                                            .discard_align = 512,
                                            .read_only = i}};
    return virtio_scsi_new(m, targets, 2, l, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The block device, on a disk in memory that answers in place. */
#include <errno.h>

#include "base/iov.h"
#include "block/block.h"
#include "fuzz_virtio.h"
#include "virtio/blk.h"

#define DISK_BYTES 65536u

struct ram_disk {
    struct block b;
    uint8_t bytes[DISK_BYTES];
};

static void submit(struct block *b, struct block_req *r) {
    struct ram_disk *d = container_of(b, struct ram_disk, b);

    /* block_submit has checked the range. */
    switch (r->op) {
    case BLOCK_READ:
        iov_write(r->iov, r->iov_count, 0, d->bytes + r->off, r->len);
        break;
    case BLOCK_WRITE:
        iov_read(r->iov, r->iov_count, 0, d->bytes + r->off, r->len);
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        memset(d->bytes + r->off, 0, r->len);
        break;
    case BLOCK_FLUSH:
        break;
    }
    r->done(r, r->off == 512 ? -EIO : 0);
}

static const struct block_ops ops = {.name = "ram", .submit = submit};

static struct ram_disk disk = {
    .b = {.ops = &ops,
          .info = {.size = DISK_BYTES,
                   .logical_block = 512,
                   .physical_block = 4096,
                   .discard_align = 512,
                   .write_cache = true}},
};

static struct virtio_device *make(struct mem *m, struct loop *l) {
    disk.b.loop = l;
    return virtio_blk_new(m, &disk.b, 2, "serial", NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}

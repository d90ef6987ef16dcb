/* SPDX-License-Identifier: Apache-2.0 */
/* The block device. See blk.c. */
#ifndef RINGFENCE_VIRTIO_BLK_H
#define RINGFENCE_VIRTIO_BLK_H

struct block;
struct err;
struct mem;
struct virtio_device;

#define VIRTIO_BLK_SERIAL 20

/*
 * A disk with `queues` request queues on the back end's loop, which must not be the machine's.
 * `serial` is what the guest calls it (up to VIRTIO_BLK_SERIAL characters); NULL: nothing. The back
 * end is not owned. NULL with the error set.
 */
struct virtio_device *virtio_blk_new(struct mem *m, struct block *b, unsigned queues,
                                     const char *serial, struct err *e);

#endif

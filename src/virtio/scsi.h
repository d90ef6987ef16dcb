/* SPDX-License-Identifier: Apache-2.0 */
/* A SCSI host with disks and CD drives (virtio 1.2, section 5.6). See scsi.c. */
#ifndef RINGFENCE_VIRTIO_SCSI_H
#define RINGFENCE_VIRTIO_SCSI_H

#include <stdbool.h>

struct block;
struct err;
struct loop;
struct mem;
struct virtio_device;

#define VIRTIO_SCSI_TARGETS_MAX 64

struct virtio_scsi_target {
    struct block *block; /* on the device's loop; outlives the device */
    bool cdrom;
    const char *serial; /* up to 20 characters, or NULL */
};

/* Targets 0 to count - 1, each with one logical unit. `l` is a worker's loop. */
struct virtio_device *virtio_scsi_new(struct mem *m, const struct virtio_scsi_target *targets,
                                      unsigned count, struct loop *l, struct err *e);

#endif

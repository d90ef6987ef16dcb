/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets between a guest and its host (virtio 1.2, section 5.10). See vsock.c. */
#ifndef RINGFENCE_VIRTIO_VSOCK_H
#define RINGFENCE_VIRTIO_VSOCK_H

#include <stdint.h>

struct err;
struct loop;
struct mem;
struct virtio_device;

#define VSOCK_CID_MIN 3u /* 0 to 2 are special; 2 is the host */
#define VSOCK_CID_MAX 0xfffffffeu

/*
 * Listens on the Unix socket `path` for the host's programs that want to reach the guest, and
 * connects to `path`_PORT when the guest wants to reach the host. NULL with the error set when that
 * name is taken or too long.
 */
struct virtio_device *virtio_vsock_new(struct mem *m, uint64_t cid, const char *path,
                                       struct loop *l, struct err *e);

#endif

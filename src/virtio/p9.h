/* SPDX-License-Identifier: Apache-2.0 */
/* A shared folder as a virtio device (virtio 1.2 reserves type 9 for it). See p9.c. */
#ifndef RINGFENCE_VIRTIO_P9_H
#define RINGFENCE_VIRTIO_P9_H

struct err;
struct loop;
struct mem;
struct p9_server;
struct virtio_device;

#define VIRTIO_P9_TAG_MAX 254

/*
 * `tag` is what the guest mounts: "mount -t 9p TAG /mnt". Owns the server from then on, also when
 * it fails. `l` is a worker's loop: the host's file system may let it wait.
 */
struct virtio_device *virtio_p9_new(struct mem *m, struct p9_server *server, const char *tag,
                                    struct loop *l, struct err *e);

#endif

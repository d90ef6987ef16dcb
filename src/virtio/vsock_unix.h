/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a guest's sockets: Unix sockets, as Firecracker and Cloud Hypervisor name
 * them.
 */
#ifndef RINGFENCE_VIRTIO_VSOCK_UNIX_H
#define RINGFENCE_VIRTIO_VSOCK_UNIX_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Listens on `path`. Negative with the error set. */
int vsock_unix_listen(const char *path, struct err *e);
/* Connects to `path`_`port`, without waiting; a descriptor or -errno. */
int vsock_unix_connect(const char *path, uint32_t port);

/* The line "CONNECT PORT\n", as it comes in. */
struct vsock_hello {
    char line[20];
    unsigned len;
};
/* Takes from `fd` up to the end of the line, and nothing beyond it. 1 when it is there, 0 when more
 * has to come, -errno when it is none. */
int vsock_hello_read(struct vsock_hello *h, int fd, uint32_t *port);

#endif

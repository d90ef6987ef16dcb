/* SPDX-License-Identifier: Apache-2.0 */
/* A console and further named ports (virtio 1.2, section 5.3). See console.c. */
#ifndef RINGFENCE_VIRTIO_CONSOLE_H
#define RINGFENCE_VIRTIO_CONSOLE_H

struct chardev;
struct err;
struct loop;
struct mem;
struct virtio_device;

#define VIRTIO_CONSOLE_PORTS_MAX 31
#define VIRTIO_CONSOLE_NAME_MAX 64

struct virtio_console_port {
    struct chardev *chr; /* NULL: not connected */
    const char *name;    /* of /dev/virtio-ports/NAME; NULL: a console (hvc0, …) */
};

/*
 * Port 0 is for drivers without VIRTIO_CONSOLE_F_MULTIPORT, too. Streams outlive the device; `l` is
 * the loop that they run on.
 */
struct virtio_device *virtio_console_new(struct mem *m, const struct virtio_console_port *ports,
                                         unsigned count, struct loop *l, struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The entropy device. See rng.c. */
#ifndef RINGFENCE_VIRTIO_RNG_H
#define RINGFENCE_VIRTIO_RNG_H

struct err;
struct loop;
struct mem;
struct virtio_device;

/* NULL with the error set. */
struct virtio_device *virtio_rng_new(struct mem *m, struct loop *l, struct err *e);

#endif

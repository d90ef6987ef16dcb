/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio over MMIO (virtio 1.2, section 4.2). See mmio.c. */
#ifndef RINGFENCE_VIRTIO_MMIO_H
#define RINGFENCE_VIRTIO_MMIO_H

#include <stdint.h>

#include "dev/irq.h"

struct err;
struct loop;
struct mem;
struct virtio_device;
struct virtio_mmio;

#define VIRTIO_MMIO_SIZE 0x200

/*
 * The device's registers at `base`; owns the device from then on, also when it fails. The first
 * member is a struct device, for the machine's list. `irq` is driven under the I/O lock, on
 * `loop`'s thread for other threads. NULL with the error set when the addresses are taken.
 */
struct virtio_mmio *virtio_mmio_new(struct mem *m, uint64_t base, struct irq_line irq,
                                    struct loop *loop, struct virtio_device *d, struct err *e);

#endif

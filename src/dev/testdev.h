/* SPDX-License-Identifier: Apache-2.0 */
/* The device that kvm-unit-tests drives. See testdev.c. */
#ifndef RINGFENCE_DEV_TESTDEV_H
#define RINGFENCE_DEV_TESTDEV_H

#include "dev/irq.h"

struct err;
struct mem;
struct testdev;

/*
 * `gsi` is called with the line (0 to 23) that a guest raises or lowers; its own `pin` is ignored.
 * Only for machines that run tests. NULL with the error set when an address is taken.
 */
struct testdev *testdev_new(struct mem *m, struct irq_line gsi, struct err *e);

#endif

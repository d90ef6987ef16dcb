/* SPDX-License-Identifier: Apache-2.0 */
/* The keyboard controller and system control port A (0x92). See i8042.c. */
#ifndef RINGFENCE_DEV_I8042_H
#define RINGFENCE_DEV_I8042_H

#include <stdbool.h>

#include "dev/irq.h"

struct err;
struct i8042;
struct mem;

struct i8042_config {
    struct irq_line irq1, irq12;
    void (*reset)(void *arg); /* on a vCPU's thread under the I/O lock; may not block */
    void *arg;
};

/* Ports 0x60, 0x64 and 0x92. NULL with the error set when one is taken. */
struct i8042 *i8042_new(struct mem *m, const struct i8042_config *config, struct err *e);

/* The A20 gate as the guest set it. It gates nothing: address line 20 is always enabled. */
bool i8042_a20(const struct i8042 *k);

#endif

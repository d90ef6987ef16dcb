/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254 interval timer and the PC's port B (0x61). See pit8254.c. */
#ifndef RINGFENCE_DEV_PIT8254_H
#define RINGFENCE_DEV_PIT8254_H

#include "dev/irq.h"

struct clock;
struct err;
struct mem;
struct pit8254;

#define PIT8254_HZ 1193182u

/* `irq0` follows OUT of counter 0. NULL with the error set when a port is taken. */
struct pit8254 *pit8254_new(struct mem *m, struct clock *c, struct irq_line irq0, struct err *e);

#endif

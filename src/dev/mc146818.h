/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock and CMOS memory. See mc146818.c. */
#ifndef RINGFENCE_DEV_MC146818_H
#define RINGFENCE_DEV_MC146818_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/irq.h"

struct clock;
struct err;
struct mc146818;
struct mem;

/* What firmware reads from CMOS. */
struct mc146818_config {
    uint64_t ram_low;  /* bytes of RAM below 4 GiB */
    uint64_t ram_high; /* bytes of RAM from 4 GiB on */
};

/* Ports 0x70 and 0x71. NULL with the error set when they are taken. */
struct mc146818 *mc146818_new(struct mem *m, struct clock *c, struct irq_line irq8,
                              const struct mc146818_config *config, struct err *e);

/* Bit 7 of port 0x70: NMIs are not to reach the processor. I/O lock held. */
bool mc146818_nmi_disabled(const struct mc146818 *r);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The PC's pair of 8259A interrupt controllers. See pic8259.c. */
#ifndef RINGFENCE_DEV_PIC8259_H
#define RINGFENCE_DEV_PIC8259_H

#include <stdbool.h>

#include "dev/irq.h"

struct err;
struct mem;
struct pic8259;

/* `intr` is the INT output of the master: LINT0 of the boot processor. NULL with the error set. */
struct pic8259 *pic8259_new(struct mem *m, struct irq_line intr, struct err *e);

/* Drives IR input 0..15 (2 is the cascade and ignored); fits struct irq_line. I/O lock held. */
void pic8259_set_irq(void *pic, unsigned irq, bool level);

/*
 * The interrupt-acknowledge cycles: returns the vector; a spurious one (IR7) when the request has
 * gone away. From any thread; takes the I/O lock.
 */
int pic8259_ack(void *pic);

#endif

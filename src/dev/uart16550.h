/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A serial port. See uart16550.c. */
#ifndef RINGFENCE_DEV_UART16550_H
#define RINGFENCE_DEV_UART16550_H

#include <stddef.h>
#include <stdint.h>

#include "dev/irq.h"

struct chardev;
struct clock;
struct err;
struct mem;
struct uart16550;

#define UART16550_COM1 0x3f8
#define UART16550_COM2 0x2f8

/*
 * Takes eight ports from `port` on. `chr` may be NULL (nothing connected); otherwise it outlives
 * the chip, which attaches itself. NULL with the error set when the ports are taken.
 */
struct uart16550 *uart16550_new(struct mem *m, struct clock *c, uint16_t port, struct irq_line irq,
                                struct chardev *chr, struct err *e);

/* What the back end calls, with or without the I/O lock (they take it); see ui/chardev.h. */
size_t uart16550_can_receive(struct uart16550 *u);
void uart16550_receive(struct uart16550 *u, const uint8_t *buf, size_t len);
void uart16550_writable(struct uart16550 *u);
/* The other side sends a break condition. */
void uart16550_receive_break(struct uart16550 *u);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC. See ioapic.c. */
#ifndef RINGFENCE_DEV_IOAPIC_H
#define RINGFENCE_DEV_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

struct apic_bus;
struct err;
struct ioapic;
struct mem;

/* Sends over `bus` and listens there for EOIs. NULL with the error set when the page is taken. */
struct ioapic *ioapic_new(struct mem *m, struct apic_bus *bus, uint8_t id, struct err *e);

/*
 * Asserts or deasserts a pin (global system interrupt); fits struct irq_line. I/O lock held.
 * `level` is whether the device wants attention: the redirection entry's polarity is taken to fit
 * the wiring.
 */
void ioapic_set_irq(void *ioapic, unsigned pin, bool level);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The high precision event timer. See hpet.c. */
#ifndef RINGFENCE_DEV_HPET_H
#define RINGFENCE_DEV_HPET_H

#include <stdbool.h>

#include "dev/irq.h"

struct clock;
struct err;
struct hpet;
struct mem;

/* The main counter's period: 10 ns, as capabilities tell in femtoseconds. */
#define HPET_PERIOD_NS 10

/*
 * `pit` and `rtc` are the lines of IRQ 0 and IRQ 8: the 8254 and the RTC drive hpet_pit_in and
 * hpet_rtc_in, which pass them on unless legacy replacement routing gives the lines to timers 0
 * and 1. `gsi` reaches the I/O APIC: it is called with the pin that a timer is routed to, its own
 * `pin` is ignored.
 */
struct hpet *hpet_new(struct mem *m, struct clock *c, struct irq_line pit, struct irq_line rtc,
                      struct irq_line gsi, struct err *e);

/* Fit struct irq_line; `pin` is ignored. I/O lock held. */
void hpet_pit_in(void *hpet, unsigned pin, bool level);
void hpet_rtc_in(void *hpet, unsigned pin, bool level);

#endif

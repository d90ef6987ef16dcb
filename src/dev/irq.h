/* SPDX-License-Identifier: Apache-2.0 */
/* An interrupt line: the only way a device tells anyone that it wants attention. */
#ifndef RINGFENCE_DEV_IRQ_H
#define RINGFENCE_DEV_IRQ_H

#include <stdbool.h>

struct irq_line {
    void (*set)(void *arg, unsigned pin, bool level);
    void *arg;
    unsigned pin;
};

/* Drives the line. A line with no `set` is not connected. Callers hold the machine's I/O lock. */
static inline void irq_set(const struct irq_line *l, bool level) {
    if (l->set)
        l->set(l->arg, l->pin, level);
}

static inline void irq_pulse(const struct irq_line *l) {
    irq_set(l, true);
    irq_set(l, false);
}

#endif

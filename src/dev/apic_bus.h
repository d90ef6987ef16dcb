/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What carries interrupt messages between local APICs and the I/O APIC (the system bus).
 *
 * Lock order: the machine's I/O lock, then a local APIC's own. Sending takes no lock but the
 * receivers' own, so it may be done with or without the I/O lock; the EOI broadcast takes the I/O
 * lock and is done with none held. Members are added before any vCPU runs.
 */
#ifndef RINGFENCE_DEV_APIC_BUS_H
#define RINGFENCE_DEV_APIC_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct apic_bus;
struct lapic;

/* Delivery modes, as ICR and redirection entries encode them. */
enum apic_mode {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

struct apic_msg {
    uint32_t dest;
    bool wide; /* dest has 32 bits (sent in x2APIC mode), otherwise 8 */
    bool logical;
    bool level;
    uint8_t mode;
    uint8_t vector;
};

struct apic_bus *apic_bus_new(void);
void apic_bus_free(struct apic_bus *b);

void apic_bus_add(struct apic_bus *b, struct lapic *l);

/* Who hears the EOI of level-triggered interrupts: the I/O APIC. */
typedef void apic_eoi_fn(void *arg, uint8_t vector);
void apic_bus_set_eoi(struct apic_bus *b, apic_eoi_fn *fn, void *arg);
void apic_bus_eoi(struct apic_bus *b, uint8_t vector);

/* Delivers to whom the destination names. True when somebody accepted. Any thread. */
bool apic_bus_send(struct apic_bus *b, const struct apic_msg *m);
/* Delivers to all, `but` (which may be NULL) excepted. */
bool apic_bus_send_all(struct apic_bus *b, const struct apic_msg *m, const struct lapic *but);

#endif

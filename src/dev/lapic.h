/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A processor's local APIC. See lapic.c.
 *
 * Threads: the functions of lapic_irqchip_ops run on the vCPU's own thread with no lock held.
 * Messages, LINT pins and the timer come from other threads. Lock order: the machine's I/O lock,
 * then the APIC's own; the own lock is never held while an interrupt line is driven, the I/O lock
 * taken or a vCPU woken.
 */
#ifndef RINGFENCE_DEV_LAPIC_H
#define RINGFENCE_DEV_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/irq.h"

struct apic_bus;
struct apic_msg;
struct clock;
struct lapic;
struct mem;
struct vcpu;
struct x86_irqchip_ops;

/* The timer's input before the divider: one count a guest nanosecond. CPUID leaf 0x15 ECX may say
 * so. */
#define LAPIC_TIMER_HZ 1000000000u

struct lapic_config {
    struct mem *mem; /* for the I/O lock */
    struct clock *clock;
    struct apic_bus *bus; /* the APIC adds itself */
    uint32_t id;          /* below 255 */
    bool bsp;
    /*
     * Reset leaves the APIC as firmware does, in virtual wire mode: software-enabled, LINT0 ExtINT
     * (boot processor) and LINT1 NMI unmasked. For guests that are entered without firmware.
     */
    bool virtual_wire;
    uint8_t phys_bits; /* width of physical addresses, for IA32_APIC_BASE's reserved bits */
};

struct lapic *lapic_new(const struct lapic_config *config);

/* Makes the two known to each other; sets v->irqchip and v->apic. */
void lapic_attach(struct lapic *l, struct vcpu *v);

/* The acknowledge cycle of the 8259 pair behind ExtINT, and the line that FERR# drives (IRQ 13). */
void lapic_connect_pic(struct lapic *l, int (*ack)(void *pic), void *pic, struct irq_line ferr);

extern const struct x86_irqchip_ops lapic_irqchip_ops;

/* Pins LINT0 (`pin` 0) and LINT1; fits struct irq_line. I/O lock held. */
void lapic_set_lint(void *lapic, unsigned pin, bool level);

/* INIT: all but the ID and IA32_APIC_BASE is as after reset. The vCPU's thread, outside run(). */
void lapic_init(struct lapic *l);

/* For the bus; any thread. */
bool lapic_enabled(const struct lapic *l);      /* globally and by software */
unsigned lapic_priority(const struct lapic *l); /* processor priority, for arbitration */
bool lapic_matches(const struct lapic *l, const struct apic_msg *m);
bool lapic_accept(struct lapic *l, const struct apic_msg *m); /* false: not accepted */

#endif

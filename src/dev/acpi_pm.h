/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware and the reset control register. See acpi_pm.c. */
#ifndef RINGFENCE_DEV_ACPI_PM_H
#define RINGFENCE_DEV_ACPI_PM_H

#include <stdint.h>

#include "dev/irq.h"

struct acpi_pm;
struct clock;
struct err;
struct mem;

#define ACPI_PM_TIMER_HZ 3579545u

/* Called on a vCPU's thread under the I/O lock; they may not block. */
struct acpi_pm_events {
    void (*power_off)(void *arg);
    void (*reset)(void *arg);
    void *arg;
};

/* At the ports of dev/pc_layout.h. NULL with the error set when one is taken. */
struct acpi_pm *acpi_pm_new(struct mem *m, struct clock *c, struct irq_line sci,
                            const struct acpi_pm_events *events, struct err *e);

/* Presses the power button: asks the guest to shut down. Any thread; takes the I/O lock. */
void acpi_pm_power_button(struct acpi_pm *pm);

/* A general-purpose event has come (GPE0, bit `event`, 0 to 15). Under the I/O lock. */
void acpi_pm_event(struct acpi_pm *pm, unsigned event);

/*
 * The other end of the RTC's interrupt line, a wake event: an irq_line's function; `arg` is the
 * struct acpi_pm.
 */
void acpi_pm_rtc_in(void *arg, unsigned pin, bool level);

/*
 * The reset control register (port 0xcf9). It lies among the ports of PCI configuration, which pass
 * its accesses on: see struct pci_reset_port in dev/pci.h, which these fit; `arg` is the struct
 * acpi_pm.
 */
uint8_t acpi_pm_reset_read(void *arg);
void acpi_pm_reset_write(void *arg, uint8_t value);

#endif

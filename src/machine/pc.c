/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole PC in the order in which it is put together: memory, clock, processors, interrupt
 * controllers, and what is wired to them. Addresses and lines are in dev/pc_layout.h.
 */
#include "machine/pc.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/util.h"
#include "boot/boot.h"
#include "dev/acpi_pm.h"
#include "dev/apic_bus.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/device.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/mc146818.h"
#include "dev/pc_layout.h"
#include "dev/pci.h"
#include "dev/pci_hotplug.h"
#include "dev/pci_msi.h"
#include "dev/pic8259.h"
#include "dev/pit8254.h"
#include "dev/pvpanic.h"
#include "dev/testdev.h"
#include "dev/uart16550.h"
#include "machine/devices.h"
#include "mem/mem.h"

bool machine_add(struct machine *m, void *chip) {
    struct device *d = chip;

    if (!d)
        return false;
    for (struct device *o = m->devices; o; o = o->next)
        if (o->ops == d->ops)
            d->instance = MAX(d->instance, o->instance + 1);
    *m->last_device = d;
    m->last_device = &d->next;
    return true;
}

static int make_memory(struct machine *m, struct err *e) {
    int r = e820_layout_init(&m->layout, m->params.memory, e);

    if (r < 0)
        return r;
    m->mem = mem_new(m->layout.ram_bytes, m->params.bios ? BOOT_ROM_MAX : 0, e);
    if (!m->mem)
        return -1;
    for (unsigned i = 0; i < m->layout.ram_count; i++) {
        const struct e820_ram *ram = &m->layout.ram[i];

        if (mem_add_ram(m->mem, GPA(ram->gpa), ram->size, ram->backing, e) < 0)
            return -1;
    }
    return 0;
}

static int make_vcpu(struct machine *m, unsigned i, struct err *e) {
    const struct lapic_config config = {
        .mem = m->mem,
        .clock = m->clock,
        .bus = m->bus,
        .id = i,
        .bsp = i == 0,
        .virtual_wire = m->params.kernel != NULL,
        .phys_bits = (uint8_t)m->cpuid.phys_bits,
    };

    m->vcpus[i] = m->params.engine->vcpu_create(m->vm, i, e);
    if (!m->vcpus[i])
        return err_wrap(e, "vCPU %u", i);
    m->lapics[i] = lapic_new(&config);
    machine_add(m, m->lapics[i]);
    lapic_attach(m->lapics[i], m->vcpus[i]);
    return 0;
}

static int make_vcpus(struct machine *m, struct err *e) {
    const struct engine_vm_params vm = {
        .mem = m->mem,
        .clock = m->clock,
        .cpuid = &m->cpuid,
        .vcpus = m->params.vcpus,
        .code_cache = m->params.code_cache,
        .perf_map = m->params.perf_map,
        .trace = m->params.trace,
    };

    if (x86_cpuid_build(&m->cpuid, m->params.cpu, m->params.vcpus, clock_tsc_hz(m->clock), e) < 0)
        return -1;
    m->vm = m->params.engine->vm_create(&vm, e);
    if (!m->vm)
        return err_wrap(e, "engine %s", m->params.engine->name);
    m->bus = apic_bus_new();
    m->vcpus = xcalloc(m->params.vcpus, sizeof(*m->vcpus));
    m->lapics = xcalloc(m->params.vcpus, sizeof(struct lapic *));
    for (unsigned i = 0; i < m->params.vcpus; i++)
        if (make_vcpu(m, i, e) < 0)
            return -1;
    vcpu_set_init(&m->set, m->mem, m->vcpus, m->params.vcpus, &machine_vcpu_ops, m);
    m->set.watched = m->params.watched;
    return 0;
}

/* An ISA line reaches both controllers; IRQ 0 comes in at pin 2 of the I/O APIC, as on every PC
 * since 1997. */
static void isa_set(void *arg, unsigned irq, bool level) {
    struct machine *m = arg;

    pic8259_set_irq(m->pic, irq, level);
    ioapic_set_irq(m->ioapic, irq == PC_IRQ_PIT ? PC_GSI_PIT : irq, level);
}

static struct irq_line isa_line(struct machine *m, unsigned irq) {
    return (struct irq_line){isa_set, m, irq};
}

static void on_reset(void *arg) {
    machine_request(arg, MACHINE_REQ_RESET);
}

static void on_power_off(void *arg) {
    machine_request(arg, MACHINE_REQ_POWER_OFF);
}

static void on_panic(void *arg) {
    machine_request(arg, MACHINE_REQ_PANIC);
}

static void on_debug_exit(void *arg, uint32_t value) {
    struct machine *m = arg;

    m->exit_value = value;
    machine_request(m, MACHINE_REQ_DEBUG_EXIT);
}

/* The 8259 pair's output goes to LINT0 of the first processor, which FERR# leaves on IRQ 13. */
static bool make_interrupt_controllers(struct machine *m, struct err *e) {
    const struct irq_line intr = {lapic_set_lint, m->lapics[0], 0};

    m->pic = pic8259_new(m->mem, intr, e);
    if (!machine_add(m, m->pic))
        return false;
    lapic_connect_pic(m->lapics[0], pic8259_ack, m->pic, isa_line(m, PC_IRQ_FPU));
    m->ioapic = ioapic_new(m->mem, m->bus, PC_IOAPIC_ID, e);
    return machine_add(m, m->ioapic);
}

static void on_slot_news(void *arg) {
    struct machine *m = arg;

    acpi_pm_event(m->pm, PC_GPE_PCI_HOTPLUG);
}

static bool make_pci(struct machine *m, struct err *e) {
    const struct pci_bus_config config = {
        .reset = {acpi_pm_reset_read, acpi_pm_reset_write, m->pm},
        .gsi = {ioapic_set_irq, m->ioapic, 0},
        .msi = pci_msi_to_apic,
        .msi_arg = m->bus,
    };
    const struct pci_hotplug_events events = {on_slot_news, machine_ejected, m};

    m->pci = pci_bus_new(m->mem, &config, e);
    if (!machine_add(m, m->pci))
        return false;
    m->hotplug = pci_hotplug_new(m->mem, &events, e);
    return machine_add(m, m->hotplug);
}

static bool make_platform(struct machine *m, struct err *e) {
    const struct acpi_pm_events events = {on_power_off, on_reset, m};
    const struct i8042_config keyboard = {
        .irq1 = isa_line(m, PC_IRQ_KBD),
        .irq12 = isa_line(m, PC_IRQ_MOUSE),
        .reset = on_reset,
        .arg = m,
    };

    m->pm = acpi_pm_new(m->mem, m->clock, isa_line(m, PC_IRQ_SCI), &events, e);
    return machine_add(m, m->pm) && make_pci(m, e) &&
           machine_add(m, i8042_new(m->mem, &keyboard, e));
}

/* The RTC can wake the machine, so power management sees its line, too. */
static void rtc_set(void *arg, unsigned pin, bool level) {
    struct machine *m = arg;

    acpi_pm_rtc_in(m->pm, pin, level);
    hpet_rtc_in(m->hpet, pin, level);
}

/* The HPET can take over the lines of the two older timers, so they are wired through it. */
static bool make_timers(struct machine *m, struct err *e) {
    const struct mc146818_config cmos = {m->layout.low_bytes, m->layout.high_bytes};
    const struct irq_line gsi = {ioapic_set_irq, m->ioapic, 0};
    const struct irq_line rtc = {rtc_set, m, 0};
    struct irq_line pit = {hpet_pit_in, NULL, 0};

    m->hpet = pit.arg =
        hpet_new(m->mem, m->clock, isa_line(m, PC_IRQ_PIT), isa_line(m, PC_IRQ_RTC), gsi, e);
    return machine_add(m, m->hpet) && machine_add(m, pit8254_new(m->mem, m->clock, pit, e)) &&
           machine_add(m, mc146818_new(m->mem, m->clock, rtc, &cmos, e));
}

static bool make_consoles(struct machine *m, struct err *e) {
    const struct machine_params *p = &m->params;
    const struct irq_line gsi = {ioapic_set_irq, m->ioapic, 0};

    return machine_add(m, uart16550_new(m->mem, m->clock, PC_COM1, isa_line(m, PC_IRQ_COM1),
                                        p->serial, e)) &&
           machine_add(m, debugcon_new(m->mem, DEBUGCON_PORT, p->debugcon, e)) &&
           machine_add(m, pvpanic_new(m->mem, on_panic, m, e)) &&
           (!p->debug_exit || machine_add(m, debug_exit_new(m->mem, on_debug_exit, m, e))) &&
           (!p->testdev || machine_add(m, testdev_new(m->mem, gsi, e)));
}

static int wire(struct machine *m, struct err *e) {
    if (make_memory(m, e) < 0)
        return err_wrap(e, "memory");
    m->clock = clock_new(m->loop);
    if (make_vcpus(m, e) < 0)
        return -1;
    if (!make_interrupt_controllers(m, e) || !make_platform(m, e) || !make_timers(m, e) ||
        !make_consoles(m, e) || machine_add_devices(m, e) < 0)
        return err_wrap(e, "machine");
    return machine_load(m, e);
}

struct machine *machine_new(struct loop *loop, const struct machine_params *p, struct err *e) {
    struct machine *m = xcalloc(1, sizeof(*m));

    m->params = *p;
    m->loop = loop;
    m->last_device = &m->devices;
    pthread_mutex_init(&m->lock, NULL);
    if (wire(m, e) == 0)
        return m;
    machine_free(m);
    return NULL;
}

static void free_vcpus(struct machine *m) {
    for (unsigned i = 0; m->vcpus && i < m->params.vcpus; i++)
        if (m->vcpus[i])
            m->params.engine->vcpu_destroy(m->vcpus[i]);
    free(m->vcpus);
    free(m->lapics);
    if (m->vm)
        m->params.engine->vm_destroy(m->vm);
}

/* Threads first, then chips while the lines and the clock they hold are still there. */
void machine_free(struct machine *m) {
    struct device *next;

    if (!m)
        return;
    if (m->set.threads)
        vcpu_set_free(&m->set);
    for (struct device *d = m->devices; d; d = next) {
        next = d->next;
        d->ops->destroy(d);
    }
    machine_free_plugs(m);
    free_vcpus(m);
    apic_bus_free(m->bus);
    clock_free(m->clock);
    mem_free(m->mem);
    free(m->shadow);
    err_clear(&m->error);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC (82093AA data sheet), with a local APIC at the other end of the bus. */
#include "dev_test.h"
#include "fake_clock.h"

#include "cpu/engine.h"
#include "dev/apic_bus.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pc_layout.h"

enum { SELECT = 0x00, WINDOW = 0x10, EOI = 0x40 };
enum { LEVEL = 1 << 15, MASK = 1 << 16, REMOTE_IRR = 1 << 14 };

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct apic_bus *bus;
    struct lapic *apic[2];
    struct vcpu cpu[2];
    struct ioapic *io;
};

static void no_kick(struct vcpu *v) {
    (void)v;
}

static const struct engine_ops engine = {.name = "test", .kick = no_kick};

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->bus = apic_bus_new();
    for (unsigned i = 0; i < 2; i++) {
        struct lapic_config config = {.mem = f->mem,
                                      .clock = &f->clock,
                                      .bus = f->bus,
                                      .id = i,
                                      .bsp = i == 0,
                                      .phys_bits = 40};
        f->apic[i] = lapic_new(&config);
        f->cpu[i].ops = &engine;
        lapic_attach(f->apic[i], &f->cpu[i]);
        lapic_irqchip_ops.mmio_write(f->apic[i], 0xf0, 4, 0x1ff);
    }
    f->io = ioapic_new(f->mem, f->bus, 5, NULL);
    assert_non_null(f->io);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->io;

    d->ops->destroy(d);
    for (unsigned i = 0; i < 2; i++) {
        d = (struct device *)f->apic[i];
        d->ops->destroy(d);
    }
    apic_bus_free(f->bus);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint32_t rd(struct fixture *f, uint8_t reg) {
    mem_io_write(f->mem, GPA(PC_IOAPIC_BASE + SELECT), 4, reg);
    return (uint32_t)mem_io_read(f->mem, GPA(PC_IOAPIC_BASE + WINDOW), 4);
}

static void wr(struct fixture *f, uint8_t reg, uint32_t v) {
    mem_io_write(f->mem, GPA(PC_IOAPIC_BASE + SELECT), 4, reg);
    mem_io_write(f->mem, GPA(PC_IOAPIC_BASE + WINDOW), 4, v);
}

static void route(struct fixture *f, unsigned pin, uint8_t dest, uint32_t low) {
    wr(f, (uint8_t)(0x11 + 2 * pin), (uint32_t)dest << 24);
    wr(f, (uint8_t)(0x10 + 2 * pin), low);
}

static int ack(struct fixture *f, unsigned cpu) {
    return lapic_irqchip_ops.ack(f->apic[cpu]);
}

static void eoi(struct fixture *f, unsigned cpu) {
    lapic_irqchip_ops.mmio_write(f->apic[cpu], 0xb0, 4, 0);
}

static void registers(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, 0), 0x05000000);
    assert_int_equal(rd(f, 1), 0x00170020);
    wr(f, 0, 0xff000000);
    assert_int_equal(rd(f, 0), 0x0f000000);
    assert_int_equal(rd(f, 2), 0x0f000000);
    wr(f, 1, 0);
    assert_int_equal(rd(f, 1), 0x00170020);
    for (uint8_t pin = 0; pin < 24; pin++)
        assert_int_equal(rd(f, (uint8_t)(0x10 + 2 * pin)), MASK);
    wr(f, 0x10, UINT32_MAX);
    wr(f, 0x11, UINT32_MAX);
    assert_int_equal(rd(f, 0x10), 0x1afff); /* delivery status and remote IRR are read-only */
    assert_int_equal(rd(f, 0x11), 0xff000000);
    assert_int_equal(rd(f, 0x40), 0); /* there is no pin 24 */
    assert_int_equal(mem_io_read(f->mem, GPA(PC_IOAPIC_BASE + SELECT), 1), 0x40);
}

static void an_edge_is_one_message(void **state) {
    struct fixture *f = *state;

    route(f, 4, 1, 0x44);
    ioapic_set_irq(f->io, 4, true);
    assert_int_equal(ack(f, 1), 0x44);
    ioapic_set_irq(f->io, 4, true);
    eoi(f, 1);
    assert_int_equal(ack(f, 1), -1);
    ioapic_set_irq(f->io, 4, false);
    ioapic_set_irq(f->io, 4, true);
    assert_int_equal(ack(f, 1), 0x44);
}

static void a_masked_edge_is_lost(void **state) {
    struct fixture *f = *state;

    route(f, 4, 0, MASK | 0x44);
    ioapic_set_irq(f->io, 4, true);
    route(f, 4, 0, 0x44);
    assert_int_equal(ack(f, 0), -1);
}

static void a_level_repeats_after_eoi(void **state) {
    struct fixture *f = *state;

    route(f, 10, 0, LEVEL | 0x55);
    ioapic_set_irq(f->io, 10, true);
    assert_int_equal(ack(f, 0), 0x55);
    assert_int_equal(rd(f, 0x10 + 20), LEVEL | REMOTE_IRR | 0x55);
    ioapic_set_irq(f->io, 10, false);
    ioapic_set_irq(f->io, 10, true);
    eoi(f, 0);
    assert_int_equal(ack(f, 0), 0x55); /* still asserted */
    ioapic_set_irq(f->io, 10, false);
    eoi(f, 0);
    assert_int_equal(rd(f, 0x10 + 20), LEVEL | 0x55);
    assert_int_equal(ack(f, 0), -1);
}

static void a_masked_level_waits(void **state) {
    struct fixture *f = *state;

    route(f, 10, 0, LEVEL | MASK | 0x55);
    ioapic_set_irq(f->io, 10, true);
    assert_int_equal(ack(f, 0), -1);
    route(f, 10, 0, LEVEL | 0x55);
    assert_int_equal(ack(f, 0), 0x55);
}

static void eoi_register(void **state) {
    struct fixture *f = *state;

    lapic_irqchip_ops.mmio_write(f->apic[0], 0xf0, 4, 0x11ff); /* no broadcast */
    route(f, 10, 0, LEVEL | 0x55);
    ioapic_set_irq(f->io, 10, true);
    ack(f, 0);
    eoi(f, 0);
    assert_true(rd(f, 0x10 + 20) & REMOTE_IRR);
    mem_io_write(f->mem, GPA(PC_IOAPIC_BASE + EOI), 4, 0x54);
    assert_true(rd(f, 0x10 + 20) & REMOTE_IRR);
    mem_io_write(f->mem, GPA(PC_IOAPIC_BASE + EOI), 4, 0x55);
    assert_int_equal(ack(f, 0), 0x55);
    wr(f, 0x10 + 20, MASK | 0x55); /* edge: remote IRR has no meaning and goes */
    assert_false(rd(f, 0x10 + 20) & REMOTE_IRR);
}

static void pins_that_share_a_vector(void **state) {
    struct fixture *f = *state;

    route(f, 10, 0, LEVEL | 0x55);
    route(f, 11, 0, LEVEL | 0x55);
    ioapic_set_irq(f->io, 10, true);
    ioapic_set_irq(f->io, 11, true);
    assert_int_equal(ack(f, 0), 0x55);
    ioapic_set_irq(f->io, 10, false);
    eoi(f, 0);
    assert_int_equal(ack(f, 0), 0x55);
    assert_int_equal(ack(f, 0), -1);
}

static void delivery_modes_and_destinations(void **state) {
    struct fixture *f = *state;

    route(f, 1, 1, 0x400);
    atomic_store(&f->cpu[1].events, 0);
    ioapic_set_irq(f->io, 1, true);
    assert_int_equal(atomic_load(&f->cpu[1].events), VCPU_EVENT_NMI);
    for (unsigned i = 0; i < 2; i++)
        lapic_irqchip_ops.mmio_write(f->apic[i], 0xd0, 4, 0x01000000u << i);
    route(f, 2, 0x03, 0x800 | 0x66);
    ioapic_set_irq(f->io, 2, true);
    assert_int_equal(ack(f, 0), 0x66);
    assert_int_equal(ack(f, 1), 0x66);
    route(f, 3, 0x03, 0x900 | 0x77); /* lowest priority: one of them */
    ioapic_set_irq(f->io, 3, true);
    assert_int_equal((ack(f, 0) == 0x77) + (ack(f, 1) == 0x77), 1);
    route(f, 5, 0xff, 0x88);
    ioapic_set_irq(f->io, 5, true);
    assert_int_equal(ack(f, 0), 0x88);
    assert_int_equal(ack(f, 1), 0x88);
    ioapic_set_irq(f->io, 24, true); /* no such pin */
    ioapic_set_irq(f->io, UINT32_MAX, true);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct mem *m = test_mem();
    struct apic_bus *bus = apic_bus_new();
    struct ioapic *other = ioapic_new(m, bus, 0, NULL);
    struct device *d = (struct device *)other;

    route(f, 10, 0, LEVEL | 0x55);
    ioapic_set_irq(f->io, 10, true);
    copy_state((struct device *)f->io, d);
    refuses_nonsense(d);
    d->ops->destroy(d);
    apic_bus_free(bus);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(registers),
        TEST(an_edge_is_one_message),
        TEST(a_masked_edge_is_lost),
        TEST(a_level_repeats_after_eoi),
        TEST(a_masked_level_waits),
        TEST(eoi_register),
        TEST(pins_that_share_a_vector),
        TEST(delivery_modes_and_destinations),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC (SDM 3A, "APIC"): delivery, priorities, IPIs, destinations, timer, x2APIC. */
#include "dev_test.h"
#include "fake_clock.h"

#include <pthread.h>

#include "cpu/engine.h"
#include "dev/apic_bus.h"
#include "dev/lapic.h"

enum { CPUS = 4, BASE_MSR = 0x1b, DEADLINE_MSR = 0x6e0 };
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    APR = 0x90,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_PERF = 0x340,
    LVT_LINT0 = 0x350,
    LVT_LINT1 = 0x360,
    LVT_ERROR = 0x370,
    TIMER_INITIAL = 0x380,
    TIMER_CURRENT = 0x390,
    DIVIDE = 0x3e0,
    SELF_IPI = 0x3f0,
};

static const struct x86_irqchip_ops *const ops = &lapic_irqchip_ops;

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct apic_bus *bus;
    struct probe ferr;
    struct lapic *apic[CPUS];
    struct vcpu cpu[CPUS];
    uint8_t eoi[8];
    unsigned eois;
};

static void no_kick(struct vcpu *v) {
    (void)v;
}

static const struct engine_ops engine = {.name = "test", .kick = no_kick};

static void on_eoi(void *arg, uint8_t vector) {
    struct fixture *f = arg;

    f->eoi[f->eois++ % 8] = vector;
}

static int pic_ack(void *pic) {
    (void)pic;
    return 0x77;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->bus = apic_bus_new();
    apic_bus_set_eoi(f->bus, on_eoi, f);
    for (unsigned i = 0; i < CPUS; i++) {
        struct lapic_config config = {
            .mem = f->mem,
            .clock = &f->clock,
            .bus = f->bus,
            .id = i,
            .bsp = i == 0,
            .phys_bits = 40,
        };
        f->apic[i] = lapic_new(&config);
        f->cpu[i].ops = &engine;
        lapic_attach(f->apic[i], &f->cpu[i]);
        lapic_connect_pic(f->apic[i], pic_ack, NULL, probe_line(&f->ferr));
    }
    f->clock.now = 1000;
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;

    for (unsigned i = 0; i < CPUS; i++) {
        struct device *d = (struct device *)f->apic[i];
        d->ops->destroy(d);
    }
    assert_null(f->clock.timers);
    apic_bus_free(f->bus);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint32_t rd(struct fixture *f, unsigned cpu, unsigned reg) {
    return (uint32_t)ops->mmio_read(f->apic[cpu], reg, 4);
}

static void wr(struct fixture *f, unsigned cpu, unsigned reg, uint32_t v) {
    ops->mmio_write(f->apic[cpu], reg, 4, v);
}

static bool rdmsr(struct fixture *f, unsigned cpu, uint32_t msr, uint64_t *v) {
    return ops->read_msr(f->apic[cpu], msr, v);
}

static bool wrmsr(struct fixture *f, unsigned cpu, uint32_t msr, uint64_t v) {
    return ops->write_msr(f->apic[cpu], msr, v);
}

static void enable(struct fixture *f) {
    for (unsigned i = 0; i < CPUS; i++)
        wr(f, i, SVR, 0x1ff);
}

static bool pending(struct fixture *f, unsigned cpu) {
    return ops->pending(f->apic[cpu]);
}

static int ack(struct fixture *f, unsigned cpu) {
    return ops->ack(f->apic[cpu]);
}

static uint32_t take_events(struct fixture *f, unsigned cpu) {
    return atomic_exchange(&f->cpu[cpu].events, 0);
}

static void eoi(struct fixture *f, unsigned cpu) {
    wr(f, cpu, EOI, 0);
}

static bool send(struct fixture *f, struct apic_msg m) {
    return apic_bus_send(f->bus, &m);
}

static void ipi(struct fixture *f, unsigned cpu, uint32_t dest, uint32_t low) {
    wr(f, cpu, ICR_HIGH, dest << 24);
    wr(f, cpu, ICR, low);
}

/* Which CPUs have `vector` in IRR; it is taken out again. */
static unsigned receivers(struct fixture *f, uint8_t vector) {
    unsigned set = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        if (!pending(f, i))
            continue;
        assert_int_equal(ack(f, i), vector);
        eoi(f, i);
        set |= 1u << i;
    }
    return set;
}

static void reset_state(void **state) {
    struct fixture *f = *state;
    uint64_t base;

    assert_int_equal(rd(f, 2, ID), 2u << 24);
    assert_int_equal(rd(f, 0, VERSION), 0x01050014);
    assert_int_equal(rd(f, 0, SVR), 0xff);
    assert_int_equal(rd(f, 0, DFR), UINT32_MAX);
    assert_int_equal(rd(f, 0, LDR), 0);
    for (unsigned reg = LVT_TIMER; reg <= LVT_ERROR; reg += 0x10)
        assert_int_equal(rd(f, 0, reg), 0x10000);
    assert_true(rdmsr(f, 0, BASE_MSR, &base));
    assert_int_equal(base, 0xfee00900);
    assert_true(rdmsr(f, 1, BASE_MSR, &base));
    assert_int_equal(base, 0xfee00800);
    assert_int_equal(ops->mmio_base(f->apic[0]), 0xfee00000);
    assert_false(pending(f, 0));
}

static void software_disabled_masks_all(void **state) {
    struct fixture *f = *state;

    wr(f, 0, LVT_ERROR, 0xfe);
    assert_int_equal(rd(f, 0, LVT_ERROR), 0x100fe);
    enable(f);
    wr(f, 0, LVT_ERROR, 0xfe);
    assert_int_equal(rd(f, 0, LVT_ERROR), 0xfe);
    wr(f, 0, SVR, 0xff);
    assert_int_equal(rd(f, 0, LVT_ERROR), 0x100fe);
    assert_false(send(f, (struct apic_msg){.dest = 0, .vector = 0x40}));
    assert_true(send(f, (struct apic_msg){.dest = 0, .mode = APIC_NMI}));
    assert_int_equal(take_events(f, 0) & VCPU_EVENT_NMI, VCPU_EVENT_NMI);
}

static void delivers_acknowledges_ends(void **state) {
    struct fixture *f = *state;

    enable(f);
    take_events(f, 0);
    assert_true(send(f, (struct apic_msg){.dest = 0, .vector = 0x51}));
    assert_int_equal(take_events(f, 0), VCPU_EVENT_INTR);
    assert_int_equal(rd(f, 0, IRR + 0x20), 1u << 17);
    assert_int_equal(ack(f, 0), 0x51);
    assert_int_equal(rd(f, 0, IRR + 0x20), 0);
    assert_int_equal(rd(f, 0, ISR + 0x20), 1u << 17);
    assert_int_equal(rd(f, 0, PPR), 0x50);
    assert_int_equal(ack(f, 0), -1);
    eoi(f, 0);
    assert_int_equal(rd(f, 0, ISR + 0x20), 0);
    assert_int_equal(rd(f, 0, PPR), 0);
    assert_int_equal(f->eois, 0); /* edge-triggered: nobody else hears of it */
}

static void nests_by_class(void **state) {
    struct fixture *f = *state;

    enable(f);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x51});
    assert_int_equal(ack(f, 0), 0x51);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x5f});
    assert_false(pending(f, 0)); /* higher, but of the same class */
    send(f, (struct apic_msg){.dest = 0, .vector = 0x60});
    assert_int_equal(ack(f, 0), 0x60);
    take_events(f, 0);
    eoi(f, 0);
    assert_false(pending(f, 0));
    assert_int_equal(take_events(f, 0), 0);
    eoi(f, 0);
    assert_int_equal(take_events(f, 0), VCPU_EVENT_INTR);
    assert_int_equal(ack(f, 0), 0x5f);
}

static void tpr_holds_back(void **state) {
    struct fixture *f = *state;

    enable(f);
    ops->set_cr8(f->apic[0], 5);
    assert_int_equal(rd(f, 0, TPR), 0x50);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x5f});
    assert_false(pending(f, 0));
    take_events(f, 0);
    wr(f, 0, TPR, 0x4f);
    assert_int_equal(take_events(f, 0), VCPU_EVENT_INTR);
    assert_int_equal(ops->get_cr8(f->apic[0]), 4);
    assert_true(pending(f, 0));
    assert_int_equal(rd(f, 0, APR), 0x50);
}

static void level_eoi_is_broadcast(void **state) {
    struct fixture *f = *state;

    enable(f);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x61, .level = true});
    assert_int_equal(rd(f, 0, TMR + 0x30), 2);
    ack(f, 0);
    eoi(f, 0);
    assert_int_equal(f->eois, 1);
    assert_int_equal(f->eoi[0], 0x61);
    wr(f, 0, SVR, 0x11ff); /* suppressed: the guest tells the I/O APIC itself */
    send(f, (struct apic_msg){.dest = 0, .vector = 0x61, .level = true});
    ack(f, 0);
    eoi(f, 0);
    assert_int_equal(f->eois, 1);
}

static void shorthands(void **state) {
    struct fixture *f = *state;

    enable(f);
    ipi(f, 1, 3, 0x44041);
    assert_int_equal(receivers(f, 0x41), 1u << 1);
    ipi(f, 1, 3, 0x84041);
    assert_int_equal(receivers(f, 0x41), 0xf);
    ipi(f, 1, 3, 0xc4041);
    assert_int_equal(receivers(f, 0x41), 0xd);
    ipi(f, 1, 3, 0x04041);
    assert_int_equal(receivers(f, 0x41), 1u << 3);
    ipi(f, 1, 0xff, 0x04041);
    assert_int_equal(receivers(f, 0x41), 0xf);
    ipi(f, 1, 9, 0x04041);
    assert_int_equal(receivers(f, 0x41), 0);
}

static void logical_destinations(void **state) {
    struct fixture *f = *state;

    enable(f);
    for (unsigned i = 0; i < CPUS; i++)
        wr(f, i, LDR, 0x01000000u << i);
    ipi(f, 0, 0x05, 0x04841);
    assert_int_equal(receivers(f, 0x41), 0x5);
    for (unsigned i = 0; i < CPUS; i++) {
        wr(f, i, DFR, 0);
        assert_int_equal(rd(f, i, DFR), 0x0fffffff);
        wr(f, i, LDR, (i / 2) << 28 | 1u << (24 + i % 2)); /* two clusters of two */
    }
    ipi(f, 0, 0x13, 0x04841);
    assert_int_equal(receivers(f, 0x41), 0xc);
    ipi(f, 0, 0x02, 0x04841);
    assert_int_equal(receivers(f, 0x41), 0x2);
    ipi(f, 0, 0xf1, 0x04841);
    assert_int_equal(receivers(f, 0x41), 0x5);
}

static void lowest_priority(void **state) {
    struct fixture *f = *state;
    unsigned seen = 0;

    enable(f);
    for (unsigned i = 0; i < CPUS; i++) {
        wr(f, i, LDR, 0x01000000u << i);
        wr(f, i, TPR, i == 2 ? 0 : 0x20);
    }
    ipi(f, 0, 0x0f, 0x04941);
    assert_int_equal(receivers(f, 0x41), 1u << 2);
    wr(f, 2, TPR, 0x30);
    for (unsigned i = 0; i < 12; i++) { /* ties go round */
        ipi(f, 0, 0x0f, 0x04941);
        seen |= receivers(f, 0x41);
    }
    assert_int_equal(seen, 0xb);
}

static void init_and_startup(void **state) {
    struct fixture *f = *state;

    for (unsigned i = 0; i < CPUS; i++)
        take_events(f, i);
    ipi(f, 0, 1, 0x0c500);
    assert_int_equal(take_events(f, 1), VCPU_EVENT_INIT);
    ipi(f, 0, 1, 0x08500); /* de-assert */
    assert_int_equal(take_events(f, 1), 0);
    ipi(f, 0, 1, 0x0069a);
    assert_int_equal(take_events(f, 1), VCPU_EVENT_SIPI);
    assert_int_equal(f->cpu[1].sipi_vector, 0x9a);
    ipi(f, 0, 0, 0xc4400);
    assert_int_equal(take_events(f, 0), 0);
    assert_int_equal(take_events(f, 3), VCPU_EVENT_NMI);
    ipi(f, 0, 2, 0x04700); /* no processor sends ExtINT */
    assert_int_equal(take_events(f, 2) & VCPU_EVENT_INTR, 0);
}

static void init_keeps_the_id(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 3, ID, 0x2a000000);
    wr(f, 3, TPR, 0x50);
    send(f, (struct apic_msg){.dest = 0x2a, .vector = 0x99});
    lapic_init(f->apic[3]);
    assert_int_equal(rd(f, 3, ID), 0x2a000000);
    assert_int_equal(rd(f, 3, SVR), 0xff);
    assert_int_equal(rd(f, 3, TPR), 0);
    assert_false(pending(f, 3));
}

static void errors_are_latched_by_a_write(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_ERROR, 0xfe);
    ipi(f, 0, 1, 0x04003); /* send illegal vector */
    assert_int_equal(rd(f, 0, ESR), 0);
    assert_int_equal(ack(f, 0), 0xfe);
    eoi(f, 0);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0x20);
    assert_false(send(f, (struct apic_msg){.dest = 0, .vector = 0x0f}));
    rd(f, 0, 0x400);
    wr(f, 0, 0x2f0, 1);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0xc0);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0);
    assert_false(pending(f, 1));
}

static void an_illegal_error_vector_does_not_recurse(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_ERROR, 0x05);
    ipi(f, 0, 1, 0x04003);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0x60);
    assert_false(pending(f, 0));
}

static void lint_extint(void **state) {
    struct fixture *f = *state;

    enable(f);
    lapic_set_lint(f->apic[0], 0, true);
    assert_false(pending(f, 0));
    take_events(f, 0);
    wr(f, 0, LVT_LINT0, 0x700);
    assert_int_equal(take_events(f, 0), VCPU_EVENT_INTR);
    assert_true(pending(f, 0));
    wr(f, 0, TPR, 0xff); /* ExtINT has no priority */
    assert_int_equal(ack(f, 0), 0x77);
    lapic_set_lint(f->apic[0], 0, false);
    assert_false(pending(f, 0));
}

static void lint_is_intr_and_nmi_when_disabled(void **state) {
    struct fixture *f = *state;

    assert_true(wrmsr(f, 0, BASE_MSR, 0xfee00100));
    assert_int_equal(ops->mmio_base(f->apic[0]), UINT64_MAX);
    take_events(f, 0);
    lapic_set_lint(f->apic[0], 0, true);
    assert_int_equal(take_events(f, 0), VCPU_EVENT_INTR);
    assert_true(pending(f, 0));
    assert_int_equal(ack(f, 0), 0x77);
    lapic_set_lint(f->apic[0], 0, false);
    assert_false(pending(f, 0));
    take_events(f, 0);
    lapic_set_lint(f->apic[0], 1, true);
    assert_int_equal(take_events(f, 0), VCPU_EVENT_NMI);
    for (int n = 0; n < 3; n++) { /* none is taken in between: the third is lost */
        lapic_set_lint(f->apic[0], 1, false);
        lapic_set_lint(f->apic[0], 1, true);
    }
    assert_int_equal(take_events(f, 0), VCPU_EVENT_NMI | VCPU_EVENT_NMI_2);
    assert_false(send(f, (struct apic_msg){.dest = 0, .mode = APIC_NMI}));
}

static void lint_nmi_and_fixed(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 1, LVT_LINT1, 0x400);
    take_events(f, 1);
    lapic_set_lint(f->apic[1], 1, true);
    assert_int_equal(take_events(f, 1), VCPU_EVENT_NMI);
    lapic_set_lint(f->apic[1], 1, true);
    assert_int_equal(take_events(f, 1), 0);

    wr(f, 1, LVT_LINT0, 0x08042); /* level: again after each EOI while it is high */
    lapic_set_lint(f->apic[1], 0, true);
    assert_int_equal(ack(f, 1), 0x42);
    assert_int_equal(rd(f, 1, LVT_LINT0), 0x0c042);
    eoi(f, 1);
    assert_int_equal(ack(f, 1), 0x42);
    lapic_set_lint(f->apic[1], 0, false);
    eoi(f, 1);
    assert_false(pending(f, 1));
    assert_int_equal(rd(f, 1, LVT_LINT0), 0x08042);
}

static void extint_message_asks_the_pic(void **state) {
    struct fixture *f = *state;

    enable(f);
    assert_true(send(f, (struct apic_msg){.dest = 0, .mode = APIC_EXTINT}));
    assert_true(pending(f, 0));
    assert_int_equal(ack(f, 0), 0x77);
    assert_false(pending(f, 0));
}

static void ferr_drives_its_line(void **state) {
    struct fixture *f = *state;

    ops->ferr(f->apic[0], true);
    assert_true(f->ferr.level);
    ops->ferr(f->apic[0], false);
    assert_false(f->ferr.level);
}

static void virtual_wire(void **state) {
    struct fixture *f = *state;
    struct lapic_config config = {
        .mem = f->mem,
        .clock = &f->clock,
        .bus = f->bus,
        .id = 9,
        .bsp = true,
        .virtual_wire = true,
        .phys_bits = 40,
    };
    struct lapic *l = lapic_new(&config);
    struct device *d = (struct device *)l;

    lapic_connect_pic(l, pic_ack, NULL, (struct irq_line){0});
    lapic_set_lint(l, 0, true);
    assert_true(ops->pending(l));
    assert_int_equal(ops->ack(l), 0x77);
    lapic_set_lint(l, 0, false);
    d->ops->destroy(d);
}

/* --- timer: 1 GHz, so that a count is a nanosecond times the divider --- */

static void one_shot(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_TIMER, 0x30);
    wr(f, 0, DIVIDE, 0x3); /* by 16 */
    wr(f, 0, TIMER_INITIAL, 1000);
    fake_clock_advance(&f->clock, 8000);
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 500);
    fake_clock_advance(&f->clock, 7999);
    assert_false(pending(f, 0));
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(ack(f, 0), 0x30);
    eoi(f, 0);
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 0);
    assert_int_equal(rd(f, 0, TIMER_INITIAL), 1000);
    fake_clock_advance(&f->clock, 1000000);
    assert_false(pending(f, 0));
}

static void dividers(void **state) {
    static const uint8_t code[8] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
    struct fixture *f = *state;

    enable(f);
    for (unsigned i = 0; i < 8; i++) {
        wr(f, 0, DIVIDE, code[i]);
        wr(f, 0, TIMER_INITIAL, 1000000);
        fake_clock_advance(&f->clock, 128 * 10);
        assert_int_equal(rd(f, 0, TIMER_CURRENT), 1000000 - (1280u >> i));
    }
}

static void periodic(void **state) {
    struct fixture *f = *state;
    unsigned count = 0;

    enable(f);
    wr(f, 0, LVT_TIMER, 0x20030);
    wr(f, 0, DIVIDE, 0xb);
    wr(f, 0, TIMER_INITIAL, 100000);
    for (unsigned i = 0; i < 1000; i++) {
        fake_clock_advance(&f->clock, 10000);
        if (!pending(f, 0))
            continue;
        assert_int_equal(ack(f, 0), 0x30);
        eoi(f, 0);
        count++;
    }
    assert_int_equal(count, 100);
    wr(f, 0, TIMER_INITIAL, 0);
    fake_clock_advance(&f->clock, 1000000);
    assert_false(pending(f, 0));
}

static void mode_changes_keep_the_count(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_TIMER, 0x30);
    wr(f, 0, DIVIDE, 0xb);
    wr(f, 0, TIMER_INITIAL, 100000);
    fake_clock_advance(&f->clock, 60000);
    wr(f, 0, LVT_TIMER, 0x20030);
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 40000);
    fake_clock_advance(&f->clock, 50000);
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 90000);
    assert_int_equal(ack(f, 0), 0x30);
    eoi(f, 0);
    wr(f, 0, LVT_TIMER, 0x30);
    fake_clock_advance(&f->clock, 100000);
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 0);
    wr(f, 0, LVT_TIMER, 0x20030); /* a count that has ended does not start again */
    assert_int_equal(rd(f, 0, TIMER_CURRENT), 0);
}

static void a_late_expiry_is_not_lost(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_TIMER, 0x30);
    wr(f, 0, DIVIDE, 0xb);
    wr(f, 0, TIMER_INITIAL, 1000);
    fake_clock_stall(&f->clock, 5000);
    wr(f, 0, TIMER_INITIAL, 1000);
    assert_int_equal(ack(f, 0), 0x30);
}

static void masked_timer_counts_in_silence(void **state) {
    struct fixture *f = *state;

    enable(f);
    wr(f, 0, LVT_TIMER, 0x10030);
    wr(f, 0, DIVIDE, 0xb);
    wr(f, 0, TIMER_INITIAL, 1000);
    fake_clock_advance(&f->clock, 2000);
    wr(f, 0, LVT_TIMER, 0x30);
    assert_false(pending(f, 0));
}

static void deadline(void **state) {
    struct fixture *f = *state;
    uint64_t v = 1;

    enable(f);
    assert_true(wrmsr(f, 0, DEADLINE_MSR, 1)); /* ignored in other modes */
    assert_true(rdmsr(f, 0, DEADLINE_MSR, &v));
    assert_int_equal(v, 0);
    assert_false(pending(f, 0));
    wr(f, 0, LVT_TIMER, 0x40030);
    uint64_t tsc = clock_tsc(&f->clock);
    assert_true(wrmsr(f, 0, DEADLINE_MSR, tsc + 20000)); /* 10 us at 2 GHz */
    assert_true(rdmsr(f, 0, DEADLINE_MSR, &v));
    assert_int_equal(v, tsc + 20000);
    wr(f, 0, TIMER_INITIAL, 5);
    assert_int_equal(rd(f, 0, TIMER_INITIAL), 0);
    fake_clock_advance(&f->clock, 9999);
    assert_false(pending(f, 0));
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(ack(f, 0), 0x30);
    eoi(f, 0);
    assert_true(rdmsr(f, 0, DEADLINE_MSR, &v));
    assert_int_equal(v, 0);
    assert_true(wrmsr(f, 0, DEADLINE_MSR, tsc)); /* passed: at once */
    assert_int_equal(ack(f, 0), 0x30);
    eoi(f, 0);
    assert_true(wrmsr(f, 0, DEADLINE_MSR, UINT64_MAX));
    assert_true(wrmsr(f, 0, DEADLINE_MSR, 0));
    fake_clock_advance(&f->clock, 1000000);
    assert_false(pending(f, 0));
}

static void deadline_is_in_guest_tsc(void **state) {
    struct fixture *f = *state;

    enable(f);
    atomic_store(&f->cpu[0].tsc_offset, -1000);
    wr(f, 0, LVT_TIMER, 0x40030);
    uint64_t tsc = clock_tsc(&f->clock) - 1000;
    assert_true(wrmsr(f, 0, DEADLINE_MSR, tsc + 20000));
    fake_clock_advance(&f->clock, 5000);
    atomic_store(&f->cpu[0].tsc_offset, 1000); /* 1 us nearer */
    ops->tsc_changed(f->apic[0]);
    fake_clock_advance(&f->clock, 3999);
    assert_false(pending(f, 0));
    fake_clock_advance(&f->clock, 1);
    assert_true(pending(f, 0));
    ack(f, 0);
    eoi(f, 0);
    assert_true(wrmsr(f, 0, DEADLINE_MSR, UINT64_MAX - 5));
    atomic_store(&f->cpu[0].tsc_offset, INT64_MIN);
    ops->tsc_changed(f->apic[0]);
    assert_false(pending(f, 0));
}

/* --- x2APIC --- */

static void to_x2apic(struct fixture *f, unsigned cpu) {
    uint64_t base;

    assert_true(rdmsr(f, cpu, BASE_MSR, &base));
    assert_true(wrmsr(f, cpu, BASE_MSR, base | 0x400));
}

static void mode_transitions(void **state) {
    static const struct {
        uint32_t from, to;
        bool legal;
    } cases[] = {
        {0x800, 0xc00, true},  {0x800, 0x000, true},  {0x800, 0x400, false},
        {0xc00, 0x800, false}, {0xc00, 0x400, false}, {0xc00, 0x000, true},
        {0x000, 0xc00, false}, {0x000, 0x400, false}, {0x000, 0x800, true},
    };
    struct fixture *f = *state;
    struct device *d = (struct device *)f->apic[0];

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        d->ops->reset(d);
        assert_true(wrmsr(f, 0, BASE_MSR, 0xfee00100 | cases[i].from));
        assert_int_equal(wrmsr(f, 0, BASE_MSR, 0xfee00100 | cases[i].to), cases[i].legal);
    }
    d->ops->reset(d);
    assert_false(wrmsr(f, 0, BASE_MSR, 0xfee00901));
    assert_false(wrmsr(f, 0, BASE_MSR, 0xfee00b00));
    assert_false(wrmsr(f, 0, BASE_MSR, 1ull << 40 | 0x900));
    assert_true(wrmsr(f, 0, BASE_MSR, 0x1234567900));
    assert_int_equal(ops->mmio_base(f->apic[0]), 0x1234567000);
}

static void x2apic_registers(void **state) {
    struct fixture *f = *state;
    uint64_t v;

    assert_false(rdmsr(f, 2, 0x802, &v));
    to_x2apic(f, 2);
    assert_int_equal(ops->mmio_base(f->apic[2]), UINT64_MAX);
    assert_true(rdmsr(f, 2, 0x802, &v));
    assert_int_equal(v, 2);
    assert_true(rdmsr(f, 2, 0x80d, &v));
    assert_int_equal(v, 4);
    assert_true(wrmsr(f, 2, 0x80f, 0x1ff));
    assert_true(wrmsr(f, 2, 0x808, 0x20));
    assert_true(rdmsr(f, 2, 0x808, &v));
    assert_int_equal(v, 0x20);

    static const uint16_t unreadable[] = {0x800, 0x801, 0x809, 0x80b, 0x80c, 0x80e,
                                          0x831, 0x83f, 0x82f, 0x840, 0x8ff};
    for (size_t i = 0; i < ARRAY_LEN(unreadable); i++)
        assert_false(rdmsr(f, 2, unreadable[i], &v));
    static const uint16_t unwritable[] = {0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810,
                                          0x818, 0x820, 0x831, 0x839, 0x82f, 0x8ff};
    for (size_t i = 0; i < ARRAY_LEN(unwritable); i++)
        assert_false(wrmsr(f, 2, unwritable[i], 0));
    static const struct {
        uint32_t msr;
        uint64_t value;
    } reserved[] = {{0x808, 0x100},      {0x80b, 1},       {0x80f, 0x2000},  {0x828, 1},
                    {0x830, 0x1000},     {0x832, 0x80000}, {0x835, 0x20000}, {0x837, 0x100},
                    {0x838, 1ull << 32}, {0x83e, 4},       {0x83f, 0x100}};
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        assert_false(wrmsr(f, 2, reserved[i].msr, reserved[i].value));
}

static void x2apic_ipis(void **state) {
    struct fixture *f = *state;

    enable(f);
    for (unsigned i = 0; i < CPUS; i++)
        to_x2apic(f, i);
    assert_true(wrmsr(f, 0, 0x830, 3ull << 32 | 0x4041));
    assert_true(pending(f, 3));
    assert_true(wrmsr(f, 0, 0x830, 0x6ull << 32 | 0x4842));
    assert_int_equal(ack(f, 1), 0x42);
    assert_int_equal(ack(f, 2), 0x42);
    assert_false(pending(f, 0));
    assert_true(wrmsr(f, 0, 0x830, 0xffffffffull << 32 | 0x4043));
    assert_int_equal(ack(f, 0), 0x43);
    assert_true(wrmsr(f, 0, 0x830, 0xffull << 32 | 0x4054)); /* not a broadcast here */
    assert_false(pending(f, 0));
    assert_true(wrmsr(f, 0, 0x80b, 0));
    assert_true(wrmsr(f, 0, 0x83f, 0x55));
    assert_int_equal(ack(f, 0), 0x55);
    assert_true(
        send(f, (struct apic_msg){.dest = 0xff, .vector = 0x66})); /* from an I/O APIC it is */
    assert_int_equal(ack(f, 0), 0x66);
}

static void odd_accesses_do_nothing(void **state) {
    struct fixture *f = *state;

    enable(f);
    ops->mmio_write(f->apic[0], TPR, 1, 0x50);
    ops->mmio_write(f->apic[0], TPR + 4, 4, 0x50);
    assert_int_equal(rd(f, 0, TPR), 0);
    assert_int_equal(ops->mmio_read(f->apic[0], VERSION + 2, 1), 0x05);
    assert_int_equal(ops->mmio_read(f->apic[0], VERSION + 4, 4), 0);
    for (unsigned off = 0; off < 4096; off++)
        for (unsigned size = 1; size <= 8; size++)
            ops->mmio_read(f->apic[0], off, size);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct device *from = (struct device *)f->apic[0], *to = (struct device *)f->apic[1];

    enable(f);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x41});
    ack(f, 0);
    send(f, (struct apic_msg){.dest = 0, .vector = 0x82, .level = true});
    wr(f, 0, LVT_TIMER, 0x20093);
    wr(f, 0, DIVIDE, 0xb);
    wr(f, 0, TIMER_INITIAL, 50000);
    fake_clock_advance(&f->clock, 20000);
    copy_state(from, to);
    assert_int_equal(ack(f, 1), 0x82);
    assert_int_equal(rd(f, 1, TIMER_CURRENT), 30000);
    fake_clock_advance(&f->clock, 30000);
    assert_int_equal(ack(f, 1), 0x93);
    refuses_nonsense(to);
}

/* IPIs from two threads at once while the target acknowledges: none is lost. */
#define STORM 20000

static void *storm(void *arg) {
    struct fixture *f = arg;
    struct apic_msg m = {.dest = 0, .vector = 0x90};

    for (unsigned i = 0; i < STORM; i++) {
        m.vector = (uint8_t)(0x90 + i % 64);
        apic_bus_send(f->bus, &m);
    }
    return NULL;
}

static void concurrent_ipis(void **state) {
    struct fixture *f = *state;
    pthread_t thread[2];
    unsigned taken = 0;

    enable(f);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, storm, f), 0);
    for (unsigned i = 0; i < STORM; i++) {
        if (!pending(f, 0))
            continue;
        assert_true(ack(f, 0) >= 0x90);
        eoi(f, 0);
        taken++;
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    while (pending(f, 0)) {
        ack(f, 0);
        eoi(f, 0);
        taken++;
    }
    assert_in_range(taken, 64, 2 * STORM);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(rd(f, 0, IRR + i * 16) | rd(f, 0, ISR + i * 16), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(reset_state),
        TEST(software_disabled_masks_all),
        TEST(delivers_acknowledges_ends),
        TEST(nests_by_class),
        TEST(tpr_holds_back),
        TEST(level_eoi_is_broadcast),
        TEST(shorthands),
        TEST(logical_destinations),
        TEST(lowest_priority),
        TEST(init_and_startup),
        TEST(init_keeps_the_id),
        TEST(errors_are_latched_by_a_write),
        TEST(an_illegal_error_vector_does_not_recurse),
        TEST(lint_extint),
        TEST(lint_is_intr_and_nmi_when_disabled),
        TEST(lint_nmi_and_fixed),
        TEST(extint_message_asks_the_pic),
        TEST(ferr_drives_its_line),
        TEST(virtual_wire),
        TEST(one_shot),
        TEST(dividers),
        TEST(periodic),
        TEST(mode_changes_keep_the_count),
        TEST(a_late_expiry_is_not_lost),
        TEST(masked_timer_counts_in_silence),
        TEST(deadline),
        TEST(deadline_is_in_guest_tsc),
        TEST(mode_transitions),
        TEST(x2apic_registers),
        TEST(x2apic_ipis),
        TEST(odd_accesses_do_nothing),
        TEST(state_moves),
        TEST(concurrent_ipis),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog. */
#include "dev_test.h"

#include <stdlib.h>

#include "dev/i6300esb.h"
#include "dev/pci.h"
#include "fake_clock.h"

enum { DEVFN = PCI_DEVFN(4, 0), GSI = 16 };
#define BAR 0xd0000000ull
#define MS 1000000ull

struct fixture {
    struct mem *mem;
    struct clock clock;
    struct pci_bus *bus;
    struct device *chip;
    struct probe irq;
    unsigned expired;
};

static uint8_t reset_read(void *arg) {
    (void)arg;
    return 0;
}

static void reset_write(void *arg, uint8_t value) {
    (void)arg;
    (void)value;
}

static void on_expired(void *arg) {
    struct fixture *f = arg;

    f->expired++;
}

static struct device *new_chip(struct fixture *f, uint8_t devfn) {
    return (struct device *)i6300esb_new(f->mem, &f->clock, f->bus, devfn, on_expired, f, NULL);
}

static uint64_t config_at(unsigned off) {
    return 0xfeb00000ull + (DEVFN << 12) + off;
}

static void wr(struct fixture *f, uint64_t at, unsigned size, uint32_t v) {
    mem_io_write(f->mem, GPA(at), size, v);
}

static uint32_t rd(struct fixture *f, uint64_t at, unsigned size) {
    return (uint32_t)mem_io_read(f->mem, GPA(at), size);
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    const struct pci_bus_config config = {.reset = {reset_read, reset_write, NULL},
                                          .gsi = probe_line(&f->irq)};

    f->mem = test_mem();
    f->bus = pci_bus_new(f->mem, &config, NULL);
    f->chip = new_chip(f, DEVFN);
    wr(f, config_at(0x10), 4, BAR);
    wr(f, config_at(PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *bus = (struct device *)f->bus;

    f->chip->ops->destroy(f->chip);
    bus->ops->destroy(bus);
    mem_free(f->mem);
    free(f);
    return 0;
}

static void unlock(struct fixture *f) {
    wr(f, BAR + 0xc, 2, 0x80);
    wr(f, BAR + 0xc, 2, 0x86);
}

/* Stages of 1000 periods of 32768 clocks at 33 MHz: 993 ms. */
static void arm(struct fixture *f, uint32_t config) {
    wr(f, config_at(0x60), 2, config);
    for (unsigned i = 0; i < 2; i++) {
        unlock(f);
        wr(f, BAR + 4 * i, 4, 1000);
    }
    wr(f, config_at(0x68), 1, 2);
}

static void reload(struct fixture *f) {
    unlock(f);
    wr(f, BAR + 0xc, 2, 0x100);
}

static void identity(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, config_at(0), 4), 0x25ab8086);
    wr(f, config_at(0x10), 4, UINT32_MAX);
    assert_int_equal(rd(f, config_at(0x10), 4), 0xfffffff0);
    assert_null(new_chip(f, DEVFN));
}

static void two_stages(void **state) {
    struct fixture *f = *state;

    arm(f, 0);
    fake_clock_advance(&f->clock, 990 * MS);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 10 * MS);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, BAR + 8, 4), 1);
    wr(f, BAR + 8, 4, 1);
    assert_false(f->irq.level);
    assert_int_equal(f->expired, 0);
    fake_clock_advance(&f->clock, 1000 * MS);
    assert_int_equal(f->expired, 1);
    assert_int_equal(rd(f, BAR + 0xc, 2), 0x200);
    f->chip->ops->reset(f->chip);
    wr(f, config_at(0x10), 4, BAR);
    wr(f, config_at(PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
    assert_int_equal(rd(f, BAR + 0xc, 2), 0x200); /* remembered */
    unlock(f);
    wr(f, BAR + 0xc, 2, 0x200);
    assert_int_equal(rd(f, BAR + 0xc, 2), 0);
    fake_clock_advance(&f->clock, 100000 * MS);
    assert_int_equal(f->expired, 1);
}

static void a_living_guest(void **state) {
    struct fixture *f = *state;

    arm(f, 3); /* no interrupt */
    for (unsigned i = 0; i < 20; i++) {
        fake_clock_advance(&f->clock, 1900 * MS);
        reload(f);
    }
    assert_int_equal(f->expired, 0);
    assert_int_equal(f->irq.rises, 0);
    wr(f, BAR + 0xc, 2, 0x100); /* without the magic it doesn't count */
    wr(f, BAR + 0xc, 2, 0x86);
    wr(f, BAR + 0xc, 2, 0x80);
    wr(f, BAR + 0xc, 2, 0x100);
    fake_clock_advance(&f->clock, 2000 * MS);
    assert_int_equal(f->expired, 1);
}

static void locks(void **state) {
    struct fixture *f = *state;

    arm(f, 3);
    wr(f, config_at(0x68), 1, 3);
    wr(f, config_at(0x68), 1, 0); /* too late */
    assert_int_equal(rd(f, config_at(0x68), 1), 3);
    fake_clock_advance(&f->clock, 2000 * MS);
    assert_int_equal(f->expired, 1);
}

static void stops(void **state) {
    struct fixture *f = *state;

    arm(f, 3);
    wr(f, config_at(0x68), 1, 0);
    fake_clock_advance(&f->clock, 5000 * MS);
    assert_int_equal(f->expired, 0);
}

static void quick_and_harmless(void **state) {
    struct fixture *f = *state;

    arm(f, 3 | 4); /* 1 us periods: both stages take the least that there is or a millisecond */
    fake_clock_advance(&f->clock, 3 * MS);
    assert_int_equal(f->expired, 1);
    wr(f, config_at(0x68), 1, 0);
    wr(f, config_at(0x60), 2, 3 | 0x20); /* no output, free-running, no time at all */
    for (unsigned i = 0; i < 2; i++) {
        unlock(f);
        wr(f, BAR + 4 * i, 4, 0);
    }
    wr(f, config_at(0x68), 1, 2 | 4);
    fake_clock_advance(&f->clock, 10 * MS);
    assert_int_equal(f->expired, 1);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct device *other = new_chip(f, PCI_DEVFN(5, 0));

    arm(f, 3);
    fake_clock_advance(&f->clock, 1500 * MS);
    wr(f, config_at(PCI_COMMAND), 2, 0); /* the other one's BAR will be at the same place */
    copy_state(f->chip, other);
    f->chip->ops->reset(f->chip);
    fake_clock_advance(&f->clock, 400 * MS);
    assert_int_equal(f->expired, 0);
    fake_clock_advance(&f->clock, 100 * MS);
    assert_int_equal(f->expired, 1);
    refuses_nonsense(other);
    other->ops->destroy(other);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(identity), TEST(two_stages),         TEST(a_living_guest), TEST(locks),
        TEST(stops),    TEST(quick_and_harmless), TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

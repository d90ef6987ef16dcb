/* SPDX-License-Identifier: Apache-2.0 */
/* The keyboard controller as an operating system probes it. */
#include "dev_test.h"

#include <stdlib.h>

#include "base/util.h"
#include "dev/i8042.h"

enum { DATA = 0x60, STATUS = 0x64, PORT_A = 0x92 };
enum { OBF = 0x01, AUX = 0x20, TIMEOUT = 0x40 };

struct fixture {
    struct mem *mem;
    struct probe irq1, irq12;
    unsigned resets;
    struct i8042 *kbc;
};

static void on_reset(void *arg) {
    struct fixture *f = arg;

    f->resets++;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct i8042_config config = {probe_line(&f->irq1), probe_line(&f->irq12), on_reset, f};

    f->mem = test_mem();
    f->kbc = i8042_new(f->mem, &config, NULL);
    assert_non_null(f->kbc);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->kbc;

    d->ops->destroy(d);
    mem_free(f->mem);
    free(f);
    return 0;
}

static void command(struct fixture *f, uint8_t v) {
    outb(f->mem, STATUS, v);
}

/* The answer to the last byte, with the status that came with it. */
static uint8_t answer(struct fixture *f, uint8_t status) {
    assert_int_equal(inb(f->mem, STATUS) & (OBF | AUX | TIMEOUT), status);
    uint8_t v = inb(f->mem, DATA);
    assert_int_equal(inb(f->mem, STATUS) & OBF, 0);
    return v;
}

static void tests_itself(void **state) {
    struct fixture *f = *state;

    assert_int_equal(inb(f->mem, STATUS) & OBF, 0);
    command(f, 0xaa);
    assert_int_equal(answer(f, OBF), 0x55);
    command(f, 0xab);
    assert_int_equal(answer(f, OBF), 0x00);
    command(f, 0xa9);
    assert_int_equal(answer(f, OBF), 0x00);
    assert_int_equal(inb(f->mem, STATUS) & 0x04, 0x04);
}

static void command_byte(void **state) {
    struct fixture *f = *state;

    command(f, 0x60);
    outb(f->mem, DATA, 0x47);
    command(f, 0x20);
    assert_int_equal(answer(f, OBF), 0x47);
    command(f, 0xad);
    command(f, 0xa7);
    command(f, 0x20);
    assert_int_equal(answer(f, OBF), 0x77);
    command(f, 0xae);
    command(f, 0xa8);
    command(f, 0x20);
    assert_int_equal(answer(f, OBF), 0x47);
    command(f, 0x7f); /* the controller's RAM */
    outb(f->mem, DATA, 0xa5);
    command(f, 0x3f);
    assert_int_equal(answer(f, OBF), 0xa5);
}

static void loops_and_interrupts(void **state) {
    struct fixture *f = *state;

    command(f, 0xd3);
    outb(f->mem, DATA, 0x5a);
    assert_false(f->irq12.level); /* not enabled */
    assert_int_equal(answer(f, OBF | AUX), 0x5a);
    command(f, 0x60);
    outb(f->mem, DATA, 0x03);
    command(f, 0xd3);
    outb(f->mem, DATA, 0x5a);
    assert_true(f->irq12.level);
    assert_false(f->irq1.level);
    answer(f, OBF | AUX);
    assert_false(f->irq12.level);
    command(f, 0xd2);
    outb(f->mem, DATA, 0x1c);
    assert_true(f->irq1.level);
    assert_int_equal(answer(f, OBF), 0x1c);
    assert_false(f->irq1.level);
}

static void nobody_is_plugged_in(void **state) {
    struct fixture *f = *state;

    outb(f->mem, DATA, 0xff);
    assert_int_equal(answer(f, OBF | TIMEOUT), 0xfe);
    command(f, 0xd4);
    outb(f->mem, DATA, 0xf2);
    assert_int_equal(answer(f, OBF | AUX | TIMEOUT), 0xfe);
}

static void ways_to_reset(void **state) {
    struct fixture *f = *state;

    command(f, 0xff);
    command(f, 0xfd);
    assert_int_equal(f->resets, 0);
    command(f, 0xfe);
    assert_int_equal(f->resets, 1);
    command(f, 0xd1);
    outb(f->mem, DATA, 0xfe);
    assert_int_equal(f->resets, 2);
    outb(f->mem, PORT_A, 0x01);
    assert_int_equal(f->resets, 3);
    outb(f->mem, PORT_A, 0x01); /* no edge */
    assert_int_equal(f->resets, 3);
}

static void a20_from_both_sides(void **state) {
    struct fixture *f = *state;

    assert_true(i8042_a20(f->kbc));
    command(f, 0xd0);
    assert_int_equal(answer(f, OBF) & 3, 3);
    command(f, 0xd1);
    outb(f->mem, DATA, 0x01);
    assert_false(i8042_a20(f->kbc));
    assert_int_equal(inb(f->mem, PORT_A), 0);
    outb(f->mem, PORT_A, 0x02);
    assert_true(i8042_a20(f->kbc));
    assert_int_equal(inb(f->mem, PORT_A), 2);
    assert_int_equal(f->resets, 0);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe irq1 = {0}, irq12 = {0};
    struct i8042_config config = {probe_line(&irq1), probe_line(&irq12), on_reset, f};
    struct mem *m = test_mem();
    struct i8042 *other = i8042_new(m, &config, NULL);
    struct device *d = (struct device *)other;

    command(f, 0x60);
    outb(f->mem, DATA, 0x01);
    command(f, 0xd2);
    outb(f->mem, DATA, 0x1c);
    command(f, 0x60);
    copy_state((struct device *)f->kbc, d);
    assert_true(irq1.level);
    assert_int_equal(inb(m, DATA), 0x1c);
    outb(m, DATA, 0x74); /* the parameter of the command that was under way */
    outb(m, STATUS, 0x20);
    assert_int_equal(inb(m, DATA), 0x74);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(tests_itself),         TEST(command_byte),  TEST(loops_and_interrupts),
        TEST(nobody_is_plugged_in), TEST(ways_to_reset), TEST(a20_from_both_sides),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

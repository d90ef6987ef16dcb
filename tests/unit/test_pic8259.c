/* SPDX-License-Identifier: Apache-2.0 */
/* The pair of 8259As (Intel 8259A data sheet): priorities, modes, spurious interrupts. */
#include "dev_test.h"

#include <stdlib.h>

#include "base/util.h"
#include "dev/pic8259.h"

enum { MASTER = 0x20, SLAVE = 0xa0, ELCR = 0x4d0 };
enum { EOI = 0x20, SPECIFIC_EOI = 0x60 };

struct fixture {
    struct mem *mem;
    struct probe intr;
    struct pic8259 *pic;
};

static void init_chip(struct mem *m, uint16_t port, uint8_t vector, uint8_t icw3, uint8_t icw4) {
    outb(m, port, 0x11);
    outb(m, port + 1, vector);
    outb(m, port + 1, icw3);
    outb(m, port + 1, icw4);
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->pic = pic8259_new(f->mem, probe_line(&f->intr), NULL);
    assert_non_null(f->pic);
    init_chip(f->mem, MASTER, 0x30, 0x04, 0x01);
    init_chip(f->mem, SLAVE, 0x38, 0x02, 0x01);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->pic;

    d->ops->destroy(d);
    mem_free(f->mem);
    free(f);
    return 0;
}

static void raise_irq(struct fixture *f, unsigned irq) {
    pic8259_set_irq(f->pic, irq, true);
}

static void lower_irq(struct fixture *f, unsigned irq) {
    pic8259_set_irq(f->pic, irq, false);
}

static uint8_t read_isr(struct fixture *f, uint16_t port) {
    outb(f->mem, port, 0x0b);
    return inb(f->mem, port);
}

static uint8_t read_irr(struct fixture *f, uint16_t port) {
    outb(f->mem, port, 0x0a);
    return inb(f->mem, port);
}

static void masked_until_programmed(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->pic;

    d->ops->reset(d);
    raise_irq(f, 0);
    raise_irq(f, 9);
    assert_false(f->intr.level);
    assert_int_equal(inb(f->mem, MASTER + 1), 0xff);
}

static void an_edge_is_one_interrupt(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 4);
    assert_true(f->intr.level);
    assert_int_equal(pic8259_ack(f->pic), 0x34);
    assert_false(f->intr.level);
    assert_int_equal(read_isr(f, MASTER), 0x10);
    outb(f->mem, MASTER, EOI);
    assert_int_equal(read_isr(f, MASTER), 0);
    assert_false(f->intr.level); /* still high, but no new edge */
    lower_irq(f, 4);
    raise_irq(f, 4);
    assert_true(f->intr.level);
}

static void a_level_asks_again(void **state) {
    struct fixture *f = *state;

    outb(f->mem, ELCR, 0xff);
    outb(f->mem, ELCR + 1, 0xff);
    assert_int_equal(inb(f->mem, ELCR), 0xf8);
    assert_int_equal(inb(f->mem, ELCR + 1), 0xde);
    raise_irq(f, 5);
    assert_int_equal(pic8259_ack(f->pic), 0x35);
    outb(f->mem, MASTER, EOI);
    assert_true(f->intr.level);
    lower_irq(f, 5);
    assert_false(f->intr.level);
}

static void nested_by_priority(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 4);
    assert_int_equal(pic8259_ack(f->pic), 0x34);
    raise_irq(f, 6);
    assert_false(f->intr.level);
    raise_irq(f, 1);
    assert_int_equal(pic8259_ack(f->pic), 0x31);
    outb(f->mem, MASTER, EOI); /* the highest in service: IR1 */
    assert_int_equal(read_isr(f, MASTER), 0x10);
    assert_false(f->intr.level);
    outb(f->mem, MASTER, EOI);
    assert_int_equal(pic8259_ack(f->pic), 0x36);
}

static void slave_comes_through_ir2(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 14);
    raise_irq(f, 8);
    assert_int_equal(pic8259_ack(f->pic), 0x38);
    assert_int_equal(read_isr(f, MASTER), 0x04);
    assert_int_equal(read_isr(f, SLAVE), 0x01);
    assert_false(f->intr.level);
    outb(f->mem, SLAVE, EOI);
    outb(f->mem, MASTER, EOI);
    assert_int_equal(pic8259_ack(f->pic), 0x3e);
}

static void special_fully_nested_mode(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 14);
    assert_int_equal(pic8259_ack(f->pic), 0x3e);
    raise_irq(f, 9); /* higher on the slave, but the master has IR2 in service */
    assert_false(f->intr.level);
    lower_irq(f, 14);
    lower_irq(f, 9);
    init_chip(f->mem, SLAVE, 0x38, 0x02, 0x01);
    init_chip(f->mem, MASTER, 0x30, 0x04, 0x11);
    raise_irq(f, 14);
    assert_int_equal(pic8259_ack(f->pic), 0x3e);
    raise_irq(f, 9);
    assert_int_equal(pic8259_ack(f->pic), 0x39);
}

static void request_that_goes_away_is_spurious(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 3);
    lower_irq(f, 3);
    assert_false(f->intr.level);
    assert_int_equal(pic8259_ack(f->pic), 0x37);
    assert_int_equal(read_isr(f, MASTER), 0);
}

static void masking_withdraws_the_request(void **state) {
    struct fixture *f = *state;

    outb(f->mem, ELCR + 1, 0x02);
    raise_irq(f, 9);
    outb(f->mem, MASTER + 1, 0x04);
    outb(f->mem, SLAVE + 1, 0xff);
    assert_false(f->intr.level);
    assert_int_equal(pic8259_ack(f->pic), 0x37);
    outb(f->mem, SLAVE + 1, 0x00);
    outb(f->mem, MASTER + 1, 0x00);
    assert_int_equal(pic8259_ack(f->pic), 0x39);
}

static void rotation_makes_the_served_the_lowest(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 3);
    assert_int_equal(pic8259_ack(f->pic), 0x33);
    outb(f->mem, MASTER, 0xa0);
    lower_irq(f, 3);
    raise_irq(f, 3);
    raise_irq(f, 4);
    assert_int_equal(pic8259_ack(f->pic), 0x34); /* IR4 is the highest now */
    outb(f->mem, MASTER, SPECIFIC_EOI | 4);
    outb(f->mem, MASTER, 0xc2); /* IR2 the lowest, IR3 the highest */
    lower_irq(f, 4);
    raise_irq(f, 4);
    assert_int_equal(pic8259_ack(f->pic), 0x33);
}

static void automatic_eoi(void **state) {
    struct fixture *f = *state;

    init_chip(f->mem, MASTER, 0x30, 0x04, 0x03);
    raise_irq(f, 1);
    assert_int_equal(pic8259_ack(f->pic), 0x31);
    assert_int_equal(read_isr(f, MASTER), 0);
    outb(f->mem, MASTER, 0x80); /* rotate in automatic EOI mode */
    lower_irq(f, 1);
    raise_irq(f, 1);
    assert_int_equal(pic8259_ack(f->pic), 0x31);
    lower_irq(f, 1);
    raise_irq(f, 1);
    raise_irq(f, 7);
    assert_int_equal(pic8259_ack(f->pic), 0x37);
    assert_int_equal(pic8259_ack(f->pic), 0x31);
}

static void special_mask_mode(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 4);
    assert_int_equal(pic8259_ack(f->pic), 0x34);
    outb(f->mem, MASTER + 1, 0x10);
    raise_irq(f, 6);
    assert_false(f->intr.level);
    outb(f->mem, MASTER, 0x68);
    assert_int_equal(pic8259_ack(f->pic), 0x36);
    outb(f->mem, MASTER, EOI); /* reaches IR6; IR4 is masked */
    assert_int_equal(read_isr(f, MASTER), 0x10);
    outb(f->mem, MASTER, EOI);
    assert_int_equal(read_isr(f, MASTER), 0x10);
    outb(f->mem, MASTER, 0x48);
    outb(f->mem, MASTER, EOI);
    assert_int_equal(read_isr(f, MASTER), 0);
}

static void poll_acknowledges(void **state) {
    struct fixture *f = *state;

    outb(f->mem, MASTER, 0x0c);
    assert_int_equal(inb(f->mem, MASTER), 0);
    raise_irq(f, 5);
    outb(f->mem, MASTER, 0x0c);
    assert_int_equal(inb(f->mem, MASTER), 0x85);
    assert_false(f->intr.level);
    assert_int_equal(read_isr(f, MASTER), 0x20);
    assert_int_equal(read_irr(f, MASTER), 0);
}

static void icw1_starts_over(void **state) {
    struct fixture *f = *state;

    raise_irq(f, 4);
    outb(f->mem, MASTER + 1, 0xef);
    assert_int_equal(inb(f->mem, MASTER + 1), 0xef);
    outb(f->mem, MASTER, 0x11);
    assert_int_equal(inb(f->mem, MASTER + 1), 0); /* the mask is cleared */
    assert_int_equal(inb(f->mem, MASTER), 0);     /* IRR; the line needs a new edge */
    raise_irq(f, 5);
    assert_false(f->intr.level); /* not before the last ICW */
    outb(f->mem, MASTER + 1, 0x40);
    outb(f->mem, MASTER + 1, 0x04);
    outb(f->mem, MASTER + 1, 0x01);
    assert_int_equal(pic8259_ack(f->pic), 0x45);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe intr = {0};
    struct mem *m = test_mem();
    struct pic8259 *other = pic8259_new(m, probe_line(&intr), NULL);
    struct device *d = (struct device *)other;

    raise_irq(f, 3);
    raise_irq(f, 12);
    assert_int_equal(pic8259_ack(f->pic), 0x3c);
    raise_irq(f, 1);
    copy_state((struct device *)f->pic, d);
    assert_true(intr.level);
    assert_int_equal(pic8259_ack(other), 0x31);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(masked_until_programmed),
        TEST(an_edge_is_one_interrupt),
        TEST(a_level_asks_again),
        TEST(nested_by_priority),
        TEST(slave_comes_through_ir2),
        TEST(special_fully_nested_mode),
        TEST(request_that_goes_away_is_spurious),
        TEST(masking_withdraws_the_request),
        TEST(rotation_makes_the_served_the_lowest),
        TEST(automatic_eoi),
        TEST(special_mask_mode),
        TEST(poll_acknowledges),
        TEST(icw1_starts_over),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

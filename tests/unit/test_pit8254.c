/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254 (Intel data sheet 231164): modes, formats, latches; and port B. */
#include "dev_test.h"
#include "fake_clock.h"

#include "dev/pit8254.h"

enum { C0 = 0x40, C2 = 0x42, CONTROL = 0x43, PORTB = 0x61 };
enum { OUT2 = 0x20, GATE2 = 0x01 };

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct probe irq;
    struct pit8254 *pit;
};

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->pit = pit8254_new(f->mem, &f->clock, probe_line(&f->irq), NULL);
    assert_non_null(f->pit);
    fake_clock_advance(&f->clock, NS_PER_S);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->pit;

    d->ops->destroy(d);
    assert_null(f->clock.timers);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint64_t clocks(const struct fixture *f) {
    return (uint64_t)((unsigned __int128)f->clock.now * PIT8254_HZ / NS_PER_S);
}

/* Moves on to the moment at which n more clocks have passed. */
static void tick(struct fixture *f, uint64_t n) {
    uint64_t at = clocks(f) + n;
    uint64_t ns = (uint64_t)(((unsigned __int128)at * NS_PER_S + PIT8254_HZ - 1) / PIT8254_HZ);

    fake_clock_advance(&f->clock, ns - f->clock.now);
    assert_int_equal(clocks(f), at);
}

static void load2(struct fixture *f, unsigned mode, bool bcd, uint16_t count) {
    outb(f->mem, CONTROL, (uint8_t)(0xb0 | mode << 1 | bcd));
    outb(f->mem, C2, (uint8_t)count);
    outb(f->mem, C2, (uint8_t)(count >> 8));
}

static unsigned count2(struct fixture *f) {
    outb(f->mem, CONTROL, 0x80);
    unsigned low = inb(f->mem, C2);
    return low | (unsigned)inb(f->mem, C2) << 8;
}

static bool out2(struct fixture *f) {
    return inb(f->mem, PORTB) & OUT2;
}

static uint8_t status2(struct fixture *f) {
    outb(f->mem, CONTROL, 0xe8);
    return inb(f->mem, C2);
}

static void mode_0_interrupts_at_n_plus_1(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 0, false, 5);
    assert_false(out2(f));
    tick(f, 1);
    assert_int_equal(count2(f), 5);
    tick(f, 4);
    assert_int_equal(count2(f), 1);
    assert_false(out2(f));
    tick(f, 1);
    assert_true(out2(f));
    tick(f, 1);
    assert_int_equal(count2(f), 0xffff);
    assert_true(out2(f));
}

static void mode_0_stops_with_the_gate_and_the_first_byte(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 0, false, 100);
    tick(f, 11);
    outb(f->mem, PORTB, 0);
    tick(f, 1000);
    assert_int_equal(count2(f), 90);
    outb(f->mem, PORTB, GATE2);
    tick(f, 5);
    assert_int_equal(count2(f), 85);
    outb(f->mem, C2, 3);
    tick(f, 1000);
    assert_false(out2(f));
    outb(f->mem, C2, 0);
    tick(f, 4);
    assert_true(out2(f));
}

static void mode_1_waits_for_the_gate(void **state) {
    struct fixture *f = *state;

    load2(f, 1, false, 10);
    tick(f, 50);
    assert_true(out2(f));
    outb(f->mem, PORTB, GATE2);
    tick(f, 1);
    assert_false(out2(f));
    outb(f->mem, PORTB, 0);
    tick(f, 8);
    outb(f->mem, PORTB, GATE2); /* retriggers */
    tick(f, 10);
    assert_false(out2(f));
    tick(f, 1);
    assert_true(out2(f));
}

static void mode_2_is_low_for_the_last_clock(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 2, false, 4);
    tick(f, 1);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(count2(f), 4 - i % 4);
        assert_int_equal(out2(f), i % 4 != 3);
        tick(f, 1);
    }
}

static void mode_2_takes_a_new_count_at_the_end(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 2, false, 100);
    tick(f, 11);
    outb(f->mem, C2, 50);
    outb(f->mem, C2, 0);
    assert_int_equal(status2(f), 0xf4); /* OUT, null count, both bytes, mode 2 */
    assert_int_equal(count2(f), 90);
    tick(f, 90);
    assert_int_equal(count2(f), 50);
    assert_int_equal(status2(f), 0xb4);
}

static void mode_2_starts_over_with_the_gate(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 2, false, 100);
    tick(f, 100);
    assert_false(out2(f));
    outb(f->mem, PORTB, 0);
    assert_true(out2(f));
    outb(f->mem, PORTB, GATE2);
    tick(f, 1);
    assert_int_equal(count2(f), 100);
}

static void mode_3_is_a_square_wave(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 3, false, 6);
    tick(f, 1);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(count2(f), 6 - 2 * (i % 3));
        assert_int_equal(out2(f), i % 6 < 3);
        tick(f, 1);
    }
    static const uint8_t counts[5] = {4, 2, 0, 4, 2}; /* odd: one clock longer high */
    load2(f, 3, false, 5);
    tick(f, 1);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(count2(f), counts[i % 5]);
        assert_int_equal(out2(f), i % 5 < 3);
        tick(f, 1);
    }
}

static void modes_4_and_5_strobe(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 4, false, 3);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(out2(f), i != 4);
        tick(f, 1);
    }
    outb(f->mem, PORTB, 0);
    load2(f, 5, false, 3);
    tick(f, 20);
    assert_true(out2(f));
    outb(f->mem, PORTB, GATE2);
    tick(f, 4);
    assert_false(out2(f));
    tick(f, 1);
    assert_true(out2(f));
}

static void bcd(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 0, true, 0x1000);
    tick(f, 2);
    assert_int_equal(count2(f), 0x0999);
    tick(f, 1000);
    assert_int_equal(count2(f), 0x9999);
    load2(f, 0, true, 0);
    tick(f, 2);
    assert_int_equal(count2(f), 0x9999);
    assert_false(out2(f));
}

static void latch_holds_until_read(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 2, false, 0x1234);
    tick(f, 1);
    outb(f->mem, CONTROL, 0x80);
    tick(f, 50);
    outb(f->mem, CONTROL, 0x80); /* ignored */
    assert_int_equal(inb(f->mem, C2), 0x34);
    tick(f, 50);
    assert_int_equal(inb(f->mem, C2), 0x12);
    assert_int_equal(count2(f), 0x1234 - 100);
}

static void read_back_gives_status_then_count(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    outb(f->mem, CONTROL, 0xb4);
    assert_int_equal(status2(f), 0xf4); /* null: nothing was loaded */
    outb(f->mem, C2, 0x00);
    outb(f->mem, C2, 0x02);
    tick(f, 1);
    outb(f->mem, CONTROL, 0xc8);
    assert_int_equal(inb(f->mem, C2), 0xb4);
    assert_int_equal(inb(f->mem, C2), 0x00);
    assert_int_equal(inb(f->mem, C2), 0x02);
}

static void single_byte_formats(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    outb(f->mem, CONTROL, 0x94); /* LSB only */
    outb(f->mem, C2, 0x80);
    tick(f, 1);
    assert_int_equal(inb(f->mem, C2), 0x80);
    assert_int_equal(inb(f->mem, C2), 0x80);
    outb(f->mem, CONTROL, 0xa4); /* MSB only */
    outb(f->mem, C2, 0x80);
    tick(f, 2);
    assert_int_equal(inb(f->mem, C2), 0x7f);
}

static void program0(struct fixture *f, uint8_t control, uint16_t count) {
    outb(f->mem, CONTROL, control);
    outb(f->mem, C0, (uint8_t)count);
    outb(f->mem, C0, (uint8_t)(count >> 8));
}

static void counter_0_interrupts_periodically(void **state) {
    struct fixture *f = *state;

    program0(f, 0x34, 11932); /* 100 Hz */
    unsigned before = f->irq.rises;
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_in_range(f->irq.rises - before, 99, 100);
}

/* A host that comes ten periods late delivers ten ticks, soon after each other, and then goes on as
 * before. */
static void late_ticks_are_delivered(void **state) {
    struct fixture *f = *state;

    program0(f, 0x34, 11932);
    unsigned before = f->irq.rises;
    fake_clock_stall(&f->clock, NS_PER_S / 10 + 1000000);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(f->irq.rises - before, 1);
    fake_clock_advance(&f->clock, 3000000);
    assert_int_equal(f->irq.rises - before, 10);
    fake_clock_advance(&f->clock, 20000000);
    assert_int_equal(f->irq.rises - before, 12);
    fake_clock_stall(&f->clock, 3600 * NS_PER_S); /* a host that slept does not owe an hour */
    before = f->irq.rises;
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_in_range(f->irq.rises - before, 1000, 1101);
}

/* A rise that has happened is not lost when the guest programs the counter before it was seen. */
static void a_late_rise_is_not_lost(void **state) {
    struct fixture *f = *state;

    program0(f, 0x34, 11932);
    unsigned before = f->irq.rises;
    fake_clock_stall(&f->clock, 12000000);
    outb(f->mem, CONTROL, 0x34);
    assert_int_equal(f->irq.rises - before, 1);
}

static void mode_3_takes_a_new_count_at_the_half(void **state) {
    struct fixture *f = *state;

    outb(f->mem, PORTB, GATE2);
    load2(f, 3, false, 100);
    tick(f, 1 + 1000 + 10);
    outb(f->mem, C2, 20); /* in the high half: the low half is of the new count already */
    outb(f->mem, C2, 0);
    tick(f, 39);
    assert_true(out2(f));
    tick(f, 1);
    assert_false(out2(f));
    assert_int_equal(count2(f), 20);
    tick(f, 9);
    assert_false(out2(f));
    tick(f, 1 + 10 + 3);
    assert_false(out2(f));
    outb(f->mem, C2, 40); /* in the low half: at its end */
    outb(f->mem, C2, 0);
    tick(f, 6);
    assert_false(out2(f));
    tick(f, 1 + 19);
    assert_true(out2(f));
    tick(f, 1);
    assert_false(out2(f));
}

/* What is written late in a counter's life is taken at the end of that period, not of its first. */
static void counter_0_keeps_its_phase(void **state) {
    struct fixture *f = *state;

    program0(f, 0x34, 1000);
    tick(f, 1 + 5000 + 400);
    outb(f->mem, C0, 2000 & 0xff);
    outb(f->mem, C0, 2000 >> 8);
    unsigned before = f->irq.rises;
    tick(f, 599);
    assert_int_equal(f->irq.rises - before, 0);
    tick(f, 1);
    assert_int_equal(f->irq.rises - before, 1);
    tick(f, 1999);
    assert_int_equal(f->irq.rises - before, 1);
    tick(f, 1);
    assert_int_equal(f->irq.rises - before, 2);
}

static void counter_0_interrupts_once(void **state) {
    struct fixture *f = *state;

    program0(f, 0x30, 1193);
    assert_false(f->irq.level);
    unsigned before = f->irq.rises;
    tick(f, 1193);
    assert_false(f->irq.level);
    tick(f, 1);
    assert_true(f->irq.level);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_int_equal(f->irq.rises - before, 1);
    program0(f, 0x38, 1193); /* mode 4: a pulse */
    before = f->irq.rises;
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_int_equal(f->irq.rises - before, 1);
}

static void refresh_toggles_every_15_us(void **state) {
    struct fixture *f = *state;
    unsigned changes = 0;
    uint8_t last = inb(f->mem, PORTB) & 0x10;

    for (unsigned us = 0; us < 1500; us++) {
        fake_clock_advance(&f->clock, 1000);
        uint8_t now = inb(f->mem, PORTB) & 0x10;
        changes += now != last;
        last = now;
    }
    assert_in_range(changes, 98, 101);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe irq = {0};
    struct mem *m = test_mem();
    struct pit8254 *other = pit8254_new(m, &f->clock, probe_line(&irq), NULL);
    struct device *d = (struct device *)other;

    program0(f, 0x34, 1193);
    outb(f->mem, PORTB, GATE2);
    load2(f, 3, false, 5000);
    tick(f, 100);
    copy_state((struct device *)f->pit, d);
    fake_clock_advance(&f->clock, 100000000);
    assert_in_range(irq.rises, 99, 101);
    outb(m, CONTROL, 0x80);
    outb(f->mem, CONTROL, 0x80);
    assert_int_equal(inb(m, C2), inb(f->mem, C2));
    assert_int_equal(inb(m, C2), inb(f->mem, C2));
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(mode_0_interrupts_at_n_plus_1),
        TEST(mode_0_stops_with_the_gate_and_the_first_byte),
        TEST(mode_1_waits_for_the_gate),
        TEST(mode_2_is_low_for_the_last_clock),
        TEST(mode_2_takes_a_new_count_at_the_end),
        TEST(mode_2_starts_over_with_the_gate),
        TEST(mode_3_is_a_square_wave),
        TEST(modes_4_and_5_strobe),
        TEST(bcd),
        TEST(latch_holds_until_read),
        TEST(read_back_gives_status_then_count),
        TEST(single_byte_formats),
        TEST(counter_0_interrupts_periodically),
        TEST(late_ticks_are_delivered),
        TEST(a_late_rise_is_not_lost),
        TEST(counter_0_keeps_its_phase),
        TEST(mode_3_takes_a_new_count_at_the_half),
        TEST(counter_0_interrupts_once),
        TEST(refresh_toggles_every_15_us),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

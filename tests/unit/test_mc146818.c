/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock (MC146818 data sheet) and what firmware reads from CMOS. */
#include "dev_test.h"
#include "fake_clock.h"

#include <time.h>

#include "dev/mc146818.h"

enum { SEC, SEC_ALARM, MIN_, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, DAY, MONTH, YEAR, A, B, C, D };
enum { CENTURY = 0x32 };

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct probe irq;
    struct mc146818 *rtc;
};

/* 2024-02-29 23:59:58.5 UTC, a Thursday. */
#define START (1709251198ull * NS_PER_S + NS_PER_S / 2)

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct mc146818_config config = {.ram_low = 3ull << 30, .ram_high = 5ull << 30};

    f->clock.wall = START;
    f->mem = test_mem();
    f->rtc = mc146818_new(f->mem, &f->clock, probe_line(&f->irq), &config, NULL);
    assert_non_null(f->rtc);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->rtc;

    d->ops->destroy(d);
    assert_null(f->clock.timers);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint8_t rd(struct fixture *f, uint8_t reg) {
    outb(f->mem, 0x70, reg);
    return inb(f->mem, 0x71);
}

static void wr(struct fixture *f, uint8_t reg, uint8_t v) {
    outb(f->mem, 0x70, reg);
    outb(f->mem, 0x71, v);
}

static void assert_time(struct fixture *f, unsigned century, unsigned year, unsigned month,
                        unsigned day, unsigned hour, unsigned min, unsigned sec) {
    assert_int_equal(rd(f, CENTURY), century);
    assert_int_equal(rd(f, YEAR), year);
    assert_int_equal(rd(f, MONTH), month);
    assert_int_equal(rd(f, DAY), day);
    assert_int_equal(rd(f, HOUR), hour);
    assert_int_equal(rd(f, MIN_), min);
    assert_int_equal(rd(f, SEC), sec);
}

static void tells_utc(void **state) {
    struct fixture *f = *state;

    assert_time(f, 0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58);
    assert_int_equal(rd(f, WDAY), 5);
    assert_int_equal(rd(f, D), 0x80);
    fake_clock_advance(&f->clock, 2 * NS_PER_S);
    assert_time(f, 0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00);
    assert_int_equal(rd(f, WDAY), 6);
}

/* Against the host's own calendar. */
static void every_day_of_a_century(void **state) {
    struct fixture *f = *state;

    wr(f, B, 0x06);
    for (unsigned i = 0; i < 36600; i += 3) {
        f->clock.now = i * 86400ull * NS_PER_S;
        time_t t = (time_t)(clock_wall(&f->clock) / NS_PER_S);
        struct tm tm;
        gmtime_r(&t, &tm);
        assert_time(f, (unsigned)(tm.tm_year + 1900) / 100, (unsigned)(tm.tm_year + 1900) % 100,
                    (unsigned)tm.tm_mon + 1, (unsigned)tm.tm_mday, (unsigned)tm.tm_hour,
                    (unsigned)tm.tm_min, (unsigned)tm.tm_sec);
        assert_int_equal(rd(f, WDAY), tm.tm_wday + 1);
    }
}

static void formats(void **state) {
    struct fixture *f = *state;

    wr(f, B, 0x06); /* binary, 24 hours */
    assert_time(f, 20, 24, 2, 29, 23, 59, 58);
    wr(f, B, 0x00); /* BCD, 12 hours */
    assert_int_equal(rd(f, HOUR), 0x91);
    wr(f, B, 0x04);
    assert_int_equal(rd(f, HOUR), 0x8b);
    fake_clock_advance(&f->clock, 2 * NS_PER_S);
    assert_int_equal(rd(f, HOUR), 12); /* midnight is 12 AM */
    fake_clock_advance(&f->clock, 12 * 3600 * NS_PER_S);
    assert_int_equal(rd(f, HOUR), 0x8c);
}

static void can_be_set(void **state) {
    struct fixture *f = *state;

    wr(f, B, 0x82);
    wr(f, CENTURY, 0x19);
    wr(f, YEAR, 0x99);
    wr(f, MONTH, 0x12);
    wr(f, DAY, 0x31);
    wr(f, HOUR, 0x23);
    wr(f, MIN_, 0x59);
    wr(f, SEC, 0x59);
    wr(f, WDAY, 0x01); /* the guest's own idea of the weekday is kept */
    fake_clock_advance(&f->clock, 5 * NS_PER_S);
    assert_time(f, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59); /* stands while SET */
    wr(f, B, 0x02);
    assert_time(f, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_time(f, 0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    assert_int_equal(rd(f, WDAY), 0x02);
    wr(f, HOUR, 0x13); /* without SET */
    assert_time(f, 0x20, 0x00, 0x01, 0x01, 0x13, 0x00, 0x00);
}

static void nonsense_is_harmless(void **state) {
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        wr(f, B, (uint8_t)(0x80 | v));
        for (uint8_t reg = 0; reg < 10; reg++)
            wr(f, reg, (uint8_t)(v * 7 + reg));
        wr(f, CENTURY, (uint8_t)v);
        wr(f, B, (uint8_t)(v & 0x7f));
        fake_clock_advance(&f->clock, NS_PER_S);
        rd(f, C);
    }
}

static void update_in_progress_before_the_second(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, A), 0x26);
    fake_clock_advance(&f->clock, 499700000);
    assert_int_equal(rd(f, A), 0x26);
    fake_clock_advance(&f->clock, 100000);
    assert_int_equal(rd(f, A), 0xa6);
    wr(f, B, 0x82);
    assert_int_equal(rd(f, A), 0x26);
    wr(f, B, 0x02);
    fake_clock_advance(&f->clock, 200000);
    assert_int_equal(rd(f, A), 0x26);
}

static void update_ended_interrupt(void **state) {
    struct fixture *f = *state;

    rd(f, C);
    wr(f, B, 0x12);
    fake_clock_advance(&f->clock, 499999999);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 1);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, C) & 0x90, 0x90);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 10 * NS_PER_S); /* nobody answers */
    assert_int_equal(f->irq.rises, 2);
    assert_int_equal(rd(f, C) & 0x90, 0x90);
}

static void periodic_rates(void **state) {
    static const struct {
        uint8_t rate;
        unsigned hz;
    } cases[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {15, 2}};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        wr(f, B, 0x02);
        wr(f, A, 0x20 | cases[i].rate);
        rd(f, C);
        wr(f, B, 0x42);
        unsigned count = 0;
        for (unsigned us = 0; us < 1000000; us += 50) {
            fake_clock_advance(&f->clock, 50000);
            if (f->irq.level) {
                assert_int_equal(rd(f, C) & 0xc0, 0xc0);
                count++;
            }
        }
        assert_in_range(count, cases[i].hz - 1, cases[i].hz + 1);
    }
    wr(f, A, 0x20);
    rd(f, C);
    fake_clock_advance(&f->clock, 10 * NS_PER_S);
    assert_false(f->irq.level);
}

static void alarm_at_a_time(void **state) {
    struct fixture *f = *state;

    wr(f, HOUR_ALARM, 0x01);
    wr(f, MIN_ALARM, 0x02);
    wr(f, SEC_ALARM, 0x03);
    rd(f, C);
    wr(f, B, 0x22);
    fake_clock_advance(&f->clock, 1500000000 + 3723 * NS_PER_S - 1);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 1);
    assert_true(f->irq.level);
    assert_time(f, 0x20, 0x24, 0x03, 0x01, 0x01, 0x02, 0x03);
    assert_int_equal(rd(f, C) & 0xa0, 0xa0);
    fake_clock_advance(&f->clock, 86399 * NS_PER_S);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_true(f->irq.level);
}

static void alarm_with_wild_cards(void **state) {
    struct fixture *f = *state;

    wr(f, HOUR_ALARM, 0xff);
    wr(f, MIN_ALARM, 0xc0);
    wr(f, SEC_ALARM, 0x30);
    rd(f, C);
    wr(f, B, 0x22);
    for (unsigned minute = 0; minute < 5; minute++) {
        unsigned before = f->irq.rises;
        fake_clock_advance(&f->clock, 60 * NS_PER_S);
        assert_int_equal(f->irq.rises - before, 1);
        rd(f, C);
    }
    wr(f, SEC_ALARM, 0x7a); /* never */
    fake_clock_advance(&f->clock, 90000 * NS_PER_S);
    assert_int_equal(rd(f, C) & 0x20, 0);
}

static void flags_without_interrupts(void **state) {
    struct fixture *f = *state;

    rd(f, C);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_int_equal(rd(f, C) & 0xd0, 0x50); /* PF and UF, no IRQF */
    assert_int_equal(rd(f, C), 0);
}

static void memory_sizes(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, 0x15) | rd(f, 0x16) << 8, 640);
    assert_int_equal(rd(f, 0x17) | rd(f, 0x18) << 8, 0xffff);
    assert_int_equal(rd(f, 0x30) | rd(f, 0x31) << 8, 0xffff);
    assert_int_equal(rd(f, 0x34) | rd(f, 0x35) << 8, ((3u << 20) - 16384) / 64);
    assert_int_equal(rd(f, 0x5b) | rd(f, 0x5c) << 8 | rd(f, 0x5d) << 16, 5u << 14);
}

static void cmos_survives_reset(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->rtc;

    wr(f, 0x0f, 0x0a);
    wr(f, 0x8f, 0x0b); /* the same byte, NMIs off */
    assert_true(mc146818_nmi_disabled(f->rtc));
    wr(f, B, 0x72);
    d->ops->reset(d);
    assert_false(mc146818_nmi_disabled(f->rtc));
    assert_int_equal(rd(f, 0x0f), 0x0b);
    assert_int_equal(rd(f, B), 0x02);
    wr(f, D, 0);
    assert_int_equal(rd(f, D), 0x80);
    assert_int_equal(inb(f->mem, 0x70), 0xff);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe irq = {0};
    struct mem *m = test_mem();
    struct mc146818_config config = {0};
    struct mc146818 *other = mc146818_new(m, &f->clock, probe_line(&irq), &config, NULL);
    struct device *d = (struct device *)other;

    wr(f, HOUR, 0x12);
    wr(f, B, 0x12);
    rd(f, C);
    copy_state((struct device *)f->rtc, d);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_true(irq.level);
    outb(m, 0x70, HOUR);
    assert_int_equal(inb(m, 0x71), 0x12);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(tells_utc),
        TEST(every_day_of_a_century),
        TEST(formats),
        TEST(can_be_set),
        TEST(nonsense_is_harmless),
        TEST(update_in_progress_before_the_second),
        TEST(update_ended_interrupt),
        TEST(periodic_rates),
        TEST(alarm_at_a_time),
        TEST(alarm_with_wild_cards),
        TEST(flags_without_interrupts),
        TEST(memory_sizes),
        TEST(cmos_survives_reset),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The HPET (IA-PC HPET specification 1.0a). */
#include "dev_test.h"
#include "fake_clock.h"

#include "dev/hpet.h"
#include "dev/pc_layout.h"

enum {
    CAP = 0x000,
    CONF = 0x010,
    STATUS = 0x020,
    COUNTER = 0x0f0,
    T0 = 0x100,
    T1 = 0x120,
    T2 = 0x140
};
enum { T_CMP = 8 };
enum { LEVEL = 0x2, ENABLE = 0x4, PERIODIC = 0x8, VAL_SET = 0x40, MODE32 = 0x100 };
#define ROUTE(pin) ((uint64_t)(pin) << 9)

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct probe pit, rtc, gsi;
    struct hpet *hpet;
};

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->hpet = hpet_new(f->mem, &f->clock, probe_line(&f->pit), probe_line(&f->rtc),
                       probe_line(&f->gsi), NULL);
    assert_non_null(f->hpet);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->hpet;

    d->ops->destroy(d);
    assert_null(f->clock.timers);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint64_t rd(struct fixture *f, uint64_t reg) {
    return mem_io_read(f->mem, GPA(PC_HPET_BASE + reg), 8);
}

static void wr(struct fixture *f, uint64_t reg, uint64_t v) {
    mem_io_write(f->mem, GPA(PC_HPET_BASE + reg), 8, v);
}

static void wr32(struct fixture *f, uint64_t reg, uint32_t v) {
    mem_io_write(f->mem, GPA(PC_HPET_BASE + reg), 4, v);
}

static void capabilities(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, CAP), 10000000ull << 32 | 0x8086a201);
    wr(f, CAP, 0);
    assert_int_equal(mem_io_read(f->mem, GPA(PC_HPET_BASE + CAP + 4), 4), 10000000);
    for (uint64_t t = T0; t <= T2; t += 0x20) {
        assert_int_equal(rd(f, t), 0x00f0000000000030);
        assert_int_equal(rd(f, t + T_CMP), UINT64_MAX);
        assert_int_equal(rd(f, t + 0x10), 0);
    }
    assert_int_equal(rd(f, 0x160), 0); /* there is no timer 3 */
}

static void counter_runs_while_enabled(void **state) {
    struct fixture *f = *state;

    wr(f, COUNTER, 500);
    fake_clock_advance(&f->clock, 1000);
    assert_int_equal(rd(f, COUNTER), 500);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 1000);
    assert_int_equal(rd(f, COUNTER), 600);
    wr(f, COUNTER, 0); /* not while it runs */
    assert_int_equal(rd(f, COUNTER), 600);
    wr(f, CONF, 0);
    fake_clock_advance(&f->clock, 1000);
    assert_int_equal(rd(f, COUNTER), 600);
    wr32(f, COUNTER + 4, 7);
    assert_int_equal(rd(f, COUNTER), 7ull << 32 | 600);
}

static void one_shot_edge(void **state) {
    struct fixture *f = *state;

    wr(f, T0, ENABLE | ROUTE(20));
    wr(f, T0 + T_CMP, 100);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 999);
    assert_int_equal(f->gsi.rises, 0);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(f->gsi.rises, 1);
    assert_int_equal(f->gsi.pin, 20);
    assert_int_equal(rd(f, STATUS), 0);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_int_equal(f->gsi.rises, 1);
}

static void a_32_bit_timer_wraps(void **state) {
    struct fixture *f = *state;

    wr(f, COUNTER, 0xfffffff0);
    wr(f, T1, ENABLE | MODE32 | ROUTE(21));
    wr(f, T1 + T_CMP, 0x1234500000010);
    assert_int_equal(rd(f, T1 + T_CMP), 0x10);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 320);
    assert_int_equal(f->gsi.rises, 1);
    fake_clock_advance(&f->clock, 42949672960);
    assert_int_equal(f->gsi.rises, 2);
}

static void a_level_stays_until_status_is_written(void **state) {
    struct fixture *f = *state;

    wr(f, T2, ENABLE | LEVEL | ROUTE(23));
    wr(f, T2 + T_CMP, 100);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 1000);
    assert_true(f->gsi.level);
    assert_int_equal(rd(f, STATUS), 4);
    wr32(f, STATUS + 4, 0xffffffff);
    wr(f, STATUS, 3);
    assert_true(f->gsi.level);
    wr(f, STATUS, 4);
    assert_false(f->gsi.level);
    assert_int_equal(rd(f, STATUS), 0);
}

/* As Linux sets it: VAL_SET, the first match, then the period. */
static void periodic(void **state) {
    struct fixture *f = *state;

    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 12345);
    wr32(f, T0, ENABLE | PERIODIC | VAL_SET | MODE32 | ROUTE(20));
    wr32(f, T0 + T_CMP, (uint32_t)rd(f, COUNTER) + 5000);
    wr32(f, T0 + T_CMP, 10000);
    assert_int_equal(rd(f, T0) & VAL_SET, 0);
    fake_clock_advance(&f->clock, 50000);
    assert_int_equal(f->gsi.rises, 1);
    fake_clock_advance(&f->clock, 100000);
    assert_int_equal(f->gsi.rises, 2);
    fake_clock_advance(&f->clock, 10000000);
    assert_int_equal(f->gsi.rises, 102);
    fake_clock_stall(&f->clock, 1000000);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(f->gsi.rises, 103); /* what was missed follows */
    assert_true(rd(f, T0 + T_CMP) > rd(f, COUNTER));
}

static void a_late_match_is_not_lost(void **state) {
    struct fixture *f = *state;

    wr(f, T0, ENABLE | ROUTE(20));
    wr(f, T0 + T_CMP, 100);
    wr(f, CONF, 1);
    fake_clock_stall(&f->clock, 5000);
    wr(f, T0 + T_CMP, 10000);
    assert_int_equal(f->gsi.rises, 1);
}

/* A host that comes ten periods late delivers ten ticks, soon after each other, and then goes on as
 * before. */
static void late_ticks_are_delivered(void **state) {
    struct fixture *f = *state;
    const uint64_t period = 400000; /* of 10 ns: 4 ms */

    wr(f, T0, ENABLE | PERIODIC | VAL_SET | ROUTE(20));
    wr(f, T0 + T_CMP, period);
    wr(f, T0 + T_CMP, period);
    wr(f, CONF, 1);
    fake_clock_stall(&f->clock, 10 * period * 10);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(f->gsi.rises, 1);
    fake_clock_advance(&f->clock, 3000000);
    assert_int_equal(f->gsi.rises, 10);
    fake_clock_advance(&f->clock, 2 * period * 10);
    assert_int_equal(f->gsi.rises, 12);
}

static void legacy_replacement(void **state) {
    struct fixture *f = *state;

    hpet_pit_in(f->hpet, 0, true);
    hpet_rtc_in(f->hpet, 0, true);
    assert_true(f->pit.level && f->rtc.level);
    wr(f, T0, ENABLE);
    wr(f, T0 + T_CMP, 100);
    wr(f, T1, ENABLE | LEVEL);
    wr(f, T1 + T_CMP, 200);
    wr(f, CONF, 3);
    assert_false(f->pit.level || f->rtc.level);
    hpet_pit_in(f->hpet, 0, false);
    hpet_pit_in(f->hpet, 0, true);
    assert_false(f->pit.level); /* the 8254 is cut off */
    fake_clock_advance(&f->clock, 1000);
    assert_true(f->pit.level);
    assert_false(f->rtc.level);
    fake_clock_advance(&f->clock, 1000);
    assert_true(f->rtc.level);
    wr(f, STATUS, 2);
    assert_false(f->rtc.level);
    assert_int_equal(f->gsi.rises, 0);
    hpet_rtc_in(f->hpet, 0, false);
    wr(f, CONF, 1);
    assert_true(f->pit.level); /* as the 8254 has it */
    assert_false(f->rtc.level);
}

static void unroutable_is_silent(void **state) {
    struct fixture *f = *state;

    wr(f, T0, ENABLE | ROUTE(3));
    wr(f, T0 + T_CMP, 100);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 10000);
    assert_int_equal(f->gsi.rises, 0);
    for (uint64_t reg = 0; reg < PC_HPET_SIZE; reg += 4) {
        wr32(f, reg, UINT32_MAX);
        fake_clock_advance(&f->clock, 1000000);
    }
    fake_clock_advance(&f->clock, NS_PER_S);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe pit = {0}, rtc = {0}, gsi = {0};
    struct mem *m = test_mem();
    struct hpet *other =
        hpet_new(m, &f->clock, probe_line(&pit), probe_line(&rtc), probe_line(&gsi), NULL);
    struct device *d = (struct device *)other;

    wr(f, T0, ENABLE | PERIODIC | VAL_SET | ROUTE(22));
    wr(f, T0 + T_CMP, 10000);
    wr(f, CONF, 1);
    fake_clock_advance(&f->clock, 150000);
    copy_state((struct device *)f->hpet, d);
    assert_int_equal(mem_io_read(m, GPA(PC_HPET_BASE + COUNTER), 8), 15000);
    fake_clock_advance(&f->clock, 100000);
    assert_int_equal(gsi.rises, 1);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(capabilities),
        TEST(counter_runs_while_enabled),
        TEST(one_shot_edge),
        TEST(a_32_bit_timer_wraps),
        TEST(a_level_stays_until_status_is_written),
        TEST(periodic),
        TEST(a_late_match_is_not_lost),
        TEST(late_ticks_are_delivered),
        TEST(legacy_replacement),
        TEST(unroutable_is_silent),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

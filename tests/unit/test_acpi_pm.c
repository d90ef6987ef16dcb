/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware (ACPI 6.4, 4.8) and the reset control register. */
#include "dev_test.h"
#include "fake_clock.h"

#include "dev/acpi_pm.h"
#include "dev/pc_layout.h"

enum { STS = PC_PM1A_EVT, EN = PC_PM1A_EVT + 2, CNT = PC_PM1A_CNT, TMR = PC_PM_TMR };

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct probe sci;
    unsigned power_offs, resets;
    struct acpi_pm *pm;
};

static void on_power_off(void *arg) {
    struct fixture *f = arg;

    f->power_offs++;
}

static void on_reset(void *arg) {
    struct fixture *f = arg;

    f->resets++;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct acpi_pm_events events = {on_power_off, on_reset, f};

    f->mem = test_mem();
    f->pm = acpi_pm_new(f->mem, &f->clock, probe_line(&f->sci), &events, NULL);
    assert_non_null(f->pm);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->pm;

    d->ops->destroy(d);
    assert_null(f->clock.timers);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint32_t rd(struct fixture *f, uint16_t port, unsigned size) {
    return mem_port_read(f->mem, port, size);
}

static void wr(struct fixture *f, uint16_t port, unsigned size, uint32_t v) {
    mem_port_write(f->mem, port, size, v);
}

static void timer_runs_at_its_frequency(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, TMR, 4), 0);
    fake_clock_advance(&f->clock, NS_PER_S);
    assert_int_equal(rd(f, TMR, 4), 3579545);
    fake_clock_advance(&f->clock, 9 * NS_PER_S);
    assert_int_equal(rd(f, TMR, 4), 35795450 & 0xffffff); /* 24 bits */
    wr(f, TMR, 4, 0);
    assert_int_equal(rd(f, TMR, 4), 35795450 & 0xffffff);
}

static void timer_status_with_the_top_bit(void **state) {
    struct fixture *f = *state;
    uint64_t half = ((1ull << 23) * NS_PER_S + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;

    wr(f, EN, 2, 1);
    fake_clock_advance(&f->clock, half - 1);
    assert_int_equal(rd(f, STS, 2), 0);
    assert_false(f->sci.level);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(rd(f, STS, 2), 1);
    assert_true(f->sci.level);
    wr(f, STS, 2, 1);
    assert_int_equal(rd(f, STS, 2), 0);
    assert_false(f->sci.level);
    fake_clock_advance(&f->clock, half); /* from 1 to 0 counts too */
    assert_true(f->sci.level);
    wr(f, EN, 2, 0);
    assert_false(f->sci.level);
    assert_int_equal(rd(f, STS, 2), 1); /* set whether enabled or not */
}

static void power_button(void **state) {
    struct fixture *f = *state;

    acpi_pm_power_button(f->pm);
    assert_int_equal(rd(f, STS, 2), 0x100);
    assert_false(f->sci.level);
    wr(f, EN, 2, 0xffff);
    assert_int_equal(rd(f, EN, 2), 0x521);
    assert_true(f->sci.level);
    wr(f, STS + 1, 1, 0x01); /* a byte at a time */
    assert_int_equal(rd(f, STS, 2), 0);
    assert_int_equal(rd(f, EN, 2), 0x521);
    assert_false(f->sci.level);
}

static void rtc_alarm(void **state) {
    struct fixture *f = *state;

    wr(f, EN, 2, 1 << 10);
    acpi_pm_rtc_in(f->pm, 0, true);
    assert_int_equal(rd(f, STS, 2), 0x400);
    assert_true(f->sci.level);
    acpi_pm_rtc_in(f->pm, 0, false);
    assert_int_equal(rd(f, STS, 2), 0x400); /* kept until it is cleared */
    acpi_pm_rtc_in(f->pm, 0, true);
    wr(f, STS, 2, 0x400);
    assert_false(f->sci.level);
    acpi_pm_rtc_in(f->pm, 0, true); /* no edge */
    assert_int_equal(rd(f, STS, 2), 0);
}

static void sleep_states(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, CNT, 2), 1); /* SCI_EN */
    wr(f, CNT, 2, 0);
    assert_int_equal(rd(f, CNT, 2), 1);
    wr(f, CNT, 2, PC_SLP_TYP_S5 << 10);
    wr(f, CNT, 2, 1 << 13 | 3 << 10);
    assert_int_equal(f->power_offs, 0);
    wr(f, CNT, 2, 1 << 13 | PC_SLP_TYP_S5 << 10);
    assert_int_equal(f->power_offs, 1);
    assert_int_equal(rd(f, CNT, 2), 1 | PC_SLP_TYP_S5 << 10); /* SLP_EN is write-only */
}

static void general_events(void **state) {
    struct fixture *f = *state;

    acpi_pm_event(f->pm, 9);
    assert_int_equal(rd(f, PC_GPE0, 4), 0x0200);
    assert_false(f->sci.level);
    wr(f, PC_GPE0 + 3, 1, 0x02);
    assert_true(f->sci.level);
    wr(f, PC_GPE0 + 1, 1, 0xfd); /* a zero clears nothing */
    assert_true(f->sci.level);
    wr(f, PC_GPE0 + 1, 1, 0x02);
    assert_false(f->sci.level);
    acpi_pm_event(f->pm, 9);
    assert_true(f->sci.level);
    wr(f, PC_GPE0 + 3, 1, 0);
    assert_false(f->sci.level);
    assert_int_equal(rd(f, PC_GPE0, 4), 0x0200);
}

static void gpe0_is_empty(void **state) {
    struct fixture *f = *state;

    wr(f, PC_GPE0, 4, UINT32_MAX);
    assert_int_equal(rd(f, PC_GPE0, 4), 0xffff0000);
    assert_false(f->sci.level);
}

static void reset_control(void **state) {
    struct fixture *f = *state;

    acpi_pm_reset_write(f->pm, 0x02);
    assert_int_equal(f->resets, 0);
    acpi_pm_reset_write(f->pm, 0x06);
    assert_int_equal(f->resets, 1);
    acpi_pm_reset_write(f->pm, 0xff);
    assert_int_equal(f->resets, 1); /* no edge */
    assert_int_equal(acpi_pm_reset_read(f->pm), 0x0e);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct acpi_pm_events events = {on_power_off, on_reset, f};
    struct probe sci = {0};
    struct mem *m = test_mem();
    struct acpi_pm *other = acpi_pm_new(m, &f->clock, probe_line(&sci), &events, NULL);
    struct device *d = (struct device *)other;

    acpi_pm_power_button(f->pm);
    wr(f, EN, 2, 0x100);
    copy_state((struct device *)f->pm, d);
    assert_true(sci.level);
    d->ops->reset(d);
    assert_false(sci.level);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(timer_runs_at_its_frequency),
        TEST(timer_status_with_the_top_bit),
        TEST(power_button),
        TEST(rtc_alarm),
        TEST(sleep_states),
        TEST(general_events),
        TEST(gpe0_is_empty),
        TEST(reset_control),
        TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

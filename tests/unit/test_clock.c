/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's time: pausing, timers in guest time, the time-stamp counter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/loop.h"

#define MS 1000000ull

static struct loop *loop;
static struct clock *clk;

static int setup(void **state) {
    (void)state;
    loop = loop_new(NULL);
    clk = clock_new(loop);
    return loop && clk ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    clock_free(clk);
    loop_free(loop);
    return 0;
}

static uint64_t distance(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

static void starts_at_zero_and_runs(void **state) {
    (void)state;
    uint64_t a = clock_now(clk);
    assert_true(a < 10000 * MS);
    usleep(2000);
    assert_true(clock_now(clk) >= a + 2 * MS);
}

static void wall_clock(void **state) {
    (void)state;
    assert_true(distance(clock_wall(clk) / NS_PER_S, (uint64_t)time(NULL)) <= 1);
}

static void pause_stops_both_counters(void **state) {
    (void)state;
    clock_pause(clk);
    clock_pause(clk);
    uint64_t ns = clock_now(clk), tsc = clock_tsc(clk);
    usleep(3000);
    assert_true(clock_now(clk) == ns);
    assert_true(clock_tsc(clk) == tsc);

    uint64_t before = mono_now();
    clock_resume(clk);
    uint64_t later = clock_now(clk);
    assert_true(later >= ns && later - ns <= mono_now() - before);
    assert_true(clock_tsc(clk) >= tsc);
    usleep(1000);
    assert_true(clock_now(clk) >= ns + MS);
    assert_true(clock_tsc(clk) >= tsc + clock_tsc_hz(clk) / 1000);
}

static void tsc_keeps_pace(void **state) {
    uint64_t hz = clock_tsc_hz(clk);

    (void)state;
    assert_true(hz >= 500000000);
    assert_int_equal(hz % 1000, 0);
    uint64_t ns = clock_now(clk), tsc = clock_tsc(clk);
    usleep(50000);
    ns = clock_now(clk) - ns;
    tsc = clock_tsc(clk) - tsc;
    uint64_t want = (uint64_t)((unsigned __int128)ns * hz / NS_PER_S);
    /* One in a hundred: this machine may have been busy between two lines. */
    assert_true(distance(tsc, want) < want / 100);
}

static void tsc_is_the_hosts_plus_an_offset(void **state) {
    (void)state;
    if (!clock_tsc_is_host(clk)) {
        assert_int_equal(clock_tsc_hz(clk), NS_PER_S);
        return;
    }
    uint64_t a = clock_tsc(clk);
    uint64_t b = __rdtsc() + (uint64_t)clock_tsc_offset(clk);
    uint64_t c = clock_tsc(clk);
    assert_true(a <= b && b <= c);
}

static void tsc_to_ns(void **state) {
    uint64_t hz = clock_tsc_hz(clk);

    (void)state;
    clock_pause(clk);
    uint64_t tsc = clock_tsc(clk), ns = clock_now(clk);
    assert_true(clock_tsc_to_ns(clk, tsc + hz) == ns + NS_PER_S);
    assert_true(clock_tsc_to_ns(clk, tsc + 1) == ns + 1);
    assert_true(clock_tsc_to_ns(clk, tsc) == ns);
    assert_true(clock_tsc_to_ns(clk, 0) == ns);
    assert_true(clock_tsc_to_ns(clk, UINT64_MAX) > ns);
}

static uint64_t fired_at;
static int fired;

static void fire(void *arg) {
    (void)arg;
    fired++;
    fired_at = clock_now(clk);
    loop_stop(loop);
}

static void stop(void *arg) {
    (void)arg;
    loop_stop(loop);
}

static void timer_fires_once_and_not_early(void **state) {
    struct timer *t = timer_new(clk, fire, NULL), *end = timer_new(clk, stop, NULL);

    (void)state;
    fired = 0;
    uint64_t when = clock_now(clk) + 3 * MS;
    timer_arm(t, when);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_true(fired_at >= when);
    timer_arm(end, clock_now(clk) + 3 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(fired, 1);
    timer_free(t);
    timer_free(end);
}

static void disarmed_and_far_timers_are_silent(void **state) {
    struct timer *a = timer_new(clk, fire, NULL), *b = timer_new(clk, fire, NULL);
    struct timer *end = timer_new(clk, stop, NULL);

    (void)state;
    fired = 0;
    timer_arm(a, 0);
    timer_disarm(a);
    timer_arm(b, UINT64_MAX);
    timer_arm(end, clock_now(clk) + 2 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(fired, 0);
    timer_free(b);
    timer_free(a);
    timer_free(end);
}

static void pausing_holds_timers_back(void **state) {
    struct timer *t = timer_new(clk, fire, NULL);
    struct loop_timer *host = loop_timer_new(loop, stop, NULL);

    (void)state;
    fired = 0;
    uint64_t when = clock_now(clk) + 2 * MS;
    timer_arm(t, when);
    clock_pause(clk);
    loop_timer_arm(host, mono_now() + 6 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(fired, 0);

    timer_arm(t, when + MS); /* arming while paused counts too */
    clock_resume(clk);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(fired, 1);
    assert_true(fired_at >= when + MS);
    timer_free(t);
    loop_timer_free(host);
}

static struct timer *own;

static void free_self(void *arg) {
    (void)arg;
    timer_free(own);
    loop_stop(loop);
}

static void a_timer_may_free_itself(void **state) {
    (void)state;
    own = timer_new(clk, free_self, NULL);
    timer_arm(own, 0);
    assert_int_equal(loop_run(loop, NULL), 0);
}

static void *hammer(void *timer) {
    for (int i = 0; i < 3000; i++) {
        timer_arm(timer, clock_now(clk) + (unsigned)i % 4 * 500);
        if (i % 3 == 0)
            timer_disarm(timer);
        if (i % 100 == 0) {
            clock_pause(clk);
            clock_resume(clk);
        }
    }
    loop_stop(loop);
    return NULL;
}

static void nothing(void *arg) {
    (void)arg;
}

static void other_threads_arm_while_it_runs(void **state) {
    struct timer *t = timer_new(clk, nothing, NULL);
    pthread_t thread;

    (void)state;
    pthread_create(&thread, NULL, hammer, t);
    assert_int_equal(loop_run(loop, NULL), 0);
    pthread_join(thread, NULL);
    timer_free(t);
}

#define clock_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        clock_test(starts_at_zero_and_runs),         clock_test(wall_clock),
        clock_test(pause_stops_both_counters),       clock_test(tsc_keeps_pace),
        clock_test(tsc_is_the_hosts_plus_an_offset), clock_test(tsc_to_ns),
        clock_test(timer_fires_once_and_not_early),  clock_test(disarmed_and_far_timers_are_silent),
        clock_test(pausing_holds_timers_back),       clock_test(a_timer_may_free_itself),
        clock_test(other_threads_arm_while_it_runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: descriptors, calls, timers, and what callbacks may do to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#define MS 1000000ull

static struct loop *loop;

static int setup(void **state) {
    (void)state;
    loop = loop_new(NULL);
    return loop ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    loop_free(loop);
    return 0;
}

static void stop(void *arg) {
    (void)arg;
    loop_stop(loop);
}

static void stop_is_remembered_once(void **state) {
    (void)state;
    loop_stop(loop);
    assert_int_equal(loop_run(loop, NULL), 0);
    uint64_t before = mono_now();
    struct loop_timer *t = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(t, before + 5 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_true(mono_now() >= before + 5 * MS);
    loop_timer_free(t);
}

static void on_signal(int sig) {
    (void)sig;
    loop_stop(loop);
}

static void *signal_soon(void *main_thread) {
    usleep(2000);
    pthread_kill(*(pthread_t *)main_thread, SIGUSR1);
    return NULL;
}

static void stop_from_a_signal_handler(void **state) {
    struct sigaction sa = {.sa_handler = on_signal};
    pthread_t thread, self = pthread_self();

    (void)state;
    sigaction(SIGUSR1, &sa, NULL);
    pthread_create(&thread, NULL, signal_soon, &self);
    assert_int_equal(loop_run(loop, NULL), 0);
    pthread_join(thread, NULL);
}

struct order {
    char seen[16];
    size_t n;
};

static struct order order;

static void see(void *arg) {
    order.seen[order.n++] = *(const char *)arg;
}

static char name_of[] = "abcdef";

static void timers_fire_in_order(void **state) {
    struct loop_timer *t[6];
    static const unsigned at[] = {5, 1, 3, 1, 4, 2};
    uint64_t now = mono_now();

    (void)state;
    order = (struct order){0};
    for (int i = 0; i < 6; i++) {
        t[i] = loop_timer_new(loop, see, &name_of[i]);
        loop_timer_arm(t[i], now + at[i] * MS);
    }
    loop_timer_disarm(t[2]);
    loop_timer_disarm(t[2]);
    loop_timer_arm(t[3], now + 6 * MS); /* replaces */
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(end, now + 7 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_string_equal(order.seen, "bfead");
    for (int i = 0; i < 6; i++)
        loop_timer_free(t[i]);
    loop_timer_free(end);
}

static uint64_t last_when;
static int rounds;

static void not_before_the_last(void *arg) {
    assert_true(*(uint64_t *)arg >= last_when);
    last_when = *(uint64_t *)arg;
    rounds++;
}

static void heap_of_many(void **state) {
    struct loop_timer *t[200];
    uint64_t when[ARRAY_LEN(t)];
    unsigned seed = 1;

    (void)state;
    /* Disarming from anywhere in the heap must leave the rest in order. */
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        when[i] = 1 + (uint64_t)rand_r(&seed) % 1000;
        t[i] = loop_timer_new(loop, not_before_the_last, &when[i]);
        loop_timer_arm(t[i], when[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        if (i % 4)
            loop_timer_disarm(t[i]);
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(end, 1001);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(rounds, 50);
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        loop_timer_free(t[i]);
    loop_timer_free(end);
}

static struct loop_timer *again;

static void always_due(void *arg) {
    (void)arg;
    rounds++;
    loop_timer_arm(again, 0);
}

static void a_timer_due_at_once_starves_nobody(void **state) {
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);

    (void)state;
    rounds = 0;
    again = loop_timer_new(loop, always_due, NULL);
    loop_timer_arm(again, 0);
    loop_timer_arm(end, mono_now() + 2 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_true(rounds > 1);
    loop_timer_free(again);
    loop_timer_free(end);
}

static struct loop_timer *victim;

static void free_victim(void *self) {
    loop_timer_free(victim);
    loop_timer_free(*(struct loop_timer **)self);
    loop_stop(loop);
}

static void never(void *arg) {
    (void)arg;
    fail();
}

static void timers_may_free_timers(void **state) {
    struct loop_timer *t = loop_timer_new(loop, free_victim, &t);

    (void)state;
    victim = loop_timer_new(loop, never, NULL);
    loop_timer_arm(t, 1);
    loop_timer_arm(victim, 2);
    assert_int_equal(loop_run(loop, NULL), 0);
}

static void calls_keep_their_order(void **state) {
    (void)state;
    order = (struct order){0};
    for (int i = 0; i < 4; i++)
        loop_call(loop, see, &name_of[i]);
    loop_call(loop, stop, NULL);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_string_equal(order.seen, "abcd");
    loop_call(loop, see, NULL); /* dropped with the loop */
}

static struct loop_fd *pair[2];

static void read_and_delete_both(void *arg, int fd, uint32_t events) {
    (void)arg;
    (void)fd;
    assert_true(events & EPOLLIN);
    rounds++;
    loop_del_fd(pair[0]);
    loop_del_fd(pair[1]);
    loop_stop(loop);
}

static void a_deleted_descriptor_is_not_called(void **state) {
    int a[2], b[2];

    (void)state;
    rounds = 0;
    assert_int_equal(pipe(a) | pipe(b), 0);
    pair[0] = loop_add_fd(loop, a[0], EPOLLIN, read_and_delete_both, NULL, NULL);
    pair[1] = loop_add_fd(loop, b[0], EPOLLIN, read_and_delete_both, NULL, NULL);
    assert_int_equal(write(a[1], "x", 1) + write(b[1], "x", 1), 2);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(rounds, 1);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

static void count_event(void *arg, int fd, uint32_t events) {
    (void)fd;
    (void)events;
    if (++*(int *)arg == 3)
        loop_stop(loop);
}

static void events_can_be_masked(void **state) {
    int p[2], count = 0;

    (void)state;
    assert_int_equal(pipe(p), 0);
    struct loop_fd *f = loop_add_fd(loop, p[1], 0, count_event, &count, NULL);
    struct loop_timer *t = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(t, mono_now() + 2 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(count, 0);
    loop_mod_fd(f, EPOLLOUT);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(count, 3);
    loop_del_fd(f);
    loop_timer_free(t);
    close(p[0]);
    close(p[1]);
}

static void dev_null_is_always_ready(void **state) {
    int count = 0;
    cleanup_close int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    struct loop_fd *f = loop_add_fd(loop, fd, EPOLLIN, count_event, &count, &e);
    assert_non_null(f);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(count, 3);
    loop_mod_fd(f, 0);
    struct loop_timer *t = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(t, mono_now() + 2 * MS);
    assert_int_equal(loop_run(loop, NULL), 0);
    assert_int_equal(count, 3);
    loop_del_fd(f);
    loop_timer_free(t);
}

static void bad_descriptor(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_null(loop_add_fd(loop, 9999, EPOLLIN, count_event, NULL, &e));
    assert_string_equal(err_msg(&e), "event loop: descriptor 9999: Bad file descriptor");
}

static _Atomic int fired;

static void count_fired(void *arg) {
    (void)arg;
    fired++;
}

static void *arm_and_disarm(void *timer) {
    for (int i = 0; i < 2000; i++) {
        loop_timer_arm(timer, mono_now() + (unsigned)i % 3 * 1000);
        if (i % 5 == 0)
            loop_timer_disarm(timer);
        loop_call(loop, count_fired, NULL);
    }
    loop_timer_arm(timer, 1);
    return NULL;
}

static void *arm_all(void *arg) {
    pthread_t threads[3];
    struct loop_timer **timers = arg;

    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, arm_and_disarm, timers[i]);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    loop_call(loop, stop, NULL);
    return NULL;
}

static void other_threads_arm_and_call(void **state) {
    struct loop_timer *timers[3];
    pthread_t thread;

    (void)state;
    for (int i = 0; i < 3; i++)
        timers[i] = loop_timer_new(loop, count_fired, NULL);
    pthread_create(&thread, NULL, arm_all, timers);
    assert_int_equal(loop_run(loop, NULL), 0);
    pthread_join(thread, NULL);
    assert_true(fired >= 6000);
    for (int i = 0; i < 3; i++)
        loop_timer_free(timers[i]);
}

#define loop_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        loop_test(stop_is_remembered_once),
        loop_test(stop_from_a_signal_handler),
        loop_test(timers_fire_in_order),
        loop_test(heap_of_many),
        loop_test(a_timer_due_at_once_starves_nobody),
        loop_test(timers_may_free_timers),
        loop_test(calls_keep_their_order),
        loop_test(a_deleted_descriptor_is_not_called),
        loop_test(events_can_be_masked),
        loop_test(dev_null_is_always_ready),
        loop_test(bad_descriptor),
        loop_test(other_threads_arm_and_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

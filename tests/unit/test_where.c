/* SPDX-License-Identifier: Apache-2.0 */
/* Samples of where a thread spends its processor time, and what it waits for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "base/loop.h"
#include "base/where.h"

static uint64_t processor_ns(void) {
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void burn(unsigned ms) {
    uint64_t end = processor_ns() + ms * 1000000ull;

    while (processor_ns() < end)
        ;
}

static void *work(void *arg) {
    struct where_profile *p = arg;

    assert_true(where_watch(p));
    where_go(WHERE_DEVICE);
    burn(60);
    assert_int_equal(where_go(WHERE_WALK), WHERE_DEVICE);
    burn(120);
    where_code_lies(16, 16); /* not here */
    where_go(WHERE_CODE);
    burn(60);
    where_code_lies(0, UINT64_MAX);
    burn(60);
    where_unwatch();
    burn(60);
    return NULL;
}

static void samples(void **state) {
    struct where_profile p = {0};
    pthread_t t;

    (void)state;
    assert_int_equal(pthread_create(&t, NULL, work, &p), 0);
    pthread_join(t, NULL);
    for (enum where w = 0; w < WHERES; w++) {
        bool was = w == WHERE_DEVICE || w == WHERE_WALK || w == WHERE_SWITCH || w == WHERE_CODE;
        uint64_t ms = w == WHERE_WALK ? 120 : 60;

        if (was) /* a sample is about a millisecond; the tick that takes it may be 10 */
            assert_in_range(p.samples[w], ms / 2, 2 * ms);
        else
            assert_in_range(p.samples[w], 0, 15);
    }
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static _Atomic bool about_to_wait;

static void *wait_for_it(void *arg) {
    where_watch(arg);
    about_to_wait = true;
    where_lock(&lock);
    pthread_mutex_unlock(&lock);
    where_lock(&lock);
    pthread_mutex_unlock(&lock);
    where_unwatch();
    return NULL;
}

static uint64_t wait_once(unsigned ms) {
    struct where_profile p = {0};
    pthread_t t;

    about_to_wait = false;
    pthread_mutex_lock(&lock);
    assert_int_equal(pthread_create(&t, NULL, wait_for_it, &p), 0);
    while (!about_to_wait)
        sched_yield();
    nanosleep(&(struct timespec){0, ms * 1000000l}, NULL);
    pthread_mutex_unlock(&lock);
    pthread_join(t, NULL);
    return p.waited_ns;
}

/* A busy host may keep the thread from waiting at all. */
static void waiting(void **state) {
    uint64_t longest = 0;

    (void)state;
    for (unsigned n = 0; n < 10 && longest < 20000000; n++)
        longest = wait_once(50);
    assert_in_range(longest, 20000000, 60000000000);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(samples), cmocka_unit_test(waiting)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

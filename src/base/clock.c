/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's time: host counters minus what passed before the machine was made and while it was
 * paused. Readers take no lock: each counter's state is one word that says whether it runs, and
 * with what offset, or at what value it stands.
 */
#include "base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/loop.h"
#include "base/tsc.h"
#include "base/util.h"

/* value * 2 while running (value: to add to the host's counter), value * 2 + 1 while standing at
 * it. */
typedef _Atomic int64_t counter_t;

struct clock {
    struct loop *loop;
    uint64_t tsc_hz;
    bool tsc_is_host;
    counter_t ns;
    counter_t tsc; /* where tsc_is_host */

    pthread_mutex_t lock; /* pausing, and what follows */
    bool paused;
    struct timer *timers;
};

struct timer {
    struct clock *clock;
    struct timer *prev, *next;
    struct loop_timer *host;
    timer_fn *fn;
    void *arg;
    bool armed;
    uint64_t when;
};

static uint64_t counter_read(const counter_t *c, uint64_t (*host)(void)) {
    int64_t state = atomic_load_explicit(c, memory_order_acquire);
    uint64_t value = (uint64_t)(state >> 1);

    return state & 1 ? value : host() + value;
}

static void counter_run_from(counter_t *c, uint64_t value, uint64_t (*host)(void)) {
    atomic_store_explicit(c, (int64_t)((value - host()) << 1), memory_order_release);
}

static void counter_stand_at(counter_t *c, uint64_t value) {
    atomic_store_explicit(c, (int64_t)(value << 1 | 1), memory_order_release);
}

struct clock *clock_new(struct loop *loop) {
    struct clock *c = xcalloc(1, sizeof(*c));

    c->loop = loop;
    pthread_mutex_init(&c->lock, NULL);
    uint64_t hz = tsc_host_hz();
    c->tsc_is_host = hz != 0;
    c->tsc_hz = hz ? hz : NS_PER_S;
    counter_run_from(&c->ns, 0, mono_now);
    counter_run_from(&c->tsc, 0, tsc_host_read);
    return c;
}

void clock_free(struct clock *c) {
    if (!c)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

uint64_t clock_now(const struct clock *c) {
    return counter_read(&c->ns, mono_now);
}

uint64_t clock_wall(const struct clock *c) {
    struct timespec ts;

    (void)c;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_tsc_hz(const struct clock *c) {
    return c->tsc_hz;
}

uint64_t clock_tsc(const struct clock *c) {
    return c->tsc_is_host ? counter_read(&c->tsc, tsc_host_read) : clock_now(c);
}

bool clock_tsc_is_host(const struct clock *c) {
    return c->tsc_is_host;
}

int64_t clock_tsc_offset(const struct clock *c) {
    int64_t state = atomic_load_explicit(&c->tsc, memory_order_acquire);

    return state & 1 ? (state >> 1) - (int64_t)tsc_host_read() : state >> 1;
}

uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc) {
    uint64_t now = clock_now(c);
    uint64_t tsc_now = clock_tsc(c);

    if (tsc <= tsc_now)
        return now;
    unsigned __int128 ns = (unsigned __int128)(tsc - tsc_now) * NS_PER_S;
    ns = (ns + c->tsc_hz - 1) / c->tsc_hz + now;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* With c->lock held and the clock running. */
static void arm_host(struct timer *t) {
    uint64_t offset = 0 - (uint64_t)(atomic_load(&t->clock->ns) >> 1);

    loop_timer_arm(t->host, t->when > UINT64_MAX - offset ? UINT64_MAX : t->when + offset);
}

void clock_pause(struct clock *c) {
    pthread_mutex_lock(&c->lock);
    if (!c->paused) {
        c->paused = true;
        counter_stand_at(&c->tsc, counter_read(&c->tsc, tsc_host_read));
        counter_stand_at(&c->ns, clock_now(c));
        for (struct timer *t = c->timers; t; t = t->next)
            loop_timer_disarm(t->host);
    }
    pthread_mutex_unlock(&c->lock);
}

void clock_resume(struct clock *c) {
    pthread_mutex_lock(&c->lock);
    if (c->paused) {
        c->paused = false;
        counter_run_from(&c->tsc, counter_read(&c->tsc, tsc_host_read), tsc_host_read);
        counter_run_from(&c->ns, clock_now(c), mono_now);
        for (struct timer *t = c->timers; t; t = t->next)
            if (t->armed)
                arm_host(t);
    }
    pthread_mutex_unlock(&c->lock);
}

/* On the loop's thread. A pause, a disarming or a later arming may have come in between. */
static void host_timer_fired(void *arg) {
    struct timer *t = arg;
    struct clock *c = t->clock;
    bool due = false;

    pthread_mutex_lock(&c->lock);
    if (t->armed && !c->paused) {
        due = clock_now(c) >= t->when;
        if (due)
            t->armed = false;
        else
            arm_host(t);
    }
    pthread_mutex_unlock(&c->lock);
    if (due)
        t->fn(t->arg);
}

struct timer *timer_new(struct clock *c, timer_fn *fn, void *arg) {
    struct timer *t = xcalloc(1, sizeof(*t));

    t->clock = c;
    t->fn = fn;
    t->arg = arg;
    t->host = loop_timer_new(c->loop, host_timer_fired, t);
    pthread_mutex_lock(&c->lock);
    t->next = c->timers;
    if (t->next)
        t->next->prev = t;
    c->timers = t;
    pthread_mutex_unlock(&c->lock);
    return t;
}

void timer_free(struct timer *t) {
    if (!t)
        return;
    struct clock *c = t->clock;

    pthread_mutex_lock(&c->lock);
    if (t->prev)
        t->prev->next = t->next;
    else
        c->timers = t->next;
    if (t->next)
        t->next->prev = t->prev;
    pthread_mutex_unlock(&c->lock);
    loop_timer_free(t->host);
    free(t);
}

void timer_arm(struct timer *t, uint64_t ns) {
    struct clock *c = t->clock;

    pthread_mutex_lock(&c->lock);
    t->armed = true;
    t->when = ns;
    if (!c->paused)
        arm_host(t);
    pthread_mutex_unlock(&c->lock);
}

void timer_disarm(struct timer *t) {
    struct clock *c = t->clock;

    pthread_mutex_lock(&c->lock);
    t->armed = false;
    loop_timer_disarm(t->host);
    pthread_mutex_unlock(&c->lock);
}

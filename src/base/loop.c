/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: epoll over the callers' descriptors, one timerfd and one eventfd. Armed timers
 * are a binary heap; whoever arms the earliest sets the timerfd, so the loop needs no waking for
 * that. Descriptors that epoll refuses (regular files, /dev/null) count as always ready, as in
 * poll(2).
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define EVENTS_AT_ONCE 32
#define NO_SLOT SIZE_MAX

struct loop_fd {
    struct loop *loop;
    struct loop_fd *next; /* in `always` or `dead` */
    loop_fd_fn *fn;
    void *arg;
    int fd;
    bool always_ready;
    bool dead; /* loop's thread only */
    _Atomic uint32_t events;
};

struct loop_timer {
    struct loop *loop;
    loop_timer_fn *fn;
    void *arg;
    uint64_t when;
    uint64_t order; /* of arming */
    size_t slot;    /* in the heap, or NO_SLOT */
};

struct call {
    struct call *next;
    loop_call_fn *fn;
    void *arg;
};

struct loop {
    int epfd, timerfd, wakefd;
    _Atomic bool stop;
    struct loop_fd *dead; /* loop's thread only: freed when no event in hand can mean them */

    pthread_mutex_t lock; /* what follows */
    struct loop_fd *always;
    struct call *calls, **last_call;
    struct loop_timer **heap;
    size_t heap_len, heap_cap;
    uint64_t armed; /* when the timerfd expires; UINT64_MAX: not at all */
    uint64_t round; /* the time at which timers were last run */
    uint64_t order;
};

uint64_t mono_now(void) {
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* The descriptors of the loop's own are known by the address of the field that holds them. */
static int watch_own(struct loop *l, int *fd, struct err *e) {
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = fd};

    if (*fd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, *fd, &ev) < 0)
        return err_set(e, errno, "event loop");
    return 0;
}

struct loop *loop_new(struct err *e) {
    struct loop *l = xcalloc(1, sizeof(*l));

    pthread_mutex_init(&l->lock, NULL);
    l->last_call = &l->calls;
    l->armed = UINT64_MAX;
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    l->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watch_own(l, &l->timerfd, e) < 0 || watch_own(l, &l->wakefd, e) < 0) {
        loop_free(l);
        return NULL;
    }
    return l;
}

static void free_fds(struct loop_fd **list) {
    while (*list) {
        struct loop_fd *f = *list;

        *list = f->next;
        free(f);
    }
}

void loop_free(struct loop *l) {
    if (!l)
        return;
    cleanup_close_fn(&l->epfd);
    cleanup_close_fn(&l->timerfd);
    cleanup_close_fn(&l->wakefd);
    free_fds(&l->dead);
    while (l->calls) {
        struct call *c = l->calls;

        l->calls = c->next;
        free(c);
    }
    free(l->heap);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void wake(struct loop *l) {
    uint64_t one = 1;
    /* It fails only when the counter is full, and then the loop is awake. */
    ssize_t n = write(l->wakefd, &one, sizeof(one));
    (void)n;
}

static void drain(int fd) {
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n;
}

void loop_stop(struct loop *l) {
    int saved = errno;

    atomic_store(&l->stop, true);
    wake(l);
    errno = saved;
}

/* Descriptors */

struct loop_fd *loop_add_fd(struct loop *l, int fd, uint32_t events, loop_fd_fn *fn, void *arg,
                            struct err *e) {
    struct loop_fd *f = xcalloc(1, sizeof(*f));
    struct epoll_event ev = {.events = events, .data.ptr = f};

    f->loop = l;
    f->fn = fn;
    f->arg = arg;
    f->fd = fd;
    atomic_store(&f->events, events);
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) == 0)
        return f;
    if (errno != EPERM) {
        err_set(e, errno, "event loop: descriptor %d", fd);
        free(f);
        return NULL;
    }
    f->always_ready = true;
    pthread_mutex_lock(&l->lock);
    f->next = l->always;
    l->always = f;
    pthread_mutex_unlock(&l->lock);
    wake(l);
    return f;
}

void loop_mod_fd(struct loop_fd *f, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = f};

    atomic_store(&f->events, events);
    if (f->always_ready)
        wake(f->loop);
    else
        epoll_ctl(f->loop->epfd, EPOLL_CTL_MOD, f->fd, &ev);
}

static void forget_always(struct loop_fd *f) {
    struct loop *l = f->loop;

    pthread_mutex_lock(&l->lock);
    struct loop_fd **p = &l->always;
    while (*p != f)
        p = &(*p)->next;
    *p = f->next;
    pthread_mutex_unlock(&l->lock);
}

void loop_del_fd(struct loop_fd *f) {
    struct loop *l = f->loop;

    if (f->always_ready)
        forget_always(f);
    else
        epoll_ctl(l->epfd, EPOLL_CTL_DEL, f->fd, NULL);
    f->dead = true;
    f->next = l->dead;
    l->dead = f;
}

/* Calls */

void loop_call(struct loop *l, loop_call_fn *fn, void *arg) {
    struct call *c = xcalloc(1, sizeof(*c));

    c->fn = fn;
    c->arg = arg;
    pthread_mutex_lock(&l->lock);
    *l->last_call = c;
    l->last_call = &c->next;
    pthread_mutex_unlock(&l->lock);
    wake(l);
}

static void run_calls(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    struct call *c = l->calls;
    l->calls = NULL;
    l->last_call = &l->calls;
    pthread_mutex_unlock(&l->lock);

    while (c) {
        struct call *next = c->next;

        c->fn(c->arg);
        free(c);
        c = next;
    }
}

/* Timers */

static bool earlier(const struct loop_timer *a, const struct loop_timer *b) {
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

static void heap_put(struct loop *l, size_t slot, struct loop_timer *t) {
    l->heap[slot] = t;
    t->slot = slot;
}

static void heap_up(struct loop *l, size_t slot) {
    struct loop_timer *t = l->heap[slot];

    for (; slot && earlier(t, l->heap[(slot - 1) / 2]); slot = (slot - 1) / 2)
        heap_put(l, slot, l->heap[(slot - 1) / 2]);
    heap_put(l, slot, t);
}

static void heap_down(struct loop *l, size_t slot) {
    struct loop_timer *t = l->heap[slot];

    for (size_t kid; (kid = 2 * slot + 1) < l->heap_len; slot = kid) {
        if (kid + 1 < l->heap_len && earlier(l->heap[kid + 1], l->heap[kid]))
            kid++;
        if (!earlier(l->heap[kid], t))
            break;
        heap_put(l, slot, l->heap[kid]);
    }
    heap_put(l, slot, t);
}

static void heap_add(struct loop *l, struct loop_timer *t) {
    if (l->heap_len == l->heap_cap) {
        size_t cap = MAX(l->heap_cap * 2, 16);
        struct loop_timer **heap = xcalloc(cap, sizeof(struct loop_timer *));

        for (size_t i = 0; i < l->heap_len; i++)
            heap[i] = l->heap[i];
        free(l->heap);
        l->heap = heap;
        l->heap_cap = cap;
    }
    heap_put(l, l->heap_len++, t);
    heap_up(l, t->slot);
}

static void heap_remove(struct loop *l, struct loop_timer *t) {
    size_t slot = t->slot;

    if (slot == NO_SLOT)
        return;
    t->slot = NO_SLOT;
    struct loop_timer *last = l->heap[--l->heap_len];
    if (last == t)
        return;
    heap_put(l, slot, last);
    heap_up(l, slot);
    heap_down(l, last->slot);
}

static void set_timerfd(struct loop *l, uint64_t when) {
    /* The kernel's times are signed. */
    uint64_t at = MIN(when, (uint64_t)INT64_MAX);
    struct itimerspec its = {
        .it_value = {.tv_sec = (time_t)(at / 1000000000), .tv_nsec = (long)(at % 1000000000)},
    };

    l->armed = when;
    timerfd_settime(l->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

struct loop_timer *loop_timer_new(struct loop *l, loop_timer_fn *fn, void *arg) {
    struct loop_timer *t = xcalloc(1, sizeof(*t));

    t->loop = l;
    t->fn = fn;
    t->arg = arg;
    t->slot = NO_SLOT;
    return t;
}

void loop_timer_free(struct loop_timer *t) {
    if (!t)
        return;
    loop_timer_disarm(t);
    free(t);
}

void loop_timer_arm(struct loop_timer *t, uint64_t mono_ns) {
    struct loop *l = t->loop;

    pthread_mutex_lock(&l->lock);
    heap_remove(l, t);
    /* What callbacks arm waits for the next round, so that a timer due at once starves nobody. */
    t->when = MAX(mono_ns, l->round + 1);
    t->order = ++l->order;
    heap_add(l, t);
    if (l->heap[0] == t && t->when < l->armed)
        set_timerfd(l, t->when);
    pthread_mutex_unlock(&l->lock);
}

void loop_timer_disarm(struct loop_timer *t) {
    struct loop *l = t->loop;

    /* The timerfd stays as it is: one idle wake-up costs less than a system call each time. */
    pthread_mutex_lock(&l->lock);
    heap_remove(l, t);
    pthread_mutex_unlock(&l->lock);
}

static void run_timers(struct loop *l) {
    uint64_t now = mono_now();

    pthread_mutex_lock(&l->lock);
    l->armed = UINT64_MAX;
    l->round = now;
    while (l->heap_len && l->heap[0]->when <= now) {
        struct loop_timer *t = l->heap[0];
        loop_timer_fn *fn = t->fn;
        void *arg = t->arg;

        heap_remove(l, t);
        pthread_mutex_unlock(&l->lock);
        fn(arg);
        pthread_mutex_lock(&l->lock);
    }
    if (l->heap_len && l->heap[0]->when != l->armed)
        set_timerfd(l, l->heap[0]->when);
    pthread_mutex_unlock(&l->lock);
}

/* Running */

static struct loop_fd *next_ready(struct loop *l, struct loop_fd **seen, size_t count) {
    struct loop_fd *f;

    for (f = l->always; f; f = f->next) {
        bool done = false;

        for (size_t i = 0; i < count; i++)
            done |= seen[i] == f;
        if (!done && atomic_load(&f->events))
            break;
    }
    return f;
}

/* Calls every always-ready descriptor once; callbacks may add and delete some. */
static void run_always(struct loop *l) {
    struct loop_fd *seen[EVENTS_AT_ONCE];

    for (size_t count = 0; count < ARRAY_LEN(seen); count++) {
        pthread_mutex_lock(&l->lock);
        struct loop_fd *f = next_ready(l, seen, count);
        pthread_mutex_unlock(&l->lock);
        if (!f)
            return;
        seen[count] = f;
        f->fn(f->arg, f->fd, atomic_load(&f->events) & (EPOLLIN | EPOLLOUT));
    }
}

static bool any_always(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    bool any = next_ready(l, NULL, 0) != NULL;
    pthread_mutex_unlock(&l->lock);
    return any;
}

static void dispatch(struct loop *l, const struct epoll_event *ev) {
    if (ev->data.ptr == &l->wakefd) {
        drain(l->wakefd);
        run_calls(l);
    } else if (ev->data.ptr == &l->timerfd) {
        drain(l->timerfd);
        run_timers(l);
    } else {
        struct loop_fd *f = ev->data.ptr;

        if (!f->dead)
            f->fn(f->arg, f->fd, ev->events);
    }
}

int loop_run(struct loop *l, struct err *e) {
    struct epoll_event ev[EVENTS_AT_ONCE];

    while (!atomic_exchange(&l->stop, false)) {
        int n = epoll_wait(l->epfd, ev, EVENTS_AT_ONCE, any_always(l) ? 0 : -1);

        if (n < 0 && errno != EINTR)
            return err_set(e, errno, "event loop: epoll_wait");
        for (int i = 0; i < n; i++)
            dispatch(l, &ev[i]);
        run_always(l);
        free_fds(&l->dead);
    }
    return 0;
}

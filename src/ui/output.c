/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of bytes between the machine and a thread that blocks in write(). A descriptor that fails
 * (a closed pipe, a full disk) is reported once and swallows everything from then on.
 */
#include "ui/output.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "base/util.h"
#include "ui/chardev.h"

#define RING 65536u
#define ENOUGH_ROOM 4096u /* before a stream that waits is told */

struct output {
    struct loop *loop;
    int fd;
    bool own;
    char *name;
    pthread_t thread;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t filled, moved;
    uint8_t ring[RING];
    size_t head, tail; /* ever put and ever taken: head - tail bytes are waiting */
    bool failed, quit;
    struct chardev *starved[OUTPUT_CLIENTS];
};

static void tell_writable(void *arg) {
    struct chardev *chr = arg;

    if (chr->front && chr->front->writable)
        chr->front->writable(chr->front_arg);
}

static void tell_starved(struct output *o) {
    if (RING - (o->head - o->tail) < ENOUGH_ROOM)
        return;
    for (int i = 0; i < OUTPUT_CLIENTS; i++) {
        if (o->starved[i])
            loop_call(o->loop, tell_writable, o->starved[i]);
        o->starved[i] = NULL;
    }
}

static void fail(struct output *o, int errnum) {
    o->failed = true;
    o->tail = o->head;
    log_error("%s: write: %s; output is dropped from here on", o->name, strerror(errnum));
}

/* Writes `n` bytes at the ring's tail without the lock: nobody else moves the tail. */
static ssize_t write_some(struct output *o, size_t n) {
    size_t at = o->tail % RING;
    ssize_t done;

    n = MIN(n, RING - at);
    pthread_mutex_unlock(&o->lock);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    done = write(o->fd, o->ring + at, n);
    if (done < 0 && errno == EAGAIN) {
        /* Somebody else made the shared description non-blocking. */
        struct pollfd p = {.fd = o->fd, .events = POLLOUT};

        poll(&p, 1, -1);
        errno = EINTR;
    }
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_mutex_lock(&o->lock);
    return done;
}

static void *writer(void *arg) {
    struct output *o = arg;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_mutex_lock(&o->lock);
    while (!o->quit) {
        ssize_t n;

        if (o->head == o->tail) {
            pthread_cond_wait(&o->filled, &o->lock);
            continue;
        }
        n = write_some(o, o->head - o->tail);
        if (n > 0)
            o->tail += (size_t)n;
        else if (n < 0 && errno != EINTR)
            fail(o, errno);
        tell_starved(o);
        pthread_cond_broadcast(&o->moved);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

struct output *output_new(struct loop *l, int fd, bool own, const char *name, struct err *e) {
    struct output *o = xcalloc(1, sizeof(*o));
    pthread_condattr_t monotonic;
    int r;

    o->loop = l;
    o->fd = fd;
    o->own = own;
    o->name = xstrdup(name);
    pthread_mutex_init(&o->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&o->filled, NULL);
    pthread_cond_init(&o->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    r = thread_start(&o->thread, "output", writer, o);
    if (r == 0)
        return o;
    err_set(e, r, "%s: thread", name);
    if (own)
        close(fd);
    free(o->name);
    free(o);
    return NULL;
}

void output_free(struct output *o) {
    if (!o)
        return;
    pthread_mutex_lock(&o->lock);
    o->quit = true;
    pthread_cond_signal(&o->filled);
    pthread_mutex_unlock(&o->lock);
    /* A thread that a dead terminal or pipe holds in write() ends here: write is a cancellation
     * point. */
    pthread_cancel(o->thread);
    pthread_join(o->thread, NULL);
    if (o->own)
        close(o->fd);
    pthread_cond_destroy(&o->filled);
    pthread_cond_destroy(&o->moved);
    pthread_mutex_destroy(&o->lock);
    free(o->name);
    free(o);
}

static void remember_starved(struct output *o, struct chardev *chr) {
    for (int i = 0; i < OUTPUT_CLIENTS; i++)
        if (!o->starved[i] || o->starved[i] == chr) {
            o->starved[i] = chr;
            return;
        }
}

size_t output_write(struct output *o, struct chardev *chr, const uint8_t *buf, size_t len) {
    size_t take = len;

    pthread_mutex_lock(&o->lock);
    if (!o->failed) {
        take = MIN(len, RING - (o->head - o->tail));
        for (size_t i = 0; i < take; i++)
            o->ring[(o->head + i) % RING] = buf[i];
        if (o->head == o->tail && take)
            pthread_cond_signal(&o->filled);
        o->head += take;
        if (take < len)
            remember_starved(o, chr);
    }
    pthread_mutex_unlock(&o->lock);
    return take;
}

bool output_flush(struct output *o, int patience_ms) {
    bool empty;

    pthread_mutex_lock(&o->lock);
    while (o->head != o->tail) {
        uint64_t until = mono_now() + (uint64_t)patience_ms * 1000000;
        struct timespec ts = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
        size_t before = o->tail;

        if (patience_ms < 0)
            pthread_cond_wait(&o->moved, &o->lock);
        else if (pthread_cond_timedwait(&o->moved, &o->lock, &ts) == ETIMEDOUT && o->tail == before)
            break;
    }
    empty = o->head == o->tail;
    pthread_mutex_unlock(&o->lock);
    return empty;
}

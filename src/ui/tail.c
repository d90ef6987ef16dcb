/* SPDX-License-Identifier: Apache-2.0 */
/* A ring behind the front end's write, and a front end towards the stream that it is put before. */
#include "ui/tail.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/util.h"
#include "ui/chardev.h"

struct tail {
    struct chardev chr; /* first */
    struct chardev *next;
    uint8_t ring[TAIL_MAX];
    size_t put; /* ever */
};

static int tail_write(void *chr, const uint8_t *buf, size_t len) {
    struct tail *t = chr;
    size_t taken = chardev_write(t->next, buf, len);

    for (size_t i = 0; i < taken; i++)
        t->ring[t->put++ % TAIL_MAX] = buf[i];
    return (int)taken;
}

static void tail_readable(void *chr) {
    struct tail *t = chr;

    chardev_readable(t->next);
}

static const struct chardev_ops tail_ops = {tail_write, tail_readable};

static size_t front_can_receive(void *arg) {
    struct tail *t = arg;

    return t->chr.front && t->chr.front->can_receive ? t->chr.front->can_receive(t->chr.front_arg)
                                                     : 0;
}

static void front_receive(void *arg, const uint8_t *buf, size_t len) {
    struct tail *t = arg;

    t->chr.front->receive(t->chr.front_arg, buf, len);
}

static void front_writable(void *arg) {
    struct tail *t = arg;

    if (t->chr.front && t->chr.front->writable)
        t->chr.front->writable(t->chr.front_arg);
}

static const struct chardev_front tail_front = {front_can_receive, front_receive, front_writable,
                                                NULL};

struct tail *tail_new(struct chardev *next) {
    struct tail *t = xcalloc(1, sizeof(*t));

    t->chr.ops = &tail_ops;
    t->next = next;
    if (next)
        chardev_attach(next, &tail_front, t);
    return t;
}

void tail_free(struct tail *t) {
    free(t);
}

struct chardev *tail_chardev(struct tail *t) {
    return &t->chr;
}

size_t tail_copy(const struct tail *t, char *buf, size_t max) {
    size_t n = MIN(MIN(t->put, (size_t)TAIL_MAX), max);

    for (size_t i = 0; i < n; i++)
        buf[i] = (char)t->ring[(t->put - n + i) % TAIL_MAX];
    return n;
}

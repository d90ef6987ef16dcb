/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of characters between a guest's chip (the front end) and the host (the back end: a
 * terminal, a pty, a file). A back end embeds `struct chardev` first; a chip attaches itself to it.
 *
 * Output: the chip calls ops->write, under the machine's I/O lock, from any thread. The back end
 * takes what it can without blocking. When it took less than was offered, it calls front->writable
 * once it has room again. Input: the back end, on the loop's thread, asks front->can_receive and
 * hands over at most that much. When that is 0, it waits until ops->readable tells it that the chip
 * has room again. The functions of the front end take the I/O lock themselves.
 */
#ifndef RINGFENCE_UI_CHARDEV_H
#define RINGFENCE_UI_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev_ops {
    /* Takes up to `len` bytes and returns how many. Never blocks; a dead stream takes everything.
     */
    int (*write)(void *chr, const uint8_t *buf, size_t len);
    /* The front end has room for input again. May be NULL for a back end that has no input. */
    void (*readable)(void *chr);
};

struct chardev_front {
    size_t (*can_receive)(void *front);
    void (*receive)(void *front, const uint8_t *buf, size_t len);
    void (*writable)(void *front);
    /* Somebody has come to the back end's other end, or has gone; loop's thread. May be NULL; back
     * ends that don't know never call it. */
    void (*opened)(void *front, bool open);
};

struct chardev {
    const struct chardev_ops *ops;
    const struct chardev_front *front; /* NULL while no chip is attached, or it takes no input */
    void *front_arg;
};

/* Before any input arrives. */
static inline void chardev_attach(struct chardev *c, const struct chardev_front *f, void *arg) {
    c->front = f;
    c->front_arg = arg;
}

/* A NULL stream swallows everything. */
static inline size_t chardev_write(struct chardev *c, const uint8_t *buf, size_t len) {
    int n = c ? c->ops->write(c, buf, len) : (int)len;
    return n < 0 ? 0 : (size_t)n;
}

static inline void chardev_readable(struct chardev *c) {
    if (c && c->ops->readable)
        c->ops->readable(c);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* An eventfd in a loop, and a flag that spares most of the writes to it. */
#include "base/notifier.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

struct notifier {
    notifier_fn *fn;
    void *arg;
    int fd;
    struct loop_fd *watch;
    atomic_bool ringing;
};

/* The flag goes down before the answer, so that a ring during it is not lost. */
static void answer(void *arg, int fd, uint32_t events) {
    struct notifier *n = arg;
    uint64_t count;
    ssize_t r = read(fd, &count, sizeof(count));

    (void)r;
    (void)events;
    if (atomic_exchange(&n->ringing, false))
        n->fn(n->arg);
}

struct notifier *notifier_new(struct loop *l, notifier_fn *fn, void *arg, struct err *e) {
    struct notifier *n = xcalloc(1, sizeof(*n));

    n->fn = fn;
    n->arg = arg;
    n->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->fd < 0)
        err_set(e, errno, "eventfd");
    else
        n->watch = loop_add_fd(l, n->fd, EPOLLIN, answer, n, e);
    if (n->watch)
        return n;
    notifier_free(n);
    return NULL;
}

void notifier_free(struct notifier *n) {
    if (!n)
        return;
    if (n->watch)
        loop_del_fd(n->watch);
    cleanup_close_fn(&n->fd);
    free(n);
}

void notifier_ring(struct notifier *n) {
    uint64_t one = 1;

    if (atomic_exchange(&n->ringing, true))
        return;
    /* It fails only when the counter is full, and then the loop is awake. */
    ssize_t r = write(n->fd, &one, sizeof(one));
    (void)r;
}

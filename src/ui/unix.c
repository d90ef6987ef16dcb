/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Unix socket that listens. While nobody is connected, output is dropped; whoever comes while
 * somebody is waits in the listener's queue.
 */
#include "ui/unix.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/unixsock.h"
#include "base/util.h"
#include "ui/chardev.h"

struct unix_line {
    struct chardev chr; /* first */
    struct loop *loop;
    char *path; /* ours to remove */
    int listener;
    struct loop_fd *listen_fd, *fd;
    pthread_mutex_t lock; /* what follows: chips write from any thread */
    int peer;             /* -1: nobody */
    bool starved;
};

static size_t guest_room(const struct unix_line *u) {
    return u->chr.front && u->chr.front->can_receive ? u->chr.front->can_receive(u->chr.front_arg)
                                                     : 0;
}

static void tell_opened(const struct unix_line *u, bool open) {
    if (u->chr.front && u->chr.front->opened)
        u->chr.front->opened(u->chr.front_arg, open);
}

static void tell_writable(struct unix_line *u) {
    bool starved;

    pthread_mutex_lock(&u->lock);
    starved = u->starved;
    u->starved = false;
    pthread_mutex_unlock(&u->lock);
    if (starved && u->chr.front && u->chr.front->writable)
        u->chr.front->writable(u->chr.front_arg);
}

static void unwatch(struct unix_line *u) {
    if (u->fd)
        loop_del_fd(u->fd);
    u->fd = NULL;
}

static void disconnect(struct unix_line *u) {
    unwatch(u);
    pthread_mutex_lock(&u->lock);
    close(u->peer);
    u->peer = -1;
    pthread_mutex_unlock(&u->lock);
    loop_mod_fd(u->listen_fd, EPOLLIN);
    tell_opened(u, false);
    tell_writable(u);
}

/* Hands over what there is room for; false when the other end has gone and nothing is left. */
static bool input(struct unix_line *u) {
    uint8_t buf[4096];
    size_t room;

    while ((room = guest_room(u))) {
        ssize_t n = recv(u->peer, buf, MIN(room, sizeof(buf)), MSG_DONTWAIT);

        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        u->chr.front->receive(u->chr.front_arg, buf, (size_t)n);
    }
    return true;
}

/* Asks epoll only for what can be acted on now. One who has gone (and is not watched any more, as
 * that would be reported for ever) may have left something behind. */
static void look(struct unix_line *u) {
    bool starved;

    if (u->peer < 0)
        return;
    if (!input(u)) {
        disconnect(u);
        return;
    }
    pthread_mutex_lock(&u->lock);
    starved = u->starved;
    pthread_mutex_unlock(&u->lock);
    if (u->fd)
        loop_mod_fd(u->fd, (guest_room(u) ? EPOLLIN : 0u) | (starved ? EPOLLOUT : 0u));
}

static void on_event(void *arg, int fd, uint32_t events) {
    struct unix_line *u = arg;

    (void)fd;
    if (events & (EPOLLOUT | EPOLLHUP))
        tell_writable(u);
    if (events & EPOLLHUP)
        unwatch(u);
    look(u);
}

static void on_listener(void *arg, int fd, uint32_t events) {
    struct unix_line *u = arg;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (peer < 0)
        return;
    u->fd = loop_add_fd(u->loop, peer, 0, on_event, u, NULL);
    if (!u->fd) {
        close(peer);
        return;
    }
    loop_mod_fd(u->listen_fd, 0);
    pthread_mutex_lock(&u->lock);
    u->peer = peer;
    pthread_mutex_unlock(&u->lock);
    tell_opened(u, true);
    look(u);
}

static void on_call(void *arg) {
    look(arg);
}

static int unix_write(void *chr, const uint8_t *buf, size_t len) {
    struct unix_line *u = chr;
    ssize_t n = (ssize_t)len;

    pthread_mutex_lock(&u->lock);
    if (u->peer >= 0) {
        n = send(u->peer, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            n = errno == EAGAIN ? 0 : (ssize_t)len;
        u->starved |= n < (ssize_t)len;
    }
    pthread_mutex_unlock(&u->lock);
    if (n < (ssize_t)len)
        loop_call(u->loop, on_call, u);
    return (int)n;
}

static void unix_readable(void *chr) {
    struct unix_line *u = chr;

    loop_call(u->loop, on_call, u);
}

static const struct chardev_ops unix_ops = {unix_write, unix_readable};

static int listen_at(struct unix_line *u, const char *path, struct err *e) {
    u->listener = unixsock_listen(path, 0, e);
    if (u->listener < 0)
        return -1;
    u->path = xstrdup(path);
    u->listen_fd = loop_add_fd(u->loop, u->listener, EPOLLIN, on_listener, u, e);
    return u->listen_fd ? 0 : -1;
}

struct unix_line *unix_line_new(struct loop *l, const char *path, struct err *e) {
    struct unix_line *u = xcalloc(1, sizeof(*u));

    u->chr.ops = &unix_ops;
    u->loop = l;
    u->listener = u->peer = -1;
    pthread_mutex_init(&u->lock, NULL);
    if (listen_at(u, path, e) == 0)
        return u;
    unix_line_free(u);
    return NULL;
}

void unix_line_free(struct unix_line *u) {
    if (!u)
        return;
    if (u->fd)
        loop_del_fd(u->fd);
    if (u->listen_fd)
        loop_del_fd(u->listen_fd);
    if (u->peer >= 0)
        close(u->peer);
    if (u->listener >= 0)
        close(u->listener);
    if (u->path)
        unlink(u->path);
    free(u->path);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

struct chardev *unix_line_chardev(struct unix_line *u) {
    return &u->chr;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection at a time. While there is none, frames are lost, and who is to connect tries once
 * a second.
 */
#include "net/socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/util.h"
#include "net/net.h"

#define RETRY_NS 1000000000ull
#define LENGTH 4
#define ROOM (4 * NET_FRAME_MAX)

struct wire {
    struct net net;
    char *name; /* the address, for messages */
    bool listens;
    struct sockaddr_storage address;
    socklen_t address_len;
    char *path; /* of a Unix socket that we made */

    int listener, fd; /* -1: none */
    struct loop_fd *listener_watch, *watch;
    uint32_t events;
    bool connecting, told; /* that nobody answers */
    struct loop_timer *retry;
    struct notifier *again;

    uint8_t *in; /* ROOM bytes: what came, from in_at to in_end */
    size_t in_at, in_end;
    bool blocked; /* the guest had no buffer for the frame at in_at */
    uint8_t *out; /* LENGTH and a frame */
    size_t out_at, out_end;
    bool refused; /* the guest waits */
};

static void on_connection(void *arg, int fd, uint32_t events);

static void want(struct wire *w, uint32_t events) {
    if (w->watch && w->events != events)
        loop_mod_fd(w->watch, events);
    w->events = events;
}

/* --- connections --- */

/* Once, until somebody does. */
static void nobody_answers(struct wire *w, int why) {
    if (!w->told)
        log_warn("socket %s: %s; the guest has no link until it answers", w->name, strerror(why));
    w->told = true;
}

static void disconnect(struct wire *w) {
    if (w->watch)
        loop_del_fd(w->watch);
    w->watch = NULL;
    cleanup_close_fn(&w->fd);
    w->fd = -1;
    w->connecting = w->blocked = false;
    w->in_at = w->in_end = w->out_at = w->out_end = 0;
    net_set_link(&w->net, false);
    if (w->refused)
        w->net.front->send_again(w->net.front_arg, 0);
    w->refused = false;
    if (!w->listens)
        loop_timer_arm(w->retry, mono_now() + RETRY_NS);
}

static void connected(struct wire *w) {
    int one = 1;

    w->connecting = w->told = false;
    setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    want(w, EPOLLIN);
    net_set_link(&w->net, true);
}

static bool watch(struct wire *w, int fd, uint32_t events) {
    cleanup_err struct err e = ERR_INIT;

    w->fd = fd;
    w->events = events;
    w->watch = loop_add_fd(w->net.loop, fd, events, on_connection, w, &e);
    if (!w->watch) {
        log_warn("socket %s: %s", w->name, err_msg(&e));
        disconnect(w);
    }
    return w->watch;
}

static void on_listener(void *arg, int listener, uint32_t events) {
    struct wire *w = arg;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    if (fd < 0)
        return;
    if (w->fd >= 0) {
        log_warn("socket %s: a second one has called, and was turned away", w->name);
        close(fd);
    } else if (watch(w, fd, EPOLLIN)) {
        connected(w);
    }
}

static void try_to_connect(void *arg) {
    struct wire *w = arg;
    int fd = socket(w->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r = fd < 0 ? -1 : connect(fd, (const void *)&w->address, w->address_len);

    if (r < 0 && (fd < 0 || errno != EINPROGRESS)) {
        nobody_answers(w, errno);
        cleanup_close_fn(&fd);
        loop_timer_arm(w->retry, mono_now() + RETRY_NS);
        return;
    }
    w->connecting = true;
    watch(w, fd, EPOLLOUT);
}

static void finish_connecting(struct wire *w) {
    socklen_t len = sizeof(int);
    int why = 0;

    if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &why, &len) < 0)
        why = errno;
    if (!why) {
        connected(w);
        return;
    }
    nobody_answers(w, why);
    disconnect(w);
}

/* --- to the guest --- */

/* The frame at in_at, if it is all there; negative when that is none at all. */
static int next_frame(const struct wire *w, struct iovec *iov) {
    const uint8_t *p = w->in + w->in_at;
    size_t have = w->in_end - w->in_at;

    if (have < LENGTH)
        return 0;
    size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
    if (!len || len > NET_FRAME_MAX)
        return -1;
    *iov = (struct iovec){w->in + w->in_at + LENGTH, len};
    return have >= LENGTH + len;
}

static bool deliver(struct wire *w) {
    struct iovec iov;
    int r;

    w->blocked = false;
    while ((r = next_frame(w, &iov)) > 0) {
        struct net_frame f = {.iov = &iov, .iov_count = 1, .len = iov.iov_len};

        if (!net_receive(&w->net, 0, &f)) {
            w->blocked = true;
            break;
        }
        w->in_at += LENGTH + iov.iov_len;
    }
    memmove(w->in, w->in + w->in_at, w->in_end - w->in_at);
    w->in_end -= w->in_at;
    w->in_at = 0;
    want(w, w->blocked ? w->events & ~(uint32_t)EPOLLIN : w->events | EPOLLIN);
    return r >= 0;
}

static void receive(struct wire *w) {
    ssize_t n = recv(w->fd, w->in + w->in_end, ROOM - w->in_end, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        w->in_end += (size_t)n;
    bool good = deliver(w);
    if (!good)
        log_warn("socket %s: what comes there are no frames", w->name);
    if (n <= 0 || !good)
        disconnect(w);
}

static void on_again(void *arg) {
    struct wire *w = arg;

    if (w->blocked && !deliver(w))
        disconnect(w);
}

static void wire_receive_again(struct net *n, unsigned queue) {
    struct wire *w = (struct wire *)n;

    (void)queue;
    if (w->blocked)
        notifier_ring(w->again);
}

/* --- from the guest --- */

/* What a socket's buffer does not take goes when it does. */
static void push(struct wire *w) {
    ssize_t n = send(w->fd, w->out + w->out_at, w->out_end - w->out_at, MSG_NOSIGNAL);

    if (n > 0)
        w->out_at += (size_t)n;
    if (w->out_at < w->out_end) {
        want(w, w->events | EPOLLOUT);
        return;
    }
    w->out_at = w->out_end = 0;
    want(w, w->events & ~(uint32_t)EPOLLOUT);
}

static bool wire_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct wire *w = (struct wire *)n;
    size_t len = MIN(f->len, (size_t)NET_FRAME_MAX);

    (void)queue;
    if (w->fd < 0 || w->connecting)
        return true;
    if (w->out_end) {
        w->refused = true;
        return false;
    }
    for (unsigned i = 0; i < LENGTH; i++)
        w->out[i] = (uint8_t)(len >> 8 * (3 - i));
    w->out_end = LENGTH + iov_read(f->iov, f->iov_count, 0, w->out + LENGTH, len);
    push(w);
    return true;
}

static void on_connection(void *arg, int fd, uint32_t events) {
    struct wire *w = arg;

    (void)fd;
    if (w->connecting) {
        finish_connecting(w);
        return;
    }
    if (events & EPOLLOUT && w->out_end) {
        push(w);
        if (!w->out_end && w->refused) {
            w->refused = false;
            w->net.front->send_again(w->net.front_arg, 0);
        }
    }
    if (w->events & EPOLLIN)
        receive(w);
    else if (events & (EPOLLHUP | EPOLLERR))
        disconnect(w);
}

/* --- addresses --- */

static int unix_address(struct wire *w, const char *path, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    if (!*path || strlen(path) >= sizeof(a.sun_path))
        return err_set(e, 0, "a Unix socket's path has 1 to %zu characters",
                       sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path));
    memcpy(&w->address, &a, sizeof(a));
    w->address_len = sizeof(a);
    return 0;
}

static int inet_address(struct wire *w, const char *text, struct err *e) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = w->listens ? AI_PASSIVE : 0};
    cleanup_free char *copy = xstrdup(text);
    char *host = copy, *colon = strrchr(copy, ':');
    struct addrinfo *found;

    if (!colon || !colon[1])
        return err_set(e, 0, "it is neither HOST:PORT nor unix:PATH");
    *colon = 0;
    if (host[0] == '[' && colon[-1] == ']') {
        host++;
        colon[-1] = 0;
    }
    if (!*host)
        host = w->listens ? NULL : "localhost";
    int r = getaddrinfo(host, colon + 1, &hints, &found);
    if (r)
        return err_set(e, 0, "%s", gai_strerror(r));
    memcpy(&w->address, found->ai_addr, found->ai_addrlen);
    w->address_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int set_address(struct wire *w, const char *text, struct err *e) {
    if (strncmp(text, "unix:", 5) == 0)
        return unix_address(w, text + 5, e);
    return inet_address(w, text, e);
}

/* A socket's file that nobody listens at any more may be replaced. */
static void remove_stale(const struct wire *w) {
    const struct sockaddr_un *a = (const void *)&w->address;
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const void *)a, w->address_len) < 0 && errno == ECONNREFUSED)
        unlink(a->sun_path);
}

static int open_listener(struct wire *w, struct err *e) {
    bool local = w->address.ss_family == AF_UNIX;
    int one = 1;

    w->listener = socket(w->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (w->listener < 0)
        return err_set(e, errno, "socket");
    if (local)
        remove_stale(w);
    else
        setsockopt(w->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(w->listener, (const void *)&w->address, w->address_len) < 0 ||
        listen(w->listener, 1) < 0)
        return err_set(e, errno, "listen%s",
                       errno == EADDRINUSE && !local ? " (ss -tlnp shows who has it)" : "");
    if (local)
        w->path = xstrdup(((const struct sockaddr_un *)(const void *)&w->address)->sun_path);
    return 0;
}

/* --- as a back end --- */

static void wire_start(struct net *n) {
    struct wire *w = (struct wire *)n;
    cleanup_err struct err e = ERR_INIT;

    if (!w->listens) {
        try_to_connect(w);
        return;
    }
    w->listener_watch = loop_add_fd(n->loop, w->listener, EPOLLIN, on_listener, w, &e);
    if (!w->listener_watch)
        log_error("socket %s: %s", w->name, err_msg(&e));
}

static void wire_close(struct net *n) {
    struct wire *w = (struct wire *)n;

    if (w->listener_watch)
        loop_del_fd(w->listener_watch);
    if (w->watch)
        loop_del_fd(w->watch);
    cleanup_close_fn(&w->listener);
    cleanup_close_fn(&w->fd);
    if (w->path)
        unlink(w->path);
    loop_timer_free(w->retry);
    notifier_free(w->again);
    free(w->path);
    free(w->name);
    free(w->in);
    free(w->out);
    free(w);
}

static const struct net_ops wire_ops = {
    .name = "socket",
    .start = wire_start,
    .send = wire_send,
    .receive_again = wire_receive_again,
    .close = wire_close,
};

static int set_up(struct wire *w, const struct socket_options *o, struct err *e) {
    if (set_address(w, o->address, e) < 0)
        return -1;
    w->again = notifier_new(w->net.loop, on_again, w, e);
    return !w->again ? -1 : w->listens ? open_listener(w, e) : 0;
}

struct net *net_socket_open(const struct socket_options *o, struct loop *l, struct err *e) {
    struct wire *w = xcalloc(1, sizeof(*w));

    w->net = (struct net){.ops = &wire_ops, .loop = l, .queues_max = 1};
    w->name = xstrdup(o->address);
    w->listens = o->listen;
    w->listener = w->fd = -1;
    w->in = xcalloc(1, ROOM);
    w->out = xcalloc(1, LENGTH + NET_FRAME_MAX);
    w->retry = loop_timer_new(l, try_to_connect, w);
    if (set_up(w, o, e) == 0)
        return &w->net;
    err_wrap(e, "socket %s", o->address);
    wire_close(&w->net);
    return NULL;
}

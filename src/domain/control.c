/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket's server: connections, their input and output, and what they may not do. */
#include "domain/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/unixsock.h"
#include "base/util.h"
#include "domain/jsonrpc.h"

/* Read at once from one client: others, and the guest's timers, have their turn after it. */
#define READ_BYTES 1024
/* A client with that much to read is not listened to. */
#define OUT_BYTES (128u << 10)
#define ACCEPT_PAUSE_NS 1000000000ull

struct client {
    struct client *next;
    struct control *control;
    int fd;
    struct loop_fd *watch;
    uint64_t heard; /* mono_now() */
    struct jsonrpc_lines lines;
    uint8_t *out;
    size_t out_len, out_cap, out_sent;
};

struct control {
    struct loop *loop;
    int fd;
    struct loop_fd *watch;
    struct loop_timer *resume; /* after the host had no descriptors */
    const struct jsonrpc_method *methods;
    void *arg;
    struct client *clients;
    unsigned count;
};

static void hang_up(struct client *c) {
    if (c->watch)
        loop_del_fd(c->watch);
    close(c->fd);
    free(c->out);
    free(c);
}

static void drop(struct client *c) {
    struct client **at = &c->control->clients;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->control->count--;
    hang_up(c);
}

/* --- output --- */

static void queue(struct client *c, const char *text) {
    size_t len = strlen(text);

    xreserve(&c->out, &c->out_cap, c->out_len, len + 1);
    memcpy(c->out + c->out_len, text, len);
    c->out[c->out_len + len] = '\n';
    c->out_len += len + 1;
}

/* False when the client is gone. */
static bool flush(struct client *c) {
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
            return true;
        if (n < 0 && errno != EINTR)
            return false;
        c->out_sent += n > 0 ? (size_t)n : 0;
    }
    c->out_len = c->out_sent = 0;
    return true;
}

/* --- input --- */

static void on_line(void *arg, const char *line, size_t len) {
    struct client *c = arg;
    const struct control *k = c->control;
    cleanup_free char *answer =
        line ? jsonrpc_answer(k->methods, k->arg, line, len) : jsonrpc_too_long();

    if (answer)
        queue(c, answer);
}

/* False at the end of the stream. */
static bool listen_to(struct client *c) {
    char data[READ_BYTES];
    ssize_t n = recv(c->fd, data, sizeof(data), MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    c->heard = mono_now();
    jsonrpc_feed(&c->lines, data, (size_t)n, on_line, c);
    return n > 0;
}

static void on_client(void *arg, int fd, uint32_t events) {
    struct client *c = arg;
    bool deaf = c->out_len - c->out_sent >= OUT_BYTES;

    (void)fd;
    if ((events & (EPOLLERR | EPOLLHUP) && deaf) ||
        (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && !deaf && !listen_to(c)) || !flush(c)) {
        drop(c);
        return;
    }
    deaf = c->out_len - c->out_sent >= OUT_BYTES;
    loop_mod_fd(c->watch, (deaf ? 0 : EPOLLIN) | (c->out_len ? EPOLLOUT : 0));
}

/* --- connections --- */

static bool may_talk(int fd) {
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void drop_most_silent(struct control *k) {
    struct client *worst = k->clients;

    for (struct client *c = k->clients; c; c = c->next)
        if (c->heard < worst->heard)
            worst = c;
    if (worst)
        drop(worst);
}

static void add_client(struct control *k, int fd) {
    struct client *c = xcalloc(1, sizeof(*c));

    c->control = k;
    c->fd = fd;
    c->heard = mono_now();
    c->next = k->clients;
    k->clients = c;
    k->count++;
    c->watch = loop_add_fd(k->loop, fd, EPOLLIN, on_client, c, NULL);
    if (!c->watch)
        drop(c);
}

/* One at a time; a host that has no descriptor left is asked again in a while. */
static void on_connection(void *arg, int fd, uint32_t events) {
    struct control *k = arg;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (peer >= 0 && may_talk(peer)) {
        if (k->count >= CONTROL_CLIENTS_MAX)
            drop_most_silent(k);
        add_client(k, peer);
    } else if (peer >= 0) {
        close(peer);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        loop_mod_fd(k->watch, 0);
        loop_timer_arm(k->resume, mono_now() + ACCEPT_PAUSE_NS);
    }
}

static void on_resume(void *arg) {
    struct control *k = arg;

    loop_mod_fd(k->watch, EPOLLIN);
}

struct control *control_new(struct loop *l, const char *path, const struct jsonrpc_method *methods,
                            void *arg, struct err *e) {
    struct control *k = xcalloc(1, sizeof(*k));

    *k = (struct control){.loop = l, .methods = methods, .arg = arg};
    k->fd = unixsock_listen(path, 0, e);
    k->watch = k->fd < 0 ? NULL : loop_add_fd(l, k->fd, EPOLLIN, on_connection, k, e);
    k->resume = loop_timer_new(l, on_resume, k);
    if (k->watch)
        return k;
    control_free(k);
    return NULL;
}

void control_free(struct control *k) {
    if (!k)
        return;
    for (struct client *c = k->clients, *next; c; c = next) {
        next = c->next;
        hang_up(c);
    }
    if (k->watch)
        loop_del_fd(k->watch);
    cleanup_close_fn(&k->fd);
    loop_timer_free(k->resume);
    free(k);
}

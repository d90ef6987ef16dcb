/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libslirp on an event loop. It asks for descriptors and a timeout as poll(2) takes them, so after
 * each turn the loop's set of descriptors is brought up to date; when one of them is ready all are
 * polled at once. What it has for the guest waits in a queue, because it comes while the front end
 * must not be called.
 */
#include "net/user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/util.h"
#include "net/fifo.h"
#include "net/merge.h"
#include "net/net.h"
#include "net/offload.h"

/* While more than this waits for the guest, nothing is read from the host's sockets. */
#define WAITING_HIGH (1u << 20)
/* What comes nevertheless, as answers to the guest's own frames, is dropped beyond this. */
#define WAITING_MAX (4u << 20)

/* A descriptor that libslirp has asked for, by its number. */
struct watch {
    struct loop_fd *fd;
    uint32_t events;
    unsigned turn; /* in which it was last asked for */
};

struct user {
    struct net net;
    Slirp *slirp;
    struct notifier *again;
    struct loop_timer *timer;
    bool blocked; /* the front had no buffer */
    struct net_fifo fifo;
    struct net_merge merge; /* the newest frames, behind the queue */
    unsigned front_can;
    uint8_t *in; /* a frame from the guest, NET_FRAME_MAX bytes */

    struct pollfd *polls;
    size_t poll_count, poll_room;
    struct watch *watches;
    size_t watch_count;
    unsigned turn;
    struct log_limit limit;
};

static void take_turn(struct user *u);

/* Frames to the guest */

static void put_merged(struct user *u) {
    struct net_frame f;
    struct iovec iov;

    if (net_merge_take(&u->merge, &f, &iov))
        net_fifo_put(&u->fifo, iov.iov_base, f.len, &f.offload);
}

/* It knows no segmentation offload: what it has cut is put together for guests that know it. */
static bool merged(struct user *u, const void *buf, size_t len) {
    const unsigned tcp = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6;

    if ((u->front_can & tcp) == tcp && net_merge_add(&u->merge, buf, len))
        return true;
    put_merged(u);
    return (u->front_can & tcp) == tcp && net_merge_add(&u->merge, buf, len);
}

static ssize_t on_packet(const void *buf, size_t len, void *arg) {
    struct user *u = arg;
    /* It has made and checked the checksums itself. */
    const struct net_offload o = {.flags = NET_DATA_VALID};

    if (net_fifo_bytes(&u->fifo) + len <= WAITING_MAX && !merged(u, buf, len))
        net_fifo_put(&u->fifo, buf, len, &o);
    return (ssize_t)len;
}

static void deliver(struct user *u) {
    struct net_frame f;
    struct iovec iov;

    put_merged(u);
    while (!u->blocked && net_fifo_peek(&u->fifo, &f, &iov)) {
        u->blocked = !net_receive(&u->net, 0, &f);
        if (!u->blocked)
            net_fifo_drop(&u->fifo);
    }
}

/* Descriptors */

static void on_ready(void *arg, int fd, uint32_t events) {
    (void)fd;
    (void)events;
    take_turn(arg);
}

static void *grown(void *old, size_t used, size_t room, size_t size) {
    uint8_t *more = xcalloc(room, size);

    if (used)
        memcpy(more, old, used * size);
    free(old);
    return more;
}

static struct watch *watch_of(struct user *u, int fd) {
    size_t n = (size_t)fd;

    if (n >= u->watch_count) {
        u->watches = grown(u->watches, u->watch_count, n + 64, sizeof(*u->watches));
        u->watch_count = n + 64;
    }
    return &u->watches[n];
}

static void forget(struct user *u, int fd) {
    struct watch *w = watch_of(u, fd);

    if (w->fd)
        loop_del_fd(w->fd);
    *w = (struct watch){0};
}

/* SLIRP_POLL_… and poll(2)'s bits, which are epoll's. */
static const struct {
    int slirp;
    short poll;
} bits[] = {{SLIRP_POLL_IN, POLLIN},
            {SLIRP_POLL_OUT, POLLOUT},
            {SLIRP_POLL_PRI, POLLPRI},
            {SLIRP_POLL_ERR, POLLERR},
            {SLIRP_POLL_HUP, POLLHUP}};

static int on_add_poll(int fd, int events, void *arg) {
    struct user *u = arg;
    short want = 0;

    if (u->poll_count == u->poll_room) {
        u->poll_room += 64;
        u->polls = grown(u->polls, u->poll_count, u->poll_room, sizeof(*u->polls));
    }
    for (size_t i = 0; i < ARRAY_LEN(bits); i++)
        want |= events & bits[i].slirp ? bits[i].poll : 0;
    u->polls[u->poll_count] = (struct pollfd){.fd = fd, .events = want};
    return (int)u->poll_count++;
}

static int on_get_revents(int i, void *arg) {
    struct user *u = arg;
    int events = 0;

    for (size_t b = 0; b < ARRAY_LEN(bits); b++)
        events |= u->polls[i].revents & bits[b].poll ? bits[b].slirp : 0;
    return events;
}

static void watch_one(struct user *u, const struct pollfd *p) {
    struct watch *w = watch_of(u, p->fd);
    uint32_t events = (uint32_t)p->events & (EPOLLIN | EPOLLOUT | EPOLLPRI);

    w->turn = u->turn;
    if (!w->fd)
        w->fd = loop_add_fd(u->net.loop, p->fd, events, on_ready, u, NULL);
    else if (w->events != events)
        loop_mod_fd(w->fd, events);
    w->events = events;
}

/* Has libslirp say what it waits for, and waits for exactly that. */
static void ask(struct user *u) {
    uint32_t timeout = UINT32_MAX;

    u->turn++;
    u->poll_count = 0;
    if (net_fifo_bytes(&u->fifo) < WAITING_HIGH)
        slirp_pollfds_fill(u->slirp, &timeout, on_add_poll, u);
    for (size_t i = 0; i < u->poll_count; i++)
        watch_one(u, &u->polls[i]);
    for (size_t i = 0; i < u->watch_count; i++)
        if (u->watches[i].fd && u->watches[i].turn != u->turn)
            forget(u, (int)i);
    if (timeout != UINT32_MAX)
        loop_timer_arm(u->timer, mono_now() + timeout * 1000000ull);
}

static void take_turn(struct user *u) {
    int r = poll(u->polls, u->poll_count, 0);

    slirp_pollfds_poll(u->slirp, r < 0, on_get_revents, u);
    deliver(u);
    ask(u);
}

static void on_timer(void *arg) {
    take_turn(arg);
}

/* The guest has sent something, or taken something. */
static void on_again(void *arg) {
    struct user *u = arg;

    deliver(u);
    ask(u);
}

static void on_register(int fd, void *arg) {
    (void)fd;
    (void)arg;
}

/* It is about to be closed. */
static void on_unregister(int fd, void *arg) {
    forget(arg, fd);
}

static void on_notify(void *arg) {
    struct user *u = arg;

    notifier_ring(u->again);
}

static int64_t on_clock(void *arg) {
    (void)arg;
    return (int64_t)mono_now();
}

/* Timers of libslirp's own (router advertisements) */

struct slirp_timer {
    struct user *u;
    struct loop_timer *timer;
    SlirpTimerId id;
    void *arg;
};

static void on_slirp_timer(void *arg) {
    struct slirp_timer *t = arg;

    slirp_handle_timer(t->u->slirp, t->id, t->arg);
    on_again(t->u);
}

static void *on_timer_new(SlirpTimerId id, void *arg, void *user) {
    struct slirp_timer *t = xcalloc(1, sizeof(*t));
    struct user *u = user;

    *t = (struct slirp_timer){u, loop_timer_new(u->net.loop, on_slirp_timer, t), id, arg};
    return t;
}

static void on_timer_free(void *timer, void *arg) {
    struct slirp_timer *t = timer;

    (void)arg;
    loop_timer_free(t->timer);
    free(t);
}

static void on_timer_mod(void *timer, int64_t ms, void *arg) {
    struct slirp_timer *t = timer;

    (void)arg;
    loop_timer_arm(t->timer, (uint64_t)ms * 1000000);
}

static void on_guest_error(const char *msg, void *arg) {
    struct user *u = arg;

    log_guest(&u->limit, "network user: %s", msg);
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register,
    .unregister_poll_fd = on_unregister,
    .notify = on_notify,
    .timer_new_opaque = on_timer_new,
};

/* As a back end */

/* libslirp takes TCP segments of any length, but checks their sums. */
static bool user_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct user *u = (struct user *)n;
    size_t len = iov_read(f->iov, f->iov_count, 0, u->in, MIN(f->len, (size_t)NET_FRAME_MAX));

    (void)queue;
    if (net_checksum(u->in, len, &f->offload))
        slirp_input(u->slirp, u->in, (int)len);
    notifier_ring(u->again);
    return true;
}

static void user_receive_again(struct net *n, unsigned queue) {
    struct user *u = (struct user *)n;

    (void)queue;
    if (!u->blocked)
        return;
    u->blocked = false;
    notifier_ring(u->again);
}

static void user_set_front(struct net *n, unsigned can, unsigned queues) {
    (void)queues;
    ((struct user *)n)->front_can = can;
}

static void user_start(struct net *n) {
    ask((struct user *)n);
}

static void user_close(struct net *n) {
    struct user *u = (struct user *)n;

    if (u->slirp)
        slirp_cleanup(u->slirp);
    for (size_t i = 0; i < u->watch_count; i++)
        forget(u, (int)i);
    net_fifo_clear(&u->fifo);
    net_merge_free(&u->merge);
    loop_timer_free(u->timer);
    notifier_free(u->again);
    free(u->watches);
    free(u->polls);
    free(u->in);
    free(u);
}

static const struct net_ops user_ops = {
    .name = "user",
    .start = user_start,
    .send = user_send,
    .receive_again = user_receive_again,
    .set_front = user_set_front,
    .close = user_close,
};

/* Opening */

static struct in_addr address(const struct user_options *o, uint32_t host) {
    return (struct in_addr){htonl((o->network ? o->network : USER_NETWORK) + host)};
}

static SlirpConfig slirp_config(const struct user_options *o) {
    SlirpConfig c = {
        .version = 4,
        .restricted = o->restricted,
        .in_enabled = true,
        .vnetwork = address(o, 0),
        .vnetmask = {htonl(~0u << (32 - (o->prefix ? o->prefix : 24)))},
        .vhost = address(o, 2),
        .vnameserver = address(o, 3),
        .vdhcp_start = address(o, USER_FIRST_HOST),
        .in6_enabled = !o->no_ipv6,
        .vprefix_len = 64,
        .vhostname = o->hostname,
        .if_mtu = o->mtu,
        .if_mru = o->mtu,
    };

    inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &c.vhost6);
    inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
    return c;
}

static unsigned port_of(const struct sockaddr_storage *a) {
    uint16_t port;

    /* Where both families have it. */
    memcpy(&port, (const uint8_t *)a + offsetof(struct sockaddr_in, sin_port), 2);
    return ntohs(port);
}

static int forward(struct user *u, const struct user_forward *f, struct err *e) {
    const struct sockaddr *host = (const void *)&f->host, *guest = (const void *)&f->guest;
    bool v6 = f->host.ss_family == AF_INET6;
    socklen_t len = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int flags = (f->udp ? SLIRP_HOSTFWD_UDP : 0) | (v6 ? SLIRP_HOSTFWD_V6ONLY : 0);
    unsigned port = port_of(&f->host);

    errno = 0;
    if (slirp_add_hostxfwd(u->slirp, host, len, guest, len, flags) == 0)
        return 0;
    if (errno == EADDRINUSE)
        return err_set(
            e, EADDRINUSE,
            "hostfwd: %s port %u of this host: give another one, or look who has it with "
            "ss -%clnp 'sport = %u'",
            f->udp ? "UDP" : "TCP", port, f->udp ? 'u' : 't', port);
    if (errno == EACCES)
        return err_set(e, EACCES, "hostfwd: %s port %u of this host: give one from 1024 on",
                       f->udp ? "UDP" : "TCP", port);
    return err_set(e, errno, "hostfwd: %s port %u of this host", f->udp ? "UDP" : "TCP", port);
}

static int open_slirp(struct user *u, const struct user_options *o, struct err *e) {
    const SlirpConfig config = slirp_config(o);

    u->again = notifier_new(u->net.loop, on_again, u, e);
    if (!u->again)
        return -1;
    u->slirp = slirp_new(&config, &callbacks, u);
    if (!u->slirp)
        return err_set(e, 0, "libslirp %s does not start", slirp_version_string());
    for (size_t i = 0; i < o->forward_count; i++)
        if (forward(u, &o->forwards[i], e) < 0)
            return -1;
    return 0;
}

struct net *net_user_open(const struct user_options *o, struct loop *l, struct err *e) {
    struct user *u = xcalloc(1, sizeof(*u));

    u->net = (struct net){
        .ops = &user_ops,
        .loop = l,
        .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN,
        .queues_max = 1,
        .mtu = o->mtu,
        .link_up = true,
    };
    u->in = xcalloc(1, NET_FRAME_MAX);
    net_merge_init(&u->merge);
    u->timer = loop_timer_new(l, on_timer, u);
    if (open_slirp(u, o, e) == 0)
        return &u->net;
    user_close(&u->net);
    return NULL;
}

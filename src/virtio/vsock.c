/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock: stream connections between ports of the guest and Unix sockets of the host. Credit
 * (5.10.6.3) bounds what is held for a host's program that doesn't read; what the guest has no
 * credit or no buffers for stays in the host's socket. Connections don't survive a restore: the
 * guest is told by the transport-reset event.
 *
 * Everything but reset() happens on the queues' loop, and nothing there takes two queues' locks:
 * what the transmit queue's answers bring for the guest waits until the receive queue's turn.
 */
#include "virtio/vsock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/util.h"
#include "virtio/virtio.h"
#include "virtio/vsock_unix.h"

enum { RX, TX, EVENT, QUEUES };
enum { QUEUE_SIZE = 256, HEADER = 44, TYPE_STREAM = 1, HOST_CID = 2 };
enum { VIRTIO_VSOCK_F_STREAM = 0 };
enum {
    OP_REQUEST = 1,
    OP_RESPONSE = 2,
    OP_RST = 3,
    OP_SHUTDOWN = 4,
    OP_RW = 5,
    OP_CREDIT_UPDATE = 6,
    OP_CREDIT_REQUEST = 7,
};
enum { SHUT_RCV = 1, SHUT_SEND = 2, SHUT_BOTH = 3 };

#define BUCKETS 256
#define CONNECTIONS_MAX 1024
#define STRAYS_MAX 64
#define BUF_ALLOC 65536u             /* per connection, from the guest */
#define ACCEPT_RETRY_NS 100000000ull /* after the process had no descriptor left */
#define FIRST_PORT (1u << 30)        /* of those that connect from the host */

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

enum state { HELLO, REQUESTED, ESTABLISHED, DEAD };

struct conn {
    LIST_ENTRY(conn) in_bucket;
    TAILQ_ENTRY(conn) in_ready;
    struct vsock *v;
    enum state state;
    uint32_t host_port, guest_port;
    int fd;
    struct loop_fd *watch; /* NULL once the other end hung up */
    uint32_t watched;      /* events */
    struct vsock_hello hello;
    bool ready, readable, ended; /* ended: no more comes from the host */
    bool hung_up;
    bool deaf;           /* the host's end takes no more; what it sent may still be there to read */
    unsigned guest_shut; /* SHUT_…, as the guest said */
    unsigned ctl;        /* 1 << op: what the guest is to be told */
    uint32_t peer_alloc, peer_fwd, sent; /* towards the guest */
    uint32_t fwd, fwd_told;              /* from the guest */
    uint8_t *held;                       /* from the guest, not yet written */
    uint32_t held_at, held_len;
};

LIST_HEAD(bucket, conn);
TAILQ_HEAD(ready, conn);

struct stray {
    uint32_t host_port, guest_port;
    uint16_t type;
};

struct vsock {
    struct virtio_device d; /* first */
    uint64_t cid;
    char *path;
    struct loop *loop;
    struct notifier *wake;
    int listener;
    struct loop_fd *listen_fd;
    struct loop_timer *listen_later;
    struct bucket buckets[BUCKETS];
    struct ready ready;
    unsigned count;
    uint32_t next_port;
    struct stray strays[STRAYS_MAX]; /* answers to what belongs to no connection */
    unsigned stray_count;
    unsigned epoch; /* the one that the connections are of */
    _Atomic unsigned resets;
    _Atomic bool moved; /* the guest is to be told that it was moved */
};

/* --- connections --- */

static struct bucket *bucket_of(struct vsock *v, uint32_t host_port, uint32_t guest_port) {
    return &v->buckets[(host_port * 31 + guest_port) % BUCKETS];
}

static struct conn *find(struct vsock *v, uint32_t host_port, uint32_t guest_port) {
    struct conn *c;

    LIST_FOREACH(c, bucket_of(v, host_port, guest_port), in_bucket)
    if (c->host_port == host_port && c->guest_port == guest_port && c->state != HELLO)
        return c;
    return NULL;
}

static uint32_t credit(const struct conn *c) {
    uint32_t out = c->sent - c->peer_fwd;

    return out < c->peer_alloc ? c->peer_alloc - out : 0;
}

static bool has_data(const struct conn *c) {
    return c->state == ESTABLISHED && c->readable && !c->ended && !(c->guest_shut & SHUT_RCV);
}

static bool wants_turn(const struct conn *c) {
    return c->ctl || (has_data(c) && credit(c));
}

static void on_socket(void *arg, int fd, uint32_t events);

/* Watches for what can be acted on now, and no more: epoll would tell it again and again. */
static void watch(struct conn *c) {
    const bool input = (c->state == HELLO || c->state == ESTABLISHED) && !c->readable && !c->ended;
    const uint32_t want = (input ? EPOLLIN : 0u) | (c->held_len ? EPOLLOUT : 0u);

    if (!c->watch || c->watched == want)
        return;
    c->watched = want;
    loop_mod_fd(c->watch, want);
}

/* Puts it in line for the receive queue if it has something to say. */
static void queue_up(struct conn *c) {
    struct vsock *v = c->v;

    if (has_data(c) && !credit(c))
        c->ctl |= 1u << OP_CREDIT_REQUEST;
    if (!c->ready && wants_turn(c)) {
        TAILQ_INSERT_TAIL(&v->ready, c, in_ready);
        c->ready = true;
    }
    watch(c);
    if (c->ready)
        virtq_kick(&v->d.queues[RX]);
}

static void listen_again(struct vsock *v, bool on) {
    if (v->listen_fd)
        loop_mod_fd(v->listen_fd, on ? EPOLLIN : 0);
}

static void close_socket(struct conn *c) {
    if (c->watch)
        loop_del_fd(c->watch);
    c->watch = NULL;
    cleanup_close_fn(&c->fd);
    c->fd = -1;
    free(c->held);
    c->held = NULL;
    c->held_len = 0;
}

static void conn_free(struct conn *c) {
    struct vsock *v = c->v;

    close_socket(c);
    if (c->ready)
        TAILQ_REMOVE(&v->ready, c, in_ready);
    LIST_REMOVE(c, in_bucket);
    free(c);
    v->count--;
    listen_again(v, true);
}

static void free_all(struct vsock *v) {
    struct conn *c, *next;

    for (unsigned i = 0; i < BUCKETS; i++)
        for (c = LIST_FIRST(&v->buckets[i]); c; c = next) {
            next = LIST_NEXT(c, in_bucket);
            conn_free(c);
        }
    v->stray_count = 0;
}

/* Owns the descriptor, also when it returns NULL. */
static struct conn *conn_new(struct vsock *v, int fd, enum state state, uint32_t host_port,
                             uint32_t guest_port) {
    struct conn *c = xcalloc(1, sizeof(*c));

    c->v = v;
    c->fd = fd;
    c->state = state;
    c->host_port = host_port;
    c->guest_port = guest_port;
    c->watched = EPOLLIN;
    c->watch = loop_add_fd(v->loop, fd, EPOLLIN, on_socket, c, NULL);
    if (!c->watch) {
        close(fd);
        free(c);
        return NULL;
    }
    LIST_INSERT_HEAD(bucket_of(v, host_port, guest_port), c, in_bucket);
    v->count++;
    return c;
}

/* The guest hears RST, then nothing is left. */
static void kill_conn(struct conn *c) {
    close_socket(c);
    c->state = DEAD;
    c->ctl = 1u << OP_RST;
    queue_up(c);
}

/* --- from the guest --- */

/* The guest has said that it is done, and all that it sent is delivered. */
static void check_shut(struct conn *c) {
    if (c->held_len || c->state != ESTABLISHED)
        return;
    if (c->guest_shut == SHUT_BOTH)
        kill_conn(c);
    else if (c->guest_shut & SHUT_SEND)
        shutdown(c->fd, SHUT_WR);
}

static void delivered(struct conn *c, uint32_t n) {
    c->fwd += n;
    if (c->fwd - c->fwd_told >= BUF_ALLOC / 2)
        c->ctl |= 1u << OP_CREDIT_UPDATE;
}

/* The host's end takes no more. While the guest may still read what came from there, what it sends
 * is dropped instead. */
static void deafen(struct conn *c) {
    free(c->held);
    c->held = NULL;
    c->held_len = 0;
    c->deaf = true;
    if (c->ended || (c->guest_shut & SHUT_RCV))
        kill_conn(c);
    else
        check_shut(c);
}

/* What was held back; false when the connection is dead now. */
static bool flush_held(struct conn *c) {
    while (c->held_len) {
        ssize_t n = send(c->fd, c->held + c->held_at, c->held_len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            deafen(c);
            return c->state != DEAD;
        }
        c->held_at += (uint32_t)n;
        c->held_len -= (uint32_t)n;
        delivered(c, (uint32_t)n);
    }
    free(c->held);
    c->held = NULL;
    c->held_at = 0;
    check_shut(c);
    return c->state != DEAD;
}

/* Keeps what the socket did not take; false when the guest sends more than it has credit for. */
static bool hold(struct conn *c, const struct virtq_buf *b, size_t from, uint32_t n) {
    if (n > BUF_ALLOC - c->held_len)
        return false;
    if (!c->held)
        c->held = xcalloc(1, BUF_ALLOC);
    if (c->held_at) {
        memmove(c->held, c->held + c->held_at, c->held_len);
        c->held_at = 0;
    }
    virtq_read(b, HEADER + from, c->held + c->held_len, n);
    c->held_len += n;
    return true;
}

static void take_data(struct conn *c, const struct virtq_buf *b, uint32_t len) {
    struct iovec iov[VIRTQ_MAX_CHAIN];
    ssize_t n = 0;

    if (c->state != ESTABLISHED || (c->guest_shut & SHUT_SEND)) {
        kill_conn(c);
        return;
    }
    if (c->deaf) {
        delivered(c, len);
        return;
    }
    if (!c->held_len && b->out_count <= ARRAY_LEN(iov)) {
        struct msghdr m = {.msg_iov = iov};

        m.msg_iovlen = iov_slice(b->out, b->out_count, HEADER, len, iov);
        n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            deafen(c);
            return;
        }
        n = MAX(n, 0);
        delivered(c, (uint32_t)n);
    }
    if ((uint32_t)n < len && !hold(c, b, (size_t)n, len - (uint32_t)n))
        kill_conn(c);
}

static void guest_connects(struct vsock *v, const struct header *h) {
    int fd = v->count < CONNECTIONS_MAX ? vsock_unix_connect(v->path, h->dst_port) : -ENFILE;
    struct conn *c = fd < 0 ? NULL : conn_new(v, fd, ESTABLISHED, h->dst_port, h->src_port);

    if (!c) {
        v->strays[v->stray_count++] = (struct stray){h->dst_port, h->src_port, h->type};
        virtq_kick(&v->d.queues[RX]);
        return;
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->ctl = 1u << OP_RESPONSE;
    queue_up(c);
}

static void guest_accepts(struct conn *c) {
    char line[24];
    int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

    if (c->state != REQUESTED || send(c->fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
        kill_conn(c);
        return;
    }
    c->state = ESTABLISHED;
}

static void guest_shuts(struct conn *c, uint32_t flags) {
    c->guest_shut |= flags & SHUT_BOTH;
    check_shut(c);
}

/* A packet of a connection; c may be gone afterwards. */
static void conn_packet(struct conn *c, const struct header *h, const struct virtq_buf *b) {
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    if (c->state == DEAD && h->op != OP_RST)
        return;
    switch (h->op) {
    case OP_RST:
        conn_free(c);
        return;
    case OP_RESPONSE:
        guest_accepts(c);
        break;
    case OP_SHUTDOWN:
        guest_shuts(c, h->flags);
        break;
    case OP_RW:
        take_data(c, b, h->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        c->ctl |= 1u << OP_CREDIT_UPDATE;
        break;
    default:
        kill_conn(c);
    }
    queue_up(c);
}

static bool get_header(const struct virtq_buf *b, struct header *h) {
    uint8_t raw[HEADER];

    if (virtq_read(b, 0, raw, HEADER) < HEADER)
        return false;
    memcpy(&h->src_cid, raw, 8);
    memcpy(&h->dst_cid, raw + 8, 8);
    memcpy(&h->src_port, raw + 16, 4);
    memcpy(&h->dst_port, raw + 20, 4);
    memcpy(&h->len, raw + 24, 4);
    memcpy(&h->type, raw + 28, 2);
    memcpy(&h->op, raw + 30, 2);
    memcpy(&h->flags, raw + 32, 4);
    memcpy(&h->buf_alloc, raw + 36, 4);
    memcpy(&h->fwd_cnt, raw + 40, 4);
    return h->len <= b->out_len - HEADER;
}

static void guest_packet(struct vsock *v, const struct virtq_buf *b) {
    struct header h;
    struct conn *c;

    if (!get_header(b, &h)) {
        virtio_broken(&v->d, "a packet of %zu bytes that says it is longer", b->out_len);
        return;
    }
    /* Packets under another name, or to other guests, go nowhere. */
    if (h.src_cid != v->cid || h.dst_cid != HOST_CID)
        return;
    c = h.type == TYPE_STREAM ? find(v, h.dst_port, h.src_port) : NULL;
    if (c) {
        conn_packet(c, &h, b);
    } else if (h.type == TYPE_STREAM && h.op == OP_REQUEST) {
        guest_connects(v, &h);
    } else if (h.op != OP_RST) {
        v->strays[v->stray_count++] = (struct stray){h.dst_port, h.src_port, h.type};
        virtq_kick(&v->d.queues[RX]);
    }
}

/* No more is taken than can be answered (5.10.6.1.2). */
static void notify_tx(struct vsock *v, struct virtq *q) {
    struct virtq_buf *b = NULL;

    do {
        virtq_notify_off(q);
        while (v->stray_count < STRAYS_MAX && (b = virtq_pop(q))) {
            guest_packet(v, b);
            virtq_put(q, b, 0);
        }
        virtq_flush(q);
        if (v->stray_count == STRAYS_MAX)
            return; /* the receive queue kicks us when it has taken some */
    } while (virtq_notify_on(q));
}

/* --- to the guest --- */

static void put_header(struct vsock *v, struct virtq_buf *b, const struct header *h) {
    uint8_t raw[HEADER];
    const uint64_t host = HOST_CID;

    memcpy(raw, &host, 8);
    memcpy(raw + 8, &v->cid, 8);
    memcpy(raw + 16, &h->src_port, 4);
    memcpy(raw + 20, &h->dst_port, 4);
    memcpy(raw + 24, &h->len, 4);
    memcpy(raw + 28, &h->type, 2);
    memcpy(raw + 30, &h->op, 2);
    memcpy(raw + 32, &h->flags, 4);
    memcpy(raw + 36, &h->buf_alloc, 4);
    memcpy(raw + 40, &h->fwd_cnt, 4);
    virtq_write(b, 0, raw, HEADER);
}

static void put_conn_header(struct conn *c, struct virtq_buf *b, uint16_t op, uint32_t flags,
                            uint32_t len) {
    const struct header h = {
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .len = len,
        .type = TYPE_STREAM,
        .op = op,
        .flags = flags,
        .buf_alloc = BUF_ALLOC,
        .fwd_cnt = c->fwd,
    };

    c->fwd_told = c->fwd;
    c->ctl &= ~(1u << op) & ~(1u << OP_CREDIT_UPDATE);
    put_header(c->v, b, &h);
}

static uint32_t put_stray(struct vsock *v, struct virtq_buf *b) {
    const struct stray *s = &v->strays[--v->stray_count];
    const struct header h = {
        .src_port = s->host_port, .dst_port = s->guest_port, .type = s->type, .op = OP_RST};

    put_header(v, b, &h);
    if (v->stray_count == STRAYS_MAX - 1)
        virtq_kick(&v->d.queues[TX]);
    return HEADER;
}

/* No more comes from the host. When all of the other end is gone, nothing can go there either. */
static uint32_t put_end(struct conn *c, struct virtq_buf *b) {
    c->ended = true;
    put_conn_header(c, b, OP_SHUTDOWN, c->hung_up ? SHUT_BOTH : SHUT_SEND, 0);
    return HEADER;
}

static uint32_t put_data(struct conn *c, struct virtq_buf *b) {
    struct iovec iov[VIRTQ_MAX_CHAIN];
    struct msghdr m = {.msg_iov = iov};
    ssize_t n;

    if (!has_data(c) || !credit(c) || b->in_count > ARRAY_LEN(iov))
        return 0;
    m.msg_iovlen = iov_slice(b->in, b->in_count, HEADER, credit(c), iov);
    n = recvmsg(c->fd, &m, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        return put_end(c, b);
    if (n < 0) {
        c->readable = false;
        return 0;
    }
    c->sent += (uint32_t)n;
    put_conn_header(c, b, OP_RW, 0, (uint32_t)n);
    return HEADER + (uint32_t)n;
}

static uint32_t put_ctl(struct conn *c, struct virtq_buf *b) {
    static const uint16_t order[] = {OP_RST, OP_REQUEST, OP_RESPONSE, OP_CREDIT_REQUEST,
                                     OP_CREDIT_UPDATE};
    unsigned i = 0;

    while (!(c->ctl & 1u << order[i]))
        i++;
    put_conn_header(c, b, order[i], 0, 0);
    if (order[i] == OP_RST)
        conn_free(c);
    return HEADER;
}

/* One packet for the guest; 0 when who was next had nothing after all. */
static uint32_t put_next(struct vsock *v, struct virtq_buf *b) {
    struct conn *c;
    uint32_t n;

    if (v->stray_count)
        return put_stray(v, b);
    c = TAILQ_FIRST(&v->ready);
    TAILQ_REMOVE(&v->ready, c, in_ready);
    c->ready = false;
    if (c->ctl & 1u << OP_RST)
        return put_ctl(c, b);
    n = c->ctl ? put_ctl(c, b) : put_data(c, b);
    /* Whoever is still waiting does so for what comes as an event: credit, or input. */
    if (wants_turn(c)) {
        TAILQ_INSERT_TAIL(&v->ready, c, in_ready);
        c->ready = true;
    } else if (has_data(c) && n > HEADER) {
        queue_up(c);
    }
    watch(c);
    return n;
}

static bool has_packets(const struct vsock *v) {
    return v->stray_count || !TAILQ_EMPTY(&v->ready);
}

/* Notifications are wanted only while packets wait for buffers. */
static void notify_rx(struct vsock *v, struct virtq *q) {
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while (has_packets(v) && (b = virtq_pop(q))) {
            uint32_t n;

            if (b->in_len <= HEADER) {
                virtio_broken(&v->d, "a receive buffer of %zu bytes", b->in_len);
                virtq_put(q, b, 0);
                continue;
            }
            n = put_next(v, b);
            if (n)
                virtq_put(q, b, n);
            else
                virtq_unpop(q, b);
        }
        virtq_flush(q);
    } while (has_packets(v) && virtq_notify_on(q));
}

static void notify_event(struct vsock *v, struct virtq *q) {
    static const uint8_t transport_reset[4];
    struct virtq_buf *b;

    if (!atomic_load(&v->moved) || !(b = virtq_pop(q)))
        return;
    atomic_store(&v->moved, false);
    virtq_complete(q, b, (uint32_t)virtq_write(b, 0, transport_reset, sizeof(transport_reset)));
}

/* --- from the host --- */

static void host_connects(struct conn *c, uint32_t port) {
    struct vsock *v = c->v;

    while (find(v, v->next_port, port))
        v->next_port = v->next_port == UINT32_MAX - 1 ? FIRST_PORT : v->next_port + 1;
    LIST_REMOVE(c, in_bucket);
    c->host_port = v->next_port;
    c->guest_port = port;
    v->next_port = v->next_port == UINT32_MAX - 1 ? FIRST_PORT : v->next_port + 1;
    LIST_INSERT_HEAD(bucket_of(v, c->host_port, port), c, in_bucket);
    c->state = REQUESTED;
    c->ctl = 1u << OP_REQUEST;
    queue_up(c);
}

static bool guest_listens(struct vsock *v) {
    struct virtq *q = &v->d.queues[RX];
    bool usable;

    virtq_lock(q);
    usable = virtq_usable(q);
    virtq_unlock(q);
    return usable;
}

static void hello(struct conn *c) {
    uint32_t port = 0;
    int r = vsock_hello_read(&c->hello, c->fd, &port);

    if (r < 0 || (r > 0 && !guest_listens(c->v)))
        conn_free(c);
    else if (r > 0)
        host_connects(c, port);
}

/* The other end is closed. epoll would say so for ever, so it is not asked again. */
static void hung_up(struct conn *c) {
    c->hung_up = true;
    c->readable = true;
    loop_del_fd(c->watch);
    c->watch = NULL;
    if (c->state == REQUESTED)
        kill_conn(c);
    else
        deafen(c);
}

/* Resets that came since the last look: what was there before is nobody's. */
static void look_for_reset(struct vsock *v) {
    unsigned resets = atomic_load(&v->resets);

    if (v->epoch == resets)
        return;
    free_all(v);
    v->epoch = resets;
}

static void on_wake(void *arg) {
    look_for_reset(arg);
}

static void on_socket(void *arg, int fd, uint32_t events) {
    struct conn *c = arg;

    (void)fd;
    if (c->v->epoch != atomic_load(&c->v->resets)) {
        look_for_reset(c->v);
        return;
    }
    if (c->state == HELLO) {
        hello(c);
        return;
    }
    if (events & EPOLLIN)
        c->readable = true;
    if ((events & EPOLLOUT) && !flush_held(c))
        return;
    if (c->watch && (events & (EPOLLHUP | EPOLLERR)))
        hung_up(c);
    queue_up(c);
}

/* When there are too many of anything, those that come wait in the listener's queue. */
static void on_listener(void *arg, int fd, uint32_t events) {
    struct vsock *v = arg;
    int s;

    (void)events;
    look_for_reset(v);
    if (v->count == CONNECTIONS_MAX) {
        listen_again(v, false);
        return;
    }
    s = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s >= 0) {
        conn_new(v, s, HELLO, 0, 0);
    } else if (errno == EMFILE || errno == ENFILE) {
        listen_again(v, false);
        loop_timer_arm(v->listen_later, mono_now() + ACCEPT_RETRY_NS);
    }
}

static void on_listen_later(void *arg) {
    listen_again(arg, true);
}

/* --- the device --- */

static void vsock_notify(struct virtio_device *d, struct virtq *q) {
    struct vsock *v = (struct vsock *)(void *)d;

    look_for_reset(v);
    if (q->index == TX)
        notify_tx(v, q);
    else if (q->index == RX)
        notify_rx(v, q);
    else
        notify_event(v, q);
}

static void vsock_reset(struct virtio_device *d) {
    struct vsock *v = (struct vsock *)(void *)d;

    atomic_fetch_add(&v->resets, 1);
    atomic_store(&v->moved, false);
    notifier_ring(v->wake);
}

static void vsock_load(struct virtio_device *d, struct record_reader *r) {
    struct vsock *v = (struct vsock *)(void *)d;

    (void)r;
    atomic_store(&v->moved, true);
}

static void vsock_destroy(struct virtio_device *d) {
    struct vsock *v = (struct vsock *)(void *)d;

    free_all(v);
    if (v->listen_fd)
        loop_del_fd(v->listen_fd);
    if (v->listener >= 0) {
        close(v->listener);
        unlink(v->path);
    }
    loop_timer_free(v->listen_later);
    notifier_free(v->wake);
    virtio_destroy(d);
    free(v->path);
    free(v);
}

static const struct virtio_ops vsock_ops = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .version = 1,
    .pci_class = 0x078000,
    .notify = vsock_notify,
    .reset = vsock_reset,
    .load = vsock_load,
    .destroy = vsock_destroy,
};

static int prepare(struct vsock *v, struct err *e) {
    if (virtio_add_queues(&v->d, QUEUES, QUEUE_SIZE, sizeof(struct virtq_buf), v->loop, e) < 0)
        return -1;
    v->wake = notifier_new(v->loop, on_wake, v, e);
    if (!v->wake)
        return -1;
    v->listen_later = loop_timer_new(v->loop, on_listen_later, v);
    v->listener = vsock_unix_listen(v->path, e);
    if (v->listener < 0)
        return -1;
    v->listen_fd = loop_add_fd(v->loop, v->listener, EPOLLIN, on_listener, v, e);
    return v->listen_fd ? 0 : -1;
}

struct virtio_device *virtio_vsock_new(struct mem *m, uint64_t cid, const char *path,
                                       struct loop *l, struct err *e) {
    struct vsock *v = xcalloc(1, sizeof(*v));

    v->cid = cid;
    v->path = xstrdup(path);
    v->loop = l;
    v->listener = -1;
    v->next_port = FIRST_PORT;
    TAILQ_INIT(&v->ready);
    virtio_init(&v->d, &vsock_ops, m, VIRTIO_BIT(VIRTIO_VSOCK_F_STREAM), 8);
    virtio_config_set(&v->d, 0, 8, cid);
    if (prepare(v, e) < 0) {
        vsock_destroy(&v->d);
        return NULL;
    }
    return &v->d;
}

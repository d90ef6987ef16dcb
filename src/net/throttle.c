/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits: a token bucket in each direction. A frame may go while there is a token left, and
 * takes as many as it has bytes; a bucket that is in debt refuses frames until it has been paid
 * off. So large frames need no large bucket, and the rate is exact over time.
 */
#include <stdlib.h>

#include "base/loop.h"
#include "base/util.h"
#include "net/filter.h"

#define NS 1000000000ull
#define BURST_DIVISOR 20 /* of a second */
#define BURST_MIN 2000   /* bytes, more than a plain frame */

struct bucket {
    uint64_t rate; /* 0: no limit */
    int64_t tokens, size;
    uint64_t filled; /* when it was last topped up */
    struct loop_timer *timer;
    bool refused;
};

struct throttle {
    struct net_filter f;
    struct bucket out, in; /* from the guest, to the guest */
};

/* What is less than a token stays in the time that is left. */
static void fill(struct bucket *b) {
    uint64_t now = mono_now(), ns = MIN(now - b->filled, 10 * NS);
    uint64_t more = (uint64_t)((unsigned __int128)ns * b->rate / NS);

    if (!more)
        return;
    b->filled =
        ns == 10 * NS ? now : b->filled + (uint64_t)((unsigned __int128)more * NS / b->rate);
    b->tokens = MIN(b->tokens + (int64_t)more, b->size);
}

static bool may_pass(struct bucket *b) {
    if (!b->rate)
        return true;
    fill(b);
    if (b->tokens > 0)
        return true;
    uint64_t wait = (uint64_t)((unsigned __int128)(1 - b->tokens) * NS / b->rate);
    if (!b->refused)
        loop_timer_arm(b->timer, b->filled + wait + 1);
    b->refused = true;
    return false;
}

static void pay(struct bucket *b, size_t len) {
    if (b->rate)
        b->tokens -= (int64_t)len;
}

static bool throttle_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct throttle *t = (struct throttle *)n;

    if (!may_pass(&t->out) || !net_send(t->f.inner, queue, f))
        return false;
    pay(&t->out, f->len);
    return true;
}

static bool throttle_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct throttle *t = arg;

    if (!may_pass(&t->in) || !net_receive(&t->f.net, queue, f))
        return false;
    pay(&t->in, f->len);
    return true;
}

static void on_out_timer(void *arg) {
    struct throttle *t = arg;

    t->out.refused = false;
    for (unsigned i = 0; i < t->f.net.queues_max; i++)
        net_filter_send_again(t, i);
}

static void on_in_timer(void *arg) {
    struct throttle *t = arg;

    t->in.refused = false;
    for (unsigned i = 0; i < t->f.net.queues_max; i++)
        net_receive_again(t->f.inner, i);
}

static const struct net_front throttle_front = {throttle_receive, net_filter_send_again,
                                                net_filter_link_changed};

static void throttle_start(struct net *n) {
    net_filter_start((struct net_filter *)n, &throttle_front);
}

static void throttle_close(struct net *n) {
    struct throttle *t = (struct throttle *)n;

    net_close(t->f.inner);
    loop_timer_free(t->out.timer);
    loop_timer_free(t->in.timer);
    free(t);
}

static const struct net_ops throttle_ops = {
    .name = "throttle",
    .start = throttle_start,
    .send = throttle_send,
    .receive_again = net_filter_receive_again,
    .set_front = net_filter_set_front,
    .close = throttle_close,
};

static void bucket_init(struct bucket *b, const struct net_rate *r, struct loop *l,
                        loop_timer_fn *fn, struct throttle *t) {
    uint64_t burst = r->burst ? r->burst : r->bytes_per_second / BURST_DIVISOR;

    b->rate = r->bytes_per_second;
    b->size = b->tokens = (int64_t)MAX(burst, (uint64_t)BURST_MIN);
    b->filled = mono_now();
    b->timer = loop_timer_new(l, fn, t);
}

struct net *net_throttle_new(struct net *inner, const struct net_rate *from_guest,
                             const struct net_rate *to_guest) {
    struct throttle *t = xcalloc(1, sizeof(*t));

    net_filter_init(&t->f, &throttle_ops, inner);
    bucket_init(&t->out, from_guest, inner->loop, on_out_timer, t);
    bucket_init(&t->in, to_guest, inner->loop, on_in_timer, t);
    return &t->f.net;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offloads in software, in both directions. A frame that the other side cannot take as it is gets
 * copied and cut; as long as segments of it wait, its queue takes no other.
 */
#include <stdlib.h>

#include "base/notifier.h"
#include "base/util.h"
#include "net/filter.h"
#include "net/offload.h"

#define CAN_ALL (NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN | NET_CAN_USO)

struct lane {
    struct net_cut out, in; /* from the guest, to the guest */
    bool in_refused;        /* the back end waits for receive_again */
};

struct soft {
    struct net_filter f;
    struct lane *lanes; /* one a queue pair */
    struct notifier *again;
    unsigned front_can;
};

static bool busy(const struct net_cut *c) {
    return c->made;
}

/* The back end takes segments until it is full. */
static void push_out(struct soft *s, unsigned queue) {
    struct net_cut *c = &s->lanes[queue].out;
    struct net_frame f;
    struct iovec iov;

    while (net_cut_next(c, &f, &iov) && net_send(s->f.inner, queue, &f))
        net_cut_taken(c);
}

static void push_in(struct soft *s, unsigned queue) {
    struct net_cut *c = &s->lanes[queue].in;
    struct net_frame f;
    struct iovec iov;

    while (net_cut_next(c, &f, &iov) && net_receive(&s->f.net, queue, &f))
        net_cut_taken(c);
}

static bool soft_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct soft *s = (struct soft *)n;
    struct lane *l = &s->lanes[queue];

    if (busy(&l->out))
        return false;
    if (!(net_offload_needs(&f->offload) & ~s->f.inner->can))
        return net_send(s->f.inner, queue, f);
    if (net_cut_begin(&l->out, f))
        push_out(s, queue);
    return true;
}

/* Either for our own segments, or for a frame that went through. */
static void soft_send_again(void *arg, unsigned queue) {
    struct soft *s = arg;

    push_out(s, queue);
    if (!busy(&s->lanes[queue].out))
        net_filter_send_again(s, queue);
}

static bool soft_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct soft *s = arg;
    struct lane *l = &s->lanes[queue];

    if (busy(&l->in)) {
        l->in_refused = true;
        return false;
    }
    if (!(net_offload_needs(&f->offload) & ~s->front_can))
        return net_receive(&s->f.net, queue, f);
    if (net_cut_begin(&l->in, f))
        push_in(s, queue);
    return true;
}

/* The front holds a queue's lock: segments go to it later. */
static void soft_receive_again(struct net *n, unsigned queue) {
    struct soft *s = (struct soft *)n;

    if (busy(&s->lanes[queue].in))
        notifier_ring(s->again);
    else
        net_receive_again(s->f.inner, queue);
}

static void on_again(void *arg) {
    struct soft *s = arg;

    for (unsigned i = 0; i < s->f.net.queues_max; i++) {
        struct lane *l = &s->lanes[i];

        push_in(s, i);
        if (!busy(&l->in) && l->in_refused) {
            l->in_refused = false;
            net_receive_again(s->f.inner, i);
        }
    }
}

static void soft_set_front(struct net *n, unsigned can, unsigned queues) {
    struct soft *s = (struct soft *)n;

    s->front_can = can;
    net_set_front(s->f.inner, can, queues);
}

static const struct net_front soft_front = {soft_receive, soft_send_again, net_filter_link_changed};

static void soft_start(struct net *n) {
    net_filter_start((struct net_filter *)n, &soft_front);
}

static void soft_close(struct net *n) {
    struct soft *s = (struct soft *)n;

    net_close(s->f.inner);
    for (unsigned i = 0; i < s->f.net.queues_max; i++) {
        net_cut_free(&s->lanes[i].out);
        net_cut_free(&s->lanes[i].in);
    }
    free(s->lanes);
    notifier_free(s->again);
    free(s);
}

static const struct net_ops soft_ops = {
    .name = "soft",
    .start = soft_start,
    .send = soft_send,
    .receive_again = soft_receive_again,
    .set_front = soft_set_front,
    .close = soft_close,
};

struct net *net_soft_new(struct net *inner, struct err *e) {
    struct soft *s = xcalloc(1, sizeof(*s));

    net_filter_init(&s->f, &soft_ops, inner);
    s->f.net.can |= CAN_ALL;
    s->lanes = xcalloc(inner->queues_max, sizeof(*s->lanes));
    for (unsigned i = 0; i < inner->queues_max; i++) {
        net_cut_init(&s->lanes[i].out);
        net_cut_init(&s->lanes[i].in);
    }
    s->again = notifier_new(inner->loop, on_again, s, e);
    if (s->again)
        return &s->f.net;
    soft_close(&s->f.net);
    return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What filters have in common: they pass on what is not their business. */
#include "net/filter.h"

static struct net_filter *self(struct net *n) {
    return (struct net_filter *)n;
}

void net_filter_init(struct net_filter *f, const struct net_ops *ops, struct net *inner) {
    f->net = (struct net){
        .ops = ops,
        .loop = inner->loop,
        .can = inner->can,
        .queues_max = inner->queues_max,
        .mtu = inner->mtu,
        .link_up = inner->link_up,
    };
    f->inner = inner;
}

void net_filter_start(struct net_filter *f, const struct net_front *front) {
    net_attach(f->inner, front, f);
    net_start(f->inner);
}

bool net_filter_send(struct net *n, unsigned queue, const struct net_frame *f) {
    return net_send(self(n)->inner, queue, f);
}

void net_filter_receive_again(struct net *n, unsigned queue) {
    net_receive_again(self(n)->inner, queue);
}

void net_filter_set_front(struct net *n, unsigned can, unsigned queues) {
    net_set_front(self(n)->inner, can, queues);
}

bool net_filter_receive(void *filter, unsigned queue, const struct net_frame *f) {
    return net_receive(filter, queue, f);
}

void net_filter_send_again(void *filter, unsigned queue) {
    struct net *n = filter;

    n->front->send_again(n->front_arg, queue);
}

void net_filter_link_changed(void *filter, bool up) {
    net_set_link(filter, up);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What all network back ends have in common. */
#include "net/net.h"

#include "base/loop.h"

void net_start(struct net *n) {
    if (n->ops->start)
        n->ops->start(n);
}

static void start(void *arg) {
    net_start(arg);
}

void net_start_soon(struct net *n) {
    loop_call(n->loop, start, n);
}

void net_close(struct net *n) {
    if (n)
        n->ops->close(n);
}

bool net_receive(struct net *n, unsigned queue, const struct net_frame *f) {
    return n->front->receive(n->front_arg, queue, f);
}

void net_set_link(struct net *n, bool up) {
    if (n->link_up == up)
        return;
    n->link_up = up;
    if (n->front)
        n->front->link_changed(n->front_arg, up);
}

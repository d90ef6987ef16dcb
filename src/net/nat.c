/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gateway of a switch is libslirp (user.c) on a port of its own, in the process of the member
 * that holds the lock on the file "nat" in the switch's folder. The kernel gives the lock back when
 * that process ends, however it does, and the others see its ports go: then one of them takes over.
 * Connections through the old gateway are lost; addresses stay as the guests have them.
 */
#include "net/nat.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/switch.h"
#include "net/user.h"

/* A process that ends closes its sockets and its lock one after the other. */
#define LOOKS 3
#define LOOK_AGAIN_NS 300000000ull

/* One end of the wire between the port and libslirp: what it receives goes into the other one. */
struct end {
    struct net *net;
    struct end *other;
};

struct net_nat {
    struct loop *loop;
    struct loop_timer *timer;
    int lock;
    bool gateway;
    unsigned looks;
    char *name, *folder, *hostname;
    struct switch_options port;
    struct user_options user;
    struct end outside, inside;
};

static bool on_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct end *end = arg;

    (void)queue;
    return net_send(end->other->net, 0, f);
}

static void on_send_again(void *arg, unsigned queue) {
    struct end *end = arg;

    (void)queue;
    net_receive_again(end->other->net, 0);
}

static void on_link_changed(void *arg, bool up) {
    (void)arg;
    (void)up;
}

static const struct net_front wire = {on_receive, on_send_again, on_link_changed};

static int connect_ends(struct net_nat *n, struct err *e) {
    struct net *user = net_user_open(&n->user, n->loop, e);

    n->outside.net = user ? net_soft_new(user, e) : NULL;
    n->inside.net = n->outside.net ? net_switch_open(&n->port, n->loop, e) : NULL;
    if (!n->inside.net)
        return -1;
    n->inside.other = &n->outside;
    n->outside.other = &n->inside;
    net_attach(n->inside.net, &wire, &n->inside);
    net_attach(n->outside.net, &wire, &n->outside);
    net_start(n->inside.net);
    net_start(n->outside.net);
    net_set_front(n->outside.net, n->inside.net->can, 1);
    return 0;
}

static void on_timer(void *arg) {
    struct net_nat *n = arg;
    cleanup_err struct err e = ERR_INIT;

    if (n->gateway || n->lock < 0)
        return;
    if (flock(n->lock, LOCK_EX | LOCK_NB) < 0) {
        if (--n->looks)
            loop_timer_arm(n->timer, mono_now() + LOOK_AGAIN_NS);
        return;
    }
    n->gateway = true;
    if (connect_ends(n, &e) < 0)
        log_error("switch %s has no way out: %s", n->name, err_msg(&e));
}

void net_nat_look(struct net_nat *n) {
    n->looks = LOOKS;
    loop_timer_arm(n->timer, mono_now());
}

struct net_nat *net_nat_new(const struct switch_options *o, int dir, struct loop *l) {
    struct net_nat *n = xcalloc(1, sizeof(*n));

    n->loop = l;
    n->timer = loop_timer_new(l, on_timer, n);
    n->lock = openat(dir, "nat", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (n->lock < 0)
        log_error("switch %s has no way out: its file \"nat\" can't be opened", o->name);
    n->name = xstrdup(o->name);
    n->folder = o->folder ? xstrdup(o->folder) : NULL;
    n->hostname = o->nat->hostname ? xstrdup(o->nat->hostname) : NULL;
    n->port = (struct switch_options){.name = n->name, .folder = n->folder};
    n->user = *o->nat;
    n->user.hostname = n->hostname;
    n->user.forwards = NULL;
    n->user.forward_count = 0;
    return n;
}

void net_nat_free(struct net_nat *n) {
    if (!n)
        return;
    net_close(n->inside.net);
    net_close(n->outside.net);
    loop_timer_free(n->timer);
    cleanup_close_fn(&n->lock);
    free(n->name);
    free(n->folder);
    free(n->hostname);
    free(n);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tap interfaces, with the kernel's own offloads (the header that comes with a frame is virtio's)
 * and a descriptor for each queue. The guest's link is up while the interface is.
 */
#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/util.h"
#include "net/bridge.h"
#include "net/net.h"
#include "net/vnet.h"

/* Since Linux 6.2; older headers lack them. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define FRAMES_AT_ONCE 64
#define PIECES_MAX 1000 /* of a frame, in one system call */

struct tap;

struct tap_queue {
    struct tap *tap;
    unsigned index;
    int fd;
    bool attached;
    struct loop_fd *watch;
    uint32_t events;
    uint8_t *frame; /* VNET_HEADER and a frame */
    size_t waiting; /* bytes of a frame that the guest had no buffer for; 0: none */
};

struct tap {
    struct net net;
    char name[IFNAMSIZ];
    unsigned index;
    struct tap_queue *queues;
    uint8_t *linear; /* for frames of too many pieces */
    struct notifier *again;
    int netlink;
    struct loop_fd *netlink_watch;
};

static void want(struct tap_queue *q, uint32_t events) {
    if (q->watch && q->events != events)
        loop_mod_fd(q->watch, events);
    q->events = events;
}

/* --- to the guest --- */

static bool deliver(struct tap_queue *q) {
    struct iovec iov = {q->frame + VNET_HEADER, q->waiting - VNET_HEADER};
    struct net_frame f = {
        .iov = &iov, .iov_count = 1, .len = iov.iov_len, .offload = vnet_get(q->frame)};

    if (!net_receive(&q->tap->net, q->index, &f))
        return false;
    q->waiting = 0;
    return true;
}

static void receive(struct tap_queue *q) {
    for (unsigned i = 0; i < FRAMES_AT_ONCE; i++) {
        if (q->waiting && !deliver(q)) {
            want(q, q->events & ~(uint32_t)EPOLLIN);
            return;
        }
        ssize_t n = read(q->fd, q->frame, VNET_HEADER + NET_FRAME_MAX);
        if (n < VNET_HEADER)
            return;
        q->waiting = (size_t)n;
    }
}

static void on_event(void *arg, int fd, uint32_t events) {
    struct tap_queue *q = arg;
    struct net *n = &q->tap->net;

    (void)fd;
    if (events & EPOLLOUT) {
        want(q, q->events & ~(uint32_t)EPOLLOUT);
        n->front->send_again(n->front_arg, q->index);
    }
    if (events & EPOLLIN && q->events & EPOLLIN)
        receive(q);
    /* The interface was deleted: what comes next says the same, for ever. */
    if (events & EPOLLERR && !(events & (EPOLLIN | EPOLLOUT))) {
        loop_del_fd(q->watch);
        q->watch = NULL;
        net_set_link(n, false);
    }
}

/* The kernel may have no other frame that would call us for the one that waits. */
static void on_again(void *arg) {
    struct tap *t = arg;

    for (unsigned i = 0; i < t->net.queues_max; i++)
        if (t->queues[i].waiting)
            receive(&t->queues[i]);
}

static void tap_receive_again(struct net *n, unsigned queue) {
    struct tap *t = (struct tap *)n;

    want(&t->queues[queue], t->queues[queue].events | EPOLLIN);
    if (t->queues[queue].waiting)
        notifier_ring(t->again);
}

/* --- from the guest --- */

static bool tap_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct tap *t = (struct tap *)n;
    struct tap_queue *q = &t->queues[queue];
    uint8_t header[VNET_HEADER];
    struct iovec iov[PIECES_MAX + 1] = {{header, VNET_HEADER}};
    unsigned pieces = f->iov_count;

    vnet_put(header, &f->offload);
    if (pieces > PIECES_MAX) {
        iov[1] = (struct iovec){t->linear, iov_read(f->iov, pieces, 0, t->linear, f->len)};
        pieces = 1;
    } else {
        memcpy(iov + 1, f->iov, pieces * sizeof(*iov));
    }
    /* A frame that the kernel does not want (EINVAL), or an interface that is down (EIO), loses it.
     */
    if (writev(q->fd, iov, (int)pieces + 1) >= 0 || errno != EAGAIN)
        return true;
    want(q, q->events | EPOLLOUT);
    return false;
}

static void tap_set_front(struct net *n, unsigned can, unsigned queues) {
    struct tap *t = (struct tap *)n;
    unsigned long offload = can & NET_CAN_CSUM ? TUN_F_CSUM : 0;

    if (offload) {
        offload |= can & NET_CAN_TSO4 ? TUN_F_TSO4 : 0;
        offload |= can & NET_CAN_TSO6 ? TUN_F_TSO6 : 0;
        offload |= can & NET_CAN_ECN ? TUN_F_TSO_ECN : 0;
        offload |= can & n->can & NET_CAN_USO ? TUN_F_USO4 | TUN_F_USO6 : 0;
    }
    for (unsigned i = 0; i < n->queues_max; i++) {
        bool use = i < MAX(queues, 1u);
        struct ifreq r = {.ifr_flags = use ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

        if (use != t->queues[i].attached && ioctl(t->queues[i].fd, TUNSETQUEUE, &r) == 0)
            t->queues[i].attached = use;
    }
    ioctl(t->queues[0].fd, TUNSETOFFLOAD, offload);
}

/* --- the interface --- */

static void look_at(struct tap *t, struct nlmsghdr *h) {
    const struct ifinfomsg *i = NLMSG_DATA(h);

    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*i)) || (unsigned)i->ifi_index != t->index)
        return;
    if (h->nlmsg_type == RTM_NEWLINK)
        net_set_link(&t->net, i->ifi_flags & IFF_UP);
    else if (h->nlmsg_type == RTM_DELLINK)
        net_set_link(&t->net, false);
}

static void on_netlink(void *arg, int fd, uint32_t events) {
    _Alignas(struct nlmsghdr) uint8_t buf[16384];
    struct tap *t = arg;
    ssize_t got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    unsigned len = got > 0 ? (unsigned)got : 0;

    (void)events;
    for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len))
        look_at(t, h);
}

static int interface_flags(const struct tap *t, int *mtu, struct err *e) {
    cleanup_close int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {0};

    memcpy(r.ifr_name, t->name, IFNAMSIZ);
    if (sock < 0 || ioctl(sock, SIOCGIFMTU, &r) < 0)
        return err_set(e, errno, "look at interface %s", t->name);
    *mtu = r.ifr_mtu;
    if (ioctl(sock, SIOCGIFFLAGS, &r) < 0)
        return err_set(e, errno, "look at interface %s", t->name);
    return (unsigned short)r.ifr_flags;
}

static int watch_link(struct tap *t, struct err *e) {
    const struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

    t->netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (t->netlink < 0 || bind(t->netlink, (const void *)&links, sizeof(links)) < 0)
        return err_set(e, errno, "interface %s: watch its state", t->name);
    return 0;
}

static int look_first(struct tap *t, const struct tap_options *o, struct err *e) {
    int mtu = 0, flags;

    if (watch_link(t, e) < 0)
        return -1;
    flags = interface_flags(t, &mtu, e);
    if (flags < 0)
        return flags;
    t->net.link_up = flags & IFF_UP;
    if (!t->net.link_up)
        log_warn("interface %s is down; the guest has no link until: sudo ip link set %s up",
                 t->name, t->name);
    if (o->mtu && o->mtu > (unsigned)mtu)
        return err_set(e, 0, "interface %s has an MTU of %d; sudo ip link set %s mtu %u", t->name,
                       mtu, t->name, o->mtu);
    t->net.mtu = o->mtu || mtu == 1500 ? o->mtu : (unsigned)mtu;
    return 0;
}

/* --- opening --- */

static int why_not(const char *name, struct err *e) {
    switch (errno) {
    case EPERM:
        return err_set(e, EPERM,
                       "interface %s is not this user's; sudo ip tuntap del dev %s mode "
                       "tap && sudo ip tuntap add dev %s mode tap user $USER",
                       name, name, name);
    case EBUSY:
        return err_set(e, EBUSY, "interface %s: another program has it open", name);
    case EINVAL:
        return err_set(e, EINVAL,
                       "interface %s is no tap, or has another number of queues than "
                       "asked for (ip tuntap add … multi_queue for several)",
                       name);
    default:
        return err_wrap(e, "tap");
    }
}

static int open_existing(struct tap *t, const struct tap_options *o, bool many, struct err *e) {
    if (strlen(o->name) >= IFNAMSIZ)
        return err_set(e, 0, "'%s' is too long for an interface", o->name);
    if (!if_nametoindex(o->name))
        return err_set(e, 0,
                       "there is no interface %s; make it: sudo ip tuntap add dev %s mode tap user "
                       "$USER%s && sudo ip link set %s up",
                       o->name, o->name, many ? " multi_queue" : "", o->name);
    snprintf(t->name, sizeof(t->name), "%s", o->name);
    int fd = bridge_open_tap(t->name, true, many, e);
    return fd < 0 ? why_not(o->name, e) : fd;
}

/* Beside rf, as it is built, or where it is installed. */
static char *find_helper(void) {
    static const char *const places[] = {"", "../libexec/ringfence/"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (n < 0)
        return NULL;
    self[n] = 0;
    slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < ARRAY_LEN(places); i++) {
        char *path = xasprintf("%.*s/%srf-bridge-helper", (int)(slash - self), self, places[i]);

        if (access(path, X_OK) == 0)
            return path;
        free(path);
    }
    return NULL;
}

static int run_helper(const char *helper, const char *bridge, int sock, struct err *e) {
    cleanup_free char *br = xasprintf("--br=%s", bridge), *fd = xasprintf("--fd=%d", sock);
    cleanup_free char *program = xstrdup(helper), *vnet = xstrdup("--use-vnet");
    char *argv[] = {program, vnet, br, fd, NULL};
    posix_spawnattr_t attr;
    sigset_t none;
    pid_t pid;
    int r, status;

    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    r = posix_spawn(&pid, helper, NULL, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    if (r)
        return err_set(e, r, "run %s", helper);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_set(e, errno, "wait for %s", helper);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return err_set(e, 0, "bridge %s: %s did not give a port of it; its message is above",
                       bridge, helper);
    return 0;
}

static int ask_helper(const char *helper, const char *bridge, struct err *e) {
    int pair[2], fd;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "socket");
    cleanup_close int ours = pair[0], theirs = pair[1];
    fcntl(theirs, F_SETFD, 0);
    if (run_helper(helper, bridge, theirs, e) < 0)
        return -1;
    fd = bridge_receive_fd(ours);
    if (fd < 0)
        return err_set(e, -fd, "bridge %s: from %s", bridge, helper);
    return fd;
}

static int open_port(struct tap *t, const struct tap_options *o, struct err *e) {
    cleanup_free char *found = o->helper ? xstrdup(o->helper) : find_helper();
    struct ifreq r;

    snprintf(t->name, sizeof(t->name), "%s", o->name ? o->name : "rf%d");
    int fd = bridge_add_tap(o->bridge, t->name, true, e);
    if (fd >= 0 || e->code != EPERM)
        return fd;
    err_clear(e);
    if (!found)
        return err_set(e, EPERM, "bridge %s: it takes rf-bridge-helper, which is not beside rf",
                       o->bridge);
    fd = ask_helper(found, o->bridge, e);
    if (fd < 0)
        return fd;
    if (ioctl(fd, TUNGETIFF, &r) < 0)
        return err_set(e, errno, "bridge %s: what %s gave is no tap", o->bridge, found);
    memcpy(t->name, r.ifr_name, IFNAMSIZ);
    return fd;
}

static int set_modes(struct tap *t, int fd, struct err *e) {
    int size = VNET_HEADER, little = 1;

    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0)
        return err_set(e, errno, "interface %s: header", t->name);
    return 0;
}

static int open_queues(struct tap *t, const struct tap_options *o, struct err *e) {
    bool many = t->net.queues_max > 1;

    for (unsigned i = 0; i < t->net.queues_max; i++) {
        struct tap_queue *q = &t->queues[i];

        if (i)
            q->fd = bridge_open_tap(t->name, true, many, e);
        else
            q->fd = o->bridge ? open_port(t, o, e) : open_existing(t, o, many, e);
        if (q->fd < 0 || set_modes(t, q->fd, e) < 0)
            return -1;
        q->attached = true;
    }
    t->index = if_nametoindex(t->name);
    if (ioctl(t->queues[0].fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6) == 0)
        t->net.can |= NET_CAN_USO;
    ioctl(t->queues[0].fd, TUNSETOFFLOAD, 0);
    return look_first(t, o, e);
}

static void tap_start(struct net *n) {
    struct tap *t = (struct tap *)n;
    cleanup_err struct err e = ERR_INIT;
    bool good = true;

    for (unsigned i = 0; i < n->queues_max; i++) {
        struct tap_queue *q = &t->queues[i];

        q->events = EPOLLIN;
        q->watch = loop_add_fd(n->loop, q->fd, q->events, on_event, q, &e);
        good &= q->watch != NULL;
    }
    t->netlink_watch = loop_add_fd(n->loop, t->netlink, EPOLLIN, on_netlink, t, &e);
    if (good && t->netlink_watch)
        return;
    log_error("interface %s: %s", t->name, err_msg(&e));
    net_set_link(n, false);
}

static void tap_close(struct net *n) {
    struct tap *t = (struct tap *)n;

    for (unsigned i = 0; i < n->queues_max; i++) {
        if (t->queues[i].watch)
            loop_del_fd(t->queues[i].watch);
        cleanup_close_fn(&t->queues[i].fd);
        free(t->queues[i].frame);
    }
    if (t->netlink_watch)
        loop_del_fd(t->netlink_watch);
    cleanup_close_fn(&t->netlink);
    notifier_free(t->again);
    free(t->queues);
    free(t->linear);
    free(t);
}

static const struct net_ops tap_ops = {
    .name = "tap",
    .start = tap_start,
    .send = tap_send,
    .receive_again = tap_receive_again,
    .set_front = tap_set_front,
    .close = tap_close,
};

struct net *net_tap_open(const struct tap_options *o, struct loop *l, struct err *e) {
    struct tap *t = xcalloc(1, sizeof(*t));

    t->net = (struct net){
        .ops = &tap_ops,
        .loop = l,
        .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN,
        .queues_max = o->queues ? o->queues : 1,
    };
    t->netlink = -1;
    t->linear = xcalloc(1, NET_FRAME_MAX);
    t->queues = xcalloc(t->net.queues_max, sizeof(*t->queues));
    for (unsigned i = 0; i < t->net.queues_max; i++)
        t->queues[i] = (struct tap_queue){
            .tap = t, .index = i, .fd = -1, .frame = xcalloc(1, VNET_HEADER + NET_FRAME_MAX)};
    t->again = notifier_new(l, on_again, t, e);
    if (t->again && open_queues(t, o, e) == 0)
        return &t->net;
    tap_close(&t->net);
    return NULL;
}

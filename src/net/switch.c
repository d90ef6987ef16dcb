/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A learning switch without a hub: each member has a socket in the switch's folder, and a
 * connection to every other member. It sends its guest's frames where it has learnt that the
 * address is, or to all; it forwards nothing for others. So there is nobody to elect or to
 * lose: a member that crashes or stands still is missed by no other two.
 *
 * Connections are Unix sockets of type SOCK_SEQPACKET; a message is two zero bytes, a virtio header
 * (vnet.h) and a frame, which may wait for its checksum and segmentation: the receiver sees to that
 * if its guest cannot. Members join one at a time, under a lock on the folder, and connect to those
 * that are there before them.
 */
#include "net/switch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/util.h"
#include "net/nat.h"
#include "net/net.h"
#include "net/vnet.h"

#define HEADER (2 + VNET_HEADER)
#define FRAME_MIN 14
#define PEERS_MAX 254
#define PIECES_MAX 1000
#define FRAMES_AT_ONCE 64
#define SOCKET_BUFFER (4 << 20) /* the host may give less */

/* A member whose buffer is full is waited for that long, then what is for it is lost until it
 * takes something again: a guest that stands still must not stop the others' frames. */
#define PATIENCE_NS 100000000ull
#define LOCK_PATIENCE_MS 3000

#define MACS 1024
#define MAC_AGE_NS (300 * 1000000000ull)

struct port;

struct peer {
    struct port *port;
    struct peer *next;
    int fd;
    struct loop_fd *watch;
    uint32_t events;
    bool waited_for; /* its buffer is full, and our guest waits */
    bool deaf;       /* … and has waited long enough */
};

struct learnt {
    uint8_t mac[6];
    struct peer *peer; /* NULL: unused */
    uint64_t when;
};

/* This member. */
struct port {
    struct net net;
    char *folder;
    int dir, lock;
    char self[17]; /* our socket in the folder; "": not there yet */
    int listener;
    struct loop_fd *listener_watch;
    struct peer *peers;
    unsigned peer_count;
    struct learnt macs[MACS];
    struct loop_timer *patience;
    struct notifier *again;
    struct net_nat *nat; /* NULL: we don't ask to be the gateway */

    uint8_t *frame; /* HEADER and a frame */
    size_t waiting; /* bytes of one that the guest had no buffer for; 0: none */
    uint8_t *linear;
};

static void want(struct peer *p, uint32_t events) {
    if (p->watch && p->events != events)
        loop_mod_fd(p->watch, events);
    p->events = events;
}

/* --- addresses --- */

static struct learnt *slot_of(struct port *s, const uint8_t *mac) {
    uint32_t h = 0;

    for (unsigned i = 0; i < 6; i++)
        h = (h ^ mac[i]) * 0x01000193u;
    return &s->macs[(h ^ h >> 15) % MACS];
}

static void learn(struct port *s, const uint8_t *mac, struct peer *p) {
    struct learnt *l = slot_of(s, mac);

    if (mac[0] & 1)
        return;
    memcpy(l->mac, mac, 6);
    l->peer = p;
    l->when = mono_now();
}

/* NULL: everybody. */
static struct peer *look_up(struct port *s, const uint8_t *mac) {
    const struct learnt *l = slot_of(s, mac);

    if (mac[0] & 1 || !l->peer || memcmp(l->mac, mac, 6) != 0 || mono_now() - l->when > MAC_AGE_NS)
        return NULL;
    return l->peer;
}

/* --- members come and go --- */

static void on_peer(void *arg, int fd, uint32_t events);

/* Not before the front is there. */
static bool watch_peer(struct peer *p, struct err *e) {
    p->events = p->port->waiting ? 0 : EPOLLIN;
    p->watch = loop_add_fd(p->port->net.loop, p->fd, p->events, on_peer, p, e);
    return p->watch;
}

static struct peer *add_peer(struct port *s, int fd) {
    struct peer *p = xcalloc(1, sizeof(*p));
    int size = SOCKET_BUFFER;

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    p->port = s;
    p->fd = fd;
    p->next = s->peers;
    s->peers = p;
    s->peer_count++;
    return p;
}

static void free_peer(struct peer *p) {
    if (p->watch)
        loop_del_fd(p->watch);
    close(p->fd);
    free(p);
}

static void send_again(struct port *s) {
    s->net.front->send_again(s->net.front_arg, 0);
}

static void remove_peer(struct peer *p) {
    struct port *s = p->port;
    struct peer **at = &s->peers;
    bool waited_for = p->waited_for;

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    s->peer_count--;
    for (size_t i = 0; i < MACS; i++)
        if (s->macs[i].peer == p)
            s->macs[i].peer = NULL;
    free_peer(p);
    if (waited_for)
        send_again(s);
    if (s->nat)
        net_nat_look(s->nat);
}

static void on_listener(void *arg, int fd, uint32_t events) {
    struct port *s = arg;
    cleanup_err struct err e = ERR_INIT;
    int new;

    (void)events;
    while ((new = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (s->peer_count >= PEERS_MAX) {
            close(new);
            continue;
        }
        struct peer *p = add_peer(s, new);
        if (!watch_peer(p, &e)) {
            log_warn("%s: %s", s->folder, err_msg(&e));
            remove_peer(p);
        }
    }
}

/* --- to the guest --- */

static bool deliver(struct port *s) {
    struct iovec iov = {s->frame + HEADER, s->waiting - HEADER};
    struct net_frame f = {
        .iov = &iov, .iov_count = 1, .len = iov.iov_len, .offload = vnet_get(s->frame + 2)};

    if (!net_receive(&s->net, 0, &f))
        return false;
    s->waiting = 0;
    return true;
}

/* While one frame waits for the guest none is read, and the others wait, too. */
static void listen_to_all(struct port *s, bool on) {
    for (struct peer *p = s->peers; p; p = p->next)
        want(p, on ? p->events | EPOLLIN : p->events & ~(uint32_t)EPOLLIN);
}

static void receive(struct peer *p) {
    struct port *s = p->port;

    for (unsigned i = 0; i < FRAMES_AT_ONCE; i++) {
        ssize_t n = recv(p->fd, s->frame, HEADER + NET_FRAME_MAX, 0);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            remove_peer(p);
            return;
        }
        if (n < 0)
            return;
        if (n < HEADER + FRAME_MIN)
            continue;
        learn(s, s->frame + HEADER + 6, p);
        s->waiting = (size_t)n;
        if (!deliver(s)) {
            listen_to_all(s, false);
            return;
        }
    }
}

static void on_again(void *arg) {
    struct port *s = arg;

    if (!s->waiting || deliver(s))
        listen_to_all(s, true);
}

static void port_receive_again(struct net *n, unsigned queue) {
    struct port *s = (struct port *)n;

    (void)queue;
    if (s->waiting)
        notifier_ring(s->again);
}

/* --- from the guest --- */

static void hears_again(struct peer *p) {
    bool waited_for = p->waited_for;

    p->waited_for = p->deaf = false;
    want(p, p->events & ~(uint32_t)EPOLLOUT);
    if (waited_for)
        send_again(p->port);
}

static void on_peer(void *arg, int fd, uint32_t events) {
    struct peer *p = arg;

    (void)fd;
    if (events & EPOLLOUT)
        hears_again(p);
    if (p->events & EPOLLIN || (events & (EPOLLHUP | EPOLLERR) && !p->port->waiting))
        receive(p);
    else if (events & (EPOLLHUP | EPOLLERR))
        remove_peer(p);
}

static void on_patience(void *arg) {
    struct port *s = arg;
    bool any = false;

    for (struct peer *p = s->peers; p; p = p->next) {
        any |= p->waited_for;
        p->deaf |= p->waited_for;
        p->waited_for = false;
    }
    if (any)
        send_again(s);
}

static bool send_to(struct peer *p, const struct msghdr *m) {
    if (p->deaf)
        return true;
    if (sendmsg(p->fd, m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
        (errno != EAGAIN && errno != ENOBUFS))
        return true;
    want(p, p->events | EPOLLOUT);
    return false;
}

static bool port_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct port *s = (struct port *)n;
    uint8_t header[HEADER] = {0}, mac[6] = {0};
    struct iovec iov[PIECES_MAX + 1] = {{header, HEADER}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = f->iov_count + 1};

    (void)queue;
    vnet_put(header + 2, &f->offload);
    if (f->iov_count > PIECES_MAX) {
        iov[1] = (struct iovec){s->linear, iov_read(f->iov, f->iov_count, 0, s->linear, f->len)};
        m.msg_iovlen = 2;
    } else {
        memcpy(iov + 1, f->iov, f->iov_count * sizeof(*iov));
    }
    iov_read(f->iov, f->iov_count, 0, mac, sizeof(mac));
    struct peer *to = look_up(s, mac);
    if (!to) {
        for (struct peer *p = s->peers; p; p = p->next)
            send_to(p, &m);
        return true;
    }
    if (send_to(to, &m))
        return true;
    to->waited_for = true;
    loop_timer_arm(s->patience, mono_now() + PATIENCE_NS);
    return false;
}

/* --- joining --- */

static int make_folder(const char *path, struct err *e) {
    struct stat st;

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "create %s", path);
    if (lstat(path, &st) < 0)
        return err_set(e, errno, "%s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
        return err_set(e, 0, "%s is not a folder that only this user writes to; remove it", path);
    return 0;
}

/* $XDG_RUNTIME_DIR/ringfence/switch/NAME, or what serves instead where there is none. */
static int find_folder(struct port *s, const struct switch_options *o, struct err *e) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    cleanup_free char *base = NULL, *kind = NULL;

    if (o->folder)
        base = xstrdup(o->folder);
    else if (geteuid() == 0)
        base = xstrdup("/run/ringfence");
    else if (runtime && *runtime)
        base = xasprintf("%s/ringfence", runtime);
    else
        base = xasprintf("/tmp/ringfence-%u", (unsigned)geteuid());
    kind = xasprintf("%s/switch", base);
    s->folder = xasprintf("%s/%s", kind, o->name);
    if (make_folder(base, e) < 0 || make_folder(kind, e) < 0 || make_folder(s->folder, e) < 0)
        return -1;
    s->dir = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return s->dir < 0 ? err_set(e, errno, "open %s", s->folder) : 0;
}

/* Its own name would be too long for an address where the runtime folder's path is long. */
static struct sockaddr_un address(const struct port *s, const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%.16s", s->dir, name);
    return a;
}

static int lock_folder(struct port *s, struct err *e) {
    const struct timespec tick = {.tv_nsec = 10000000};

    s->lock = openat(s->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock < 0)
        return err_set(e, errno, "create %s/lock", s->folder);
    for (int ms = 0; flock(s->lock, LOCK_EX | LOCK_NB) < 0; ms += 10) {
        if (errno != EWOULDBLOCK || ms >= LOCK_PATIENCE_MS)
            return err_set(e, errno, "lock %s/lock (fuser -v shows who holds it)", s->folder);
        nanosleep(&tick, NULL);
    }
    return 0;
}

static int open_listener(struct port *s, struct err *e) {
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return err_set(e, errno, "random name");
    snprintf(s->self, sizeof(s->self), "%016llx", (unsigned long long)random);
    const struct sockaddr_un a = address(s, s->self);
    s->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->listener < 0 || bind(s->listener, (const void *)&a, sizeof(a)) < 0 ||
        listen(s->listener, PEERS_MAX) < 0)
        return err_set(e, errno, "listen in %s", s->folder);
    return 0;
}

/* A socket that nobody listens at was left behind by a crash. */
static int connect_to(struct port *s, const char *name, struct err *e) {
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const struct sockaddr_un a = address(s, name);

    if (fd < 0)
        return err_set(e, errno, "socket");
    if (connect(fd, (const void *)&a, sizeof(a)) == 0) {
        add_peer(s, fd);
        return 0;
    }
    int why = errno;
    close(fd);
    if (why == ECONNREFUSED)
        unlinkat(s->dir, name, 0);
    else if (why != ENOENT)
        return err_set(e, why, "connect to the member %s/%s", s->folder, name);
    return 0;
}

static int connect_to_all(struct port *s, struct err *e) {
    int copy = fcntl(s->dir, F_DUPFD_CLOEXEC, 0);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *n;
    int r = 0;

    if (!d)
        return err_set(e, errno, "read %s", s->folder);
    while (r == 0 && (n = readdir(d)))
        if (strlen(n->d_name) == 16 && strcmp(n->d_name, s->self) != 0)
            r = connect_to(s, n->d_name, e);
    closedir(d);
    if (r == 0 && s->peer_count >= PEERS_MAX)
        return err_set(e, 0, "%s has %d members already", s->folder, PEERS_MAX);
    return r;
}

static int join(struct port *s, const struct switch_options *o, struct err *e) {
    if (find_folder(s, o, e) < 0 || lock_folder(s, e) < 0 || open_listener(s, e) < 0 ||
        connect_to_all(s, e) < 0)
        return -1;
    flock(s->lock, LOCK_UN);
    return 0;
}

/* --- as a back end --- */

static void port_start(struct net *n) {
    struct port *s = (struct port *)n;
    cleanup_err struct err e = ERR_INIT;
    struct peer *next;

    s->listener_watch = loop_add_fd(n->loop, s->listener, EPOLLIN, on_listener, s, &e);
    if (!s->listener_watch)
        log_warn("%s: %s", s->folder, err_msg(&e));
    for (struct peer *p = s->peers; p; p = next) {
        next = p->next;
        if (!watch_peer(p, &e)) {
            log_warn("%s: %s", s->folder, err_msg(&e));
            remove_peer(p);
        }
    }
    if (s->nat)
        net_nat_look(s->nat);
}

static void port_close(struct net *n) {
    struct port *s = (struct port *)n;

    net_nat_free(s->nat);
    if (s->listener_watch)
        loop_del_fd(s->listener_watch);
    if (s->self[0])
        unlinkat(s->dir, s->self, 0);
    for (struct peer *p = s->peers, *next; p; p = next) {
        next = p->next;
        free_peer(p);
    }
    cleanup_close_fn(&s->listener);
    cleanup_close_fn(&s->lock);
    cleanup_close_fn(&s->dir);
    loop_timer_free(s->patience);
    notifier_free(s->again);
    free(s->folder);
    free(s->frame);
    free(s->linear);
    free(s);
}

static const struct net_ops port_ops = {
    .name = "switch",
    .start = port_start,
    .send = port_send,
    .receive_again = port_receive_again,
    .close = port_close,
};

static int check_name(const char *name, struct err *e) {
    size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    if (len && !name[len] && len <= SWITCH_NAME_MAX && name[0] != '.')
        return 0;
    return err_set(e, 0, "'%s' is no name for a switch: up to %d letters, digits, '.', '_', '-'",
                   name, SWITCH_NAME_MAX);
}

struct net *net_switch_open(const struct switch_options *o, struct loop *l, struct err *e) {
    struct port *s = xcalloc(1, sizeof(*s));

    s->net = (struct net){
        .ops = &port_ops,
        .loop = l,
        .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN | NET_CAN_USO,
        .queues_max = 1,
        .mtu = o->mtu,
        .link_up = true,
    };
    s->dir = s->lock = s->listener = -1;
    s->frame = xcalloc(1, HEADER + NET_FRAME_MAX);
    s->linear = xcalloc(1, NET_FRAME_MAX);
    s->patience = loop_timer_new(l, on_patience, s);
    s->again = notifier_new(l, on_again, s, e);
    if (s->again && check_name(o->name, e) == 0 && join(s, o, e) == 0) {
        s->nat = o->nat ? net_nat_new(o, s->dir, l) : NULL;
        return &s->net;
    }
    port_close(&s->net);
    return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket and the machine under gdb_stub.c. While a debugger has the machine stopped, it holds
 * it (machine_hold); when it lets it go, each vCPU has its own copy of the debug points, with or
 * without a step.
 */
#include "machine/gdb.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "cpu/x86/state.h"
#include "cpu/x86/translate.h"
#include "machine/dump.h"
#include "machine/gdb_stub.h"
#include "machine/pc.h"
#include "mem/mem.h"

struct gdb {
    struct machine *m;
    struct gdb_target target;
    struct gdb_stub *stub;       /* while a debugger is connected */
    struct engine_debug *points; /* one per vCPU */
    bool holding;                /* the machine is held on the debugger's behalf */
    bool physical;               /* "monitor phys on" */
    void (*kill)(void *arg);
    void *kill_arg;
    int listener, conn;
    struct loop_fd *listener_fd, *conn_fd;
};

static void set_points(struct gdb *g, const struct engine_debug *points,
                       const enum gdb_action *actions) {
    for (unsigned i = 0; i < g->m->params.vcpus; i++) {
        struct vcpu *v = g->m->vcpus[i];
        struct engine_debug *d = &g->points[i];

        if (points)
            *d = *points;
        else
            d->count = 0;
        d->step = actions && actions[i] == GDB_STEP;
        d->active = d->step || d->count > 0;
        v->ops->set_debug(v, d);
        vcpu_set_stay(&g->m->set, i, actions && actions[i] == GDB_STAY);
    }
}

/* A step ends behind the instruction, not in an interrupt handler: as after STI, for one
 * instruction. */
static void shield_step(struct gdb *g, const enum gdb_action *actions) {
    for (unsigned i = 0; i < g->m->params.vcpus; i++) {
        struct vcpu *v = g->m->vcpus[i];
        struct x86_state s;

        if (actions[i] != GDB_STEP)
            continue;
        v->ops->get_state(v, &s);
        if (s.activity != X86_RUNNING)
            continue;
        s.shadow_sti = true;
        v->ops->set_state(v, &s);
    }
}

static void hold(struct gdb *g) {
    if (!g->holding)
        machine_hold(g->m);
    g->holding = true;
}

static void let_go(struct gdb *g) {
    if (g->holding) {
        g->holding = false;
        machine_release(g->m);
    }
}

/* A debug point was hit: the machine is held already, and that hold is ours now. */
static void on_debug(void *arg, unsigned vcpu, const struct vcpu_exit *x) {
    struct gdb *g = arg;

    if (g->holding)
        machine_release(
            g->m); /* a second vCPU, before the first was dealt with: one hold is enough */
    g->holding = true;
    /* When the debugger has just interrupted, this stop waits until it lets the vCPU go on. */
    if (gdb_stub_running(g->stub)) {
        g->m->set.threads[vcpu].stop_news = false;
        gdb_stub_stopped(g->stub, vcpu, x);
    }
}

static bool target_take_stop(void *arg, unsigned cpu, struct vcpu_exit *x) {
    struct gdb *g = arg;
    struct vcpu_thread *t = &g->m->set.threads[cpu];
    bool news = t->stop_news;

    t->stop_news = false;
    *x = t->stop;
    return news;
}

static void forget_stops(struct gdb *g) {
    for (unsigned i = 0; i < g->m->params.vcpus; i++)
        g->m->set.threads[i].stop_news = false;
}

static void target_get_state(void *arg, unsigned cpu, struct x86_state *s) {
    struct gdb *g = arg;

    g->m->vcpus[cpu]->ops->get_state(g->m->vcpus[cpu], s);
}

static void target_set_state(void *arg, unsigned cpu, const struct x86_state *s) {
    struct gdb *g = arg;

    g->m->vcpus[cpu]->ops->set_state(g->m->vcpus[cpu], s);
}

/* Bytes from `va` to the end of its page, and where they are. */
static size_t find(struct gdb *g, const struct x86_state *s, uint64_t va, size_t len, gpa_t *gpa) {
    if (g->physical)
        *gpa = GPA(va);
    else if (!x86_translate(s, g->m->mem, va, gpa))
        return 0;
    return MIN(len, PAGE_SIZE - (va & PAGE_MASK));
}

static size_t target_read(void *arg, unsigned cpu, uint64_t va, void *buf, size_t len) {
    struct gdb *g = arg;
    struct x86_state s;
    size_t done = 0;

    target_get_state(g, cpu, &s);
    while (done < len) {
        gpa_t gpa;
        size_t n = find(g, &s, va + done, len - done, &gpa);

        if (!n || mem_read(g->m->mem, gpa, (uint8_t *)buf + done, n) < 0)
            break;
        done += n;
    }
    return done;
}

static size_t target_write(void *arg, unsigned cpu, uint64_t va, const void *buf, size_t len) {
    struct gdb *g = arg;
    struct x86_state s;
    size_t done = 0;

    target_get_state(g, cpu, &s);
    while (done < len) {
        gpa_t gpa;
        size_t n = find(g, &s, va + done, len - done, &gpa);

        if (!n || mem_write(g->m->mem, gpa, (const uint8_t *)buf + done, n) < 0)
            break;
        done += n;
    }
    return done;
}

static void target_resume(void *arg, const enum gdb_action *actions,
                          const struct engine_debug *points) {
    struct gdb *g = arg;

    set_points(g, points, actions);
    shield_step(g, actions);
    let_go(g);
}

static void target_interrupt(void *arg) {
    struct gdb *g = arg;

    hold(g);
    gdb_stub_stopped(g->stub, 0, NULL);
}

static void go_on_alone(struct gdb *g) {
    hold(g);
    set_points(g, NULL, NULL);
    let_go(g);
}

static void target_detach(void *arg) {
    struct gdb *g = arg;

    g->m->debug = NULL;
    go_on_alone(g);
}

static void target_kill(void *arg) {
    struct gdb *g = arg;

    g->kill(g->kill_arg);
}

static void answer_regs(struct gdb *g, unsigned cpu, FILE *f) {
    struct x86_state s;

    target_get_state(g, cpu, &s);
    dump_vcpu(f, cpu, &s, g->m->mem);
}

static char *target_monitor(void *arg, unsigned cpu, const char *command) {
    struct gdb *g = arg;
    cleanup_err struct err e = ERR_INIT;
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return xstrdup("out of memory\n");
    if (strcmp(command, "phys on") == 0 || strcmp(command, "phys off") == 0) {
        g->physical = command[6] == 'n';
        fprintf(f, "addresses are %s\n", g->physical ? "guest-physical" : "virtual");
    } else if (strcmp(command, "regs") == 0) {
        answer_regs(g, cpu, f);
    } else if (strcmp(command, "reset") == 0) {
        fprintf(f, "%s\n", machine_reset(g->m, &e) < 0 ? err_msg(&e) : "reset");
        forget_stops(g);
    } else {
        fprintf(f, "phys on|off  take addresses as guest-physical, or virtual again\n"
                   "regs         all registers of this vCPU\n"
                   "reset        back to power-on\n");
    }
    fclose(f);
    return text;
}

static void close_conn(struct gdb *g) {
    if (g->conn < 0)
        return;
    loop_del_fd(g->conn_fd);
    close(g->conn);
    g->conn = -1;
    g->m->debug = NULL;
    gdb_stub_free(g->stub);
    g->stub = NULL;
}

/*
 * Replies are small and gdb reads each before it sends more, so the socket's buffer always has
 * room; a peer that does not read is not gdb, and is cut off when it next sends something.
 */
static void send_bytes(void *arg, const void *data, size_t len) {
    struct gdb *g = arg;

    if (g->conn >= 0 && send(g->conn, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
        shutdown(g->conn, SHUT_RDWR);
}

static void on_conn(void *arg, int fd, uint32_t events) {
    struct gdb *g = arg;
    uint8_t buf[4096];
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        gdb_stub_feed(g->stub, buf, (size_t)n);
        return;
    }
    close_conn(g);
    go_on_alone(g);
}

static void on_listener(void *arg, int fd, uint32_t events) {
    struct gdb *g = arg;
    int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC), one = 1;

    (void)events;
    if (conn < 0)
        return;
    if (g->conn >= 0) {
        log_warn("gdb: a second debugger was turned away");
        close(conn);
        return;
    }
    setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    g->conn_fd = loop_add_fd(g->m->loop, conn, EPOLLIN, on_conn, g, NULL);
    if (!g->conn_fd) {
        close(conn);
        return;
    }
    g->conn = conn;
    hold(g);
    forget_stops(g);
    g->stub = gdb_stub_new(&g->target, send_bytes, g);
    g->m->debug = on_debug;
    g->m->debug_arg = g;
}

/* Binds the first address that will do. */
static int bind_to(const struct addrinfo *list, int *bind_errno) {
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol), one = 1;

        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
            if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1) == 0)
                return fd;
        }
        *bind_errno = errno;
        if (fd >= 0)
            close(fd);
    }
    return -1;
}

static int listen_on(const char *address, struct err *e) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    const char *colon = strrchr(address, ':');
    cleanup_free char *host = xasprintf("%.*s", colon ? (int)(colon - address) : 0, address);
    struct addrinfo *list;
    int fd, r, bind_errno = 0;

    if (!colon)
        return err_set(e, 0, "gdb: '%s' is not [HOST]:PORT", address);
    r = getaddrinfo(*host ? host : "localhost", colon + 1, &hints, &list);
    if (r != 0)
        return err_set(e, 0, "gdb: %s: %s", address, gai_strerror(r));
    fd = bind_to(list, &bind_errno);
    freeaddrinfo(list);
    return fd < 0 ? err_set(e, bind_errno, "gdb: listen on %s", address) : fd;
}

/* What to type at gdb's prompt; the port may have been chosen by the host. */
static void announce(int fd) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
        getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        fprintf(stderr, "gdb: target remote %s%s%s:%s\n", strchr(host, ':') ? "[" : "", host,
                strchr(host, ':') ? "]" : "", port);
}

static int start_listening(struct gdb *g, const char *address, struct err *e) {
    g->listener = listen_on(address, e);
    if (g->listener < 0)
        return -1;
    g->listener_fd = loop_add_fd(g->m->loop, g->listener, EPOLLIN, on_listener, g, e);
    if (!g->listener_fd)
        return err_wrap(e, "gdb");
    announce(g->listener);
    return 0;
}

struct gdb *gdb_new(struct machine *m, const char *address, void (*kill)(void *arg), void *arg,
                    struct err *e) {
    struct gdb *g = xcalloc(1, sizeof(*g));

    g->m = m;
    g->conn = g->listener = -1;
    g->kill = kill;
    g->kill_arg = arg;
    g->points = xcalloc(m->params.vcpus, sizeof(*g->points));
    g->target = (struct gdb_target){
        .arg = g,
        .vcpus = m->params.vcpus,
        .get_state = target_get_state,
        .set_state = target_set_state,
        .read = target_read,
        .write = target_write,
        .resume = target_resume,
        .take_stop = target_take_stop,
        .interrupt = target_interrupt,
        .detach = target_detach,
        .kill = target_kill,
        .monitor = target_monitor,
    };
    if (start_listening(g, address, e) == 0)
        return g;
    gdb_free(g);
    return NULL;
}

void gdb_wait(struct gdb *g) {
    g->holding = true;
}

void gdb_ended(struct gdb *g, int status) {
    if (g->stub)
        gdb_stub_exited(g->stub, status);
}

void gdb_free(struct gdb *g) {
    if (!g)
        return;
    close_conn(g);
    if (g->listener_fd)
        loop_del_fd(g->listener_fd);
    cleanup_close_fn(&g->listener);
    free(g->points);
    free(g);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master side of a pseudo-terminal. While nobody has the slave open, output is dropped and the
 * descriptor (which would report a hang-up for ever) is looked at four times a second instead of
 * polled.
 */
#include "ui/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "ui/chardev.h"

#define LOOK_NS 250000000ull

struct pty {
    struct chardev chr; /* first */
    struct loop *loop;
    struct loop_fd *fd; /* NULL while not polled; loop's thread */
    struct loop_timer *look;
    int master;
    _Atomic bool connected, starved;
    char path[PATH_MAX];
};

static void on_event(void *arg, int fd, uint32_t events);

static size_t guest_room(const struct pty *p) {
    return p->chr.front && p->chr.front->can_receive ? p->chr.front->can_receive(p->chr.front_arg)
                                                     : 0;
}

/* Asks epoll only for what can be acted on now. */
static void poll_again(struct pty *p) {
    uint32_t want = (guest_room(p) ? EPOLLIN : 0u) | (atomic_load(&p->starved) ? EPOLLOUT : 0u);

    if (!atomic_load(&p->connected))
        return;
    if (!p->fd)
        p->fd = loop_add_fd(p->loop, p->master, want, on_event, p, NULL);
    else
        loop_mod_fd(p->fd, want);
}

static void disconnect(struct pty *p) {
    atomic_store(&p->connected, false);
    if (p->fd)
        loop_del_fd(p->fd);
    p->fd = NULL;
    loop_timer_arm(p->look, mono_now() + LOOK_NS);
}

static void tell_writable(struct pty *p) {
    if (atomic_exchange(&p->starved, false) && p->chr.front && p->chr.front->writable)
        p->chr.front->writable(p->chr.front_arg);
}

static void on_look(void *arg) {
    struct pty *p = arg;
    struct pollfd look = {.fd = p->master, .events = POLLIN};

    if (poll(&look, 1, 0) >= 0 && (look.revents & POLLHUP)) {
        disconnect(p);
    } else {
        atomic_store(&p->connected, true);
        poll_again(p);
    }
    tell_writable(p);
}

static void on_event(void *arg, int fd, uint32_t events) {
    struct pty *p = arg;
    uint8_t buf[1024];
    size_t room = guest_room(p);

    if ((events & EPOLLIN) && room) {
        ssize_t n = read(fd, buf, MIN(room, sizeof(buf)));

        if (n > 0)
            p->chr.front->receive(p->chr.front_arg, buf, (size_t)n);
    } else if (events & EPOLLHUP) {
        disconnect(p);
    }
    if (events & (EPOLLOUT | EPOLLHUP))
        tell_writable(p);
    poll_again(p);
}

static void on_call(void *arg) {
    poll_again(arg);
}

static int pty_write(void *chr, const uint8_t *buf, size_t len) {
    struct pty *p = chr;
    ssize_t n;

    if (!atomic_load(&p->connected))
        return (int)len;
    n = write(p->master, buf, len);
    if (n < 0 && errno != EAGAIN)
        return (int)len;
    if (n < (ssize_t)len) {
        atomic_store(&p->starved, true);
        loop_call(p->loop, on_call, p);
    }
    return n < 0 ? 0 : (int)n;
}

static void pty_readable(void *chr) {
    struct pty *p = chr;

    loop_call(p->loop, on_call, p);
}

static const struct chardev_ops pty_ops = {pty_write, pty_readable};

/* Raw on the slave, so that the line discipline neither echoes the guest's output back nor edits.
 */
static int open_pair(struct pty *p, struct err *e) {
    struct termios modes;
    int slave;

    if (openpty(&p->master, &slave, p->path, NULL, NULL) < 0)
        return err_set(e, errno, "pty: open");
    if (tcgetattr(slave, &modes) == 0) {
        cfmakeraw(&modes);
        tcsetattr(slave, TCSANOW, &modes);
    }
    close(slave); /* from here on the master reports a hang-up while nobody is connected */
    fcntl(p->master, F_SETFD, FD_CLOEXEC);
    fcntl(p->master, F_SETFL, O_RDWR | O_NONBLOCK);
    return 0;
}

struct pty *pty_new(struct loop *l, struct err *e) {
    struct pty *p = xcalloc(1, sizeof(*p));

    p->chr.ops = &pty_ops;
    p->loop = l;
    if (open_pair(p, e) < 0) {
        free(p);
        return NULL;
    }
    p->look = loop_timer_new(l, on_look, p);
    loop_timer_arm(p->look, mono_now());
    return p;
}

void pty_free(struct pty *p) {
    if (!p)
        return;
    if (p->fd)
        loop_del_fd(p->fd);
    loop_timer_free(p->look);
    close(p->master);
    free(p);
}

struct chardev *pty_chardev(struct pty *p) {
    return &p->chr;
}

const char *pty_path(const struct pty *p) {
    return p->path;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw mode and ^]. From a terminal everything is read, so that ^] is seen even when the guest takes
 * no input; what the guest has no room for beyond a small buffer is lost, as on a real line. From a
 * pipe or a file only as much is read as the guest takes.
 */
#include "ui/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "ui/chardev.h"
#include "ui/output.h"

#define LEAVE_KEY 0x1d /* ^] */

struct terminal {
    struct chardev chr; /* first */
    struct loop *loop;
    struct loop_fd *fd; /* NULL: not listening */
    struct output *out;
    void (*leave)(void *arg);
    void *leave_arg;
    bool tty, ended;
    uint8_t held[4096]; /* read, and not yet taken by the guest */
    size_t held_len;
};

/* For signal handlers, which have no argument: the modes to go back to, and those to come back to.
 */
static struct termios cooked, raw;
static _Atomic bool is_raw;

void terminal_restore(void) {
    int saved = errno;

    if (atomic_exchange(&is_raw, false))
        tcsetattr(STDIN_FILENO, TCSANOW, &cooked);
    errno = saved;
}

static void restore_and_die(int sig) {
    terminal_restore();
    /* The handler was reset when it was entered; the signal comes again as soon as we return. */
    raise(sig);
}

/* Stopped from outside: the shell gets its own modes, and we take ours again when it continues us.
 */
static void restore_and_stop(int sig) {
    bool was_raw = atomic_load(&is_raw);

    (void)sig;
    terminal_restore();
    raise(SIGSTOP);
    if (was_raw && tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0)
        atomic_store(&is_raw, true);
}

/* Leaves alone what somebody else handles: an engine has a use for SIGSEGV. */
static void on_signal(int sig, void (*fn)(int), int flags) {
    struct sigaction old, sa = {.sa_handler = fn, .sa_flags = flags};

    if (sigaction(sig, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        sigaction(sig, &sa, NULL);
}

static void watch_signals(void) {
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL,  SIGFPE,  SIGABRT, SIGQUIT,
                                SIGTRAP, SIGSYS, SIGXCPU, SIGUSR1, SIGALRM};

    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        on_signal(fatal[i], restore_and_die, (int)SA_RESETHAND);
    on_signal(SIGTSTP, restore_and_stop, SA_RESTART);
}

static int make_raw(struct err *e) {
    if (tcgetattr(STDIN_FILENO, &cooked) < 0)
        return err_set(e, errno, "terminal: modes");
    raw = cooked;
    cfmakeraw(&raw);
    watch_signals();
    atexit(terminal_restore);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return err_set(e, errno, "terminal: raw mode");
    atomic_store(&is_raw, true);
    log_set_raw(isatty(STDERR_FILENO));
    return 0;
}

static size_t guest_room(const struct terminal *t) {
    return t->chr.front && t->chr.front->can_receive ? t->chr.front->can_receive(t->chr.front_arg)
                                                     : 0;
}

static void deliver(struct terminal *t) {
    size_t n;

    while (t->held_len && (n = MIN(guest_room(t), t->held_len)) > 0) {
        t->chr.front->receive(t->chr.front_arg, t->held, n);
        t->held_len -= n;
        memmove(t->held, t->held + n, t->held_len);
    }
}

static void hold(struct terminal *t, const uint8_t *buf, size_t len) {
    if (t->tty && memchr(buf, LEAVE_KEY, len))
        t->leave(t->leave_arg);
    len = MIN(len, sizeof(t->held) - t->held_len);
    memcpy(t->held + t->held_len, buf, len);
    t->held_len += len;
}

static void stop_listening(struct terminal *t) {
    if (t->fd)
        loop_del_fd(t->fd);
    t->fd = NULL;
}

static void on_input(void *arg, int fd, uint32_t events) {
    struct terminal *t = arg;
    uint8_t buf[1024];
    ssize_t n;

    (void)events;
    /* Not listening rather than listening to nothing: a closed pipe would wake us for ever. */
    if (!t->tty && t->held_len) {
        stop_listening(t);
        return;
    }
    n = read(fd, buf, t->tty ? sizeof(buf) : MIN(sizeof(buf), MAX(guest_room(t), 1)));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        t->ended = true;
        stop_listening(t);
        return;
    }
    hold(t, buf, (size_t)n);
    deliver(t);
}

static void listen(struct terminal *t) {
    cleanup_err struct err e = ERR_INIT;

    if (t->fd || t->ended)
        return;
    t->fd = loop_add_fd(t->loop, STDIN_FILENO, EPOLLIN, on_input, t, &e);
    if (!t->fd) {
        log_warn("console: no input: %s", err_msg(&e));
        t->ended = true;
    }
}

static void on_readable(void *arg) {
    struct terminal *t = arg;

    deliver(t);
    if (!t->held_len)
        listen(t);
}

static int terminal_write(void *chr, const uint8_t *buf, size_t len) {
    struct terminal *t = chr;

    return (int)output_write(t->out, &t->chr, buf, len);
}

static void terminal_readable(void *chr) {
    struct terminal *t = chr;

    loop_call(t->loop, on_readable, t);
}

static const struct chardev_ops terminal_ops = {terminal_write, terminal_readable};

struct terminal *terminal_new(struct loop *l, struct output *out, void (*leave)(void *arg),
                              void *arg, struct err *e) {
    struct terminal *t = xcalloc(1, sizeof(*t));

    t->chr.ops = &terminal_ops;
    t->loop = l;
    t->out = out;
    t->leave = leave;
    t->leave_arg = arg;
    t->tty = isatty(STDIN_FILENO);
    if (t->tty && make_raw(e) < 0) {
        free(t);
        return NULL;
    }
    loop_call(l, on_readable, t);
    return t;
}

void terminal_stop(struct terminal *t) {
    t->ended = true;
    stop_listening(t);
    terminal_restore();
    log_set_raw(false);
}

void terminal_free(struct terminal *t) {
    free(t);
}

struct chardev *terminal_chardev(struct terminal *t) {
    return &t->chr;
}

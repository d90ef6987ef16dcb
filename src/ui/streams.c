/* SPDX-License-Identifier: Apache-2.0 */
/* What was opened for a domain's consoles, in order to flush and to close it. */
#include "ui/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "ui/chardev.h"
#include "ui/output.h"
#include "ui/pty.h"
#include "ui/terminal.h"
#include "ui/unix.h"

#define STREAMS_MAX 40

/* A stream that only goes out. */
struct sink {
    struct chardev chr; /* first */
    struct output *out;
};

struct streams {
    struct loop *loop;
    void (*leave)(void *arg);
    void *leave_arg;
    struct terminal *terminal;
    struct output *standard; /* one of `outputs` */
    struct output *outputs[STREAMS_MAX];
    struct sink *sinks[STREAMS_MAX];
    struct pty *ptys[STREAMS_MAX];
    struct unix_line *lines[STREAMS_MAX];
    unsigned n_outputs, n_sinks, n_ptys, n_lines;
};

struct streams *streams_new(struct loop *l, void (*leave)(void *arg), void *arg) {
    struct streams *s = xcalloc(1, sizeof(*s));

    s->loop = l;
    s->leave = leave;
    s->leave_arg = arg;
    return s;
}

void streams_free(struct streams *s) {
    if (!s)
        return;
    streams_restore(s);
    terminal_free(s->terminal);
    for (unsigned i = 0; i < s->n_outputs; i++)
        output_free(s->outputs[i]);
    for (unsigned i = 0; i < s->n_sinks; i++)
        free(s->sinks[i]);
    for (unsigned i = 0; i < s->n_ptys; i++)
        pty_free(s->ptys[i]);
    for (unsigned i = 0; i < s->n_lines; i++)
        unix_line_free(s->lines[i]);
    free(s);
}

void streams_restore(struct streams *s) {
    if (s->terminal)
        terminal_stop(s->terminal);
}

static struct output *add_output(struct streams *s, int fd, bool own, const char *name,
                                 struct err *e) {
    struct output *o = output_new(s->loop, fd, own, name, e);

    if (o)
        s->outputs[s->n_outputs++] = o;
    return o;
}

static int sink_write(void *chr, const uint8_t *buf, size_t len) {
    struct sink *k = chr;

    return (int)output_write(k->out, &k->chr, buf, len);
}

static const struct chardev_ops sink_ops = {sink_write, NULL};

static struct chardev *add_sink(struct streams *s, struct output *out) {
    struct sink *k = xcalloc(1, sizeof(*k));

    k->chr.ops = &sink_ops;
    k->out = out;
    s->sinks[s->n_sinks++] = k;
    return &k->chr;
}

static int open_stdio(struct streams *s, const char *domain, struct chardev **out, struct err *e) {
    if (!s->standard)
        s->standard = add_output(s, STDOUT_FILENO, false, "standard output", e);
    if (!s->standard)
        return -1;
    if (s->terminal) {
        *out = add_sink(s, s->standard);
        return 0;
    }
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "Connected to the console of %s; leave with ^]\n", domain);
    s->terminal = terminal_new(s->loop, s->standard, s->leave, s->leave_arg, e);
    if (!s->terminal)
        return -1;
    *out = terminal_chardev(s->terminal);
    return 0;
}

static int open_file(struct streams *s, const char *path, struct chardev **out, struct err *e) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct output *o;

    if (fd < 0)
        return err_set(e, errno, "open %s", path);
    o = add_output(s, fd, true, path, e);
    if (!o)
        return -1;
    *out = add_sink(s, o);
    return 0;
}

static int open_pty(struct streams *s, const char *name, struct chardev **out, struct err *e) {
    struct pty *p = pty_new(s->loop, e);

    if (!p)
        return -1;
    s->ptys[s->n_ptys++] = p;
    fprintf(stderr, "%s is on %s\n", name, pty_path(p));
    *out = pty_chardev(p);
    return 0;
}

static int open_unix(struct streams *s, const char *path, struct chardev **out, struct err *e) {
    struct unix_line *u = unix_line_new(s->loop, path, e);

    if (!u)
        return -1;
    s->lines[s->n_lines++] = u;
    *out = unix_line_chardev(u);
    return 0;
}

int streams_open(struct streams *s, const char *spec, const char *name, const char *domain,
                 struct chardev **out, struct err *e) {
    int r;

    *out = NULL;
    if (MAX(MAX(s->n_outputs, s->n_sinks), MAX(s->n_ptys, s->n_lines)) == STREAMS_MAX)
        return err_set(e, 0, "%s: too many streams", name);
    if (strcmp(spec, "stdio") == 0)
        r = open_stdio(s, domain, out, e);
    else if (strcmp(spec, "pty") == 0)
        r = open_pty(s, name, out, e);
    else if (strncmp(spec, "file:", 5) == 0)
        r = open_file(s, spec + 5, out, e);
    else if (strncmp(spec, "unix:", 5) == 0)
        r = open_unix(s, spec + 5, out, e);
    else if (strcmp(spec, "none") == 0)
        r = 0;
    else
        r = err_set(e, 0, "'%s' is none of stdio, pty, file:FILE, unix:SOCKET, none", spec);
    return r < 0 ? err_wrap(e, "%s", name) : 0;
}

bool streams_flush(struct streams *s, int patience_ms) {
    bool all = true;

    for (unsigned i = 0; i < s->n_outputs; i++)
        all &= output_flush(s->outputs[i], patience_ms);
    return all;
}

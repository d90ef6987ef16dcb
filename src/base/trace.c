/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records are gathered in a buffer, which is written when it is full or was not for a while; to
 * standard error each record goes at once, between what else is said there.
 */
#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#define GATHERED (64u << 10)
#define PATIENCE_NS 200000000u

struct trace {
    unsigned what;
    int fd;
    char *path; /* NULL: standard error */
    uint64_t start;
    pthread_mutex_t lock; /* what follows */
    bool failed;
    uint64_t flushed; /* when */
    size_t len;
    char buf[GATHERED];
};

/* ---- what ---- */

static const struct {
    const char *name;
    unsigned what;
} names[] = {
    {"int", TRACE_INT}, {"mode", TRACE_MODE},    {"block", TRACE_BLOCK}, {"exec", TRACE_EXEC},
    {"io", TRACE_IO},   {"in_asm", TRACE_BLOCK}, {"pcall", TRACE_MODE},
};

static unsigned named(const char *name, size_t len) {
    for (size_t n = 0; n < ARRAY_LEN(names); n++)
        if (strlen(names[n].name) == len && memcmp(names[n].name, name, len) == 0)
            return names[n].what;
    return 0;
}

int trace_parse(const char *text, unsigned *what, struct err *e) {
    for (;;) {
        size_t len = strcspn(text, ",");
        unsigned one = named(text, len);

        if (!one)
            return err_set(e, 0, "'%.*s' is none of int, mode, block, exec, io", (int)len, text);
        *what |= one;
        if (!text[len])
            return 0;
        text += len + 1;
    }
}

unsigned trace_what(const struct trace *t) {
    return t ? t->what : 0;
}

/* ---- where to ---- */

struct trace *trace_new(unsigned what, const char *path, struct err *e) {
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : STDERR_FILENO;

    if (fd < 0) {
        err_set(e, errno, "trace file %s", path);
        return NULL;
    }
    struct trace *t = xcalloc(1, sizeof(*t));
    t->what = what;
    t->fd = fd;
    t->path = path ? xstrdup(path) : NULL;
    t->start = t->flushed = mono_now();
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void trace_free(struct trace *t) {
    if (!t)
        return;
    trace_flush(t);
    if (t->path)
        close(t->fd);
    pthread_mutex_destroy(&t->lock);
    free(t->path);
    free(t);
}

static void give_up(struct trace *t, int errnum) {
    t->failed = true;
    log_error("trace: write %s: %s; from here on nothing is traced",
              t->path ? t->path : "standard error", strerror(errnum));
}

/* The guest may wait for who reads a pipe, as for any console; not for ever at a closed one. */
static void write_out(struct trace *t, const char *p, size_t len) {
    while (len && !t->failed) {
        ssize_t n = write(t->fd, p, len);

        if (n < 0 && errno == EAGAIN)
            poll(&(struct pollfd){.fd = t->fd, .events = POLLOUT}, 1, -1);
        else if (n < 0 && errno != EINTR)
            give_up(t, errno);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

static void flush(struct trace *t) {
    write_out(t, t->buf, t->len);
    t->len = 0;
    t->flushed = mono_now();
}

void trace_flush(struct trace *t) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    flush(t);
    pthread_mutex_unlock(&t->lock);
}

/* ---- records ---- */

static void gather(struct trace *t, const char *text, size_t len) {
    if (len > sizeof(t->buf) - t->len)
        flush(t);
    if (len > sizeof(t->buf)) {
        write_out(t, text, len);
        return;
    }
    memcpy(t->buf + t->len, text, len);
    t->len += len;
}

static void put_line(struct trace *t, const char *prefix, const char *line, size_t len) {
    gather(t, prefix, strlen(prefix));
    gather(t, line, len);
    if (!t->path && log_is_raw())
        gather(t, "\r", 1);
    gather(t, "\n", 1);
}

void trace_put(struct trace *t, unsigned vcpu, const char *format, ...) {
    uint64_t now = mono_now(), us = (now - t->start) / 1000;
    char text[4096], prefix[48], *p = text;
    cleanup_free char *longer = NULL;
    va_list ap;

    va_start(ap, format);
    int len = vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (len >= (int)sizeof(text)) {
        longer = xcalloc((size_t)len + 1, 1);
        p = longer;
        va_start(ap, format);
        vsnprintf(p, (size_t)len + 1, format, ap);
        va_end(ap);
    }
    snprintf(prefix, sizeof(prefix), "%5llu.%06u v%u ", (unsigned long long)(us / 1000000),
             (unsigned)(us % 1000000), vcpu);
    pthread_mutex_lock(&t->lock);
    for (const char *line = p; line && !t->failed;) {
        const char *end = strchr(line, '\n');

        put_line(t, prefix, line, end ? (size_t)(end - line) : strlen(line));
        line = end ? end + 1 : NULL;
    }
    if (!t->path || now - t->flushed > PATIENCE_NS)
        flush(t);
    pthread_mutex_unlock(&t->lock);
}

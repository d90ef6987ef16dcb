/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics. A message may quote what a guest sent, so control characters never reach the
 * terminal. The level and the mode belong to the process, as standard error does.
 */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/util.h"

#define LOG_BURST 10
#define LOG_WINDOW_NS 10000000000ull

static _Atomic int log_level = LOG_WARN;
static _Atomic bool log_raw;
static pthread_mutex_t limit_lock = PTHREAD_MUTEX_INITIALIZER;

void log_set_level(enum log_level level) {
    atomic_store(&log_level, (int)level);
}

void log_set_raw(bool raw) {
    atomic_store(&log_raw, raw);
}

bool log_is_raw(void) {
    return atomic_load(&log_raw);
}

static const char *level_prefix(enum log_level level) {
    static const char *const prefix[] = {"rf: error: ", "rf: warning: ", "rf: ", "rf: debug: "};

    return prefix[level];
}

static void write_all(const char *p, size_t len) {
    while (len) {
        ssize_t n = write(STDERR_FILENO, p, len);

        if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

/* Copies the message to `out`, which has room for twice its length, and returns the new end. */
static char *put_clean(char *out, const char *msg, bool raw) {
    for (; *msg; msg++) {
        unsigned char c = (unsigned char)*msg;

        if (c == '\n' && raw)
            *out++ = '\r';
        *out++ = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : (char)c;
    }
    return out;
}

void log_msg(enum log_level level, const char *fmt, ...) {
    if ((int)level > atomic_load(&log_level))
        return;

    cleanup_free char *msg = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&msg, fmt, ap) < 0)
        msg = NULL;
    va_end(ap);
    if (!msg)
        return;

    bool raw = atomic_load(&log_raw);
    const char *prefix = level_prefix(level);
    cleanup_free char *line = xcalloc(strlen(prefix) + 2 * strlen(msg) + 3, 1);
    char *end = put_clean(stpcpy(line, prefix), msg, raw);
    end = put_clean(end, "\n", raw);
    write_all(line, (size_t)(end - line));
}

bool log_allow(struct log_limit *l) {
    uint64_t now = mono_now();
    uint32_t dropped = 0;

    pthread_mutex_lock(&limit_lock);
    if (!l->window_ns || now - l->window_ns >= LOG_WINDOW_NS) {
        dropped = l->dropped;
        *l = (struct log_limit){.window_ns = now};
    }
    bool allowed = l->count < LOG_BURST;
    if (allowed)
        l->count++;
    else if (l->dropped < UINT32_MAX)
        l->dropped++;
    pthread_mutex_unlock(&limit_lock);

    if (dropped)
        log_warn("%u messages like the following were suppressed", dropped);
    return allowed;
}

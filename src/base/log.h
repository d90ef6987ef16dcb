/* SPDX-License-Identifier: Apache-2.0 */
/* Diagnostics on standard error (and later a domain's log file). Thread-safe; one write per line.
 */
#ifndef RINGFENCE_BASE_LOG_H
#define RINGFENCE_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Lines above this level are dropped; LOG_WARN at start. */
void log_set_level(enum log_level level);

/* While on, lines end in CR LF, for a terminal in raw mode. */
void log_set_raw(bool raw);
bool log_is_raw(void);

void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/*
 * For what a guest can cause at will: at most 10 lines every 10 s from one `struct log_limit`
 * (zero-initialised, shared by threads); the next line that is let through follows one that says
 * how many were suppressed.
 */
struct log_limit {
    uint64_t window_ns;
    uint32_t count;
    uint32_t dropped;
};

/* True when the caller may log now. */
bool log_allow(struct log_limit *l);

#define log_guest(limit, ...)                                                                      \
    do {                                                                                           \
        if (log_allow(limit))                                                                      \
            log_warn(__VA_ARGS__);                                                                 \
    } while (0)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor's event loop: file descriptors, timers and deferred calls on one thread (epoll, one
 * timerfd). Callbacks run on the thread that is inside loop_run and hold no lock of the loop's.
 */
#ifndef RINGFENCE_BASE_LOOP_H
#define RINGFENCE_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct loop;

struct loop *loop_new(struct err *e);
void loop_free(struct loop *l);

/* Runs until loop_stop. Returns 0, or a negative value with the error set when the host fails. */
int loop_run(struct loop *l, struct err *e);

/*
 * Makes loop_run return; when it does not run, the next one returns at once. From any thread and
 * from a signal handler.
 */
void loop_stop(struct loop *l);

/*
 * `events` is a set of EPOLLIN, EPOLLOUT. The loop does not own the descriptor. Any thread. A
 * regular file or /dev/null is always ready: use events 0 or loop_del_fd when there is nothing more
 * to do with it.
 */
typedef void loop_fd_fn(void *arg, int fd, uint32_t events);
struct loop_fd;
struct loop_fd *loop_add_fd(struct loop *l, int fd, uint32_t events, loop_fd_fn *fn, void *arg,
                            struct err *e);
void loop_mod_fd(struct loop_fd *f, uint32_t events);
/* Must be called on the loop's thread, or while the loop does not run. */
void loop_del_fd(struct loop_fd *f);

/* Calls fn(arg) once on the loop's thread, soon. Any thread. */
typedef void loop_call_fn(void *arg);
void loop_call(struct loop *l, loop_call_fn *fn, void *arg);

/*
 * Timers fire on the loop's thread, at or after a CLOCK_MONOTONIC time in nanoseconds.
 * They are the host-time primitive under `struct clock`; devices use that one.
 */
typedef void loop_timer_fn(void *arg);
struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *l, loop_timer_fn *fn, void *arg);
void loop_timer_free(struct loop_timer *t); /* on the loop's thread, or while it does not run */
/* Any thread. Re-arming replaces. */
void loop_timer_arm(struct loop_timer *t, uint64_t mono_ns);
/* Any thread. A callback that has begun may still be finishing. */
void loop_timer_disarm(struct loop_timer *t);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t mono_now(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread around an event loop of its own, for devices and back ends that shall not wait for each
 * other. What runs there must not take the machine's I/O lock: a vCPU that holds it may be waiting
 * for the worker.
 */
#ifndef RINGFENCE_BASE_WORKER_H
#define RINGFENCE_BASE_WORKER_H

struct err;
struct loop;
struct worker;

/* Runs at once. `name` (at most 15 characters) is the thread's. */
struct worker *worker_new(const char *name, struct err *e);
struct loop *worker_loop(struct worker *w);
/* Ends the thread; its loop stays, so that what hangs on it can be taken down. Twice is once. */
void worker_stop(struct worker *w);
/* Stops it if need be, and frees the loop: nothing may hang on it any more. NULL is allowed. */
void worker_free(struct worker *w);

#endif

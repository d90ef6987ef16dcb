/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the monitor besides its first. They take no signals but those of their own faults:
 * what is sent to the process goes to the first thread, for the others may wait in a call that is
 * not to be interrupted, or run translated code, whose stack pointer is a guest's.
 */
#ifndef RINGFENCE_BASE_THREAD_H
#define RINGFENCE_BASE_THREAD_H

#include <pthread.h>

/* `name` is cut after 15 characters. Returns 0 or an error number. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg);

#endif

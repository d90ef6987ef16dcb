/* SPDX-License-Identifier: Apache-2.0 */
/* A thread inherits the mask of who starts it. */
#include "base/thread.h"

#include <signal.h>
#include <stdio.h>

#include "base/util.h"

#define NAME_SIZE 16 /* TASK_COMM_LEN of Linux */

static void all_but_faults(sigset_t *set) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

    sigfillset(set);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        sigdelset(set, faults[i]);
}

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg) {
    char short_name[NAME_SIZE];
    sigset_t blocked, old;
    int r;

    all_but_faults(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, &old);
    r = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0)
        return r;
    snprintf(short_name, sizeof(short_name), "%.*s", NAME_SIZE - 1, name);
    pthread_setname_np(*thread, short_name);
    return 0;
}

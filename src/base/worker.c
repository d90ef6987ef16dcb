/* SPDX-License-Identifier: Apache-2.0 */
/* A loop and the thread that runs it. Signals are the main thread's. */
#include "base/worker.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "base/util.h"

struct worker {
    struct loop *loop;
    pthread_t thread;
    bool running;
    char name[16];
};

static void *run(void *arg) {
    struct worker *w = arg;
    cleanup_err struct err e = ERR_INIT;

    if (loop_run(w->loop, &e) < 0)
        log_error("%s: %s", w->name, err_msg(&e));
    return NULL;
}

struct worker *worker_new(const char *name, struct err *e) {
    struct worker *w = xcalloc(1, sizeof(*w));

    for (size_t i = 0; i + 1 < sizeof(w->name) && name[i]; i++)
        w->name[i] = name[i];
    w->loop = loop_new(e);
    int r = w->loop ? thread_start(&w->thread, w->name, run, w) : 0;
    if (w->loop && r == 0) {
        w->running = true;
        return w;
    }
    if (w->loop)
        err_set(e, r, "%s: thread", name);
    worker_free(w);
    return NULL;
}

struct loop *worker_loop(struct worker *w) {
    return w->loop;
}

void worker_stop(struct worker *w) {
    if (!w->running)
        return;
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    w->running = false;
}

void worker_free(struct worker *w) {
    if (!w)
        return;
    worker_stop(w);
    loop_free(w->loop);
    free(w);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Two lists under one lock: what is to be done, and what has been; a bell for the latter. */
#include "block/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/notifier.h"
#include "base/thread.h"
#include "base/util.h"
#include "block/block.h"

struct list {
    struct block_req *first, **last;
};

struct block_pool {
    block_work_fn *work;
    struct notifier *bell;
    pthread_t *threads;
    unsigned max_threads;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t more, less;
    struct list todo, done;
    unsigned started, idle, busy;
    bool quit;
};

static void list_init(struct list *l) {
    l->first = NULL;
    l->last = &l->first;
}

static void list_add(struct list *l, struct block_req *r) {
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static struct block_req *list_take(struct list *l) {
    struct block_req *r = l->first;

    l->first = r->next;
    if (!l->first)
        l->last = &l->first;
    return r;
}

static void *worker(void *arg) {
    struct block_pool *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->quit) {
        if (!p->todo.first) {
            p->idle++;
            pthread_cond_wait(&p->more, &p->lock);
            p->idle--;
            continue;
        }
        struct block_req *r = list_take(&p->todo);
        p->busy++;
        pthread_mutex_unlock(&p->lock);
        r->result = p->work(r);
        pthread_mutex_lock(&p->lock);
        list_add(&p->done, r);
        p->busy--;
        notifier_ring(p->bell);
        pthread_cond_signal(&p->less);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* done() may submit more, so it is called without the lock. */
static void finish(void *arg) {
    struct block_pool *p = arg;

    pthread_mutex_lock(&p->lock);
    struct block_req *r = p->done.first;
    list_init(&p->done);
    pthread_mutex_unlock(&p->lock);
    while (r) {
        struct block_req *next = r->next;

        r->done(r, r->result);
        r = next;
    }
}

/* With the lock held. A host that gives no thread leaves the work to those that there are. */
static bool start_thread(struct block_pool *p) {
    if (thread_start(&p->threads[p->started], "block", worker, p) != 0)
        return false;
    p->started++;
    return true;
}

struct block_pool *block_pool_new(struct loop *l, unsigned max_threads, block_work_fn *work,
                                  struct err *e) {
    struct block_pool *p = xcalloc(1, sizeof(*p));

    p->work = work;
    p->max_threads = max_threads;
    p->threads = xcalloc(max_threads, sizeof(*p->threads));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    pthread_cond_init(&p->less, NULL);
    list_init(&p->todo);
    list_init(&p->done);
    p->bell = notifier_new(l, finish, p, e);
    if (p->bell)
        return p;
    block_pool_free(p);
    return NULL;
}

void block_pool_add(struct block_pool *p, struct block_req *r) {
    bool nobody = false;

    pthread_mutex_lock(&p->lock);
    if (p->idle <= (p->todo.first != NULL) && p->started < p->max_threads)
        nobody = !start_thread(p) && !p->started;
    if (!nobody)
        list_add(&p->todo, r);
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    if (nobody)
        r->done(r, p->work(r));
}

static bool all_done(struct block_pool *p) {
    pthread_mutex_lock(&p->lock);
    while (p->todo.first || p->busy)
        pthread_cond_wait(&p->less, &p->lock);
    bool none = !p->done.first;
    pthread_mutex_unlock(&p->lock);
    return none;
}

void block_pool_free(struct block_pool *p) {
    if (!p)
        return;
    while (!all_done(p))
        finish(p);
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->started; i++)
        pthread_join(p->threads[i], NULL);
    notifier_free(p->bell);
    pthread_cond_destroy(&p->more);
    pthread_cond_destroy(&p->less);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
}

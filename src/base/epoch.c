/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Epoch-based reclamation, as in Fraser, "Practical lock-freedom" (2004), 5.2.3, with the readers'
 * barrier moved to the writers (fence.h). The state belongs to the process because threads do.
 */
#include "base/epoch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fence.h"

/* A look at all readers costs a barrier on all processors; this many objects share one. */
#define RECLAIM_EVERY 32

_Thread_local struct epoch_reader *epoch_self;
_Atomic uint64_t epoch_now = 1;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct epoch_reader *readers;
static struct epoch_item *oldest, **newest = &oldest;
static size_t pending;
static unsigned since_reclaim;

static void thread_ended(void *reader) {
    struct epoch_reader *r = reader;

    epoch_self = NULL;
    pthread_mutex_lock(&lock);
    r->used = 0;
    pthread_mutex_unlock(&lock);
}

static void init(void) {
    if (pthread_key_create(&key, thread_ended))
        abort();
}

static struct epoch_reader *reader_new(void) {
    struct epoch_reader *r = aligned_alloc(_Alignof(struct epoch_reader), sizeof(*r));

    if (!r)
        abort();
    memset(r, 0, sizeof(*r));
    r->next = readers;
    readers = r;
    return r;
}

struct epoch_reader *epoch_register(void) {
    pthread_once(&once, init);
    pthread_mutex_lock(&lock);
    struct epoch_reader *r = readers;
    while (r && r->used)
        r = r->next;
    if (!r)
        r = reader_new();
    r->used = 1;
    pthread_mutex_unlock(&lock);
    pthread_setspecific(key, r);
    epoch_self = r;
    return r;
}

static uint64_t oldest_reader(void) {
    uint64_t min = UINT64_MAX;

    for (struct epoch_reader *r = readers; r; r = r->next) {
        uint64_t active = atomic_load_explicit(&r->active, memory_order_acquire);

        if (active && active < min)
            min = active;
    }
    return min;
}

static void reclaim_locked(void) {
    since_reclaim = 0;
    fence_all_threads();
    uint64_t min = oldest_reader();
    while (oldest && oldest->epoch < min) {
        struct epoch_item *it = oldest;

        oldest = it->next;
        if (!oldest)
            newest = &oldest;
        pending--;
        free(it);
    }
}

void epoch_retire(struct epoch_item *it) {
    pthread_mutex_lock(&lock);
    it->next = NULL;
    /* A reader that enters in a later epoch has seen this increment, thus the unpublishing. */
    it->epoch = atomic_fetch_add(&epoch_now, 1);
    *newest = it;
    newest = &it->next;
    pending++;
    if (++since_reclaim >= RECLAIM_EVERY)
        reclaim_locked();
    pthread_mutex_unlock(&lock);
}

void epoch_reclaim(void) {
    pthread_mutex_lock(&lock);
    if (pending)
        reclaim_locked();
    pthread_mutex_unlock(&lock);
}

size_t epoch_pending(void) {
    pthread_mutex_lock(&lock);
    size_t n = pending;
    pthread_mutex_unlock(&lock);
    return n;
}

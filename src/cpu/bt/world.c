/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stopping the world: all vCPUs of a domain out of translated code for a moment, so that what they
 * look up there, or the code itself, can be changed under them.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/loop.h"
#include "base/where.h"
#include "cpu/bt/bt.h"
#include "cpu/x86/interp.h"

/* What the vCPUs of a domain share besides the code. */
struct bt_world {
    struct bt_cache *cache;
    pthread_mutex_t lock; /* one that stops the others at a time */
    pthread_cond_t moved; /* in_code became false, or `stopping` did */
    pthread_mutex_t move_lock;
    _Atomic bool stopping;
};

static struct bt_world *world_of(const struct bt_cpu *b) {
    return b->c.v.vm->more;
}

static void announce(struct bt_world *w) {
    pthread_mutex_lock(&w->move_lock);
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->move_lock);
}

void bt_code_left(struct bt_cpu *b) {
    atomic_store(&b->in_code, false);
    if (unlikely(atomic_load(&world_of(b)->stopping)))
        announce(world_of(b));
}

bool bt_code_entered(struct bt_cpu *b) {
    struct bt_world *w = world_of(b);
    atomic_store(&b->in_code, true);
    if (likely(!atomic_load(&w->stopping)))
        return true;
    bt_code_left(b);
    uint64_t start = mono_now();
    pthread_mutex_lock(&w->move_lock);
    while (atomic_load(&w->stopping))
        pthread_cond_wait(&w->moved, &w->move_lock);
    pthread_mutex_unlock(&w->move_lock);
    where_waited(mono_now() - start);
    return false;
}

static void wait_until_left(struct bt_world *w, struct bt_cpu *b) {
    bt_stop_code(b);
    pthread_mutex_lock(&w->move_lock);
    while (atomic_load(&b->in_code))
        pthread_cond_wait(&w->moved, &w->move_lock);
    pthread_mutex_unlock(&w->move_lock);
}

void bt_world_stop(struct engine_vm *vm) {
    struct bt_world *w = vm->more;
    struct bt_world_stats *stats = bt_cache_stats(w->cache);
    uint64_t start = mono_now();
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->stopping, true);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            wait_until_left(w, (struct bt_cpu *)(void *)vm->cpus[n]);
    stats->stopped++;
    stats->stop_ns += mono_now() - start;
    where_waited(mono_now() - start);
}

void bt_world_go(struct engine_vm *vm) {
    struct bt_world *w = vm->more;
    atomic_store(&w->stopping, false);
    announce(w);
    pthread_mutex_unlock(&w->lock);
}

struct bt_cache *bt_world_cache(const struct engine_vm *vm) {
    return ((const struct bt_world *)vm->more)->cache;
}

struct bt_world *bt_world_new(struct bt_cache *cache) {
    struct bt_world *w = xcalloc(1, sizeof *w);
    w->cache = cache;
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->move_lock, NULL);
    pthread_cond_init(&w->moved, NULL);
    return w;
}

void bt_world_free(struct bt_world *w) {
    if (!w)
        return;
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->move_lock);
    pthread_cond_destroy(&w->moved);
    free(w);
}

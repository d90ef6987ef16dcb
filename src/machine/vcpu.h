/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's processors: one host thread per vCPU around the engine's run(), the same for all
 * engines, and the gate at which they can all be held. A halted vCPU sleeps on its event word.
 */
#ifndef RINGFENCE_MACHINE_VCPU_H
#define RINGFENCE_MACHINE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/where.h"
#include "cpu/engine.h"

struct err;
struct mem;
struct x86_state;

/* Why run() came back, how often. Written by the vCPU's thread; read while it is held, or roughly.
 */
struct vcpu_stats {
    uint64_t exits[VCPU_FAILED + 1];
    uint64_t halted_ns;
    struct where_profile where; /* of a set that is watched */
};

struct vcpu_set;

struct vcpu_thread {
    struct vcpu *v;
    struct vcpu_set *set;
    pthread_t thread;
    bool started;
    bool hold;             /* stays at the gate when the others go on; under set->lock */
    bool wait_sipi;        /* the vCPU's own thread, or while it is held */
    struct vcpu_exit stop; /* the exit that stopped the machine, for who asks while it is held */
    bool stop_news;        /* nobody was told of `stop` yet; as `stop` */
    struct vcpu_stats stats;
    atomic_bool halted; /* sleeps until something happens; anybody may look */
};

/* What the owner of the vCPUs wants to hear of; called on a vCPU's thread, without a lock. */
struct vcpu_set_ops {
    /*
     * SHUTDOWN, DEBUG or FAILED: the vCPU goes to the gate when this returns, and `t->stop` says
     * why. The owner has called vcpu_set_hold_begin() by then.
     */
    void (*stopped)(void *arg, struct vcpu_thread *t);
    /* INIT resets the interrupt controller of the vCPU, too. */
    void (*init_ipi)(void *arg, unsigned index);
};

struct vcpu_set {
    const struct vcpu_set_ops *ops;
    void *arg;
    struct mem *mem;
    struct vcpu_thread *threads;
    unsigned count;
    bool watched; /* set before vcpu_set_start: where the threads' time goes is sampled */

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    unsigned holds;  /* how many want everybody at the gate */
    unsigned beyond; /* threads that are not at the gate */
    bool quit;
};

/* `vcpus` outlive the set. Nothing runs yet: one hold is set, for vcpu_set_release. */
void vcpu_set_init(struct vcpu_set *s, struct mem *m, struct vcpu *const *vcpus, unsigned count,
                   const struct vcpu_set_ops *ops, void *arg);
int vcpu_set_start(struct vcpu_set *s, struct err *e);
/* Ends the threads, wherever they are. */
void vcpu_set_free(struct vcpu_set *s);

/*
 * Holding all vCPUs. Holds nest; each needs a release. _begin may be called anywhere and only asks;
 * _wait must not be called on a vCPU's thread nor with the I/O lock held, and returns when all are
 * out of run().
 */
void vcpu_set_hold_begin(struct vcpu_set *s);
void vcpu_set_hold_wait(struct vcpu_set *s);
void vcpu_set_release(struct vcpu_set *s);

/* While all are held: one vCPU stays at the gate (or not) after the release. */
void vcpu_set_stay(struct vcpu_set *s, unsigned index, bool stay);

/* While all are held: gives the first vCPU one state and the others another, in which they wait for
 * a SIPI, and forgets events. */
void vcpu_set_reset(struct vcpu_set *s, const struct x86_state *bsp, const struct x86_state *ap);

#endif

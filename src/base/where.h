/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU's thread is doing, and how much of its time each takes. The thread says where it goes
 * in one store; while it is being watched, a timer of its processor time asks in a signal handler.
 * A thread that nobody watches pays for the store only.
 */
#ifndef RINGFENCE_BASE_WHERE_H
#define RINGFENCE_BASE_WHERE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum where {
    WHERE_OTHER,     /* whatever says nothing of itself */
    WHERE_CODE,      /* translated code */
    WHERE_SWITCH,    /* between that and the engine; never said, but seen by the address */
    WHERE_FUNCTION,  /* the reference engine's functions for instructions and events */
    WHERE_FIND,      /* finding the code to go on with */
    WHERE_WALK,      /* page tables */
    WHERE_TRANSLATE, /* translating or decoding */
    WHERE_DEVICE,    /* ports, MMIO, interrupt controllers */
    WHERES,
};

struct where_profile {
    uint64_t samples[WHERES];
    uint64_t waited_ns; /* for locks, and for other vCPUs to stand still */
};

extern _Thread_local volatile enum where where_now;

/* Returns where it was, to go back there. */
static inline enum where where_go(enum where to) {
    enum where from = where_now;
    where_now = to;
    return from;
}

/*
 * This thread is watched from now on, until it ends; `profile` outlives it. Others may read it, for
 * numbers that may be one behind. False when the host has no such timer.
 */
bool where_watch(struct where_profile *profile);
void where_unwatch(void);
/* WHERE_CODE is believed within these addresses only; WHERE_SWITCH is around them. */
void where_code_lies(uint64_t start, uint64_t bytes);

/* Locks, and counts the time if it has to wait and is being watched. */
void where_lock(pthread_mutex_t *lock);
/* What was waited for elsewhere. */
void where_waited(uint64_t ns);

#endif

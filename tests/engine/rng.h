/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers that depend on nothing but their seed (splitmix64). */
#ifndef RINGFENCE_TESTS_ENGINE_RNG_H
#define RINGFENCE_TESTS_ENGINE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s;
};

static inline uint64_t rng_next(struct rng *r) {
    uint64_t z = r->s += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* 0 to n - 1. */
static inline unsigned rng_below(struct rng *r, unsigned n) {
    return n ? (unsigned)(rng_next(r) >> 33) % n : 0;
}

#endif

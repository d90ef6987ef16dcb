/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a piece of work looks like to the program that measures it. A batch does always the same and
 * returns a number that depends on its result, so that engines can be compared for being right,
 * too.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdint.h>

struct work {
    const char *name;
    void (*prepare)(void);   /* may be NULL; runs once, in the process that measures */
    uint64_t (*batch)(void); /* returns a check of what was computed, or 0 */
    unsigned ops;            /* operations in a batch: times are given per operation */
};

/* Each list ends with an entry without a name. */
extern const struct work compute_works[]; /* user-mode computing, in this process */
extern const struct work kernel_works[];  /* what the kernel does for a process */
extern const struct work program_works[]; /* whole programs, from the folder of programs */
extern const struct work device_works[];  /* networks and disks */

/* The host's end of device_works: prints its port, and serves until the parent is gone. */
_Noreturn void bench_serve_devices(void);

/* Where programs and their input lie, and where files may be made (a tmpfs). Set before any work.
 */
extern const char *bench_programs, *bench_scratch;

/* The pseudo-random numbers of all works. */
static inline uint64_t bench_xorshift(uint64_t x) {
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

#define BENCH_SEED 88172645463325252u

/* A step of FNV-1a, for checks. */
static inline uint64_t bench_mix(uint64_t h, uint64_t x) {
    return (h ^ x) * 1099511628211u;
}

/* Ends the measuring process with the reason on its standard error. */
_Noreturn void bench_die(const char *what);

#endif

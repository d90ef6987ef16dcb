/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes which part of the guest's RAM while a loader runs, so that no two things overlap. */
#ifndef RINGFENCE_BOOT_PLACE_H
#define RINGFENCE_BOOT_PLACE_H

#include <stdint.h>

struct e820_layout;
struct err;
struct mem;

#define PLACE_MAX 160

struct place {
    struct mem *mem;
    const struct e820_layout *layout;
    unsigned count;
    struct {
        uint64_t base, size;
        const char *what; /* outlives the struct */
    } used[PLACE_MAX];
};

void place_init(struct place *p, struct mem *m, const struct e820_layout *l);

/*
 * Takes [base, base + size), which must be usable RAM that nobody has taken, and returns host
 * memory of it; NULL with the error set otherwise. `what` names it in messages.
 */
void *place_at(struct place *p, uint64_t base, uint64_t size, const char *what, struct err *e);

/*
 * Takes the lowest (or the highest) free `size` bytes, aligned, of usable RAM within [lo, hi).
 * Returns host memory and sets *base; NULL when nothing is free (no error set: the caller knows
 * what to advise).
 */
void *place_low(struct place *p, uint64_t size, uint64_t align, uint64_t lo, uint64_t hi,
                const char *what, uint64_t *base);
void *place_high(struct place *p, uint64_t size, uint64_t align, uint64_t lo, uint64_t hi,
                 const char *what, uint64_t *base);

/* Whether RAM reaches `end`; when it could with more memory and doesn't, the error says with how
 * much. */
int place_check_end(const struct place *p, uint64_t end, const char *what, struct err *e);

/* "try --memory N": the least memory, rounded up, with which RAM reaches `end`. */
unsigned long long place_advise_mib(uint64_t end);

#endif

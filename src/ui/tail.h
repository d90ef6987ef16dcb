/* SPDX-License-Identifier: Apache-2.0 */
/* A stream that passes everything on to another and remembers the last of what went out. */
#ifndef RINGFENCE_UI_TAIL_H
#define RINGFENCE_UI_TAIL_H

#include <stddef.h>

struct chardev;
struct tail;

/* `next` may be NULL (nothing is connected); otherwise it outlives this one, which attaches itself.
 */
struct tail *tail_new(struct chardev *next);
void tail_free(struct tail *t);
struct chardev *tail_chardev(struct tail *t);

/*
 * Copies up to `max` of the last bytes that went out, oldest first, and returns how many. While no
 * vCPU runs.
 */
#define TAIL_MAX 4096
size_t tail_copy(const struct tail *t, char *buf, size_t max);

#endif

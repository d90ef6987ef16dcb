/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host descriptor that guests' characters go to, written by a thread of its own: whoever reads
 * the other end may be as slow as he likes without the machine standing still, and nobody's
 * descriptor has to be made non-blocking. Several streams may share one.
 */
#ifndef RINGFENCE_UI_OUTPUT_H
#define RINGFENCE_UI_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;
struct err;
struct loop;
struct output;

/* `name` is for messages. Closes `fd` in the end when `own`. */
struct output *output_new(struct loop *l, int fd, bool own, const char *name, struct err *e);
/* Drops what is not written yet. */
void output_free(struct output *o);

/*
 * Takes what there is room for (all of it once the descriptor has failed). When that is not
 * everything, `chr` (of which up to OUTPUT_CLIENTS may exist) has front->writable called on the
 * loop's thread when there is room again.
 */
#define OUTPUT_CLIENTS 4
size_t output_write(struct output *o, struct chardev *chr, const uint8_t *buf, size_t len);

/*
 * Waits until everything is written, or nothing has moved for `patience_ms` (negative: however long
 * it takes). False when something is left.
 */
bool output_flush(struct output *o, int patience_ms);

#endif

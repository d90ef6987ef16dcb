/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A doorbell: any thread rings, a loop's thread answers. Rings that come before the answer count as
 * one; a ring during the answer brings another. Ringing takes no lock and never waits; when one is
 * under way already it costs an atomic exchange, otherwise a write to an eventfd.
 */
#ifndef RINGFENCE_BASE_NOTIFIER_H
#define RINGFENCE_BASE_NOTIFIER_H

struct err;
struct loop;
struct notifier;

typedef void notifier_fn(void *arg);

/* fn(arg) is the answer, on the loop's thread, with no lock held. */
struct notifier *notifier_new(struct loop *l, notifier_fn *fn, void *arg, struct err *e);
/* On the loop's thread, or while the loop does not run, when nobody rings any more. NULL is
 * allowed. */
void notifier_free(struct notifier *n);

void notifier_ring(struct notifier *n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that a guest gives back (virtio 1.2, section 5.5). See balloon.c. */
#ifndef RINGFENCE_VIRTIO_BALLOON_H
#define RINGFENCE_VIRTIO_BALLOON_H

#include <stdint.h>

struct err;
struct loop;
struct mem;
struct virtio_device;

struct virtio_device *virtio_balloon_new(struct mem *m, struct loop *l, struct err *e);

/* How much the guest shall give back, and how much it says it has; bytes. Any thread. */
void virtio_balloon_set_target(struct virtio_device *d, uint64_t bytes);
uint64_t virtio_balloon_actual(struct virtio_device *d);

/* Tags of statistics (5.5.6.3). */
enum {
    BALLOON_S_SWAP_IN,
    BALLOON_S_SWAP_OUT,
    BALLOON_S_MAJFLT,
    BALLOON_S_MINFLT,
    BALLOON_S_MEMFREE,
    BALLOON_S_MEMTOT,
    BALLOON_S_AVAIL,
    BALLOON_S_CACHES,
    BALLOON_S_HTLB_PGALLOC,
    BALLOON_S_HTLB_PGFAIL,
    BALLOON_S_NR,
};

struct virtio_balloon_stats {
    uint64_t value[BALLOON_S_NR]; /* bytes, or a count */
    uint32_t known;               /* 1 << tag: what the guest has said */
    uint32_t updates;             /* how often it has */
};

/* What the guest said last; and asks it to say it anew. Any thread. */
void virtio_balloon_stats(struct virtio_device *d, struct virtio_balloon_stats *s);
void virtio_balloon_ask(struct virtio_device *d);

#endif

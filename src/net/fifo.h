/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that wait, in order. Bounded by who puts them. */
#ifndef RINGFENCE_NET_FIFO_H
#define RINGFENCE_NET_FIFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"

struct net_fifo_entry;

/* All zeroes is empty. */
struct net_fifo {
    struct net_fifo_entry *head, *tail;
    size_t bytes;
};

/* Copies a frame. */
void net_fifo_put(struct net_fifo *q, const uint8_t *frame, size_t len,
                  const struct net_offload *o);
/* The oldest frame, whose bytes `iov` then holds; false when there is none. */
bool net_fifo_peek(const struct net_fifo *q, struct net_frame *f, struct iovec *iov);
/* Releases the oldest one, which must be there. */
void net_fifo_drop(struct net_fifo *q);
void net_fifo_clear(struct net_fifo *q);

static inline size_t net_fifo_bytes(const struct net_fifo *q) {
    return q->bytes;
}

#endif

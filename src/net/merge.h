/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The opposite of struct net_cut: TCP segments that follow each other become one frame with
 * segmentation offload, so that a guest's kernel goes through its stack once for all of them.
 */
#ifndef RINGFENCE_NET_MERGE_H
#define RINGFENCE_NET_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/offload.h"

struct net_merge {
    uint8_t *frame; /* NET_FRAME_MAX bytes */
    size_t len;     /* 0: there is none */
    struct net_headers h;
    size_t header;  /* bytes before the payload */
    size_t segment; /* the first one's payload */
    unsigned count;
    bool closed; /* nothing comes behind what there is */
};

void net_merge_init(struct net_merge *m);
void net_merge_free(struct net_merge *m);
/* Takes a copy of a frame whose checksums are right, behind those that it has or as the first one.
 * False: it doesn't go with those, or with any. */
bool net_merge_add(struct net_merge *m, const uint8_t *frame, size_t len);
/* All that was taken, as one frame, which is valid until the next net_merge_add. False: nothing. */
bool net_merge_take(struct net_merge *m, struct net_frame *f, struct iovec *iov);

#endif

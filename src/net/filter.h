/* SPDX-License-Identifier: Apache-2.0 */
/* A back end that stands before another one and looks at, changes or delays its frames. */
#ifndef RINGFENCE_NET_FILTER_H
#define RINGFENCE_NET_FILTER_H

#include "net/net.h"

struct err;

/* Embedded first. What a filter has no opinion about goes through. */
struct net_filter {
    struct net net;
    struct net *inner; /* owned */
};

/* Looks to the front like `inner`. */
void net_filter_init(struct net_filter *f, const struct net_ops *ops, struct net *inner);

/* Operations that pass things on, for filters' tables. A filter's own front towards `inner` gets
 * the filter as its argument. */
void net_filter_start(struct net_filter *f, const struct net_front *front);
bool net_filter_send(struct net *n, unsigned queue, const struct net_frame *f);
void net_filter_receive_again(struct net *n, unsigned queue);
void net_filter_set_front(struct net *n, unsigned can, unsigned queues);
bool net_filter_receive(void *filter, unsigned queue, const struct net_frame *f);
void net_filter_send_again(void *filter, unsigned queue);
void net_filter_link_changed(void *filter, bool up);

/*
 * Makes up for what `inner` cannot take from the guest, and the guest from `inner`: the front sees
 * a back end that takes checksum and segmentation work of all kinds. Owns `inner`, also on failure.
 */
struct net *net_soft_new(struct net *inner, struct err *e);

/* Writes all frames of both directions to a file in pcap format. Owns `inner`, also on failure. */
struct net *net_pcap_new(struct net *inner, const char *path, struct err *e);

/* Limits in each direction. Owns `inner`. */
struct net_rate {
    uint64_t bytes_per_second; /* 0: no limit; at most NET_RATE_MAX */
    uint64_t burst;            /* bytes at once after a pause; 0: what comes in 50 ms */
};
#define NET_RATE_MAX (1ull << 40)
struct net *net_throttle_new(struct net *inner, const struct net_rate *from_guest,
                             const struct net_rate *to_guest);

#endif

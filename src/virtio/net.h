/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio network device. See net.c. */
#ifndef RINGFENCE_VIRTIO_NET_H
#define RINGFENCE_VIRTIO_NET_H

#include <stdint.h>

struct err;
struct mem;
struct net;
struct virtio_device;

#define VIRTIO_NET_PAIRS_MAX 16

struct virtio_net_config {
    uint8_t mac[6];
    unsigned pairs; /* of queues that the guest may use; 1 to VIRTIO_NET_PAIRS_MAX */
};

/*
 * A network device in front of `net`, which it attaches to, does not start, and which outlives it.
 * Its queues are on the back end's loop. NULL with the error set when the host fails.
 */
struct virtio_device *virtio_net_new(struct mem *m, struct net *net,
                                     const struct virtio_net_config *config, struct err *e);

/* Has the driver tell the network where its address is now, after the domain has moved. The loop's
 * thread. */
void virtio_net_announce(struct virtio_device *d);

#endif

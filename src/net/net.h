/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network interface's back end: Ethernet frames in both directions, with what a virtio-net header
 * says about them. A back end embeds `struct net` first.
 *
 * Threads: a back end belongs to the loop it was opened with. All functions of both sides are
 * called on that loop's thread, and so are the front end's queues. Nobody waits: who cannot take a
 * frame says so, and tells when it can.
 */
#ifndef RINGFENCE_NET_NET_H
#define RINGFENCE_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct loop;
struct net;

/* As in struct virtio_net_hdr (virtio 1.2, section 5.1.6), in host byte order. */
enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3,
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5,
    NET_GSO_ECN = 0x80
};

struct net_offload {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size;
    uint16_t csum_start, csum_offset;
};

/* One frame from the destination address on, without FCS; valid during the call only. A guest's
 * memory may change under the reader: copy, then look. */
struct net_frame {
    const struct iovec *iov;
    unsigned iov_count;
    size_t len;
    struct net_offload offload;
};

#define NET_FRAME_MAX (65536 + 18) /* with segmentation offload */

/* What one side can take from the other beyond plain frames of the MTU. */
enum {
    NET_CAN_CSUM = 1,
    NET_CAN_TSO4 = 2,
    NET_CAN_TSO6 = 4,
    NET_CAN_ECN = 8,
    NET_CAN_UFO = 16,
    NET_CAN_USO = 32,
};

/* The guest's side, as the back end sees it. Never called from inside send, receive_again or
 * set_front: the front end may hold the lock of a queue then. */
struct net_front {
    /* False: there is no buffer for it; the back end keeps or drops it, and front->room... is
     * announced through ops->receive_again. */
    bool (*receive)(void *front, unsigned queue, const struct net_frame *f);
    /* A queue whose send() returned false may try again. */
    void (*send_again)(void *front, unsigned queue);
    void (*link_changed)(void *front, bool up);
};

struct net_ops {
    const char *name; /* "user", "tap", … */
    /* The front is there: from now on frames may come. May be NULL. */
    void (*start)(struct net *n);
    /* False: not taken; send_again is called when it will be. */
    bool (*send)(struct net *n, unsigned queue, const struct net_frame *f);
    /* The front end has buffers again after receive() returned false. May be NULL. */
    void (*receive_again)(struct net *n, unsigned queue);
    /* What the guest can take (NET_CAN_…), and how many queue pairs it uses. May be NULL. */
    void (*set_front)(struct net *n, unsigned can, unsigned queues);
    /* The loop does not run. */
    void (*close)(struct net *n);
};

struct net {
    const struct net_ops *ops;
    struct loop *loop;
    const struct net_front *front; /* NULL until attached */
    void *front_arg;
    unsigned can;        /* NET_CAN_…: what the back end takes from the guest */
    unsigned queues_max; /* pairs */
    unsigned mtu;        /* 0: 1500, and not announced */
    bool link_up;
};

/* Gives the back end its front, before it is started. Any thread. */
static inline void net_attach(struct net *n, const struct net_front *f, void *arg) {
    n->front = f;
    n->front_arg = arg;
}
/* Once. net_start is for the loop's thread; net_start_soon for any: it has the loop call it. */
void net_start(struct net *n);
void net_start_soon(struct net *n);
/* Stops what is under way, and frees. The loop does not run. NULL is allowed. */
void net_close(struct net *n);

/* For back ends. What they give the front: */
bool net_receive(struct net *n, unsigned queue, const struct net_frame *f);
void net_set_link(struct net *n, bool up);

static inline bool net_send(struct net *n, unsigned queue, const struct net_frame *f) {
    return n->ops->send(n, queue, f);
}

static inline void net_receive_again(struct net *n, unsigned queue) {
    if (n->ops->receive_again)
        n->ops->receive_again(n, queue);
}

static inline void net_set_front(struct net *n, unsigned can, unsigned queues) {
    if (n->ops->set_front)
        n->ops->set_front(n, can, queues);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums and segmentation in software, for the side that cannot do what the other asks for.
 * Frames here are copies that no guest can change any more; what their headers claim is checked
 * against their length.
 */
#ifndef RINGFENCE_NET_OFFLOAD_H
#define RINGFENCE_NET_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"

/* The Internet checksum (RFC 1071) of a piece, to be added up; pieces but the last are even. */
uint32_t csum_add(uint32_t sum, const uint8_t *data, size_t len);
uint16_t csum_fold(uint32_t sum); /* not inverted */

static inline uint16_t get_be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get_be32(const uint8_t *p) {
    return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}

static inline void put_be16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void put_be32(uint8_t *p, uint32_t v) {
    put_be16(p, (uint16_t)(v >> 16));
    put_be16(p + 2, (uint16_t)v);
}

/* Where the headers of an IPv4 or IPv6 packet begin. */
struct net_headers {
    size_t ip;     /* the IP header */
    size_t l4;     /* what is behind it and its options or extensions */
    uint8_t proto; /* of l4: IPPROTO_TCP, … */
    bool v6;
    bool fragment; /* l4 is only there in the first one */
};

/* False when it is neither, or cut short. At most two VLAN tags. */
bool net_headers_find(const uint8_t *frame, size_t len, struct net_headers *h);

/* The sum of the pseudo-header, for `l4_len` bytes behind it. */
uint32_t net_pseudo_sum(const uint8_t *frame, const struct net_headers *h, size_t l4_len);

/* What NET_CAN_… a receiver needs for a frame; an unknown type needs all there are. */
unsigned net_offload_needs(const struct net_offload *o);

/* Does what NET_NEEDS_CSUM asks for; false when the offsets are out of range. */
bool net_checksum(uint8_t *frame, size_t len, const struct net_offload *o);

/* Makes frames that need nothing of one that does: segments, one after another. */
struct net_cut {
    uint8_t *frame, *segment; /* NET_FRAME_MAX bytes each */
    size_t len;               /* of `frame` */
    struct net_offload offload;
    struct net_headers h;
    size_t header;   /* bytes that each segment repeats */
    size_t at;       /* in `frame`: payload before it is cut already */
    size_t made;     /* bytes in `segment`; 0: there is none */
    unsigned number; /* segments before it */
};

void net_cut_init(struct net_cut *c);
void net_cut_free(struct net_cut *c);
/* Takes a copy of a frame; false when it makes no sense and is to be dropped. */
bool net_cut_begin(struct net_cut *c, const struct net_frame *f);
/* The frame to be sent now; the same one until net_cut_taken. False when none is left. */
bool net_cut_next(struct net_cut *c, struct net_frame *f, struct iovec *iov);
void net_cut_taken(struct net_cut *c);

#endif

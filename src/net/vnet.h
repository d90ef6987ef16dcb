/* SPDX-License-Identifier: Apache-2.0 */
/* struct virtio_net_hdr as bytes (virtio 1.2, section 5.1.6, little-endian), without the number of
 * buffers. */
#ifndef RINGFENCE_NET_VNET_H
#define RINGFENCE_NET_VNET_H

#include <stdint.h>

#include "net/net.h"

#define VNET_HEADER 10

static inline uint16_t vnet_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline void vnet_put16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline struct net_offload vnet_get(const uint8_t *h) {
    return (struct net_offload){
        .flags = h[0] & (NET_NEEDS_CSUM | NET_DATA_VALID),
        .gso_type = h[1],
        .hdr_len = vnet_get16(h + 2),
        .gso_size = vnet_get16(h + 4),
        .csum_start = vnet_get16(h + 6),
        .csum_offset = vnet_get16(h + 8),
    };
}

static inline void vnet_put(uint8_t *h, const struct net_offload *o) {
    h[0] = o->flags;
    h[1] = o->gso_type;
    vnet_put16(h + 2, o->hdr_len);
    vnet_put16(h + 4, o->gso_size);
    vnet_put16(h + 6, o->csum_start);
    vnet_put16(h + 8, o->csum_offset);
}

#endif

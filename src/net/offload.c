/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums (RFC 1071, 1624) and segmentation of TCP and UDP as network cards do it: each segment
 * repeats the headers with its own lengths, identification, sequence number, flags and checksums.
 */
#include "net/offload.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/util.h"

#define ETH_HEADER 14
#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define ETH_VLAN 0x8100
#define ETH_QINQ 0x88a8

#define TCP_HEADER 20
#define UDP_HEADER 8
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

/* The least that TCP is ever left with in a segment; smaller ones only multiply work. */
#define GSO_SIZE_MIN 8

/* Adds host-order words, which gives the swapped sum (RFC 1071, 2 (B)), eight bytes at a time. */
uint32_t csum_add(uint32_t sum, const uint8_t *data, size_t len) {
    uint64_t s = 0, w;

    for (; len >= 8; data += 8, len -= 8) {
        memcpy(&w, data, 8);
        s += (w & 0xffffffff) + (w >> 32);
    }
    w = 0;
    memcpy(&w, data, len);
    s += (w & 0xffffffff) + (w >> 32);
    s = (s & 0xffffffff) + (s >> 32);
    s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    return sum + __builtin_bswap16((uint16_t)s);
}

uint16_t csum_fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)(sum + (sum >> 16));
}

static bool find_ipv6_l4(const uint8_t *frame, size_t len, struct net_headers *h) {
    uint8_t next = frame[h->ip + 6];
    size_t at = h->ip + 40;

    while (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
           next == IPPROTO_FRAGMENT) {
        if (len < at + 8)
            return false;
        h->fragment |= next == IPPROTO_FRAGMENT;
        size_t size = next == IPPROTO_FRAGMENT ? 8 : 8 * (frame[at + 1] + (size_t)1);
        next = frame[at];
        at += size;
    }
    h->l4 = at;
    h->proto = next;
    return at <= len;
}

bool net_headers_find(const uint8_t *frame, size_t len, struct net_headers *h) {
    size_t at = ETH_HEADER;
    unsigned tags = 0;

    *h = (struct net_headers){0};
    while (len >= at && tags < 2 &&
           (get_be16(frame + at - 2) == ETH_VLAN || get_be16(frame + at - 2) == ETH_QINQ)) {
        at += 4;
        tags++;
    }
    if (len < at + 20)
        return false;
    h->ip = at;
    if (get_be16(frame + at - 2) == ETH_IPV6 && frame[at] >> 4 == 6 && len >= at + 40) {
        h->v6 = true;
        return find_ipv6_l4(frame, len, h);
    }
    h->l4 = at + 4 * (frame[at] & 15u);
    h->proto = frame[at + 9];
    h->fragment = get_be16(frame + at + 6) & 0x3fff;
    return get_be16(frame + at - 2) == ETH_IPV4 && frame[at] >> 4 == 4 && h->l4 >= at + 20 &&
           h->l4 <= len;
}

uint32_t net_pseudo_sum(const uint8_t *frame, const struct net_headers *h, size_t l4_len) {
    uint32_t sum = h->v6 ? csum_add(0, frame + h->ip + 8, 32) : csum_add(0, frame + h->ip + 12, 8);

    return sum + h->proto + (uint32_t)(l4_len >> 16) + (uint32_t)(l4_len & 0xffff);
}

unsigned net_offload_needs(const struct net_offload *o) {
    static const unsigned by_type[] = {
        [NET_GSO_TCPV4] = NET_CAN_TSO4,
        [NET_GSO_UDP] = NET_CAN_UFO,
        [NET_GSO_TCPV6] = NET_CAN_TSO6,
        [NET_GSO_UDP_L4] = NET_CAN_USO,
    };
    unsigned type = o->gso_type & ~(unsigned)NET_GSO_ECN;
    unsigned needs = o->flags & NET_NEEDS_CSUM ? NET_CAN_CSUM : 0;

    if (o->gso_type & NET_GSO_ECN)
        needs |= NET_CAN_ECN;
    if (type == NET_GSO_NONE)
        return needs;
    return type < ARRAY_LEN(by_type) && by_type[type] ? needs | by_type[type] : ~0u;
}

bool net_checksum(uint8_t *frame, size_t len, const struct net_offload *o) {
    size_t start = o->csum_start, at = start + o->csum_offset;

    if (!(o->flags & NET_NEEDS_CSUM))
        return true;
    if (at + 2 > len)
        return false;
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, frame + start, len - start));
    put_be16(frame + at, sum ? sum : 0xffff);
    return true;
}

/* Segmentation */

void net_cut_init(struct net_cut *c) {
    *c = (struct net_cut){
        .frame = xcalloc(1, NET_FRAME_MAX),
        .segment = xcalloc(1, NET_FRAME_MAX),
    };
}

void net_cut_free(struct net_cut *c) {
    free(c->frame);
    free(c->segment);
}

static bool find_header(struct net_cut *c) {
    unsigned type = c->offload.gso_type & ~(unsigned)NET_GSO_ECN;
    const struct net_headers *h = &c->h;

    if (!net_headers_find(c->frame, c->len, &c->h) || h->fragment)
        return false;
    if (type == NET_GSO_UDP_L4) {
        c->header = h->l4 + UDP_HEADER;
        return h->proto == IPPROTO_UDP && c->header <= c->len;
    }
    if ((type != NET_GSO_TCPV4 || h->v6) && (type != NET_GSO_TCPV6 || !h->v6))
        return false;
    if (h->proto != IPPROTO_TCP || h->l4 + TCP_HEADER > c->len)
        return false;
    c->header = h->l4 + 4 * (c->frame[h->l4 + 12] >> 4);
    return c->header >= h->l4 + TCP_HEADER && c->header <= c->len;
}

static void set_ip(struct net_cut *c, size_t payload) {
    uint8_t *ip = c->segment + c->h.ip;
    size_t len = c->header - c->h.ip + payload;

    if (c->h.v6) {
        put_be16(ip + 4, (uint16_t)(len - 40));
        return;
    }
    put_be16(ip + 2, (uint16_t)len);
    put_be16(ip + 4, (uint16_t)(get_be16(ip + 4) + c->number));
    put_be16(ip + 10, 0);
    put_be16(ip + 10, (uint16_t)~csum_fold(csum_add(0, ip, c->h.l4 - c->h.ip)));
}

static void set_l4(struct net_cut *c, size_t payload, bool last) {
    uint8_t *l4 = c->segment + c->h.l4;
    size_t len = c->header - c->h.l4 + payload;
    bool udp = c->h.proto == IPPROTO_UDP;
    uint8_t *check = l4 + (udp ? 6 : 16);

    if (udp) {
        put_be16(l4 + 4, (uint16_t)len);
    } else {
        put_be32(l4 + 4, get_be32(l4 + 4) + c->number * c->offload.gso_size);
        if (!last)
            l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (c->number)
            l4[13] &= (uint8_t)~TCP_CWR;
    }
    put_be16(check, 0);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(net_pseudo_sum(c->segment, &c->h, len), l4, len));
    put_be16(check, sum ? sum : 0xffff);
}

static void make_segment(struct net_cut *c) {
    size_t n = MIN(c->len - c->at, (size_t)c->offload.gso_size);

    memcpy(c->segment, c->frame, c->header);
    memcpy(c->segment + c->header, c->frame + c->at, n);
    c->at += n;
    c->made = c->header + n;
    set_ip(c, n);
    set_l4(c, n, c->at == c->len);
    c->number++;
}

/* What needs no cutting is one segment, with its checksum. */
static bool make_whole(struct net_cut *c) {
    uint8_t *frame = c->frame;

    c->frame = c->segment;
    c->segment = frame;
    c->at = c->len;
    c->made = net_checksum(frame, c->len, &c->offload) ? c->len : 0;
    return c->made;
}

bool net_cut_begin(struct net_cut *c, const struct net_frame *f) {
    c->made = 0;
    if (f->len > NET_FRAME_MAX)
        return false;
    c->len = iov_read(f->iov, f->iov_count, 0, c->frame, f->len);
    c->offload = f->offload;
    c->number = 0;
    if (f->offload.gso_type == NET_GSO_NONE)
        return make_whole(c);
    if (c->offload.gso_size < GSO_SIZE_MIN || !find_header(c))
        return false;
    c->at = c->header;
    make_segment(c);
    return true;
}

bool net_cut_next(struct net_cut *c, struct net_frame *f, struct iovec *iov) {
    if (!c->made)
        return false;
    *iov = (struct iovec){c->segment, c->made};
    *f = (struct net_frame){
        .iov = iov,
        .iov_count = 1,
        .len = c->made,
        .offload.flags = c->offload.flags & NET_DATA_VALID,
    };
    return true;
}

void net_cut_taken(struct net_cut *c) {
    c->made = 0;
    if (c->at < c->len)
        make_segment(c);
}

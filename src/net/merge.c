/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments are merged under the conditions of Linux's GRO: the same headers but for length,
 * identification, sequence number, PSH and checksums; all of one size but the last, which may be
 * shorter. PSH ends a frame, so that nothing waits.
 */
#include "net/merge.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define IP_MAX 65535 /* of the total length, or the payload's */
#define TCP_HEADER 20
enum { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_PSH = 0x08, TCP_ACK = 0x10 };
/* In an IPv4 header: total length, identification, flags, checksum. In TCP's: the sequence number,
 * flags, checksum. */
enum { IP_LEN = 2, IP_ID = 4, IP_FLAGS = 6, IP_CSUM = 10, IP_ADDRESSES = 12, IP6_LEN = 4 };
enum {
    TCP_SEQ = 4,
    TCP_ACKED = 8,
    TCP_OFFSET = 12,
    TCP_FLAGS = 13,
    TCP_WINDOW = 14,
    TCP_CSUM = 16
};

void net_merge_init(struct net_merge *m) {
    *m = (struct net_merge){.frame = xcalloc(1, NET_FRAME_MAX)};
}

void net_merge_free(struct net_merge *m) {
    free(m->frame);
    m->frame = NULL;
}

/* Whether the IP packet is all of the frame. */
static bool length_fits(const uint8_t *frame, size_t len, const struct net_headers *h) {
    const uint8_t *ip = frame + h->ip;

    return h->v6 ? get_be16(ip + IP6_LEN) == len - h->l4 : get_be16(ip + IP_LEN) == len - h->ip;
}

/* TCP with nothing unusual, and a payload. */
static bool suits(const uint8_t *frame, size_t len, struct net_headers *h, size_t *header) {
    if (!net_headers_find(frame, len, h) || h->fragment || h->proto != IPPROTO_TCP)
        return false;
    if (h->l4 != h->ip + (h->v6 ? IPV6_HEADER : IPV4_HEADER) || len < h->l4 + TCP_HEADER)
        return false;
    const uint8_t *tcp = frame + h->l4;
    *header = h->l4 + 4 * (size_t)(tcp[TCP_OFFSET] >> 4);
    return (tcp[TCP_FLAGS] & ~TCP_PSH) == TCP_ACK && *header >= h->l4 + TCP_HEADER &&
           *header < len && length_fits(frame, len, h);
}

static bool same(const uint8_t *a, const uint8_t *b, size_t from, size_t to) {
    return memcmp(a + from, b + from, to - from) == 0;
}

static bool same_flow(const struct net_merge *m, const uint8_t *frame) {
    const uint8_t *ip = m->frame + m->h.ip, *ip2 = frame + m->h.ip;
    const uint8_t *tcp = m->frame + m->h.l4, *tcp2 = frame + m->h.l4;
    bool ip_same = m->h.v6 ? same(ip, ip2, 0, IP6_LEN) && same(ip, ip2, IP6_LEN + 2, IPV6_HEADER)
                           : same(ip, ip2, 0, IP_LEN) && same(ip, ip2, IP_FLAGS, IP_CSUM) &&
                                 same(ip, ip2, IP_ADDRESSES, IPV4_HEADER);

    return ip_same && same(m->frame, frame, 0, m->h.ip) && same(tcp, tcp2, 0, TCP_SEQ) &&
           same(tcp, tcp2, TCP_ACKED, TCP_FLAGS) && same(tcp, tcp2, TCP_WINDOW, TCP_CSUM) &&
           same(tcp, tcp2, TCP_CSUM + 2, m->header - m->h.l4);
}

static uint32_t next_sequence(const struct net_merge *m) {
    return get_be32(m->frame + m->h.l4 + TCP_SEQ) + (uint32_t)(m->len - m->header);
}

static bool follows(const struct net_merge *m, const uint8_t *frame, size_t len,
                    const struct net_headers *h, size_t header) {
    size_t payload = len - header;

    return !m->closed && h->ip == m->h.ip && h->l4 == m->h.l4 && h->v6 == m->h.v6 &&
           header == m->header && payload <= m->segment && m->len + payload - m->h.ip <= IP_MAX &&
           get_be32(frame + h->l4 + TCP_SEQ) == next_sequence(m) && same_flow(m, frame);
}

bool net_merge_add(struct net_merge *m, const uint8_t *frame, size_t len) {
    struct net_headers h;
    size_t header;

    if (len > NET_FRAME_MAX || !suits(frame, len, &h, &header))
        return false;
    if (m->len && !follows(m, frame, len, &h, header))
        return false;
    uint8_t push = frame[h.l4 + TCP_FLAGS] & TCP_PSH;
    if (!m->len) {
        memcpy(m->frame, frame, len);
        *m = (struct net_merge){m->frame, len, h, header, len - header, 0, false};
    } else {
        memcpy(m->frame + m->len, frame + header, len - header);
        m->frame[h.l4 + TCP_FLAGS] |= push;
        m->len += len - header;
    }
    m->count++;
    m->closed = push || len - header < m->segment;
    return true;
}

/* Lengths and checksums of all as one; TCP's is left to the receiver. */
static void finish(struct net_merge *m) {
    uint8_t *ip = m->frame + m->h.ip, *tcp = m->frame + m->h.l4;
    size_t l4_len = m->len - m->h.l4;

    if (m->h.v6) {
        put_be16(ip + IP6_LEN, (uint16_t)l4_len);
    } else {
        put_be16(ip + IP_LEN, (uint16_t)(m->len - m->h.ip));
        put_be16(ip + IP_CSUM, 0);
        put_be16(ip + IP_CSUM, (uint16_t)~csum_fold(csum_add(0, ip, IPV4_HEADER)));
    }
    put_be16(tcp + TCP_CSUM, csum_fold(net_pseudo_sum(m->frame, &m->h, l4_len)));
}

bool net_merge_take(struct net_merge *m, struct net_frame *f, struct iovec *iov) {
    if (!m->len)
        return false;
    *iov = (struct iovec){m->frame, m->len};
    *f = (struct net_frame){.iov = iov, .iov_count = 1, .len = m->len};
    f->offload.flags = NET_DATA_VALID;
    if (m->count > 1) {
        finish(m);
        f->offload = (struct net_offload){
            .flags = NET_NEEDS_CSUM,
            .gso_type = m->h.v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
            .hdr_len = (uint16_t)m->header,
            .gso_size = (uint16_t)m->segment,
            .csum_start = (uint16_t)m->h.l4,
            .csum_offset = TCP_CSUM,
        };
    }
    m->len = 0;
    return true;
}

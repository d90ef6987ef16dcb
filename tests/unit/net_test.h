/* SPDX-License-Identifier: Apache-2.0 */
/* Ends of a network for tests: a back end and a front that remember frames, and packets to send. */
#ifndef RINGFENCE_TESTS_NET_TEST_H
#define RINGFENCE_TESTS_NET_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/iov.h"
#include "base/loop.h"
#include "base/util.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/offload.h"

static inline void test_stop(void *loop) {
    loop_stop(loop);
}

/* Runs the loop until what is ready has been answered, and what those answers rang for. */
static inline void test_run(struct loop *l) {
    for (unsigned i = 0; i < 4; i++) {
        loop_call(l, test_stop, l);
        assert_int_equal(loop_run(l, NULL), 0);
    }
}

/* --- frames that came --- */

struct test_frame {
    uint8_t *data;
    size_t len;
    struct net_offload offload;
};

struct test_frames {
    struct test_frame frames[128];
    unsigned count;
};

static inline void frames_add(struct test_frames *t, const struct net_frame *f) {
    struct test_frame *n = &t->frames[t->count++];

    assert_in_range(t->count, 1, ARRAY_LEN(t->frames));
    n->data = xcalloc(1, f->len + 1);
    n->len = iov_read(f->iov, f->iov_count, 0, n->data, f->len);
    assert_int_equal(n->len, f->len);
    n->offload = f->offload;
}

static inline void frames_clear(struct test_frames *t) {
    for (unsigned i = 0; i < t->count; i++)
        free(t->frames[i].data);
    t->count = 0;
}

/* --- a back end --- */

struct test_net {
    struct net net;
    struct test_frames sent;
    unsigned room; /* frames that it takes */
    unsigned receive_again, started;
    unsigned front_can, front_queues;
    bool *closed; /* told when it goes; NULL: nobody cares */
};

static inline bool test_net_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct test_net *t = (struct test_net *)n;

    assert_in_range(queue, 0, n->queues_max - 1);
    if (!t->room)
        return false;
    t->room--;
    frames_add(&t->sent, f);
    return true;
}

static inline void test_net_receive_again(struct net *n, unsigned queue) {
    (void)queue;
    ((struct test_net *)n)->receive_again++;
}

static inline void test_net_start(struct net *n) {
    ((struct test_net *)n)->started++;
}

static inline void test_net_set_front(struct net *n, unsigned can, unsigned queues) {
    ((struct test_net *)n)->front_can = can;
    ((struct test_net *)n)->front_queues = queues;
}

static inline void test_net_close(struct net *n) {
    struct test_net *t = (struct test_net *)n;

    if (t->closed)
        *t->closed = true;
    frames_clear(&t->sent);
    free(t);
}

static const struct net_ops test_net_ops = {
    .name = "test",
    .start = test_net_start,
    .send = test_net_send,
    .receive_again = test_net_receive_again,
    .set_front = test_net_set_front,
    .close = test_net_close,
};

static inline struct test_net *test_net_new(struct loop *l, unsigned can) {
    struct test_net *t = xcalloc(1, sizeof(*t));

    t->net =
        (struct net){.ops = &test_net_ops, .loop = l, .can = can, .queues_max = 1, .link_up = true};
    t->room = 100;
    return t;
}

static inline void test_net_send_again(struct test_net *t) {
    t->net.front->send_again(t->net.front_arg, 0);
}

/* --- a front --- */

struct test_front {
    struct test_frames got;
    unsigned room; /* frames that it takes */
    unsigned send_again, link_changes;
    bool link_up;
};

static inline bool test_front_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct test_front *t = arg;

    (void)queue;
    if (!t->room)
        return false;
    t->room--;
    frames_add(&t->got, f);
    return true;
}

static inline void test_front_send_again(void *arg, unsigned queue) {
    (void)queue;
    ((struct test_front *)arg)->send_again++;
}

static inline void test_front_link(void *arg, bool up) {
    ((struct test_front *)arg)->link_changes++;
    ((struct test_front *)arg)->link_up = up;
}

static inline void test_front_attach(struct test_front *t, struct net *n) {
    static const struct net_front ops = {test_front_receive, test_front_send_again,
                                         test_front_link};

    t->room = 100;
    t->link_up = n->link_up;
    net_attach(n, &ops, t);
    net_start(n);
}

static inline void test_front_clear(struct test_front *t) {
    frames_clear(&t->got);
}

/* --- packets --- */

enum {
    PACKET_V6 = 1,
    PACKET_UDP = 2,
    PACKET_VLAN = 4,
    PACKET_OPTIONS = 8,    /* TCP options of 12 bytes */
    PACKET_EXTENSION = 16, /* an IPv6 hop-by-hop header */
};

/* A packet whose checksum, and segmentation if gso_size is not 0, are left to who sends it. */
struct test_packet {
    uint8_t *data;
    struct iovec iov;
    struct net_frame frame;
    size_t ip, l4, header;
    bool v6, udp;
};

static inline size_t packet_put_ip(struct test_packet *p, unsigned kind, size_t l4_len) {
    uint8_t *ip = p->data + p->ip;
    size_t extension = kind & PACKET_EXTENSION ? 8 : 0;
    uint8_t proto = p->udp ? 17 : 6;

    if (p->v6) {
        ip[0] = 0x60;
        put_be16(ip + 4, (uint16_t)(l4_len + extension));
        ip[6] = extension ? 0 : proto;
        ip[7] = 64;
        memcpy(ip + 8, "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x15", 16);
        memcpy(ip + 24, "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02", 16);
        if (extension)
            memcpy(ip + 40, (uint8_t[8]){proto, 0, 1, 4}, 8);
        return 40 + extension;
    }
    ip[0] = 0x45;
    put_be16(ip + 2, (uint16_t)(20 + l4_len));
    put_be16(ip + 4, 0xfffe);
    ip[8] = 64;
    ip[9] = proto;
    memcpy(ip + 12, "\x0a\0\x02\x0f\x0a\0\x02\x02", 8);
    put_be16(ip + 10, (uint16_t)~csum_fold(csum_add(0, ip, 20)));
    return 20;
}

static inline void packet_put_l4(struct test_packet *p, unsigned kind, size_t l4_len) {
    uint8_t *l4 = p->data + p->l4;
    struct net_headers h = {.ip = p->ip, .l4 = p->l4, .proto = p->udp ? 17 : 6, .v6 = p->v6};

    put_be16(l4, 1234);
    put_be16(l4 + 2, 80);
    if (p->udp) {
        put_be16(l4 + 4, (uint16_t)l4_len);
    } else {
        put_be32(l4 + 4, 0xfffffff0);
        l4[12] = kind & PACKET_OPTIONS ? 0x80 : 0x50;
        l4[13] = 0x99; /* CWR, ACK, PSH, FIN */
        if (kind & PACKET_OPTIONS)
            memset(l4 + 20, 1, 12);
    }
    put_be16(l4 + (p->udp ? 6 : 16), csum_fold(net_pseudo_sum(p->data, &h, l4_len)));
}

static inline struct test_packet *packet_new(unsigned kind, unsigned payload, unsigned gso_size) {
    struct test_packet *p = xcalloc(1, sizeof(*p));
    size_t l4_header = kind & PACKET_UDP ? 8 : kind & PACKET_OPTIONS ? 32 : 20;

    p->data = xcalloc(1, 256 + payload);
    p->v6 = kind & PACKET_V6;
    p->udp = kind & PACKET_UDP;
    p->ip = kind & PACKET_VLAN ? 18 : 14;
    memcpy(p->data, "\x52\x55\x0a\0\x02\x02\x52\x54\0\x12\x34\x56", 12);
    if (kind & PACKET_VLAN)
        memcpy(p->data + 12, "\x81\0\0\x05", 4);
    put_be16(p->data + p->ip - 2, p->v6 ? 0x86dd : 0x0800);
    p->l4 = p->ip + packet_put_ip(p, kind, l4_header + payload);
    p->header = p->l4 + l4_header;
    packet_put_l4(p, kind, l4_header + payload);
    for (unsigned i = 0; i < payload; i++)
        p->data[p->header + i] = (uint8_t)(i * 7 + (i >> 8));
    p->iov = (struct iovec){p->data, p->header + payload};
    p->frame = (struct net_frame){
        .iov = &p->iov,
        .iov_count = 1,
        .len = p->header + payload,
        .offload = {.flags = NET_NEEDS_CSUM,
                    .csum_start = (uint16_t)p->l4,
                    .csum_offset = p->udp ? 6 : 16,
                    .hdr_len = (uint16_t)p->header,
                    .gso_size = (uint16_t)gso_size},
    };
    if (gso_size)
        p->frame.offload.gso_type = p->udp  ? NET_GSO_UDP_L4
                                    : p->v6 ? NET_GSO_TCPV6 | NET_GSO_ECN
                                            : NET_GSO_TCPV4 | NET_GSO_ECN;
    return p;
}

static inline void packet_free(struct test_packet *p) {
    free(p->data);
    free(p);
}

/* Lengths and checksums are what a receiver wants to see. */
static inline bool packet_valid(const uint8_t *frame, size_t len) {
    struct net_headers h;

    if (!net_headers_find(frame, len, &h))
        return false;
    const uint8_t *ip = frame + h.ip;
    size_t ip_len = h.v6 ? get_be16(ip + 4) + 40u : get_be16(ip + 2);
    if (ip_len != len - h.ip || (!h.v6 && csum_fold(csum_add(0, ip, h.l4 - h.ip)) != 0xffff))
        return false;
    size_t l4_len = len - h.l4;
    if (h.proto == 17 && get_be16(frame + h.l4 + 4) != l4_len)
        return false;
    uint32_t sum = net_pseudo_sum(frame, &h, l4_len);
    return csum_fold(csum_add(sum, frame + h.l4, l4_len)) == 0xffff;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums and segmentation in software, and the filter that does them where others cannot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net_test.h"

#include "base/iov.h"
#include "net/merge.h"
#include "net/offload.h"

/* The sum as RFC 1071 has it, byte by byte. */
static uint16_t plain_sum(const uint8_t *p, size_t len) {
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static void sums_of_all_lengths(void **state) {
    uint8_t buf[600];

    (void)state;
    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)(i * 131 + (i >> 3));
    for (size_t off = 0; off < 9; off++)
        for (size_t len = 0; off + len <= sizeof(buf); len++) {
            uint16_t want = plain_sum(buf + off, len);
            uint16_t got = csum_fold(csum_add(0, buf + off, len));

            assert_int_equal(got, want);
        }
    memset(buf, 0xff, sizeof(buf));
    assert_int_equal(csum_fold(csum_add(0, buf, sizeof(buf))), 0xffff);
}

static void example_of_rfc_1071(void **state) {
    const uint8_t data[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

    (void)state;
    assert_int_equal(csum_fold(csum_add(0, data, sizeof(data))), 0xddf2);
}

/* Each segment is a whole, valid packet, and together they are the payload. */
static void check_segments(const struct test_packet *p, unsigned want) {
    struct net_cut c;
    struct net_frame f;
    struct iovec iov;
    size_t at = p->header, count = 0;

    net_cut_init(&c);
    assert_true(net_cut_begin(&c, &p->frame));
    for (; net_cut_next(&c, &f, &iov); net_cut_taken(&c), count++) {
        const uint8_t *s = iov.iov_base;
        size_t n = f.len - p->header;

        assert_int_equal(f.offload.flags | f.offload.gso_type, 0);
        assert_in_range(n, 1, p->frame.offload.gso_size);
        assert_memory_equal(s + p->header, p->data + at, n);
        assert_true(packet_valid(s, f.len));
        if (!p->udp) {
            assert_int_equal(get_be32(s + p->l4 + 4), 0xfffffff0u + (uint32_t)(at - p->header));
            bool last = at + n == p->frame.len;
            assert_int_equal(s[p->l4 + 13], (last ? 0x19 : 0x10) | (count ? 0 : 0x80));
        }
        if (!p->v6)
            assert_int_equal(get_be16(s + p->ip + 4), (uint16_t)(0xfffe + count));
        at += n;
    }
    assert_int_equal(at, p->frame.len);
    assert_int_equal(count, want);
    net_cut_free(&c);
}

static void cuts_tcp_and_udp(void **state) {
    static const struct {
        unsigned kind, payload, size, segments;
    } cases[] = {
        {0, 4000, 1448, 3},
        {0, 1448, 1448, 1},
        {0, 1449, 1448, 2},
        {0, 60001, 8, 7501},
        {PACKET_V6, 4000, 1428, 3},
        {PACKET_V6, 65000, 65000, 1},
        {PACKET_VLAN, 3000, 1000, 3},
        {PACKET_OPTIONS, 3000, 999, 4},
        {PACKET_UDP, 5000, 1200, 5},
        {PACKET_UDP | PACKET_V6, 5001, 1000, 6},
        {PACKET_V6 | PACKET_EXTENSION, 2001, 1000, 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_packet *p = packet_new(cases[i].kind, cases[i].payload, cases[i].size);

        check_segments(p, cases[i].segments);
        packet_free(p);
    }
}

static bool cuts(const struct test_packet *p) {
    struct net_cut c;
    bool good;

    net_cut_init(&c);
    good = net_cut_begin(&c, &p->frame);
    net_cut_free(&c);
    return good;
}

static void refuses_what_makes_no_sense(void **state) {
    struct test_packet *p = packet_new(0, 3000, 1000);

    (void)state;
    assert_true(cuts(p));
    p->frame.offload.gso_size = 0;
    assert_false(cuts(p));
    p->frame.offload.gso_size = 1000;
    p->frame.offload.gso_type = NET_GSO_TCPV6;
    assert_false(cuts(p));
    p->frame.offload.gso_type = NET_GSO_UDP_L4;
    assert_false(cuts(p));
    p->frame.offload.gso_type = 0x7f;
    assert_false(cuts(p));
    p->frame.offload.gso_type = NET_GSO_TCPV4;
    p->data[p->l4 + 12] = 0x10; /* a TCP header of 4 bytes */
    assert_false(cuts(p));
    p->data[p->l4 + 12] = 0x50;
    p->data[p->ip + 6] = 0x20; /* a fragment */
    assert_false(cuts(p));
    p->data[p->ip + 6] = 0;
    p->data[p->ip] = 0x4f; /* options as far as the TCP header's own bytes */
    p->frame.len = p->ip + 60;
    assert_false(cuts(p));
    packet_free(p);
}

static void sums_what_is_asked_for(void **state) {
    struct test_packet *p = packet_new(PACKET_UDP, 1001, 0);
    struct net_offload o = p->frame.offload;

    (void)state;
    assert_false(packet_valid(p->data, p->frame.len));
    assert_true(net_checksum(p->data, p->frame.len, &o));
    assert_true(packet_valid(p->data, p->frame.len));
    o.csum_start = 0xffff;
    assert_false(net_checksum(p->data, p->frame.len, &o));
    o.csum_start = (uint16_t)(p->frame.len - 1);
    o.csum_offset = 0;
    assert_false(net_checksum(p->data, p->frame.len, &o));
    o.csum_offset = 0xffff;
    assert_false(net_checksum(p->data, p->frame.len, &o));
    packet_free(p);
}

/* --- merging --- */

/* What was cut into segments, as it is when they are merged again. */
static void check_merged(struct test_packet *p) {
    struct net_cut c;
    struct net_merge m;
    struct net_frame f, got;
    struct iovec iov = {0}, all = {0};
    size_t last = 0;
    uint16_t sum;

    p->data[p->l4 + 13] = 0x18; /* ACK and PSH */
    net_cut_init(&c);
    net_merge_init(&m);
    assert_true(net_cut_begin(&c, &p->frame));
    for (; net_cut_next(&c, &f, &iov); net_cut_taken(&c)) {
        assert_true(net_merge_add(&m, iov.iov_base, f.len));
        last = f.len;
    }
    assert_false(net_merge_add(&m, c.segment, last)); /* behind PSH */
    assert_true(net_merge_take(&m, &got, &all));
    assert_int_equal(got.len, p->frame.len);
    assert_int_equal(got.offload.gso_size, p->frame.offload.gso_size);
    assert_int_equal(got.offload.gso_type, p->v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4);
    assert_int_equal(got.offload.hdr_len, p->header);
    assert_memory_equal((uint8_t *)all.iov_base + p->header, p->data + p->header,
                        p->frame.len - p->header);
    sum = get_be16((uint8_t *)all.iov_base + p->l4 + 16);
    assert_int_equal(sum, csum_fold(net_pseudo_sum(all.iov_base, &c.h, got.len - p->l4)));
    assert_true(net_checksum(all.iov_base, got.len, &got.offload));
    assert_true(packet_valid(all.iov_base, got.len));
    assert_int_equal(get_be32((uint8_t *)all.iov_base + p->l4 + 4), 0xfffffff0u);
    assert_int_equal(((uint8_t *)all.iov_base)[p->l4 + 13], 0x18);
    assert_false(net_merge_take(&m, &got, &all));
    net_merge_free(&m);
    net_cut_free(&c);
    packet_free(p);
}

static void merges_what_was_cut(void **state) {
    (void)state;
    check_merged(packet_new(0, 4000, 1448));
    check_merged(packet_new(0, 4344, 1448));
    check_merged(packet_new(0, 65495, 1460));
    check_merged(packet_new(PACKET_V6, 4000, 1428));
    check_merged(packet_new(PACKET_VLAN, 3000, 1000));
}

/* Two segments of 1000 bytes, of which the second is changed at an offset from the TCP header. */
static bool goes_with(int at, uint8_t change, size_t cut_off) {
    struct test_packet *p = packet_new(0, 2000, 1000);
    struct net_cut c;
    struct net_merge m;
    struct net_frame f = {0};
    struct iovec iov = {0};

    p->data[p->l4 + 13] = 0x10;
    net_cut_init(&c);
    net_merge_init(&m);
    assert_true(net_cut_begin(&c, &p->frame) && net_cut_next(&c, &f, &iov));
    assert_true(net_merge_add(&m, iov.iov_base, f.len));
    net_cut_taken(&c);
    assert_true(net_cut_next(&c, &f, &iov));
    c.segment[(int)p->l4 + at] ^= change;
    bool taken = net_merge_add(&m, iov.iov_base, f.len - cut_off);
    assert_true(net_merge_take(&m, &f, &iov));
    assert_int_equal(f.offload.gso_type, taken ? NET_GSO_TCPV4 : NET_GSO_NONE);
    assert_true(taken || packet_valid(iov.iov_base, f.len)); /* one alone is as it came */
    net_merge_free(&m);
    net_cut_free(&c);
    packet_free(p);
    return taken;
}

static void merges_only_what_goes_together(void **state) {
    (void)state;
    assert_true(goes_with(0, 0, 0));
    assert_true(goes_with(13, 0x08, 0));   /* PSH */
    assert_true(goes_with(-16, 0xff, 0));  /* the identification */
    assert_false(goes_with(1, 1, 0));      /* a port */
    assert_false(goes_with(7, 1, 0));      /* the sequence number */
    assert_false(goes_with(11, 1, 0));     /* the acknowledgement */
    assert_false(goes_with(13, 0x01, 0));  /* FIN */
    assert_false(goes_with(13, 0x02, 0));  /* SYN */
    assert_false(goes_with(13, 0x10, 0));  /* no ACK */
    assert_false(goes_with(15, 1, 0));     /* the window */
    assert_false(goes_with(12, 0x60, 0));  /* options instead of payload */
    assert_false(goes_with(12, 0x40, 0));  /* a header of 4 bytes */
    assert_false(goes_with(-1, 1, 0));     /* an address */
    assert_false(goes_with(-12, 1, 0));    /* the time to live */
    assert_false(goes_with(-14, 0x20, 0)); /* a fragment */
    assert_false(goes_with(-11, 1, 0));    /* no TCP */
    assert_false(goes_with(0, 0, 1));      /* shorter than IP says */
}

/* --- the filter --- */

struct fixture {
    struct loop *loop;
    struct test_net *inner;
    struct net *soft;
    struct test_front front;
};

static void set_up(struct fixture *f, unsigned inner_can, unsigned front_can) {
    memset(f, 0, sizeof(*f));
    f->loop = loop_new(NULL);
    f->inner = test_net_new(f->loop, inner_can);
    f->soft = net_soft_new(&f->inner->net, NULL);
    assert_non_null(f->soft);
    test_front_attach(&f->front, f->soft);
    test_run(f->loop);
    net_set_front(f->soft, front_can, 1);
    assert_int_equal(f->inner->front_can, front_can);
}

static void tear_down(struct fixture *f) {
    test_front_clear(&f->front);
    net_close(f->soft);
    loop_free(f->loop);
}

static void what_both_can_goes_through_whole(void **state) {
    struct fixture f;
    struct test_packet *p = packet_new(0, 10000, 1448);

    (void)state;
    set_up(&f, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_ECN,
           NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_ECN);
    assert_true(net_send(f.soft, 0, &p->frame));
    assert_int_equal(f.inner->sent.count, 1);
    assert_int_equal(f.inner->sent.frames[0].len, p->frame.len);
    assert_int_equal(f.inner->sent.frames[0].offload.gso_size, 1448);
    assert_true(net_receive(&f.inner->net, 0, &p->frame));
    assert_int_equal(f.front.got.count, 1);
    assert_int_equal(f.front.got.frames[0].offload.gso_size, 1448);
    packet_free(p);
    tear_down(&f);
}

static void a_back_end_that_fills_up_gets_the_rest_later(void **state) {
    struct fixture f;
    struct test_packet *p = packet_new(0, 10000, 1000);

    (void)state;
    set_up(&f, 0, 0);
    f.inner->room = 3;
    assert_true(net_send(f.soft, 0, &p->frame)); /* taken, though not all is sent */
    assert_int_equal(f.inner->sent.count, 3);
    assert_false(net_send(f.soft, 0, &p->frame));
    f.inner->room = 4;
    test_net_send_again(f.inner);
    assert_int_equal(f.inner->sent.count, 7);
    assert_int_equal(f.front.send_again, 0);
    f.inner->room = 100;
    test_net_send_again(f.inner);
    assert_int_equal(f.inner->sent.count, 10);
    assert_int_equal(f.front.send_again, 1);
    for (unsigned i = 0; i < 10; i++)
        assert_true(packet_valid(f.inner->sent.frames[i].data, f.inner->sent.frames[i].len));
    packet_free(p);
    tear_down(&f);
}

static void a_guest_without_buffers_gets_the_rest_later(void **state) {
    struct fixture f;
    struct test_packet *p = packet_new(PACKET_V6, 5000, 1000);

    (void)state;
    set_up(&f, 0, 0);
    f.front.room = 2;
    assert_true(net_receive(&f.inner->net, 0, &p->frame));
    assert_int_equal(f.front.got.count, 2);
    assert_false(net_receive(&f.inner->net, 0, &p->frame));
    f.front.room = 100;
    net_receive_again(f.soft, 0);
    assert_int_equal(f.front.got.count, 2); /* not from inside */
    test_run(f.loop);
    assert_int_equal(f.front.got.count, 5);
    assert_int_equal(f.inner->receive_again, 1);
    for (unsigned i = 0; i < 5; i++)
        assert_true(packet_valid(f.front.got.frames[i].data, f.front.got.frames[i].len));
    packet_free(p);
    tear_down(&f);
}

static void a_guest_without_checksums_gets_them(void **state) {
    struct fixture f;
    struct test_packet *p = packet_new(PACKET_UDP, 100, 0);

    (void)state;
    set_up(&f, 0, 0);
    assert_true(net_receive(&f.inner->net, 0, &p->frame));
    assert_int_equal(f.front.got.count, 1);
    assert_int_equal(f.front.got.frames[0].offload.flags, 0);
    assert_true(packet_valid(f.front.got.frames[0].data, f.front.got.frames[0].len));
    packet_free(p);
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_all_lengths),
        cmocka_unit_test(example_of_rfc_1071),
        cmocka_unit_test(cuts_tcp_and_udp),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(sums_what_is_asked_for),
        cmocka_unit_test(merges_what_was_cut),
        cmocka_unit_test(merges_only_what_goes_together),
        cmocka_unit_test(what_both_can_goes_through_whole),
        cmocka_unit_test(a_back_end_that_fills_up_gets_the_rest_later),
        cmocka_unit_test(a_guest_without_buffers_gets_the_rest_later),
        cmocka_unit_test(a_guest_without_checksums_gets_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

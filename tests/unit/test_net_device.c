/* SPDX-License-Identifier: Apache-2.0 */
/* The network device against a fake driver, on a back end that remembers. */
#include "virtio_driver.h"

#include "net_test.h"

#include "virtio/net.h"

/* Feature bits, by number as in virtio 1.2, section 5.1.3. */
#define CSUM VIRTIO_BIT(0)
#define GUEST_CSUM VIRTIO_BIT(1)
#define GUEST_OFFLOADS VIRTIO_BIT(2)
#define MTU VIRTIO_BIT(3)
#define GUEST_TSO4 VIRTIO_BIT(7)
#define HOST_TSO4 VIRTIO_BIT(11)
#define MRG_RXBUF VIRTIO_BIT(15)
#define STATUS VIRTIO_BIT(16)
#define CTRL_VQ VIRTIO_BIT(17)
#define CTRL_RX VIRTIO_BIT(18)
#define CTRL_VLAN VIRTIO_BIT(19)
#define CTRL_RX_EXTRA VIRTIO_BIT(20)
#define ANNOUNCE VIRTIO_BIT(21)
#define MQ VIRTIO_BIT(22)
#define CTRL_MAC VIRTIO_BIT(23)
#define CTRL (CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | CTRL_MAC | STATUS)

enum { RX, TX };

static const uint8_t our_mac[6] = {0x00, 0x16, 0x3e, 1, 2, 3};
static const uint8_t other_mac[6] = {0x00, 0x16, 0x3e, 9, 9, 9};

struct fixture {
    struct vdriver *v;
    struct test_net *net;
    struct virtio_device *d;
};

static void set_up(struct fixture *f, unsigned how, uint64_t features, unsigned pairs) {
    struct virtio_net_config config = {.pairs = pairs};

    memcpy(config.mac, our_mac, 6);
    f->v = vdriver_new();
    f->net = test_net_new(f->v->loop, NET_CAN_CSUM | NET_CAN_TSO4);
    f->net->net.mtu = 9000;
    f->d = virtio_net_new(f->v->mem, &f->net->net, &config, NULL);
    assert_non_null(f->d);
    vdriver_start(f->v, f->d, features, how);
}

static void tear_down(struct fixture *f) {
    f->v->d->ops->destroy(f->v->d);
    f->v->d = NULL;
    net_close(&f->net->net);
    vdriver_free(f->v);
}

/* --- helpers --- */

static uint64_t put_bytes(struct vdriver *v, const void *data, size_t len) {
    uint64_t at = vdriver_alloc(v, len);

    memcpy(vmem(v, at), data, len);
    return at;
}

/* A frame of `len` bytes to an address, of type 0x88b5 (local experiments). */
static void make_frame(uint8_t *frame, size_t len, const uint8_t *to) {
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(i * 3);
    memcpy(frame, to, 6);
    memcpy(frame + 6, other_mac, 6);
    put_be16(frame + 12, 0x88b5);
}

static bool give(struct fixture *f, const uint8_t *frame, size_t len) {
    struct iovec iov[2] = {{(uint8_t *)(uintptr_t)frame, 5},
                           {(uint8_t *)(uintptr_t)frame + 5, len - 5}};
    struct net_frame n = {.iov = iov, .iov_count = 2, .len = len};

    return net_receive(&f->net->net, 0, &n);
}

/* A frame to us is received, or is not: true if it came. */
static bool passes(struct fixture *f, const uint8_t *to, int vlan) {
    struct vbuf buf = {vdriver_alloc(f->v, 2048), 2048};
    static uint8_t frame[100];
    uint32_t len;
    int id;

    make_frame(frame, sizeof(frame), to);
    if (vlan >= 0) {
        put_be16(frame + 12, 0x8100);
        put_be16(frame + 14, (uint16_t)vlan);
    }
    vq_add(f->v, RX, &buf, 0, 1);
    vq_kick(f->v, RX);
    assert_true(give(f, frame, sizeof(frame)));
    return vq_get(f->v, RX, &id, &len);
}

static uint8_t command(struct fixture *f, unsigned queue, unsigned what, const void *data,
                       size_t len) {
    const uint8_t head[2] = {(uint8_t)(what >> 8), (uint8_t)what};
    struct vbuf bufs[3] = {{put_bytes(f->v, head, 2), 2},
                           {len ? put_bytes(f->v, data, len) : 0, (uint32_t)len},
                           {vdriver_alloc(f->v, 1), 1}};

    if (!len)
        bufs[1] = bufs[2];
    *(uint8_t *)vmem(f->v, bufs[2].gpa) = 0xff;
    assert_int_equal(vq_do(f->v, queue, bufs, len ? 2 : 1, 1), 1);
    return *(uint8_t *)vmem(f->v, bufs[2].gpa);
}

/* --- configuration --- */

static void shows_what_the_back_end_has(void **state) {
    struct fixture f;

    (void)state;
    set_up(&f, VDRIVER_SPLIT, MTU | STATUS, 4);
    assert_int_equal(virtio_config_get(f.d, 0, 4), 0x013e1600);
    assert_int_equal(virtio_config_get(f.d, 4, 2), 0x0302);
    assert_int_equal(virtio_config_get(f.d, 6, 2), 1);
    assert_int_equal(virtio_config_get(f.d, 8, 2), 4);
    assert_int_equal(virtio_config_get(f.d, 10, 2), 9000);
    assert_true(virtio_offered(f.d) & HOST_TSO4);
    assert_false(virtio_offered(f.d) & VIRTIO_BIT(12)); /* HOST_TSO6 */
    tear_down(&f);
}

static void tells_the_back_end_what_the_driver_takes(void **state) {
    struct fixture f;

    (void)state;
    set_up(&f, VDRIVER_SPLIT, GUEST_CSUM | GUEST_TSO4, 1);
    assert_int_equal(f.net->front_can, NET_CAN_CSUM | NET_CAN_TSO4);
    virtio_set_status(f.d, 0, false);
    vdriver_run(f.v);
    assert_int_equal(f.net->front_can, 0);
    tear_down(&f);
}

/* --- frames --- */

static void sends(struct fixture *f, const uint8_t *header, const uint8_t *frame, size_t len) {
    /* The frame in two pieces, as Linux sends headers and data. */
    struct vbuf bufs[3] = {{put_bytes(f->v, header, 12), 12},
                           {put_bytes(f->v, frame, 14), 14},
                           {put_bytes(f->v, frame + 14, len - 14), (uint32_t)(len - 14)}};

    assert_int_equal(vq_do(f->v, TX, bufs, 3, 0), 0);
}

static void frames_go_out(void **state) {
    const uint8_t plain[12] = {0}, sum[12] = {1, 0, 0, 0, 0, 0, 34, 0, 16},
                  tso[12] = {1, 1, 54, 0, 0xa8, 5, 34, 0, 16};
    unsigned how = (unsigned)(uintptr_t)*state;
    uint8_t frame[3000];
    struct fixture f;

    set_up(&f, how, CSUM | HOST_TSO4, 1);
    make_frame(frame, sizeof(frame), other_mac);
    sends(&f, plain, frame, 60);
    sends(&f, sum, frame, 1000);
    sends(&f, tso, frame, 3000);
    assert_int_equal(f.net->sent.count, 3);
    assert_int_equal(f.net->sent.frames[0].len, 60);
    assert_int_equal(f.net->sent.frames[0].offload.flags, 0);
    assert_memory_equal(f.net->sent.frames[2].data, frame, 3000);
    assert_int_equal(f.net->sent.frames[1].offload.csum_start, 34);
    assert_int_equal(f.net->sent.frames[1].offload.csum_offset, 16);
    assert_int_equal(f.net->sent.frames[2].offload.gso_type, NET_GSO_TCPV4);
    assert_int_equal(f.net->sent.frames[2].offload.gso_size, 1448);
    /* What was not negotiated, what is no frame, and what is too long are lost. */
    sends(&f, (const uint8_t[12]){1, 4, 54, 0, 100, 0, 54, 0, 16}, frame, 3000);
    struct vbuf tiny = {put_bytes(f.v, plain, 12), 12};
    assert_int_equal(vq_do(f.v, TX, &tiny, 1, 0), 0);
    struct vbuf huge = {vdriver_alloc(f.v, NET_FRAME_MAX + 13), NET_FRAME_MAX + 13};
    assert_int_equal(vq_do(f.v, TX, &huge, 1, 0), 0);
    assert_int_equal(f.net->sent.count, 3);
    assert_false(virtio_status(f.d) & VIRTIO_NEEDS_RESET);
    tear_down(&f);
}

static void a_full_back_end_is_waited_for(void **state) {
    struct vbuf buf;
    struct fixture f;
    uint32_t len;
    int id;

    set_up(&f, (unsigned)(uintptr_t)*state, 0, 1);
    f.net->room = 2;
    for (unsigned i = 0; i < 5; i++) {
        buf = (struct vbuf){vdriver_alloc(f.v, 72), 72};
        vq_add(f.v, TX, &buf, 1, 0);
    }
    vq_kick(f.v, TX);
    vdriver_run(f.v);
    assert_int_equal(f.net->sent.count, 2);
    f.net->room = 100;
    test_net_send_again(f.net);
    vdriver_run(f.v);
    assert_int_equal(f.net->sent.count, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_true(vq_get(f.v, TX, &id, &len));
    assert_false(vq_get(f.v, TX, &id, &len));
    tear_down(&f);
}

static void frames_come_in(void **state) {
    struct fixture f;
    uint8_t frame[1000];
    uint32_t len;
    int id;

    set_up(&f, (unsigned)(uintptr_t)*state, 0, 1);
    make_frame(frame, sizeof(frame), our_mac);
    assert_false(give(&f, frame, sizeof(frame))); /* no buffer yet */
    unsigned before = f.net->receive_again;
    struct vbuf bufs[2] = {{vdriver_alloc(f.v, 12), 12}, {vdriver_alloc(f.v, 1500), 1500}};
    vq_add(f.v, RX, bufs, 0, 2);
    vq_kick(f.v, RX);
    vdriver_run(f.v);
    assert_true(f.net->receive_again > before);
    unsigned interrupts = f.v->interrupts[RX];
    assert_true(give(&f, frame, sizeof(frame)));
    assert_int_equal(f.v->interrupts[RX], interrupts + 1);
    assert_true(vq_get(f.v, RX, &id, &len));
    assert_int_equal(len, 1012);
    assert_memory_equal(vmem(f.v, bufs[1].gpa), frame, 1000);
    assert_int_equal(vget(f.v, bufs[0].gpa + 10, 2), 1);
    /* One that does not fit is lost, and the buffer stays for the next. */
    struct vbuf small = {vdriver_alloc(f.v, 100), 100};
    vq_add(f.v, RX, &small, 0, 1);
    assert_true(give(&f, frame, sizeof(frame)));
    assert_false(vq_get(f.v, RX, &id, &len));
    assert_true(give(&f, frame, 60));
    assert_true(vq_get(f.v, RX, &id, &len));
    assert_int_equal(len, 72);
    tear_down(&f);
}

static void a_frame_fills_several_buffers(void **state) {
    struct fixture f;
    struct vbuf bufs[5];
    uint8_t frame[1000];
    uint32_t len;
    int id;

    set_up(&f, (unsigned)(uintptr_t)*state, MRG_RXBUF, 1);
    make_frame(frame, sizeof(frame), our_mac);
    for (unsigned i = 0; i < 3; i++) {
        bufs[i] = (struct vbuf){vdriver_alloc(f.v, 256), 256};
        vq_add(f.v, RX, &bufs[i], 0, 1);
    }
    assert_false(give(&f, frame, sizeof(frame))); /* 768 bytes are there */
    for (unsigned i = 3; i < 5; i++) {
        bufs[i] = (struct vbuf){vdriver_alloc(f.v, 256), 256};
        vq_add(f.v, RX, &bufs[i], 0, 1);
    }
    assert_true(give(&f, frame, sizeof(frame)));
    assert_int_equal(vget(f.v, bufs[0].gpa + 10, 2), 4);
    size_t at = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned skip = i ? 0 : 12;

        assert_true(vq_get(f.v, RX, &id, &len));
        assert_int_equal(len, i < 3 ? 256 : 1012 - 768);
        assert_memory_equal((uint8_t *)vmem(f.v, bufs[i].gpa) + skip, frame + at, len - skip);
        at += len - skip;
    }
    assert_int_equal(at, 1000);
    assert_false(vq_get(f.v, RX, &id, &len));
    tear_down(&f);
}

/* --- control --- */

static void filters(void **state) {
    static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
    static const uint8_t group[6] = {0x33, 0x33, 0, 0, 0, 1};
    uint8_t tables[8 + 12] = {1}, off = 0, on = 1, vlan[2] = {5};
    struct fixture f;

    set_up(&f, (unsigned)(uintptr_t)*state, CTRL, 1);
    assert_true(passes(&f, other_mac, -1)); /* until the driver says otherwise */
    assert_int_equal(command(&f, 2, 0x000, &off, 1), 0);
    assert_false(passes(&f, other_mac, -1));
    assert_false(passes(&f, group, -1));
    assert_true(passes(&f, our_mac, -1));
    assert_true(passes(&f, broadcast, -1));
    assert_int_equal(command(&f, 2, 0x005, &on, 1), 0);
    assert_false(passes(&f, broadcast, -1));

    memcpy(tables + 4, other_mac, 6);
    tables[10] = 1;
    memcpy(tables + 14, group, 6);
    assert_int_equal(command(&f, 2, 0x100, tables, sizeof(tables)), 0);
    assert_true(passes(&f, other_mac, -1));
    assert_true(passes(&f, group, -1));
    tables[10] = 2; /* more than there are */
    assert_int_equal(command(&f, 2, 0x100, tables, sizeof(tables)), 1);
    assert_true(passes(&f, group, -1));

    assert_false(passes(&f, our_mac, 5));
    assert_int_equal(command(&f, 2, 0x200, vlan, 2), 0);
    assert_true(passes(&f, our_mac, 5));
    assert_int_equal(command(&f, 2, 0x201, vlan, 2), 0);
    assert_false(passes(&f, our_mac, 5));

    assert_int_equal(command(&f, 2, 0x101, other_mac, 6), 0);
    assert_int_equal(virtio_config_get(f.d, 3, 1), 9);
    assert_int_equal(command(&f, 2, 0x101, other_mac, 5), 1);
    assert_int_equal(command(&f, 2, 0x777, &on, 1), 1);
    assert_int_equal(command(&f, 2, 0x400, vlan, 2), 1); /* not negotiated */
    tear_down(&f);
}

static void offloads_come_and_go(void **state) {
    uint64_t offloads = GUEST_CSUM, too_many = GUEST_CSUM | VIRTIO_BIT(8);
    struct fixture f;

    set_up(&f, (unsigned)(uintptr_t)*state, CTRL | GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4, 1);
    assert_int_equal(f.net->front_can, NET_CAN_CSUM | NET_CAN_TSO4);
    assert_int_equal(command(&f, 2, 0x500, &offloads, 8), 0);
    assert_int_equal(f.net->front_can, NET_CAN_CSUM);
    assert_int_equal(command(&f, 2, 0x500, &too_many, 8), 1);
    assert_int_equal(f.net->front_can, NET_CAN_CSUM);
    tear_down(&f);
}

/* Answers come in on the pair that their flow went out on. */
static void flows_stay_on_their_pair(void **state) {
    struct test_packet *p = packet_new(0, 100, 0), *answer = packet_new(0, 100, 0);
    uint16_t pairs = 3, none = 0, many = 4;
    struct fixture f;
    uint32_t len;
    int id;

    set_up(&f, (unsigned)(uintptr_t)*state, CTRL | MQ | GUEST_CSUM, 3);
    assert_int_equal(command(&f, 6, 0x400, &none, 2), 1);
    assert_int_equal(command(&f, 6, 0x400, &many, 2), 1);
    assert_int_equal(command(&f, 6, 0x400, &pairs, 2), 0);
    for (unsigned pair = 0; pair < 3; pair++) {
        const uint8_t header[12] = {0};
        struct vbuf out[2] = {{put_bytes(f.v, header, 12), 12},
                              {put_bytes(f.v, p->data, p->frame.len), (uint32_t)p->frame.len}};
        struct vbuf in = {vdriver_alloc(f.v, 2048), 2048};

        vq_do(f.v, 2 * pair + 1, out, 2, 0);
        vq_add(f.v, 2 * pair, &in, 0, 1);
        memcpy(answer->data + answer->ip + 12, p->data + p->ip + 16, 4);
        memcpy(answer->data + answer->ip + 16, p->data + p->ip + 12, 4);
        memcpy(answer->data + answer->l4, p->data + p->l4 + 2, 2);
        memcpy(answer->data + answer->l4 + 2, p->data + p->l4, 2);
        assert_true(net_receive(&f.net->net, 0, &answer->frame));
        assert_true(vq_get(f.v, 2 * pair, &id, &len));
    }
    packet_free(p);
    packet_free(answer);
    tear_down(&f);
}

static void link_and_announcement(void **state) {
    struct fixture f;

    set_up(&f, (unsigned)(uintptr_t)*state, CTRL | ANNOUNCE, 1);
    unsigned before = f.v->config_interrupts;
    net_set_link(&f.net->net, false);
    assert_int_equal(f.v->config_interrupts, before + 1);
    assert_int_equal(virtio_config_get(f.d, 6, 2), 0);
    struct vbuf buf = {vdriver_alloc(f.v, 72), 72};
    assert_int_equal(vq_do(f.v, TX, &buf, 1, 0), 0);
    assert_int_equal(f.net->sent.count, 0);
    assert_false(passes(&f, our_mac, -1));
    net_set_link(&f.net->net, true);
    virtio_net_announce(f.d);
    assert_int_equal(virtio_config_get(f.d, 6, 2), 3);
    assert_int_equal(command(&f, 2, 0x300, NULL, 0), 0);
    assert_int_equal(virtio_config_get(f.d, 6, 2), 1);
    tear_down(&f);
}

/* --- nonsense, and moving --- */

static void nonsense_needs_a_reset(void **state) {
    unsigned how = (unsigned)(uintptr_t)*state;
    struct fixture f;
    struct vbuf bufs[2];

    for (unsigned kind = 0; kind < 3; kind++) {
        set_up(&f, how, CTRL, 1);
        bufs[0] = (struct vbuf){vdriver_alloc(f.v, 100), kind == 0 ? 11 : kind == 1 ? 100 : 1};
        bufs[1] = (struct vbuf){vdriver_alloc(f.v, 100), 100};
        vq_add(f.v, kind == 2 ? 2 : TX, bufs, 1, kind ? 1 : 0);
        vq_kick(f.v, kind == 2 ? 2 : TX);
        vdriver_run(f.v);
        assert_true(virtio_status(f.d) & VIRTIO_NEEDS_RESET);
        assert_int_equal(f.net->sent.count, 0);
        uint8_t frame[60];
        make_frame(frame, sizeof(frame), our_mac);
        assert_true(give(&f, frame, sizeof(frame))); /* lost */
        vdriver_start(f.v, f.d, CTRL, how);
        assert_true(passes(&f, our_mac, -1));
        tear_down(&f);
    }
}

static void its_state_moves(void **state) {
    struct virtio_net_config config = {.mac = {2, 2, 2, 2, 2, 2}, .pairs = 1};
    uint8_t off = 0, vlan[2] = {7};
    struct test_net *second;
    struct fixture f;

    set_up(&f, (unsigned)(uintptr_t)*state, CTRL | GUEST_CSUM, 1);
    command(&f, 2, 0x000, &off, 1);
    command(&f, 2, 0x200, vlan, 2);
    command(&f, 2, 0x101, other_mac, 6);
    second = test_net_new(f.v->loop, NET_CAN_CSUM | NET_CAN_TSO4);
    second->net.mtu = 9000;
    f.d = virtio_net_new(f.v->mem, &second->net, &config, NULL);
    vdriver_copy_state(f.v, f.d);
    net_close(&f.net->net);
    f.net = second;
    assert_int_equal(second->front_can, NET_CAN_CSUM);
    assert_true(passes(&f, other_mac, 7));
    assert_false(passes(&f, our_mac, 7));
    assert_false(passes(&f, other_mac, 8));
    assert_int_equal(virtio_config_get(f.d, 3, 1), 9);
    tear_down(&f);
}

#define BOTH(test)                                                                                 \
    cmocka_unit_test_prestate(test, (void *)VDRIVER_SPLIT),                                        \
        cmocka_unit_test_prestate(test, (void *)(VDRIVER_PACKED | VDRIVER_INDIRECT))

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_what_the_back_end_has),
        cmocka_unit_test(tells_the_back_end_what_the_driver_takes),
        BOTH(frames_go_out),
        BOTH(a_full_back_end_is_waited_for),
        BOTH(frames_come_in),
        BOTH(a_frame_fills_several_buffers),
        BOTH(filters),
        BOTH(offloads_come_and_go),
        BOTH(flows_stay_on_their_pair),
        BOTH(link_and_announcement),
        BOTH(nonsense_needs_a_reset),
        BOTH(its_state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

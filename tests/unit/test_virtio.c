/* SPDX-License-Identifier: Apache-2.0 */
/* The queue walker and what all virtio devices share, through a device that echoes. */
#include "virtio_driver.h"

#define HOLD_MAX 64

/* Copies what it reads to where it may write; holds buffers back when told to. */
struct echo {
    struct virtio_device d;
    bool hold;
    struct virtq_buf *held[HOLD_MAX];
    unsigned held_count, ready, resets;
};

struct echo_req {
    struct virtq_buf buf;
    uint64_t untouched;
};

static struct echo *echo_of(struct virtio_device *d) {
    return container_of(d, struct echo, d);
}

static uint32_t copy_over(struct virtq_buf *b) {
    uint8_t bytes[8192];
    size_t n = virtq_read(b, 0, bytes, sizeof(bytes));

    return (uint32_t)virtq_write(b, 0, bytes, n);
}

static void echo_notify(struct virtio_device *d, struct virtq *q) {
    struct echo *e = echo_of(d);
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            struct echo_req *r = container_of(b, struct echo_req, buf);

            assert_int_equal(r->untouched, 0);
            r->untouched = 1;
            if (e->hold && e->held_count < HOLD_MAX)
                e->held[e->held_count++] = b;
            else
                virtq_put(q, b, copy_over(b));
        }
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

static void echo_ready(struct virtio_device *d) {
    echo_of(d)->ready++;
}

static void echo_reset(struct virtio_device *d) {
    echo_of(d)->resets++;
}

static void echo_config_write(struct virtio_device *d, unsigned off, unsigned size,
                              uint32_t value) {
    if (off >= 4)
        virtio_config_set(d, off, size, value);
}

static void echo_destroy(struct virtio_device *d) {
    struct echo *e = echo_of(d);

    for (unsigned i = 0; i < e->held_count; i++)
        virtq_drop(&d->queues[0], e->held[i]);
    virtio_destroy(d);
    free(e);
}

static const struct virtio_ops echo_ops = {
    .name = "echo",
    .id = VIRTIO_ID_ENTROPY,
    .version = 1,
    .notify = echo_notify,
    .ready = echo_ready,
    .reset = echo_reset,
    .config_write = echo_config_write,
    .destroy = echo_destroy,
};

static struct virtio_device *echo_new(struct vdriver *v) {
    struct echo *e = xcalloc(1, sizeof(*e));

    virtio_init(&e->d, &echo_ops, v->mem, VIRTIO_BIT(3), 8);
    assert_int_equal(virtio_add_queues(&e->d, 2, 256, sizeof(struct echo_req), v->loop, NULL), 0);
    virtio_config_set(&e->d, 0, 4, 0x11223344);
    return &e->d;
}

static const unsigned WAYS[] = {
    VDRIVER_SPLIT,
    VDRIVER_SPLIT | VDRIVER_INDIRECT,
    VDRIVER_SPLIT | VDRIVER_EVENT_IDX,
    VDRIVER_SPLIT | VDRIVER_EVENT_IDX | VDRIVER_INDIRECT,
    VDRIVER_PACKED,
    VDRIVER_PACKED | VDRIVER_INDIRECT,
    VDRIVER_PACKED | VDRIVER_EVENT_IDX,
    VDRIVER_PACKED | VDRIVER_EVENT_IDX | VDRIVER_INDIRECT,
};

static struct vdriver *start(unsigned how) {
    struct vdriver *v = vdriver_new();

    vdriver_start(v, echo_new(v), VIRTIO_BIT(3), how);
    return v;
}

static void for_all_ways(void (*test)(struct vdriver *v)) {
    for (unsigned i = 0; i < ARRAY_LEN(WAYS); i++) {
        struct vdriver *v = start(WAYS[i]);

        test(v);
        vdriver_free(v);
    }
}

/* Buffers of 1 to 4 pieces each way, several times around the ring. */
static void echo_many(struct vdriver *v) {
    uint64_t heap = v->heap;

    for (unsigned round = 0; round < 300; round++) {
        unsigned out = 1 + round % 4, in = 1 + round / 4 % 4;
        struct vbuf bufs[8];
        uint32_t total = 0;

        v->heap = heap;
        for (unsigned i = 0; i < out + in; i++) {
            bufs[i].len = i < out ? 10 + (round + i) % 50 : 100;
            bufs[i].gpa = vdriver_alloc(v, bufs[i].len);
            for (unsigned k = 0; i < out && k < bufs[i].len; k++)
                vput(v, bufs[i].gpa + k, round + total++, 1);
        }
        uint32_t expected = MIN(total, in * 100);
        assert_int_equal(vq_do(v, round & 1, bufs, out, in), expected);
        for (unsigned k = 0; k < expected; k++)
            assert_int_equal(vget(v, bufs[out + k / 100].gpa + k % 100, 1), (uint8_t)(round + k));
    }
    assert_int_equal(v->interrupts[0], 150);
    assert_int_equal(v->interrupts[1], 150);
}

static void echoes(void **state) {
    (void)state;
    for_all_ways(echo_many);
}

/* Completed last to first, in one flush. */
static void reverse_order(struct vdriver *v) {
    struct echo *e = echo_of(v->d);
    struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};
    int id[20], got;
    uint32_t len;

    e->hold = true;
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 20; i++)
            id[i] = vq_add(v, 0, bufs, 1, 1);
        vq_kick(v, 0);
        vdriver_run(v);
        assert_int_equal(e->held_count, 20);
        assert_false(vq_get(v, 0, &got, &len));
        virtq_lock(&v->d->queues[0]);
        while (e->held_count) {
            e->held_count--;
            virtq_put(&v->d->queues[0], e->held[e->held_count], e->held_count);
        }
        assert_false(vq_get(v, 0, &got, &len));
        virtq_flush(&v->d->queues[0]);
        virtq_unlock(&v->d->queues[0]);
        for (unsigned i = 20; i-- > 0;) {
            assert_true(vq_get(v, 0, &got, &len));
            assert_int_equal(got, id[i]);
            assert_int_equal(len, i);
        }
    }
    assert_int_equal(v->interrupts[0], 20);
}

static void completes_in_any_order(void **state) {
    (void)state;
    for_all_ways(reverse_order);
}

static void give_back(struct vdriver *v) {
    struct virtq *q = &v->d->queues[0];
    struct vbuf bufs[3] = {
        {vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};
    int first, second, got;
    uint32_t len;

    for (unsigned round = 0; round < 100; round++) {
        first = vq_add(v, 0, bufs, 1, 1);
        second = vq_add(v, 0, bufs, 2, 1);
        virtq_lock(q);
        struct virtq_buf *a = virtq_pop(q), *b = virtq_pop(q);
        assert_non_null(a);
        assert_non_null(b);
        assert_int_equal(b->out_len, 32);
        assert_null(virtq_pop(q));
        virtq_unpop(q, b);
        virtq_unpop(q, a);
        assert_true(virtq_ready(q));
        for (int i = 0; i < 2; i++)
            virtq_put(q, virtq_pop(q), 5);
        virtq_flush(q);
        virtq_unlock(q);
        assert_true(vq_get(v, 0, &got, &len) && got == first && len == 5);
        assert_true(vq_get(v, 0, &got, &len) && got == second && len == 5);
    }
}

static void gives_back(void **state) {
    (void)state;
    for_all_ways(give_back);
}

static void suppress(struct vdriver *v) {
    struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};
    unsigned before;

    vq_do(v, 0, bufs, 1, 1);
    before = v->interrupts[0];
    vq_interrupts(v, 0, false);
    for (unsigned i = 0; i < 10; i++)
        vq_do(v, 0, bufs, 1, 1);
    assert_int_equal(v->interrupts[0], before);
    vq_interrupts(v, 0, true);
    vq_do(v, 0, bufs, 1, 1);
    assert_int_equal(v->interrupts[0], before + 1);
}

static void interrupts_are_suppressed(void **state) {
    (void)state;
    for_all_ways(suppress);
}

static void notifications_are_suppressed(void **state) {
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(WAYS); i++) {
        struct vdriver *v = start(WAYS[i]);
        struct virtq *q = &v->d->queues[0];
        struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};

        vq_do(v, 0, bufs, 1, 1);
        assert_int_equal(v->notifications, 1);
        virtq_lock(q);
        virtq_notify_off(q);
        virtq_unlock(q);
        vq_add(v, 0, bufs, 1, 1);
        v->q[0].notified = (uint16_t)(v->q[0].avail - 1);
        assert_true(
            v->how & VDRIVER_EVENT_IDX && !(v->how & VDRIVER_PACKED) ? true : !vq_wants_kick(v, 0));
        virtq_lock(q);
        assert_true(virtq_notify_on(q));
        virtq_put(q, virtq_pop(q), 0);
        assert_false(virtq_notify_on(q));
        virtq_unlock(q);
        v->q[0].notified = v->q[0].avail;
        vq_add(v, 0, bufs, 1, 1);
        assert_true(vq_wants_kick(v, 0));
        vdriver_free(v);
    }
}

static void move(struct vdriver *v) {
    struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};

    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < 50; i++)
            vq_do(v, 0, bufs, 1, 1);
        vdriver_copy_state(v, echo_new(v));
    }
    vq_do(v, 1, bufs, 1, 1);
}

static void state_moves(void **state) {
    (void)state;
    for_all_ways(move);
}

/* A buffer that is still out when the driver resets is only released when it completes. */
static void reset_in_flight(struct vdriver *v) {
    struct echo *e = echo_of(v->d);
    struct virtq *q = &v->d->queues[0];
    struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};
    uint32_t len;
    int got;

    e->hold = true;
    vq_add(v, 0, bufs, 1, 1);
    vq_add(v, 0, bufs, 1, 1);
    vq_kick(v, 0);
    vdriver_run(v);
    virtio_set_status(v->d, 0, false);
    assert_int_equal(virtio_status(v->d), 0);
    assert_int_equal(q->stale, 2);
    virtq_lock(q);
    virtq_complete(q, e->held[0], 16);
    virtq_drop(q, e->held[1]);
    virtq_unlock(q);
    e->held_count = 0;
    e->hold = false;
    assert_int_equal(q->stale, 0);
    vdriver_start(v, v->d, 0, v->how);
    assert_false(vq_get(v, 0, &got, &len));
    vq_do(v, 0, bufs, 1, 1);
}

static void resets_in_flight(void **state) {
    (void)state;
    for_all_ways(reset_in_flight);
}

static void is_broken(struct vdriver *v) {
    unsigned before = v->config_interrupts;

    virtio_notify(v->d, 0);
    vdriver_run(v);
    assert_true(virtio_status(v->d) & VIRTIO_NEEDS_RESET);
    assert_int_equal(v->config_interrupts, before + 1);
    assert_null(virtq_pop(&v->d->queues[0]));
    vdriver_start(v, v->d, 0, v->how);
    struct vbuf bufs[2] = {{vdriver_alloc(v, 16), 16}, {vdriver_alloc(v, 16), 16}};
    vq_do(v, 0, bufs, 1, 1);
    vdriver_start(v, v->d, 0, v->how);
}

/* Descriptor 0 (and 1) of queue 0 hold nonsense, and are made available. */
static void post_split(struct vdriver *v, uint16_t head) {
    struct vring *r = &v->q[0];

    vput(v, r->driver + 4 + 2u * (r->avail & (r->size - 1u)), head, 2);
    vput(v, r->driver + 2, ++r->avail, 2);
}

static void split_nonsense(void **state) {
    (void)state;
    struct vdriver *v = start(VDRIVER_SPLIT | VDRIVER_INDIRECT);
    struct vring *r = &v->q[0];
    uint64_t buf = vdriver_alloc(v, 64), table = vdriver_alloc(v, 64);

    post_split(v, 64); /* no such descriptor */
    is_broken(v);
    vput(v, r->driver + 2, 65, 2); /* more than the ring has */
    is_broken(v);
    vdesc_put(v, r->desc, buf, 16, VDESC_NEXT, 0); /* a loop */
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, buf, 16, VDESC_NEXT, 64);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, buf, 16, VDESC_NEXT | VDESC_WRITE, 1);
    vdesc_put(v, r->desc + 16, buf, 16, 0, 0); /* readable behind writable */
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, VDRIVER_RAM - 8, 16, 0, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, UINT64_MAX - 7, 16, 0, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, 0, UINT32_MAX, VDESC_WRITE, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 24, VDESC_TABLE, 0); /* not a multiple of 16 */
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 0, VDESC_TABLE, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 16, VDESC_TABLE | VDESC_NEXT, 1);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, VDRIVER_RAM, 16, VDESC_TABLE, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 16 * (VIRTQ_MAX_CHAIN + 1), VDESC_TABLE, 0);
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 32, VDESC_TABLE, 0);
    vdesc_put(v, table, table, 16, VDESC_TABLE, 0); /* a table in a table */
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 32, VDESC_TABLE, 0);
    vdesc_put(v, table, buf, 16, VDESC_NEXT, 0); /* a loop in a table */
    post_split(v, 0);
    is_broken(v);
    vdesc_put(v, r->desc, table, 32, VDESC_TABLE, 0);
    vdesc_put(v, table, buf, 16, VDESC_NEXT, 2);
    post_split(v, 0);
    is_broken(v);
    vdriver_free(v);

    v = start(VDRIVER_SPLIT);
    vdesc_put(v, v->q[0].desc, table, 32, VDESC_TABLE, 0); /* not negotiated */
    post_split(v, 0);
    is_broken(v);
    vdriver_free(v);
}

/* The same buffer again and again, without a completion in between. */
static void more_than_there_are(void **state) {
    (void)state;
    struct vdriver *v = start(VDRIVER_SPLIT);

    echo_of(v->d)->hold = true;
    vdesc_put(v, v->q[0].desc, VDRIVER_HEAP, 16, 0, 0);
    for (unsigned i = 0; i < HOLD_MAX; i++)
        post_split(v, 0);
    virtio_notify(v->d, 0);
    vdriver_run(v);
    assert_int_equal(virtio_status(v->d) & VIRTIO_NEEDS_RESET, 0);
    assert_int_equal(echo_of(v->d)->held_count, HOLD_MAX);
    post_split(v, 0);
    virtio_notify(v->d, 0);
    vdriver_run(v);
    assert_true(virtio_status(v->d) & VIRTIO_NEEDS_RESET);
    vdriver_free(v);
}

static void packed_nonsense(void **state) {
    (void)state;
    struct vdriver *v = start(VDRIVER_PACKED | VDRIVER_INDIRECT);
    struct vring *r = &v->q[0];
    uint64_t table = vdriver_alloc(v, 64);

    for (unsigned i = 0; i < r->size; i++) /* a chain all around */
        vdesc_put(v, r->desc + 16 * i, VDRIVER_HEAP, 16, 0, VDESC_NEXT | VDESC_AVAIL);
    is_broken(v);
    vdesc_put(v, r->desc, VDRIVER_RAM, 1, 0, VDESC_AVAIL);
    is_broken(v);
    vdesc_put(v, r->desc, VDRIVER_HEAP, 16, 0, VDESC_AVAIL | VDESC_NEXT);
    vdesc_put(v, r->desc + 16, table, 16, 0, VDESC_AVAIL | VDESC_TABLE);
    is_broken(v);
    vdesc_put(v, r->desc, table, 8, 0, VDESC_AVAIL | VDESC_TABLE);
    is_broken(v);
    vdesc_put(v, r->desc, table, 32, 0, VDESC_AVAIL | VDESC_TABLE);
    vdesc_put(v, table, VDRIVER_HEAP, 4, 0, VDESC_WRITE);
    vdesc_put(v, table + 16, VDRIVER_HEAP, 4, 0, 0);
    is_broken(v);
    vdriver_free(v);
}

static void bad_areas(void **state) {
    (void)state;
    static const struct {
        uint16_t size;
        uint64_t desc, driver, device;
    } bad[] = {
        {0, 0x1000, 0x2000, 0x3000},
        {48, 0x1000, 0x2000, 0x3000},
        {512, 0x1000, 0x5000, 0x6000},
        {64, 0x1008, 0x2000, 0x3000},
        {64, 0x1000, 0x2001, 0x3000},
        {64, 0x1000, 0x2000, 0x3002},
        {64, VDRIVER_RAM - 64, 0x2000, 0x3000},
        {64, 0x1000, VDRIVER_RAM, 0x3000},
        {64, 0x1000, 0x2000, UINT64_MAX - 3},
    };
    struct vdriver *v = vdriver_new();

    v->d = echo_new(v);
    virtio_attach(v->d, &vdriver_transport, v);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        virtio_set_status(v->d, 0, false);
        virtio_accept(v->d, VIRTIO_BIT(VIRTIO_F_VERSION_1));
        virtio_set_status(v->d, VIRTIO_FEATURES_OK, false);
        virtio_queue_setup(&v->d->queues[0], bad[i].size, bad[i].desc, bad[i].driver,
                           bad[i].device);
        virtio_queue_enable(&v->d->queues[0]);
        virtio_set_status(v->d, VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK, false);
        assert_true(virtio_status(v->d) & VIRTIO_NEEDS_RESET);
        assert_null(virtq_pop(&v->d->queues[0]));
        virtq_flush(&v->d->queues[0]);
        assert_false(virtq_notify_on(&v->d->queues[0]));
    }
    vdriver_free(v);
}

static void features_and_status(void **state) {
    (void)state;
    struct vdriver *v = vdriver_new();
    struct virtio_device *d = v->d = echo_new(v);

    virtio_attach(d, &vdriver_transport, v);
    virtio_accept(d, VIRTIO_BIT(3) | VIRTIO_BIT(4)); /* 4 is not offered */
    assert_int_equal(d->acked, VIRTIO_BIT(3));
    virtio_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK, false);
    assert_int_equal(virtio_status(d), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    virtio_accept(d, UINT64_MAX);
    virtio_set_status(d, VIRTIO_FEATURES_OK, false);
    assert_int_equal(virtio_status(d), VIRTIO_FEATURES_OK);
    virtio_accept(d, 0); /* too late */
    assert_true(virtio_has(d, VIRTIO_F_VERSION_1));
    virtio_set_status(d, 0xff, false);
    assert_int_equal(virtio_status(d) & (VIRTIO_NEEDS_RESET | 0x30), 0);
    assert_int_equal(echo_of(d)->ready, 1);
    virtio_set_status(d, 0, false);
    assert_int_equal(echo_of(d)->resets, 1);
    assert_int_equal(d->acked, 0);
    vdriver_free(v);
}

static void config_space(void **state) {
    (void)state;
    struct vdriver *v = start(VDRIVER_SPLIT);

    assert_int_equal(virtio_config_read(v->d, 0, 4), 0x11223344);
    assert_int_equal(virtio_config_read(v->d, 1, 2), 0x2233);
    assert_int_equal(virtio_config_read(v->d, 5, 4), UINT32_MAX);
    assert_int_equal(virtio_config_read(v->d, UINT32_MAX, 4), UINT32_MAX);
    virtio_config_write(v->d, 0, 4, 0);
    virtio_config_write(v->d, 4, 2, 0xabcd);
    virtio_config_write(v->d, 7, 2, 0xffff);
    assert_int_equal(virtio_config_read(v->d, 0, 4), 0x11223344);
    assert_int_equal(virtio_config_read(v->d, 4, 4), 0xabcd);
    unsigned generation = v->d->config_generation;
    virtio_config_changed(v->d);
    assert_int_equal(v->config_interrupts, 1);
    assert_int_equal(v->d->config_generation, generation + 1);
    vdriver_free(v);
}

static void refuses_records(void **state) {
    (void)state;
    struct vdriver *v = start(VDRIVER_SPLIT);
    struct record_writer w = {0};
    struct record_reader r;
    const uint8_t *at;

    rec_begin(&w, "virtio", 0, 1);
    virtio_save(v->d, &w);
    rec_end(&w);
    at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    size_t body = (size_t)(r.p - w.buf);
    /* id, version, features, status, legacy, queues, size, enabled flag's area, positions */
    static const unsigned off[] = {0, 2, 11, 12, 13, 14, 17, 25};
    for (unsigned i = 0; i < ARRAY_LEN(off); i++) {
        struct record_reader one = r;
        uint8_t old = w.buf[body + off[i]];

        w.buf[body + off[i]] = 0x7f;
        assert_true(virtio_check(v->d, &one, NULL) < 0);
        w.buf[body + off[i]] = old;
    }
    struct record_reader whole = r;
    assert_int_equal(virtio_check(v->d, &whole, NULL), 0);
    rec_writer_free(&w);
    vdriver_free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echoes),
        cmocka_unit_test(completes_in_any_order),
        cmocka_unit_test(gives_back),
        cmocka_unit_test(interrupts_are_suppressed),
        cmocka_unit_test(notifications_are_suppressed),
        cmocka_unit_test(state_moves),
        cmocka_unit_test(resets_in_flight),
        cmocka_unit_test(split_nonsense),
        cmocka_unit_test(more_than_there_are),
        cmocka_unit_test(packed_nonsense),
        cmocka_unit_test(bad_areas),
        cmocka_unit_test(features_and_status),
        cmocka_unit_test(config_space),
        cmocka_unit_test(refuses_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

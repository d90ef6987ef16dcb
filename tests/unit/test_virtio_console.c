/* SPDX-License-Identifier: Apache-2.0 */
/* The console: ports and their control messages, streams that are full, guests that don't read. */
#include "virtio_driver.h"

#include "ui/chardev.h"
#include "virtio/console.h"

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, PORTS = 2 };
enum { MULTIPORT = 1 << 1 };
enum { DEVICE_READY, PORT_ADD, PORT_READY = 3, CONSOLE_PORT, PORT_OPEN = 6, PORT_NAME };

struct stream {
    struct chardev chr; /* first */
    char out[256];
    size_t len, room;
    unsigned readable;
};

struct fixture {
    struct vdriver *v;
    struct stream s[PORTS];
    uint64_t buf, control;
};

static int stream_write(void *chr, const uint8_t *buf, size_t len) {
    struct stream *s = chr;
    size_t n = MIN(len, s->room - s->len);

    memcpy(s->out + s->len, buf, n);
    s->len += n;
    return (int)n;
}

static void stream_readable(void *chr) {
    ((struct stream *)chr)->readable++;
}

static const struct chardev_ops stream_ops = {stream_write, stream_readable};

static struct virtio_device *new_device(struct fixture *f) {
    const struct virtio_console_port ports[PORTS] = {{&f->s[0].chr, NULL},
                                                     {&f->s[1].chr, "org.test"}};

    for (unsigned i = 0; i < PORTS; i++) {
        f->s[i].chr.ops = &stream_ops;
        f->s[i].room = sizeof(f->s[i].out);
    }
    return virtio_console_new(f->v->mem, ports, PORTS, f->v->loop, NULL);
}

static struct fixture *start(unsigned how, uint64_t features) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->v = vdriver_new();
    vdriver_start(f->v, new_device(f), features, how);
    f->buf = vdriver_alloc(f->v, 4096);
    f->control = vdriver_alloc(f->v, 4096);
    return f;
}

static void finish(struct fixture *f) {
    vdriver_free(f->v);
    free(f);
}

static const unsigned hows[] = {VDRIVER_SPLIT, VDRIVER_PACKED,
                                VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};
#define EACH_RING(f, features)                                                                     \
    for (size_t how = 0; how < ARRAY_LEN(hows); how++)                                             \
        for (struct fixture *f = start(hows[how], features); f; finish(f), f = NULL)

static void say(struct fixture *f, uint32_t id, uint16_t event, uint16_t value) {
    const struct vbuf b = {f->control, 8};

    vput(f->v, f->control, id, 4);
    vput(f->v, f->control + 4, event, 2);
    vput(f->v, f->control + 6, value, 2);
    vq_do(f->v, CONTROL_TX, &b, 1, 0);
}

/* The next message for the driver: its length, 0 when there is none. */
static uint32_t hear(struct fixture *f) {
    const struct vbuf b = {f->control + 64, 64};
    uint32_t len;
    int id;

    if (f->v->q[CONTROL_RX].free_count == f->v->q[CONTROL_RX].size) {
        vq_add(f->v, CONTROL_RX, &b, 0, 1);
        vq_kick(f->v, CONTROL_RX);
    }
    vdriver_run(f->v);
    return vq_get(f->v, CONTROL_RX, &id, &len) ? len : 0;
}

static void expect(struct fixture *f, uint32_t id, uint16_t event, uint16_t value) {
    assert_true(hear(f) >= 8);
    assert_int_equal(vget(f->v, f->control + 64, 4), id);
    assert_int_equal(vget(f->v, f->control + 68, 2), event);
    assert_int_equal(vget(f->v, f->control + 70, 2), value);
}

static void write_port(struct fixture *f, unsigned queue, const char *text) {
    const struct vbuf b[2] = {{f->buf, 2}, {f->buf + 2, (uint32_t)strlen(text) - 2}};

    memcpy(vmem(f->v, f->buf), text, strlen(text));
    vq_add(f->v, queue, b, 2, 0);
    vq_kick(f->v, queue);
    vdriver_run(f->v);
}

static void expect_out(struct stream *s, const char *text) {
    assert_int_equal(s->len, strlen(text));
    assert_memory_equal(s->out, text, s->len);
    s->len = 0;
}

static size_t can_receive(struct stream *s) {
    return s->chr.front->can_receive(s->chr.front_arg);
}

static void type(struct stream *s, const char *text) {
    s->chr.front->receive(s->chr.front_arg, (const uint8_t *)text, strlen(text));
}

static void post(struct fixture *f, unsigned queue, uint32_t len) {
    const struct vbuf b = {f->buf + 1024, len};

    vq_add(f->v, queue, &b, 0, 1);
    vq_kick(f->v, queue);
    vdriver_run(f->v);
}

static void test_one_port(void **state) {
    (void)state;
    EACH_RING(f, 0) {
        struct stream *s = &f->s[0];
        uint32_t len;
        int id;

        write_port(f, TX0, "hello");
        expect_out(s, "hello");
        assert_true(vq_get(f->v, TX0, &id, &len));
        assert_int_equal(can_receive(s), 0);
        assert_int_equal(s->readable, 0);
        post(f, RX0, 3);
        assert_int_equal(s->readable, 1);
        assert_int_equal(can_receive(s), 3);
        type(s, "abc");
        assert_true(vq_get(f->v, RX0, &id, &len));
        assert_int_equal(len, 3);
        assert_memory_equal(vmem(f->v, f->buf + 1024), "abc", 3);
        /* More than was asked for has nowhere to go. */
        type(s, "def");
        assert_false(vq_get(f->v, RX0, &id, &len));
        /* Buffers for nothing are given back. */
        post(f, RX0, 0);
        assert_int_equal(can_receive(s), 0);
        assert_true(vq_get(f->v, RX0, &id, &len));
    }
}

static void test_a_full_stream(void **state) {
    (void)state;
    EACH_RING(f, 0) {
        struct stream *s = &f->s[0];
        uint32_t len;
        int id;

        s->room = 3;
        write_port(f, TX0, "hello");
        assert_false(vq_get(f->v, TX0, &id, &len));
        expect_out(s, "hel");
        s->chr.front->writable(s->chr.front_arg);
        vdriver_run(f->v);
        expect_out(s, "lo");
        assert_true(vq_get(f->v, TX0, &id, &len));
        assert_int_equal(len, 0);
        /* A reset drops the rest. */
        write_port(f, TX0, "hello");
        vdriver_start(f->v, f->v->d, 0, f->v->how);
        s->len = 0;
        write_port(f, TX0, "x1");
        expect_out(s, "x1");
    }
}

static void announce(struct fixture *f) {
    say(f, 0, DEVICE_READY, 1);
    expect(f, 0, PORT_ADD, 1);
    expect(f, 1, PORT_ADD, 1);
    assert_int_equal(hear(f), 0);
    say(f, 0, PORT_READY, 1);
    expect(f, 0, CONSOLE_PORT, 1);
    expect(f, 0, PORT_OPEN, 1);
    say(f, 1, PORT_READY, 1);
    expect(f, 1, PORT_OPEN, 1);
    assert_int_equal(hear(f), 16);
    assert_int_equal(vget(f->v, f->control + 68, 2), PORT_NAME);
    assert_memory_equal(vmem(f->v, f->control + 72), "org.test", 8);
    assert_int_equal(hear(f), 0);
}

static void test_named_ports(void **state) {
    (void)state;
    EACH_RING(f, MULTIPORT) {
        struct stream *s = &f->s[1];
        uint32_t len;
        int id;

        assert_int_equal(virtio_config_get(f->v->d, 4, 4), PORTS);
        announce(f);
        write_port(f, TX1, "to port 1");
        expect_out(s, "to port 1");
        assert_int_equal(f->s[0].len, 0);
        /* Nobody has it open. */
        post(f, RX1, 10);
        assert_int_equal(can_receive(s), 0);
        say(f, 1, PORT_OPEN, 1);
        vdriver_run(f->v);
        assert_int_equal(s->readable, 1);
        assert_int_equal(can_receive(s), 10);
        type(s, "in");
        assert_true(vq_get(f->v, RX1, &id, &len));
        assert_int_equal(len, 2);
        say(f, 1, PORT_OPEN, 0);
        post(f, RX1, 10);
        assert_int_equal(can_receive(s), 0);
        /* The host's side comes and goes. */
        s->chr.front->opened(s->chr.front_arg, false);
        expect(f, 1, PORT_OPEN, 0);
        s->chr.front->opened(s->chr.front_arg, true);
        expect(f, 1, PORT_OPEN, 1);
    }
}

static void test_messages_that_mean_nothing(void **state) {
    (void)state;
    EACH_RING(f, MULTIPORT) {
        const struct vbuf small = {f->control, 7};

        for (uint16_t event = 0; event < 20; event++) {
            say(f, 2, event, event ? 1 : 0);
            say(f, UINT32_MAX, event, event ? 1 : 0);
        }
        say(f, 0, 99, 1);
        vq_do(f->v, CONTROL_TX, &small, 1, 0);
        assert_int_equal(hear(f), 0);
        /* Over and over, with room for one answer: the others become one. */
        for (unsigned i = 0; i < 50; i++)
            say(f, 0, DEVICE_READY, 1);
        expect(f, 0, PORT_ADD, 1);
        expect(f, 0, PORT_ADD, 1);
        expect(f, 1, PORT_ADD, 1);
        assert_int_equal(hear(f), 0);
        assert_false(virtio_status(f->v->d) & VIRTIO_NEEDS_RESET);
    }
}

static void test_emergency(void **state) {
    struct fixture *f = start(VDRIVER_SPLIT, 1 << 2);

    (void)state;
    virtio_config_write(f->v->d, 8, 4, '!');
    virtio_config_write(f->v->d, 0, 4, '?');
    virtio_config_write(f->v->d, 4, 4, 12345);
    expect_out(&f->s[0], "!");
    assert_int_equal(virtio_config_get(f->v->d, 4, 4), PORTS);
    finish(f);
}

static void test_reset(void **state) {
    (void)state;
    EACH_RING(f, MULTIPORT) {
        announce(f);
        say(f, 1, PORT_OPEN, 1);
        post(f, RX1, 10);
        assert_int_equal(can_receive(&f->s[1]), 10);
        virtio_set_status(f->v->d, 0, false);
        assert_int_equal(can_receive(&f->s[1]), 0);
        type(&f->s[1], "lost");
        vdriver_start(f->v, f->v->d, MULTIPORT, f->v->how);
        post(f, RX1, 10);
        assert_int_equal(can_receive(&f->s[1]), 0);
        announce(f);
    }
}

static void test_save_and_load(void **state) {
    (void)state;
    EACH_RING(f, MULTIPORT) {
        uint32_t len;
        int id;

        announce(f);
        say(f, 1, PORT_OPEN, 1);
        say(f, 0, PORT_READY, 1);
        f->s[1].room = 2;
        write_port(f, TX1, "hello");
        vdriver_copy_state(f->v, new_device(f));
        f->s[1].chr.front->writable(f->s[1].chr.front_arg);
        vdriver_run(f->v);
        assert_true(vq_get(f->v, TX1, &id, &len));
        expect_out(&f->s[1], "hello");
        expect(f, 0, CONSOLE_PORT, 1);
        expect(f, 0, PORT_OPEN, 1);
        post(f, RX1, 10);
        assert_int_equal(can_receive(&f->s[1]), 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_port),      cmocka_unit_test(test_a_full_stream),
        cmocka_unit_test(test_named_ports),   cmocka_unit_test(test_messages_that_mean_nothing),
        cmocka_unit_test(test_emergency),     cmocka_unit_test(test_reset),
        cmocka_unit_test(test_save_and_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets between guest and host: connections both ways, credit in both directions, ends of all
 * kinds, and packets that a guest should not send.
 */
#include "virtio_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/vsock.h"

enum { RX, TX, EVENT };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { RCV = 1, SEND = 2, BOTH = 3 };
enum { CID = 3, HEADER = 44, RX_BUFS = 16, RX_SIZE = 4096 };

struct packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct fixture {
    struct vdriver *v;
    char dir[32], path[48];
    uint64_t tx, rx[RX_BUFS], event;
    uint64_t rx_of_id[64];
    uint32_t alloc, fwd; /* the guest's credit in its packets */
    struct packet got;
    uint8_t data[RX_SIZE];
};

static void post_rx(struct fixture *f, uint64_t gpa) {
    const struct vbuf b[2] = {{gpa, HEADER}, {gpa + HEADER, RX_SIZE - HEADER}};
    int id = vq_add(f->v, RX, b, 0, 2);

    f->rx_of_id[id] = gpa;
    vq_kick(f->v, RX);
}

static struct fixture *start(unsigned how, bool with_rx) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct virtio_device *d;

    strcpy(f->dir, "/tmp/rf-vsock-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
    f->v = vdriver_new();
    d = virtio_vsock_new(f->v->mem, CID, f->path, f->v->loop, NULL);
    assert_non_null(d);
    assert_int_equal(virtio_config_get(d, 0, 8), CID);
    vdriver_start(f->v, d, 1, how);
    f->alloc = 262144;
    f->tx = vdriver_alloc(f->v, 70000);
    f->event = vdriver_alloc(f->v, 16);
    for (unsigned i = 0; i < RX_BUFS; i++) {
        f->rx[i] = vdriver_alloc(f->v, RX_SIZE);
        if (with_rx)
            post_rx(f, f->rx[i]);
    }
    vdriver_run(f->v);
    return f;
}

static void finish(struct fixture *f) {
    char path[64];

    vdriver_free(f->v);
    assert_int_equal(access(f->path, F_OK), -1);
    snprintf(path, sizeof(path), "%s_7", f->path);
    unlink(path);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
}

/* A whole packet as it is, with data behind it. */
static void send_raw(struct fixture *f, const struct packet *p, const void *data, uint32_t len) {
    const struct vbuf b = {f->tx, HEADER + len};

    memcpy(vmem(f->v, f->tx), p, HEADER);
    if (len)
        memcpy(vmem(f->v, f->tx + HEADER), data, len);
    vq_do(f->v, TX, &b, 1, 0);
}

static struct packet packet(const struct fixture *f, uint32_t from, uint32_t to, uint16_t op) {
    return (struct packet){CID, 2, from, to, 0, 1, op, 0, f->alloc, f->fwd};
}

static void say(struct fixture *f, uint32_t from, uint32_t to, uint16_t op, uint32_t flags) {
    struct packet p = packet(f, from, to, op);

    p.flags = flags;
    send_raw(f, &p, NULL, 0);
}

static void say_data(struct fixture *f, uint32_t from, uint32_t to, const void *data,
                     uint32_t len) {
    struct packet p = packet(f, from, to, RW);

    p.len = len;
    send_raw(f, &p, data, len);
}

/* The next packet for the guest, if there is one; its buffer is posted again. */
static bool hear(struct fixture *f) {
    uint32_t len;
    int id;

    vdriver_run(f->v);
    if (!vq_get(f->v, RX, &id, &len))
        return false;
    uint64_t gpa = f->rx_of_id[id];
    assert_in_range(len, HEADER, RX_SIZE);
    memcpy(&f->got, vmem(f->v, gpa), HEADER);
    memcpy(f->data, vmem(f->v, gpa + HEADER), RX_SIZE - HEADER);
    assert_int_equal(f->got.src_cid, 2);
    assert_int_equal(f->got.dst_cid, CID);
    assert_int_equal(f->got.len, len - HEADER);
    post_rx(f, gpa);
    return true;
}

static void expect(struct fixture *f, uint16_t op, uint32_t host_port, uint32_t guest_port) {
    assert_true(hear(f));
    assert_int_equal(f->got.op, op);
    assert_int_equal(f->got.src_port, host_port);
    assert_int_equal(f->got.dst_port, guest_port);
}

/* The host's side */

static int unix_socket(const char *path, bool listening) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    if (listening) {
        assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
        assert_int_equal(listen(fd, 4), 0);
    } else {
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    }
    return fd;
}

/* What there is to read at once; -1 when nothing, 0 at the end. */
static int take(struct fixture *f, int fd, void *buf, size_t len) {
    vdriver_run(f->v);
    return (int)recv(fd, buf, len, MSG_DONTWAIT);
}

static void expect_line(struct fixture *f, int fd, const char *line) {
    char buf[64] = "";

    assert_int_equal(take(f, fd, buf, sizeof(buf) - 1), strlen(line));
    assert_string_equal(buf, line);
}

static void expect_eof(struct fixture *f, int fd) {
    char c;

    assert_int_equal(take(f, fd, &c, 1), 0);
}

/* A connection that the guest makes to port 7; the host's end of it. */
static int guest_connects(struct fixture *f, uint32_t from) {
    char path[64];
    int listener, fd;

    snprintf(path, sizeof(path), "%s_7", f->path);
    unlink(path);
    listener = unix_socket(path, true);
    say(f, from, 7, REQUEST, 0);
    expect(f, RESPONSE, 7, from);
    assert_int_equal(f->got.buf_alloc, 65536);
    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    close(listener);
    return fd;
}

/* One that the host makes to the guest's port 1234; *port is the host's. */
static int host_connects(struct fixture *f, uint32_t *port) {
    int fd = unix_socket(f->path, false);
    char line[32];

    assert_int_equal(write(fd, "CONNECT 1234\n", 13), 13);
    assert_true(hear(f));
    assert_int_equal(f->got.op, REQUEST);
    assert_int_equal(f->got.dst_port, 1234);
    *port = f->got.src_port;
    say(f, 1234, *port, RESPONSE, 0);
    snprintf(line, sizeof(line), "OK %u\n", *port);
    expect_line(f, fd, line);
    return fd;
}

static const unsigned hows[] = {VDRIVER_SPLIT, VDRIVER_PACKED,
                                VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};
#define EACH_RING(f)                                                                               \
    for (size_t how = 0; how < ARRAY_LEN(hows); how++)                                             \
        for (struct fixture *f = start(hows[how], true); f; finish(f), f = NULL)

static void test_from_the_guest(void **state) {
    (void)state;
    EACH_RING(f) {
        int fd = guest_connects(f, 100);

        say_data(f, 100, 7, "hello", 5);
        expect_line(f, fd, "hello");
        assert_int_equal(write(fd, "world!", 6), 6);
        expect(f, RW, 7, 100);
        assert_int_equal(f->got.len, 6);
        assert_memory_equal(f->data, "world!", 6);
        assert_int_equal(f->got.fwd_cnt, 5);
        say(f, 100, 7, SHUTDOWN, BOTH);
        expect(f, RST, 7, 100);
        expect_eof(f, fd);
        close(fd);
        assert_false(hear(f));
    }
}

static void test_nobody_listens(void **state) {
    (void)state;
    EACH_RING(f) {
        say(f, 100, 7, REQUEST, 0);
        expect(f, RST, 7, 100);
        say(f, 100, 4000000000u, REQUEST, 0);
        expect(f, RST, 4000000000u, 100);
    }
}

static void test_from_the_host(void **state) {
    (void)state;
    EACH_RING(f) {
        uint32_t one, two;
        int a = host_connects(f, &one), b = host_connects(f, &two);

        assert_int_not_equal(one, two);
        assert_int_equal(write(a, "for one", 7), 7);
        expect(f, RW, one, 1234);
        say_data(f, 1234, two, "for two", 7);
        expect_line(f, b, "for two");
        /* It refuses the third. */
        int c = unix_socket(f->path, false);
        assert_int_equal(write(c, "CONNECT 99\nearly", 16), 16);
        assert_true(hear(f));
        say(f, 99, f->got.src_port, RST, 0);
        char byte;
        assert_true(take(f, c, &byte, 1) <= 0 && errno != EAGAIN);
        /* The fourth goes before it answers. */
        int d = unix_socket(f->path, false);
        assert_int_equal(write(d, "CONNECT 99\n", 11), 11);
        assert_true(hear(f));
        uint32_t port = f->got.src_port;
        close(d);
        expect(f, RST, port, 99);
        say(f, 99, port, RESPONSE, 0);
        expect(f, RST, port, 99);
        close(a);
        close(b);
        close(c);
    }
}

/* What comes right behind the line is the guest's. */
static void test_early_data(void **state) {
    (void)state;
    EACH_RING(f) {
        int fd = unix_socket(f->path, false);

        assert_int_equal(write(fd, "CONN", 4), 4);
        assert_false(hear(f));
        assert_int_equal(write(fd, "ECT 5\nhello\n", 12), 12);
        assert_true(hear(f));
        uint32_t port = f->got.src_port;
        assert_false(hear(f));
        say(f, 5, port, RESPONSE, 0);
        expect(f, RW, port, 5);
        assert_int_equal(f->got.len, 6);
        assert_memory_equal(f->data, "hello\n", 6);
        close(fd);
    }
}

static void test_lines_that_are_none(void **state) {
    static const char *const lines[] = {"CONNECT\n",
                                        "CONNECT \n",
                                        "CONNECT -1\n",
                                        "connect 5\n",
                                        "CONNECT 4294967295\n",
                                        "CONNECT 5 \n",
                                        "\n",
                                        "CONNECT 00000000000000000000005\n",
                                        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    struct fixture *f = start(VDRIVER_SPLIT, true);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        int fd = unix_socket(f->path, false);
        char byte;

        assert_int_equal(write(fd, lines[i], strlen(lines[i])), strlen(lines[i]));
        assert_true(take(f, fd, &byte, 1) <= 0 && errno != EAGAIN);
        close(fd);
        assert_false(hear(f));
    }
    finish(f);
}

/* The guest gets no more than it has said it can hold. */
static void test_the_guests_credit(void **state) {
    (void)state;
    EACH_RING(f) {
        static uint8_t much[20000];
        uint32_t got = 0;

        f->alloc = 1000;
        int fd = guest_connects(f, 100);
        assert_int_equal(write(fd, much, sizeof(much)), sizeof(much));
        while (hear(f) && f->got.op == RW)
            got += f->got.len;
        assert_int_equal(got, 1000);
        assert_int_equal(f->got.op, CREDIT_REQUEST);
        assert_false(hear(f));
        f->fwd = 400;
        say(f, 100, 7, CREDIT_UPDATE, 0);
        expect(f, RW, 7, 100);
        assert_int_equal(f->got.len, 400);
        /* Credit that makes no sense is none. */
        f->fwd = 3000000000u;
        say(f, 100, 7, CREDIT_UPDATE, 0);
        while (hear(f))
            assert_int_not_equal(f->got.op, RW);
        f->fwd = 1400;
        f->alloc = 100000;
        say(f, 100, 7, CREDIT_UPDATE, 0);
        got = 0;
        while (hear(f))
            got += f->got.op == RW ? f->got.len : 0;
        assert_int_equal(got, sizeof(much) - 1400);
        close(fd);
        f->fwd = 0;
        f->alloc = 262144;
    }
}

/* A host's program that doesn't read: 64 KiB are held for it beyond what its socket takes, no more.
 */
static void test_the_hosts_credit(void **state) {
    (void)state;
    EACH_RING(f) {
        static uint8_t much[8192];
        uint32_t sent = 0, told = 0, read = 0;
        int fd = guest_connects(f, 100), n;

        for (bool open = true; open;) {
            open = sent - told + sizeof(much) <= 65536;
            if (open) {
                for (size_t i = 0; i < sizeof(much); i++)
                    much[i] = (uint8_t)((sent + i) % 251);
                say_data(f, 100, 7, much, sizeof(much));
                sent += sizeof(much);
            }
            while (hear(f)) {
                assert_int_equal(f->got.op, CREDIT_UPDATE);
                told = f->got.fwd_cnt;
                open = true;
            }
        }
        assert_true(sent > 65536);
        while ((n = take(f, fd, much, sizeof(much))) > 0)
            for (int i = 0; i < n; i++)
                assert_int_equal(much[i], read++ % 251);
        assert_int_equal(read, sent);
        say(f, 100, 7, CREDIT_REQUEST, 0);
        do
            assert_true(hear(f));
        while (f->got.fwd_cnt != sent);
        /* Now without asking for credit. */
        bool reset = false;
        for (unsigned i = 0; i < 200 && !reset; i++) {
            say_data(f, 100, 7, much, sizeof(much));
            while (hear(f))
                reset |= f->got.op == RST;
        }
        assert_true(reset);
        close(fd);
    }
}

static void test_ends(void **state) {
    (void)state;
    EACH_RING(f) {
        int fd = guest_connects(f, 100);

        /* The host has said all; the guest has not. */
        assert_int_equal(write(fd, "last", 4), 4);
        shutdown(fd, SHUT_WR);
        expect(f, RW, 7, 100);
        expect(f, SHUTDOWN, 7, 100);
        assert_int_equal(f->got.flags, SEND);
        say_data(f, 100, 7, "more", 4);
        expect_line(f, fd, "more");
        say(f, 100, 7, SHUTDOWN, SEND);
        expect_eof(f, fd);
        expect(f, RST, 7, 100);
        close(fd);

        /* The host goes at once: what it sent before still arrives. */
        fd = guest_connects(f, 101);
        assert_int_equal(write(fd, "bye", 3), 3);
        close(fd);
        say_data(f, 101, 7, "too late", 8);
        expect(f, RW, 7, 101);
        assert_int_equal(f->got.len, 3);
        expect(f, SHUTDOWN, 7, 101);
        assert_int_equal(f->got.flags, BOTH);
        say(f, 101, 7, RST, 0);
        say_data(f, 101, 7, "x", 1);
        expect(f, RST, 7, 101);

        /* The guest goes at once. */
        fd = guest_connects(f, 102);
        say(f, 102, 7, RST, 0);
        expect_eof(f, fd);
        close(fd);
        assert_false(hear(f));
    }
}

static void test_packets_that_make_no_sense(void **state) {
    (void)state;
    EACH_RING(f) {
        int fd = guest_connects(f, 100);
        struct packet p = packet(f, 100, 7, RW);

        p.src_cid = 4;
        send_raw(f, &p, NULL, 0);
        p.src_cid = CID;
        p.dst_cid = 3;
        send_raw(f, &p, NULL, 0);
        assert_false(hear(f));
        /* Another type of socket. */
        p.dst_cid = 2;
        p.type = 2;
        send_raw(f, &p, NULL, 0);
        expect(f, RST, 7, 100);
        assert_int_equal(f->got.type, 2);
        say(f, 100, 7, 99, 0);
        expect(f, RST, 7, 100);
        expect_eof(f, fd);
        close(fd);
        /* A second request for a connection that is there, and a response that nobody waits for. */
        fd = guest_connects(f, 100);
        say(f, 100, 7, REQUEST, 0);
        expect(f, RST, 7, 100);
        close(fd);
        fd = guest_connects(f, 100);
        say(f, 100, 7, RESPONSE, 0);
        expect(f, RST, 7, 100);
        close(fd);
        /* It says it is longer than it is. */
        p = packet(f, 100, 7, RW);
        p.len = 1;
        send_raw(f, &p, NULL, 0);
        assert_true(virtio_status(f->v->d) & VIRTIO_NEEDS_RESET);
    }
}

/* More to answer than there are buffers for: it waits, and no answer is lost. */
static void test_no_buffers(void **state) {
    (void)state;
    for (size_t how = 0; how < ARRAY_LEN(hows); how++) {
        struct fixture *f = start(hows[how], false);
        const struct vbuf b = {f->tx, HEADER};
        unsigned done = 0, heard = 0;
        uint32_t len;
        int id;

        struct packet p = packet(f, 100, 7, RW);
        memcpy(vmem(f->v, f->tx), &p, HEADER);
        for (unsigned i = 0; i < 120; i++) {
            if (i == 60)
                while (vdriver_run(f->v), vq_get(f->v, TX, &id, &len))
                    done++;
            vq_add(f->v, TX, &b, 1, 0);
            vq_kick(f->v, TX);
        }
        while (vdriver_run(f->v), vq_get(f->v, TX, &id, &len))
            done++;
        assert_int_equal(done, 64);
        for (unsigned i = 0; i < RX_BUFS; i++)
            post_rx(f, f->rx[i]);
        while (hear(f)) {
            assert_int_equal(f->got.op, RST);
            heard++;
            while (vq_get(f->v, TX, &id, &len))
                done++;
        }
        assert_int_equal(heard, 120);
        assert_int_equal(done, 120);
        finish(f);
    }
}

static void test_connections_are_bounded(void **state) {
    struct fixture *f = start(VDRIVER_SPLIT, true);
    struct rlimit before, many;
    static int fds[1100];
    char path[64];
    unsigned n = 0;
    int listener;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    many = before;
    many.rlim_cur = before.rlim_max;
    if (many.rlim_cur < 3000)
        skip();
    setrlimit(RLIMIT_NOFILE, &many);
    snprintf(path, sizeof(path), "%s_7", f->path);
    listener = unix_socket(path, true);
    for (uint32_t i = 0; i < ARRAY_LEN(fds); i++) {
        say(f, i, 7, REQUEST, 0);
        assert_true(hear(f));
        int fd = accept(listener, NULL, NULL);
        assert_int_equal(f->got.op, fd < 0 ? RST : RESPONSE);
        if (fd >= 0)
            fds[n++] = fd;
    }
    assert_int_equal(n, 1024);
    /* The host's wait until there is room. */
    int fd = unix_socket(f->path, false);
    assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
    assert_false(hear(f));
    say(f, 0, 7, RST, 0);
    assert_true(hear(f));
    assert_int_equal(f->got.op, REQUEST);
    while (n)
        close(fds[--n]);
    close(fd);
    close(listener);
    finish(f);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_reset_ends_all(void **state) {
    (void)state;
    EACH_RING(f) {
        int fd = guest_connects(f, 100);
        int idle = unix_socket(f->path, false);

        vdriver_run(f->v);
        virtio_set_status(f->v->d, 0, false);
        expect_eof(f, fd);
        expect_eof(f, idle);
        close(fd);
        close(idle);
        /* Nobody is there who could accept. */
        fd = unix_socket(f->path, false);
        assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
        expect_eof(f, fd);
        close(fd);
        vdriver_start(f->v, f->v->d, 1, f->v->how);
        for (unsigned i = 0; i < RX_BUFS; i++)
            post_rx(f, f->rx[i]);
        close(guest_connects(f, 100));
    }
}

/* The guest is told that its connections are gone. */
static void test_save_and_load(void **state) {
    (void)state;
    EACH_RING(f) {
        const struct vbuf b = {f->event, 8};
        int fd = guest_connects(f, 100), id;
        struct virtio_device *other;
        char name[64];
        uint32_t len;

        vq_add(f->v, EVENT, &b, 0, 1);
        vq_kick(f->v, EVENT);
        vdriver_run(f->v);
        assert_false(vq_get(f->v, EVENT, &id, &len));
        snprintf(name, sizeof(name), "%s2", f->path);
        other = virtio_vsock_new(f->v->mem, CID, name, f->v->loop, NULL);
        assert_non_null(other);
        vput(f->v, f->event, 0xff, 1);
        vdriver_copy_state(f->v, other);
        expect_eof(f, fd);
        assert_true(vq_get(f->v, EVENT, &id, &len));
        assert_int_equal(len, 4);
        assert_int_equal(vget(f->v, f->event, 4), 0);
        say_data(f, 100, 7, "x", 1);
        expect(f, RST, 7, 100);
        close(fd);
        snprintf(name, sizeof(name), "%s_7", f->path);
        assert_int_equal(unlink(name), 0);
        size_t used = strlen(f->path);
        snprintf(f->path + used, sizeof(f->path) - used, "2");
    }
}

static void test_names_that_are_taken(void **state) {
    struct fixture *f = start(VDRIVER_SPLIT, true);
    cleanup_err struct err e = ERR_INIT;
    char name[200];
    int fd;

    (void)state;
    assert_null(virtio_vsock_new(f->v->mem, CID, f->path, f->v->loop, &e));
    assert_non_null(strstr(err_msg(&e), "Address already in use"));
    err_clear(&e);
    /* A failed one leaves the name to its owner; one that nobody listens on any more is replaced.
     */
    assert_int_equal(access(f->path, F_OK), 0);
    snprintf(name, sizeof(name), "%s_7", f->path);
    fd = unix_socket(name, true);
    close(fd);
    struct virtio_device *d = virtio_vsock_new(f->v->mem, CID, name, f->v->loop, &e);
    assert_non_null(d);
    d->ops->destroy(d);
    memset(name, 'x', sizeof(name));
    name[0] = '/';
    name[105] = 0;
    assert_null(virtio_vsock_new(f->v->mem, CID, name, f->v->loop, &e));
    assert_non_null(strstr(err_msg(&e), "at most 96 bytes"));
    finish(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_from_the_guest),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_from_the_host),
        cmocka_unit_test(test_early_data),
        cmocka_unit_test(test_lines_that_are_none),
        cmocka_unit_test(test_the_guests_credit),
        cmocka_unit_test(test_the_hosts_credit),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_packets_that_make_no_sense),
        cmocka_unit_test(test_no_buffers),
        cmocka_unit_test(test_connections_are_bounded),
        cmocka_unit_test(test_reset_ends_all),
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_names_that_are_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

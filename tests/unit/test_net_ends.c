/* SPDX-License-Identifier: Apache-2.0 */
/* Back ends and filters without a machine: switches, sockets, captures, limits, bridges' rules. */
#include "net_test.h"

#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "net/bridge.h"
#include "net/socket.h"
#include "net/switch.h"

#define MEMBERS 3

static const uint8_t macs[MEMBERS][6] = {
    {2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 3}};
static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};

static bool send_frame(struct net *n, const uint8_t *to, const uint8_t *from, size_t len) {
    static uint8_t data[2000];
    struct iovec iov = {data, len};
    struct net_frame f = {.iov = &iov, .iov_count = 1, .len = len};

    memcpy(data, to, 6);
    memcpy(data + 6, from, 6);
    put_be16(data + 12, 0x88b5);
    return net_send(n, 0, &f);
}

/* --- switch --- */

struct lan {
    char folder[64];
    struct loop *loop;
    struct net *ports[MEMBERS];
    struct test_front fronts[MEMBERS];
};

static void join(struct lan *l, unsigned i) {
    const struct switch_options o = {.name = "lan", .folder = l->folder};
    cleanup_err struct err e = ERR_INIT;

    l->ports[i] = net_switch_open(&o, l->loop, &e);
    assert_non_null(l->ports[i]);
    test_front_attach(&l->fronts[i], l->ports[i]);
    test_run(l->loop);
}

static void leave(struct lan *l, unsigned i) {
    net_close(l->ports[i]);
    l->ports[i] = NULL;
    test_run(l->loop);
}

static void lan_open(struct lan *l) {
    memset(l, 0, sizeof(*l));
    strcpy(l->folder, "/tmp/rf-test-switch-XXXXXX");
    assert_non_null(mkdtemp(l->folder));
    l->loop = loop_new(NULL);
    for (unsigned i = 0; i < MEMBERS; i++)
        join(l, i);
}

static void lan_close(struct lan *l) {
    static const char *const left[] = {"switch/lan/lock", "switch/lan", "switch", "."};

    for (unsigned i = 0; i < MEMBERS; i++) {
        if (l->ports[i])
            leave(l, i);
        test_front_clear(&l->fronts[i]);
    }
    loop_free(l->loop);
    /* Nothing else stays behind. */
    for (unsigned i = 0; i < ARRAY_LEN(left); i++) {
        cleanup_free char *path = xasprintf("%s/%s", l->folder, left[i]);

        assert_int_equal(i == 3 ? rmdir(l->folder) : remove(path), 0);
    }
}

static void switches_learn(void **state) {
    struct lan l;

    (void)state;
    lan_open(&l);
    assert_true(send_frame(l.ports[0], broadcast, macs[0], 60));
    test_run(l.loop);
    assert_int_equal(l.fronts[0].got.count, 0);
    assert_int_equal(l.fronts[1].got.count, 1);
    assert_int_equal(l.fronts[2].got.count, 1);
    assert_int_equal(l.fronts[2].got.frames[0].len, 60);
    /* An answer, which goes to one only; the address that nobody has shown goes to all. */
    assert_true(send_frame(l.ports[1], macs[0], macs[1], 61));
    assert_true(send_frame(l.ports[0], macs[2], macs[0], 62));
    test_run(l.loop);
    assert_int_equal(l.fronts[0].got.count, 1);
    assert_int_equal(l.fronts[1].got.count, 2);
    assert_int_equal(l.fronts[2].got.count, 2);
    assert_true(send_frame(l.ports[0], macs[1], macs[0], 63));
    test_run(l.loop);
    assert_int_equal(l.fronts[1].got.count, 3);
    assert_int_equal(l.fronts[2].got.count, 2);
    lan_close(&l);
}

static void members_come_and_go(void **state) {
    struct lan l;

    (void)state;
    lan_open(&l);
    assert_true(send_frame(l.ports[1], broadcast, macs[1], 60));
    test_run(l.loop);
    leave(&l, 1);
    assert_true(send_frame(l.ports[0], macs[1], macs[0], 60)); /* forgotten: to all there are */
    test_run(l.loop);
    assert_int_equal(l.fronts[2].got.count, 2);
    join(&l, 1);
    assert_true(send_frame(l.ports[2], broadcast, macs[2], 60));
    test_run(l.loop);
    assert_int_equal(l.fronts[0].got.count, 2);
    assert_int_equal(l.fronts[1].got.count, 1);
    lan_close(&l);
}

static void a_frame_waits_for_a_guest_with_no_buffer(void **state) {
    struct lan l;

    (void)state;
    lan_open(&l);
    l.fronts[1].room = 0;
    assert_true(send_frame(l.ports[0], broadcast, macs[0], 60));
    assert_true(send_frame(l.ports[2], broadcast, macs[2], 60));
    test_run(l.loop);
    assert_int_equal(l.fronts[1].got.count, 0);
    l.fronts[1].room = 10;
    net_receive_again(l.ports[1], 0);
    test_run(l.loop);
    test_run(l.loop);
    assert_int_equal(l.fronts[1].got.count, 2);
    lan_close(&l);
}

/* --- sockets --- */

static void sockets_carry_frames(void **state) {
    char path[] = "unix:/tmp/rf-test-wire-XXXXXX";
    cleanup_err struct err e = ERR_INIT;
    struct loop *l = loop_new(NULL);
    struct test_front fronts[2] = {0};
    struct net *ends[2];

    (void)state;
    close(mkstemp(path + 5));
    unlink(path + 5);
    for (unsigned i = 0; i < 2; i++) {
        const struct socket_options o = {.address = path, .listen = i == 0};

        ends[i] = net_socket_open(&o, l, &e);
        assert_non_null(ends[i]);
        assert_false(ends[i]->link_up);
        test_front_attach(&fronts[i], ends[i]);
    }
    test_run(l);
    assert_true(fronts[0].link_up && fronts[1].link_up);
    for (size_t len = 60; len < 80; len++)
        assert_true(send_frame(ends[1], macs[0], macs[1], len));
    test_run(l);
    assert_int_equal(fronts[0].got.count, 20);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(fronts[0].got.frames[i].len, 60 + i);
    net_close(ends[0]);
    test_run(l);
    assert_false(fronts[1].link_up);
    assert_int_equal(access(path + 5, F_OK), -1);
    net_close(ends[1]);
    test_front_clear(&fronts[0]);
    loop_free(l);
}

static void sockets_that_cannot_be(void **state) {
    static const char *const bad[] = {"nothing", "host:", "unix:", "1.2.3.4:99999999x"};
    struct loop *l = loop_new(NULL);

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        const struct socket_options o = {.address = bad[i], .listen = true};
        cleanup_err struct err e = ERR_INIT;

        assert_null(net_socket_open(&o, l, &e));
        assert_non_null(strstr(err_msg(&e), bad[i]));
    }
    loop_free(l);
}

/* --- filters --- */

static void a_limit_refuses_and_lets_go(void **state) {
    const struct net_rate slow = {.bytes_per_second = 100000, .burst = 2000}, none = {0};
    struct loop *l = loop_new(NULL);
    struct test_net *inner = test_net_new(l, 0);
    struct net *n = net_throttle_new(&inner->net, &slow, &none);
    struct test_front front = {0};
    unsigned passed = 0;
    uint64_t start = mono_now();

    (void)state;
    test_front_attach(&front, n);
    while (passed < 10)
        if (send_frame(n, macs[0], macs[1], 1000))
            passed++;
        else
            test_run(l);
    /* A burst of two frames and a debt of one are free; the other seven take 10 ms each. */
    assert_true(mono_now() - start >= 65000000);
    assert_int_equal(inner->sent.count, 10);
    while (!front.send_again)
        if (!send_frame(n, macs[0], macs[1], 1000))
            test_run(l);
    net_close(n);
    loop_free(l);
}

static void a_capture_has_what_passed(void **state) {
    char path[] = "/tmp/rf-test-pcap-XXXXXX";
    struct loop *l = loop_new(NULL);
    struct test_net *inner = test_net_new(l, 0);
    struct test_front front = {0};
    uint8_t data[512];

    (void)state;
    close(mkstemp(path));
    struct net *n = net_pcap_new(&inner->net, path, NULL);
    assert_non_null(n);
    test_front_attach(&front, n);
    inner->room = 1;
    assert_true(send_frame(n, macs[0], macs[1], 60));
    assert_false(send_frame(n, macs[0], macs[1], 61)); /* refused, so not there */
    net_close(n);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_int_equal(fread(data, 1, sizeof(data), f), 24 + 16 + 60);
    fclose(f);
    assert_memory_equal(data, "\x4d\x3c\xb2\xa1\x02\x00\x04\x00", 8);
    assert_int_equal(data[24 + 8], 60);
    assert_memory_equal(data + 40, macs[0], 6);
    unlink(path);
    loop_free(l);
}

/* --- bridges --- */

static void who_may_use_a_bridge(void **state) {
    char path[] = "/tmp/rf-test-conf-XXXXXX";
    int fd = mkstemp(path);
    static const char conf[] = "# comment\ndeny br0 eve\nallow br0\nallow br1 ann\nallow all bob\n";

    (void)state;
    assert_int_equal(write(fd, conf, sizeof(conf) - 1), sizeof(conf) - 1);
    close(fd);
    assert_true(bridge_allowed(path, "br0", "ann"));
    assert_false(bridge_allowed(path, "br0", "eve"));
    assert_true(bridge_allowed(path, "br1", "ann"));
    assert_false(bridge_allowed(path, "br1", "eve"));
    assert_true(bridge_allowed(path, "br7", "bob"));
    assert_false(bridge_allowed(path, "br7", "ann"));
    unlink(path);
    assert_false(bridge_allowed(path, "br0", "ann"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(switches_learn),
        cmocka_unit_test(members_come_and_go),
        cmocka_unit_test(a_frame_waits_for_a_guest_with_no_buffer),
        cmocka_unit_test(sockets_carry_frames),
        cmocka_unit_test(sockets_that_cannot_be),
        cmocka_unit_test(a_limit_refuses_and_lets_go),
        cmocka_unit_test(a_capture_has_what_passed),
        cmocka_unit_test(who_may_use_a_bridge),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A domain's folder and its control socket: names, dead monitors, and clients of all kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "base/worker.h"
#include "domain/client.h"
#include "domain/control.h"
#include "domain/jsonrpc.h"
#include "domain/state.h"

struct fixture {
    char *name;
    struct state *state;
    struct worker *worker;
    struct control *control;
    atomic_uint calls;
};

static json_t *count(void *arg, json_t *params, struct err *e) {
    struct fixture *f = arg;
    json_t *o = json_object();

    (void)params;
    (void)e;
    json_object_set_new(o, "calls", json_integer(atomic_fetch_add(&f->calls, 1) + 1));
    return o;
}

static json_t *say_no(void *arg, json_t *params, struct err *e) {
    (void)arg;
    (void)params;
    err_set(e, EBUSY, "no");
    return NULL;
}

static const struct jsonrpc_method methods[] = {{"count", count}, {"no", say_no}, {0}};

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    cleanup_free char *path = NULL;

    f->name = xasprintf("unit-%d", (int)getpid());
    f->state = state_claim(f->name, false, NULL);
    assert_non_null(f->state);
    path = state_path(f->state, "control");
    f->worker = worker_new("control", NULL);
    f->control = control_new(worker_loop(f->worker), path, methods, f, NULL);
    assert_non_null(f->control);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;

    worker_stop(f->worker);
    control_free(f->control);
    worker_free(f->worker);
    state_release(f->state);
    assert_false(state_is_alive(f->name));
    free(f->name);
    free(f);
    return 0;
}

static void ask(const struct fixture *f) {
    json_t *r = client_call(f->name, "count", json_object(), NULL);

    assert_non_null(r);
    json_decref(r);
}

static void put(int fd, const char *text) {
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* --- names and folders --- */

static void a_name_is_taken_once(void **state) {
    const struct fixture *f = *state;
    cleanup_err struct err e = ERR_INIT;

    assert_null(state_claim(f->name, false, &e));
    assert_int_equal(e.code, EEXIST);
    struct state *second = state_claim(f->name, true, NULL);
    cleanup_free char *numbered = xasprintf("%s-2", f->name);
    assert_string_equal(state_name(second), numbered);
    assert_true(state_is_alive(numbered));
    state_release(second);
    assert_false(state_is_alive(numbered));
}

static void names(void **state) {
    char longest[STATE_NAME_MAX + 2];
    (void)state;

    memset(longest, 'a', sizeof(longest));
    longest[STATE_NAME_MAX + 1] = 0;
    assert_true(state_check_name(longest, NULL) < 0);
    longest[STATE_NAME_MAX] = 0;
    assert_int_equal(state_check_name(longest, NULL), 0);
    assert_int_equal(state_check_name("Web_1.a+b-c", NULL), 0);
    for (const char *const *bad = (const char *const[]){"", ".", "..", ".x", "a/b", "a b", "switch",
                                                        "caf\xc3\xa9", "a\n", NULL};
         *bad; bad++)
        assert_true(state_check_name(*bad, NULL) < 0);
    struct state *s = state_claim("a b/\xc3\xa9", true, NULL);
    assert_int_equal(strncmp(state_name(s), "a_b___", 6), 0);
    state_release(s);
}

/* Its lock went with the process; the folder is as it was left. */
static void a_dead_monitor(void **state) {
    cleanup_free char *name = xasprintf("dead-%d", (int)getpid());
    size_t n;
    int status;
    (void)state;

    for (int round = 0; round < 2; round++) {
        pid_t child = fork();

        if (child == 0)
            _exit(state_claim(name, false, NULL) ? 0 : 1);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        if (round == 0) { /* taken over */
            struct state *s = state_claim(name, false, NULL);

            assert_non_null(s);
            assert_int_equal(state_write(s, "pid", "1\n", NULL), 0);
            state_release(s);
            continue;
        }
        char **all = state_list(&n, NULL); /* removed */
        for (size_t i = 0; i < n; i++) {
            assert_string_not_equal(all[i], name);
            free(all[i]);
        }
        free(all);
    }
    cleanup_err struct err e = ERR_INIT;
    assert_null(client_call(name, "count", NULL, &e));
    assert_int_equal(e.code, ESRCH);
}

/* --- clients --- */

static void a_question(void **state) {
    const struct fixture *f = *state;
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *said = xasprintf("domain %s: no: Device or resource busy", f->name);
    json_t *r = client_call(f->name, "count", NULL, &e);

    assert_int_equal(json_integer_value(json_object_get(r, "calls")), 1);
    json_decref(r);
    assert_null(client_call(f->name, "no", NULL, &e));
    assert_string_equal(err_msg(&e), said);
    err_clear(&e);
    assert_null(client_call(f->name, "what", NULL, &e));
    assert_non_null(strstr(err_msg(&e), "there is no such method"));
}

static void a_flood(void **state) {
    const struct fixture *f = *state;
    cleanup_close int fd = state_connect(f->name, NULL);
    static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n";
    const size_t len = 1000 * (sizeof(request) - 1);
    cleanup_free char *burst = xcalloc(1, len);
    char buf[65536];
    unsigned lines = 0;

    for (size_t i = 0; i < len; i++)
        burst[i] = request[i % (sizeof(request) - 1)];
    for (int i = 0; i < 10; i++) {
        size_t sent = 0;

        while (sent < len || lines < 1000u * (unsigned)(i + 1)) {
            ssize_t n = sent < len ? send(fd, burst + sent, len - sent, MSG_DONTWAIT) : 0;

            sent += n > 0 ? (size_t)n : 0;
            n = recv(fd, buf, sizeof(buf), sent < len ? MSG_DONTWAIT : 0);
            for (ssize_t k = 0; k < n; k++)
                lines += buf[k] == '\n';
        }
    }
    ask(f);
    assert_int_equal(atomic_load(&f->calls), 10001);
}

/* It sends and never reads: it is not listened to any more, and the others are. */
static void a_client_that_does_not_read(void **state) {
    const struct fixture *f = *state;
    cleanup_close int fd = state_connect(f->name, NULL);
    struct pollfd p = {fd, POLLOUT, 0};
    size_t sent = 0;

    while (poll(&p, 1, 300) == 1) {
        ssize_t n =
            send(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n", 42, MSG_DONTWAIT);

        sent += n > 0 ? (size_t)n : 0;
        assert_true(sent < 64u << 20);
    }
    ask(f);
}

static void clients_that_vanish(void **state) {
    const struct fixture *f = *state;

    for (int i = 0; i < 200; i++) {
        int fd = state_connect(f->name, NULL);

        assert_true(fd >= 0);
        if (i % 3)
            put(fd,
                i % 2 ? "{\"jsonrpc\":" : "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n");
        close(fd);
    }
    ask(f);
}

/* The one that was silent longest gives way; who talks stays. */
static void too_many_clients(void **state) {
    const struct fixture *f = *state;
    int fd[CONTROL_CLIENTS_MAX + 8], talker = state_connect(f->name, NULL);
    char buf[256];

    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        fd[i] = state_connect(f->name, NULL);
        assert_true(fd[i] >= 0);
        put(talker, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n");
        assert_true(recv(talker, buf, sizeof(buf), 0) > 0);
        ask(f);
    }
    assert_int_equal(recv(fd[0], buf, sizeof(buf), 0), 0); /* dropped */
    put(talker, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n");
    assert_true(recv(talker, buf, sizeof(buf), 0) > 0);
    for (size_t i = 0; i < ARRAY_LEN(fd); i++)
        close(fd[i]);
    close(talker);
}

static void a_huge_line(void **state) {
    const struct fixture *f = *state;
    cleanup_close int fd = state_connect(f->name, NULL);
    char buf[4096] = "", chunk[1000];

    memset(chunk, '[', sizeof(chunk));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL), sizeof(chunk));
    put(fd, "\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\"}\n");
    for (size_t len = 0; !strstr(buf, "\"calls\"");) {
        ssize_t n = recv(fd, buf + len, sizeof(buf) - 1 - len, 0);

        assert_true(n > 0);
        len += (size_t)n;
    }
    assert_non_null(strstr(buf, "longer than 64 KiB"));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_name_is_taken_once),
        TEST(names),
        TEST(a_dead_monitor),
        TEST(a_question),
        TEST(a_flood),
        TEST(a_client_that_does_not_read),
        TEST(clients_that_vanish),
        TEST(too_many_clients),
        TEST(a_huge_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Standard input as a keyboard, towards a guest whose room for input changes while we look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "ui/chardev.h"
#include "ui/output.h"
#include "ui/terminal.h"

#define TEXT "a line of input that is longer than any FIFO of sixteen bytes\n"

/* A chip of which another thread takes a character, or fills it, between any two looks at it. */
struct chip {
    struct loop *loop;
    struct chardev *chr;
    size_t room[8]; /* the answers to come, over and over */
    unsigned asked;
    char got[256];
    size_t len;
};

static size_t chip_can_receive(void *arg) {
    struct chip *c = arg;

    return c->room[c->asked++ % ARRAY_LEN(c->room)];
}

static void chip_receive(void *arg, const uint8_t *buf, size_t len) {
    struct chip *c = arg;

    assert_true(len <= sizeof(c->got) - c->len);
    memcpy(c->got + c->len, buf, len);
    c->len += len;
    if (c->len >= strlen(TEXT))
        loop_stop(c->loop);
}

static void chip_writable(void *arg) {
    (void)arg;
}

static const struct chardev_front chip_front = {chip_can_receive, chip_receive, chip_writable,
                                                NULL};

static void ask_again(void *arg) {
    struct chip *c = arg;

    if (c->len >= strlen(TEXT))
        return;
    chardev_readable(c->chr);
    loop_call(c->loop, ask_again, c);
}

static void on_leave(void *arg) {
    (void)arg;
    fail_msg("no terminal, no key to leave by");
}

/* What is typed comes whole and in order, whatever the answers. */
static void typed(const size_t room[8]) {
    cleanup_err struct err e = ERR_INIT;
    struct chip c = {.loop = loop_new(&e)};
    struct output *out;
    struct terminal *t;
    int fds[2];

    memcpy(c.room, room, sizeof(c.room));
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(dup2(fds[0], STDIN_FILENO), STDIN_FILENO);
    close(fds[0]);
    out = output_new(c.loop, STDERR_FILENO, false, "stderr", &e);
    assert_non_null(out);
    t = terminal_new(c.loop, out, on_leave, NULL, &e);
    assert_non_null(t);
    c.chr = terminal_chardev(t);
    chardev_attach(c.chr, &chip_front, &c);
    assert_int_equal(write(fds[1], TEXT, strlen(TEXT)), strlen(TEXT));
    loop_call(c.loop, ask_again, &c);
    assert_int_equal(loop_run(c.loop, &e), 0);
    assert_int_equal(c.len, strlen(TEXT));
    assert_memory_equal(c.got, TEXT, c.len);
    terminal_stop(t);
    terminal_free(t);
    output_free(out);
    close(fds[1]);
    loop_free(c.loop);
}

static void room_that_grows(void **state) {
    (void)state;
    typed((const size_t[8]){0, 16, 0, 16, 1, 16, 0, 4000});
    typed((const size_t[8]){0, 0, 0, 16, 0, 0, 0, 16});
}

static void room_that_shrinks(void **state) {
    (void)state;
    typed((const size_t[8]){16, 0, 16, 1, 4000, 0, 3, 2});
    typed((const size_t[8]){4000, 1, 4000, 1, 4000, 1, 4000, 1});
}

static void steady_room(void **state) {
    (void)state;
    typed((const size_t[8]){1, 1, 1, 1, 1, 1, 1, 1});
    typed((const size_t[8]){4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_that_grows),
        cmocka_unit_test(room_that_shrinks),
        cmocka_unit_test(steady_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines as they reach standard error, and the limit on what a guest can cause. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/log.h"

static int saved, pipe_fds[2];
static char text[8192];

static void capture(void) {
    assert_int_equal(pipe(pipe_fds), 0);
    saved = dup(STDERR_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
    close(pipe_fds[1]);
}

static const char *captured(void) {
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = read(pipe_fds[0], text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = 0;
    close(pipe_fds[0]);
    return text;
}

static void levels(void **state) {
    (void)state;
    capture();
    log_info("hidden");
    log_warn("disk %d", 3);
    log_error("gone");
    log_set_level(LOG_DEBUG);
    log_info("seen");
    log_debug("detail");
    log_set_level(LOG_WARN);
    log_debug("hidden");
    assert_string_equal(captured(), "rf: warning: disk 3\nrf: error: gone\nrf: seen\n"
                                    "rf: debug: detail\n");
}

static void raw_terminal(void **state) {
    (void)state;
    capture();
    log_set_raw(true);
    log_warn("two\nlines");
    log_set_raw(false);
    log_warn("one");
    assert_string_equal(captured(), "rf: warning: two\r\nlines\r\nrf: warning: one\n");
}

static void control_characters_stay_out(void **state) {
    (void)state;
    capture();
    log_warn("a\033[2Jb\rc\177d\te\xc3\xa9");
    assert_string_equal(captured(), "rf: warning: a?[2Jb?c?d\te\xc3\xa9\n");
}

static void guest_cannot_flood(void **state) {
    struct log_limit limit = {0};
    int allowed = 0;

    (void)state;
    for (int i = 0; i < 1000; i++)
        allowed += log_allow(&limit);
    assert_int_equal(allowed, 10);

    /* Ten seconds later. */
    limit.window_ns -= 10000000000ull;
    capture();
    log_guest(&limit, "port 0x80");
    assert_string_equal(captured(), "rf: warning: 990 messages like the following were suppressed\n"
                                    "rf: warning: port 0x80\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),
        cmocka_unit_test(raw_terminal),
        cmocka_unit_test(control_characters_stay_out),
        cmocka_unit_test(guest_cannot_flood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

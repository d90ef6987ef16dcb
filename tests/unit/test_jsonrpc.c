/* SPDX-License-Identifier: Apache-2.0 */
/* JSON-RPC 2.0: answers, batches, notifications, and lines out of pieces of any size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "domain/jsonrpc.h"

static unsigned calls;

static json_t *echo(void *arg, json_t *params, struct err *e) {
    (void)arg;
    (void)e;
    calls++;
    return json_incref(params);
}

static json_t *lose(void *arg, json_t *params, struct err *e) {
    (void)params;
    err_set(e, 0, "%s", (const char *)arg);
    return NULL;
}

static json_t *refuse(void *arg, json_t *params, struct err *e) {
    (void)arg;
    (void)params;
    jsonrpc_bad_params(e, "no %d", 7);
    return NULL;
}

static const struct jsonrpc_method methods[] = {
    {"echo", echo}, {"lose", lose}, {"refuse", refuse}, {0}};

static char why[] = "caf\xe9"; /* not UTF-8 */

static void check(const char *line, const char *expected) {
    char *answer = jsonrpc_answer(methods, why, line, strlen(line));

    if (expected)
        assert_string_equal(answer, expected);
    else
        assert_null(answer);
    free(answer);
}

static void check_error(const char *line, int code) {
    char *answer = jsonrpc_answer(methods, why, line, strlen(line));
    json_t *o = json_loads(answer, 0, NULL);

    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "error"), "code")),
                     code);
    assert_true(json_is_null(json_object_get(o, "id")));
    json_decref(o);
    free(answer);
}

static void requests(void **state) {
    (void)state;
    check("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}",
          "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
    check("{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"echo\",\"params\":{\"a\":[1]}}",
          "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{\"a\":[1]}}");
    check("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"lose\"}",
          "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"caf?\"}}");
    check("{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"refuse\"}",
          "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32602,\"message\":\"no 7\"}}");
    check(
        "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"echo\",\"params\":[1]}",
        "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32602,\"message\":\"echo: params is not "
        "an object\"}}");
    check("{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"nothing\"}",
          "{\"jsonrpc\":\"2.0\",\"id\":3,\"error\":{\"code\":-32601,\"message\":\"there is no such "
          "method\"}}");
}

static void notifications(void **state) {
    (void)state;
    calls = 0;
    check("{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}", NULL);
    check("{\"jsonrpc\":\"2.0\",\"method\":\"nothing\"}", NULL);
    check("[{\"jsonrpc\":\"2.0\",\"method\":\"echo\"},{\"jsonrpc\":\"2.0\",\"method\":\"lose\"}]",
          NULL);
    assert_int_equal(calls, 2);
}

static void no_requests(void **state) {
    (void)state;
    check_error("", JSONRPC_PARSE_ERROR);
    check_error("{\"jsonrpc\":\"2.0\"", JSONRPC_PARSE_ERROR);
    check_error("{} {}", JSONRPC_PARSE_ERROR);
    check_error("{\"id\":1,\"id\":2}", JSONRPC_PARSE_ERROR);
    check_error("\"\xff\"", JSONRPC_PARSE_ERROR);
    check_error("7", JSONRPC_INVALID_REQUEST);
    check_error("{}", JSONRPC_INVALID_REQUEST);
    check_error("{\"jsonrpc\":\"1.0\",\"method\":\"echo\"}", JSONRPC_INVALID_REQUEST);
    check_error("{\"jsonrpc\":\"2.0\",\"method\":1}", JSONRPC_INVALID_REQUEST);
    check_error("{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"id\":{}}", JSONRPC_INVALID_REQUEST);
    check_error("[]", JSONRPC_INVALID_REQUEST);
}

static void batches(void **state) {
    cleanup_free char *big = xstrdup("[1");
    (void)state;

    check(
        "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"},{\"jsonrpc\":\"2.0\",\"method\":"
        "\"echo\"},1]",
        "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}},{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{"
        "\"code\":-32600,\"message\":\"not a request of JSON-RPC 2.0\"}}]");
    calls = 0;
    for (int i = 0; i < JSONRPC_BATCH_MAX; i++) {
        char *longer = xasprintf("%s,{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}", big);

        free(big);
        big = longer;
    }
    cleanup_free char *all = xasprintf("%s]", big);
    check_error(all, JSONRPC_INVALID_REQUEST);
    assert_int_equal(calls, 0);
}

/* --- lines --- */

struct seen {
    char text[256];
    unsigned too_long;
    size_t longest;
};

static void on_line(void *arg, const char *line, size_t len) {
    struct seen *s = arg;
    size_t at = strlen(s->text);

    s->longest = MAX(s->longest, len);
    if (!line)
        s->too_long++;
    else if (len < 32)
        memcpy(s->text + at, line, len), memcpy(s->text + at + len, "|", 2);
}

static void lines_of_any_pieces(void **state) {
    static const char text[] = "one\n\ntwo\r\nthree\nrest";
    (void)state;

    for (size_t piece = 1; piece <= sizeof(text); piece++) {
        struct jsonrpc_lines *l = xcalloc(1, sizeof(*l));
        struct seen s = {0};

        for (size_t at = 0; at < sizeof(text) - 1; at += piece)
            jsonrpc_feed(l, text + at, MIN(piece, sizeof(text) - 1 - at), on_line, &s);
        assert_string_equal(s.text, "one|two\r|three|");
        jsonrpc_feed(l, "\n", 1, on_line, &s);
        assert_string_equal(s.text, "one|two\r|three|rest|");
        assert_int_equal(s.too_long, 0);
        free(l);
    }
}

/* One complaint for each line, whatever its length; the next line is looked at. */
static void lines_that_are_too_long(void **state) {
    struct jsonrpc_lines *l = xcalloc(1, sizeof(*l));
    cleanup_free char *big = xcalloc(1, 3 * JSONRPC_LINE_MAX);
    struct seen s = {0};
    (void)state;

    memset(big, 'x', 3 * JSONRPC_LINE_MAX);
    jsonrpc_feed(l, big, JSONRPC_LINE_MAX, on_line, &s);
    jsonrpc_feed(l, "\n", 1, on_line, &s);
    assert_int_equal(s.longest, JSONRPC_LINE_MAX);
    assert_int_equal(s.too_long, 0);
    for (unsigned i = 1; i < 4; i++) {
        jsonrpc_feed(l, big, JSONRPC_LINE_MAX, on_line, &s);
        jsonrpc_feed(l, big, i * (JSONRPC_LINE_MAX / 2), on_line, &s);
        jsonrpc_feed(l, big, 1, on_line, &s);
        jsonrpc_feed(l, "x\nok\n", 5, on_line, &s);
        assert_int_equal(s.too_long, i);
    }
    assert_string_equal(s.text, "ok|ok|ok|");
    free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(notifications),
        cmocka_unit_test(no_requests),
        cmocka_unit_test(batches),
        cmocka_unit_test(lines_of_any_pieces),
        cmocka_unit_test(lines_that_are_too_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

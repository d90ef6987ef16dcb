/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines: every way to write an option, and what wrong ones are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "domain/options.h"

static const struct option table[] = {
    {"help", 'h', NULL, "help", 1},
    {"memory", 'm', "SIZE", "memory", 2},
    {"debug-exit", 0, NULL, "flag", 3},
    {0},
};

/* What was seen, as "id=value;" and "arg;". */
struct seen {
    char text[256];
};

static int note(void *arg, const struct option *o, const char *value, struct err *e) {
    struct seen *s = arg;
    size_t at = strlen(s->text);

    if (o && o->id == 2 && strcmp(value, "bad") == 0)
        return err_set(e, 0, "refused");
    if (o)
        snprintf(s->text + at, sizeof(s->text) - at, "%d=%s;", o->id, value ? value : "-");
    else
        snprintf(s->text + at, sizeof(s->text) - at, "%s;", value);
    return 0;
}

#define PARSE(s, e, ...)                                                                           \
    options_parse(table, (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)),                  \
                  (char *[]){__VA_ARGS__}, note, s, e)

static void every_form(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct seen s = {""};

    (void)state;
    assert_int_equal(
        PARSE(&s, &e, "--memory=1G", "a", "--memory", "2G", "-m", "3G", "-h", "--debug_exit"), 0);
    assert_string_equal(s.text, "2=1G;a;2=2G;2=3G;1=-;3=-;");
}

static void values_may_look_like_options(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct seen s = {""};

    (void)state;
    assert_int_equal(PARSE(&s, &e, "--memory", "--help", "--memory=", "-"), 0);
    assert_string_equal(s.text, "2=--help;2=;-;");
}

static void two_dashes_end_options(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct seen s = {""};

    (void)state;
    assert_int_equal(PARSE(&s, &e, "--help", "--", "--memory", "--"), 0);
    assert_string_equal(s.text, "1=-;--memory;--;");
}

static void mistakes_are_explained(void **state) {
    static const struct {
        const char *arg, *message;
    } cases[] = {
        {"--memroy=1", "unknown option '--memroy'; did you mean '--memory'?"},
        {"--zzzzzz", "unknown option '--zzzzzz'"},
        {"--", NULL},
        {"--memory", "option '--memory' needs a value: --memory SIZE"},
        {"-m", "option '-m' needs a value: -m SIZE"},
        {"--help=x", "option '--help' takes no value"},
        {"-q", "unknown option '-q'"},
        {"-hm", "unknown option '-hm'"},
        {"--memory=bad", "refused"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cleanup_err struct err e = ERR_INIT;
        struct seen s = {""};
        char arg[32];

        snprintf(arg, sizeof(arg), "%s", cases[i].arg);
        if (!cases[i].message) {
            assert_int_equal(PARSE(&s, &e, arg), 0);
            continue;
        }
        assert_true(PARSE(&s, &e, arg) < 0);
        assert_string_equal(err_msg(&e), cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form),
        cmocka_unit_test(values_may_look_like_options),
        cmocka_unit_test(two_dashes_end_options),
        cmocka_unit_test(mistakes_are_explained),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

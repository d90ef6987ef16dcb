/* SPDX-License-Identifier: Apache-2.0 */
/* The trace's words for what to record, its records, and what it does where it cannot write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"
#include "base/util.h"

static char path[64];

static int make_file(void **state) {
    (void)state;
    snprintf(path, sizeof(path), "/tmp/rf-trace-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 || close(fd) < 0 ? -1 : 0;
}

static int drop_file(void **state) {
    (void)state;
    return unlink(path);
}

static char *content(void) {
    FILE *f = fopen(path, "r");
    char *text = xcalloc(8u << 20, 1);

    assert_non_null(f);
    assert_true(fread(text, 1, (8u << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

static void words(void **state) {
    cleanup_err struct err e = ERR_INIT;
    unsigned what = 0;

    (void)state;
    assert_int_equal(trace_parse("int,mode", &what, &e), 0);
    assert_int_equal(what, TRACE_INT | TRACE_MODE);
    assert_int_equal(trace_parse("in_asm", &what, &e), 0);
    assert_int_equal(what, TRACE_INT | TRACE_MODE | TRACE_BLOCK);
    assert_true(trace_parse("int,,io", &what, &e) < 0);
    assert_true(trace_parse("int,modes", &what, &e) < 0);
    assert_string_equal(err_msg(&e), "'modes' is none of int, mode, block, exec, io");
    assert_true(trace_parse("", &what, &e) < 0);
    assert_int_equal(trace_what(NULL), 0);
}

static void records(void **state) {
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *wide = xcalloc(5001, 1), *text = NULL;
    struct trace *t = trace_new(TRACE_IO, path, &e);
    unsigned vcpu = 0, us, s;
    char word[16];

    (void)state;
    assert_non_null(t);
    assert_int_equal(trace_what(t), TRACE_IO);
    memset(wide, 'x', 5000);
    trace_put(t, 3, "one %d", 1);
    trace_put(t, 4, "first\nsecond");
    trace_put(t, 5, "%s", wide);
    trace_free(t);
    text = content();
    assert_int_equal(sscanf(text, "%u.%6u v%u %15s 1\n", &s, &us, &vcpu, word), 4);
    assert_int_equal(vcpu, 3);
    assert_string_equal(word, "one");
    assert_non_null(strstr(text, " v4 first\n"));
    assert_non_null(strstr(text, " v4 second\n"));
    assert_non_null(strstr(text, wide));
}

#define EACH 4000

static void *writer(void *arg) {
    char line[64];

    for (unsigned n = 0; n < EACH; n++) {
        snprintf(line, sizeof(line), "begin %u\nend %u", n, n);
        trace_put(arg, (unsigned)(n % 7), "%s", line);
    }
    return NULL;
}

/* Two lines of a record follow each other, whoever else writes. */
static void records_do_not_mix(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct trace *t = trace_new(TRACE_INT, path, &e);
    cleanup_free char *text = NULL;
    pthread_t thread[3];
    unsigned pairs = 0;

    (void)state;
    for (unsigned n = 0; n < ARRAY_LEN(thread); n++)
        assert_int_equal(pthread_create(&thread[n], NULL, writer, t), 0);
    for (unsigned n = 0; n < ARRAY_LEN(thread); n++)
        pthread_join(thread[n], NULL);
    trace_free(t);
    text = content();
    for (char *p = text; *p; pairs++) {
        unsigned s, us, v, a, b;
        int len = 0;

        assert_int_equal(sscanf(p, "%u.%6u v%u begin %u%n", &s, &us, &v, &a, &len), 4);
        p += len + 1;
        assert_int_equal(sscanf(p, "%u.%6u v%u end %u%n", &s, &us, &v, &b, &len), 4);
        p += len + 1;
        assert_int_equal(a, b);
    }
    assert_int_equal(pairs, EACH * ARRAY_LEN(thread));
}

/* What standard error said meanwhile. */
static void check_one_complaint(struct trace *t, const char *complaint) {
    int fds[2], saved = dup(STDERR_FILENO);
    char said[512] = "";

    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    for (unsigned n = 0; n < 20000; n++)
        trace_put(t, 0, "line %u", n);
    trace_free(t);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_true(read(fds[0], said, sizeof(said) - 1) > 0);
    close(fds[0]);
    assert_string_equal(said, complaint);
}

static void full_disk(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct trace *t = trace_new(TRACE_INT, "/dev/full", &e);

    (void)state;
    assert_non_null(t);
    check_one_complaint(t, "rf: error: trace: write /dev/full: No space left on device; from here "
                           "on nothing is traced\n");
}

static void closed_pipe(void **state) {
    cleanup_err struct err e = ERR_INIT;
    char name[32], complaint[128];
    int fds[2];

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(fds), 0);
    snprintf(name, sizeof(name), "/dev/fd/%d", fds[1]);
    struct trace *t = trace_new(TRACE_INT, name, &e);
    assert_non_null(t);
    close(fds[0]);
    snprintf(complaint, sizeof(complaint),
             "rf: error: trace: write %s: Broken pipe; from here on nothing is traced\n", name);
    check_one_complaint(t, complaint);
    close(fds[1]);
}

static void no_such_folder(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_null(trace_new(TRACE_INT, "/nowhere/at/all", &e));
    assert_string_equal(err_msg(&e), "trace file /nowhere/at/all: No such file or directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),
        cmocka_unit_test_setup_teardown(records, make_file, drop_file),
        cmocka_unit_test_setup_teardown(records_do_not_mix, make_file, drop_file),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(closed_pipe),
        cmocka_unit_test(no_such_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Raw disks: reading, writing, zeroes and holes, sizes, locks, and errors of the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"

#define DISK_BYTES (1u << 20)

struct fixture {
    struct loop *loop;
    struct block *b;
    char path[32];
    unsigned waiting;
};

struct test_req {
    struct block_req r;
    struct fixture *f;
    int result;
    unsigned times;
};

static void on_done(struct block_req *r, int result) {
    struct test_req *t = container_of(r, struct test_req, r);

    t->result = result;
    t->times++;
    if (--t->f->waiting == 0)
        loop_stop(t->f->loop);
}

static void submit(struct fixture *f, struct test_req *t) {
    t->f = f;
    t->r.done = on_done;
    f->waiting++;
    block_submit(f->b, &t->r);
}

/* What was answered in place has stopped a loop that did not run; the next run returns at once. */
static void wait_all(struct fixture *f) {
    while (f->waiting)
        assert_int_equal(loop_run(f->loop, NULL), 0);
}

static int transfer(struct fixture *f, enum block_op op, uint64_t off, const struct iovec *iov,
                    unsigned count, uint64_t len) {
    struct test_req t = {.r = {.op = op, .off = off, .len = len, .iov = iov, .iov_count = count}};

    submit(f, &t);
    wait_all(f);
    assert_int_equal(t.times, 1);
    return t.result;
}

static int simple(struct fixture *f, enum block_op op, uint64_t off, void *buf, uint64_t len) {
    struct iovec iov = {buf, len};

    return transfer(f, op, off, &iov, 1, len);
}

static void open_disk(struct fixture *f, const struct block_options *o) {
    cleanup_err struct err e = ERR_INIT;

    f->b = block_raw_open(f->path, o, f->loop, &e);
    if (!f->b)
        fail_msg("%s", err_msg(&e));
}

static int set_up(void **state) {
    static const struct block_options plain;
    struct fixture *f = xcalloc(1, sizeof(*f));

    strcpy(f->path, "/tmp/rf-block-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    close(fd);
    f->loop = loop_new(NULL);
    open_disk(f, &plain);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;

    block_close(f->b);
    loop_free(f->loop);
    unlink(f->path);
    free(f);
    return 0;
}

static void reads_what_was_written(void **state) {
    struct fixture *f = *state;
    uint8_t out[4096], in[4096];

    assert_int_equal(f->b->info.size, DISK_BYTES);
    assert_int_equal(f->b->info.logical_block, 512);
    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7);
    assert_int_equal(simple(f, BLOCK_WRITE, 512, out, sizeof(out)), 0);
    assert_int_equal(simple(f, BLOCK_READ, 512, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(simple(f, BLOCK_READ, 0, in, 512), 0);
    assert_int_equal(in[0] | in[511], 0);
    assert_int_equal(simple(f, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(simple(f, BLOCK_READ, 4096, in, 0), 0);
}

/* More pieces than one system call takes, of odd lengths, and a vector that is longer than said. */
static void many_pieces(void **state) {
    struct fixture *f = *state;
    static uint8_t out[65536], in[65536 + 100];
    struct iovec iov[300];
    unsigned n = 0;

    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i ^ i >> 8);
    for (size_t at = 0, len; at < sizeof(in); at += len, n++) {
        len = MIN((size_t)(1 + n * 37 % 511), sizeof(in) - at);
        iov[n] = (struct iovec){in + at, len};
        assert_true(n < ARRAY_LEN(iov) - 1);
    }
    assert_int_equal(simple(f, BLOCK_WRITE, 8192, out, sizeof(out)), 0);
    assert_int_equal(transfer(f, BLOCK_READ, 8192, iov, n, sizeof(out)), 0);
    assert_memory_equal(in, out, sizeof(out));
    assert_int_equal(in[65536], 0);
    assert_int_equal(transfer(f, BLOCK_WRITE, 131072, iov, n, sizeof(out)), 0);
    memset(in, 0, sizeof(in));
    assert_int_equal(simple(f, BLOCK_READ, 131072, in, sizeof(out)), 0);
    assert_memory_equal(in, out, sizeof(out));
}

static void zeroes_and_holes(void **state) {
    struct fixture *f = *state;
    static uint8_t ones[DISK_BYTES], in[8192];
    struct stat st;

    memset(ones, 1, sizeof(ones));
    for (unsigned unmap = 0; unmap < 2; unmap++) {
        struct test_req t = {
            .r = {.op = BLOCK_WRITE_ZEROES, .unmap = unmap, .off = 4096, .len = 4096}};

        assert_int_equal(simple(f, BLOCK_WRITE, 0, ones, sizeof(ones)), 0);
        submit(f, &t);
        wait_all(f);
        assert_int_equal(t.result, 0);
        assert_int_equal(simple(f, BLOCK_READ, 0, in, sizeof(in)), 0);
        assert_memory_equal(in, ones, 4096);
        for (unsigned i = 4096; i < 8192; i++)
            assert_int_equal(in[i], 0);
        assert_int_equal(simple(f, BLOCK_READ, 8192, in, 512), 0);
        assert_int_equal(in[0], 1);
    }
    assert_int_equal(simple(f, BLOCK_DISCARD, 0, NULL, DISK_BYTES), 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_size, DISK_BYTES);
}

static void refuses(void **state) {
    static const struct block_options read_only = {.read_only = true};
    struct fixture *f = *state;
    uint8_t buf[1024] = {0};

    assert_int_equal(simple(f, BLOCK_READ, 1, buf, 512), -EINVAL);
    assert_int_equal(simple(f, BLOCK_READ, 0, buf, 511), -EINVAL);
    assert_int_equal(simple(f, BLOCK_READ, DISK_BYTES, buf, 512), -EINVAL);
    assert_int_equal(simple(f, BLOCK_WRITE, DISK_BYTES - 512, buf, 1024), -EINVAL);
    assert_int_equal(simple(f, BLOCK_WRITE, UINT64_MAX - 511, buf, 1024), -EINVAL);
    assert_int_equal(simple(f, BLOCK_DISCARD, 0, NULL, DISK_BYTES + 512), -EINVAL);
    block_close(f->b);
    open_disk(f, &read_only);
    assert_int_equal(simple(f, BLOCK_READ, 0, buf, 512), 0);
    assert_int_equal(simple(f, BLOCK_WRITE, 0, buf, 512), -EROFS);
    assert_int_equal(simple(f, BLOCK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
}

/* The last sector of a file that ends within it is filled up with zeroes; a file that has become
 * shorter is an error. */
static void odd_sizes(void **state) {
    static const struct block_options plain;
    struct fixture *f = *state;
    uint8_t in[1024];

    block_close(f->b);
    assert_int_equal(truncate(f->path, 0), 0);
    assert_int_equal(truncate(f->path, 1000), 0);
    open_disk(f, &plain);
    assert_int_equal(f->b->info.size, 1024);
    memset(in, 0xff, sizeof(in));
    assert_int_equal(simple(f, BLOCK_READ, 0, in, sizeof(in)), 0);
    assert_int_equal(in[999] | in[1000] | in[1023], 0);
    assert_int_equal(truncate(f->path, 512), 0);
    assert_int_equal(simple(f, BLOCK_READ, 0, in, 512), 0);
    assert_int_equal(simple(f, BLOCK_READ, 512, in, 512), -EIO);
    assert_int_equal(truncate(f->path, 8192), 0);
    assert_int_equal(f->b->ops->refresh(f->b, NULL), 0);
    assert_int_equal(f->b->info.size, 8192);
}

static void opening(void **state) {
    static const struct block_options plain, read_only = {.read_only = true},
                                             shared = {.no_lock = true};
    struct fixture *f = *state;
    static const struct {
        const char *path, *message;
    } bad[] = {
        {"/nonexistent/disk", "/nonexistent/disk: open: No such file or directory"},
        {"/tmp", "/tmp: open: Is a directory"},
        {"/dev/null", "/dev/null: neither a file nor a block device"},
    };

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        cleanup_err struct err e = ERR_INIT;

        assert_null(block_raw_open(bad[i].path, &plain, f->loop, &e));
        assert_string_equal(err_msg(&e), bad[i].message);
    }
    cleanup_err struct err e = ERR_INIT;
    assert_null(block_raw_open(f->path, &plain, f->loop, &e));
    assert_non_null(strstr(err_msg(&e), "in use by "));
    assert_null(block_raw_open(f->path, &read_only, f->loop, NULL));
    struct block *second = block_raw_open(f->path, &shared, f->loop, NULL);
    assert_non_null(second);
    block_close(second);
    block_close(f->b);
    f->b = block_raw_open(f->path, &read_only, f->loop, NULL);
    second = block_raw_open(f->path, &read_only, f->loop, NULL);
    assert_true(f->b && second);
    block_close(second);
}

/* Many at a time, some of which go to threads; closing waits for what is under way. */
static void many_at_a_time(void **state) {
    struct fixture *f = *state;
    static struct test_req t[200];
    static uint8_t buf[200][4096];
    struct iovec iov[200];

    memset(t, 0, sizeof(t));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 200; i++) {
            enum block_op op = i % 3 == 2 ? BLOCK_FLUSH : i % 3 ? BLOCK_READ : BLOCK_WRITE;

            iov[i] = (struct iovec){buf[i], 4096};
            t[i] = (struct test_req){
                .r = {.op = op, .off = i * 4096, .len = 4096, .iov = &iov[i], .iov_count = 1}};
            submit(f, &t[i]);
        }
        if (round < 2) {
            wait_all(f);
        } else {
            block_close(f->b);
            f->b = NULL;
        }
        for (unsigned i = 0; i < 200; i++)
            assert_true(t[i].times == 1 && t[i].result == 0);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(reads_what_was_written),
        TEST(many_pieces),
        TEST(zeroes_and_holes),
        TEST(refuses),
        TEST(odd_sizes),
        TEST(opening),
        TEST(many_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of debuggers and test guests: debug console, debug exit, test device. */
#include "dev_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/testdev.h"
#include "ui/chardev.h"

struct sink {
    struct chardev chr;
    char text[16];
    size_t len;
};

static int sink_write(void *chr, const uint8_t *buf, size_t len) {
    struct sink *s = chr;
    size_t n = MIN(len, sizeof(s->text) - s->len);

    memcpy(s->text + s->len, buf, n);
    s->len += n;
    return (int)n;
}

static const struct chardev_ops sink_ops = {sink_write, NULL};

static void destroy(void *dev) {
    struct device *d = dev;

    d->ops->destroy(d);
}

static void console(void **state) {
    struct sink sink = {.chr = {.ops = &sink_ops}};
    struct mem *m = test_mem();
    struct debugcon *con = debugcon_new(m, DEBUGCON_PORT, &sink.chr, NULL);

    (void)state;
    assert_non_null(con);
    assert_int_equal(inb(m, 0xe9), 0xe9);
    for (const char *c = "hello"; *c; c++)
        outb(m, 0xe9, (uint8_t)*c);
    assert_int_equal(sink.len, 5);
    assert_memory_equal(sink.text, "hello", 5);
    outb(m, 0x80, 0x42);
    assert_int_equal(inb(m, 0x80), 0x42);
    assert_null(debugcon_new(m, 0xe8, NULL, NULL)); /* 0x80 is taken */
    copy_state((struct device *)con, (struct device *)con);
    refuses_nonsense((struct device *)con);
    destroy(con);
    con = debugcon_new(m, 0x402, NULL, NULL);
    outb(m, 0x402, 'x');
    assert_int_equal(inb(m, 0x402), 0x02);
    destroy(con);
    mem_free(m);
}

struct exits {
    unsigned calls;
    uint32_t value;
};

static void on_exit_write(void *arg, uint32_t value) {
    struct exits *x = arg;

    x->calls++;
    x->value = value;
}

static void debug_exit(void **state) {
    struct exits x = {0};
    struct mem *m = test_mem();
    struct debug_exit *d = debug_exit_new(m, on_exit_write, &x, NULL);

    (void)state;
    assert_non_null(d);
    assert_int_equal(inb(m, 0xf4), 0);
    outb(m, 0xf4, 0x10);
    assert_int_equal(x.calls, 1);
    assert_int_equal(x.value, 0x10);
    mem_port_write(m, 0xf4, 4, 0x12345678);
    assert_int_equal(x.calls, 2);
    assert_int_equal(x.value, 0x12345678);
    outb(m, 0xf5, 1);
    assert_int_equal(x.calls, 2);
    destroy(d);
    mem_free(m);
}

static void test_device(void **state) {
    struct probe gsi = {0};
    struct mem *m = test_mem();
    struct testdev *t = testdev_new(m, probe_line(&gsi), NULL);

    (void)state;
    assert_non_null(t);
    mem_port_write(m, 0xe0, 4, 0x12345678);
    mem_port_write(m, 0xe0, 2, 0xaaaa);
    mem_port_write(m, 0xe0, 1, 0xbb);
    assert_int_equal(mem_port_read(m, 0xe0, 4), 0x1234aabb);
    assert_int_equal(mem_port_read(m, 0xe0, 2), 0xaabb);
    assert_int_equal(inb(m, 0xe8), 0xbb);
    outb(m, 0xe8, 0xcc);
    assert_int_equal(mem_port_read(m, 0xe0, 4), 0x1234aacc);
    mem_port_write(m, 0xe4, 4, 0x1000);

    outb(m, 0x2000 + 14, 1);
    assert_true(gsi.level);
    assert_int_equal(gsi.pin, 14);
    outb(m, 0x2000 + 14, 0);
    assert_false(gsi.level);
    outb(m, 0x2000 + 24, 1);
    assert_int_equal(gsi.rises, 1);

    for (unsigned size = 1; size <= 8; size *= 2) {
        uint64_t at = 0xff00ffffu + 1 - size;
        mem_io_write(m, GPA(at), size, 0x8877665544332211);
        uint64_t mask = size == 8 ? UINT64_MAX : (1ull << size * 8) - 1;
        assert_int_equal(mem_io_read(m, GPA(at), size), 0x8877665544332211 & mask);
    }
    assert_int_equal(mem_io_read(m, GPA(0xff010000), 4), UINT32_MAX);
    copy_state((struct device *)t, (struct device *)t);
    refuses_nonsense((struct device *)t);
    destroy(t);
    mem_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(console),
        cmocka_unit_test(debug_exit),
        cmocka_unit_test(test_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

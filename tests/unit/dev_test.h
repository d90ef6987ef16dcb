/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of chips share: ports, a line that records, save and load. */
#ifndef RINGFENCE_TESTS_DEV_TEST_H
#define RINGFENCE_TESTS_DEV_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/record.h"
#include "dev/device.h"
#include "dev/irq.h"
#include "mem/mem.h"

/* A line's level and how often it rose. */
struct probe {
    bool level;
    unsigned rises;
    unsigned pin; /* that was driven last */
};

static inline void probe_set(void *arg, unsigned pin, bool level) {
    struct probe *p = arg;

    p->rises += level && !p->level;
    p->level = level;
    p->pin = pin;
}

static inline struct irq_line probe_line(struct probe *p) {
    return (struct irq_line){probe_set, p, 0};
}

static inline struct mem *test_mem(void) {
    struct mem *m = mem_new(1 << 20, 0, NULL);

    assert_non_null(m);
    return m;
}

static inline void outb(struct mem *m, uint16_t port, uint8_t v) {
    mem_port_write(m, port, 1, v);
}

static inline uint8_t inb(struct mem *m, uint16_t port) {
    return (uint8_t)mem_port_read(m, port, 1);
}

static inline void save_device(const struct device *d, struct record_writer *w) {
    rec_begin(w, d->ops->name, 0, d->ops->version);
    d->ops->save(d, w);
    rec_end(w);
}

static inline int load_record(struct device *d, const uint8_t *buf, size_t len) {
    const uint8_t *at = buf;
    struct record_reader r;

    if (rec_next(&at, buf + len, &r, NULL) != 1)
        return -1;
    struct record_reader again = r;
    if (d->ops->check(d, &r, NULL) != 0)
        return -1;
    d->ops->load(d, &again);
    return 0;
}

/* Copies one device's state to another of the same kind, which then saves the same bytes. */
static inline void copy_state(const struct device *from, struct device *to) {
    struct record_writer w = {0}, again = {0};

    save_device(from, &w);
    assert_int_equal(load_record(to, w.buf, w.len), 0);
    save_device(to, &again);
    assert_int_equal(w.len, again.len);
    assert_memory_equal(w.buf, again.buf, w.len);
    rec_writer_free(&w);
    rec_writer_free(&again);
}

/* Puts a record together from `bytes` and says whether check takes it. */
static inline int check_bytes(struct device *d, const uint8_t *bytes, size_t len) {
    struct record_writer w = {0};
    struct record_reader r;

    rec_begin(&w, d->ops->name, 0, d->ops->version);
    rec_put_bytes(&w, bytes, len);
    rec_end(&w);
    const uint8_t *at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    int result = d->ops->check(d, &r, NULL);
    rec_writer_free(&w);
    return result;
}

/* Records that are empty, full of ones, or longer than any are refused. */
static inline void refuses_nonsense(struct device *d) {
    static uint8_t ones[100000];

    for (size_t i = 0; i < sizeof(ones); i++)
        ones[i] = 0xff;
    assert_true(check_bytes(d, ones, 0) < 0);
    assert_true(check_bytes(d, ones, 3) < 0);
    assert_true(check_bytes(d, ones, sizeof(ones)) < 0);
}

#endif

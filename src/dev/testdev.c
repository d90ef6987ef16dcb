/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test device of kvm-unit-tests, compatible with QEMU's pc-testdev: a latch behind ports 0xe0
 * to 0xe3 (any size) and 0xe8 (bytes, beside the debug console), a page flush request at 0xe4,
 * interrupt lines at 0x2000, and 64 KiB of memory that only device accesses reach at 0xff000000.
 */
#include "dev/testdev.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"

enum { PORT_LATCH = 0xe0, PORT_FLUSH = 0xe4, PORT_BYTES = 0xe8, PORT_IRQ = 0x2000 };
#define IRQ_LINES 24
#define IOMEM_BASE 0xff000000u
#define IOMEM_SIZE 0x10000

struct testdev {
    struct device dev;
    struct mem *mem;
    struct region *region[5];
    struct irq_line gsi;
    uint32_t latch;
    uint8_t iomem[IOMEM_SIZE];
};

static uint64_t size_mask(unsigned size) {
    return size == 8 ? UINT64_MAX : (1ull << size * 8) - 1;
}

/* Every offset is the same latch; a narrow write replaces its low bits. */
static uint64_t latch_read(void *dev, uint64_t off, unsigned size) {
    const struct testdev *t = dev;

    (void)off;
    return t->latch & size_mask(size);
}

static void latch_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct testdev *t = dev;
    uint32_t mask = (uint32_t)size_mask(size);

    (void)off;
    t->latch = (t->latch & ~mask) | ((uint32_t)value & mask);
}

static const struct io_ops latch_io = {
    .read = latch_read, .write = latch_write, .min_size = 1, .max_size = 4};
static const struct io_ops bytes_io = {
    .read = latch_read, .write = latch_write, .min_size = 1, .max_size = 1};

/* Asks that the host forget its mapping of a page, which no guest can see. */
static uint64_t flush_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    return 0;
}

static void flush_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)dev;
    (void)off;
    (void)size;
    (void)value;
}

static const struct io_ops flush_io = {
    .read = flush_read, .write = flush_write, .min_size = 1, .max_size = 4};

static uint64_t irq_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    return 0;
}

static void irq_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct testdev *t = dev;

    (void)size;
    if (t->gsi.set)
        t->gsi.set(t->gsi.arg, (unsigned)off, value != 0);
}

static const struct io_ops irq_io = {
    .read = irq_read, .write = irq_write, .min_size = 1, .max_size = 1};

static uint64_t iomem_read(void *dev, uint64_t off, unsigned size) {
    const struct testdev *t = dev;
    uint64_t v = 0;

    memcpy(&v, t->iomem + off, size);
    return v;
}

static void iomem_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct testdev *t = dev;

    memcpy(t->iomem + off, &value, size);
}

static const struct io_ops iomem_io = {
    .read = iomem_read, .write = iomem_write, .min_size = 1, .max_size = 8};

/* --- device --- */

static void testdev_reset(struct device *d) {
    struct testdev *t = (struct testdev *)d;

    t->latch = 0;
    memset(t->iomem, 0, sizeof(t->iomem));
}

static void testdev_save(const struct device *d, struct record_writer *w) {
    const struct testdev *t = (const struct testdev *)d;

    rec_put_u32(w, t->latch);
    rec_put_bytes(w, t->iomem, IOMEM_SIZE);
}

static int testdev_check(const struct device *d, struct record_reader *r, struct err *e) {
    cleanup_free uint8_t *iomem = xcalloc(1, IOMEM_SIZE);

    (void)d;
    rec_get_u32(r);
    rec_get_bytes(r, iomem, IOMEM_SIZE);
    return rec_done(r, e);
}

static void testdev_load(struct device *d, struct record_reader *r) {
    struct testdev *t = (struct testdev *)d;

    t->latch = rec_get_u32(r);
    rec_get_bytes(r, t->iomem, IOMEM_SIZE);
}

static void testdev_destroy(struct device *d) {
    struct testdev *t = (struct testdev *)d;

    for (unsigned i = 0; i < ARRAY_LEN(t->region); i++)
        if (t->region[i])
            mem_del_region(t->mem, t->region[i]);
    free(t);
}

static const struct device_ops testdev_ops = {
    .name = "testdev",
    .version = 1,
    .reset = testdev_reset,
    .save = testdev_save,
    .check = testdev_check,
    .load = testdev_load,
    .destroy = testdev_destroy,
};

static int add_ports(struct testdev *t, struct mem *m, struct err *e) {
    static const struct {
        uint16_t port, count;
        const struct io_ops *ops;
    } ports[] = {
        {PORT_LATCH, 4, &latch_io},
        {PORT_FLUSH, 4, &flush_io},
        {PORT_BYTES, 1, &bytes_io},
        {PORT_IRQ, IRQ_LINES, &irq_io},
    };

    for (unsigned i = 0; i < ARRAY_LEN(ports); i++) {
        t->region[i] =
            mem_add_port(m, ports[i].port, ports[i].count, "testdev", ports[i].ops, t, e);
        if (!t->region[i])
            return -1;
    }
    return 0;
}

struct testdev *testdev_new(struct mem *m, struct irq_line gsi, struct err *e) {
    struct testdev *t = xcalloc(1, sizeof(*t));

    t->dev.ops = &testdev_ops;
    t->mem = m;
    t->gsi = gsi;
    if (add_ports(t, m, e) == 0)
        t->region[4] =
            mem_add_mmio(m, GPA(IOMEM_BASE), IOMEM_SIZE, "testdev memory", &iomem_io, t, e);
    if (!t->region[4]) {
        testdev_destroy(&t->dev);
        return NULL;
    }
    return t;
}

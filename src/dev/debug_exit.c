/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debug exit port of test guests, compatible with QEMU's isa-debug-exit at 0xf4: a write of V
 * asks that the run end with status (V << 1) | 1, which the callback's owner computes. Reads are 0.
 */
#include "dev/debug_exit.h"

#include <stdlib.h>

#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"

struct debug_exit {
    struct device dev;
    struct mem *mem;
    struct region *region;
    debug_exit_fn *fn;
    void *arg;
};

static uint64_t debug_exit_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    return 0;
}

static void debug_exit_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct debug_exit *d = dev;

    (void)size;
    if (off == 0)
        d->fn(d->arg, (uint32_t)value);
}

static const struct io_ops debug_exit_io = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .min_size = 1,
    .max_size = 4,
};

static void debug_exit_reset(struct device *d) {
    (void)d;
}

static void debug_exit_save(const struct device *d, struct record_writer *w) {
    (void)d;
    (void)w;
}

static int debug_exit_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    return rec_done(r, e);
}

static void debug_exit_load(struct device *d, struct record_reader *r) {
    (void)d;
    (void)r;
}

static void debug_exit_destroy(struct device *dev) {
    struct debug_exit *d = (struct debug_exit *)dev;

    mem_del_region(d->mem, d->region);
    free(d);
}

static const struct device_ops debug_exit_ops = {
    .name = "debug_exit",
    .version = 1,
    .reset = debug_exit_reset,
    .save = debug_exit_save,
    .check = debug_exit_check,
    .load = debug_exit_load,
    .destroy = debug_exit_destroy,
};

struct debug_exit *debug_exit_new(struct mem *m, debug_exit_fn *fn, void *arg, struct err *e) {
    struct debug_exit *d = xcalloc(1, sizeof(*d));

    d->dev.ops = &debug_exit_ops;
    d->mem = m;
    d->fn = fn;
    d->arg = arg;
    d->region = mem_add_port(m, DEBUG_EXIT_PORT, 4, "debug exit", &debug_exit_io, d, e);
    if (!d->region) {
        free(d);
        return NULL;
    }
    return d;
}

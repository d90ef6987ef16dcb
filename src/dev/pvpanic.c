/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pvpanic device (QEMU, docs/specs/pvpanic.rst) as an ISA port: a read says which events are
 * understood, a write announces them. A kernel that goes on into its crash kernel (CRASH_LOADED)
 * is not at its end yet, so that event isn't taken for one.
 */
#include "dev/pvpanic.h"

#include <stdlib.h>

#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum { PANICKED = 1, CRASH_LOADED = 2 };

struct pvpanic {
    struct device dev;
    struct mem *mem;
    struct region *region;
    pvpanic_fn *fn;
    void *arg;
};

static uint64_t pvpanic_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    return PANICKED | CRASH_LOADED;
}

static void pvpanic_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct pvpanic *p = dev;

    (void)off;
    (void)size;
    if (value & PANICKED)
        p->fn(p->arg);
}

static const struct io_ops pvpanic_io = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .min_size = 1,
    .max_size = 1,
};

/* There is no state; the record says only that the device was there. */
static void pvpanic_save(const struct device *d, struct record_writer *w) {
    (void)d;
    (void)w;
}

static int pvpanic_check(const struct device *d, struct record_reader *r, struct err *e) {
    (void)d;
    return rec_done(r, e);
}

static void pvpanic_load(struct device *d, struct record_reader *r) {
    (void)d;
    (void)r;
}

static void pvpanic_destroy(struct device *dev) {
    struct pvpanic *p = (struct pvpanic *)dev;

    mem_del_region(p->mem, p->region);
    free(p);
}

static const struct device_ops pvpanic_ops = {
    .name = "pvpanic",
    .version = 1,
    .save = pvpanic_save,
    .check = pvpanic_check,
    .load = pvpanic_load,
    .destroy = pvpanic_destroy,
};

struct pvpanic *pvpanic_new(struct mem *m, pvpanic_fn *fn, void *arg, struct err *e) {
    struct pvpanic *p = xcalloc(1, sizeof(*p));

    p->dev.ops = &pvpanic_ops;
    p->mem = m;
    p->fn = fn;
    p->arg = arg;
    p->region = mem_add_port(m, PC_PVPANIC, 1, "pvpanic", &pvpanic_io, p, e);
    if (p->region)
        return p;
    free(p);
    return NULL;
}

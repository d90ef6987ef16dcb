/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debug console that Bochs introduced: a byte written is a character, a read returns the port's
 * low byte, which is how a guest finds out that it is there. Besides it the POST code port 0x80,
 * which guests also write to wait a microsecond.
 */
#include "dev/debugcon.h"

#include <stdlib.h>

#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"
#include "ui/chardev.h"

#define POST_PORT 0x80

struct debugcon {
    struct device dev;
    struct mem *mem;
    struct region *region[2];
    struct chardev *chr;
    uint8_t answer;
    uint8_t post; /* last code written */
};

static uint64_t debugcon_read(void *dev, uint64_t off, unsigned size) {
    const struct debugcon *d = dev;

    (void)off;
    (void)size;
    return d->answer;
}

static void debugcon_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct debugcon *d = dev;
    uint8_t c = (uint8_t)value;

    (void)off;
    (void)size;
    chardev_write(d->chr, &c, 1);
}

static const struct io_ops debugcon_io = {
    .read = debugcon_read,
    .write = debugcon_write,
    .min_size = 1,
    .max_size = 1,
};

static uint64_t post_read(void *dev, uint64_t off, unsigned size) {
    const struct debugcon *d = dev;

    (void)off;
    (void)size;
    return d->post;
}

static void post_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct debugcon *d = dev;

    (void)off;
    (void)size;
    d->post = (uint8_t)value;
}

static const struct io_ops post_io = {
    .read = post_read,
    .write = post_write,
    .min_size = 1,
    .max_size = 1,
};

static void debugcon_reset(struct device *dev) {
    struct debugcon *d = (struct debugcon *)dev;

    d->post = 0;
}

static void debugcon_save(const struct device *dev, struct record_writer *w) {
    const struct debugcon *d = (const struct debugcon *)dev;

    rec_put_u8(w, d->post);
}

static int debugcon_check(const struct device *dev, struct record_reader *r, struct err *e) {
    (void)dev;
    rec_get_u8(r);
    return rec_done(r, e);
}

static void debugcon_load(struct device *dev, struct record_reader *r) {
    struct debugcon *d = (struct debugcon *)dev;

    d->post = rec_get_u8(r);
}

static void debugcon_destroy(struct device *dev) {
    struct debugcon *d = (struct debugcon *)dev;

    for (unsigned i = 0; i < ARRAY_LEN(d->region); i++)
        if (d->region[i])
            mem_del_region(d->mem, d->region[i]);
    free(d);
}

static const struct device_ops debugcon_ops = {
    .name = "debugcon",
    .version = 1,
    .reset = debugcon_reset,
    .save = debugcon_save,
    .check = debugcon_check,
    .load = debugcon_load,
    .destroy = debugcon_destroy,
};

struct debugcon *debugcon_new(struct mem *m, uint16_t port, struct chardev *chr, struct err *e) {
    struct debugcon *d = xcalloc(1, sizeof(*d));

    d->dev.ops = &debugcon_ops;
    d->mem = m;
    d->chr = chr;
    d->answer = (uint8_t)port;
    d->region[0] = mem_add_port(m, port, 1, "debug console", &debugcon_io, d, e);
    if (d->region[0])
        d->region[1] = mem_add_port(m, POST_PORT, 1, "POST code", &post_io, d, e);
    if (!d->region[1]) {
        debugcon_destroy(&d->dev);
        return NULL;
    }
    return d;
}

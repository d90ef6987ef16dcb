/* SPDX-License-Identifier: Apache-2.0 */
/* Two ports and their control messages; streams that take a part of what comes. */
#include "fuzz_virtio.h"
#include "ui/chardev.h"
#include "virtio/console.h"

/* Takes two thirds, of which every byte is looked at. */
static int chr_write(void *chr, const uint8_t *buf, size_t len) {
    uint8_t copy[1024];

    (void)chr;
    memcpy(copy, buf, MIN(len, sizeof(copy)));
    return (int)(len - len / 3);
}

static struct loop *main_loop;
static struct chardev streams[2];

/* Input comes as soon as there is room. */
static void input(void *arg) {
    static const uint8_t text[64];
    struct chardev *c = arg;
    size_t room = c->front ? c->front->can_receive(c->front_arg) : 0;

    if (room)
        c->front->receive(c->front_arg, text, MIN(room, sizeof(text)));
}

static void chr_readable(void *chr) {
    loop_call(main_loop, input, chr);
}

static const struct chardev_ops chr_ops = {chr_write, chr_readable};

static struct virtio_device *make(struct mem *m, struct loop *l) {
    const struct virtio_console_port ports[2] = {{&streams[0], NULL}, {&streams[1], "name"}};

    main_loop = l;
    streams[0] = (struct chardev){.ops = &chr_ops};
    streams[1] = (struct chardev){.ops = &chr_ops};
    return virtio_console_new(m, ports, 2, l, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}

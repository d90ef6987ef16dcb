/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-console: a receive and a transmit queue for each port, and two for control messages. What
 * a stream doesn't take stays in the guest's buffer until it does; input waits in the host's stream
 * until the guest has made a buffer available and, for named ports, has opened the port.
 *
 * A port's state is looked at on the loop with one of the queues' locks, and changed by a reset,
 * which has them all.
 */
#include "virtio/console.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "ui/chardev.h"
#include "virtio/virtio.h"

enum { VIRTIO_CONSOLE_F_MULTIPORT = 1, VIRTIO_CONSOLE_F_EMERG_WRITE = 2 };
enum { CONFIG_MAX_PORTS = 4, CONFIG_EMERG = 8, CONFIG_SIZE = 12 };
enum { CONTROL_RX = 2, CONTROL_TX = 3, QUEUE_SIZE = 64 };

/* Control messages (5.3.6.2): { u32 port; u16 event; u16 value }. */
enum {
    DEVICE_READY = 0,
    DEVICE_ADD = 1,
    PORT_READY = 3,
    CONSOLE_PORT = 4,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};
#define CONTROL_HEADER 8

struct console;

struct port {
    struct console *c;
    unsigned index;
    struct chardev *chr;
    char *name;
    bool connected;  /* somebody is on the host's side */
    bool ready;      /* the driver knows of it */
    bool guest_open; /* a program of the guest has it open */
    bool starved;    /* the stream wants to hear of buffers */
    unsigned tell;   /* 1 << event: what the guest is to be told, in order of the events */
    size_t sent;     /* of the transmit queue's first buffer */
};

struct console {
    struct virtio_device d; /* first */
    struct port *ports;
    unsigned count;
};

static struct console *console_of(struct virtio_device *d) {
    return (struct console *)(void *)d;
}

static struct virtq *rx_of(const struct port *p) {
    return &p->c->d.queues[p->index ? 2 + 2 * p->index : 0];
}

static struct virtq *tx_of(const struct port *p) {
    return rx_of(p) + 1;
}

static bool multiport(const struct console *c) {
    return virtio_has(&c->d, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* A console's driver reads whatever comes; nobody reads a named port that isn't open. */
static bool takes_input(const struct port *p) {
    return p->guest_open || (p->index == 0 && !multiport(p->c));
}

/* --- from the guest --- */

/* Hands over as much as the stream takes; false when it did not take all. */
static bool transmit(struct port *p, const struct virtq_buf *b) {
    while (p->sent < b->out_len) {
        uint8_t chunk[1024];
        size_t n = virtq_read(b, p->sent, chunk, sizeof(chunk));
        size_t took = chardev_write(p->chr, chunk, n);

        p->sent += took;
        if (took < n)
            return false;
    }
    p->sent = 0;
    return true;
}

/* While the stream is full, its writable() brings us back. */
static void notify_tx(struct port *p, struct virtq *q) {
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            if (!transmit(p, b)) {
                virtq_unpop(q, b);
                virtq_flush(q);
                return;
            }
            virtq_put(q, b, 0);
        }
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

/* --- to the guest --- */

static size_t front_can_receive(void *front) {
    struct port *p = front;
    struct virtq *q = rx_of(p);
    struct virtq_buf *b;
    size_t room = 0;

    virtq_lock(q);
    while (!room && takes_input(p) && (b = virtq_pop(q))) {
        room = b->in_len;
        if (room)
            virtq_unpop(q, b);
        else
            virtq_complete(q, b, 0);
    }
    if (!room) {
        p->starved = true;
        if (virtq_notify_on(q))
            virtq_kick(q);
    }
    virtq_unlock(q);
    return room;
}

static void front_receive(void *front, const uint8_t *buf, size_t len) {
    struct port *p = front;
    struct virtq *q = rx_of(p);
    struct virtq_buf *b;

    virtq_lock(q);
    virtq_notify_off(q);
    while (len && (b = virtq_pop(q))) {
        size_t n = virtq_write(b, 0, buf, len);

        virtq_put(q, b, (uint32_t)n);
        buf += n;
        len -= n;
    }
    virtq_flush(q);
    virtq_unlock(q);
}

static void front_writable(void *front) {
    virtq_kick(tx_of(front));
}

/* A buffer came, or the guest opened the port. */
static void wake_stream(struct port *p) {
    if (!p->starved || !takes_input(p))
        return;
    p->starved = false;
    chardev_readable(p->chr);
}

/* --- control messages --- */

static void tell(struct port *p, unsigned event) {
    p->tell |= 1u << event;
    virtq_kick(&p->c->d.queues[CONTROL_RX]);
}

static void front_opened(void *front, bool open) {
    struct port *p = front;
    struct virtq *q = &p->c->d.queues[CONTROL_RX];

    virtq_lock(q);
    p->connected = open;
    if (p->ready)
        tell(p, PORT_OPEN);
    virtq_unlock(q);
}

static const struct chardev_front port_front = {
    .can_receive = front_can_receive,
    .receive = front_receive,
    .writable = front_writable,
    .opened = front_opened,
};

static void port_ready(struct port *p) {
    p->ready = true;
    tell(p, p->name ? PORT_NAME : CONSOLE_PORT);
    tell(p, PORT_OPEN);
}

static void port_opened(struct port *p, bool open) {
    p->guest_open = open;
    if (open)
        virtq_kick(rx_of(p));
}

/* Messages about ports that don't exist, or of kinds that a device doesn't get, mean nothing. */
static void control(struct console *c, const struct virtq_buf *b) {
    uint8_t raw[CONTROL_HEADER];
    uint32_t id;
    uint16_t event, value;

    if (virtq_read(b, 0, raw, sizeof(raw)) < sizeof(raw))
        return;
    memcpy(&id, raw, 4);
    memcpy(&event, raw + 4, 2);
    memcpy(&value, raw + 6, 2);
    if (event == DEVICE_READY && value)
        for (unsigned i = 0; i < c->count; i++)
            tell(&c->ports[i], DEVICE_ADD);
    if (id >= c->count)
        return;
    if (event == PORT_READY && value)
        port_ready(&c->ports[id]);
    if (event == PORT_OPEN)
        port_opened(&c->ports[id], value);
}

static void notify_control_tx(struct console *c, struct virtq *q) {
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            control(c, b);
            virtq_put(q, b, 0);
        }
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

static uint32_t put_message(struct port *p, const struct virtq_buf *b, uint16_t event) {
    const uint32_t id = p->index;
    const uint16_t value = event == PORT_OPEN ? p->connected : 1;
    const size_t name = event == PORT_NAME ? strlen(p->name) : 0;
    uint8_t raw[CONTROL_HEADER + VIRTIO_CONSOLE_NAME_MAX];

    memcpy(raw, &id, 4);
    memcpy(raw + 4, &event, 2);
    memcpy(raw + 6, &value, 2);
    if (name)
        memcpy(raw + CONTROL_HEADER, p->name, name);
    return (uint32_t)virtq_write(b, 0, raw, CONTROL_HEADER + name);
}

static struct port *who_tells(struct console *c) {
    for (unsigned i = 0; i < c->count; i++)
        if (c->ports[i].tell)
            return &c->ports[i];
    return NULL;
}

static void notify_control_rx(struct console *c, struct virtq *q) {
    struct virtq_buf *b;
    struct port *p;

    virtq_notify_off(q);
    while ((p = who_tells(c)) && ((b = virtq_pop(q)) || virtq_notify_on(q))) {
        unsigned event = (unsigned)__builtin_ctz(p->tell);

        if (!b)
            continue;
        p->tell &= p->tell - 1;
        virtq_put(q, b, put_message(p, b, (uint16_t)event));
    }
    virtq_flush(q);
}

/* --- the device --- */

static void console_notify(struct virtio_device *d, struct virtq *q) {
    struct console *c = console_of(d);
    const unsigned port = q->index < CONTROL_RX ? 0 : q->index / 2 - 1;

    if (q->index == CONTROL_RX)
        notify_control_rx(c, q);
    else if (q->index == CONTROL_TX)
        notify_control_tx(c, q);
    else if (q->index & 1)
        notify_tx(&c->ports[port], q);
    else
        wake_stream(&c->ports[port]);
}

static void console_reset(struct virtio_device *d) {
    struct console *c = console_of(d);

    for (unsigned i = 0; i < c->count; i++) {
        c->ports[i].ready = c->ports[i].guest_open = false;
        c->ports[i].tell = 0;
        c->ports[i].sent = 0;
    }
}

/* A character in an emergency goes where port 0's go, if there is room. */
static void console_config_write(struct virtio_device *d, unsigned off, unsigned size,
                                 uint32_t value) {
    const uint8_t ch = (uint8_t)value;

    (void)size;
    if (off == CONFIG_EMERG)
        chardev_write(console_of(d)->ports[0].chr, &ch, 1);
}

static void console_save(const struct virtio_device *d, struct record_writer *w) {
    const struct console *c = (const struct console *)(const void *)d;

    for (unsigned i = 0; i < c->count; i++) {
        rec_put_u8(w, c->ports[i].ready);
        rec_put_u8(w, c->ports[i].guest_open);
        rec_put_u32(w, c->ports[i].tell);
        rec_put_u32(w, (uint32_t)c->ports[i].sent);
    }
}

static int console_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    const struct console *c = (const struct console *)(const void *)d;
    const unsigned known =
        1u << DEVICE_ADD | 1u << CONSOLE_PORT | 1u << PORT_OPEN | 1u << PORT_NAME;

    for (unsigned i = 0; i < c->count; i++) {
        uint8_t ready = rec_get_u8(r), open = rec_get_u8(r);
        uint32_t events = rec_get_u32(r);

        rec_get_u32(r);
        if (ready > 1 || open > 1 || events & ~known ||
            (!c->ports[i].name && events & 1u << PORT_NAME))
            return err_set(e, 0, "virtio-console: port %u: state %u, events 0x%x", i, open, events);
    }
    return 0;
}

static void console_load(struct virtio_device *d, struct record_reader *r) {
    struct console *c = console_of(d);

    for (unsigned i = 0; i < c->count; i++) {
        c->ports[i].ready = rec_get_u8(r);
        c->ports[i].guest_open = rec_get_u8(r);
        c->ports[i].tell = rec_get_u32(r);
        c->ports[i].sent = rec_get_u32(r);
    }
}

static void console_destroy(struct virtio_device *d) {
    struct console *c = console_of(d);

    for (unsigned i = 0; i < c->count; i++) {
        if (c->ports[i].chr && c->ports[i].chr->front_arg == &c->ports[i])
            chardev_attach(c->ports[i].chr, NULL, NULL);
        free(c->ports[i].name);
    }
    free(c->ports);
    virtio_destroy(d);
    free(c);
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .version = 1,
    .pci_class = 0x078000,
    .notify = console_notify,
    .reset = console_reset,
    .config_write = console_config_write,
    .save = console_save,
    .check = console_check,
    .load = console_load,
    .destroy = console_destroy,
};

static void add_port(struct console *c, unsigned i, const struct virtio_console_port *from) {
    struct port *p = &c->ports[i];

    *p = (struct port){.c = c, .index = i, .chr = from->chr, .connected = from->chr != NULL};
    p->name = from->name ? xstrdup(from->name) : NULL;
}

struct virtio_device *virtio_console_new(struct mem *m, const struct virtio_console_port *ports,
                                         unsigned count, struct loop *l, struct err *e) {
    struct console *c = xcalloc(1, sizeof(*c));
    const uint64_t features =
        VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT) | VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE);

    c->ports = xcalloc(count, sizeof(*c->ports));
    c->count = count;
    for (unsigned i = 0; i < count; i++)
        add_port(c, i, &ports[i]);
    virtio_init(&c->d, &console_ops, m, features, CONFIG_SIZE);
    virtio_config_set(&c->d, CONFIG_MAX_PORTS, 4, count);
    if (virtio_add_queues(&c->d, 2 + 2 * count, QUEUE_SIZE, sizeof(struct virtq_buf), l, e) < 0) {
        console_destroy(&c->d);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        if (ports[i].chr)
            chardev_attach(ports[i].chr, &port_front, &c->ports[i]);
    return &c->d;
}

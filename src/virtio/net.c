/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network device (virtio 1.2, section 5.1): checksum and segmentation offload both ways, mergeable
 * receive buffers, several queue pairs, the control queue's filters, link state, MTU. It leaves out
 * UDP fragmentation offload, which drivers have dropped, and RSS: frames to the guest come in
 * through the pair that the flow was last sent from.
 */
#include "virtio/net.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/notifier.h"
#include "base/record.h"
#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"
#include "net/vnet.h"
#include "virtio/virtio.h"

enum {
    NET_F_CSUM = 0,
    NET_F_GUEST_CSUM = 1,
    NET_F_CTRL_GUEST_OFFLOADS = 2,
    NET_F_MTU = 3,
    NET_F_MAC = 5,
    NET_F_GUEST_TSO4 = 7,
    NET_F_GUEST_TSO6 = 8,
    NET_F_GUEST_ECN = 9,
    NET_F_HOST_TSO4 = 11,
    NET_F_HOST_TSO6 = 12,
    NET_F_HOST_ECN = 13,
    NET_F_MRG_RXBUF = 15,
    NET_F_STATUS = 16,
    NET_F_CTRL_VQ = 17,
    NET_F_CTRL_RX = 18,
    NET_F_CTRL_VLAN = 19,
    NET_F_CTRL_RX_EXTRA = 20,
    NET_F_GUEST_ANNOUNCE = 21,
    NET_F_MQ = 22,
    NET_F_CTRL_MAC_ADDR = 23,
    NET_F_GUEST_USO4 = 54,
    NET_F_GUEST_USO6 = 55,
    NET_F_HOST_USO = 56,
};

#define GUEST_OFFLOADS                                                                             \
    (VIRTIO_BIT(NET_F_GUEST_CSUM) | VIRTIO_BIT(NET_F_GUEST_TSO4) | VIRTIO_BIT(NET_F_GUEST_TSO6) |  \
     VIRTIO_BIT(NET_F_GUEST_ECN) | VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6))
#define FEATURES                                                                                   \
    (GUEST_OFFLOADS | VIRTIO_BIT(NET_F_CTRL_GUEST_OFFLOADS) | VIRTIO_BIT(NET_F_MAC) |              \
     VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_CTRL_VQ) |          \
     VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_VLAN) | VIRTIO_BIT(NET_F_CTRL_RX_EXTRA) |   \
     VIRTIO_BIT(NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR))

/* Configuration space (5.1.4). */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_LEN = 12 };
enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };

/* The control queue's commands (5.1.6.5), class and command in one. */
enum {
    CTRL_RX_PROMISC = 0x000,
    CTRL_RX_ALLMULTI = 0x001,
    CTRL_RX_ALLUNI = 0x002,
    CTRL_RX_NOMULTI = 0x003,
    CTRL_RX_NOUNI = 0x004,
    CTRL_RX_NOBCAST = 0x005,
    CTRL_MAC_TABLE_SET = 0x100,
    CTRL_MAC_ADDR_SET = 0x101,
    CTRL_VLAN_ADD = 0x200,
    CTRL_VLAN_DEL = 0x201,
    CTRL_ANNOUNCE_ACK = 0x300,
    CTRL_MQ_PAIRS_SET = 0x400,
    CTRL_GUEST_OFFLOADS_SET = 0x500,
};
enum { CTRL_OK = 0, CTRL_ERR = 1 };

#define QUEUE_SIZE 256
#define HEADER_MAX 12
#define MACS_MAX 64
#define VLANS 4096
#define FLOWS 256
/* Frames that one queue sends before the others have their turn. */
#define SEND_BUDGET 256

enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST, RX_MODES };

struct mac_table {
    uint32_t count;
    bool overflow; /* more than we keep: all such addresses are let in */
    uint8_t macs[MACS_MAX][6];
};

/* What reaches the guest (5.1.6.5.1 to .3); all does until the driver says otherwise. */
struct rx_filter {
    uint8_t mac[6];
    bool modes[RX_MODES];
    struct mac_table unicast, multicast;
    uint8_t vlans[VLANS / 8];
};

/* The state is touched by notify() and the back end, on one thread, and with all locks held. */
struct virtio_net {
    struct virtio_device d;
    struct net *net;
    struct notifier *changed; /* what the driver wants of the back end */
    unsigned pairs_max, pairs;
    uint8_t mac[6];
    struct rx_filter filter;
    uint64_t offloads; /* of GUEST_OFFLOADS, those that are on */
    unsigned can;      /* the same as NET_CAN_… */
    uint16_t status;
    bool send_blocked[VIRTIO_NET_PAIRS_MAX];
    uint8_t flows[FLOWS]; /* the pair that a flow's hash was last sent from */

    struct virtq_buf *bufs[VIRTQ_MAX_SIZE];   /* of one frame that is received */
    struct iovec slice[VIRTQ_MAX_CHAIN + 64]; /* a header and all that a buffer can have */
};

static struct virtio_net *self(struct virtio_device *d) {
    return (struct virtio_net *)d;
}

static unsigned header_len(const struct virtio_device *d) {
    return virtio_has(d, VIRTIO_F_VERSION_1) || virtio_has(d, NET_F_MRG_RXBUF) ? 12 : 10;
}

static unsigned ctrl_queue(const struct virtio_net *n) {
    return virtio_has(&n->d, NET_F_MQ) ? 2 * n->pairs_max : 2;
}

static struct virtq *rx_queue(struct virtio_net *n, unsigned pair) {
    return &n->d.queues[2 * pair];
}

static struct virtq *tx_queue(struct virtio_net *n, unsigned pair) {
    return &n->d.queues[2 * pair + 1];
}

/* The back end's queue that serves a pair. */
static unsigned lane(const struct virtio_net *n, unsigned pair) {
    return pair < n->net->queues_max ? pair : 0;
}

/* --- what drivers can --- */

/* What the driver may ask for in a header. */
static unsigned host_can(const struct virtio_device *d) {
    unsigned can = virtio_has(d, NET_F_CSUM) ? NET_CAN_CSUM : 0;

    can |= virtio_has(d, NET_F_HOST_TSO4) ? NET_CAN_TSO4 : 0;
    can |= virtio_has(d, NET_F_HOST_TSO6) ? NET_CAN_TSO6 : 0;
    can |= virtio_has(d, NET_F_HOST_ECN) ? NET_CAN_ECN : 0;
    can |= virtio_has(d, NET_F_HOST_USO) ? NET_CAN_USO : 0;
    return can;
}

static unsigned guest_can(uint64_t offloads) {
    uint64_t uso = VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6);
    unsigned can = offloads & VIRTIO_BIT(NET_F_GUEST_CSUM) ? NET_CAN_CSUM : 0;

    can |= offloads & VIRTIO_BIT(NET_F_GUEST_TSO4) ? NET_CAN_TSO4 : 0;
    can |= offloads & VIRTIO_BIT(NET_F_GUEST_TSO6) ? NET_CAN_TSO6 : 0;
    can |= offloads & VIRTIO_BIT(NET_F_GUEST_ECN) ? NET_CAN_ECN : 0;
    can |= (offloads & uso) == uso ? NET_CAN_USO : 0;
    return can;
}

/* --- flows: answers come in where the question went out --- */

/* The same for both directions. */
static unsigned flow_hash(const uint8_t *frame, size_t len) {
    struct net_headers h;
    uint32_t sum = 0;

    if (!net_headers_find(frame, len, &h))
        return 0;
    for (size_t i = 0; i < (h.v6 ? 32u : 8u); i += 4)
        sum += get_be32(frame + h.ip + (h.v6 ? 8 : 12) + i);
    if (!h.fragment && h.l4 + 4 <= len)
        sum += (uint32_t)get_be16(frame + h.l4) + get_be16(frame + h.l4 + 2);
    return (sum * 0x9e3779b1u) >> 24;
}

#define FLOW_BYTES 96

static void note_flow(struct virtio_net *n, unsigned pair, const struct net_frame *f) {
    uint8_t head[FLOW_BYTES];

    if (n->pairs == 1 || n->net->queues_max > 1)
        return;
    size_t len = iov_read(f->iov, f->iov_count, 0, head, sizeof(head));
    n->flows[flow_hash(head, len)] = (uint8_t)pair;
}

static unsigned rx_pair(const struct virtio_net *n, unsigned queue, const struct net_frame *f) {
    uint8_t head[FLOW_BYTES];

    if (n->pairs == 1)
        return 0;
    if (n->net->queues_max > 1)
        return queue % n->pairs;
    size_t len = iov_read(f->iov, f->iov_count, 0, head, sizeof(head));
    return n->flows[flow_hash(head, len)] % n->pairs;
}

/* --- filters --- */

static bool in_table(const struct mac_table *t, const uint8_t *mac) {
    if (t->overflow)
        return true;
    for (uint32_t i = 0; i < t->count; i++)
        if (memcmp(t->macs[i], mac, 6) == 0)
            return true;
    return false;
}

static bool vlan_passes(const struct virtio_net *n, const uint8_t *head, size_t len) {
    unsigned vlan;

    if (!virtio_has(&n->d, NET_F_CTRL_VLAN) || len < 16 || get_be16(head + 12) != 0x8100)
        return true;
    vlan = get_be16(head + 14) & (VLANS - 1);
    return n->filter.vlans[vlan / 8] >> vlan % 8 & 1;
}

static bool address_passes(const struct rx_filter *f, const uint8_t *mac) {
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    if (f->modes[RX_PROMISC])
        return true;
    if (memcmp(mac, broadcast, 6) == 0)
        return !f->modes[RX_NOBCAST];
    if (mac[0] & 1)
        return !f->modes[RX_NOMULTI] && (f->modes[RX_ALLMULTI] || in_table(&f->multicast, mac));
    if (f->modes[RX_NOUNI])
        return false;
    return f->modes[RX_ALLUNI] || memcmp(mac, f->mac, 6) == 0 || in_table(&f->unicast, mac);
}

static bool passes(const struct virtio_net *n, const struct net_frame *f) {
    uint8_t head[18];
    size_t len = iov_read(f->iov, f->iov_count, 0, head, sizeof(head));

    return len >= 14 && address_passes(&n->filter, head) && vlan_passes(n, head, len);
}

static void reset_filter(struct virtio_net *n) {
    memset(&n->filter, 0, sizeof(n->filter));
    memcpy(n->filter.mac, n->mac, 6);
    n->filter.modes[RX_PROMISC] = true;
}

static void set_mac(struct virtio_net *n, const uint8_t *mac) {
    memcpy(n->filter.mac, mac, 6);
    for (unsigned i = 0; i < 6; i++)
        virtio_config_set(&n->d, CONFIG_MAC + i, 1, mac[i]);
}

/* --- to the guest --- */

/* Buffers for `need` bytes in n->bufs; false when what is there does not do. */
static bool gather(struct virtio_net *n, struct virtq *q, size_t need, unsigned *count) {
    bool merge = virtio_has(&n->d, NET_F_MRG_RXBUF);
    size_t room = 0;

    for (*count = 0; room < need && (merge || *count == 0) && *count < ARRAY_LEN(n->bufs);) {
        struct virtq_buf *b = virtq_pop(q);

        if (!b)
            break;
        n->bufs[(*count)++] = b;
        room += b->in_len;
    }
    return room >= need;
}

static void give_back(struct virtio_net *n, struct virtq *q, unsigned count) {
    while (count)
        virtq_unpop(q, n->bufs[--count]);
}

/* Header and frame, one after the other through all the buffers. */
static void fill(struct virtio_net *n, struct virtq *q, unsigned count, const struct net_frame *f) {
    uint8_t header[HEADER_MAX];
    size_t at = 0;

    vnet_put(header, &f->offload);
    vnet_put16(header + VNET_HEADER, (uint16_t)count);
    n->slice[0] = (struct iovec){header, header_len(&n->d)};
    memcpy(n->slice + 1, f->iov, f->iov_count * sizeof(*f->iov));
    for (unsigned i = 0; i < count; i++) {
        struct virtq_buf *b = n->bufs[i];
        size_t start = at;

        for (unsigned k = 0; k < b->in_count; k++)
            at += iov_read(n->slice, f->iov_count + 1, at, b->in[k].iov_base, b->in[k].iov_len);
        virtq_put(q, b, (uint32_t)(at - start));
    }
    virtq_flush(q);
}

/* Too small for this frame for ever: one buffer that must do alone, or all that there can be. */
static bool hopeless(const struct virtio_net *n, const struct virtq *q, unsigned count) {
    return virtio_has(&n->d, NET_F_MRG_RXBUF) ? count >= q->size : count > 0;
}

/* Notifications are asked for while all that is there is popped: for the next one, that is. */
static bool fill_one(struct virtio_net *n, struct virtq *q, const struct net_frame *f) {
    size_t need = header_len(&n->d) + f->len;
    unsigned count;
    bool more, drop;

    do {
        virtq_notify_off(q);
        if (gather(n, q, need, &count)) {
            fill(n, q, count, f);
            return true;
        }
        drop = hopeless(n, q, count);
        more = !drop && virtq_notify_on(q);
        give_back(n, q, count);
    } while (more);
    return drop;
}

/* Drops what no guest waits for; keeps what comes while the machine is held. */
static bool receive(struct virtio_net *n, struct virtq *q, const struct net_frame *f) {
    if (!virtq_usable(q))
        return !atomic_load(&n->d.held);
    if (!n->net->link_up || !passes(n, f) || f->iov_count >= ARRAY_LEN(n->slice))
        return true;
    if (net_offload_needs(&f->offload) & ~n->can)
        return true;
    return fill_one(n, q, f);
}

static bool on_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct virtio_net *n = arg;
    struct net_frame copy = *f;
    struct virtq *q = rx_queue(n, rx_pair(n, queue, f));

    virtq_lock(q);
    if (!(n->can & NET_CAN_CSUM))
        copy.offload.flags &= (uint8_t)~NET_DATA_VALID;
    bool taken = receive(n, q, &copy);
    virtq_unlock(q);
    return taken;
}

/* --- from the guest --- */

/* False when the back end is full. */
static bool send_one(struct virtio_net *n, struct virtq *q, struct virtq_buf *b) {
    unsigned header = header_len(&n->d), pair = q->index / 2;
    uint8_t head[HEADER_MAX];
    struct net_frame f = {.iov = n->slice, .len = b->out_len - header};

    if (b->out_len < header || b->in_len) {
        virtio_broken(&n->d, "a frame of %zu bytes to send, %zu to fill", b->out_len, b->in_len);
        return true;
    }
    virtq_read(b, 0, head, header);
    f.offload = vnet_get(head);
    f.offload.flags &= NET_NEEDS_CSUM;
    f.iov_count = iov_slice(b->out, b->out_count, header, f.len, n->slice);
    if (!n->net->link_up || f.len < 14 || f.len > NET_FRAME_MAX ||
        net_offload_needs(&f.offload) & ~host_can(&n->d))
        return true;
    note_flow(n, pair, &f);
    return net_send(n->net, lane(n, pair), &f);
}

static bool send_some(struct virtio_net *n, struct virtq *q) {
    struct virtq_buf *b;

    for (unsigned i = 0; i < SEND_BUDGET; i++) {
        b = virtq_pop(q);
        if (!b)
            return true;
        if (!send_one(n, q, b)) {
            virtq_unpop(q, b);
            n->send_blocked[q->index / 2] = true;
            return false;
        }
        virtq_put(q, b, 0);
    }
    virtq_kick(q);
    return false;
}

/* While the back end is full no notification is needed: it says when it is not. */
static void send_all(struct virtio_net *n, struct virtq *q) {
    bool all;

    n->send_blocked[q->index / 2] = false;
    do {
        virtq_notify_off(q);
        all = send_some(n, q);
        virtq_flush(q);
    } while (all && virtq_notify_on(q));
}

static void on_send_again(void *arg, unsigned queue) {
    struct virtio_net *n = arg;

    for (unsigned i = 0; i < n->pairs_max; i++)
        if (lane(n, i) == queue && n->send_blocked[i])
            virtq_kick(tx_queue(n, i));
}

/* --- the control queue --- */

static bool set_mode(struct virtio_net *n, unsigned mode, const uint8_t *data, size_t len) {
    if (len != 1)
        return false;
    n->filter.modes[mode] = data[0];
    return true;
}

/* One table: a count and as many addresses. Returns the bytes it takes, 0 when it is cut short. */
static size_t get_table(struct mac_table *t, const uint8_t *data, size_t len) {
    uint32_t count;

    if (len < 4)
        return 0;
    count = vnet_get16(data) | (uint32_t)vnet_get16(data + 2) << 16;
    if (count > (len - 4) / 6)
        return 0;
    t->overflow = count > MACS_MAX;
    t->count = t->overflow ? 0 : count;
    memcpy(t->macs, data + 4, t->count * (size_t)6);
    return 4 + count * (size_t)6;
}

static bool set_tables(struct virtio_net *n, const uint8_t *data, size_t len) {
    struct mac_table unicast = {0}, multicast = {0};
    size_t first = get_table(&unicast, data, len);

    if (!first || get_table(&multicast, data + first, len - first) != len - first)
        return false;
    n->filter.unicast = unicast;
    n->filter.multicast = multicast;
    return true;
}

static bool set_vlan(struct virtio_net *n, bool on, const uint8_t *data, size_t len) {
    unsigned vlan = len == 2 ? vnet_get16(data) : VLANS;
    uint8_t bit = (uint8_t)(1 << vlan % 8);

    if (vlan >= VLANS)
        return false;
    if (on)
        n->filter.vlans[vlan / 8] |= bit;
    else
        n->filter.vlans[vlan / 8] &= (uint8_t)~bit;
    return true;
}

static void set_status(struct virtio_net *n, uint16_t status) {
    n->status = status;
    virtio_config_set(&n->d, CONFIG_STATUS, 2, status);
}

static bool set_pairs(struct virtio_net *n, const uint8_t *data, size_t len) {
    unsigned pairs = len == 2 ? vnet_get16(data) : 0;

    if (!virtio_has(&n->d, NET_F_MQ) || pairs < 1 || pairs > n->pairs_max)
        return false;
    n->pairs = pairs;
    notifier_ring(n->changed);
    return true;
}

static bool set_offloads(struct virtio_net *n, const uint8_t *data, size_t len) {
    uint64_t wanted = 0;

    if (len != 8)
        return false;
    for (unsigned i = 0; i < 8; i++)
        wanted |= (uint64_t)data[i] << 8 * i;
    if (wanted & ~(n->d.acked & GUEST_OFFLOADS))
        return false;
    n->offloads = wanted;
    n->can = guest_can(wanted);
    notifier_ring(n->changed);
    return true;
}

/* The feature that a command's class comes with (5.1.6.5). */
static bool command_allowed(const struct virtio_device *d, unsigned command) {
    switch (command >> 8) {
    case CTRL_RX_PROMISC >> 8:
        return virtio_has(d, command <= CTRL_RX_ALLMULTI ? NET_F_CTRL_RX : NET_F_CTRL_RX_EXTRA);
    case CTRL_MAC_TABLE_SET >> 8:
        return virtio_has(d, command == CTRL_MAC_ADDR_SET ? NET_F_CTRL_MAC_ADDR : NET_F_CTRL_RX);
    case CTRL_VLAN_ADD >> 8:
        return virtio_has(d, NET_F_CTRL_VLAN);
    case CTRL_ANNOUNCE_ACK >> 8:
        return virtio_has(d, NET_F_GUEST_ANNOUNCE);
    case CTRL_MQ_PAIRS_SET >> 8:
        return virtio_has(d, NET_F_MQ);
    default:
        return virtio_has(d, NET_F_CTRL_GUEST_OFFLOADS);
    }
}

static bool command(struct virtio_net *n, unsigned what, const uint8_t *data, size_t len) {
    if (!command_allowed(&n->d, what))
        return false;
    switch (what) {
    case CTRL_RX_PROMISC:
    case CTRL_RX_ALLMULTI:
    case CTRL_RX_ALLUNI:
    case CTRL_RX_NOMULTI:
    case CTRL_RX_NOUNI:
    case CTRL_RX_NOBCAST:
        return set_mode(n, what & 0xff, data, len);
    case CTRL_MAC_TABLE_SET:
        return set_tables(n, data, len);
    case CTRL_MAC_ADDR_SET:
        if (len == 6)
            set_mac(n, data);
        return len == 6;
    case CTRL_VLAN_ADD:
    case CTRL_VLAN_DEL:
        return set_vlan(n, what == CTRL_VLAN_ADD, data, len);
    case CTRL_ANNOUNCE_ACK:
        set_status(n, n->status & (uint16_t)~STATUS_ANNOUNCE);
        return true;
    case CTRL_MQ_PAIRS_SET:
        return set_pairs(n, data, len);
    case CTRL_GUEST_OFFLOADS_SET:
        return set_offloads(n, data, len);
    default:
        return false;
    }
}

/* Longer than any command that makes sense: two tables of far more addresses than we keep. */
#define COMMAND_MAX 16384

static void control(struct virtio_net *n, struct virtq *q) {
    cleanup_free uint8_t *buf = xcalloc(1, COMMAND_MAX);
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q))) {
            size_t len = virtq_read(b, 0, buf, COMMAND_MAX);
            bool good = len >= 2 && b->out_len <= COMMAND_MAX && b->in_len &&
                        command(n, (unsigned)buf[0] << 8 | buf[1], buf + 2, len - 2);
            uint8_t ack = good ? CTRL_OK : CTRL_ERR;

            if (len < 2 || !b->in_len)
                virtio_broken(&n->d, "a command of %zu bytes, %zu for the answer", len, b->in_len);
            virtq_put(q, b, (uint32_t)virtq_write(b, 0, &ack, 1));
        }
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

/* --- life --- */

static void net_notify(struct virtio_device *d, struct virtq *q) {
    struct virtio_net *n = self(d);

    if (q->index == ctrl_queue(n) && virtio_has(d, NET_F_CTRL_VQ)) {
        control(n, q);
    } else if (q->index & 1) {
        send_all(n, q);
    } else {
        virtq_notify_off(q);
        net_receive_again(n->net, lane(n, q->index / 2));
    }
}

/* The loop's thread: the back end learns what the driver takes. */
static void on_changed(void *arg) {
    struct virtio_net *n = arg;
    struct virtq *q = rx_queue(n, 0);

    virtq_lock(q);
    unsigned can = n->can, pairs = n->pairs;
    virtq_unlock(q);
    net_set_front(n->net, can, MIN(pairs, n->net->queues_max));
    for (unsigned i = 0; i < n->net->queues_max; i++)
        net_receive_again(n->net, i);
}

static void net_ready(struct virtio_device *d) {
    struct virtio_net *n = self(d);

    n->offloads = d->acked & GUEST_OFFLOADS;
    n->can = guest_can(n->offloads);
    notifier_ring(n->changed);
}

static void net_reset(struct virtio_device *d) {
    struct virtio_net *n = self(d);

    n->pairs = 1;
    n->offloads = n->can = 0;
    memset(n->send_blocked, 0, sizeof(n->send_blocked));
    memset(n->flows, 0, sizeof(n->flows));
    set_mac(n, n->mac);
    reset_filter(n);
    set_status(n, n->status & STATUS_LINK_UP);
    notifier_ring(n->changed);
}

/* Drivers from before CTRL_MAC_ADDR write the address byte by byte (5.1.4.3). */
static void net_config_write(struct virtio_device *d, unsigned off, unsigned size, uint32_t value) {
    struct virtio_net *n = self(d);

    if (virtio_has(d, VIRTIO_F_VERSION_1) || off + size > CONFIG_STATUS)
        return;
    for (unsigned i = 0; i < size; i++)
        n->filter.mac[off + i] = (uint8_t)(value >> 8 * i);
    virtio_config_set(d, off, size, value);
}

static void on_link_changed(void *arg, bool up) {
    struct virtio_net *n = arg;
    struct virtq *q = rx_queue(n, 0);

    virtq_lock(q);
    set_status(n, (n->status & STATUS_ANNOUNCE) | (up ? STATUS_LINK_UP : 0));
    virtq_unlock(q);
    virtio_config_changed(&n->d);
}

void virtio_net_announce(struct virtio_device *d) {
    struct virtio_net *n = self(d);
    struct virtq *q = rx_queue(n, 0);

    virtq_lock(q);
    bool wanted = virtio_has(d, NET_F_GUEST_ANNOUNCE);
    if (wanted)
        set_status(n, n->status | STATUS_ANNOUNCE);
    virtq_unlock(q);
    if (wanted)
        virtio_config_changed(d);
}

static const struct net_front front = {on_receive, on_send_again, on_link_changed};

/* --- state --- */

static void save_table(const struct mac_table *t, struct record_writer *w) {
    rec_put_u32(w, t->count);
    rec_put_u8(w, t->overflow);
    rec_put_bytes(w, t->macs, sizeof(t->macs));
}

static void net_save(const struct virtio_device *d, struct record_writer *w) {
    const struct virtio_net *n = (const struct virtio_net *)d;

    rec_put_u32(w, n->pairs);
    rec_put_u64(w, n->offloads);
    rec_put_u16(w, n->status);
    rec_put_bytes(w, n->mac, sizeof(n->mac));
    rec_put_bytes(w, n->filter.mac, sizeof(n->filter.mac));
    for (unsigned i = 0; i < RX_MODES; i++)
        rec_put_u8(w, n->filter.modes[i]);
    save_table(&n->filter.unicast, w);
    save_table(&n->filter.multicast, w);
    rec_put_bytes(w, n->filter.vlans, sizeof(n->filter.vlans));
}

struct saved {
    uint32_t pairs;
    uint64_t offloads;
    uint16_t status;
    uint8_t mac[6];
    struct rx_filter filter;
};

static bool load_table(struct mac_table *t, struct record_reader *r) {
    t->count = rec_get_u32(r);
    uint8_t overflow = rec_get_u8(r);
    t->overflow = overflow;
    rec_get_bytes(r, t->macs, sizeof(t->macs));
    return t->count <= MACS_MAX && overflow <= 1;
}

static bool load_saved(struct saved *s, struct record_reader *r) {
    bool good = true;

    s->pairs = rec_get_u32(r);
    s->offloads = rec_get_u64(r);
    s->status = rec_get_u16(r);
    rec_get_bytes(r, s->mac, sizeof(s->mac));
    rec_get_bytes(r, s->filter.mac, sizeof(s->filter.mac));
    for (unsigned i = 0; i < RX_MODES; i++)
        s->filter.modes[i] = rec_get_u8(r);
    good &= load_table(&s->filter.unicast, r);
    good &= load_table(&s->filter.multicast, r);
    rec_get_bytes(r, s->filter.vlans, sizeof(s->filter.vlans));
    return good;
}

static int net_check(const struct virtio_device *d, struct record_reader *r, struct err *e) {
    const struct virtio_net *n = (const struct virtio_net *)d;
    cleanup_free struct saved *s = xcalloc(1, sizeof(*s));

    if (!load_saved(s, r) || s->pairs < 1 || s->pairs > n->pairs_max ||
        s->offloads & ~GUEST_OFFLOADS || s->status & ~(STATUS_LINK_UP | STATUS_ANNOUNCE))
        return err_set(e, 0, "virtio-net: %u queue pairs, status 0x%x", s->pairs, s->status);
    return 0;
}

/* The link is what it is here. */
static void net_load(struct virtio_device *d, struct record_reader *r) {
    struct virtio_net *n = self(d);
    cleanup_free struct saved *s = xcalloc(1, sizeof(*s));

    load_saved(s, r);
    n->pairs = s->pairs;
    n->offloads = s->offloads;
    n->can = guest_can(s->offloads);
    memcpy(n->mac, s->mac, 6);
    n->filter = s->filter;
    set_mac(n, s->filter.mac);
    set_status(n, (s->status & STATUS_ANNOUNCE) | (n->net->link_up ? STATUS_LINK_UP : 0));
    notifier_ring(n->changed);
}

static void net_destroy(struct virtio_device *d) {
    struct virtio_net *n = self(d);

    notifier_free(n->changed);
    virtio_destroy(d);
    free(n);
}

static const struct virtio_ops ops = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .version = 1,
    .pci_class = 0x020000,
    .notify = net_notify,
    .ready = net_ready,
    .reset = net_reset,
    .config_write = net_config_write,
    .save = net_save,
    .check = net_check,
    .load = net_load,
    .destroy = net_destroy,
};

static uint64_t features(const struct net *net, unsigned pairs) {
    uint64_t f = FEATURES;

    f |= net->can & NET_CAN_CSUM ? VIRTIO_BIT(NET_F_CSUM) : 0;
    f |= net->can & NET_CAN_TSO4 ? VIRTIO_BIT(NET_F_HOST_TSO4) : 0;
    f |= net->can & NET_CAN_TSO6 ? VIRTIO_BIT(NET_F_HOST_TSO6) : 0;
    f |= net->can & NET_CAN_ECN ? VIRTIO_BIT(NET_F_HOST_ECN) : 0;
    f |= net->can & NET_CAN_USO ? VIRTIO_BIT(NET_F_HOST_USO) : 0;
    f |= net->mtu ? VIRTIO_BIT(NET_F_MTU) : 0;
    f |= pairs > 1 ? VIRTIO_BIT(NET_F_MQ) : 0;
    return f;
}

static int set_up(struct virtio_net *n, struct err *e) {
    virtio_config_set(&n->d, CONFIG_PAIRS, 2, n->pairs_max);
    virtio_config_set(&n->d, CONFIG_MTU, 2, n->net->mtu);
    set_mac(n, n->mac);
    reset_filter(n);
    set_status(n, n->net->link_up ? STATUS_LINK_UP : 0);
    n->changed = notifier_new(n->net->loop, on_changed, n, e);
    if (!n->changed)
        return -1;
    return virtio_add_queues(&n->d, 2 * n->pairs_max + 1, QUEUE_SIZE, sizeof(struct virtq_buf),
                             n->net->loop, e);
}

struct virtio_device *virtio_net_new(struct mem *m, struct net *net,
                                     const struct virtio_net_config *config, struct err *e) {
    struct virtio_net *n = xcalloc(1, sizeof(*n));

    n->net = net;
    n->pairs = 1;
    n->pairs_max = MAX(1u, MIN(config->pairs, (unsigned)VIRTIO_NET_PAIRS_MAX));
    memcpy(n->mac, config->mac, 6);
    virtio_init(&n->d, &ops, m, features(net, n->pairs_max), CONFIG_LEN);
    if (set_up(n, e) < 0) {
        net_destroy(&n->d);
        return NULL;
    }
    net_attach(net, &front, n);
    return &n->d;
}

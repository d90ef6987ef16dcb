/* SPDX-License-Identifier: Apache-2.0 */
/* The network device over offloads in software, on a back end that sends everything back. */
#include "base/iov.h"
#include "base/notifier.h"
#include "fuzz_virtio.h"
#include "net/fifo.h"
#include "net/filter.h"
#include "virtio/net.h"

#define WAITING_MAX (256u << 10)

struct echo {
    struct net net;
    struct net_fifo fifo;
    struct notifier *again;
    uint8_t frame[NET_FRAME_MAX];
};

static void on_again(void *arg) {
    struct echo *n = arg;
    struct net_frame f;
    struct iovec iov;

    while (net_fifo_peek(&n->fifo, &f, &iov) && net_receive(&n->net, 0, &f))
        net_fifo_drop(&n->fifo);
    if (net_fifo_bytes(&n->fifo) <= WAITING_MAX)
        n->net.front->send_again(n->net.front_arg, 0);
}

/* A frame comes back as it went out: to be cut or summed where the guest cannot take it. */
static bool echo_send(struct net *net, unsigned queue, const struct net_frame *f) {
    struct echo *n = container_of(net, struct echo, net);
    size_t len = iov_read(f->iov, f->iov_count, 0, n->frame, f->len);

    (void)queue;
    notifier_ring(n->again);
    if (net_fifo_bytes(&n->fifo) > WAITING_MAX)
        return false;
    net_fifo_put(&n->fifo, n->frame, len, &f->offload);
    return true;
}

static void echo_receive_again(struct net *net, unsigned queue) {
    (void)queue;
    notifier_ring(container_of(net, struct echo, net)->again);
}

static void echo_close(struct net *net) {
    struct echo *n = container_of(net, struct echo, net);

    net_fifo_clear(&n->fifo);
    notifier_free(n->again);
    free(n);
}

static const struct net_ops echo_ops = {
    .name = "echo",
    .send = echo_send,
    .receive_again = echo_receive_again,
    .close = echo_close,
};

/* The device takes its back end with it, while the loop is there. */
static struct net *soft;
static struct virtio_ops ops;
static const struct virtio_ops *device_ops;

static void destroy(struct virtio_device *d) {
    device_ops->destroy(d);
    net_close(soft);
}

static struct virtio_device *make(struct mem *m, struct loop *l) {
    const struct virtio_net_config config = {.mac = {2, 0, 0, 0, 0, 1}, .pairs = 1};
    struct echo *n = xcalloc(1, sizeof(*n));

    n->net = (struct net){.ops = &echo_ops,
                          .loop = l,
                          .can = NET_CAN_CSUM | NET_CAN_USO,
                          .queues_max = 1,
                          .mtu = 1500,
                          .link_up = true};
    n->again = notifier_new(l, on_again, n, NULL);
    soft = net_soft_new(&n->net, NULL);
    struct virtio_device *d = virtio_net_new(m, soft, &config, NULL);
    net_start(soft);
    device_ops = d->ops;
    ops = *d->ops;
    ops.destroy = destroy;
    d->ops = &ops;
    return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the back end of one --vif. */
#include "domain/vifs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/worker.h"
#include "domain/vif.h"
#include "machine/devices.h"
#include "net/net.h"

struct vif_port {
    struct worker *worker;
    struct net *net;
    const char *kind;
    atomic_bool link; /* as it shall be */
};

/* Xen's prefix, as xl takes it, and the rest at random: domains may meet on a switch. */
static int choose_mac(uint8_t *mac, struct err *e) {
    memcpy(mac, "\x00\x16\x3e", 3);
    if (getrandom(mac + 3, 3, 0) != 3)
        return err_set(e, errno, "a random address");
    mac[3] &= 0x7f;
    return 0;
}

static int open_port(struct vif_port *p, const struct vif *vif, const char *thread,
                     struct machine_nic *nic, struct err *e) {
    static const char *const kinds[] = {
        [VIF_USER] = "user",     [VIF_TAP] = "tap",       [VIF_BRIDGE] = "bridge",
        [VIF_SWITCH] = "switch", [VIF_LISTEN] = "socket", [VIF_CONNECT] = "socket",
    };

    p->kind = kinds[vif->kind];
    p->worker = worker_new(thread, e);
    p->net = p->worker ? vif_open(vif, worker_loop(p->worker), e) : NULL;
    if (!p->net)
        return -1;
    if (vif->link_down)
        p->net->link_up = false;
    *nic = (struct machine_nic){.net = p->net, .pairs = vif->queues ? vif->queues : 1};
    memcpy(nic->mac, vif->mac, 6);
    return vif->mac_given ? 0 : choose_mac(nic->mac, e);
}

struct vif_port *vif_port_open(const struct vif *vif, const char *thread, struct machine_nic *nic,
                               struct err *e) {
    struct vif_port *p = xcalloc(1, sizeof(*p));

    if (open_port(p, vif, thread, nic, e) == 0)
        return p;
    vif_port_stop(p);
    vif_port_close(p);
    return NULL;
}

void vif_port_start(struct vif_port *p) {
    net_start_soon(p->net);
}

const char *vif_port_kind(const struct vif_port *p) {
    return p->kind;
}

static void move_link(void *arg) {
    struct vif_port *p = arg;

    net_set_link(p->net, atomic_load(&p->link));
}

void vif_port_set_link(struct vif_port *p, bool up) {
    atomic_store(&p->link, up);
    loop_call(worker_loop(p->worker), move_link, p);
}

void vif_port_stop(struct vif_port *p) {
    if (p->worker)
        worker_stop(p->worker);
}

void vif_port_close(struct vif_port *p) {
    net_close(p->net);
    worker_free(p->worker);
    free(p);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the back ends of all --vif, in order. */
#include "domain/vifs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"
#include "base/worker.h"
#include "domain/config.h"
#include "domain/vif.h"
#include "net/net.h"

struct vif_port {
    struct worker *worker;
    struct net *net;
};

/* Xen's prefix, as xl takes it, and the rest at random: domains may meet on a switch. */
static int choose_mac(uint8_t *mac, struct err *e) {
    memcpy(mac, "\x00\x16\x3e", 3);
    if (getrandom(mac + 3, 3, 0) != 3)
        return err_set(e, errno, "a random address");
    mac[3] &= 0x7f;
    return 0;
}

static int open_port(struct vifs *v, const struct vif *vif, struct err *e) {
    cleanup_free char *name = xasprintf("net%u", v->count);
    struct machine_nic *nic = &v->nics[v->count];
    struct vif_port *p = &v->ports[v->count++];

    p->worker = worker_new(name, e);
    p->net = p->worker ? vif_open(vif, worker_loop(p->worker), e) : NULL;
    if (!p->net)
        return -1;
    if (vif->link_down)
        p->net->link_up = false;
    *nic = (struct machine_nic){.net = p->net, .pairs = vif->queues ? vif->queues : 1};
    memcpy(nic->mac, vif->mac, 6);
    return vif->mac_given ? 0 : choose_mac(nic->mac, e);
}

static int open_spec(struct vifs *v, const char *spec, struct err *e) {
    struct vif vif;
    int r = vif_parse(spec, &vif, e);

    if (r == 0 && vif.kind != VIF_NONE)
        r = open_port(v, &vif, e);
    vif_free(&vif);
    return r < 0 ? err_wrap(e, "vif %s", spec) : 0;
}

int vifs_open(struct vifs *v, const struct config *c, struct err *e) {
    size_t count = c->vifs.given ? c->vifs.count : 1;
    int r = 0;

    *v = (struct vifs){
        .ports = xcalloc(count + 1, sizeof(*v->ports)),
        .nics = xcalloc(count + 1, sizeof(*v->nics)),
    };
    for (size_t i = 0; i < count && r == 0; i++)
        r = open_spec(v, c->vifs.given ? c->vifs.items[i] : "user", e);
    if (r < 0) {
        vifs_stop(v);
        vifs_close(v);
    }
    return r;
}

void vifs_start(struct vifs *v) {
    for (unsigned i = 0; i < v->count; i++)
        net_start_soon(v->ports[i].net);
}

void vifs_stop(struct vifs *v) {
    for (unsigned i = 0; i < v->count; i++)
        if (v->ports[i].worker)
            worker_stop(v->ports[i].worker);
}

void vifs_close(struct vifs *v) {
    for (unsigned i = 0; i < v->count; i++) {
        net_close(v->ports[i].net);
        worker_free(v->ports[i].worker);
    }
    free(v->ports);
    free(v->nics);
    *v = (struct vifs){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks and network interfaces with their names. One that the guest has let go of still owes its
 * requests and its data to the host: its back end is flushed and closed when nothing is under way,
 * and nobody waits for that.
 */
#include "domain/plugs.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "domain/config.h"
#include "domain/disks.h"
#include "domain/jsonrpc.h"
#include "domain/vif.h"
#include "domain/vifs.h"
#include "machine/devices.h"
#include "net/net.h"

#define SETTLE_NS 2000000ull
#define ID_MAX 16

/* ASKED: the guest was asked to let go. CLOSING: it has. */
enum plug_state { ATTACHED, ASKED, CLOSING };

struct plug {
    struct plug *next;
    struct plugs *all;
    enum plug_kind kind;
    enum plug_state state;
    char *id;          /* the disk's vdev, or the interface's number */
    char *target;      /* the disk's file; NULL: an interface */
    struct disk *disk; /* one of these */
    struct vif_port *port;
    struct machine_disk machine_disk;
    struct machine_nic nic;
    struct machine_plug *slot; /* NULL: it cannot be detached */
    struct loop_timer *settle;
};

struct plugs {
    struct loop *loop;
    struct machine *machine;
    struct plug *first, **last;
    unsigned threads;           /* for their names */
    struct machine_disk *disks; /* as the machine was given them */
    struct machine_nic *nics;
};

static const char *kind_name(enum plug_kind kind) {
    return kind == PLUG_DISK ? "disk" : "network interface";
}

/* --- names --- */

static void mac_text(const uint8_t *mac, char *text, size_t size) {
    snprintf(text, size, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
             mac[5]);
}

static bool is_called(const struct plug *p, const char *id) {
    char mac[18];

    if (strcmp(p->id, id) == 0)
        return true;
    mac_text(p->nic.mac, mac, sizeof(mac));
    return p->kind == PLUG_NIC && strcasecmp(mac, id) == 0;
}

static struct plug *find(const struct plugs *all, enum plug_kind kind, const char *id) {
    struct plug *p = all->first;

    while (p && (p->kind != kind || !p->id || !is_called(p, id)))
        p = p->next;
    return p;
}

/* xvda to xvdz, xvdaa to …: letters are digits without a zero. */
static char *disk_name(unsigned n) {
    char letters[ID_MAX];
    size_t at = sizeof(letters) - 1;

    letters[at] = 0;
    for (n++; n; n = (n - 1) / 26)
        letters[--at] = (char)('a' + (n - 1) % 26);
    return xasprintf("xvd%s", letters + at);
}

static char *free_name(const struct plugs *all, enum plug_kind kind) {
    for (unsigned n = 0;; n++) {
        char *name = kind == PLUG_DISK ? disk_name(n) : xasprintf("%u", n);

        if (!find(all, kind, name))
            return name;
        free(name);
    }
}

/* --- opening --- */

static struct plug *new_plug(struct plugs *all, enum plug_kind kind) {
    struct plug *p = xcalloc(1, sizeof(*p));

    p->all = all;
    p->kind = kind;
    *all->last = p;
    all->last = &p->next;
    return p;
}

static void stop(struct plug *p) {
    if (p->disk)
        disk_close(p->disk);
    if (p->port)
        vif_port_stop(p->port);
}

/* Its device is freed, or there never was one. */
static void forget(struct plug *p) {
    struct plug **at = &p->all->first;

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    if (p->all->last == &p->next)
        p->all->last = at;
    disk_free(p->disk);
    if (p->port)
        vif_port_close(p->port);
    loop_timer_free(p->settle);
    free(p->id);
    free(p->target);
    free(p);
}

static struct plug *open_disk(struct plugs *all, const struct disk_spec *s, struct err *e) {
    cleanup_free char *thread = xasprintf("disk%u", all->threads);
    struct plug *p;

    if (s->vdev && find(all, PLUG_DISK, s->vdev)) {
        err_set(e, 0, "there is a disk %s already", s->vdev);
        return NULL;
    }
    p = new_plug(all, PLUG_DISK);
    p->disk = disk_open(s, thread, &p->machine_disk, e);
    if (!p->disk) {
        forget(p);
        return NULL;
    }
    all->threads++;
    p->id = s->vdev ? xstrdup(s->vdev) : NULL;
    p->target = xstrdup(s->target);
    return p;
}

static struct plug *open_disk_text(struct plugs *all, const char *text, struct err *e) {
    struct disk_spec s;
    struct plug *p = NULL;

    if (disk_spec_parse(&s, text, e) == 0) {
        p = open_disk(all, &s, e);
        disk_spec_free(&s);
    }
    if (!p)
        err_wrap(e, "disk");
    return p;
}

static int open_nic(struct plugs *all, const struct vif *vif, struct err *e) {
    cleanup_free char *thread = xasprintf("net%u", all->threads);
    struct plug *p = new_plug(all, PLUG_NIC);

    p->port = vif_port_open(vif, thread, &p->nic, e);
    if (!p->port) {
        forget(p);
        return -1;
    }
    all->threads++;
    p->id = free_name(all, PLUG_NIC);
    return 1;
}

/* 1; 0 and no interface for "none"; or negative with the error set. */
static int open_nic_text(struct plugs *all, const char *text, struct err *e) {
    struct vif vif;
    int r = vif_parse(text, &vif, e);

    if (r == 0 && vif.kind != VIF_NONE)
        r = open_nic(all, &vif, e);
    vif_free(&vif);
    return r < 0 ? err_wrap(e, "vif %s", text) : r;
}

/* What was opened last. */
static struct plug *newest(const struct plugs *all) {
    return container_of(all->last, struct plug, next);
}

/* Those with names of their own choose first. */
static int open_disks(struct plugs *all, const struct config_list *l, struct machine_devices *d,
                      struct err *e) {
    struct plug *p;

    all->disks = xcalloc(l->count + 1, sizeof(*all->disks));
    d->disks = all->disks;
    for (size_t i = 0; i < l->count; i++) {
        p = open_disk_text(all, l->items[i], e);
        if (!p)
            return -1;
        all->disks[d->disk_count++] = p->machine_disk;
    }
    for (p = all->first; p; p = p->next)
        if (!p->id)
            p->id = free_name(all, PLUG_DISK);
    return 0;
}

static int open_nics(struct plugs *all, const struct config_list *l, struct machine_devices *d,
                     struct err *e) {
    size_t count = l->given ? l->count : 1;

    all->nics = xcalloc(count + 1, sizeof(*all->nics));
    d->nics = all->nics;
    for (size_t i = 0; i < count; i++) {
        int r = open_nic_text(all, l->given ? l->items[i] : "user", e);

        if (r < 0)
            return r;
        if (r)
            all->nics[d->nic_count++] = newest(all)->nic;
    }
    return 0;
}

struct plugs *plugs_open(struct loop *l, const struct config *c, struct machine_devices *d,
                         struct err *e) {
    struct plugs *all = xcalloc(1, sizeof(*all));

    all->loop = l;
    all->last = &all->first;
    if (open_disks(all, &c->disks, d, e) == 0 && open_nics(all, &c->vifs, d, e) == 0)
        return all;
    plugs_stop(all);
    plugs_free(all);
    return NULL;
}

static const void *backend(const struct plug *p) {
    return p->disk ? (const void *)p->machine_disk.block : (const void *)p->nic.net;
}

void plugs_start(struct plugs *all, struct machine *m) {
    all->machine = m;
    for (struct plug *p = all->first; p; p = p->next) {
        p->slot = machine_find_plug(m, backend(p));
        if (p->port)
            vif_port_start(p->port);
    }
}

void plugs_stop(struct plugs *all) {
    for (struct plug *p = all ? all->first : NULL; p; p = p->next)
        stop(p);
}

void plugs_free(struct plugs *all) {
    if (!all)
        return;
    while (all->first)
        forget(all->first);
    free(all->disks);
    free(all->nics);
    free(all);
}

/* --- what there is --- */

static const char *state_name(const struct plug *p) {
    static const char *const names[] = {"attached", "detaching", "closing"};

    return names[p->state];
}

static void describe_disk(json_t *o, const struct plug *p) {
    const struct block_info *i = &p->machine_disk.block->info;

    json_object_set_new(o, "target", jsonrpc_text(p->target));
    json_object_set_new(o, "type", json_string(p->machine_disk.cdrom ? "cdrom" : "disk"));
    json_object_set_new(o, "bus", json_string(p->machine_disk.scsi ? "scsi" : "virtio"));
    json_object_set_new(o, "access", json_string(i->read_only ? "ro" : "rw"));
    json_object_set_new(o, "size", json_integer((json_int_t)i->size));
}

static void describe_nic(json_t *o, const struct plug *p) {
    char mac[18];

    mac_text(p->nic.mac, mac, sizeof(mac));
    json_object_set_new(o, "mac", json_string(mac));
    json_object_set_new(o, "type", json_string(vif_port_kind(p->port)));
    json_object_set_new(o, "link",
                        json_boolean(__atomic_load_n(&p->nic.net->link_up, __ATOMIC_RELAXED)));
}

static json_t *describe(const struct plug *p) {
    json_t *o = json_object();

    json_object_set_new(o, "id", json_string(p->id));
    json_object_set_new(o, "state", json_string(state_name(p)));
    json_object_set_new(o, "slot",
                        p->slot ? json_integer(machine_plug_slot(p->slot)) : json_null());
    if (p->disk)
        describe_disk(o, p);
    else
        describe_nic(o, p);
    return o;
}

json_t *plugs_list(const struct plugs *all, enum plug_kind kind) {
    json_t *list = json_array();

    for (const struct plug *p = all->first; p; p = p->next)
        if (p->kind == kind)
            json_array_append_new(list, describe(p));
    return list;
}

/* --- coming --- */

static struct plug *open_text(struct plugs *all, enum plug_kind kind, const char *spec,
                              struct err *e) {
    int r;

    if (kind == PLUG_DISK)
        return open_disk_text(all, spec, e);
    r = open_nic_text(all, spec, e);
    if (r > 0)
        return newest(all);
    if (r == 0)
        err_set(e, 0, "vif none: there is nothing to attach");
    return NULL;
}

json_t *plugs_attach(struct plugs *all, enum plug_kind kind, const char *spec, struct err *e) {
    struct plug *p = open_text(all, kind, spec, e);

    if (!p)
        return NULL;
    if (!p->id)
        p->id = free_name(all, PLUG_DISK);
    p->slot = kind == PLUG_DISK ? machine_attach_disk(all->machine, &p->machine_disk, e)
                                : machine_attach_nic(all->machine, &p->nic, e);
    if (!p->slot) {
        stop(p);
        forget(p);
        return NULL;
    }
    if (p->port)
        vif_port_start(p->port);
    return describe(p);
}

/* --- going --- */

int plugs_detach(struct plugs *all, enum plug_kind kind, const char *id, struct err *e) {
    struct plug *p = find(all, kind, id);

    if (!p)
        return err_set(e, 0, "there is no %s %s", kind_name(kind), id);
    if (!p->slot)
        return err_set(e, 0, "%s %s is on virtio-mmio, from which nothing can be detached",
                       kind_name(kind), id);
    if (p->state == CLOSING)
        return 0;
    p->state = ASKED;
    machine_detach(all->machine, p->slot);
    return 0;
}

static void end(struct plug *p) {
    stop(p);
    machine_forget(p->all->machine, p->slot);
    forget(p);
}

static void on_flushed(void *arg, int result) {
    struct plug *p = arg;

    if (result < 0)
        log_error("disk %s (%s): flush: %s", p->id, p->target, strerror(-result));
    end(p);
}

static void on_settle(void *arg) {
    struct plug *p = arg;

    if (p->disk && !machine_plug_idle(p->slot))
        loop_timer_arm(p->settle, mono_now() + SETTLE_NS);
    else if (p->disk)
        disk_flush(p->disk, p->all->loop, on_flushed, p);
    else
        end(p);
}

void plugs_ejected(struct plugs *all, struct machine_plug *slot) {
    struct plug *p = all->first;

    while (p && p->slot != slot)
        p = p->next;
    if (!p)
        return;
    p->state = CLOSING;
    p->settle = loop_timer_new(all->loop, on_settle, p);
    on_settle(p);
}

int plugs_set_link(struct plugs *all, const char *id, bool up, struct err *e) {
    struct plug *p = find(all, PLUG_NIC, id);

    if (!p)
        return err_set(e, 0, "there is no %s %s", kind_name(PLUG_NIC), id);
    if (p->state == CLOSING)
        return err_set(e, 0, "%s %s: the guest has let go of it", kind_name(PLUG_NIC), id);
    vif_port_set_link(p->port, up);
    return 0;
}

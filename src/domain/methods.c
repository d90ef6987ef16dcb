/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods of a domain's control socket: parameters and results by name, sizes in bytes, times
 * in seconds. What takes a guest's consent only asks for it; the result is seen in the lists.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "dev/acpi_pm.h"
#include "domain/config.h"
#include "domain/domain.h"
#include "domain/jsonrpc.h"
#include "domain/monitor.h"
#include "domain/plugs.h"
#include "domain/state.h"
#include "machine/pc.h"
#include "virtio/balloon.h"

/* --- parameters --- */

static const char *need_text(json_t *params, const char *name, struct err *e) {
    const char *text = json_string_value(json_object_get(params, name));

    if (!text)
        jsonrpc_bad_params(e, "the parameter '%s' is missing, or not a string", name);
    return text;
}

/* -1 with the error set when there is no such kind. */
static int need_kind(json_t *params, struct err *e) {
    const char *kind = need_text(params, "kind", e);

    if (!kind)
        return -1;
    if (strcmp(kind, "disk") == 0)
        return PLUG_DISK;
    if (strcmp(kind, "nic") == 0)
        return PLUG_NIC;
    return jsonrpc_bad_params(e, "kind '%s' is none of disk, nic", kind);
}

static json_t *done(int r) {
    return r < 0 ? NULL : json_object();
}

static void put_int(json_t *o, const char *name, uint64_t value) {
    json_object_set_new(o, name, json_integer((json_int_t)value));
}

/* --- the domain --- */

static const char *run_state(const struct machine *m) {
    if (m->held)
        return "paused";
    for (unsigned i = 0; i < m->params.vcpus; i++)
        if (!atomic_load(&m->set.threads[i].halted))
            return "running";
    return "blocked";
}

static double cpu_seconds(void) {
    struct timespec t = {0};

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* What the guest has: all of it but what it has put into the balloon. */
static uint64_t memory_now(const struct machine *m) {
    uint64_t away = m->balloon ? virtio_balloon_actual(m->balloon) : 0;

    return m->params.memory - MIN(away, m->params.memory);
}

static json_t *info(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    json_t *o = json_object();

    (void)params;
    (void)e;
    json_object_set_new(o, "name", jsonrpc_text(state_name(d->state)));
    put_int(o, "pid", (uint64_t)getpid());
    json_object_set_new(o, "state", json_string(run_state(d->machine)));
    json_object_set_new(o, "engine", json_string(d->machine->params.engine->name));
    put_int(o, "vcpus", d->machine->params.vcpus);
    put_int(o, "memory", memory_now(d->machine));
    put_int(o, "memory_max", d->machine->params.memory);
    json_object_set_new(o, "cpu_seconds", json_real(cpu_seconds()));
    json_object_set_new(o, "uptime", json_real((double)(mono_now() - d->start) / 1e9));
    put_int(o, "restarts", d->machine->restarts);
    json_object_set_new(o, "config", config_to_json(d->config));
    return o;
}

static json_t *shutdown_domain(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;

    (void)params;
    (void)e;
    acpi_pm_power_button(d->machine->pm);
    return json_object();
}

static json_t *destroy(void *arg, json_t *params, struct err *e) {
    (void)params;
    (void)e;
    domain_finish(arg, STATUS_POWERED_OFF, true);
    return json_object();
}

/* --- devices --- */

static json_t *attach(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    int kind = need_kind(params, e);
    const char *spec = kind < 0 ? NULL : need_text(params, "spec", e);

    return spec ? plugs_attach(d->plugs, (enum plug_kind)kind, spec, e) : NULL;
}

static json_t *detach(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    int kind = need_kind(params, e);
    const char *id = kind < 0 ? NULL : need_text(params, "id", e);

    return id ? done(plugs_detach(d->plugs, (enum plug_kind)kind, id, e)) : NULL;
}

static json_t *list(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    int kind = need_kind(params, e);

    return kind < 0 ? NULL : plugs_list(d->plugs, (enum plug_kind)kind);
}

static json_t *set_link(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    const char *id = need_text(params, "id", e);
    const json_t *up = json_object_get(params, "up");

    if (id && !json_is_boolean(up))
        jsonrpc_bad_params(e, "the parameter 'up' is missing, or neither true nor false");
    else if (id)
        return done(plugs_set_link(d->plugs, id, json_is_true(up), e));
    return NULL;
}

/* --- memory --- */

static struct virtio_device *need_balloon(const struct domain *d, struct err *e) {
    if (!d->machine->balloon)
        err_set(e, 0, "the machine has no balloon");
    return d->machine->balloon;
}

/* What the domain shall keep; it gives back the rest as its driver finds it. */
static json_t *set_balloon(void *arg, json_t *params, struct err *e) {
    const struct domain *d = arg;
    const json_t *memory = json_object_get(params, "memory");
    uint64_t max = d->machine->params.memory;
    json_int_t want = json_integer_value(memory);
    struct virtio_device *balloon = need_balloon(d, e);

    if (!balloon)
        return NULL;
    if (!json_is_integer(memory) || want < (json_int_t)CONFIG_MEMORY_MIN || (uint64_t)want > max) {
        jsonrpc_bad_params(e, "memory: not between %llu MiB and the domain's maximum of %llu MiB",
                           CONFIG_MEMORY_MIN >> 20, (unsigned long long)max >> 20);
        return NULL;
    }
    virtio_balloon_set_target(balloon, max - (uint64_t)want);
    return json_object();
}

/* What the guest said last, and asks it to say it anew. */
static json_t *balloon_stats(void *arg, json_t *params, struct err *e) {
    static const char *const names[BALLOON_S_NR] = {
        [BALLOON_S_SWAP_IN] = "swap_in",
        [BALLOON_S_SWAP_OUT] = "swap_out",
        [BALLOON_S_MAJFLT] = "major_faults",
        [BALLOON_S_MINFLT] = "minor_faults",
        [BALLOON_S_MEMFREE] = "free",
        [BALLOON_S_MEMTOT] = "total",
        [BALLOON_S_AVAIL] = "available",
        [BALLOON_S_CACHES] = "caches",
        [BALLOON_S_HTLB_PGALLOC] = "huge_pages",
        [BALLOON_S_HTLB_PGFAIL] = "huge_page_failures",
    };
    const struct domain *d = arg;
    struct virtio_device *balloon = need_balloon(d, e);
    struct virtio_balloon_stats s;
    json_t *o, *guest;

    (void)params;
    if (!balloon)
        return NULL;
    virtio_balloon_stats(balloon, &s);
    virtio_balloon_ask(balloon);
    o = json_object();
    guest = json_object();
    put_int(o, "memory", memory_now(d->machine));
    put_int(o, "memory_max", d->machine->params.memory);
    put_int(o, "updates", s.updates);
    for (unsigned i = 0; i < BALLOON_S_NR; i++)
        if (s.known >> i & 1)
            put_int(guest, names[i], s.value[i]);
    json_object_set_new(o, "guest", guest);
    return o;
}

const struct jsonrpc_method domain_methods[] = {
    {"domain.info", info},
    {"domain.shutdown", shutdown_domain},
    {"domain.destroy", destroy},
    {"device.attach", attach},
    {"device.detach", detach},
    {"device.list", list},
    {"nic.link", set_link},
    {"balloon.set", set_balloon},
    {"balloon.stats", balloon_stats},
    {0},
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor's main thread: it builds the machine, waits in the event loop, and takes everything
 * down in order: vCPUs first, then what they had to say, then the terminal, then the report.
 */
#include "domain/domain.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/trace.h"
#include "base/util.h"
#include "domain/channels.h"
#include "domain/config.h"
#include "domain/control.h"
#include "domain/engines.h"
#include "domain/monitor.h"
#include "domain/plugs.h"
#include "domain/report.h"
#include "domain/shares.h"
#include "domain/state.h"
#include "machine/devices.h"
#include "machine/gdb.h"
#include "machine/pc.h"
#include "ui/streams.h"
#include "ui/tail.h"

#define FLUSH_PATIENCE_MS 1000

void domain_finish(struct domain *d, int status, bool hurry) {
    if (d->status >= 0)
        return;
    d->status = status;
    d->hurry = hurry;
    loop_stop(d->loop);
}

static void on_leave(void *arg) {
    domain_finish(arg, STATUS_POWERED_OFF, true);
}

static void on_kill(void *arg) {
    domain_finish(arg, STATUS_POWERED_OFF, true);
}

static void on_timeout(void *arg) {
    domain_finish(arg, STATUS_TIMED_OUT, true);
}

static void on_signal(void *arg, int fd, uint32_t events) {
    struct signalfd_siginfo info;

    (void)events;
    if (read(fd, &info, sizeof(info)) == sizeof(info))
        domain_finish(arg, STATUS_SIGNAL + (int)info.ssi_signo, true);
}

static void on_machine_end(void *arg) {
    struct domain *d = arg;

    switch (d->machine->end) {
    case MACHINE_CRASHED:
        domain_finish(d, STATUS_CRASHED, false);
        break;
    case MACHINE_DEBUG_EXIT:
        domain_finish(d, (int)(d->machine->exit_value << 1 | 1) & 0xff, false);
        break;
    case MACHINE_FAILED:
        domain_finish(d, STATUS_FAILED, false);
        break;
    default:
        domain_finish(d, STATUS_POWERED_OFF, false);
    }
}

static void on_ejected(void *arg, struct machine_plug *slot) {
    const struct domain *d = arg;

    plugs_ejected(d->plugs, slot);
}

/* From here on those signals are events of the loop; all threads inherit the mask. */
static int take_signals(struct domain *d, struct err *e) {
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a guest may fill files up to the limit: an error to it */
    d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (d->signals < 0)
        return err_set(e, errno, "signals");
    d->signals_fd = loop_add_fd(d->loop, d->signals, EPOLLIN, on_signal, d, e);
    return d->signals_fd ? 0 : -1;
}

/* Nothing is left to take down that a signal could harm: from here on it simply ends a long wait.
 */
static void give_signals_back(void) {
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int open_consoles(struct domain *d, struct err *e) {
    const struct config *c = d->config;
    struct chardev *serial;

    d->streams = streams_new(d->loop, on_leave, d);
    if (streams_open(d->streams, c->serial, "serial", c->name, &serial, e) < 0)
        return -1;
    d->tail = tail_new(serial);
    return streams_open(d->streams, c->debugcon, "debugcon", c->name, &d->debugcon, e);
}

static enum machine_transport transport(const struct config *c) {
    if (strcmp(c->virtio, "mmio") == 0)
        return MACHINE_VIRTIO_MMIO;
    return strcmp(c->virtio, "pci") == 0 ? MACHINE_PCI : MACHINE_PCI_MODERN;
}

static enum machine_watchdog watchdog(const struct config *c) {
    if (strcmp(c->watchdog, "reset") == 0)
        return WATCHDOG_RESET;
    return strcmp(c->watchdog, "none") == 0 ? WATCHDOG_NONE : WATCHDOG_POWER_OFF;
}

/* The back ends of what differs from domain to domain. */
static int open_devices(struct domain *d, struct err *e) {
    const struct config *c = d->config;

    d->devices.transport = transport(c);
    d->devices.watchdog = watchdog(c);
    d->devices.rng = d->devices.balloon = true;
    d->devices.balloon_target = c->maxmem > c->memory ? c->maxmem - c->memory : 0;
    d->plugs = plugs_open(d->loop, c, &d->devices, e);
    if (!d->plugs)
        return -1;
    if (shares_open(&d->shares, d->config, e) < 0)
        return -1;
    d->devices.shares = d->shares.machine;
    d->devices.share_count = d->shares.count;
    return channels_open(&d->channels, d->config, d->streams, &d->devices, e);
}

static int open_trace(struct domain *d, struct err *e) {
    const struct config *c = d->config;
    unsigned what = 0;

    if (!c->trace)
        return 0;
    if (trace_parse(c->trace, &what, e) < 0)
        return err_wrap(e, "trace");
    d->trace = trace_new(what, c->trace_file, e);
    return d->trace ? 0 : -1;
}

static int make_machine(struct domain *d, struct err *e) {
    const struct config *c = d->config;
    cleanup_free char *why = NULL;
    const struct engine_ops *engine = engine_pick(c->engine, &why, e);
    struct machine_params p = {
        .engine = engine,
        .cpu = c->cpu,
        .memory = MAX(c->memory, c->maxmem),
        .vcpus = (unsigned)c->vcpus,
        .code_cache = c->code_cache,
        .perf_map = c->perf_map,
        .watched = d->options->stats,
        .kernel = c->kernel,
        .initrd = c->ramdisk,
        .cmdline = c->cmdline,
        .bios = c->bios,
        .devices = &d->devices,
        .debug_exit = c->debug_exit,
        .testdev = c->testdev,
        .restart_on_power_off = c->on_poweroff == ACTION_RESTART,
        .restart_on_reboot = c->on_reboot == ACTION_RESTART,
        .restart_on_crash = c->on_crash == ACTION_RESTART,
        .ended = on_machine_end,
        .ejected = on_ejected,
        .arg = d,
    };

    if (!engine)
        return -1;
    if (why)
        fprintf(stderr, "%s\n", why);
    if (open_consoles(d, e) < 0 || open_devices(d, e) < 0 || open_trace(d, e) < 0)
        return -1;
    p.serial = tail_chardev(d->tail);
    p.debugcon = d->debugcon;
    p.trace = d->trace;
    d->machine = machine_new(d->loop, &p, e);
    return d->machine ? 0 : -1;
}

/* --- where clients find it --- */

static int write_state(const struct domain *d, struct err *e) {
    cleanup_free char *pid = xasprintf("%d\n", (int)getpid()), *config = NULL;
    json_t *o = config_to_json(d->config);

    config = json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    if (state_write(d->state, "pid", pid, e) < 0)
        return -1;
    return state_write(d->state, "config.json", config, e);
}

static int open_control(struct domain *d, struct err *e) {
    cleanup_free char *path = state_path(d->state, "control");

    if (write_state(d, e) < 0)
        return -1;
    d->control = control_new(d->loop, path, domain_methods, d, e);
    return d->control ? 0 : -1;
}

/* A name that another domain has is an error; a host without a place for it is not, as the domain
 * can do without clients. */
static int claim_name(struct domain *d, struct err *e) {
    cleanup_err struct err why = ERR_INIT;
    const struct config *c = d->config;

    if (c->name_given && state_check_name(c->name, e) < 0)
        return -1;
    d->state = state_claim(c->name, !c->name_given, &why);
    if (d->state)
        return 0;
    if (why.code == EEXIST)
        return err_set(e, 0, "%s; choose another --name", err_msg(&why));
    log_info("%s: no control socket: %s", c->name, err_msg(&why));
    return 0;
}

static void start_control(struct domain *d) {
    cleanup_err struct err e = ERR_INIT;

    if (d->state && open_control(d, &e) < 0)
        log_warn("%s: no control socket: %s", d->config->name, err_msg(&e));
}

static int start(struct domain *d, struct err *e) {
    const struct config *c = d->config;

    if (c->gdb) {
        d->gdb = gdb_new(d->machine, c->gdb, on_kill, d, e);
        if (!d->gdb)
            return -1;
        if (c->gdb_wait)
            gdb_wait(d->gdb);
    }
    plugs_start(d->plugs, d->machine);
    d->start = mono_now();
    if (c->timeout_ms) {
        d->timeout = loop_timer_new(d->loop, on_timeout, d);
        loop_timer_arm(d->timeout, d->start + c->timeout_ms * 1000000);
    }
    if (machine_start(d->machine, c->gdb_wait, e) < 0)
        return -1;
    start_control(d);
    return 0;
}

static void report(struct domain *d) {
    const uint64_t ran = mono_now() - d->start;

    if (d->status == STATUS_TIMED_OUT)
        fprintf(stderr, "rf: %s: timed out after %g s\n", d->config->name,
                (double)d->config->timeout_ms / 1000);
    if (d->machine->end == MACHINE_CRASHED)
        report_crash(stderr, d->config->name, d->machine, d->tail);
    if (d->options->stats)
        report_stats(stderr, d->machine, ran, d->options->json);
}

static void wind_up(struct domain *d) {
    control_free(d->control);
    d->control = NULL;
    machine_hold(d->machine);
    if (d->gdb)
        gdb_ended(d->gdb, d->status);
    streams_restore(d->streams);
    give_signals_back();
    streams_flush(d->streams, d->hurry ? FLUSH_PATIENCE_MS : -1);
    trace_flush(d->trace);
    report(d);
}

static int run(struct domain *d, struct err *e) {
    if (claim_name(d, e) < 0 || take_signals(d, e) < 0 || make_machine(d, e) < 0 || start(d, e) < 0)
        return -1;
    if (loop_run(d->loop, e) < 0)
        return err_wrap(e, "event loop");
    wind_up(d);
    if (d->machine->end == MACHINE_FAILED)
        return err_set(e, 0, "%s", err_msg(&d->machine->error));
    return d->status;
}

/* In the order that leaves nobody with a dangling end: vCPUs' threads end in machine_free. */
static void take_down(struct domain *d) {
    control_free(d->control);
    gdb_free(d->gdb);
    plugs_stop(d->plugs);
    shares_stop(&d->shares);
    channels_stop(&d->channels);
    machine_free(d->machine);
    trace_free(d->trace);
    plugs_free(d->plugs);
    shares_free(&d->shares);
    channels_free(&d->channels);
    streams_free(d->streams);
    tail_free(d->tail);
    if (d->timeout)
        loop_timer_free(d->timeout);
    if (d->signals_fd)
        loop_del_fd(d->signals_fd);
    cleanup_close_fn(&d->signals);
    loop_free(d->loop);
    state_release(d->state);
}

int domain_run(struct config *c, const struct domain_options *o, struct err *e) {
    struct domain d = {.config = c, .options = o, .signals = -1, .status = -1};
    int r;

    d.loop = loop_new(e);
    if (!d.loop)
        return -1;
    r = run(&d, e);
    take_down(&d);
    return r < 0 ? -1 : r;
}

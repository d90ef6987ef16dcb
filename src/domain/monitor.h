/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a running domain share. All on the loop's thread. */
#ifndef RINGFENCE_DOMAIN_MONITOR_H
#define RINGFENCE_DOMAIN_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "domain/channels.h"
#include "domain/jsonrpc.h"
#include "domain/shares.h"
#include "machine/devices.h"

struct chardev;
struct config;
struct control;
struct domain_options;
struct gdb;
struct loop;
struct loop_fd;
struct loop_timer;
struct machine;
struct plugs;
struct state;
struct streams;
struct tail;
struct trace;

struct domain {
    struct config *config;
    const struct domain_options *options;
    struct loop *loop;
    struct state *state;     /* NULL: the host has no place for it */
    struct control *control; /* likewise */
    struct streams *streams;
    struct chardev *debugcon;
    struct tail *tail; /* what the serial port said last */
    struct plugs *plugs;
    struct shares shares;
    struct channels channels;
    struct machine_devices devices;
    struct machine *machine;
    struct gdb *gdb;
    struct trace *trace; /* or NULL */
    struct loop_timer *timeout;
    int signals;
    struct loop_fd *signals_fd;
    int status;     /* of a run that ended by itself or from outside; -1 while it runs */
    bool hurry;     /* ended from outside: nobody waits for a slow reader of the console */
    uint64_t start; /* mono_now() */
};

/* Ends the run. */
void domain_finish(struct domain *d, int status, bool hurry);

/* What the control socket offers; `arg` is the struct domain. See methods.c. */
extern const struct jsonrpc_method domain_methods[];

#endif

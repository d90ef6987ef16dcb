/* SPDX-License-Identifier: Apache-2.0 */
/* A domain in the foreground: from its configuration to its end, with its console and its debugger.
 */
#ifndef RINGFENCE_DOMAIN_DOMAIN_H
#define RINGFENCE_DOMAIN_DOMAIN_H

#include <stdbool.h>

struct config;
struct err;

/* Exit statuses of cli.md, and the shell's for a run that a signal ended (128 + its number). */
enum {
    STATUS_POWERED_OFF = 0, /* and: the user left the console */
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,
    STATUS_CRASHED = 3,
    STATUS_TIMED_OUT = 124,
    STATUS_SIGNAL = 128,
};

struct domain_options {
    bool stats, json; /* what was executed, on standard error in the end */
};

/*
 * Runs a checked configuration until the guest, the user or a time limit ends it. Returns the exit
 * status, or a negative value with the error set when the domain could not be made or could not go
 * on. The terminal is as before in any case. Once per process: it takes SIGINT, SIGTERM and SIGHUP.
 */
int domain_run(struct config *c, const struct domain_options *o, struct err *e);

#endif

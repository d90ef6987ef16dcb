/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain's shared folders: what --share says, in the syntax of xl.cfg(5)'s p9, and the workers on
 * which they are served.
 */
#ifndef RINGFENCE_DOMAIN_SHARES_H
#define RINGFENCE_DOMAIN_SHARES_H

#include <stddef.h>

#include "virtio/p9/server.h"

struct config;
struct err;
struct machine_share;
struct share;

struct share_spec {
    char *path, *tag; /* owned */
    struct p9_options options;
};

/* "DIR" or "tag=T,path=DIR,access=rw|ro,uid=GUEST[:HOST[:COUNT]],gid=…". The error says what would
 * be accepted. */
int share_spec_parse(struct share_spec *s, const char *text, struct err *e);
void share_spec_free(struct share_spec *s);

/* All zeroes is none. */
struct shares {
    struct share *share;
    struct machine_share *machine; /* for struct machine_devices */
    unsigned count;
};

int shares_open(struct shares *s, const struct config *c, struct err *e);
/* Ends the threads, before the machine is freed; frees the rest, after that. */
void shares_stop(struct shares *s);
void shares_free(struct shares *s);

#endif

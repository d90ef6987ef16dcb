/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How programs of the host talk with programs of a guest: the virtio console, its named ports (xl's
 * channels) and vsock.
 */
#ifndef RINGFENCE_DOMAIN_CHANNELS_H
#define RINGFENCE_DOMAIN_CHANNELS_H

#include <stdint.h>

#include "machine/devices.h"
#include "virtio/console.h"

struct config;
struct err;
struct streams;
struct worker;

struct channel_spec {
    char *name, *stream; /* owned; stream as streams_open takes it */
};

/* "name=N,connection=pty|socket,path=P", as xl.cfg(5)'s channel. */
int channel_spec_parse(struct channel_spec *s, const char *text, struct err *e);
void channel_spec_free(struct channel_spec *s);

struct vsock_spec {
    char *path; /* owned */
    uint64_t cid;
};

/* "PATH" or "path=PATH,cid=N". */
int vsock_spec_parse(struct vsock_spec *s, const char *text, struct err *e);
void vsock_spec_free(struct vsock_spec *s);

/* All zeroes is none. */
struct channels {
    struct virtio_console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
    struct channel_spec specs[VIRTIO_CONSOLE_PORTS_MAX];
    struct vsock_spec vsock;
    struct worker *worker; /* vsock's */
};

/* Opens them and puts them into *d. */
int channels_open(struct channels *c, const struct config *config, struct streams *streams,
                  struct machine_devices *d, struct err *e);
/* Ends the thread, before the machine is freed; frees the rest, after that. */
void channels_stop(struct channels *c);
void channels_free(struct channels *c);

#endif

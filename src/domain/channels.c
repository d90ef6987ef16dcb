/* SPDX-License-Identifier: Apache-2.0 */
/* Parses --channel and --vsock, and opens what they and --console name. */
#include "domain/channels.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "base/worker.h"
#include "domain/config.h"
#include "domain/spec.h"
#include "ui/streams.h"
#include "virtio/vsock.h"

/* --- the syntax --- */

struct channel_words {
    char *name, *connection, *path;
};

static int channel_parameter(void *arg, const char *key, const char *value, struct err *e) {
    struct channel_words *w = arg;
    char **field = !key                             ? NULL
                   : strcmp(key, "name") == 0       ? &w->name
                   : strcmp(key, "connection") == 0 ? &w->connection
                   : strcmp(key, "path") == 0       ? &w->path
                                                    : NULL;

    if (!field)
        return err_set(e, 0, "'%s' is none of name=, connection=, path=", key ? key : value);
    free(*field);
    *field = xstrdup(value);
    return 0;
}

static int channel_judge(struct channel_spec *s, const struct channel_words *w, struct err *e) {
    if (!w->name || !*w->name)
        return err_set(e, 0, "there is no name=");
    if (strlen(w->name) > VIRTIO_CONSOLE_NAME_MAX)
        return err_set(e, 0, "the name is longer than %d bytes", VIRTIO_CONSOLE_NAME_MAX);
    if (w->connection && strcmp(w->connection, "pty") == 0)
        s->stream = xstrdup("pty");
    else if (w->connection && strcmp(w->connection, "socket") == 0 && w->path && *w->path)
        s->stream = xasprintf("unix:%s", w->path);
    else
        return err_set(e, 0, "connection=pty, or connection=socket with path=, is missing");
    s->name = xstrdup(w->name);
    return 0;
}

int channel_spec_parse(struct channel_spec *s, const char *text, struct err *e) {
    struct channel_words w = {0};
    int r;

    *s = (struct channel_spec){0};
    r = spec_parse(text, channel_parameter, &w, e);
    if (r == 0)
        r = channel_judge(s, &w, e);
    free(w.name);
    free(w.connection);
    free(w.path);
    return r;
}

void channel_spec_free(struct channel_spec *s) {
    free(s->name);
    free(s->stream);
    *s = (struct channel_spec){0};
}

static int vsock_parameter(void *arg, const char *key, const char *value, struct err *e) {
    struct vsock_spec *s = arg;
    char *end;

    if (!key || strcmp(key, "path") == 0) {
        free(s->path);
        s->path = xstrdup(value);
        return 0;
    }
    if (strcmp(key, "cid") != 0)
        return err_set(e, 0, "'%s' is none of path=, cid=", key);
    errno = 0;
    s->cid = strtoull(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || errno || s->cid < VSOCK_CID_MIN ||
        s->cid > VSOCK_CID_MAX)
        return err_set(e, 0, "cid '%s' is not a number from %u to %u", value, VSOCK_CID_MIN,
                       VSOCK_CID_MAX);
    return 0;
}

int vsock_spec_parse(struct vsock_spec *s, const char *text, struct err *e) {
    int r;

    *s = (struct vsock_spec){.cid = VSOCK_CID_MIN};
    r = spec_parse(text, vsock_parameter, s, e);
    if (r == 0 && (!s->path || !*s->path))
        r = err_set(e, 0, "there is no path of a socket: PATH, or path=PATH");
    if (r < 0)
        vsock_spec_free(s);
    return r;
}

void vsock_spec_free(struct vsock_spec *s) {
    free(s->path);
    *s = (struct vsock_spec){0};
}

/* --- opening --- */

static int open_channel(struct channels *c, const struct config *config, unsigned i,
                        struct streams *streams, struct machine_devices *d, struct err *e) {
    struct channel_spec *s = &c->specs[i];
    const unsigned port = d->port_count;
    int r = channel_spec_parse(s, config->channels.items[i], e);

    if (r == 0 && port == VIRTIO_CONSOLE_PORTS_MAX)
        r = err_set(e, 0, "there are too many");
    if (r == 0)
        r = streams_open(streams, s->stream, s->name, config->name, &c->ports[port].chr, e);
    if (r < 0)
        return err_wrap(e, "channel %s", config->channels.items[i]);
    c->ports[port].name = s->name;
    d->port_count++;
    return 0;
}

/* Port 0 is a console always: drivers take it for one. */
static int open_ports(struct channels *c, const struct config *config, struct streams *streams,
                      struct machine_devices *d, struct err *e) {
    if (!config->channels.count && strcmp(config->console, "none") == 0)
        return 0;
    if (streams_open(streams, config->console, "console", config->name, &c->ports[0].chr, e) < 0)
        return -1;
    d->ports = c->ports;
    d->port_count = 1;
    for (unsigned i = 0; i < config->channels.count; i++)
        if (open_channel(c, config, i, streams, d, e) < 0)
            return -1;
    return 0;
}

static int open_vsock(struct channels *c, const char *spec, struct machine_devices *d,
                      struct err *e) {
    if (vsock_spec_parse(&c->vsock, spec, e) < 0)
        return err_wrap(e, "vsock %s", spec);
    c->worker = worker_new("vsock", e);
    if (!c->worker)
        return -1;
    d->vsock = (struct machine_vsock){c->vsock.path, c->vsock.cid, worker_loop(c->worker)};
    return 0;
}

int channels_open(struct channels *c, const struct config *config, struct streams *streams,
                  struct machine_devices *d, struct err *e) {
    if (open_ports(c, config, streams, d, e) < 0)
        return -1;
    return config->vsock ? open_vsock(c, config->vsock, d, e) : 0;
}

void channels_stop(struct channels *c) {
    if (c->worker)
        worker_stop(c->worker);
}

void channels_free(struct channels *c) {
    worker_free(c->worker);
    vsock_spec_free(&c->vsock);
    for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS_MAX; i++)
        channel_spec_free(&c->specs[i]);
}

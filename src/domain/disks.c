/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xl-disk-configuration(5): up to four parameters by position (target, format, vdev, access), any
 * of them by name; "target=" takes the rest of the text, commas and all. Beyond xl: serial, queues,
 * snapshot.
 */
#include "domain/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/worker.h"
#include "block/block.h"
#include "block/volume.h"
#include "machine/devices.h"

#define QUEUES_MAX MACHINE_DISK_QUEUES
#define SERIAL_MAX 20

struct disk {
    struct worker *worker;
    struct block *block;
    char *serial;
    struct block_req flush;
    struct loop *caller; /* of disk_flush */
    disk_flushed_fn *flushed;
    void *flushed_arg;
};

/* --- the syntax --- */

static int set_string(char **field, const char *value) {
    free(*field);
    *field = *value ? xstrdup(value) : NULL;
    return 0;
}

static int set_format(struct disk_spec *s, const char *value, struct err *e) {
    if (*value && !volume_format_find(value, e))
        return -1;
    return set_string(&s->format, value);
}

/* hda, sdb, xvdc, vdd, …: sdX is a SCSI disk, the others are virtio disks. */
static int set_vdev(struct disk_spec *s, const char *value, struct err *e) {
    static const char *const kinds[] = {"xvd", "vd", "sd", "hd"};

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i]);
        const char *letters = value + n;

        if (strncmp(value, kinds[i], n) == 0 && *letters &&
            strspn(letters, "abcdefghijklmnopqrstuvwxyz") == strlen(letters))
            return set_string(&s->vdev, value);
    }
    return *value ? err_set(e, 0, "vdev '%s' is not a disk such as xvda, sda or vda", value) : 0;
}

static int set_devtype(struct disk_spec *s, const char *value, struct err *e) {
    s->cdrom = strcmp(value, "cdrom") == 0;
    if (!s->cdrom && strcmp(value, "disk") != 0)
        return err_set(e, 0, "devtype '%s' is none of disk, cdrom", value);
    return 0;
}

static int set_access(struct disk_spec *s, const char *value, struct err *e) {
    static const struct {
        const char *name;
        bool read_only;
    } ways[] = {{"rw", false}, {"w", false}, {"ro", true}, {"r", true}, {"", false}};

    for (size_t i = 0; i < ARRAY_LEN(ways); i++)
        if (strcmp(value, ways[i].name) == 0) {
            s->read_only = ways[i].read_only;
            return 0;
        }
    return err_set(e, 0, "access '%s' is none of rw, w, ro, r", value);
}

static int set_serial(struct disk_spec *s, const char *value, struct err *e) {
    if (strlen(value) > SERIAL_MAX)
        return err_set(e, 0, "serial '%s' is longer than %d characters", value, SERIAL_MAX);
    return set_string(&s->serial, value);
}

static int set_queues(struct disk_spec *s, const char *value, struct err *e) {
    char *end;
    long n = strtol(value, &end, 10);

    if (end == value || *end || n < 1 || n > QUEUES_MAX)
        return err_set(e, 0, "queues '%s' is not a number from 1 to %d", value, QUEUES_MAX);
    s->queues = (unsigned)n;
    return 0;
}

static int set_named(struct disk_spec *s, const char *name, const char *value, struct err *e) {
    if (strcmp(name, "target") == 0)
        return set_string(&s->target, value);
    if (strcmp(name, "format") == 0)
        return set_format(s, value, e);
    if (strcmp(name, "devtype") == 0)
        return set_devtype(s, value, e);
    if (strcmp(name, "vdev") == 0)
        return set_vdev(s, value, e);
    if (strcmp(name, "access") == 0)
        return set_access(s, value, e);
    if (strcmp(name, "serial") == 0)
        return set_serial(s, value, e);
    if (strcmp(name, "queues") == 0)
        return set_queues(s, value, e);
    return err_set(
        e, 0, "'%s' is none of target=, format=, vdev=, access=, devtype=, serial=, queues=", name);
}

static int set_positional(struct disk_spec *s, unsigned position, const char *value,
                          struct err *e) {
    static const char *const names[] = {"target", "format", "vdev", "access"};

    if (position >= ARRAY_LEN(names))
        return err_set(e, 0, "'%s' is one parameter too many", value);
    return set_named(s, names[position], value, e);
}

/* One parameter, which ends at a comma. */
static int set_parameter(struct disk_spec *s, char *text, unsigned *position, struct err *e) {
    char *eq = strchr(text, '=');

    if (strcmp(text, "cdrom") == 0)
        return set_devtype(s, text, e);
    if (strcmp(text, "snapshot") == 0) {
        s->snapshot = true;
        return 0;
    }
    if (!eq)
        return set_positional(s, (*position)++, text, e);
    *eq = 0;
    return set_named(s, text, eq + 1, e);
}

static int parse(struct disk_spec *s, char *text, struct err *e) {
    unsigned position = 0;

    for (char *at = text, *comma; at; at = comma) {
        int r;

        at += strspn(at, " \t");
        if (strncmp(at, "target=", 7) == 0)
            return set_string(&s->target, at + 7);
        comma = strchr(at, ',');
        if (comma)
            *comma++ = 0;
        r = set_parameter(s, at, &position, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int disk_spec_parse(struct disk_spec *s, const char *text, struct err *e) {
    cleanup_free char *copy = xstrdup(text);
    int r;

    *s = (struct disk_spec){0};
    r = parse(s, copy, e);
    if (r == 0 && s->target)
        return 0;
    if (r == 0)
        err_set(e, 0, "there is no file: FILE, or target=FILE");
    disk_spec_free(s);
    return -1;
}

void disk_spec_free(struct disk_spec *s) {
    free(s->target);
    free(s->format);
    free(s->vdev);
    free(s->serial);
    *s = (struct disk_spec){0};
}

static char *absolute(const char *path, struct err *e) {
    cleanup_free char *folder = NULL;

    if (*path == '/')
        return xstrdup(path);
    folder = getcwd(NULL, 0);
    if (folder)
        return xasprintf("%s/%s", folder, path);
    err_set(e, errno, "%s: the current folder", path);
    return NULL;
}

char *disk_spec_text(const struct disk_spec *s, struct err *e) {
    cleanup_free char *path = absolute(s->target, e);
    cleanup_free char *queues = s->queues ? xasprintf("queues=%u,", s->queues) : xstrdup("");

    if (!path)
        return NULL;
    return xasprintf("%s%s%s%s%s%s%s%s%s%s%s%s,target=%s", s->format ? "format=" : "",
                     s->format ? s->format : "", s->format ? "," : "", s->vdev ? "vdev=" : "",
                     s->vdev ? s->vdev : "", s->vdev ? "," : "", s->serial ? "serial=" : "",
                     s->serial ? s->serial : "", s->serial ? "," : "", queues,
                     s->snapshot ? "snapshot," : "",
                     s->cdrom       ? "devtype=cdrom"
                     : s->read_only ? "access=ro"
                                    : "access=rw",
                     path);
}

/* --- back ends --- */

/* Formats other than raw, and what is thrown away in the end. */
static struct block *open_volume(const struct disk_spec *s, const struct volume_format *f,
                                 bool read_only, struct loop *l, struct err *e) {
    const struct volume_options o = {.format = f, .read_only = read_only || s->snapshot};
    struct volume *v = volume_open(s->target, &o, e);

    if (v && s->snapshot && !read_only)
        v = volume_open_throwaway(v, e);
    return v ? block_volume_new(v, l, e) : NULL;
}

static struct block *open_block(const struct disk_spec *s, struct loop *l, struct err *e) {
    const struct block_options o = {.read_only = s->read_only || s->cdrom};
    const struct volume_format *f =
        s->format ? volume_format_find(s->format, e) : volume_probe(s->target, e);

    if (!f)
        return NULL;
    if (f == &volume_raw && (!s->snapshot || o.read_only))
        return block_raw_open(s->target, &o, l, e);
    return open_volume(s, f, o.read_only, l, e);
}

struct disk *disk_open(const struct disk_spec *s, const char *thread, struct machine_disk *m,
                       struct err *e) {
    struct disk *d = xcalloc(1, sizeof(*d));

    d->worker = worker_new(thread, e);
    if (d->worker)
        d->block = open_block(s, worker_loop(d->worker), e);
    if (!d->block) {
        disk_free(d);
        return NULL;
    }
    d->serial = s->serial ? xstrdup(s->serial) : NULL;
    *m = (struct machine_disk){
        .block = d->block,
        .serial = d->serial,
        .queues = s->queues,
        .scsi = s->cdrom || (s->vdev && strncmp(s->vdev, "sd", 2) == 0),
        .cdrom = s->cdrom,
    };
    return d;
}

/* --- flushing: there on the disk's worker, and back --- */

static void tell_flushed(void *arg) {
    struct disk *d = arg;

    d->flushed(d->flushed_arg, d->flush.result);
}

static void on_flushed(struct block_req *r, int result) {
    struct disk *d = container_of(r, struct disk, flush);

    r->result = result;
    loop_call(d->caller, tell_flushed, d);
}

static void start_flush(void *arg) {
    struct disk *d = arg;

    d->flush = (struct block_req){.op = BLOCK_FLUSH, .done = on_flushed};
    block_submit(d->block, &d->flush);
}

void disk_flush(struct disk *d, struct loop *caller, disk_flushed_fn *flushed, void *arg) {
    d->caller = caller;
    d->flushed = flushed;
    d->flushed_arg = arg;
    loop_call(worker_loop(d->worker), start_flush, d);
}

void disk_close(struct disk *d) {
    if (d->worker)
        worker_stop(d->worker);
    block_close(d->block);
    d->block = NULL;
}

void disk_free(struct disk *d) {
    if (!d)
        return;
    disk_close(d);
    worker_free(d->worker);
    free(d->serial);
    free(d);
}

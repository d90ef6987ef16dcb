/* SPDX-License-Identifier: Apache-2.0 */
/* Parses --share, and makes a worker for each: a slow folder delays nobody else. */
#include "domain/shares.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "base/worker.h"
#include "domain/config.h"
#include "domain/spec.h"
#include "machine/devices.h"
#include "virtio/p9.h"

struct share {
    struct share_spec spec;
    struct worker *worker;
};

/* --- the syntax --- */

static int set_text(char **field, const char *value, const char *what, struct err *e) {
    if (!*value)
        return err_set(e, 0, "%s= needs something behind it", what);
    free(*field);
    *field = xstrdup(value);
    return 0;
}

static int set_access(struct share_spec *s, const char *value, struct err *e) {
    s->options.read_only = strcmp(value, "ro") == 0 || strcmp(value, "r") == 0;
    if (!s->options.read_only && strcmp(value, "rw") != 0 && strcmp(value, "w") != 0)
        return err_set(e, 0, "access '%s' is none of rw, ro", value);
    return 0;
}

/* GUEST[:HOST[:COUNT]]; without HOST, the user (or group) who runs this. */
static int parse_map(const char *value, uint32_t own, struct p9_map *map, struct err *e) {
    unsigned long long n[3] = {0, own, 1};
    const char *at = value;

    for (unsigned i = 0; i < 3; i++) {
        char *end;

        if (*at < '0' || *at > '9')
            break;
        n[i] = strtoull(at, &end, 10);
        if (!*end && n[0] + n[2] <= UINT32_MAX && n[1] + n[2] <= UINT32_MAX && n[2]) {
            *map = (struct p9_map){(uint32_t)n[0], (uint32_t)n[1], (uint32_t)n[2]};
            return 0;
        }
        if (*end != ':' || n[i] > UINT32_MAX)
            break;
        at = end + 1;
    }
    return err_set(e, 0, "'%s' is not GUEST[:HOST[:COUNT]]", value);
}

static int add_map(struct p9_map *maps, unsigned *count, uint32_t own, const char *value,
                   struct err *e) {
    int r;

    if (*count == P9_MAPS_MAX)
        return err_set(e, 0, "more than %d of a kind", P9_MAPS_MAX);
    r = parse_map(value, own, &maps[*count], e);
    if (r == 0)
        (*count)++;
    return r;
}

static int set_parameter(void *arg, const char *key, const char *value, struct err *e) {
    struct share_spec *s = arg;
    struct p9_options *o = &s->options;
    int r;

    if (!key || strcmp(key, "path") == 0)
        return set_text(&s->path, value, "path", e);
    if (strcmp(key, "tag") == 0)
        return set_text(&s->tag, value, "tag", e);
    if (strcmp(key, "access") == 0)
        return set_access(s, value, e);
    if (strcmp(key, "uid") == 0) {
        r = add_map(o->uids, &o->uid_count, geteuid(), value, e);
        return r < 0 ? err_wrap(e, "uid") : 0;
    }
    if (strcmp(key, "gid") == 0) {
        r = add_map(o->gids, &o->gid_count, getegid(), value, e);
        return r < 0 ? err_wrap(e, "gid") : 0;
    }
    if (strcmp(key, "security_model") == 0 && strcmp(value, "none") == 0)
        return 0;
    return err_set(e, 0, "'%s=%s' is none of tag=, path=, access=, uid=, gid=", key, value);
}

/* The last component of the path names it when nothing else does. */
static void choose_tag(struct share_spec *s) {
    size_t end = strlen(s->path), start;

    while (end && s->path[end - 1] == '/')
        end--;
    start = end;
    while (start && s->path[start - 1] != '/')
        start--;
    s->tag =
        end == start ? xstrdup("root") : xasprintf("%.*s", (int)(end - start), s->path + start);
}

static int complete(struct share_spec *s, struct err *e) {
    if (!s->path)
        return err_set(e, 0, "there is no folder: DIR, or path=DIR");
    if (!s->tag)
        choose_tag(s);
    if (strlen(s->tag) > VIRTIO_P9_TAG_MAX)
        return err_set(e, 0, "the tag is longer than %d bytes", VIRTIO_P9_TAG_MAX);
    return 0;
}

int share_spec_parse(struct share_spec *s, const char *text, struct err *e) {
    int r;

    *s = (struct share_spec){0};
    r = spec_parse(text, set_parameter, s, e);
    if (r == 0)
        r = complete(s, e);
    if (r < 0)
        share_spec_free(s);
    return r;
}

void share_spec_free(struct share_spec *s) {
    free(s->path);
    free(s->tag);
    *s = (struct share_spec){0};
}

/* --- the workers --- */

static int open_one(struct shares *s, const char *text, struct err *e) {
    const unsigned i = s->count++;
    struct share *h = &s->share[i];
    char name[16];

    if (share_spec_parse(&h->spec, text, e) < 0)
        return -1;
    for (unsigned k = 0; k < i; k++)
        if (strcmp(s->share[k].spec.tag, h->spec.tag) == 0)
            return err_set(e, EEXIST,
                           "the tag %s is another share's; choose one with tag=", h->spec.tag);
    snprintf(name, sizeof(name), "share%u", i);
    h->worker = worker_new(name, e);
    if (!h->worker)
        return -1;
    s->machine[i] =
        (struct machine_share){h->spec.path, h->spec.tag, &h->spec.options, worker_loop(h->worker)};
    return 0;
}

int shares_open(struct shares *s, const struct config *c, struct err *e) {
    s->share = xcalloc(c->shares.count + 1, sizeof(*s->share));
    s->machine = xcalloc(c->shares.count + 1, sizeof(*s->machine));
    for (size_t i = 0; i < c->shares.count; i++)
        if (open_one(s, c->shares.items[i], e) < 0)
            return err_wrap(e, "share %s", c->shares.items[i]);
    return 0;
}

void shares_stop(struct shares *s) {
    for (unsigned i = 0; i < s->count; i++)
        if (s->share[i].worker)
            worker_stop(s->share[i].worker);
}

void shares_free(struct shares *s) {
    for (unsigned i = 0; i < s->count; i++) {
        worker_free(s->share[i].worker);
        share_spec_free(&s->share[i].spec);
    }
    free(s->share);
    free(s->machine);
    *s = (struct shares){0};
}

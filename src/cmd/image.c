/* SPDX-License-Identifier: Apache-2.0 */
/* rf image: disk images, made, looked at, checked and changed. What moves data is in image_copy.c.
 */
#include "cmd/image.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "cmd/verbs.h"
#include "domain/config.h"
#include "domain/domain.h"
#include "domain/options.h"
#include "domain/suggest.h"

enum {
    ID_FORMAT,
    ID_OUTPUT,
    ID_CREATE,
    ID_BACKING,
    ID_BACKING_FORMAT,
    ID_JSON,
    ID_FORCE,
    ID_COMPRESS,
    ID_SHRINK,
    ID_UNSAFE,
    ID_CHAIN,
    ID_REPAIR,
    ID_LEAKS,
    ID_SIZE,
    ID_HELP,
};

#define OPT_FORMAT                                                                                 \
    { "format", 'f', "FMT", "the format of FILE: raw, qcow2, vdi, vhd, vmdk", ID_FORMAT }
#define OPT_OUTPUT                                                                                 \
    { "output", 'O', "FMT", "the format to write: raw, qcow2, vdi, vhd, vmdk", ID_OUTPUT }
#define OPT_CREATE                                                                                 \
    {                                                                                              \
        "options", 'o', "K=V,...",                                                                 \
            "cluster_size, compat (0.10, 1.1), refcount_bits, lazy_refcounts, extended_l2, "       \
            "compression_type (zlib, zstd); subformat",                                            \
            ID_CREATE                                                                              \
    }
#define OPT_BACKING                                                                                \
    { "backing", 'b', "FILE", "the backing file", ID_BACKING }
#define OPT_BACKING_FORMAT                                                                         \
    { "backing-format", 'F', "FMT", "its format", ID_BACKING_FORMAT }
#define OPT_JSON                                                                                   \
    { "json", 0, NULL, "as JSON", ID_JSON }
#define OPT_FORCE                                                                                  \
    { "force", 0, NULL, "overwrite a file that is there", ID_FORCE }
#define OPT_HELP                                                                                   \
    { "help", 'h', NULL, "this text", ID_HELP }

static const struct option create_options[] = {
    OPT_FORMAT, OPT_CREATE, OPT_BACKING, OPT_BACKING_FORMAT, OPT_FORCE, OPT_HELP, {0}};
static const struct option info_options[] = {
    OPT_FORMAT,
    {"backing-chain", 0, NULL, "the backing files, too", ID_CHAIN},
    OPT_JSON,
    OPT_HELP,
    {0}};
static const struct option convert_options[] = {
    OPT_FORMAT, OPT_OUTPUT, {"compress", 'c', NULL, "compress (qcow2)", ID_COMPRESS},
    OPT_CREATE, OPT_FORCE,  OPT_HELP,
    {0}};
static const struct option resize_options[] = {
    OPT_FORMAT,
    {"shrink", 0, NULL, "what is behind the new end is lost", ID_SHRINK},
    OPT_HELP,
    {0}};
static const struct option check_options[] = {
    OPT_FORMAT,
    {"repair", 'r', NULL, "repair what can be", ID_REPAIR},
    {"repair-leaks", 0, NULL, "only give back what is not used", ID_LEAKS},
    OPT_JSON,
    OPT_HELP,
    {0}};
static const struct option plain_options[] = {OPT_FORMAT, OPT_JSON, OPT_HELP, {0}};
static const struct option commit_options[] = {OPT_FORMAT, OPT_HELP, {0}};
static const struct option rebase_options[] = {
    OPT_FORMAT,
    OPT_BACKING,
    OPT_BACKING_FORMAT,
    {"unsafe", 'u', NULL, "record the name only: the contents are known to be the same", ID_UNSAFE},
    OPT_HELP,
    {0}};
static const struct option measure_options[] = {
    OPT_FORMAT, OPT_OUTPUT, OPT_CREATE, {"size", 0, "SIZE", "of an empty disk", ID_SIZE},
    OPT_JSON,   OPT_HELP,   {0}};

/* --- arguments --- */

int imgcmd_parse_size(const char *text, uint64_t *bytes, struct err *e) {
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    /* A bare number is bytes here, unlike for memory. */
    if (*text >= '0' && *text <= '9' && !*end) {
        *bytes = n;
        return 0;
    }
    return config_parse_size(text, bytes, e);
}

static int parse_bool(const char *value, bool *b, struct err *e) {
    *b = strcmp(value, "on") == 0;
    return *b || strcmp(value, "off") == 0 ? 0 : err_set(e, 0, "'%s' is neither on nor off", value);
}

static int set_create(struct volume_create *c, const char *key, const char *value, struct err *e) {
    if (strcmp(key, "cluster_size") == 0)
        return imgcmd_parse_size(value, &c->cluster, e);
    if (strcmp(key, "refcount_bits") == 0) {
        c->refcount_bits = (unsigned)strtoul(value, NULL, 10);
        return c->refcount_bits ? 0 : err_set(e, 0, "'%s' is no number of bits", value);
    }
    if (strcmp(key, "lazy_refcounts") == 0)
        return parse_bool(value, &c->lazy_refcounts, e);
    if (strcmp(key, "extended_l2") == 0)
        return parse_bool(value, &c->extended_l2, e);
    if (strcmp(key, "subformat") == 0) {
        c->subformat = volume_subformat_find(value);
        return c->subformat ? 0 : err_set(e, 0, "no format has a subformat '%s'", value);
    }
    if (strcmp(key, "compat") == 0) {
        c->version = strcmp(value, "0.10") == 0 ? 2 : strcmp(value, "1.1") == 0 ? 3 : 0;
        return c->version ? 0 : err_set(e, 0, "'%s' is neither 0.10 nor 1.1", value);
    }
    if (strcmp(key, "compression_type") == 0) {
        c->zstd = strcmp(value, "zstd") == 0;
        return c->zstd || strcmp(value, "zlib") == 0
                   ? 0
                   : err_set(e, 0, "'%s' is neither zlib nor zstd", value);
    }
    return err_set(e, 0, "there is no such option");
}

static int parse_create(struct volume_create *c, const char *text, struct err *e) {
    cleanup_free char *copy = xstrdup(text);

    for (char *at = copy, *next; at; at = next) {
        char *eq;

        next = strchr(at, ',');
        if (next)
            *next++ = 0;
        eq = strchr(at, '=');
        if (!eq)
            return err_set(e, 0, "options: '%s' is not KEY=VALUE", at);
        *eq = 0;
        if (set_create(c, at, eq + 1, e) < 0)
            return err_wrap(e, "options: %s", at);
    }
    return 0;
}

static int set_format(const struct volume_format **f, const char *name, struct err *e) {
    *f = volume_format_find(name, e);
    return *f ? 0 : -1;
}

static int on_flag(struct imgcmd_args *a, int id) {
    a->json |= id == ID_JSON;
    a->force |= id == ID_FORCE;
    a->compress |= id == ID_COMPRESS;
    a->shrink |= id == ID_SHRINK;
    a->unsafe |= id == ID_UNSAFE;
    a->chain |= id == ID_CHAIN;
    a->help |= id == ID_HELP;
    if (id == ID_REPAIR)
        a->repair = VOLUME_REPAIR_ALL;
    if (id == ID_LEAKS)
        a->repair = VOLUME_REPAIR_LEAKS;
    return 0;
}

static int on_option(void *arg, const struct option *o, const char *value, struct err *e) {
    struct imgcmd_args *a = arg;

    if (!o && a->count == IMAGE_FILES)
        return err_set(e, 0, "'%s' is one argument too many", value);
    if (!o) {
        a->files[a->count++] = value;
        return 0;
    }
    switch (o->id) {
    case ID_FORMAT:
        return set_format(&a->format, value, e);
    case ID_OUTPUT:
        return set_format(&a->output, value, e);
    case ID_BACKING_FORMAT:
        return set_format(&a->backing_format, value, e);
    case ID_BACKING:
        a->backing = value;
        return 0;
    case ID_CREATE:
        return parse_create(&a->create, value, e);
    case ID_SIZE:
        return imgcmd_parse_size(value, &a->create.size, e);
    default:
        return on_flag(a, o->id);
    }
}

struct volume *imgcmd_open(const struct imgcmd_args *a, unsigned i, bool read_only, struct err *e) {
    const struct volume_options o = {.format = a->format, .read_only = read_only};

    return volume_open(a->files[i], &o, e);
}

/* --- progress --- */

static uint64_t progress_start, progress_last;

void imgcmd_progress(const char *what, uint64_t done, uint64_t total) {
    uint64_t now = mono_now();

    if (!progress_start)
        progress_start = now;
    if (now - progress_start < 1000000000 || now - progress_last < 200000000 ||
        !isatty(STDERR_FILENO))
        return;
    progress_last = now;
    unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 100;
    fprintf(stderr, "\r%s [%-40.*s] %3u%%", what, (int)(percent * 40 / 100),
            "########################################", percent);
}

void imgcmd_progress_end(void) {
    if (progress_last)
        fputs("\r\033[K", stderr);
    progress_start = progress_last = 0;
}

/* --- create --- */

static int create(const struct imgcmd_args *a, struct err *e) {
    struct volume_create c = a->create;

    c.force = a->force;
    c.backing = a->backing;
    c.backing_format = a->backing_format ? a->backing_format->name : NULL;
    if (a->count > 1 && imgcmd_parse_size(a->files[1], &c.size, e) < 0)
        return -1;
    if (a->count < 2 && !a->backing)
        return err_set(e, 0, "%s: a size is needed, such as 10G", a->files[0]);
    if (c.size > INT64_MAX / 2)
        return err_set(e, 0, "%s: the size is too large", a->files[0]);
    c.size = align_up(c.size, 512);
    return volume_create(a->files[0], a->format ? a->format : &volume_qcow2, &c, e);
}

/* --- info --- */

static json_t *snapshots_json(struct volume *v) {
    struct volume_snapshot *list = NULL;
    size_t n = 0;
    json_t *o = json_array();

    if (v->ops->snapshots && v->ops->snapshots->list(v, &list, &n, NULL) == 0)
        for (size_t i = 0; i < n; i++)
            json_array_append_new(o, json_pack("{s:s%, s:s%, s:I, s:I, s:I, s:I, s:I}", "id",
                                               list[i].id, strlen(list[i].id), "name", list[i].name,
                                               strlen(list[i].name), "disk_size",
                                               (json_int_t)list[i].disk_size, "vm_state_size",
                                               (json_int_t)list[i].vm_state_size, "seconds",
                                               (json_int_t)list[i].seconds, "nanoseconds",
                                               (json_int_t)list[i].nanoseconds, "vm_clock_ns",
                                               (json_int_t)list[i].vm_clock_ns));
    volume_snapshots_free(list, n);
    return o;
}

static json_t *info_json(struct volume *v) {
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:I}", "file", v->file->path, "format", v->format->name, "size",
                  (json_int_t)v->size, "allocated", (json_int_t)hostfile_allocated(v->file));

    if (v->cluster)
        json_object_set_new(o, "cluster_size", json_integer(v->cluster));
    if (v->backing_name)
        json_object_set_new(o, "backing_file", json_string(v->backing_name));
    if (v->backing_format)
        json_object_set_new(o, "backing_format", json_string(v->backing_format));
    if (v->ops->snapshots)
        json_object_set_new(o, "snapshots", snapshots_json(v));
    if (v->ops->describe)
        v->ops->describe(v, o);
    return o;
}

static void print_size(const char *what, uint64_t n) {
    static const char units[] = "BKMGTPE";
    double v = (double)n;
    unsigned u = 0;

    for (; v >= 1024 && u < 6; u++)
        v /= 1024;
    printf("%-16s %.4g%c (%" PRIu64 " bytes)\n", what, v, units[u], n);
}

static void print_snapshots(struct volume *v) {
    struct volume_snapshot *list = NULL;
    size_t n = 0;

    if (!v->ops->snapshots || v->ops->snapshots->list(v, &list, &n, NULL) < 0 || !n)
        return;
    printf("%-6s %-24s %-20s %s\n", "ID", "NAME", "DATE (UTC)", "DISK");
    for (size_t i = 0; i < n; i++) {
        time_t at = list[i].seconds;
        char date[32] = "";
        struct tm tm;

        if (gmtime_r(&at, &tm))
            strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        printf("%-6s %-24s %-20s %" PRIu64 "\n", list[i].id, list[i].name, date, list[i].disk_size);
    }
    volume_snapshots_free(list, n);
}

static void print_details(const struct volume *v) {
    json_t *o = json_object(), *value;
    const char *format, *key;
    json_t *d;

    if (v->ops->describe)
        v->ops->describe(v, o);
    json_object_foreach(o, format, d) {
        json_object_foreach(d, key, value) {
            cleanup_free char *text = json_dumps(value, JSON_ENCODE_ANY);

            printf("%-16s %s\n", key, json_is_string(value) ? json_string_value(value) : text);
        }
    }
    json_decref(o);
}

static void print_info(struct volume *v) {
    printf("%-16s %s\n%-16s %s\n", "file", v->file->path, "format", v->format->name);
    print_size("size", v->size);
    print_size("allocated", hostfile_allocated(v->file));
    if (v->cluster)
        print_size("cluster_size", v->cluster);
    if (v->backing_name)
        printf("%-16s %s (%s)\n", "backing_file", v->backing_name,
               v->backing_format ? v->backing_format : "format not recorded");
    print_details(v);
    print_snapshots(v);
}

static int print_json(json_t *o) {
    int r = json_dumpf(o, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);

    putchar('\n');
    json_decref(o);
    return r < 0 ? STATUS_FAILED : 0;
}

/* Looking does no harm, so that the content may say what it is, and others may have it open. */
static int info(const struct imgcmd_args *a, struct err *e) {
    const struct volume_options o = {
        .format = a->format ? a->format : volume_looks_like(a->files[0], e),
        .read_only = true,
        .no_lock = true,
        .no_backing = !a->chain,
    };
    struct volume *v = o.format ? volume_open(a->files[0], &o, e) : NULL;
    json_t *list = json_array();

    for (struct volume *at = v; at; at = at->backing) {
        if (a->json)
            json_array_append_new(list, info_json(at));
        else
            print_info(at);
        if (!a->json && at->backing)
            putchar('\n');
    }
    if (v && a->json)
        print_json(a->chain ? json_incref(list) : json_incref(json_array_get(list, 0)));
    json_decref(list);
    return v ? volume_close(v) : -1;
}

/* --- check --- */

static void say(void *arg, const char *line) {
    unsigned *left = arg;

    if (*left && --*left)
        fprintf(stderr, "%s\n", line);
}

static json_t *check_json(const char *path, const struct volume_check *c) {
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "file", path, "corruptions",
                     (json_int_t)c->corruptions, "leaks", (json_int_t)c->leaks, "corruptions_fixed",
                     (json_int_t)c->corruptions_fixed, "leaks_fixed", (json_int_t)c->leaks_fixed,
                     "allocated_clusters", (json_int_t)c->allocated, "compressed_clusters",
                     (json_int_t)c->compressed, "total_clusters", (json_int_t)c->total, "image_end",
                     (json_int_t)c->image_end);
}

static int check_volume(const struct imgcmd_args *a, struct volume *v, struct err *e) {
    unsigned lines = 40;
    struct volume_check c = {.say = a->json ? NULL : say, .arg = &lines};

    if (!v->ops->check)
        return err_set(e, 0, "%s: a %s image has nothing to be checked", a->files[0],
                       v->format->name);
    if (v->ops->check(v, a->repair, &c, e) < 0)
        return err_wrap(e, "%s", a->files[0]);
    if (a->json)
        print_json(check_json(a->files[0], &c));
    else
        printf("%s: %" PRIu64 " corruptions, %" PRIu64 " leaked clusters; fixed: %" PRIu64
               ", %" PRIu64 "; %" PRIu64 " of %" PRIu64 " clusters in use\n",
               a->files[0], c.corruptions, c.leaks, c.corruptions_fixed, c.leaks_fixed, c.allocated,
               c.total);
    return c.corruptions > c.corruptions_fixed || c.leaks > c.leaks_fixed ? STATUS_FAILED : 0;
}

static int check(const struct imgcmd_args *a, struct err *e) {
    const struct volume_options o = {
        .format = a->format ? a->format : volume_looks_like(a->files[0], e),
        .read_only = !a->repair,
        .for_repair = true,
        .no_backing = true,
    };
    struct volume *v = o.format ? volume_open(a->files[0], &o, e) : NULL;
    int r = v ? check_volume(a, v, e) : -1;
    int closed = volume_close(v);

    return r == 0 && closed < 0 ? err_set(e, -closed, "%s", a->files[0]) : r;
}

/* --- resize --- */

static int new_size(const struct imgcmd_args *a, uint64_t size, uint64_t *to, struct err *e) {
    const char *text = a->files[1];
    char sign = *text == '+' || *text == '-' ? *text++ : 0;

    if (imgcmd_parse_size(text, to, e) < 0)
        return -1;
    if ((sign == '+' && *to > INT64_MAX - size) || (sign == '-' && *to >= size) || !*to)
        return err_set(e, 0, "'%s': the size is out of range", a->files[1]);
    *to = sign == '+' ? size + *to : sign == '-' ? size - *to : *to;
    if (*to % 512 || *to > INT64_MAX / 2)
        return err_set(e, 0, "'%s': not a multiple of 512 bytes", a->files[1]);
    if (*to < size && !a->shrink)
        return err_set(e, 0,
                       "%s: the disk has %" PRIu64 " bytes; what is behind the new end would be "
                       "lost: --shrink does that",
                       a->files[0], size);
    return 0;
}

static int resize(const struct imgcmd_args *a, struct err *e) {
    struct volume *v = imgcmd_open(a, 0, false, e);
    uint64_t to;
    int r, closed;

    if (!v)
        return -1;
    r = new_size(a, v->size, &to, e);
    if (r == 0 && !v->ops->resize)
        r = err_set(e, 0, "%s: a %s image cannot change its size", a->files[0], v->format->name);
    else if (r == 0 && v->ops->resize(v, to, e) < 0)
        r = err_wrap(e, "%s", a->files[0]);
    closed = volume_close(v);
    return r == 0 && closed < 0 ? err_set(e, -closed, "%s", a->files[0]) : r;
}

/* --- snapshot --- */

static int do_snapshot(const struct imgcmd_args *a, struct volume *v, struct err *e) {
    const struct volume_snapshot_ops *ops = v->ops->snapshots;
    const char *what = a->files[0];

    if (!ops)
        return err_set(e, 0, "a %s image has no snapshots", v->format->name);
    if (strcmp(what, "list") == 0) {
        if (a->json)
            return print_json(snapshots_json(v));
        print_snapshots(v);
        return 0;
    }
    if (strcmp(what, "create") == 0)
        return ops->create(v, a->files[2], e);
    if (strcmp(what, "apply") == 0)
        return ops->apply(v, a->files[2], e);
    return ops->remove(v, a->files[2], e);
}

static int snapshot(const struct imgcmd_args *a, struct err *e) {
    bool list = strcmp(a->files[0], "list") == 0;
    struct volume *v;
    int r, closed;

    if (!list && strcmp(a->files[0], "create") != 0 && strcmp(a->files[0], "apply") != 0 &&
        strcmp(a->files[0], "delete") != 0)
        return err_set(e, 0, "'%s' is none of list, create, apply, delete", a->files[0]);
    if (a->count != (list ? 2 : 3))
        return err_set(e, 0, "snapshot %s FILE%s", a->files[0], list ? "" : " NAME");
    v = imgcmd_open(a, 1, list, e);
    if (!v)
        return -1;
    r = do_snapshot(a, v, e);
    if (r < 0)
        err_wrap(e, "%s", a->files[1]);
    closed = volume_close(v);
    return r == 0 && closed < 0 ? err_set(e, -closed, "%s", a->files[1]) : r;
}

/* --- map --- */

static const char *kind_name(enum volume_kind k) {
    return k == VOLUME_ZERO ? "zero" : k == VOLUME_COMPRESSED ? "compressed" : "data";
}

static void map_one(json_t *list, uint64_t off, const struct volume_extent *x, unsigned depth) {
    json_t *o = json_pack("{s:I, s:I, s:i, s:s}", "start", (json_int_t)off, "length",
                          (json_int_t)x->len, "depth", (int)depth, "kind", kind_name(x->kind));

    if (x->has_host)
        json_object_set_new(o, "offset", json_integer((json_int_t)x->host));
    json_array_append_new(list, o);
}

static int map(const struct imgcmd_args *a, struct err *e) {
    struct volume *v = imgcmd_open(a, 0, true, e);
    json_t *list = json_array();
    struct volume_extent x;
    int r = 0;

    for (uint64_t off = 0; v && off < v->size && r == 0; off += x.len) {
        unsigned depth;

        x.len = 0;
        r = volume_chain_extent(v, off, v->size - off, &x, &depth);
        if (r < 0)
            err_set(e, -r, "%s: map", a->files[0]);
        else if (a->json)
            map_one(list, off, &x, depth);
        else if (x.kind != VOLUME_ZERO)
            printf("%#-18" PRIx64 " %#-14" PRIx64 " %-10s depth %u\n", off, x.len,
                   kind_name(x.kind), depth);
    }
    if (v && r == 0 && a->json)
        print_json(json_incref(list));
    json_decref(list);
    volume_close(v);
    return v ? r : -1;
}

/* --- the verbs --- */

struct sub {
    const char *name, *usage, *summary;
    unsigned least, most; /* arguments */
    int (*run)(const struct imgcmd_args *a, struct err *e);
    const struct option *options;
};

static const struct sub subs[] = {
    {"create", "[OPTIONS] FILE [SIZE]", "make an image (qcow2 where nothing else is said)", 1, 2,
     create, create_options},
    {"info", "[OPTIONS] FILE", "say what an image is", 1, 1, info, info_options},
    {"convert", "[OPTIONS] FROM TO", "copy an image into another, of any format", 2, 2,
     imgcmd_convert, convert_options},
    {"check", "[OPTIONS] FILE", "look for corruption and lost space", 1, 1, check, check_options},
    {"resize", "[OPTIONS] FILE [+|-]SIZE", "give a disk another size", 2, 2, resize,
     resize_options},
    {"snapshot", "list|create|apply|delete FILE [NAME]", "keep states of a disk within its image",
     2, 3, snapshot, plain_options},
    {"map", "[OPTIONS] FILE", "say where data lies", 1, 1, map, plain_options},
    {"compare", "[OPTIONS] FILE FILE", "whether two disks have the same contents", 2, 2,
     imgcmd_compare, commit_options},
    {"commit", "[OPTIONS] FILE", "write what an image has into its backing file", 1, 1,
     imgcmd_commit, commit_options},
    {"rebase", "[OPTIONS] FILE", "put an image on another backing file, or on none", 1, 1,
     imgcmd_rebase, rebase_options},
    {"measure", "[OPTIONS] [FILE]", "say how large an image gets", 0, 1, imgcmd_measure,
     measure_options},
};

void cmd_image_help(void) {
    printf(
        "usage: rf image VERB [OPTIONS] ...\n\nDisk images: raw, qcow2, vdi, vhd and vmdk.\n\nverbs:\n");
    for (size_t i = 0; i < ARRAY_LEN(subs); i++)
        printf("  %-10s %s\n", subs[i].name, subs[i].summary);
    printf("\nrf image VERB --help has the options of a verb.\n\n"
           "Exit status: 0 done, 1 failed (also: check found something, compare a difference), 2 "
           "usage.\n");
}

static void print_usage(const struct sub *s) {
    printf("usage: rf image %s %s\n\n%s.\n\n", s->name, s->usage, s->summary);
    help_options(s->options);
}

static const struct sub *find_sub(const char *name, struct err *e) {
    struct suggest g;

    suggest_init(&g, name);
    for (size_t i = 0; i < ARRAY_LEN(subs); i++) {
        if (strcmp(subs[i].name, name) == 0)
            return &subs[i];
        suggest_try(&g, subs[i].name);
    }
    if (suggest_best(&g))
        err_set(e, 0, "there is no verb '%s'; did you mean '%s'?", name, suggest_best(&g));
    else
        err_set(e, 0, "there is no verb '%s'", name);
    return NULL;
}

int cmd_image(int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;
    struct imgcmd_args a = {0};
    const struct sub *s;
    int r;

    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        cmd_image_help();
        return 0;
    }
    if (argc < 1)
        err_set(&e, 0, "which verb?");
    s = argc < 1 ? NULL : find_sub(argv[0], &e);
    if (!s || options_parse(s->options, argc - 1, argv + 1, on_option, &a, &e) < 0)
        return usage_error("image", &e);
    if (a.help) {
        print_usage(s);
        return 0;
    }
    if (a.count < s->least || a.count > s->most) {
        err_set(&e, 0, "image %s %s", s->name, s->usage);
        return usage_error("image", &e);
    }
    r = s->run(&a, &e);
    return r < 0 ? failure(&e) : r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of running domains: rf block-attach, -list, -detach and network-attach, -list, -detach.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/arguments.h"
#include "cmd/verbs.h"
#include "domain/disks.h"
#include "domain/jsonrpc.h"
#include "domain/options.h"

#define DETACH_PATIENCE_MS 10000
#define TICK_MS 20

static const struct option options[] = {
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};
static const struct option json_options[] = {
    {"json", 0, NULL, "as JSON", FLAG_JSON},
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};

/* Parameters of all these methods: the kind, and one more. */
static json_t *make_params(const char *kind, const char *name, const char *value) {
    json_t *o = json_object();

    json_object_set_new(o, "kind", json_string(kind));
    if (name)
        json_object_set_new(o, name, jsonrpc_text(value));
    return o;
}

static const char *text(const json_t *o, const char *name) {
    const char *s = json_string_value(json_object_get(o, name));

    return s ? s : "";
}

/* --- attach --- */

/* The monitor has another current folder than we. */
static char *disk_text(const char *spec, struct err *e) {
    struct disk_spec s;
    char *out;

    if (disk_spec_parse(&s, spec, e) < 0)
        return NULL;
    out = disk_spec_text(&s, e);
    disk_spec_free(&s);
    return out;
}

static int attach(const struct arguments *a, const char *kind) {
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *joined = arguments_join(a, 1), *spec = NULL;
    json_t *device;

    spec = strcmp(kind, "disk") == 0 ? disk_text(joined, &e) : xstrdup(joined);
    if (!spec)
        return usage_error(a->verb, &e);
    device = call_domain(a->items[0], "device.attach", make_params(kind, "spec", spec), &e);
    if (!device)
        return failure(&e);
    if (a->flags & FLAG_JSON)
        return print_json(device);
    json_decref(device);
    return 0;
}

void cmd_block_attach_help(void) {
    printf(
        "usage: rf block-attach [OPTIONS] DOMAIN DISK ...\n\n"
        "Attaches a disk to a running domain. DISK is as in rf run --disk: a path, or\n"
        "format=raw,vdev=xvdb,access=rw,target=PATH; its parts may be arguments of their own.\n\n");
    help_options(json_options);
}

int cmd_block_attach(int argc, char **argv) {
    static const struct arguments verb = {
        .verb = "block-attach", .options = json_options, .help = cmd_block_attach_help, .min = 2};

    return arguments_run(&verb, argc, argv, attach, "disk");
}

void cmd_network_attach_help(void) {
    printf("usage: rf network-attach [OPTIONS] DOMAIN [VIF ...]\n\n"
           "Attaches a network interface to a running domain. VIF is as in rf run --vif (default:\n"
           "user); its parts may be arguments of their own. Paths in it are absolute.\n\n");
    help_options(json_options);
}

int cmd_network_attach(int argc, char **argv) {
    static const struct arguments verb = {.verb = "network-attach",
                                          .options = json_options,
                                          .help = cmd_network_attach_help,
                                          .min = 1};

    return arguments_run(&verb, argc, argv, attach, "nic");
}

/* --- list --- */

static void print_slot(const json_t *o) {
    const json_t *slot = json_object_get(o, "slot");

    if (json_is_integer(slot))
        printf("%-5lld ", (long long)json_integer_value(slot));
    else
        printf("%-5s ", "-");
}

static void print_disk(const json_t *o) {
    printf("%-7s ", text(o, "id"));
    print_slot(o);
    printf("%-7s %-7s %-7s %10lld  %-10s %s\n", text(o, "type"), text(o, "bus"), text(o, "access"),
           (long long)(json_integer_value(json_object_get(o, "size")) >> 20), text(o, "state"),
           text(o, "target"));
}

static void print_nic(const json_t *o) {
    printf("%-5s ", text(o, "id"));
    print_slot(o);
    printf("%-18s %-8s %-6s %s\n", text(o, "mac"), text(o, "type"),
           json_is_true(json_object_get(o, "link")) ? "up" : "down", text(o, "state"));
}

static void print_head(bool disks) {
    if (disks)
        printf("%-7s %-5s %-7s %-7s %-7s %10s  %-10s %s\n", "Vdev", "Slot", "Type", "Bus", "Access",
               "MiB", "State", "Target");
    else
        printf("%-5s %-5s %-18s %-8s %-6s %s\n", "Idx", "Slot", "Mac Addr.", "Type", "Link",
               "State");
}

static int list_one(const char *domain, const char *kind, json_t *all, struct err *e) {
    json_t *list = call_domain(domain, "device.list", make_params(kind, NULL, NULL), e);

    if (!list)
        return -1;
    json_array_extend(all, list);
    json_decref(list);
    return 0;
}

static int list(const struct arguments *a, const char *kind) {
    cleanup_err struct err e = ERR_INIT;
    bool disks = strcmp(kind, "disk") == 0;
    json_t *all = json_array();

    for (size_t i = 0; i < a->count; i++)
        if (list_one(a->items[i], kind, all, &e) < 0) {
            json_decref(all);
            return failure(&e);
        }
    if (a->flags & FLAG_JSON)
        return print_json(all);
    print_head(disks);
    for (size_t i = 0; i < json_array_size(all); i++)
        (disks ? print_disk : print_nic)(json_array_get(all, i));
    json_decref(all);
    return 0;
}

void cmd_block_list_help(void) {
    printf("usage: rf block-list [OPTIONS] DOMAIN ...\n\n"
           "Lists the disks of running domains.\n\n");
    help_options(json_options);
}

int cmd_block_list(int argc, char **argv) {
    static const struct arguments verb = {
        .verb = "block-list", .options = json_options, .help = cmd_block_list_help, .min = 1};

    return arguments_run(&verb, argc, argv, list, "disk");
}

void cmd_network_list_help(void) {
    printf("usage: rf network-list [OPTIONS] DOMAIN ...\n\n"
           "Lists the network interfaces of running domains.\n\n");
    help_options(json_options);
}

int cmd_network_list(int argc, char **argv) {
    static const struct arguments verb = {
        .verb = "network-list", .options = json_options, .help = cmd_network_list_help, .min = 1};

    return arguments_run(&verb, argc, argv, list, "nic");
}

/* --- detach --- */

/* 1 while it is there, 0 when it is not, or negative with the error set. */
static int is_there(const char *domain, const char *kind, const char *id, struct err *e) {
    json_t *list = call_domain(domain, "device.list", make_params(kind, NULL, NULL), e);
    int found = 0;

    if (!list)
        return -1;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);

        found |= strcmp(text(o, "id"), id) == 0 || strcasecmp(text(o, "mac"), id) == 0;
    }
    json_decref(list);
    return found;
}

static int wait_gone(const char *domain, const char *kind, const char *id, struct err *e) {
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000};
    int r;

    for (int ms = 0; (r = is_there(domain, kind, id, e)) == 1; ms += TICK_MS) {
        if (ms >= DETACH_PATIENCE_MS)
            return err_set(e, 0,
                           "the guest has not let go of %s within %d s; it was asked, and it will "
                           "go when the guest does so or resets",
                           id, DETACH_PATIENCE_MS / 1000);
        nanosleep(&tick, NULL);
    }
    return r;
}

static int detach(const struct arguments *a, const char *kind) {
    cleanup_err struct err e = ERR_INIT;
    const char *domain = a->items[0], *id = a->items[1];
    json_t *result = call_domain(domain, "device.detach", make_params(kind, "id", id), &e);

    if (!result)
        return failure(&e);
    json_decref(result);
    return wait_gone(domain, kind, id, &e) < 0 ? failure(&e) : 0;
}

void cmd_block_detach_help(void) {
    printf("usage: rf block-detach DOMAIN VDEV\n\n"
           "Asks a domain's guest to let go of a disk, and waits until its file is closed.\n"
           "VDEV is as rf block-list has it.\n\n");
    help_options(options);
}

int cmd_block_detach(int argc, char **argv) {
    static const struct arguments verb = {.verb = "block-detach",
                                          .options = options,
                                          .help = cmd_block_detach_help,
                                          .min = 2,
                                          .max = 2};

    return arguments_run(&verb, argc, argv, detach, "disk");
}

void cmd_network_detach_help(void) {
    printf("usage: rf network-detach DOMAIN IDX|MAC\n\n"
           "Asks a domain's guest to let go of a network interface, and waits until it is gone.\n"
           "IDX and MAC are as rf network-list has them.\n\n");
    help_options(options);
}

int cmd_network_detach(int argc, char **argv) {
    static const struct arguments verb = {.verb = "network-detach",
                                          .options = options,
                                          .help = cmd_network_detach_help,
                                          .min = 2,
                                          .max = 2};

    return arguments_run(&verb, argc, argv, detach, "nic");
}

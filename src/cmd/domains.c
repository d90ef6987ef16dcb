/* SPDX-License-Identifier: Apache-2.0 */
/* Domains as a whole: rf list, shutdown, destroy, mem-set. */
#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/arguments.h"
#include "cmd/verbs.h"
#include "domain/client.h"
#include "domain/config.h"
#include "domain/domain.h"
#include "domain/options.h"
#include "domain/state.h"

#define END_PATIENCE_MS 10000

/* --- all names --- */

struct names {
    char **items;
    size_t count;
};

static void names_free(struct names *n) {
    for (size_t i = 0; i < n->count; i++)
        free(n->items[i]);
    free(n->items);
}

#define cleanup_names __attribute__((cleanup(names_free)))

/* Those that were given, by name or ID; all that there are when none was. */
static int names_get(struct names *n, const struct arguments *a, struct err *e) {
    if (!a->count) {
        n->items = state_list(&n->count, e);
        return n->items ? 0 : -1;
    }
    n->items = xcalloc(a->count, sizeof(*n->items));
    for (; n->count < a->count; n->count++) {
        n->items[n->count] = client_resolve(a->items[n->count], e);
        if (!n->items[n->count])
            return -1;
    }
    return 0;
}

/* --- rf list --- */

static const struct option list_options[] = {
    {"long", 'l', NULL, "everything about them, as JSON", FLAG_LONG},
    {"json", 0, NULL, "the same", FLAG_JSON},
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};

void cmd_list_help(void) {
    printf(
        "usage: rf list [OPTIONS] [DOMAIN ...]\n\n"
        "Lists this user's running domains, or those that are named. ID is the process of the\n"
        "domain's monitor. State is one of r (running), b (blocked: nothing to do), p (paused).\n\n");
    help_options(list_options);
}

static const char *letters(const char *state) {
    if (!state)
        return "------";
    return strcmp(state, "running") == 0   ? "r-----"
           : strcmp(state, "blocked") == 0 ? "-b----"
                                           : "--p---";
}

static json_int_t integer(const json_t *o, const char *name) {
    return json_integer_value(json_object_get(o, name));
}

static void print_row(const json_t *o) {
    printf("%-40s %7lld %5lld %5lld %8s %9.1f\n", json_string_value(json_object_get(o, "name")),
           (long long)integer(o, "pid"), (long long)(integer(o, "memory") >> 20),
           (long long)integer(o, "vcpus"), letters(json_string_value(json_object_get(o, "state"))),
           json_real_value(json_object_get(o, "cpu_seconds")));
}

/* A domain that ends while we look is only an error when it was asked for. */
static int collect(json_t *all, const struct names *n, bool asked, struct err *e) {
    int status = 0;

    for (size_t i = 0; i < n->count; i++) {
        cleanup_err struct err why = ERR_INIT;
        json_t *info = client_call(n->items[i], "domain.info", NULL, &why);

        if (info)
            json_array_append_new(all, info);
        else if (asked && why.code == ESRCH)
            return err_set(e, 0, "%s", err_msg(&why));
        else if (why.code != ESRCH)
            status = failure(&why);
    }
    return status;
}

int cmd_list(int argc, char **argv) {
    cleanup_arguments struct arguments a = {"list", list_options, cmd_list_help, 0, 0, 0, NULL, 0};
    cleanup_err struct err e = ERR_INIT;
    cleanup_names struct names n = {0};
    int status = arguments_parse(&a, argc, argv);
    json_t *all;

    if (status >= 0)
        return status;
    if (names_get(&n, &a, &e) < 0)
        return failure(&e);
    all = json_array();
    status = collect(all, &n, a.count, &e);
    if (status >= 0 && a.flags & (FLAG_LONG | FLAG_JSON)) {
        print_json(all);
        return status;
    }
    if (status >= 0)
        printf("%-40s %7s %5s %5s %8s %9s\n", "Name", "ID", "Mem", "VCPUs", "State", "Time(s)");
    for (size_t i = 0; status >= 0 && i < json_array_size(all); i++)
        print_row(json_array_get(all, i));
    json_decref(all);
    return status < 0 ? failure(&e) : status;
}

/* --- rf shutdown --- */

static const struct option shutdown_options[] = {
    {"all", 'a', NULL, "all of this user's domains", FLAG_ALL},
    {"wait", 'w', NULL, "until they are gone", FLAG_WAIT},
    {"acpi", 'F', NULL, "as xl's; it is always ACPI's button", FLAG_NO_MEANING},
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};

void cmd_shutdown_help(void) {
    printf("usage: rf shutdown [OPTIONS] DOMAIN ...\n"
           "       rf shutdown [OPTIONS] --all\n\n"
           "Presses the power button: the guest shuts down when it listens to it.\n\n");
    help_options(shutdown_options);
}

static int shut_down(const struct names *n, bool wait) {
    int status = 0;

    for (size_t i = 0; i < n->count; i++)
        status = MAX(status, tell_domain(n->items[i], "domain.shutdown", NULL));
    for (size_t i = 0; wait && status == 0 && i < n->count; i++)
        client_wait_end(n->items[i], -1);
    return status;
}

int cmd_shutdown(int argc, char **argv) {
    cleanup_arguments struct arguments a = {
        "shutdown", shutdown_options, cmd_shutdown_help, 0, 0, 0, NULL, 0};
    cleanup_err struct err e = ERR_INIT;
    cleanup_names struct names n = {0};
    int status = arguments_parse(&a, argc, argv);

    if (status >= 0)
        return status;
    if (!a.count == !(a.flags & FLAG_ALL)) {
        err_set(&e, 0, "give either the names of domains or --all");
        return usage_error("shutdown", &e);
    }
    if (names_get(&n, &a, &e) < 0)
        return failure(&e);
    return shut_down(&n, a.flags & FLAG_WAIT);
}

/* --- rf destroy --- */

static const struct option destroy_options[] = {
    {"force", 'f', NULL, "as xl's; nobody is asked anyway", FLAG_NO_MEANING},
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};

void cmd_destroy_help(void) {
    printf("usage: rf destroy [OPTIONS] DOMAIN\n\n"
           "Ends a domain at once, as if its power cord was pulled.\n\n");
    help_options(destroy_options);
}

int cmd_destroy(int argc, char **argv) {
    cleanup_arguments struct arguments a = {
        "destroy", destroy_options, cmd_destroy_help, 1, 1, 0, NULL, 0};
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *name = NULL;
    int status = arguments_parse(&a, argc, argv);

    if (status >= 0)
        return status;
    name = client_resolve(a.items[0], &e);
    if (!name)
        return failure(&e);
    status = tell_domain(name, "domain.destroy", NULL);
    if (status != 0 || client_wait_end(name, END_PATIENCE_MS))
        return status;
    err_set(&e, 0, "domain %s has not ended within %d s; rf list shows its monitor's process", name,
            END_PATIENCE_MS / 1000);
    return failure(&e);
}

/* --- rf mem-set --- */

static const struct option mem_set_options[] = {
    {"help", 'h', NULL, "this text", FLAG_HELP},
    {0},
};

void cmd_mem_set_help(void) {
    printf("usage: rf mem-set DOMAIN MEMORY\n\n"
           "Sets how much memory a domain shall have, up to its maxmem: 512M, 1G, or a number of\n"
           "MiB. Its balloon driver gives back or takes what that means; rf list shows how far it\n"
           "has come.\n\n");
    help_options(mem_set_options);
}

int cmd_mem_set(int argc, char **argv) {
    cleanup_arguments struct arguments a = {
        "mem-set", mem_set_options, cmd_mem_set_help, 2, 2, 0, NULL, 0};
    cleanup_err struct err e = ERR_INIT;
    int status = arguments_parse(&a, argc, argv);
    uint64_t bytes;
    json_t *params;

    if (status >= 0)
        return status;
    if (config_parse_size(a.items[1], &bytes, &e) < 0)
        return usage_error("mem-set", &e);
    params = json_object();
    json_object_set_new(params, "memory", json_integer((json_int_t)bytes));
    return tell_domain(a.items[0], "balloon.set", params);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* rf run: a configuration from FILE, options and KEY=VALUE, and then the domain. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/guestfile.h"
#include "cmd/verbs.h"
#include "domain/config.h"
#include "domain/domain.h"
#include "domain/options.h"

enum { ID_KEY, ID_DRY_RUN, ID_STATS, ID_JSON, ID_HELP };

static const struct option own_options[] = {
    {"dry-run", 0, NULL, "print the domain as it would run, as JSON, and run nothing", ID_DRY_RUN},
    {"stats", 0, NULL, "say in the end what was executed, on standard error", ID_STATS},
    {"json", 0, NULL, "--stats as JSON", ID_JSON},
    {"help", 'h', NULL, "this text", ID_HELP},
};

/* One walk over the command line. */
struct walk {
    struct config *config;
    const char *file;
    struct domain_options options;
    bool dry_run, help;
};

/* The table: every key that is an option, with its alias, then our own. The caller frees it. */
static struct option *make_table(void) {
    struct option *t = xcalloc(2 * config_key_count + ARRAY_LEN(own_options) + 1, sizeof(*t));
    size_t n = 0;

    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];

        if (!k->option)
            continue;
        t[n++] = (struct option){k->name, 0, k->arg, k->help, ID_KEY};
        if (k->alias)
            t[n++] = (struct option){k->alias, 0, k->arg, NULL, ID_KEY};
    }
    memcpy(t + n, own_options, sizeof(own_options));
    return t;
}

static int on_argument(struct walk *w, const char *arg, struct err *e) {
    const char *eq = strchr(arg, '=');
    cleanup_free char *key = eq ? xasprintf("%.*s", (int)(eq - arg), arg) : NULL;

    /* A path may hold a '=', but not behind the name of a key. */
    if (key && (w->file || !strchr(key, '/')))
        return config_set_pair(w->config, arg, e);
    if (w->file)
        return err_set(e, 0, "more than one FILE: '%s' and '%s'", w->file, arg);
    w->file = arg;
    return 0;
}

static int on_option(void *arg, const struct option *o, const char *value, struct err *e) {
    struct walk *w = arg;

    if (!o)
        return on_argument(w, value, e);
    switch (o->id) {
    case ID_DRY_RUN:
        w->dry_run = true;
        return 0;
    case ID_STATS:
        w->options.stats = true;
        return 0;
    case ID_JSON:
        w->options.json = true;
        return 0;
    case ID_HELP:
        w->help = true;
        return 0;
    default:
        return config_set_text(w->config, config_key_find(o->name), value ? value : "1", e);
    }
}

void cmd_run_help(void) {
    cleanup_free struct option *table = make_table();

    printf("usage: rf run [OPTIONS] [FILE] [KEY=VALUE ...]\n\n"
           "Runs a domain in the foreground, its console on this terminal. FILE is a kernel or a\n"
           "domain configuration (xl.cfg syntax); without one, the demonstration appliance runs.\n"
           "Each option is also a KEY, with '_' for '-'.\n\n");
    help_options(table);
    printf("\nThe console is left with ^].\n\n"
           "Exit status: 0 powered off, 1 rf failed, 2 usage, 3 the guest crashed, 124 timed out,\n"
           "128 + N ended by signal N.\n");
}

/*
 * Twice over the command line: once to find mistakes and FILE, then, on top of what FILE says, for
 * good.
 */
static int configure(struct walk *w, const struct option *table, int argc, char **argv,
                     struct err *e) {
    cleanup_config struct config scratch;
    struct walk first = {.config = &scratch};

    config_init(&scratch);
    if (options_parse(table, argc, argv, on_option, &first, e) < 0)
        return STATUS_USAGE;
    w->help = first.help;
    if (w->help)
        return 0;
    if (first.file && guestfile_apply(w->config, first.file, e) < 0)
        return STATUS_FAILED;
    return options_parse(table, argc, argv, on_option, w, e) < 0 ? STATUS_USAGE : 0;
}

static int complete(struct config *c, struct err *e) {
    if (!c->kernel && !c->bios && guestfile_appliance(c, e) < 0)
        return -1;
    if (!*c->name) {
        const char *path = c->kernel ? c->kernel : c->bios, *slash = strrchr(path, '/');

        free(c->name);
        c->name = xstrdup(slash ? slash + 1 : path);
    }
    return config_check(c, e);
}

static int print_config(const struct config *c) {
    json_t *o = config_to_json(c);

    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
    return 0;
}

int cmd_run(int argc, char **argv) {
    cleanup_free struct option *table = make_table();
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;
    struct walk w = {.config = &c};
    int r;

    config_init(&c);
    r = configure(&w, table, argc, argv, &e);
    if (r == STATUS_USAGE)
        return usage_error("run", &e);
    if (r == STATUS_FAILED)
        return failure(&e);
    if (w.help) {
        cmd_run_help();
        return 0;
    }
    if (complete(&c, &e) < 0)
        return failure(&e);
    if (w.dry_run)
        return print_config(&c);
    r = domain_run(&c, &w.options, &e);
    return r < 0 ? failure(&e) : r;
}

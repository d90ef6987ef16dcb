/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines of verbs that talk to running domains, and the talking. */
#include "cmd/arguments.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/verbs.h"
#include "domain/client.h"
#include "domain/domain.h"
#include "domain/options.h"

static int on_argument(void *arg, const struct option *o, const char *value, struct err *e) {
    struct arguments *a = arg;

    (void)e;
    if (o)
        a->flags |= (unsigned)o->id;
    else
        a->items[a->count++] = value;
    return 0;
}

int arguments_parse(struct arguments *a, int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;

    a->items = xcalloc((size_t)argc + 1, sizeof(*a->items));
    if (options_parse(a->options, argc, argv, on_argument, a, &e) < 0)
        return usage_error(a->verb, &e);
    if (a->flags & FLAG_HELP) {
        a->help();
        return 0;
    }
    if (a->count >= a->min && (!a->max || a->count <= a->max))
        return -1;
    err_set(&e, 0, a->count < a->min ? "an argument is missing" : "'%s' is one argument too many",
            a->count < a->min ? "" : a->items[a->max]);
    return usage_error(a->verb, &e);
}

void arguments_free(struct arguments *a) {
    free(a->items);
}

int arguments_run(const struct arguments *verb, int argc, char **argv,
                  int (*run)(const struct arguments *a, const char *what), const char *what) {
    cleanup_arguments struct arguments a = *verb;
    int status = arguments_parse(&a, argc, argv);

    return status >= 0 ? status : run(&a, what);
}

char *arguments_join(const struct arguments *a, size_t from) {
    char *text = xstrdup(from < a->count ? a->items[from] : "");

    for (size_t i = from + 1; i < a->count; i++) {
        char *longer = xasprintf("%s,%s", text, a->items[i]);

        free(text);
        text = longer;
    }
    return text;
}

json_t *call_domain(const char *domain, const char *method, json_t *params, struct err *e) {
    cleanup_free char *name = client_resolve(domain, e);

    if (name)
        return client_call(name, method, params, e);
    json_decref(params);
    return NULL;
}

int tell_domain(const char *domain, const char *method, json_t *params) {
    cleanup_err struct err e = ERR_INIT;
    json_t *result = call_domain(domain, method, params, &e);

    if (!result)
        return failure(&e);
    json_decref(result);
    return 0;
}

int print_json(json_t *o) {
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
    return 0;
}

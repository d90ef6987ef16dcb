/* SPDX-License-Identifier: Apache-2.0 */
/* The command-line walk that every verb uses. '-' and '_' are the same within a name. */
#include "domain/options.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "domain/suggest.h"

static bool same_char(char a, char b) {
    return (a == '_' ? '-' : a) == (b == '_' ? '-' : b);
}

static bool same_name(const char *typed, size_t len, const char *name) {
    if (strlen(name) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!same_char(typed[i], name[i]))
            return false;
    return true;
}

static const struct option *find_long(const struct option *table, const char *typed, size_t len) {
    for (const struct option *o = table; o->name; o++)
        if (same_name(typed, len, o->name))
            return o;
    return NULL;
}

static const struct option *find_short(const struct option *table, char letter) {
    for (const struct option *o = table; o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

static int unknown(const struct option *table, const char *typed, size_t len, struct err *e) {
    cleanup_free char *name = xasprintf("%.*s", (int)len, typed);
    struct suggest s;

    suggest_init(&s, name);
    for (const struct option *o = table; o->name; o++)
        suggest_try(&s, o->name);
    if (suggest_best(&s))
        return err_set(e, 0, "unknown option '--%s'; did you mean '--%s'?", name, suggest_best(&s));
    return err_set(e, 0, "unknown option '--%s'", name);
}

/* One argument that starts with "--". Returns how many of argv it used. */
static int parse_long(const struct option *table, int argc, char **argv, options_fn *fn, void *arg,
                      struct err *e) {
    const char *typed = argv[0] + 2, *value = strchr(typed, '=');
    size_t len = value ? (size_t)(value - typed) : strlen(typed);
    const struct option *o = find_long(table, typed, len);
    int used = 1, r;

    if (!o)
        return unknown(table, typed, len, e);
    if (value && !o->arg)
        return err_set(e, 0, "option '--%s' takes no value", o->name);
    if (value) {
        value++;
    } else if (o->arg) {
        if (argc < 2)
            return err_set(e, 0, "option '--%s' needs a value: --%s %s", o->name, o->name, o->arg);
        value = argv[1];
        used = 2;
    }
    r = fn(arg, o, value, e);
    return r < 0 ? r : used;
}

/* One argument of the form "-x" or "-x value". */
static int parse_short(const struct option *table, int argc, char **argv, options_fn *fn, void *arg,
                       struct err *e) {
    const struct option *o = find_short(table, argv[0][1]);
    int r;

    if (!o || argv[0][2])
        return err_set(e, 0, "unknown option '%s'", argv[0]);
    if (o->arg && argc < 2)
        return err_set(e, 0, "option '%s' needs a value: %s %s", argv[0], argv[0], o->arg);
    r = fn(arg, o, o->arg ? argv[1] : NULL, e);
    return r < 0 ? r : 1 + (o->arg != NULL);
}

int options_parse(const struct option *table, int argc, char **argv, options_fn *fn, void *arg,
                  struct err *e) {
    bool options = true;

    for (int i = 0, used; i < argc; i += used) {
        const char *a = argv[i];

        if (options && strcmp(a, "--") == 0) {
            options = false;
            used = 1;
            continue;
        }
        if (options && a[0] == '-' && a[1] == '-')
            used = parse_long(table, argc - i, argv + i, fn, arg, e);
        else if (options && a[0] == '-' && a[1])
            used = parse_short(table, argc - i, argv + i, fn, arg, e);
        else
            used = fn(arg, NULL, a, e) < 0 ? -1 : 1;
        if (used < 0)
            return used;
    }
    return 0;
}

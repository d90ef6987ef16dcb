/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters are separated by commas; spaces around them don't count. */
#include "domain/spec.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

static char *trim(char *s) {
    size_t n;

    s += strspn(s, " \t");
    n = strlen(s);
    while (n && strchr(" \t", s[n - 1]))
        s[--n] = 0;
    return s;
}

static int parameter(char *text, bool first, spec_fn *fn, void *arg, struct err *e) {
    char *eq = strchr(text, '=');

    if (!eq && !first)
        return err_set(e, 0, "'%s' is not key=value", text);
    if (!eq)
        return fn(arg, NULL, text, e);
    *eq = 0;
    return fn(arg, trim(text), trim(eq + 1), e);
}

int spec_parse(const char *text, spec_fn *fn, void *arg, struct err *e) {
    cleanup_free char *copy = xstrdup(text);
    char *at = copy, *item;
    int r = 0;

    for (bool first = true; r >= 0 && (item = strsep(&at, ",")); first = false) {
        item = trim(item);
        if (*item)
            r = parameter(item, first, fn, arg, e);
    }
    return r;
}

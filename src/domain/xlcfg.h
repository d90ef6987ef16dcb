/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The syntax of domain configuration files, which is that of xl.cfg(5): NAME = VALUE and NAME +=
 * VALUE, one to a line or separated by ';', where a value is a string in either kind of quotes, a
 * number, or a list of values in brackets. What the names mean is config.h's business.
 */
#ifndef RINGFENCE_DOMAIN_XLCFG_H
#define RINGFENCE_DOMAIN_XLCFG_H

#include <stdbool.h>
#include <stddef.h>

struct err;

enum xlcfg_kind { XLCFG_STRING, XLCFG_NUMBER, XLCFG_LIST };

struct xlcfg_value {
    enum xlcfg_kind kind;
    char *text;                /* STRING: unescaped; NUMBER: as written; LIST: NULL. Owned */
    struct xlcfg_value *items; /* LIST; owned */
    size_t count;
};

struct xlcfg_setting {
    char *name;
    bool append; /* += */
    unsigned line;
    struct xlcfg_value value;
};

struct xlcfg {
    struct xlcfg_setting *settings;
    size_t count;
};

/*
 * Parses `len` bytes of text. On failure the error says the line and what was expected there, and
 * `out` is empty. NUL bytes are not text. Lists nest at most XLCFG_DEPTH deep.
 */
#define XLCFG_DEPTH 16
int xlcfg_parse(const char *text, size_t len, struct xlcfg *out, struct err *e);
void xlcfg_free(struct xlcfg *c);

/*
 * One value on its own, as in KEY=VALUE on a command line: a quoted string or a list is parsed as
 * such; anything else is taken as a string, or a number when it looks like one.
 */
int xlcfg_parse_value(const char *text, struct xlcfg_value *out, struct err *e);
void xlcfg_value_free(struct xlcfg_value *v);

#define cleanup_xlcfg __attribute__((cleanup(xlcfg_free)))
#define cleanup_xlcfg_value __attribute__((cleanup(xlcfg_value_free)))

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines: "--opt=value", "--opt value", "--flag", "-x" for what a table says, in any order
 * with arguments that are not options; "--" ends the options.
 */
#ifndef RINGFENCE_DOMAIN_OPTIONS_H
#define RINGFENCE_DOMAIN_OPTIONS_H

#include <stddef.h>

struct err;

struct option {
    const char *name; /* without dashes */
    char letter;      /* "-h" for "--help"; 0: none */
    const char *arg;  /* what help calls its argument; NULL: it takes none */
    const char *help; /* NULL: not shown */
    int id;
};

/* Called for each option, `value` NULL for a flag; and for each argument, with `o` NULL. */
typedef int options_fn(void *arg, const struct option *o, const char *value, struct err *e);

/*
 * Walks argv[0..argc). `table` ends with an entry that has no name. Stops at the first error, which
 * names the option and, when it is unknown, the nearest one.
 */
int options_parse(const struct option *table, int argc, char **argv, options_fn *fn, void *arg,
                  struct err *e);

#endif

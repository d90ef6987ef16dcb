/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs that talk to running domains take: options that are flags, and arguments. */
#ifndef RINGFENCE_CMD_ARGUMENTS_H
#define RINGFENCE_CMD_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_t;
struct option;

/* Identifiers of options, as bits of `flags`. */
enum {
    FLAG_HELP = 1,
    FLAG_JSON = 2,
    FLAG_LONG = 4,
    FLAG_WAIT = 8,
    FLAG_ALL = 16,
    FLAG_NO_MEANING = 32, /* an option of xl's that changes nothing here */
};

struct arguments {
    const char *verb;
    const struct option *options; /* their ids are the flags above */
    void (*help)(void);
    size_t min, max; /* arguments; max 0: any number */

    unsigned flags;
    const char **items; /* owned */
    size_t count;
};

/* -1 to go on, or the exit status: help was asked for, or the usage is wrong. */
int arguments_parse(struct arguments *a, int argc, char **argv);
void arguments_free(struct arguments *a);
/* Parses, and runs a verb on what was given; the exit status. */
int arguments_run(const struct arguments *verb, int argc, char **argv,
                  int (*run)(const struct arguments *a, const char *what), const char *what);

/* The items from `from` on, with commas between; the caller's. */
char *arguments_join(const struct arguments *a, size_t from);

/* Calls a method of the domain that is given by name or ID; as client_call. */
struct json_t *call_domain(const char *domain, const char *method, struct json_t *params,
                           struct err *e);
/* The same, when only success counts; the exit status. */
int tell_domain(const char *domain, const char *method, struct json_t *params);

/* Prints as JSON and gives it up; the exit status. */
int print_json(struct json_t *o);

#define cleanup_arguments __attribute__((cleanup(arguments_free)))

#endif

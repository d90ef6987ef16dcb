/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The streams of a domain's console devices, by what a configuration calls them: "stdio", "pty",
 * "file:F", "unix:F", "none". Standard input goes to the first that asks for stdio; standard output
 * is shared.
 */
#ifndef RINGFENCE_UI_STREAMS_H
#define RINGFENCE_UI_STREAMS_H

#include <stdbool.h>

struct chardev;
struct err;
struct loop;
struct streams;

/* leave(arg) is called on the loop's thread when ^] is typed. */
struct streams *streams_new(struct loop *l, void (*leave)(void *arg), void *arg);
void streams_free(struct streams *s);

/* Gives the terminal back: no more input, and messages look as usual again. */
void streams_restore(struct streams *s);

/*
 * Opens `spec` for the device `name` of domain `domain` (both for messages). *out becomes NULL for
 * "none". Where somebody has to know something to connect, it is said on standard error.
 */
int streams_open(struct streams *s, const char *spec, const char *name, const char *domain,
                 struct chardev **out, struct err *e);

/* As output_flush, for all of them. */
bool streams_flush(struct streams *s, int patience_ms);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Standard input as a guest's keyboard, and the state of the terminal behind it. A process has one
 * terminal, so this module has one too.
 */
#ifndef RINGFENCE_UI_TERMINAL_H
#define RINGFENCE_UI_TERMINAL_H

#include <stdbool.h>

struct chardev;
struct err;
struct loop;
struct output;
struct terminal;

/*
 * A stream whose input is standard input and whose output is `out`. When standard input is a
 * terminal, it becomes raw until terminal_stop (or the end of the process, whatever ends it), and
 * ^] calls leave(arg) on the loop's thread. The end of standard input only means that no more will
 * come.
 */
struct terminal *terminal_new(struct loop *l, struct output *out, void (*leave)(void *arg),
                              void *arg, struct err *e);
void terminal_free(struct terminal *t);
/* No more input, and the terminal as it was; output goes on. */
void terminal_stop(struct terminal *t);
struct chardev *terminal_chardev(struct terminal *t);

/* Gives the terminal back as it was found. Async-signal-safe; harmless when nothing was changed. */
void terminal_restore(void);

#endif

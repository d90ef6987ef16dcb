/* SPDX-License-Identifier: Apache-2.0 */
/* A listening Unix socket as a guest's line: one program at a time is connected. */
#ifndef RINGFENCE_UI_UNIX_H
#define RINGFENCE_UI_UNIX_H

struct chardev;
struct err;
struct loop;
struct unix_line;

/* NULL with the error set when the name is taken; a socket that nobody listens on is replaced. */
struct unix_line *unix_line_new(struct loop *l, const char *path, struct err *e);
void unix_line_free(struct unix_line *u); /* NULL is allowed */
struct chardev *unix_line_chardev(struct unix_line *u);

#endif

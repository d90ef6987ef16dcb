/* SPDX-License-Identifier: Apache-2.0 */
/* A pseudo-terminal as a guest's line: whoever opens its other side is connected. */
#ifndef RINGFENCE_UI_PTY_H
#define RINGFENCE_UI_PTY_H

struct chardev;
struct err;
struct loop;
struct pty;

struct pty *pty_new(struct loop *l, struct err *e);
void pty_free(struct pty *p);
struct chardev *pty_chardev(struct pty *p);
/* The path to open, such as /dev/pts/7. */
const char *pty_path(const struct pty *p);

#endif

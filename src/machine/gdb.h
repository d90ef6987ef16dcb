/* SPDX-License-Identifier: Apache-2.0 */
/* A gdb server for one machine, on a TCP socket; one debugger at a time. All on the loop's thread.
 */
#ifndef RINGFENCE_MACHINE_GDB_H
#define RINGFENCE_MACHINE_GDB_H

struct err;
struct gdb;
struct machine;

/*
 * Listens on "[HOST]:PORT" (localhost without HOST; port 0 takes a free one) and says so on
 * standard error. A debugger that connects stops the machine. kill(arg) is called when it asks for
 * the domain's end.
 */
struct gdb *gdb_new(struct machine *m, const char *address, void (*kill)(void *arg), void *arg,
                    struct err *e);

/* Before the first machine_release: the machine is held until a debugger lets it go. */
void gdb_wait(struct gdb *g);

/* Tells a debugger that the domain has ended with that exit status. */
void gdb_ended(struct gdb *g, int status);
void gdb_free(struct gdb *g);

#endif

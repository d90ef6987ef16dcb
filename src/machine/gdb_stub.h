/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GDB remote serial protocol (gdb manual, appendix E), all-stop mode, threads = vCPUs. This is
 * the protocol alone: bytes in, bytes out, and a table of what the target can do. machine/gdb.c
 * puts it on a socket and a machine under it. Nothing that arrives can do more than the table
 * allows.
 */
#ifndef RINGFENCE_MACHINE_GDB_STUB_H
#define RINGFENCE_MACHINE_GDB_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/engine.h"

struct x86_state;

#define GDB_PACKET_MAX 0x4000 /* bytes between '$' and '#' */

/* What a vCPU does when the target goes on. */
enum gdb_action { GDB_STAY, GDB_CONTINUE, GDB_STEP };

/* Signals as gdb numbers them. */
enum { GDB_SIGINT = 2, GDB_SIGTRAP = 5, GDB_SIGSEGV = 11 };

/* Everything but interrupt and kill is called only while the target is stopped. */
struct gdb_target {
    void *arg;
    unsigned vcpus;
    void (*get_state)(void *arg, unsigned cpu, struct x86_state *s);
    void (*set_state)(void *arg, unsigned cpu, const struct x86_state *s);
    /* By virtual address as `cpu` sees it. Returns how many bytes from the start could be done. */
    size_t (*read)(void *arg, unsigned cpu, uint64_t va, void *buf, size_t len);
    size_t (*write)(void *arg, unsigned cpu, uint64_t va, const void *buf, size_t len);
    /* `points` stays valid and unchanged until the target is stopped again; `actions` has one per
     * vCPU. */
    void (*resume)(void *arg, const enum gdb_action *actions, const struct engine_debug *points);
    /* Whether `cpu` has stopped, too, while the stop of another was reported: why, and only once.
     */
    bool (*take_stop)(void *arg, unsigned cpu, struct vcpu_exit *x);
    /* Stop soon, then call gdb_stub_stopped(). */
    void (*interrupt)(void *arg);
    /* Go on without a debugger; end the domain. */
    void (*detach)(void *arg);
    void (*kill)(void *arg);
    /* "monitor COMMAND": the answer, for the stub to free. */
    char *(*monitor)(void *arg, unsigned cpu, const char *command);
};

typedef void gdb_send_fn(void *arg, const void *data, size_t len);

struct gdb_stub;

/* The target is stopped when the stub is made. `t` outlives it. */
struct gdb_stub *gdb_stub_new(const struct gdb_target *t, gdb_send_fn *send, void *send_arg);
void gdb_stub_free(struct gdb_stub *g);

/* Bytes from the debugger. */
void gdb_stub_feed(struct gdb_stub *g, const uint8_t *data, size_t len);

/* The running target has stopped: vCPU `cpu` hit what `x` says (DEBUG or SHUTDOWN); a NULL `x`
 * means that it was interrupted. */
void gdb_stub_stopped(struct gdb_stub *g, unsigned cpu, const struct vcpu_exit *x);

/* Whether the debugger waits for a stop. */
bool gdb_stub_running(const struct gdb_stub *g);

/* The domain has ended with that exit status. */
void gdb_stub_exited(struct gdb_stub *g, int status);

#endif

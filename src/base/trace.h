/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record of what a guest does, as text, for who debugs it. Records of several vCPUs never mix
 * within one. Where it cannot be written (a full disk, a closed pipe), that is said once, no more
 * is written, and the guest goes on. Thread-safe.
 */
#ifndef RINGFENCE_BASE_TRACE_H
#define RINGFENCE_BASE_TRACE_H

#include <stdarg.h>
#include <stddef.h>

struct err;
struct trace;

/* What is recorded; sets of them. */
enum {
    TRACE_INT = 1,   /* exceptions and interrupts */
    TRACE_MODE = 2,  /* operating mode, control registers */
    TRACE_BLOCK = 4, /* code as it is translated or decoded */
    TRACE_EXEC = 8,  /* code as it is entered */
    TRACE_IO = 16,   /* ports and MMIO */
};

/* "int,mode": the set; an error names what there is. QEMU's names are known too. */
int trace_parse(const char *text, unsigned *what, struct err *e);

/* To a file, which is emptied; NULL: standard error. NULL with the error set. */
struct trace *trace_new(unsigned what, const char *path, struct err *e);
void trace_free(struct trace *t);
/* The set; 0 when `t` is NULL. */
unsigned trace_what(const struct trace *t);

/* A record: when, which vCPU, and text without a newline at its end; it may have several lines. */
void trace_put(struct trace *t, unsigned vcpu, const char *format, ...)
    __attribute__((format(printf, 3, 4), nonnull(3)));
/* Now, what may still be on its way. */
void trace_flush(struct trace *t);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The port by which a guest says that it has panicked. See pvpanic.c. */
#ifndef RINGFENCE_DEV_PVPANIC_H
#define RINGFENCE_DEV_PVPANIC_H

struct err;
struct mem;
struct pvpanic;

/* On a vCPU's thread under the I/O lock; may not block. */
typedef void pvpanic_fn(void *arg);

/* At PC_PVPANIC. NULL with the error set when the port is taken. */
struct pvpanic *pvpanic_new(struct mem *m, pvpanic_fn *fn, void *arg, struct err *e);

#endif

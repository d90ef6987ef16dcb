/* SPDX-License-Identifier: Apache-2.0 */
/* A port with which a guest ends its run. See debug_exit.c. */
#ifndef RINGFENCE_DEV_DEBUG_EXIT_H
#define RINGFENCE_DEV_DEBUG_EXIT_H

#include <stdint.h>

struct debug_exit;
struct err;
struct mem;

#define DEBUG_EXIT_PORT 0xf4

/* `fn` is called with what the guest wrote, on a vCPU's thread under the I/O lock; it may not
 * block. */
typedef void debug_exit_fn(void *arg, uint32_t value);

struct debug_exit *debug_exit_new(struct mem *m, debug_exit_fn *fn, void *arg, struct err *e);

#endif

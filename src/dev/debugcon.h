/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of debuggers and firmware: the debug console (0xe9) and POST codes (0x80). See debugcon.c.
 */
#ifndef RINGFENCE_DEV_DEBUGCON_H
#define RINGFENCE_DEV_DEBUGCON_H

#include <stdint.h>

struct chardev;
struct debugcon;
struct err;
struct mem;

#define DEBUGCON_PORT 0xe9

/*
 * What the guest writes to `port` goes to `chr` (NULL: nowhere). Output that the back end cannot
 * take at once is lost: the port has no way to say "not yet". NULL with the error set when a port
 * is taken.
 */
struct debugcon *debugcon_new(struct mem *m, uint16_t port, struct chardev *chr, struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog of Intel's 6300ESB. See i6300esb.c. */
#ifndef RINGFENCE_DEV_I6300ESB_H
#define RINGFENCE_DEV_I6300ESB_H

#include <stdint.h>

struct clock;
struct err;
struct i6300esb;
struct mem;
struct pci_bus;

/*
 * Plugs it in at `devfn`. `expired` is called when the guest has let it run out, on the loop's
 * thread under the I/O lock; it may not block. The first member is a struct device. NULL with the
 * error set when the slot is taken.
 */
struct i6300esb *i6300esb_new(struct mem *m, struct clock *c, struct pci_bus *bus, uint8_t devfn,
                              void (*expired)(void *arg), void *arg, struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What every loader works with, while one kernel is put into one guest's memory. */
#ifndef RINGFENCE_BOOT_LOADER_H
#define RINGFENCE_BOOT_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "boot/place.h"

struct err;
struct x86_state;

struct loader {
    struct place place;
    const char *kernel, *initrd; /* paths; no initrd: NULL */
    const char *cmdline;
    uint64_t rsdp;
    struct x86_state *bsp; /* becomes the entry state */

    /* Filled in on the way. */
    uint64_t kernel_end;
    uint64_t initrd_base, initrd_size; /* size 0: none */
    uint64_t cmdline_base;
    bool initrd_failed; /* the error is about the initrd, not about the kernel */
};

/* Where the initrd goes: just above the kernel, or as high as its limit allows. */
enum loader_where { LOADER_ABOVE_KERNEL, LOADER_HIGH };

/* Reads the initrd, if there is one, into RAM between the kernel's end and `limit`. */
int loader_initrd(struct loader *l, enum loader_where where, uint64_t limit, struct err *e);

/* Stores a command line; more than `max` bytes (without the terminator) is an error. */
int loader_cmdline(struct loader *l, const char *cmdline, uint64_t max, struct err *e);

/* Room for a loader's own tables below 4 GiB, zeroed. */
void *loader_table(struct loader *l, uint64_t size, const char *what, uint64_t *base,
                   struct err *e);

#endif

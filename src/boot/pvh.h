/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels with a PVH entry. */
#ifndef RINGFENCE_BOOT_PVH_H
#define RINGFENCE_BOOT_PVH_H

#include <stdint.h>

struct elf;
struct err;
struct loader;

/*
 * Loads the image and what it is told, and sets the entry state. The initrd ends below
 * `initrd_limit`; `cmdline_max` is the longest command line the kernel takes.
 */
int pvh_load(struct loader *l, const struct elf *elf, uint64_t initrd_limit, uint64_t cmdline_max,
             struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What real-mode code and multiboot kernels may expect of a BIOS. */
#ifndef RINGFENCE_BOOT_BIOS_H
#define RINGFENCE_BOOT_BIOS_H

struct err;
struct place;

/*
 * Writes the services and what they answer to E820_BIOS, and all 256 real-mode vectors. What has no
 * service returns with carry set. The interrupt controllers and the timer are as a BIOS leaves
 * them.
 */
int bios_install(struct place *p, struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The few BIOS services without which real-mode kernels don't start. */
#ifndef RINGFENCE_BOOT_BIOS_H
#define RINGFENCE_BOOT_BIOS_H

struct err;
struct place;

/*
 * Writes the services and what they answer to E820_BIOS, and all 256 real-mode vectors. What has no
 * service returns with carry set.
 */
int bios_install(struct place *p, struct err *e);

#endif

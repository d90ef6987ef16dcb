/* SPDX-License-Identifier: Apache-2.0 */
/* Linux kernels entered by Linux's own boot protocol: 64-bit, 32-bit, 16-bit. */
#ifndef RINGFENCE_BOOT_LINUX_H
#define RINGFENCE_BOOT_LINUX_H

struct bzimage;
struct err;
struct loader;

/* Each loads the kernel and what it is told, and sets the entry state. */
int linux_load64(struct loader *l, const struct bzimage *k, struct err *e);
int linux_load32(struct loader *l, const struct bzimage *k, struct err *e);
int linux_load16(struct loader *l, const struct bzimage *k, struct err *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of VHD images share. */
#ifndef RINGFENCE_BLOCK_VHD_H
#define RINGFENCE_BLOCK_VHD_H

#include <stdint.h>

#include "block/volume.h"

#define VHD_FOOTER 512u
/* The largest geometry there is, which says: look at the size in bytes. */
#define VHD_GEOMETRY 0xffff10ffu

/* A disk of `size` bytes at the start of a file of `file_size`, which becomes the volume's also on
 * failure. */
struct volume *vhd_fixed_open(struct hostfile *file, uint64_t size, uint64_t file_size,
                              struct err *e);

#endif

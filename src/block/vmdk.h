/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMDK ("Virtual Disk Format 5.0", VMware): a text, the descriptor, that says what a disk consists
 * of, and the files that it names, or one file with both. vmdk.c has the descriptor, vmdk_sparse.c
 * disks in one file, vmdk_flat.c those of raw files. Left out: disks of several sparse files,
 * snapshots' parents, ESX's own sparse format (refused by name).
 */
#ifndef RINGFENCE_BLOCK_VMDK_H
#define RINGFENCE_BLOCK_VMDK_H

#include <stdbool.h>
#include <stdint.h>

#include "block/volume.h"

struct err;

#define VMDK_TEXT_MAX (64u << 10)     /* bytes of a descriptor */
#define VMDK_SIZE_MAX (2040ull << 30) /* of a disk, by the width of its tables' entries */
#define VMDK_SECTOR 512u

/* One line of a descriptor: "RW 20480 FLAT "name" 0". */
struct vmdk_extent {
    char access[16], type[16], name[256];
    uint64_t sectors, offset;
};

/* The value of a key of a descriptor, without its quotes; to be freed. NULL: it is not there. */
char *vmdk_value(const char *text, const char *key);
/* The extent that begins at `*at` or behind, which is moved past it. 1, 0 at the end, or -1 with
 * the error set. */
int vmdk_next_extent(const char **at, struct vmdk_extent *x, struct err *e);
/* Refuses what a descriptor says that is left out here. */
int vmdk_judge_text(const char *text, struct err *e);
/* A descriptor, to be freed; `extents` are its lines. */
char *vmdk_text(const char *type, const char *extents, uint64_t size, struct err *e);
/* The name that an image will have: its last part. */
const char *vmdk_name(const struct hostfile *file, const struct volume_create *c);

bool vmdk_sparse_probe(const uint8_t *head, size_t len);
struct volume *vmdk_sparse_open(struct hostfile *file, bool for_repair, struct err *e);
int vmdk_sparse_create(struct hostfile *file, const struct volume_create *c, struct err *e);
/* The descriptor is `text`. `file` becomes the volume's also on failure. */
struct volume *vmdk_flat_open(struct hostfile *file, const char *text, struct err *e);
int vmdk_flat_create(struct hostfile *file, const struct volume_create *c, struct err *e);

#endif

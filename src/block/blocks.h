/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What VDI, VHD and VMDK have in common: a disk is an array of equally large blocks, and a table
 * says where in the file each of them is. New blocks go to the file's end, and stay where they are.
 *
 * The table is in memory as a whole, and what was changed of it is written by a flush, between two
 * fdatasyncs: after a crash, what the table on disk refers to is there. What was allocated since is
 * lost, as unflushed data may be, and its place is used anew.
 */
#ifndef RINGFENCE_BLOCK_BLOCKS_H
#define RINGFENCE_BLOCK_BLOCKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/volume.h"

struct err;

#define BLOCKS_MAX (1u << 25) /* of a disk */
#define BLOCKS_PAGE 128u      /* entries that are written at a time */

/* Values of the map that are no places. */
enum { BLOCKS_ABSENT = 0, BLOCKS_ZERO = 1, BLOCKS_FIRST = 2 };

struct blocks;

struct blocks_ops {
    /* Under the lock, before data goes to a new block at `start`. May be NULL. */
    int (*prepare)(struct blocks *b, uint64_t block, uint64_t start);
    /* Under the lock, before data goes to a block that is there. May be NULL. */
    int (*own)(struct blocks *b, uint64_t block);
    /* Writes the entries [first, first + count), which are of one page. */
    int (*store)(struct blocks *b, uint64_t first, uint64_t count);
    /* After the pages of a flush. May be NULL. */
    int (*finish)(struct blocks *b);
    /* Whether byte `at` of a block is there, and how far (`*len` at most) that is so. May be NULL:
     * all of it. */
    int (*look)(struct blocks *b, uint64_t block, uint32_t at, uint64_t *len, bool *there);
    /* Frees what is the format's own. May be NULL. */
    void (*unload)(struct blocks *b);
};

struct blocks {
    struct volume v; /* v.cluster: bytes of a block */
    const struct blocks_ops *ops;
    uint64_t base, unit; /* a block is at base + (entry - BLOCKS_FIRST) * unit */
    uint32_t head;       /* bytes in front of a block's data */
    uint64_t first;      /* no block is below */
    uint64_t trailer;    /* bytes behind the last block */
    uint64_t count;      /* of blocks */
    pthread_mutex_t lock;
    /* Under the lock. */
    uint32_t *map;   /* entries */
    uint64_t end;    /* where the next block goes */
    uint64_t used;   /* blocks that are there */
    bool *dirty;     /* pages of the map */
    bool changed;    /* there is something for a flush */
    bool mend;       /* what is counted elsewhere is wrong, which a flush mends */
    uint64_t broken; /* entries that lead to where no block can be */
};

static inline struct blocks *blocks_of(struct volume *v) {
    return (struct blocks *)(void *)v;
}

/* Readies a volume whose v.cluster and v.size are known: `count` and `map`. Refuses what is too
 * much. */
int blocks_init(struct blocks *b, struct hostfile *file, const struct volume_format *f,
                struct err *e);
/* Looks at all entries when the map is filled in; without `for_repair`, a wrong one is an error. */
int blocks_judge(struct blocks *b, bool for_repair, struct err *e);
/* Frees it, without the file; nothing is written. */
void blocks_free(struct blocks *b);
/* Where a block is that is there. */
uint64_t blocks_start(const struct blocks *b, uint32_t entry);
/* Takes what is at [off, off + len), or -errno: what was written there once is no more. */
int blocks_extend(struct blocks *b, uint64_t off, uint64_t len);
/* A new map for `count` blocks; alone. */
void blocks_recount(struct blocks *b, uint64_t count);

int blocks_readv(struct volume *v, uint64_t off, struct span s, uint64_t len);
int blocks_writev(struct volume *v, uint64_t off, struct span s, uint64_t len);
int blocks_flush(struct volume *v);
int blocks_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap);
int blocks_discard(struct volume *v, uint64_t off, uint64_t len);
int blocks_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x);
int blocks_check(struct volume *v, enum volume_repair how, struct volume_check *c, struct err *e);
int blocks_close(struct volume *v);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 versions 2 and 3, by its specification (docs/interop/qcow2.txt of QEMU's sources, "spec"
 * below), in parts: qcow2_header.c what a file says of itself; qcow2_refs.c which clusters are
 * used; qcow2_map.c where the guest's clusters are; qcow2_io.c reading and writing; qcow2_zip.c
 * compressed clusters; qcow2_snapshot.c, qcow2_check.c, qcow2_create.c; qcow2.c the operations.
 *
 * Left out: encryption, external data files (refused by name); persistent bitmaps (kept, but marked
 * as not up to date by the first write, as the specification wants it).
 *
 * What is on disk is consistent at any moment, for a kill as well as for a power cut: a cluster's
 * refcount is on disk before a table that refers to it is, and is lowered on disk only when no
 * table there refers to it any more. What the guest wrote is in place before a table leads to it. A
 * crash can leak clusters that were just being allocated.
 *
 * Locks: `gate` is held shared by everything that uses clusters outside of `lock`, and alone by
 * what frees or moves them. `lock`, inside it, covers the tables, for no longer than it takes to
 * look or to change them. Clusters that are being allocated are on `allocating`: who needs one of
 * the same guest's clusters waits.
 */
#ifndef RINGFENCE_BLOCK_QCOW2_H
#define RINGFENCE_BLOCK_QCOW2_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "block/volume.h"

struct err;
struct table_cache;

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_L1_MAX (32u << 20)        /* bytes, as QEMU has it */
#define QCOW2_REFTABLE_MAX (8u << 20)   /* bytes, as QEMU has it */
#define QCOW2_SNAPTABLE_MAX (16u << 20) /* bytes */
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_BACKING_MAX 1023u

enum { /* incompatible_features */
       QCOW2_DIRTY = 1,
       QCOW2_CORRUPT = 2,
       QCOW2_EXTERNAL_DATA = 4,
       QCOW2_COMPRESSION = 8,
       QCOW2_EXTENDED_L2 = 16,
};
enum { QCOW2_LAZY_REFCOUNTS = 1 }; /* compatible_features */
enum { QCOW2_BITMAPS = 1 };        /* autoclear_features */
enum { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };
enum { QCOW2_EXT_END = 0 };
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u

/* L1 and L2 entries. */
#define QCOW2_COPIED (1ull << 63)
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_OFFSET 0x00fffffffffffe00ull
#define QCOW2_ZERO 1ull

struct qcow2_header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_size, cluster_bits;
    uint64_t size;
    uint32_t crypt_method, l1_size;
    uint64_t l1_offset, reftable_offset;
    uint32_t reftable_clusters, snapshot_count;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order, header_length;
    uint8_t compression;
    /* Header extensions that are kept as they are: all but the backing format's. */
    uint8_t *extensions; /* owned; with their heads and padding, without an end */
    uint32_t extension_bytes;
    uint64_t bitmap_directory, bitmap_directory_bytes; /* 0: none */
    uint32_t bitmap_count;
};

/* An L2 entry. */
struct qcow2_entry {
    uint64_t cluster, subs; /* `subs` is 0 without extended entries */
};

enum qcow2_state { QCOW2_ABSENT, QCOW2_ZEROES, QCOW2_DATA, QCOW2_PACKED };

/* Guest clusters on their way to new host clusters (or, `reuse`, to one that is theirs already). */
struct qcow2_alloc {
    struct qcow2_alloc *next;
    uint64_t first, count; /* guest clusters */
    uint64_t host;         /* offset in the file */
    bool reuse;
    bool fresh;                   /* behind the end of the file: reads zeroes */
    bool moved_first, moved_last; /* there is data in another host cluster */
    uint64_t off, end;            /* bytes of the volume that will be data, of whole subclusters */
};

/* Clusters that lose a reference when what is on disk does not refer to them any more. */
struct qcow2_freed {
    uint64_t first, count; /* host clusters */
};

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    struct volume_snapshot s;
    uint8_t *extra; /* owned: of the entry, from byte 40 on */
    uint32_t extra_bytes;
};

struct qcow2 {
    struct volume v;
    struct hostfile *file; /* v.file */
    struct qcow2_header h;
    uint32_t cluster_size, cluster_bits;
    uint32_t entry_size, entries; /* of an L2 table: bytes of one, how many */
    uint32_t subs, sub_size;
    uint32_t ref_bits, ref_entries; /* of a refcount block */

    pthread_rwlock_t gate;
    pthread_mutex_t lock;
    pthread_cond_t allocated;

    /* Under `lock`. */
    uint64_t *l1;
    uint64_t *reftable;
    uint32_t reftable_size;                              /* entries */
    uint32_t l1_from, l1_to, reftable_from, reftable_to; /* changed entries */
    struct table_cache *l2s, *refblocks;
    struct qcow2_snapshot *snapshots; /* h.snapshot_count */
    uint64_t snapshot_bytes;          /* of the table */
    struct qcow2_alloc *allocating;
    struct qcow2_freed *freed; /* references to be dropped */
    size_t freed_count, freed_ripe, freed_max;
    uint64_t search; /* host cluster where the search for a free one starts */
    uint64_t end;    /* host cluster: from here on the file has never been written */
    uint64_t zip_at; /* where the next compressed cluster goes; 0: in a new cluster */
    bool barrier;    /* something must be on disk before tables are written */
    bool dirty;      /* the dirty bit is set on disk */
    bool broken;     /* corruption was found: nothing is written any more */
    struct log_limit limit;

    pthread_mutex_t zip_lock; /* what follows: the last cluster that was unpacked */
    uint64_t unpacked_entry;
    uint8_t *unpacked;
};

static inline struct qcow2 *qcow2_of(struct volume *v) {
    return (struct qcow2 *)(void *)v;
}

static inline const struct qcow2 *qcow2_of_const(const struct volume *v) {
    return (const struct qcow2 *)(const void *)v;
}

static inline uint64_t qcow2_cluster_of(const struct qcow2 *q, uint64_t off) {
    return off >> q->cluster_bits;
}

/* How many clusters `bytes` take. */
static inline uint64_t qcow2_clusters(const struct qcow2 *q, uint64_t bytes) {
    return (bytes >> q->cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}

/* --- qcow2_header.c --- */

/* Reads and checks all that the first cluster says. Refuses what is not understood. */
int qcow2_header_read(struct hostfile *f, struct qcow2_header *h, char **backing_name,
                      char **backing_format, struct err *e);
/* The first cluster as it is to be; -ENOSPC when it does not fit. */
int qcow2_header_make(const struct qcow2_header *h, const char *backing_name,
                      const char *backing_format, uint8_t *cluster);
/* Writes it all. */
int qcow2_header_write(struct qcow2 *q);
/* The header as it is in memory now, on disk for certain; when that fails, `before` is in memory
 * again. */
int qcow2_header_switch(struct qcow2 *q, const struct qcow2_header *before);
/* Sets or clears the dirty bit, on disk. */
int qcow2_set_dirty(struct qcow2 *q, bool dirty);
/* Notes that the image contradicts itself, on disk too, and returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Whether a table or cluster may lie at [off, off + len): aligned, and not on top of the header,
 * the L1 tables, the refcount table or the snapshot table. */
bool qcow2_place_ok(const struct qcow2 *q, uint64_t off, uint64_t len);

/* --- qcow2_refs.c; all under `lock` --- */

int qcow2_refs_load(struct qcow2 *q, struct err *e);
int qcow2_ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *count);
int qcow2_ref_set(struct qcow2 *q, uint64_t cluster, uint64_t count);
int qcow2_ref_add(struct qcow2 *q, uint64_t first, uint64_t count, int by);
/*
 * Finds up to `want` free clusters in a row (at least `least` of them); nothing is changed but
 * where the next search starts, so they are the caller's only while it holds `lock`, or has them on
 * `allocating`.
 */
int qcow2_find_free(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first,
                    uint64_t *count, bool *fresh);
/* Finds them and counts a reference to each. */
int qcow2_take(struct qcow2 *q, uint64_t count, uint64_t *off);
/* They lose a reference when the tables of now are on disk. */
void qcow2_drop_later(struct qcow2 *q, uint64_t first, uint64_t count);
/* The host clusters that an L2 entry refers to. Returns how many. */
uint64_t qcow2_entry_clusters(const struct qcow2 *q, uint64_t entry, uint64_t *first);
/* Writes back all tables, in the order in which a crash does no harm. */
int qcow2_write_tables(struct qcow2 *q);
/* fdatasync, after which what was freed before may be used again. */
int qcow2_sync(struct qcow2 *q);
/* Writes the refcounts that were put off, after which the image is not dirty any more. */
int qcow2_settle(struct qcow2 *q);
/* With `gate` held alone as well: drops the references whose time has come. */
int qcow2_drop_ripe(struct qcow2 *q);

/* --- qcow2_map.c; all under `lock` --- */

int qcow2_map_load(struct qcow2 *q, struct err *e);
/* Fills in a table of `size` L1 entries from the file; what is wrong with one is an error. */
int qcow2_l1_read(struct qcow2 *q, uint64_t off, uint32_t size, uint64_t *l1);
struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const uint8_t *l2, uint32_t i);
void qcow2_entry_put(const struct qcow2 *q, uint8_t *l2, uint32_t i, struct qcow2_entry entry);
enum qcow2_state qcow2_sub_state(const struct qcow2 *q, struct qcow2_entry entry, uint32_t sub);
bool qcow2_entry_ok(const struct qcow2 *q, struct qcow2_entry entry);
/* The L2 table for a guest cluster, NULL when there is none. */
int qcow2_l2_get(struct qcow2 *q, uint64_t cluster, uint8_t **l2);
/* The same, to be changed: made when there is none, copied when a snapshot has it too. */
int qcow2_l2_for_write(struct qcow2 *q, uint64_t cluster, uint8_t **l2, uint64_t *l2_off);
uint32_t qcow2_l2_index(const struct qcow2 *q, uint64_t cluster);

struct qcow2_run {
    enum qcow2_state state;
    uint64_t len;
    uint64_t host;  /* DATA: where */
    uint64_t entry; /* PACKED: the L2 entry */
};
/* What `off` lies in, for up to `len` bytes. */
int qcow2_lookup(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_run *run);

/* --- qcow2_io.c --- */

int qcow2_readv(struct volume *v, uint64_t off, struct span s, uint64_t len);
int qcow2_writev(struct volume *v, uint64_t off, struct span s, uint64_t len);
int qcow2_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap);
int qcow2_discard(struct volume *v, uint64_t off, uint64_t len);
int qcow2_flush(struct volume *v);
/* Waits until nobody allocates [first, first + count); with `lock` held, which it lets go of. */
void qcow2_wait_allocating(struct qcow2 *q, uint64_t first, uint64_t count);

/* --- qcow2_zip.c --- */

/* The cluster that a PACKED entry stands for, from `at` within it on. */
int qcow2_unpack(struct qcow2 *q, uint64_t entry, uint32_t at, struct span s, uint64_t len);
int qcow2_write_compressed(struct volume *v, uint64_t off, const void *cluster);

/* --- the rest --- */

int qcow2_snapshots_load(struct qcow2 *q, struct err *e);
void qcow2_snapshots_unload(struct qcow2 *q);
extern const struct volume_snapshot_ops qcow2_snapshot_ops;
int qcow2_check(struct volume *v, enum volume_repair how, struct volume_check *c, struct err *e);
int qcow2_create(struct hostfile *file, const struct volume_create *c, struct err *e);
int qcow2_measure(const struct volume_create *c, uint64_t data, uint64_t *required, uint64_t *full,
                  struct err *e);
int qcow2_resize(struct volume *v, uint64_t size, struct err *e);
#endif

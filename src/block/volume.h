/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A volume: a disk as an array of bytes, whichever format its file has. Formats are tables of
 * operations (struct volume_format), one file each, above hostfile.h. The guest's requests come
 * through block_volume_new (block.h's asynchronous interface, on threads), `rf image` calls
 * directly.
 *
 * All operations wait, and may be called from several threads at once, but for those that say
 * "alone". They return 0 or -errno, or a negative value with the error set where they take one.
 */
#ifndef RINGFENCE_BLOCK_VOLUME_H
#define RINGFENCE_BLOCK_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/hostfile.h"

struct block;
struct err;
struct loop;
struct volume;
struct json_t;

/* How a stretch of a volume is kept. */
enum volume_kind {
    VOLUME_ABSENT, /* not in this volume: the backing volume's, or zeroes */
    VOLUME_ZERO,   /* zeroes that take no space */
    VOLUME_DATA,
    VOLUME_COMPRESSED,
};

struct volume_extent {
    enum volume_kind kind;
    uint64_t len;
    bool has_host; /* DATA lies in the file, at `host` */
    uint64_t host;
};

struct volume_check {
    uint64_t corruptions, leaks, check_errors; /* clusters; what could not be looked at */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t allocated, compressed, total; /* guest clusters */
    uint64_t image_end;                    /* bytes of the file that are in use */
    /* Called for each finding, with one line; may be NULL. */
    void (*say)(void *arg, const char *line);
    void *arg;
};

enum volume_repair { VOLUME_REPAIR_NONE, VOLUME_REPAIR_LEAKS, VOLUME_REPAIR_ALL };

struct volume_snapshot {
    char *id, *name;
    uint64_t disk_size, vm_state_size, vm_clock_ns;
    uint32_t seconds, nanoseconds; /* since the epoch */
};

struct volume_snapshot_ops {
    /* Alone, each of them. The list is the caller's, to be freed by volume_snapshots_free. */
    int (*list)(struct volume *v, struct volume_snapshot **list, size_t *count, struct err *e);
    int (*create)(struct volume *v, const char *name, struct err *e);
    int (*apply)(struct volume *v, const char *name, struct err *e);
    int (*remove)(struct volume *v, const char *name, struct err *e);
};

struct volume_ops {
    int (*readv)(struct volume *v, uint64_t off, struct span s, uint64_t len);
    int (*writev)(struct volume *v, uint64_t off, struct span s, uint64_t len);
    int (*flush)(struct volume *v);
    int (*zero)(struct volume *v, uint64_t off, uint64_t len, bool unmap);
    int (*discard)(struct volume *v, uint64_t off, uint64_t len);
    /* What `off` lies in, for `len` bytes at most. */
    int (*extent)(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x);
    /* Writes one whole cluster compressed, if it gets smaller by that. NULL: it cannot. */
    int (*write_compressed)(struct volume *v, uint64_t off, const void *cluster);
    /* Alone. NULL: it cannot. */
    int (*resize)(struct volume *v, uint64_t size, struct err *e);
    int (*check)(struct volume *v, enum volume_repair how, struct volume_check *c, struct err *e);
    /* Alone. Records another backing file (NULL: none); does not open it. */
    int (*set_backing)(struct volume *v, const char *path, const char *format, struct err *e);
    /* Adds what only this format has to say to a JSON object. May be NULL. */
    void (*describe)(const struct volume *v, struct json_t *o);
    const struct volume_snapshot_ops *snapshots; /* NULL: it has none */
    /* Removes the files that it has besides its own. NULL: it has none. */
    void (*remove_others)(const struct volume *v);
    /* Writes back what is not yet written; frees even when that fails. */
    int (*close)(struct volume *v);
};

struct volume {
    const struct volume_ops *ops;
    const struct volume_format *format;
    struct hostfile *file; /* owned */
    uint64_t size;         /* bytes, a multiple of 512 */
    uint32_t cluster;      /* bytes that are allocated at a time; 0: any */
    bool read_only;
    bool sequential; /* to be written from the start to the end, each cluster once */
    char *backing_name, *backing_format; /* as recorded, owned; NULL: none, not recorded */
    struct volume *backing;              /* owned; NULL: none, or not opened */
};

struct volume_create {
    uint64_t size;
    const char *backing, *backing_format; /* NULL: none */
    bool force;                           /* an existing file is overwritten */
    unsigned version;                     /* qcow2: 2, 3; 0: 3 */
    uint64_t cluster;                     /* 0: the default */
    unsigned refcount_bits;               /* 0: 16 */
    bool lazy_refcounts, extended_l2, zstd;
    bool keep_others;      /* files that it has besides its own are not overwritten */
    const char *name;      /* that it will have, where it is made under another; NULL: it is not */
    const char *subformat; /* one of the format's; NULL: its first */
};

struct volume_format {
    const char *name;
    const char *const *suffixes;   /* of file names, ends with NULL */
    const char *const *subformats; /* ends with NULL; NULL: none */
    /* Whether a file's first bytes are this format's. NULL: raw, which has no mark. */
    bool (*probe)(const uint8_t *head, size_t len);
    /* The same of its last 512 bytes, for formats that have a mark there. May be NULL. */
    bool (*probe_end)(const uint8_t *end, size_t len);
    /* Fills in a volume around `file`, which becomes the volume's also on failure. For a repair,
     * nothing is changed yet, and damage is no error where it can be helped. */
    struct volume *(*open)(struct hostfile *file, bool for_repair, struct err *e);
    /* Into an empty file. */
    int (*create)(struct hostfile *file, const struct volume_create *c, struct err *e);
    /* Bytes of a file with `data` bytes of data, and with all of it. May be NULL. */
    int (*measure)(const struct volume_create *c, uint64_t data, uint64_t *required, uint64_t *full,
                   struct err *e);
};

extern const struct volume_format volume_raw, volume_qcow2, volume_vdi, volume_vhd, volume_vmdk;
/* Ends with NULL. */
extern const struct volume_format *const volume_formats[];

/* NULL with the error set, which lists the formats there are. */
const struct volume_format *volume_format_find(const char *name, struct err *e);

/*
 * The format of a file that the user named without one. The content decides, but only where the
 * file's name agrees: a guest may have written another format's header to its raw disk, naming any
 * file of the host as its backing file. NULL with the error set, which says what to type.
 */
const struct volume_format *volume_probe(const char *path, struct err *e);
/* What the content looks like; for saying so only. */
const struct volume_format *volume_looks_like(const char *path, struct err *e);

struct volume_options {
    const struct volume_format *format; /* NULL: volume_probe */
    bool read_only, no_lock;
    bool for_repair;
    bool no_backing; /* the file alone; what it has not reads as zeroes */
};

/* Opens a volume and its backing volumes, which are read only. NULL with the error set. */
struct volume *volume_open(const char *path, const struct volume_options *o, struct err *e);
/*
 * A volume above `base`, which becomes its own also on failure, in a file that has no name: what is
 * written is gone when it is closed.
 */
struct volume *volume_open_throwaway(struct volume *base, struct err *e);
/* NULL is allowed. The volume is gone also when the last writes failed. */
int volume_close(struct volume *v);
/* Makes a file; none is left behind on failure. A backing file's size is taken where size is 0. */
int volume_create(const char *path, const struct volume_format *f, const struct volume_create *c,
                  struct err *e);
/* The name as some format has it, which stays; NULL. */
const char *volume_subformat_find(const char *name);
/* Refuses a device, a backing file and qcow2's options, for formats that have none of them. */
int volume_create_plain(const struct hostfile *file, const struct volume_create *c,
                        const struct volume_format *f, struct err *e);
/* A path that a volume names, which is relative to the folder that the volume is in. */
char *volume_relative(const char *path, const char *name);

int volume_read(struct volume *v, uint64_t off, void *buf, uint64_t len);
int volume_write(struct volume *v, uint64_t off, const void *buf, uint64_t len);
/* Reads what may end before the range does: there are zeroes behind it. */
int volume_readv_padded(struct volume *v, uint64_t off, struct span s, uint64_t len);
/* What `off` lies in, through the chain; never ABSENT. `depth`: 0 for the volume itself; NULL is
 * allowed. */
int volume_chain_extent(struct volume *v, uint64_t off, uint64_t len, struct volume_extent *x,
                        unsigned *depth);
void volume_snapshots_free(struct volume_snapshot *list, size_t count);

/* The guest's interface to a volume, which becomes its own. NULL with the error set. */
struct block *block_volume_new(struct volume *v, struct loop *l, struct err *e);

#endif

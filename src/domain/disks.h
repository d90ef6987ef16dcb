/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain's disks: what --disk says, in the syntax of xl-disk-configuration(5), and the back ends
 * that follow from it, each on a worker of its own.
 */
#ifndef RINGFENCE_DOMAIN_DISKS_H
#define RINGFENCE_DOMAIN_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;
struct err;
struct loop;
struct machine_disk;

struct disk_spec {
    char *target, *format, *vdev, *serial; /* owned; NULL when not given */
    bool read_only, cdrom;
    bool snapshot;   /* what is written is thrown away in the end */
    unsigned queues; /* 0: not given */
};

/* "FILE", "FILE,qcow2,xvda,rw", or "key=value,…,target=FILE". The error says what would be
 * accepted.
 */
int disk_spec_parse(struct disk_spec *s, const char *text, struct err *e);
void disk_spec_free(struct disk_spec *s);
/* As text that means the same, wherever it is read: a relative path is made absolute. The caller's;
 * NULL with the error set when there is no current folder. */
char *disk_spec_text(const struct disk_spec *s, struct err *e);

/* Opens the back end, on a worker of that name, and says in *m what the machine needs of it; valid
 * until disk_free. NULL with the error set. */
struct disk *disk_open(const struct disk_spec *s, const char *thread, struct machine_disk *m,
                       struct err *e);
/* Has what was written go to stable storage; then calls back on the caller's loop with 0 or -errno.
 * One at a time. */
typedef void disk_flushed_fn(void *arg, int result);
void disk_flush(struct disk *d, struct loop *caller, disk_flushed_fn *flushed, void *arg);
/* Stops the worker and closes the back end: no request is under way afterwards. No vCPU may run
 * that can still reach the device. */
void disk_close(struct disk *d);
/* After the device is freed. NULL is allowed. */
void disk_free(struct disk *d);

#endif

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

struct disks;
struct err;
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

/* Opens them all. NULL with the error set, which names the disk. */
struct disks *disks_open(char *const *specs, size_t count, struct err *e);
/* For struct machine_devices; valid until disks_free. */
const struct machine_disk *disks_of_machine(const struct disks *d);
/* With all vCPUs held, before the machine is freed: no request is under way afterwards. */
void disks_close(struct disks *d);
/* After the machine is freed. NULL is allowed. */
void disks_free(struct disks *d);

#endif

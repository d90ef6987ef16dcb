/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A SCSI logical unit: a disk (SPC-4, SBC-3) or a CD drive (MMC-6) on a block back end. It knows
 * nothing of how commands come and go.
 */
#ifndef RINGFENCE_VIRTIO_SCSI_UNIT_H
#define RINGFENCE_VIRTIO_SCSI_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/block.h"

#define SCSI_CDB_SIZE 32
#define SCSI_SENSE_SIZE 18
#define SCSI_SERIAL_MAX 20

enum { SCSI_GOOD = 0, SCSI_CHECK_CONDITION = 2 };

struct scsi_unit {
    struct block *block;
    bool cdrom;
    char serial[SCSI_SERIAL_MAX + 1];
};

/* A command under way. The caller sets what is before `done`, the rest is the answer. */
struct scsi_command {
    uint8_t cdb[SCSI_CDB_SIZE];
    const struct iovec *out, *in; /* data from and to the initiator; valid until done() */
    unsigned out_count, in_count;
    size_t out_len, in_len;
    void (*done)(struct scsi_command *c);

    uint8_t status;
    uint8_t sense[SCSI_SENSE_SIZE]; /* with CHECK CONDITION */
    size_t moved;                   /* bytes of data */
    bool overrun;                   /* there was no room for all data: nothing was done */

    /* Private. */
    const struct scsi_unit *unit;
    struct block_req req;
    struct iovec *zeroes; /* vector for WRITE SAME */
    uint64_t next, left;  /* of UNMAP: the descriptor to come, and how many */
};

/* Begins a command, and may call c->done() before it returns. On the back end's loop. */
void scsi_unit_start(const struct scsi_unit *u, struct scsi_command *c);
/* For a logical unit that isn't there: INQUIRY says so, everything else fails. */
void scsi_no_unit(struct scsi_command *c);

#endif

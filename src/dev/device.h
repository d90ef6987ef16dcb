/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every device has. A device is a struct that embeds `struct device` first and a static const
 * table of operations. Devices are made by explicit calls, in order, in machine/pc.c. All
 * operations run under the machine's I/O lock with no vCPU running, except where a header says
 * otherwise.
 */
#ifndef RINGFENCE_DEV_DEVICE_H
#define RINGFENCE_DEV_DEVICE_H

#include <stdint.h>

struct err;
struct device;
struct record_writer; /* base/record.h */
struct record_reader;

struct device_ops {
    const char *name; /* the chip, as in the file name; also the tag of its save record */
    uint16_t version; /* of the save record */
    void (*reset)(struct device *d);
    /*
     * save puts fields (the caller opens and closes the record); check and load get them, check
     * with rec_done at its end. check validates every field and changes nothing; load may rely on
     * it.
     */
    void (*save)(const struct device *d, struct record_writer *w);
    int (*check)(const struct device *d, struct record_reader *r, struct err *e);
    void (*load)(struct device *d, struct record_reader *r);
    void (*destroy)(struct device *d); /* frees the device too */
};

struct device {
    const struct device_ops *ops;
    struct device *next; /* the machine's list, in order of creation */
    uint32_t instance;   /* 0, 1, … among devices of one name */
};

#endif

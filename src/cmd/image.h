/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs of rf image share: their arguments, and progress. */
#ifndef RINGFENCE_CMD_IMAGE_H
#define RINGFENCE_CMD_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "block/volume.h"

#define IMAGE_FILES 3

struct err;

/* All that may stand on a command line; each verb has its own options out of these. */
struct imgcmd_args {
    const char *files[IMAGE_FILES];
    unsigned count;
    const struct volume_format *format, *output, *backing_format;
    const char *backing;
    struct volume_create create;
    enum volume_repair repair;
    bool json, force, compress, shrink, unsafe, chain, help;
};

/* Opens files[i]. */
struct volume *imgcmd_open(const struct imgcmd_args *a, unsigned i, bool read_only, struct err *e);
/* "12345" bytes, "10G". */
int imgcmd_parse_size(const char *text, uint64_t *bytes, struct err *e);

/* A line that says how far it is, on a terminal, from the second second on. */
void imgcmd_progress(const char *what, uint64_t done, uint64_t total);
void imgcmd_progress_end(void);

/* image_copy.c: exit status, or <0 with the error set. */
int imgcmd_convert(const struct imgcmd_args *a, struct err *e);
int imgcmd_compare(const struct imgcmd_args *a, struct err *e);
int imgcmd_measure(const struct imgcmd_args *a, struct err *e);
int imgcmd_commit(const struct imgcmd_args *a, struct err *e);
int imgcmd_rebase(const struct imgcmd_args *a, struct err *e);

#endif

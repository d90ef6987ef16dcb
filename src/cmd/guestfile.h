/* SPDX-License-Identifier: Apache-2.0 */
/* What a FILE on the command line of rf run is, by content. */
#ifndef RINGFENCE_CMD_GUESTFILE_H
#define RINGFENCE_CMD_GUESTFILE_H

struct config;
struct err;

/* Adds FILE to the configuration: a kernel as `kernel`, a domain configuration with all its
 * settings. */
int guestfile_apply(struct config *c, const char *path, struct err *e);

/* Makes the configuration that of the demonstration appliance; the error says how to get it. */
int guestfile_appliance(struct config *c, struct err *e);

#endif

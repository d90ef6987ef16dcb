/* SPDX-License-Identifier: Apache-2.0 */
/* A domain's network interfaces: their back ends, each on a thread of its own. */
#ifndef RINGFENCE_DOMAIN_VIFS_H
#define RINGFENCE_DOMAIN_VIFS_H

#include "machine/devices.h"

struct config;
struct err;
struct vif_port;

/* All zeroes is none. */
struct vifs {
    struct vif_port *ports;
    struct machine_nic *nics; /* what the machine is to have; `count` of them */
    unsigned count;
};

/* Opens what the configuration asks for; one user network when it doesn't say. Negative with the
 * error set, and closed again, when one of them won't do. */
int vifs_open(struct vifs *v, const struct config *c, struct err *e);

/* Frames may come: the machine is there. */
void vifs_start(struct vifs *v);
/* Ends the threads, before the machine is freed; closes the back ends, after that. */
void vifs_stop(struct vifs *v);
void vifs_close(struct vifs *v);

#endif

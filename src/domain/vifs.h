/* SPDX-License-Identifier: Apache-2.0 */
/* The back end of one network interface of a domain, on a thread of its own. */
#ifndef RINGFENCE_DOMAIN_VIFS_H
#define RINGFENCE_DOMAIN_VIFS_H

#include <stdbool.h>

struct err;
struct machine_nic;
struct vif;
struct vif_port;

/* Opens it, not for VIF_NONE, and says in *nic what the machine needs; NULL with the error set. */
struct vif_port *vif_port_open(const struct vif *vif, const char *thread, struct machine_nic *nic,
                               struct err *e);
/* Frames may come: the device is there. */
void vif_port_start(struct vif_port *p);
/* "user", "tap", … */
const char *vif_port_kind(const struct vif_port *p);
/* Plugs the cable in, or pulls it; soon. */
void vif_port_set_link(struct vif_port *p, bool up);
/* Ends the thread, before the device is freed; closes the back end, after that. */
void vif_port_stop(struct vif_port *p);
void vif_port_close(struct vif_port *p);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A switch's gateway to the host's networks. See nat.c. */
#ifndef RINGFENCE_NET_NAT_H
#define RINGFENCE_NET_NAT_H

struct loop;
struct net_nat;
struct switch_options;

/* Somebody who would be the gateway of the switch whose folder is open as `dir`. Any thread. */
struct net_nat *net_nat_new(const struct switch_options *o, int dir, struct loop *l);
/* Looks whether the switch has a gateway, and becomes it if not: at the start, and when a member
 * has left. The loop's thread. */
void net_nat_look(struct net_nat *n);
/* The loop does not run. NULL is allowed. */
void net_nat_free(struct net_nat *n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A switch that connects the domains of one user, with no privilege and no process of its own. See
 * switch.c.
 */
#ifndef RINGFENCE_NET_SWITCH_H
#define RINGFENCE_NET_SWITCH_H

struct err;
struct loop;
struct net;
struct user_options;

#define SWITCH_NAME_MAX 32

struct switch_options {
    const char *name;   /* letters, digits, '.', '_', '-' */
    const char *folder; /* where the sockets are; NULL: the user's runtime folder */
    /*
     * The switch leads to the host's networks, too: one of its members that ask for that is the
     * gateway, another one when that one goes. NULL: this member does not ask.
     */
    const struct user_options *nat;
    unsigned mtu; /* announced to the guest; 0: none is */
};

/* Joins the switch, which is there as long as it has members. */
struct net *net_switch_open(const struct switch_options *o, struct loop *l, struct err *e);

#endif

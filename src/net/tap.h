/* SPDX-License-Identifier: Apache-2.0 */
/* An interface of the host's kernel, or a port of one of its bridges. See tap.c. */
#ifndef RINGFENCE_NET_TAP_H
#define RINGFENCE_NET_TAP_H

struct err;
struct loop;
struct net;

struct tap_options {
    const char *name;   /* of the interface; with a bridge it is made, NULL: rf0, rf1, … */
    const char *bridge; /* that it becomes a port of; NULL: the interface is there already */
    const char *helper; /* the program that may do that; NULL: the one that came with rf */
    unsigned queues;    /* 0: one */
    unsigned mtu;       /* 0: as the interface has it */
};

/* NULL with the error set: not there, not ours, … and what to do about it. */
struct net *net_tap_open(const struct tap_options *o, struct loop *l, struct err *e);

#endif

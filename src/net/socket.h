/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wire to another rf or to QEMU (-netdev socket, or stream without vnet_hdr): frames over one TCP
 * or Unix connection, each behind its length as four bytes, big-endian.
 */
#ifndef RINGFENCE_NET_SOCKET_H
#define RINGFENCE_NET_SOCKET_H

#include <stdbool.h>

struct err;
struct loop;
struct net;

struct socket_options {
    const char *address; /* "HOST:PORT", "[HOST]:PORT", ":PORT" or "unix:PATH" */
    bool listen;         /* wait there for the other one; otherwise connect, again and again */
};

/* The guest's link is up while there is a connection. NULL with the error set. */
struct net *net_socket_open(const struct socket_options *o, struct loop *l, struct err *e);

#endif

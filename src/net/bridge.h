/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What needs CAP_NET_ADMIN: a new tap interface as a port of a bridge. Used by rf when it has that
 * capability, and otherwise by its helper program, which rf talks to as QEMU does to its own:
 *   HELPER [--use-vnet] --br=BRIDGE --fd=N      N: a Unix socket that the descriptor is sent over.
 */
#ifndef RINGFENCE_NET_BRIDGE_H
#define RINGFENCE_NET_BRIDGE_H

#include <stdbool.h>

struct err;

#define BRIDGE_CONF "/etc/ringfence/bridge.conf"

/*
 * A tap interface, open, up, and a port of `bridge`. `name` has IFNAMSIZ bytes: a name, or a
 * pattern with %d, that becomes the name it got. Returns the descriptor, or a negative value with
 * the error set.
 */
int bridge_add_tap(const char *bridge, char *name, bool vnet, struct err *e);

/* An interface that is there, or is made when the caller may. Likewise. */
int bridge_open_tap(char *name, bool vnet, bool many, struct err *e);

/* Whether a configuration lets that user have ports of that bridge. Lines are "allow BRIDGE [USER]"
 * and "deny BRIDGE [USER]" ("all": every bridge); the first that fits decides, and none is a no. */
bool bridge_allowed(const char *conf, const char *bridge, const char *user);

/* Sends and receives a descriptor over a Unix socket. Negative when that fails. */
int bridge_send_fd(int sock, int fd);
int bridge_receive_fd(int sock);

#endif

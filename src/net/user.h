/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network of the user's own, by libslirp: NAT to the host's networks, DHCP, DNS, IPv6 with router
 * advertisements. The guest sees the host at .2 and a name server at .3 of its network.
 */
#ifndef RINGFENCE_NET_USER_H
#define RINGFENCE_NET_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct err;
struct loop;
struct net;

#define USER_NETWORK 0x0a000200u /* 10.0.2.0 */
#define USER_FIRST_HOST 15       /* that DHCP gives */

/* A port of the host whose connections or datagrams go to the guest. */
struct user_forward {
    bool udp;
    struct sockaddr_storage host, guest; /* of one family; port 0 on the host: any */
};

struct user_options {
    uint32_t network; /* host order; 0: 10.0.2.0 */
    unsigned prefix;  /* bits, at most 28 */
    bool restricted;  /* nothing but forwarded ports: no way out */
    bool no_ipv6;
    unsigned mtu;         /* 0: 1500 */
    const char *hostname; /* that DHCP tells the guest; NULL: none */
    const struct user_forward *forwards;
    size_t forward_count;
};

/* "tcp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT" or udp:…, IPv6 addresses in brackets. */
int user_forward_parse(const char *text, struct user_forward *f, struct err *e);
/* A guest address that was not given is the first one that DHCP gives. */
void user_forward_complete(struct user_forward *f, const struct user_options *o);

/* NULL with the error set, also when a port is taken. */
struct net *net_user_open(const struct user_options *o, struct loop *l, struct err *e);

#endif

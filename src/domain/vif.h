/* SPDX-License-Identifier: Apache-2.0 */
/* What one network interface is to be: the SPEC of --vif, which knows xl's keys, too. */
#ifndef RINGFENCE_DOMAIN_VIF_H
#define RINGFENCE_DOMAIN_VIF_H

#include <stdbool.h>
#include <stdint.h>

#include "net/filter.h"
#include "net/user.h"

struct err;
struct loop;
struct net;

enum vif_kind { VIF_USER, VIF_NONE, VIF_TAP, VIF_BRIDGE, VIF_SWITCH, VIF_LISTEN, VIF_CONNECT };

struct vif {
    enum vif_kind kind;
    bool kind_given;
    char *target; /* interface, bridge, switch or address; NULL for user and none */
    uint8_t mac[6];
    bool mac_given;
    unsigned queues, mtu; /* 0: the back end's own choice */
    bool link_down, no_offload;
    char *pcap, *helper, *ifname; /* NULL when not given */
    struct net_rate rate, rate_in;
    bool nat;
    struct user_options user; /* user, and a switch with nat */
    struct user_forward *forwards;
    char *hostname;
};

/* The error names the key and what would be accepted. Free it in any case. */
int vif_parse(const char *spec, struct vif *v, struct err *e);
void vif_free(struct vif *v);

/* The back end with its filters. NULL with the error set; not for VIF_NONE. */
struct net *vif_open(const struct vif *v, struct loop *l, struct err *e);

#endif

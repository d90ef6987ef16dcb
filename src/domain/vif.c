/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --vif SPEC: words and KEY=VALUE, separated by commas, in any order. One table knows them; what
 * contradicts itself is found in the end. mac, bridge, model, rate, vifname, mtu and type are
 * xl-network-configuration(5)'s.
 */
#include "domain/vif.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "domain/suggest.h"
#include "net/socket.h"
#include "net/switch.h"
#include "net/tap.h"
#include "virtio/net.h"

#define FORWARDS_MAX 256
#define MTU_MIN 68
#define MTU_MAX 65521 /* of libslirp; a tap's own limit is below that, too */

typedef int set_fn(struct vif *v, const char *value, struct err *e);

static void set_string(char **field, const char *value) {
    char *copy = xstrdup(value);

    free(*field);
    *field = copy;
}

/* --- what it is connected to --- */

static int set_kind(struct vif *v, enum vif_kind kind, const char *target, struct err *e) {
    if (v->kind_given)
        return err_set(e, 0, "one interface has one other end; repeat --vif for another one");
    if (target && !*target)
        return err_set(e, 0, "it needs a name");
    v->kind = kind;
    v->kind_given = true;
    if (target)
        set_string(&v->target, target);
    return 0;
}

static int set_user(struct vif *v, const char *value, struct err *e) {
    (void)value;
    return set_kind(v, VIF_USER, NULL, e);
}

static int set_none(struct vif *v, const char *value, struct err *e) {
    (void)value;
    return set_kind(v, VIF_NONE, NULL, e);
}

static int set_tap(struct vif *v, const char *value, struct err *e) {
    return set_kind(v, VIF_TAP, value, e);
}

static int set_bridge(struct vif *v, const char *value, struct err *e) {
    return set_kind(v, VIF_BRIDGE, value, e);
}

static int set_switch(struct vif *v, const char *value, struct err *e) {
    return set_kind(v, VIF_SWITCH, value, e);
}

static int set_listen(struct vif *v, const char *value, struct err *e) {
    return set_kind(v, VIF_LISTEN, value, e);
}

static int set_connect(struct vif *v, const char *value, struct err *e) {
    return set_kind(v, VIF_CONNECT, value, e);
}

static int set_nat(struct vif *v, const char *value, struct err *e) {
    (void)value;
    (void)e;
    v->nat = true;
    return 0;
}

/* --- values --- */

static int parse_number(const char *text, unsigned min, unsigned max, unsigned *n, struct err *e) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (!isdigit((unsigned char)*text) || *end || value < min || value > max)
        return err_set(e, 0, "'%s' is not a number from %u to %u", text, min, max);
    *n = (unsigned)value;
    return 0;
}

static int parse_switch(const char *text, bool *on, struct err *e) {
    static const char *const words[] = {"off", "on", "no", "yes", "0", "1", "down", "up"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcmp(text, words[i]) == 0) {
            *on = i & 1;
            return 0;
        }
    return err_set(e, 0, "'%s' is neither on nor off", text);
}

static int set_mac(struct vif *v, const char *value, struct err *e) {
    const char *p = value;

    for (unsigned i = 0; i < 6; i++) {
        char *end;
        unsigned long byte = strtoul(p, &end, 16);

        if (!isxdigit((unsigned char)*p) || end - p > 2 || *end != (i < 5 ? ':' : 0))
            return err_set(e, 0, "'%s' is not an address such as 00:16:3e:12:34:56", value);
        v->mac[i] = (uint8_t)byte;
        p = end + 1;
    }
    if (v->mac[0] & 1)
        return err_set(e, 0, "'%s' is a group's address; the first byte must be even", value);
    v->mac_given = true;
    return 0;
}

static int set_model(struct vif *v, const char *value, struct err *e) {
    (void)v;
    if (strcmp(value, "virtio") == 0 || strcmp(value, "virtio-net") == 0)
        return 0;
    return err_set(e, 0, "this version has no %s; leave it out, or give virtio", value);
}

/* xl's types say which of several front ends an interface has; here it is always virtio. */
static int set_type(struct vif *v, const char *value, struct err *e) {
    (void)v;
    if (strcmp(value, "ioemu") == 0 || strcmp(value, "vif") == 0 || strcmp(value, "pv") == 0)
        return 0;
    return err_set(e, 0, "'%s' is none of ioemu, vif, pv", value);
}

static int set_queues(struct vif *v, const char *value, struct err *e) {
    return parse_number(value, 1, VIRTIO_NET_PAIRS_MAX, &v->queues, e);
}

static int set_mtu(struct vif *v, const char *value, struct err *e) {
    return parse_number(value, MTU_MIN, MTU_MAX, &v->mtu, e);
}

static int set_link(struct vif *v, const char *value, struct err *e) {
    bool up = true;
    int r = parse_switch(value, &up, e);

    v->link_down = !up;
    return r;
}

static int set_offload(struct vif *v, const char *value, struct err *e) {
    bool on = true;
    int r = parse_switch(value, &on, e);

    v->no_offload = !on;
    return r;
}

static int set_pcap(struct vif *v, const char *value, struct err *e) {
    if (!*value)
        return err_set(e, 0, "it needs the name of a file");
    set_string(&v->pcap, value);
    return 0;
}

static int set_helper(struct vif *v, const char *value, struct err *e) {
    (void)e;
    set_string(&v->helper, value);
    return 0;
}

static int set_ifname(struct vif *v, const char *value, struct err *e) {
    (void)e;
    set_string(&v->ifname, value);
    return 0;
}

/* --- rates: as xl's, "10Mb/s", "250KB/s", "1MB/s@20ms" --- */

static double unit_of(const char **p) {
    static const char units[] = "KMG";
    const char *u = **p ? strchr(units, toupper((unsigned char)**p)) : NULL;
    double factor = 1;

    if (u)
        *p += 1;
    for (const char *k = units; u && k <= u; k++)
        factor *= 1000;
    if (**p != 'b' && **p != 'B')
        return NAN;
    return *(*p)++ == 'b' ? factor / 8 : factor;
}

/* Of the interval, in seconds. */
static double parse_interval(const char *p) {
    char *end;
    double n = strtod(p, &end);

    if (end == p)
        return NAN;
    return strcmp(end, "us") == 0   ? n / 1e6
           : strcmp(end, "ms") == 0 ? n / 1e3
           : strcmp(end, "s") == 0  ? n
                                    : NAN;
}

static int parse_rate(const char *text, struct net_rate *rate, struct err *e) {
    const char *p;
    char *end;
    double n = isdigit((unsigned char)*text) ? strtod(text, &end) : NAN, interval = 0;

    p = isnan(n) ? text : end;
    n *= unit_of(&p);
    bool good = strncmp(p, "/s", 2) == 0;
    if (good && p[2] == '@')
        interval = parse_interval(p + 3);
    else
        good &= !p[2 * good];
    if (!good || isnan(n) || isnan(interval))
        return err_set(e, 0, "'%s' is not a rate such as 10Mb/s, 250KB/s or 1MB/s@20ms", text);
    if (n < 1000 || n > (double)NET_RATE_MAX || interval < 0 || interval > 10)
        return err_set(e, 0, "'%s' is out of range: from 1KB/s, an interval of up to 10s", text);
    *rate = (struct net_rate){(uint64_t)n, (uint64_t)(n * interval)};
    return 0;
}

static int set_rate(struct vif *v, const char *value, struct err *e) {
    return parse_rate(value, &v->rate, e);
}

static int set_rate_in(struct vif *v, const char *value, struct err *e) {
    return parse_rate(value, &v->rate_in, e);
}

/* --- the user's own network --- */

static int set_net(struct vif *v, const char *value, struct err *e) {
    cleanup_free char *copy = xstrdup(value);
    char *slash = strchr(copy, '/');
    unsigned prefix = 24;
    struct in_addr a;

    if (slash) {
        *slash = 0;
        if (parse_number(slash + 1, 8, 27, &prefix, e) < 0)
            return -1;
    }
    if (inet_pton(AF_INET, copy, &a) != 1 || ntohl(a.s_addr) & ~(~0u << (32 - prefix)))
        return err_set(e, 0, "'%s' is not a network such as 10.0.2.0/24", value);
    v->user.network = ntohl(a.s_addr);
    v->user.prefix = prefix;
    return 0;
}

static int set_restrict(struct vif *v, const char *value, struct err *e) {
    return parse_switch(value, &v->user.restricted, e);
}

static int set_ipv6(struct vif *v, const char *value, struct err *e) {
    bool on = true;
    int r = parse_switch(value, &on, e);

    v->user.no_ipv6 = !on;
    return r;
}

static int set_hostname(struct vif *v, const char *value, struct err *e) {
    if (!*value || strlen(value) > 32)
        return err_set(e, 0, "a name has 1 to 32 characters");
    set_string(&v->hostname, value);
    v->user.hostname = v->hostname;
    return 0;
}

static int set_hostfwd(struct vif *v, const char *value, struct err *e) {
    if (v->user.forward_count == FORWARDS_MAX)
        return err_set(e, 0, "there are at most %d", FORWARDS_MAX);
    if (!v->forwards)
        v->forwards = xcalloc(FORWARDS_MAX, sizeof(*v->forwards));
    v->user.forwards = v->forwards;
    return user_forward_parse(value, &v->forwards[v->user.forward_count++], e);
}

/* --- the table --- */

static const struct vif_key {
    const char *name;
    bool word; /* stands alone */
    set_fn *set;
} keys[] = {
    {"user", true, set_user},
    {"none", true, set_none},
    {"socket", true, NULL},
    {"tap", false, set_tap},
    {"bridge", false, set_bridge},
    {"switch", false, set_switch},
    {"listen", false, set_listen},
    {"connect", false, set_connect},
    {"nat", true, set_nat},
    {"mac", false, set_mac},
    {"model", false, set_model},
    {"type", false, set_type},
    {"queues", false, set_queues},
    {"mtu", false, set_mtu},
    {"link", false, set_link},
    {"offload", false, set_offload},
    {"pcap", false, set_pcap},
    {"helper", false, set_helper},
    {"vifname", false, set_ifname},
    {"rate", false, set_rate},
    {"rate-in", false, set_rate_in},
    {"net", false, set_net},
    {"restrict", false, set_restrict},
    {"ipv6", false, set_ipv6},
    {"hostname", false, set_hostname},
    {"hostfwd", false, set_hostfwd},
};

static int unknown(const char *name, struct err *e) {
    struct suggest s;

    suggest_init(&s, name);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        suggest_try(&s, keys[i].name);
    if (suggest_best(&s))
        return err_set(e, 0, "unknown key '%s'; did you mean '%s'?", name, suggest_best(&s));
    return err_set(e, 0, "unknown key '%s'; try user, tap=, bridge=, switch=, socket or none",
                   name);
}

static int set_one(struct vif *v, char *item, struct err *e) {
    char *value = strchr(item, '=');
    const struct vif_key *k = keys;

    if (value)
        *value++ = 0;
    while (k < keys + ARRAY_LEN(keys) && strcmp(k->name, item) != 0)
        k++;
    if (k == keys + ARRAY_LEN(keys))
        return unknown(item, e);
    if (k->word && value)
        return err_set(e, 0, "%s takes no value", item);
    if (!k->word && !value)
        return err_set(e, 0, "%s needs a value: %s=…", item, item);
    int r = k->set ? k->set(v, value, e) : 0;
    return r < 0 ? err_wrap(e, "%s", item) : 0;
}

static int check(const struct vif *v, struct err *e) {
    bool user = v->kind == VIF_USER;

    if (v->nat && v->kind != VIF_SWITCH)
        return err_set(e, 0, "nat goes with switch=NAME; user has it anyway");
    if (v->user.forward_count && !user)
        return err_set(e, 0, "hostfwd goes with user: add another --vif user,hostfwd=…");
    if ((v->user.network || v->user.restricted || v->user.no_ipv6 || v->hostname) && !user &&
        !v->nat)
        return err_set(e, 0, "net, restrict, ipv6 and hostname go with user, or switch=NAME,nat");
    if ((v->helper || v->ifname) && v->kind != VIF_BRIDGE)
        return err_set(e, 0, "helper and vifname go with bridge=");
    if (v->queues > 1 && v->kind == VIF_BRIDGE)
        return err_set(e, 0, "queues: a port of a bridge has one; make a tap with multi_queue");
    return 0;
}

int vif_parse(const char *spec, struct vif *v, struct err *e) {
    cleanup_free char *copy = xstrdup(spec);
    char *rest = copy, *item;

    *v = (struct vif){0};
    while ((item = strsep(&rest, ",")))
        if (*item && set_one(v, item, e) < 0)
            return -1;
    if (check(v, e) < 0)
        return -1;
    for (size_t i = 0; i < v->user.forward_count; i++)
        user_forward_complete(&v->forwards[i], &v->user);
    v->user.mtu = v->mtu;
    return 0;
}

void vif_free(struct vif *v) {
    free(v->target);
    free(v->pcap);
    free(v->helper);
    free(v->ifname);
    free(v->forwards);
    free(v->hostname);
    *v = (struct vif){0};
}

/* --- opening --- */

static struct net *open_end(const struct vif *v, struct loop *l, struct err *e) {
    const struct tap_options tap = {
        .name = v->kind == VIF_TAP ? v->target : v->ifname,
        .bridge = v->kind == VIF_BRIDGE ? v->target : NULL,
        .helper = v->helper,
        .queues = v->queues,
        .mtu = v->mtu,
    };
    const struct switch_options sw = {
        .name = v->target, .nat = v->nat ? &v->user : NULL, .mtu = v->mtu};
    const struct socket_options wire = {.address = v->target, .listen = v->kind == VIF_LISTEN};

    switch (v->kind) {
    case VIF_TAP:
    case VIF_BRIDGE:
        return net_tap_open(&tap, l, e);
    case VIF_SWITCH:
        return net_switch_open(&sw, l, e);
    case VIF_LISTEN:
    case VIF_CONNECT:
        return net_socket_open(&wire, l, e);
    default:
        return net_user_open(&v->user, l, e);
    }
}

struct net *vif_open(const struct vif *v, struct loop *l, struct err *e) {
    struct net *n = open_end(v, l, e);

    if (n && v->mtu)
        n->mtu = v->mtu;
    if (n && v->pcap)
        n = net_pcap_new(n, v->pcap, e);
    if (n && (v->rate.bytes_per_second || v->rate_in.bytes_per_second))
        n = net_throttle_new(n, &v->rate, &v->rate_in);
    if (n && !v->no_offload)
        n = net_soft_new(n, e);
    return n;
}

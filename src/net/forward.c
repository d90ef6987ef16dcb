/* SPDX-License-Identifier: Apache-2.0 */
/* hostfwd=, as QEMU writes it, with IPv6 addresses in brackets. */
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "net/user.h"

static int malformed(const char *text, struct err *e) {
    return err_set(e, 0,
                   "'%s' is not PROTOCOL:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT, such as "
                   "tcp::2222-:22",
                   text);
}

static int parse_port(const char *text, unsigned min, in_port_t *port, struct err *e) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (!isdigit((unsigned char)*text) || *end || n < min || n > UINT16_MAX)
        return err_set(e, 0, "'%s' is not a port", text);
    *port = htons((uint16_t)n);
    return 0;
}

/* "ADDRESS:PORT" or ":PORT", which leaves the address at 0. Changes the text. */
static int parse_end(char *text, unsigned port_min, struct sockaddr_storage *a, struct err *e) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    char *colon = strrchr(text, ':');

    if (!colon)
        return err_set(e, 0, "'%s' has no port", text);
    *colon = 0;
    if (text[0] == '[' && colon > text + 1 && colon[-1] == ']') {
        colon[-1] = 0;
        if (inet_pton(AF_INET6, text + 1, &v6.sin6_addr) != 1)
            return err_set(e, 0, "'%s' is not an IPv6 address", text + 1);
        memcpy(a, &v6, sizeof(v6));
        return parse_port(colon + 1, port_min, &((struct sockaddr_in6 *)a)->sin6_port, e);
    }
    if (*text && inet_pton(AF_INET, text, &v4.sin_addr) != 1)
        return err_set(e, 0, "'%s' is not an IPv4 address (IPv6 in brackets)", text);
    memcpy(a, &v4, sizeof(v4));
    return parse_port(colon + 1, port_min, &((struct sockaddr_in *)a)->sin_port, e);
}

int user_forward_parse(const char *text, struct user_forward *f, struct err *e) {
    cleanup_free char *copy = xstrdup(text);
    char *host = strchr(copy, ':'), *guest;

    if (!host)
        return malformed(text, e);
    *host++ = 0;
    /* Behind the host's port: a host address has no '-'. */
    guest = strchr(host, '-');
    if (!guest || (strcmp(copy, "tcp") != 0 && strcmp(copy, "udp") != 0))
        return malformed(text, e);
    *guest++ = 0;
    *f = (struct user_forward){.udp = copy[0] == 'u'};
    if (parse_end(host, 0, &f->host, e) < 0 || parse_end(guest, 1, &f->guest, e) < 0)
        return -1;
    if (f->host.ss_family == f->guest.ss_family)
        return 0;
    return err_set(e, 0, "'%s': both ends must be IPv4, or both IPv6", text);
}

void user_forward_complete(struct user_forward *f, const struct user_options *o) {
    struct sockaddr_in *a = (struct sockaddr_in *)&f->guest;

    if (a->sin_family == AF_INET && !a->sin_addr.s_addr)
        a->sin_addr.s_addr = htonl((o->network ? o->network : USER_NETWORK) + USER_FIRST_HOST);
}

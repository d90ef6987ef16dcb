/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rf-bridge-helper: the only part of Ringfence that needs a privilege, CAP_NET_ADMIN. It gives its
 * caller a port of a bridge, if BRIDGE_CONF lets the user have it, and ends. Root needs no line
 * there.
 */
#include <errno.h>
#include <net/if.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "net/bridge.h"

static const char usage[] = "usage: rf-bridge-helper [--use-vnet] --br=BRIDGE --fd=N\n";

static int complain(const char *what) {
    fprintf(stderr, "rf-bridge-helper: %s\n", what);
    return 1;
}

static int refuse(const char *bridge, const char *user) {
    fprintf(stderr,
            "rf-bridge-helper: %s may not use bridge %s; root can allow it with a line "
            "\"allow %s %s\" in %s\n",
            user, bridge, bridge, user, BRIDGE_CONF);
    return 1;
}

static bool known_user_may(const char *bridge, char *user, size_t size) {
    const struct passwd *p = getpwuid(getuid());

    if (p)
        snprintf(user, size, "%s", p->pw_name);
    else
        snprintf(user, size, "%u", (unsigned)getuid());
    return getuid() == 0 || bridge_allowed(BRIDGE_CONF, bridge, user);
}

static int serve(const char *bridge, bool vnet, int sock) {
    char name[IFNAMSIZ] = "rf%d", user[64];
    cleanup_err struct err e = ERR_INIT;

    if (!known_user_may(bridge, user, sizeof(user)))
        return refuse(bridge, user);
    int fd = bridge_add_tap(bridge, name, vnet, &e);
    if (fd < 0)
        return complain(err_msg(&e));
    int r = bridge_send_fd(sock, fd);
    close(fd);
    return r < 0 ? complain(strerror(-r)) : 0;
}

int main(int argc, char **argv) {
    const char *bridge = NULL;
    bool vnet = false;
    int sock = -1;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--use-vnet") == 0)
            vnet = true;
        else if (strncmp(argv[i], "--br=", 5) == 0)
            bridge = argv[i] + 5;
        else if (strncmp(argv[i], "--fd=", 5) == 0)
            sock = atoi(argv[i] + 5);
        else
            bridge = NULL, i = argc;
    }
    if (!bridge || sock < 0) {
        fputs(usage, stderr);
        return 2;
    }
    return serve(bridge, vnet, sock);
}

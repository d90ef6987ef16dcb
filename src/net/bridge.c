/* SPDX-License-Identifier: Apache-2.0 */
/* Tap interfaces and bridges (Linux: if_tun.h, if_bridge.h), and what the helper decides. */
#include "net/bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

static void set_name(struct ifreq *r, const char *name) {
    *r = (struct ifreq){0};
    for (size_t i = 0; i + 1 < IFNAMSIZ && name[i]; i++)
        r->ifr_name[i] = name[i];
}

/* What a variable that would be closed holds, for the caller. */
static int take(int *fd) {
    int taken = *fd;

    *fd = -1;
    return taken;
}

int bridge_open_tap(char *name, bool vnet, bool many, struct err *e) {
    cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq r;

    if (fd < 0)
        return err_set(e, errno, "open /dev/net/tun");
    set_name(&r, name);
    r.ifr_flags =
        (short)(IFF_TAP | IFF_NO_PI | (vnet ? IFF_VNET_HDR : 0) | (many ? IFF_MULTI_QUEUE : 0));
    if (ioctl(fd, TUNSETIFF, &r) < 0)
        return err_set(e, errno, "open interface %s", name);
    memcpy(name, r.ifr_name, IFNAMSIZ);
    return take(&fd);
}

/* The bridge's address is the least of its ports': one that starts with fe is never that, so that
 * the host's address does not change with its guests. */
static int set_address(int sock, const char *name, struct err *e) {
    struct ifreq r;

    set_name(&r, name);
    if (ioctl(sock, SIOCGIFHWADDR, &r) < 0)
        return err_set(e, errno, "%s: address", name);
    r.ifr_hwaddr.sa_data[0] = (char)0xfe;
    if (ioctl(sock, SIOCSIFHWADDR, &r) < 0)
        return err_set(e, errno, "%s: address", name);
    return 0;
}

/* A port whose MTU is less than the bridge's would lower the bridge's. */
static int join(int sock, const char *bridge, const char *name, struct err *e) {
    struct ifreq r;

    set_name(&r, bridge);
    if (ioctl(sock, SIOCGIFMTU, &r) < 0)
        return err_set(e, errno, "bridge %s", bridge);
    int mtu = r.ifr_mtu;
    set_name(&r, name);
    r.ifr_mtu = mtu;
    if (ioctl(sock, SIOCSIFMTU, &r) < 0)
        return err_set(e, errno, "%s: MTU %d", name, mtu);
    if (set_address(sock, name, e) < 0)
        return -1;
    set_name(&r, bridge);
    r.ifr_ifindex = (int)if_nametoindex(name);
    if (ioctl(sock, SIOCBRADDIF, &r) < 0)
        return err_set(e, errno, "add %s to bridge %s", name, bridge);
    set_name(&r, name);
    if (ioctl(sock, SIOCGIFFLAGS, &r) < 0)
        return err_set(e, errno, "%s", name);
    r.ifr_flags = (short)(r.ifr_flags | IFF_UP);
    if (ioctl(sock, SIOCSIFFLAGS, &r) < 0)
        return err_set(e, errno, "%s: set up", name);
    return 0;
}

int bridge_add_tap(const char *bridge, char *name, bool vnet, struct err *e) {
    cleanup_close int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cleanup_close int fd = -1;

    if (sock < 0)
        return err_set(e, errno, "socket");
    if (strlen(bridge) >= IFNAMSIZ || !if_nametoindex(bridge))
        return err_set(e, 0,
                       "there is no bridge %s; make one: ip link add %s type bridge && ip link set "
                       "%s up",
                       bridge, bridge, bridge);
    fd = bridge_open_tap(name, vnet, false, e);
    if (fd < 0 || join(sock, bridge, name, e) < 0)
        return -1;
    return take(&fd);
}

static bool fits(const char *pattern, const char *what) {
    return strcmp(pattern, what) == 0 || strcmp(pattern, "all") == 0;
}

bool bridge_allowed(const char *conf, const char *bridge, const char *user) {
    char line[256], verb[16], br[64], who[64];
    bool allowed = false, decided = false;
    FILE *f = fopen(conf, "re");

    while (f && !decided && fgets(line, sizeof(line), f)) {
        int n = sscanf(line, "%15s %63s %63s", verb, br, who);

        if (n < 2 || verb[0] == '#' || !fits(br, bridge) ||
            (n == 3 && who[0] != '#' && strcmp(who, user) != 0))
            continue;
        allowed = strcmp(verb, "allow") == 0;
        decided = allowed || strcmp(verb, "deny") == 0;
    }
    if (f)
        fclose(f);
    return allowed && decided;
}

/* One byte goes with it, since nothing can't be sent. */
int bridge_send_fd(int sock, int fd) {
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.h = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    char byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control.space)};

    memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
    return sendmsg(sock, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

int bridge_receive_fd(int sock) {
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control.space)};
    ssize_t n;
    int fd;

    do
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    const struct cmsghdr *c = n == 1 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return n < 0 ? -errno : -EPIPE;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

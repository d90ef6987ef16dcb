/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets by name, and the line with which the host's programs say which port they want. */
#include "virtio/vsock_unix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/unixsock.h"
#include "base/util.h"

#define VSOCK_PORT_ROOM 11 /* an underscore and ten digits */

int vsock_unix_listen(const char *path, struct err *e) {
    return unixsock_listen(path, VSOCK_PORT_ROOM, e);
}

int vsock_unix_connect(const char *path, uint32_t port) {
    cleanup_free char *name = xasprintf("%s_%u", path, port);

    return unixsock_connect(name);
}

static int parse(const char *line, uint32_t *port) {
    static const char word[] = "CONNECT ";
    unsigned long n;
    char *end;

    if (strncmp(line, word, sizeof(word) - 1) != 0)
        return -EPROTO;
    line += sizeof(word) - 1;
    if (*line < '0' || *line > '9')
        return -EPROTO;
    n = strtoul(line, &end, 10);
    if (*end || n >= UINT32_MAX)
        return -EPROTO;
    *port = (uint32_t)n;
    return 1;
}

/* One byte at a time: what comes behind the line is the guest's. */
int vsock_hello_read(struct vsock_hello *h, int fd, uint32_t *port) {
    while (h->len < sizeof(h->line)) {
        char *c = &h->line[h->len];
        ssize_t n = recv(fd, c, 1, MSG_DONTWAIT);

        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0)
            return -EPIPE;
        if (*c == '\n') {
            *c = 0;
            return parse(h->line, port);
        }
        h->len++;
    }
    return -EPROTO;
}

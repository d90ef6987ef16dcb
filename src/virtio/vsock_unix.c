/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets by name, and the line with which the host's programs say which port they want. */
#include "virtio/vsock_unix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define BACKLOG 128
#define PORT_DIGITS 11 /* and the underscore */

static int new_socket(void) {
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Whether a socket lies there that refuses connections: whoever made it is gone. */
static bool is_stale(const struct sockaddr_un *a) {
    struct stat st;
    cleanup_close int fd = -1;

    if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = new_socket();
    return fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 &&
           errno == ECONNREFUSED;
}

int vsock_unix_listen(const char *path, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd, r;

    if (strlen(path) + PORT_DIGITS >= sizeof(a.sun_path))
        return err_set(e, ENAMETOOLONG, "%s: with a port behind it, at most %zu bytes", path,
                       sizeof(a.sun_path) - 1);
    strcpy(a.sun_path, path);
    if (is_stale(&a))
        unlink(path);
    fd = new_socket();
    if (fd < 0)
        return err_set(e, errno, "%s: socket", path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    r = err_set(e, errno, "listen on %s", path);
    close(fd);
    return r;
}

int vsock_unix_connect(const char *path, uint32_t port) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = new_socket(), r;

    if (fd < 0)
        return -errno;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", path, port);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
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

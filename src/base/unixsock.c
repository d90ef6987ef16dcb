/* SPDX-License-Identifier: Apache-2.0 */
/* Listening on names and connecting to them, with the care that names need. */
#include "base/unixsock.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define BACKLOG 128

static bool set_name(struct sockaddr_un *a, const char *path, unsigned room) {
    size_t n = strlen(path);

    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (n + room >= sizeof(a->sun_path))
        return false;
    memcpy(a->sun_path, path, n);
    return true;
}

int unixsock_connect(const char *path) {
    struct sockaddr_un a;
    int fd, r;

    if (!set_name(&a, path, 0))
        return -ENAMETOOLONG;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
}

/* Whether a socket lies there that refuses connections: whoever made it is gone. */
static bool is_stale(const char *path) {
    struct stat st;
    int fd;

    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = unixsock_connect(path);
    if (fd >= 0)
        close(fd);
    return fd == -ECONNREFUSED;
}

int unixsock_listen(const char *path, unsigned room, struct err *e) {
    struct sockaddr_un a;
    int fd, r;

    if (!set_name(&a, path, room))
        return err_set(e, ENAMETOOLONG, "%s: a socket's name has at most %zu bytes", path,
                       sizeof(a.sun_path) - 1 - room);
    if (is_stale(path))
        unlink(path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(e, errno, "%s: socket", path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    r = err_set(e, errno, "listen on %s", path);
    close(fd);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that a guest makes up, with one socket of the host to connect to (port 7). */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unixsock.h"
#include "fuzz_virtio.h"
#include "virtio/vsock.h"

static char folder[] = "/tmp/rf-fuzz-XXXXXX";
static int listener = -1;

/* Whoever connects hears something and is left. */
static void serve(void) {
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        (void)!send(fd, "something", 9, MSG_NOSIGNAL);
        close(fd);
    }
}

static void clean(void) {
    char path[64];

    snprintf(path, sizeof(path), "%s/s_7", folder);
    unlink(path);
    rmdir(folder);
}

static struct virtio_device *make(struct mem *m, struct loop *l) {
    char path[64];

    if (listener < 0) {
        if (!mkdtemp(folder))
            abort();
        snprintf(path, sizeof(path), "%s/s_7", folder);
        listener = unixsock_listen(path, 0, NULL);
        atexit(clean);
    }
    serve();
    snprintf(path, sizeof(path), "%s/s", folder);
    return virtio_vsock_new(m, 3, path, l, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's program for test_vsock.py: "vsock_peer echo PORT" sends one connection's bytes back;
 * "vsock_peer send PORT BYTES" connects to the host, sends, and compares what comes back.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

static uint8_t byte_at(size_t i) {
    return (uint8_t)((i * 2654435761u) >> 13);
}

static int echo(unsigned port) {
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int s = socket(AF_VSOCK, SOCK_STREAM, 0), c;
    char buf[8192];
    ssize_t n;

    if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 1) < 0)
        return fail("listen");
    printf("listening\n");
    fflush(stdout);
    c = accept(s, NULL, NULL);
    while ((n = read(c, buf, sizeof(buf))) > 0)
        for (ssize_t done = 0, k; done < n; done += k) {
            k = write(c, buf + done, (size_t)(n - done));
            if (k < 0)
                return fail("write");
        }
    if (n < 0)
        return fail("read");
    printf("echoed\n");
    return 0;
}

/* Sends as long as the other side takes it, and looks at what comes at the same time. */
static int send_and_compare(unsigned port, size_t bytes) {
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = s, .events = POLLOUT};
    size_t sent = 0, got = 0;
    int error = 0;
    socklen_t len = sizeof(error);
    uint8_t buf[8192];

    if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0 && errno != EINPROGRESS)
        return fail("connect");
    poll(&p, 1, -1);
    getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &len);
    errno = error;
    if (error)
        return fail("connect");
    while (got < bytes) {
        ssize_t n;

        p.events = (short)(POLLIN | (sent < bytes ? POLLOUT : 0));
        poll(&p, 1, -1);
        if (sent < bytes && p.revents & POLLOUT) {
            size_t k = 0;
            for (; k < sizeof(buf) && sent + k < bytes; k++)
                buf[k] = byte_at(sent + k);
            n = write(s, buf, k);
            if (n < 0 && errno != EAGAIN)
                return fail("write");
            sent += n > 0 ? (size_t)n : 0;
        }
        n = read(s, buf, sizeof(buf));
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return fail("read");
        for (ssize_t i = 0; i < n; i++, got++)
            if (buf[i] != byte_at(got)) {
                printf("byte %zu differs\n", got);
                return 1;
            }
    }
    printf("same %zu\n", got);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "echo") == 0)
        return echo((unsigned)strtoul(argv[2], NULL, 10));
    if (argc == 4 && strcmp(argv[1], "send") == 0)
        return send_and_compare((unsigned)strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
    printf("vsock_peer echo PORT | send PORT BYTES\n");
    return 2;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's program for the tests: "vsock_peer echo PORT" sends one connection's bytes back;
 * "vsock_peer send PORT BYTES" connects to the host, sends, and compares what comes back. It is
 * 32-bit code without a library, so that one file runs on i386 and on amd64 kernels.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* asm/unistd_32.h */
enum {
    NR_exit = 1,
    NR_read = 3,
    NR_write = 4,
    NR_poll = 168,
    NR_socket = 359,
    NR_bind = 361,
    NR_connect = 362,
    NR_listen = 363,
    NR_accept4 = 364,
    NR_getsockopt = 365,
};

enum { AF_VSOCK = 40, SOCK_STREAM = 1, SOCK_NONBLOCK = 04000, SOL_SOCKET = 1, SO_ERROR = 4 };
enum { VMADDR_CID_HOST = 2, EAGAIN = 11, EINPROGRESS = 115, POLLIN = 1, POLLOUT = 4 };
#define VMADDR_CID_ANY 0xffffffffu

/* linux/vm_sockets.h, asm-generic/poll.h */
struct sockaddr_vm {
    uint16_t svm_family, svm_reserved1;
    uint32_t svm_port, svm_cid, svm_zero;
};

struct pollfd {
    int fd;
    short events, revents;
};

static long call5(long nr, long a, long b, long c, long d, long e) {
    long r;
    __asm__ volatile("int $0x80"
                     : "=a"(r)
                     : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory");
    return r;
}

static long call(long nr, long a, long b, long c) {
    return call5(nr, a, b, c, 0, 0);
}

static bool same_text(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static uint32_t number(const char *s) {
    uint32_t n = 0;
    while (*s >= '0' && *s <= '9')
        n = n * 10 + (uint32_t)(*s++ - '0');
    return n;
}

static void say(const char *text) {
    size_t n = 0;
    while (text[n])
        n++;
    call(NR_write, 1, (long)text, (long)n);
}

static void say_number(const char *before, uint32_t n) {
    char digits[12];
    size_t at = sizeof(digits);
    digits[--at] = 0;
    digits[--at] = '\n';
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    say(before);
    say(digits + at);
}

/* `error` is what the kernel returned: -errno. */
static int fail(const char *what, long error) {
    say(what);
    say_number(": error ", (uint32_t)-error);
    return 1;
}

static uint8_t buf[8192];

static int echo(uint32_t port) {
    static struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
    long s = call(NR_socket, AF_VSOCK, SOCK_STREAM, 0), n;
    a.svm_port = port;
    if ((n = call(NR_bind, s, (long)&a, sizeof(a))) < 0 || (n = call(NR_listen, s, 1, 0)) < 0)
        return fail("listen", n);
    say("listening\n");
    long c = call5(NR_accept4, s, 0, 0, 0, 0);
    while ((n = call(NR_read, c, (long)buf, sizeof(buf))) > 0) {
        for (long done = 0, k; done < n; done += k) {
            k = call(NR_write, c, (long)(buf + done), n - done);
            if (k < 0)
                return fail("write", k);
        }
    }
    if (n < 0)
        return fail("read", n);
    say("echoed\n");
    return 0;
}

/* A socket that does not block, and is connected; or -errno. */
static long connected(uint32_t port) {
    static struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    long s = call(NR_socket, AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = (int)s, .events = POLLOUT};
    int error = 0;
    uint32_t len = sizeof(error);
    a.svm_port = port;
    long r = call(NR_connect, s, (long)&a, sizeof(a));
    if (r < 0 && r != -EINPROGRESS)
        return r;
    call(NR_poll, (long)&p, 1, -1);
    call5(NR_getsockopt, s, SOL_SOCKET, SO_ERROR, (long)&error, (long)&len);
    return error ? -error : s;
}

static uint8_t byte_at(uint32_t i) {
    return (uint8_t)((i * 2654435761u) >> 13);
}

/* How many bytes from `at` on were sent, or -errno. */
static long send_some(long s, uint32_t at, uint32_t bytes) {
    uint32_t k = 0;
    for (; k < sizeof(buf) && at + k < bytes; k++)
        buf[k] = byte_at(at + k);
    long n = call(NR_write, s, (long)buf, (long)k);
    return n == -EAGAIN ? 0 : n;
}

/* Sends as long as the other side takes it, and looks at what comes at the same time. */
static int send_and_compare(uint32_t port, uint32_t bytes) {
    long s = connected(port), n;
    uint32_t sent = 0, got = 0;
    if (s < 0)
        return fail("connect", s);
    while (got < bytes) {
        struct pollfd p = {.fd = (int)s, .events = (short)(POLLIN | (sent < bytes ? POLLOUT : 0))};
        call(NR_poll, (long)&p, 1, -1);
        if (p.revents & POLLOUT) {
            if ((n = send_some(s, sent, bytes)) < 0)
                return fail("write", n);
            sent += (uint32_t)n;
        }
        n = call(NR_read, s, (long)buf, sizeof(buf));
        if (n == 0 || (n < 0 && n != -EAGAIN))
            return fail("read", n);
        for (long i = 0; i < n; i++, got++) {
            if (buf[i] != byte_at(got)) {
                say_number("another byte at ", got);
                return 1;
            }
        }
    }
    say_number("same ", got);
    return 0;
}

__attribute__((used)) static int run(int argc, char **argv) {
    if (argc == 3 && same_text(argv[1], "echo"))
        return echo(number(argv[2]));
    if (argc == 4 && same_text(argv[1], "send"))
        return send_and_compare(number(argv[2]), number(argv[3]));
    say("vsock_peer echo PORT | send PORT BYTES\n");
    return 2;
}

/* The kernel leaves argc, and behind it argv, on the stack. */
__attribute__((used)) _Noreturn static void start(long *stack) {
    call(NR_exit, run((int)stack[0], (char **)(stack + 1)), 0, 0);
    __builtin_unreachable();
}

__asm__(".globl _start\n"
        "_start:\n"
        "    movl %esp, %eax\n"
        "    andl $-16, %esp\n"
        "    subl $12, %esp\n"
        "    pushl %eax\n"
        "    call start\n");

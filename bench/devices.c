/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: TCP and UDP to a server on the host, and a disk. BENCH_HOST is the server, ADDRESS:PORT;
 * BENCH_DISK a block device, or a file natively. The page cache of the side that measures is left
 * out.
 *
 * The server's protocol: the first byte of a connection says what it is for. 'o' takes bytes and
 * answers each BULK of them with one; 'i' answers each byte with a BULK of them; 'e' sends back
 * what comes. Of datagrams it answers every PACKETSth.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { BULK = 1 << 20, PIECE = 64 << 10, PACKETS = 64, PACKET_BYTES = 64, TURNS = 20 };

static char piece[PIECE];

static void write_all(int fd, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(fd, (const char *)data + done, bytes - done);
        if (n <= 0)
            bench_die("write");
        done += (size_t)n;
    }
}

static void write_bulk(int fd) {
    for (unsigned i = 0; i < BULK; i += PIECE)
        write_all(fd, piece, PIECE);
}

/* False at the end of what comes. */
static int read_bytes(int fd, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = read(fd, piece, bytes - done < PIECE ? bytes - done : PIECE);
        if (n <= 0)
            return 0;
        done += (size_t)n;
    }
    return 1;
}

static void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* The server */

static void serve_connection(int fd) {
    char what = 0, c = 'x';
    no_delay(fd);
    if (read(fd, &what, 1) != 1)
        return;
    if (what == 'o') {
        while (read_bytes(fd, BULK))
            write_all(fd, &c, 1);
    } else if (what == 'i') {
        while (read(fd, &c, 1) == 1)
            write_bulk(fd);
    } else {
        while (read(fd, &c, 1) == 1)
            write_all(fd, &c, 1);
    }
}

static void serve_datagrams(int fd) {
    struct sockaddr_in peer;
    socklen_t len = sizeof(peer);
    unsigned n = 0;
    while (recvfrom(fd, piece, PIECE, 0, (struct sockaddr *)&peer, &len) >= 0) {
        /* The first byte numbers a batch's packets: one that was lost spoils its batch only. */
        n = piece[0] ? n + 1 : 1;
        if (n == PACKETS)
            sendto(fd, piece, 1, 0, (struct sockaddr *)&peer, len);
        len = sizeof(peer);
    }
}

static int bound(int type, struct sockaddr_in *a) {
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)a, sizeof(*a)) < 0)
        bench_die("bind");
    return fd;
}

static pid_t child_of(void) {
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
    }
    return child;
}

void bench_serve_devices(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(a);
    int tcp = bound(SOCK_STREAM, &a);
    getsockname(tcp, (struct sockaddr *)&a, &len);
    int udp = bound(SOCK_DGRAM, &a);
    listen(tcp, 8);
    signal(SIGCHLD, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (child_of() == 0)
        serve_datagrams(udp);
    printf("%u\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(tcp, NULL, NULL);
        if (fd >= 0 && child_of() == 0) {
            signal(SIGPIPE, SIG_IGN);
            serve_connection(fd);
            _exit(0);
        }
        close(fd);
    }
}

/* Networks */

static int peer;

static struct sockaddr_in server(void) {
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64] = "";
    const char *text = getenv("BENCH_HOST");
    unsigned port = 0;
    if (!text || sscanf(text, "%63[^:]:%u", host, &port) != 2 ||
        inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "BENCH_HOST names no server\n");
        _exit(1);
    }
    a.sin_port = htons((uint16_t)port);
    return a;
}

/* A guest that has just started may have no address yet. */
static void connect_to_server(int type) {
    struct sockaddr_in a = server();
    for (unsigned i = 0; i < 100; i++) {
        peer = socket(AF_INET, type, 0);
        if (connect(peer, (struct sockaddr *)&a, sizeof(a)) == 0)
            return;
        close(peer);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    bench_die("connect");
}

static void connect_for(char what) {
    connect_to_server(SOCK_STREAM);
    no_delay(peer);
    write_all(peer, &what, 1);
}

static void prepare_tcp_out(void) {
    connect_for('o');
}

static uint64_t batch_tcp_out(void) {
    write_bulk(peer);
    if (!read_bytes(peer, 1))
        bench_die("read");
    return 0;
}

static void prepare_tcp_in(void) {
    connect_for('i');
}

static uint64_t batch_tcp_in(void) {
    write_all(peer, "x", 1);
    if (!read_bytes(peer, BULK))
        bench_die("read");
    return 0;
}

static void prepare_tcp_byte(void) {
    connect_for('e');
}

static uint64_t batch_tcp_byte(void) {
    for (unsigned i = 0; i < TURNS; i++) {
        write_all(peer, "x", 1);
        if (!read_bytes(peer, 1))
            bench_die("read");
    }
    return 0;
}

static void prepare_packets(void) {
    struct timeval limit = {.tv_sec = 1};
    connect_to_server(SOCK_DGRAM);
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* A batch of which something is lost is sent once more, after a second: it shows. */
static uint64_t batch_packets(void) {
    char packet[PACKET_BYTES] = {0};
    for (unsigned tries = 0; tries < 5; tries++) {
        for (unsigned i = 0; i < PACKETS; i++) {
            packet[0] = (char)i;
            if (write(peer, packet, sizeof(packet)) != sizeof(packet))
                bench_die("send");
        }
        if (read(peer, packet, 1) == 1)
            return 0;
    }
    bench_die("packets");
}

/* The disk */

enum { DISK_BYTES = 64 << 20, BLOCK = 4096, RANDOM_OPS = 32, DEPTH = 32 };

static int disk;
static char *buffer;
static uint64_t random_state = BENCH_SEED;
static aio_context_t aio;

static void prepare_disk(void) {
    const char *path = getenv("BENCH_DISK");
    disk = open(path ? path : "", O_RDWR | O_DIRECT);
    buffer = aligned_alloc(BLOCK, BULK);
    if (disk < 0 || !buffer)
        bench_die("BENCH_DISK");
    memset(buffer, 'x', BULK);
}

/* From one batch to the next through all of the disk, and again. */
static off_t next_place(size_t bytes) {
    static off_t at;
    off_t here = at;
    at = (at + (off_t)bytes) % DISK_BYTES;
    return here;
}

static off_t random_place(void) {
    random_state = bench_xorshift(random_state);
    return (off_t)(random_state % (DISK_BYTES / BLOCK)) * BLOCK;
}

static uint64_t batch_disk_read(void) {
    if (pread(disk, buffer, BULK, next_place(BULK)) != BULK)
        bench_die("read");
    return 0;
}

static uint64_t batch_disk_write(void) {
    if (pwrite(disk, buffer, BULK, next_place(BULK)) != BULK)
        bench_die("write");
    return 0;
}

static uint64_t batch_block_read(void) {
    for (unsigned i = 0; i < RANDOM_OPS; i++) {
        if (pread(disk, buffer, BLOCK, random_place()) != BLOCK)
            bench_die("read");
    }
    return 0;
}

static uint64_t batch_block_write(void) {
    for (unsigned i = 0; i < RANDOM_OPS; i++) {
        if (pwrite(disk, buffer, BLOCK, random_place()) != BLOCK)
            bench_die("write");
    }
    return 0;
}

static void prepare_depth(void) {
    prepare_disk();
    if (syscall(SYS_io_setup, DEPTH, &aio) < 0)
        bench_die("io_setup");
}

/* Four times DEPTH blocks; a new one is asked for as soon as one has come. */
static uint64_t batch_depth(void) {
    struct iocb blocks[DEPTH], *one;
    struct io_event done[DEPTH];
    unsigned asked = 0, come = 0;
    for (; asked < DEPTH; asked++) {
        blocks[asked] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
                                      .aio_fildes = (uint32_t)disk,
                                      .aio_buf = (uintptr_t)buffer + (size_t)asked * BLOCK,
                                      .aio_nbytes = BLOCK,
                                      .aio_offset = random_place()};
        one = &blocks[asked];
        if (syscall(SYS_io_submit, aio, 1, &one) != 1)
            bench_die("io_submit");
    }
    while (come < 4 * DEPTH) {
        long n = syscall(SYS_io_getevents, aio, 1, DEPTH, done, NULL);
        if (n < 1)
            bench_die("io_getevents");
        for (long i = 0; i < n; i++) {
            if (done[i].res != BLOCK)
                bench_die("read");
            come++;
            one = (struct iocb *)(uintptr_t)done[i].obj;
            one->aio_offset = random_place();
            if (asked < 4 * DEPTH && syscall(SYS_io_submit, aio, 1, &one) != 1)
                bench_die("io_submit");
            asked++;
        }
    }
    return 0;
}

const struct work device_works[] = {
    {"tcp-out", prepare_tcp_out, batch_tcp_out, BULK / PIECE},
    {"tcp-in", prepare_tcp_in, batch_tcp_in, BULK / PIECE},
    {"tcp-byte", prepare_tcp_byte, batch_tcp_byte, TURNS},
    {"packets", prepare_packets, batch_packets, PACKETS},
    {"disk-read", prepare_disk, batch_disk_read, 1},
    {"disk-write", prepare_disk, batch_disk_write, 1},
    {"block-read", prepare_disk, batch_block_read, RANDOM_OPS},
    {"block-write", prepare_disk, batch_block_write, RANDOM_OPS},
    {"block-depth", prepare_depth, batch_depth, 4 * DEPTH},
    {0},
};

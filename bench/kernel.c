/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel paths: system calls, processes, page faults, switches, pipes, signals, files. Files lie in
 * a tmpfs natively and in guests, so that no disk is measured.
 */
#include "bench.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, FAULT_PAGES = 256 };

static uint64_t batch_syscall(void) {
    for (unsigned i = 0; i < 1000; i++)
        syscall(SYS_getppid);
    return 0;
}

static void wait_for(pid_t child) {
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        bench_die("child");
}

static uint64_t batch_fork(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    wait_for(child);
    return 0;
}

static uint64_t batch_exec(void) {
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
        _exit(1);
    }
    wait_for(child);
    return 0;
}

static uint64_t batch_fault(void) {
    size_t bytes = (size_t)FAULT_PAGES * PAGE_BYTES;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap");
    madvise(p, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += PAGE_BYTES)
        *(volatile char *)(p + i) = 1;
    munmap(p, bytes);
    return 0;
}

/* A process that serves until its parent is gone. */
static void start_peer(void (*serve)(void)) {
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve();
        _exit(0);
    }
}

/* Two processes hand a word in shared memory to each other, and sleep in between. */
static _Atomic uint32_t *turn;

static void await_turn(uint32_t mine) {
    while (atomic_load(turn) != mine)
        syscall(SYS_futex, turn, FUTEX_WAIT, 1 - mine, NULL, NULL, 0);
}

static void give_turn(uint32_t to) {
    atomic_store(turn, to);
    syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void serve_turns(void) {
    for (;;) {
        await_turn(1);
        give_turn(0);
    }
}

static void prepare_switch(void) {
    turn = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (turn == MAP_FAILED)
        bench_die("mmap");
    start_peer(serve_turns);
}

static uint64_t batch_switch(void) {
    for (unsigned i = 0; i < 100; i++) {
        give_turn(1);
        await_turn(0);
    }
    return 0;
}

static int ping[2], pong[2];

static void serve_bytes(void) {
    char c;
    close(ping[1]);
    while (read(ping[0], &c, 1) == 1 && write(pong[1], &c, 1) == 1)
        ;
}

static void prepare_pipe(void) {
    if (pipe(ping) < 0 || pipe(pong) < 0)
        bench_die("pipe");
    start_peer(serve_bytes);
}

static uint64_t batch_pipe(void) {
    char c = 'x';
    for (unsigned i = 0; i < 100; i++) {
        if (write(ping[1], &c, 1) != 1 || read(pong[0], &c, 1) != 1)
            bench_die("pipe");
    }
    return 0;
}

enum { STREAM_BYTES = 1 << 20, CHUNK = 64 << 10 };

static char chunk[CHUNK];

static void serve_sink(void) {
    close(ping[1]);
    while (read(ping[0], chunk, sizeof(chunk)) > 0)
        ;
}

static void prepare_stream(void) {
    if (pipe(ping) < 0)
        bench_die("pipe");
    start_peer(serve_sink);
    close(ping[0]);
}

static uint64_t batch_stream(void) {
    for (unsigned i = 0; i < STREAM_BYTES; i += CHUNK) {
        if (write(ping[1], chunk, CHUNK) != CHUNK)
            bench_die("pipe");
    }
    return 0;
}

static volatile sig_atomic_t signals;

static void count_signal(int sig) {
    (void)sig;
    signals = signals + 1;
}

static void prepare_signal(void) {
    struct sigaction act = {.sa_handler = count_signal};
    if (sigaction(SIGUSR1, &act, NULL) < 0)
        bench_die("sigaction");
}

static uint64_t batch_signal(void) {
    signals = 0;
    for (unsigned i = 0; i < 100; i++)
        raise(SIGUSR1);
    return (uint64_t)signals;
}

static int open_or_die(const char *name, int flags) {
    int fd = open(name, flags, 0600);
    if (fd < 0)
        bench_die(name);
    return fd;
}

enum { FILE_BYTES = 1 << 20, FILES = 100 };

static void enter_scratch(void) {
    if (chdir(bench_scratch) < 0)
        bench_die(bench_scratch);
}

static uint64_t batch_write(void) {
    int fd = open_or_die("written", O_CREAT | O_WRONLY | O_TRUNC);
    for (unsigned i = 0; i < FILE_BYTES; i += PAGE_BYTES) {
        if (write(fd, chunk, PAGE_BYTES) != PAGE_BYTES)
            bench_die("write");
    }
    close(fd);
    unlink("written");
    return 0;
}

static void prepare_file_copy(void) {
    enter_scratch();
    int fd = open_or_die("original", O_CREAT | O_WRONLY | O_TRUNC);
    for (unsigned i = 0; i < FILE_BYTES; i += CHUNK) {
        memset(chunk, (int)(i / CHUNK), sizeof(chunk));
        if (write(fd, chunk, CHUNK) != CHUNK)
            bench_die("write");
    }
    close(fd);
}

static uint64_t batch_file_copy(void) {
    uint64_t check = 0;
    int from = open_or_die("original", O_RDONLY);
    int to = open_or_die("copy", O_CREAT | O_WRONLY | O_TRUNC);
    for (ssize_t n; (n = read(from, chunk, sizeof(chunk))) > 0;) {
        check = bench_mix(check, (unsigned char)chunk[n - 1]);
        if (write(to, chunk, (size_t)n) != n)
            bench_die("write");
    }
    close(from);
    close(to);
    unlink("copy");
    return check;
}

static void file_name(char *name, size_t size, unsigned i) {
    snprintf(name, size, "folder/inner/file%u", i);
}

static void prepare_stat(void) {
    char name[32];
    enter_scratch();
    mkdir("folder", 0700);
    mkdir("folder/inner", 0700);
    for (unsigned i = 0; i < FILES; i++) {
        file_name(name, sizeof(name), i);
        close(open_or_die(name, O_CREAT | O_WRONLY));
    }
}

static uint64_t batch_stat(void) {
    char name[32];
    struct stat st;
    uint64_t found = 0;
    for (unsigned i = 0; i < 2 * FILES; i++) {
        file_name(name, sizeof(name), i);
        found += stat(name, &st) == 0;
    }
    return found;
}

const struct work kernel_works[] = {
    {"syscall", NULL, batch_syscall, 1000},
    {"fork", NULL, batch_fork, 1},
    {"exec", NULL, batch_exec, 1},
    {"fault", NULL, batch_fault, FAULT_PAGES},
    {"switch", prepare_switch, batch_switch, 200},
    {"pipe", prepare_pipe, batch_pipe, 100},
    {"stream", prepare_stream, batch_stream, STREAM_BYTES / CHUNK},
    {"signal", prepare_signal, batch_signal, 100},
    {"write", enter_scratch, batch_write, FILE_BYTES / PAGE_BYTES},
    {"copy", prepare_file_copy, batch_file_copy, 1},
    {"stat", prepare_stat, batch_stat, 2 * FILES},
    {0},
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work that `make bench` measures: one static program that runs natively and inside guests.
 * Each piece of work repeats the same batch until a time budget is spent, so that slow engines do
 * less of the same, and prints "BENCH name nanoseconds-per-operation".
 *
 * usage: bench BUDGET-MS [NAME...]
 */
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct work {
    const char *name;
    void (*prepare)(void);
    void (*batch)(void);
    unsigned ops; /* operations in a batch */
};

enum { SORT_ITEMS = 100000, MATRIX = 256, FAULT_PAGES = 256, PAGE_BYTES = 4096 };

/* Results go here, so that the compiler cannot drop the work. */
static volatile uint64_t sink;
static volatile double sink_fp;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t xorshift(uint64_t x) {
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static void batch_xorshift(void) {
    uint64_t x = 88172645463325252u;
    for (unsigned i = 0; i < 1000000; i++)
        x = xorshift(x);
    sink = x;
}

static int sort_source[SORT_ITEMS], sort_items[SORT_ITEMS];

static int compare_ints(const void *a, const void *b) {
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void prepare_qsort(void) {
    uint64_t x = 88172645463325252u;
    for (unsigned i = 0; i < SORT_ITEMS; i++) {
        x = xorshift(x);
        sort_source[i] = (int)(x >> 33);
    }
}

static void batch_qsort(void) {
    memcpy(sort_items, sort_source, sizeof(sort_items));
    qsort(sort_items, SORT_ITEMS, sizeof(sort_items[0]), compare_ints);
    sink = (uint64_t)sort_items[SORT_ITEMS / 2];
}

static double matrix_a[MATRIX][MATRIX], matrix_b[MATRIX][MATRIX], matrix_c[MATRIX][MATRIX];

static void prepare_matrix(void) {
    for (unsigned i = 0; i < MATRIX; i++) {
        for (unsigned j = 0; j < MATRIX; j++) {
            matrix_a[i][j] = (double)(i + j) / MATRIX;
            matrix_b[i][j] = (double)(i ^ j) / MATRIX;
        }
    }
}

static void batch_matrix(void) {
    memset(matrix_c, 0, sizeof(matrix_c));
    for (unsigned i = 0; i < MATRIX; i++) {
        for (unsigned k = 0; k < MATRIX; k++) {
            for (unsigned j = 0; j < MATRIX; j++)
                matrix_c[i][j] += matrix_a[i][k] * matrix_b[k][j];
        }
    }
    sink_fp = matrix_c[MATRIX - 1][MATRIX - 1];
}

static void batch_sin(void) {
    double sum = 0;
    for (unsigned i = 0; i < 100000; i++)
        sum += sin(i * 0.001) + sqrt(i);
    sink_fp = sum;
}

static void batch_syscall(void) {
    for (unsigned i = 0; i < 1000; i++)
        sink = (uint64_t)syscall(SYS_getppid);
}

static void wait_for(pid_t child) {
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        die("child");
}

static void batch_fork(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    wait_for(child);
}

static void batch_exec(void) {
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "bench", "--nothing", (char *)NULL);
        _exit(1);
    }
    wait_for(child);
}

static void batch_fault(void) {
    size_t bytes = (size_t)FAULT_PAGES * PAGE_BYTES;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    madvise(p, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += PAGE_BYTES)
        *(volatile char *)(p + i) = 1;
    munmap(p, bytes);
}

static int ping[2], pong[2];

static void echo_bytes(void) {
    char c;
    while (read(ping[0], &c, 1) == 1) {
        if (write(pong[1], &c, 1) != 1)
            break;
    }
    _exit(0);
}

static void prepare_pipe(void) {
    if (pipe(ping) < 0 || pipe(pong) < 0)
        die("pipe");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        close(ping[1]);
        echo_bytes();
    }
}

static void batch_pipe(void) {
    char c = 'x';
    for (unsigned i = 0; i < 100; i++) {
        if (write(ping[1], &c, 1) != 1 || read(pong[0], &c, 1) != 1)
            die("pipe");
    }
}

static const struct work works[] = {
    {"xorshift", NULL, batch_xorshift, 1000000},
    {"qsort", prepare_qsort, batch_qsort, SORT_ITEMS},
    {"matrix", prepare_matrix, batch_matrix, 1},
    {"sin", NULL, batch_sin, 100000},
    {"syscall", NULL, batch_syscall, 1000},
    {"fork", NULL, batch_fork, 1},
    {"exec", NULL, batch_exec, 1},
    {"fault", NULL, batch_fault, FAULT_PAGES},
    {"pipe", prepare_pipe, batch_pipe, 100},
};

/* One batch warms up: first touches, lazy binding, an engine's translation. */
static void measure(const struct work *w, uint64_t budget_ns) {
    if (w->prepare)
        w->prepare();
    w->batch();
    uint64_t batches = 0, start = now_ns(), spent;
    do {
        w->batch();
        batches++;
        spent = now_ns() - start;
    } while (spent < budget_ns);
    printf("BENCH %s %.3f\n", w->name, (double)spent / (double)batches / w->ops);
    fflush(stdout);
}

static int wanted(const char *name, int argc, char **argv) {
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return 1;
    }
    return argc <= 2;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--nothing") == 0)
        return 0;
    if (argc < 2) {
        fprintf(stderr, "usage: bench BUDGET-MS [NAME...]\n");
        return 2;
    }
    /* One processor for all: two processes that talk would otherwise measure the host's scheduler.
     */
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)sched_getcpu(), &set);
    sched_setaffinity(0, sizeof(set), &set);
    uint64_t budget_ns = strtoull(argv[1], NULL, 10) * 1000000u;
    for (unsigned i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
        if (wanted(works[i].name, argc, argv))
            measure(&works[i], budget_ns);
    }
    return 0;
}

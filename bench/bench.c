/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `make bench` measures with: one static program that serves natively and inside guests. Each
 * line on its standard input, "NAME BUDGET-MS", is a piece of work to do in a process of its own.
 * The same batch repeats until the budget is spent, so that slow engines do less of the same.
 * Answers:
 *
 *   BENCH NAME NANOSECONDS-PER-OPERATION NANOSECONDS-OF-FIRST-BATCH CHECK
 *   BENCH-DONE NAME NANOSECONDS-IN-ALL
 *
 * Other lines tell why there is no such answer. The end of input, or "end 0", ends the program.
 *
 * usage: bench PROGRAMS SCRATCH     folders: see bench.h
 *        bench serve                the host's end of the work on devices
 */
#include "bench.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

const char *bench_programs, *bench_scratch;

void bench_die(const char *what) {
    perror(what);
    _exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static const struct work *find_in(const struct work *list, const char *name) {
    for (const struct work *w = list; w->name; w++) {
        if (strcmp(w->name, name) == 0)
            return w;
    }
    return NULL;
}

static const struct work *find_work(const char *name) {
    const struct work *w = find_in(compute_works, name);
    if (!w)
        w = find_in(kernel_works, name);
    if (!w)
        w = find_in(device_works, name);
    return w ? w : find_in(program_works, name);
}

/* Two processes that talk would otherwise measure how the host's scheduler places them. */
static void stay_on_one_cpu(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)sched_getcpu(), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

/* What each batch took. The median leaves out batches that somebody else's work fell into. */
enum { SPANS = 1 << 16 };

static uint64_t spans[SPANS];

static int compare_spans(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double median_span(unsigned n) {
    qsort(spans, n, sizeof(spans[0]), compare_spans);
    unsigned lower = (n - 1) / 2, upper = n / 2;
    return (double)(spans[lower] + spans[upper]) / 2;
}

/* One batch warms up: first touches, lazy binding, an engine's translation. */
static void measure(const struct work *w, uint64_t budget_ns) {
    if (find_in(kernel_works, w->name))
        stay_on_one_cpu();
    if (w->prepare)
        w->prepare();
    uint64_t begin = now_ns(), check = w->batch();
    uint64_t last = now_ns(), first = last - begin;
    unsigned n = 0;
    begin = last;
    do {
        if (w->batch() != check) {
            printf("%s: a batch's result differs from the first one's\n", w->name);
            exit(1);
        }
        uint64_t now = now_ns();
        spans[n++] = now - last;
        last = now;
    } while (last - begin < budget_ns && n < SPANS);
    printf("BENCH %s %.3f %" PRIu64 " %" PRIx64 "\n", w->name, median_span(n) / w->ops, first,
           check);
}

/* In a process group of its own, so that the peers of a work that ends go with it. */
static void measure_apart(const struct work *w, uint64_t budget_ns) {
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        measure(w, budget_ns);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    kill(-child, SIGKILL);
    if (status != 0)
        printf("%s: ended with status %#x\n", w->name, (unsigned)status);
}

static void serve_line(const char *line) {
    char name[32];
    unsigned budget_ms;
    uint64_t start = now_ns();
    if (sscanf(line, "%31s %u", name, &budget_ms) != 2 || strcmp(name, "end") == 0)
        exit(0);
    const struct work *w = find_work(name);
    if (w)
        measure_apart(w, (uint64_t)budget_ms * 1000000u);
    else
        printf("%s: no such work\n", name);
    printf("BENCH-DONE %s %" PRIu64 "\n", name, now_ns() - start);
    fflush(stdout);
}

/* A guest's console: what comes is not echoed, what goes is not changed. */
static void quiet_terminal(void) {
    struct termios t;
    if (tcgetattr(STDIN_FILENO, &t) < 0)
        return;
    t.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    t.c_oflag &= ~(tcflag_t)OPOST;
    tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

int main(int argc, char **argv) {
    char line[64];
    if (argc > 1 && strcmp(argv[1], "nothing") == 0)
        return 0; /* what the work "exec" executes */
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        bench_serve_devices();
    if (argc != 3) {
        fprintf(stderr, "usage: bench PROGRAMS SCRATCH | bench serve\n");
        return 2;
    }
    bench_programs = argv[1];
    bench_scratch = argv[2];
    quiet_terminal();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    puts("BENCH-READY");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin))
        serve_line(line);
    return 0;
}

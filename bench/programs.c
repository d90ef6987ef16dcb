/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole programs as Debian ships them, run through their own dynamic linker and libraries from the
 * folder that bench/programs.py fills. A batch is one run, from fork to the end of its output.
 */
#include "bench.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINKED "lib/ld-linux-x86-64.so.2", "--library-path", "lib"

static char *const PYTHON[] = {LINKED, "bin/python3", "-S", "work/work.py", NULL};
static char *const SQLITE[] = {LINKED,     "bin/sqlite3",         "-batch",
                               ":memory:", ".read work/work.sql", NULL};
static char *const COMPILER[] = {
    LINKED, "bin/cc1", "-quiet", "-fpreprocessed", "-O1", "-w", "work/work.i", "-o", "-", NULL};
static char *const SCRIPT[] = {"bin/busybox", "sh", "work/work.sh", NULL};

static void start(const int out[2], char *const *command) {
    if (chdir(bench_programs) < 0 || dup2(out[1], STDOUT_FILENO) < 0)
        bench_die(bench_programs);
    close(out[0]);
    close(out[1]);
    char home[4096];
    snprintf(home, sizeof(home), "PYTHONHOME=%s", bench_programs);
    char *const environment[] = {"LC_ALL=C", "HOME=/nowhere", home, "PYTHONHASHSEED=0", NULL};
    execve(command[0], command, environment);
    bench_die(command[0]);
}

static uint64_t check_output(int fd) {
    static unsigned char bytes[65536];
    uint64_t check = 0;
    for (ssize_t n; (n = read(fd, bytes, sizeof(bytes))) > 0;) {
        for (ssize_t i = 0; i < n; i++)
            check = bench_mix(check, bytes[i]);
    }
    return check;
}

static uint64_t run(char *const *command) {
    int out[2], status;
    if (pipe(out) < 0)
        bench_die("pipe");
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0)
        start(out, command);
    close(out[1]);
    uint64_t check = check_output(out[0]);
    close(out[0]);
    if (waitpid(child, &status, 0) < 0 || status != 0)
        bench_die(command[0]);
    return check;
}

static uint64_t batch_python(void) {
    return run(PYTHON);
}

static uint64_t batch_sqlite(void) {
    return run(SQLITE);
}

static uint64_t batch_compiler(void) {
    return run(COMPILER);
}

static uint64_t batch_script(void) {
    return run(SCRIPT);
}

const struct work program_works[] = {
    {"sqlite", NULL, batch_sqlite, 1},
    {"python", NULL, batch_python, 1},
    {"compiler", NULL, batch_compiler, 1},
    {"script", NULL, batch_script, 1},
    {0},
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boots: a Linux guest starts on two machines in lockstep (twin.h).
 *
 *   boots [--vcpus N] [--seed S] [--seconds N] [--engine E] [--code-cache BYTES] [--type LINE]
 *         [--console] FOLDER
 *
 * FOLDER holds vmlinuz, initrd.img and cmdline, as the appliance's does. Ends when the guest powers
 * off (LINE is typed at its shell's prompt), or when the time is up. A difference is reduced to a
 * few instructions. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "cpu/engine.h"
#include "twin.h"

#define PROMPT "ringfence:~# "

static struct options {
    struct twin_params twin;
    unsigned seconds;
    bool console;
    const char *type, *folder;
} opt = {.twin = {.engine = &engine_bt, .memory = 128u << 20, .vcpus = 1, .seed = 1},
         .seconds = 20,
         .type = "poweroff -f\n"};

static void say(const char *line) {
    puts(line);
}

static char *read_line(const char *path) {
    static char line[512];
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof line, f))
        line[0] = 0;
    if (f)
        fclose(f);
    line[strcspn(line, "\n")] = 0;
    return line;
}

static uint64_t seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec;
}

/* What came since the last time, when somebody wants to see it. */
static void show(const struct twin *t) {
    static size_t shown;
    const struct console *c = &t->side[REFERENCE].console;
    if (opt.console)
        fwrite(c->text + shown, 1, c->len - shown, stdout);
    shown = c->len;
}

static enum twin_turn run(struct twin *t) {
    uint64_t end = seconds_now() + opt.seconds;
    enum twin_turn turn = TWIN_ON;
    bool typed = false;
    while (turn == TWIN_ON && seconds_now() < end) {
        turn = twin_turn(t);
        show(t);
        if (!typed && strstr(t->side[REFERENCE].console.text, PROMPT)) {
            twin_type(t, opt.type);
            typed = true;
        }
    }
    return turn;
}

static int work(void) {
    cleanup_err struct err e = ERR_INIT;
    struct twin *t = twin_new(&opt.twin, &e);
    if (!t) {
        fprintf(stderr, "boots: %s\n", err_msg(&e));
        return 2;
    }
    enum twin_turn turn = run(t);
    bool good = turn == TWIN_ON ||
                (turn == TWIN_ENDED && t->side[REFERENCE].m->requests == MACHINE_REQ_POWER_OFF);
    printf("%s - %u vCPUs in lockstep%s\n", good ? "ok" : "not ok", opt.twin.vcpus,
           turn == TWIN_ENDED ? ", to the end" : "");
    printf("# %llu instructions in %llu chunks; boots --seed %llu --vcpus %u\n",
           (unsigned long long)twin_icount(t), (unsigned long long)t->chunks,
           (unsigned long long)opt.twin.seed, opt.twin.vcpus);
    if (turn == TWIN_DIFFERS)
        twin_reduce(t);
    twin_free(t);
    return !good;
}

/* ---- start ---- */

static bool parse_option(const char *name, const char *value) {
    if (!value)
        return false;
    if (strcmp(name, "--seed") == 0)
        opt.twin.seed = strtoull(value, NULL, 0);
    else if (strcmp(name, "--vcpus") == 0)
        opt.twin.vcpus = (unsigned)strtoul(value, NULL, 0);
    else if (strcmp(name, "--seconds") == 0)
        opt.seconds = (unsigned)strtoul(value, NULL, 0);
    else if (strcmp(name, "--code-cache") == 0)
        opt.twin.code_cache = strtoull(value, NULL, 0);
    else if (strcmp(name, "--type") == 0)
        opt.type = value;
    else if (strcmp(name, "--engine") == 0)
        opt.twin.engine = strcmp(value, "interp") == 0 ? &engine_interp : &engine_bt;
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--console") == 0)
            opt.console = true;
        else if (argv[i][0] != '-')
            opt.folder = argv[i];
        else if (parse_option(argv[i], argv[i + 1]))
            i++;
        else
            return false;
    }
    return opt.folder && opt.twin.vcpus;
}

int main(int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;
    if (!parse(argc, argv)) {
        fputs(
            "usage: boots [--vcpus N] [--seed S] [--seconds N] [--engine E] [--code-cache BYTES]\n"
            "             [--type LINE] [--console] FOLDER\n",
            stderr);
        return 2;
    }
    if (opt.twin.engine->probe(&e) < 0) {
        printf("1..0 # skip %s\n", err_msg(&e));
        return 0;
    }
    if (getenv("RINGFENCE_APPLIANCE"))
        opt.folder = getenv("RINGFENCE_APPLIANCE");
    char *kernel = xasprintf("%s/vmlinuz", opt.folder), *line;
    char *initrd = xasprintf("%s/initrd.img", opt.folder);
    char *cmdline = xasprintf("%s/cmdline", opt.folder);
    line = read_line(cmdline);
    if (!*line) {
        printf("1..0 # skip no appliance in %s\n", opt.folder);
        return 0;
    }
    opt.twin.kernel = kernel;
    opt.twin.initrd = initrd;
    opt.twin.cmdline = line;
    opt.twin.say = say;
    int status = work();
    free(kernel);
    free(initrd);
    free(cmdline);
    return status;
}

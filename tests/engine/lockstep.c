/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lockstep: random programs under the reference engine and another, compared in all registers and
 * all memory.
 *
 *   lockstep [--seed S] [--seconds N | --programs N] [--engine E]
 *   lockstep --program SEED [--verbose]
 *
 * Each program runs several times with other data, so that what is translated, chained and looked
 * up in the first run is used in the others. A difference is reduced to the fewest items that show
 * it. Prints TAP.
 */
#include "lockstep.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/cpuid.h"
#include "mem/mem.h"

#define PASSES 6u
#define PASSES_COLD 3u /* the first of them start without TLB entries */

#define DEFAULT_SECONDS 30
#define EXAMPLES 3u

static struct options {
    uint64_t seed, programs, one;
    unsigned seconds;
    bool single, verbose;
    const struct engine_ops *engine;
} opt = {.engine = &engine_bt, .seconds = DEFAULT_SECONDS};

/* Shared with the process that runs the programs, which may die of them. */
static struct shared {
    _Atomic uint64_t current, done, runs, whole, instructions, exceptions;
} * shared;

static struct x86_cpuid cpuid;
static struct machine_side *reference, *other;
static uint8_t image[RAM];
static char text[4096];
static size_t text_len;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    if (text_len < sizeof text)
        text_len += (size_t)vsnprintf(text + text_len, sizeof text - text_len, format, ap);
    va_end(ap);
}

/* ---- comparing ---- */

static void compare_number(const char *name, unsigned n, uint64_t a, uint64_t b) {
    if (a != b)
        note("#   %s%u: %" PRIx64 " in the reference, %" PRIx64 "\n", name, n, a, b);
}

static void compare_states(const struct x86_state *a, const struct x86_state *b) {
    for (unsigned n = 0; n < 16; n++)
        compare_number("register ", n, a->gpr[n], b->gpr[n]);
    compare_number("rip ", 0, a->rip, b->rip);
    compare_number("rflags ", 0, a->rflags, b->rflags);
    compare_number("cr ", 2, a->cr2, b->cr2);
    compare_number("cr ", 3, a->cr3, b->cr3);
    compare_number("dr ", 6, a->dr[6], b->dr[6]);
    compare_number("pending debug conditions ", 0, a->dr6_pending, b->dr6_pending);
    compare_number("mxcsr ", 0, a->fpu.mxcsr, b->fpu.mxcsr);
    for (unsigned n = 0; n < 6; n++) {
        compare_number("selector ", n, a->seg[n].sel, b->seg[n].sel);
        compare_number("segment base ", n, a->seg[n].base, b->seg[n].base);
        compare_number("segment attributes ", n, a->seg[n].attr, b->seg[n].attr);
    }
    for (unsigned n = 0; n < 16; n++)
        for (unsigned k = 0; k < 8; k++) {
            uint64_t x, y;
            memcpy(&x, a->fpu.zmm[n] + k * 8, 8);
            memcpy(&y, b->fpu.zmm[n] + k * 8, 8);
            if (x != y)
                note("#   zmm%u[%u]: %" PRIx64 " in the reference, %" PRIx64 "\n", n, k, x, y);
        }
    compare_number("fcw ", 0, a->fpu.fcw, b->fpu.fcw);
    compare_number("fsw ", 0, a->fpu.fsw, b->fpu.fsw);
    compare_number("ftw ", 0, a->fpu.ftw, b->fpu.ftw);
    compare_number("fop ", 0, a->fpu.fop, b->fpu.fop);
    compare_number("fip ", 0, a->fpu.fip, b->fpu.fip);
    compare_number("fcs ", 0, a->fpu.fcs, b->fpu.fcs);
    compare_number("fdp ", 0, a->fpu.fdp, b->fpu.fdp);
    compare_number("fds ", 0, a->fpu.fds, b->fpu.fds);
    if (memcmp(a->fpu.st, b->fpu.st, sizeof a->fpu.st) != 0)
        note("#   x87 registers differ\n");
}

static void compare_memory(const uint8_t *a, const uint8_t *b) {
    unsigned shown = 0;
    if (memcmp(a, b, RAM) == 0)
        return;
    for (uint64_t at = 0; at < RAM && shown < 8; at += 8)
        if (memcmp(a + at, b + at, 8) != 0) {
            uint64_t x, y;
            memcpy(&x, a + at, 8);
            memcpy(&y, b + at, 8);
            note("#   memory %" PRIx64 ": %016" PRIx64 " in the reference, %016" PRIx64 "\n", at, x,
                 y);
            shown++;
        }
}

/* That the programs do something, and most of them to their end. */
static void count_run(const char *ended) {
    uint32_t logged;
    memcpy(&logged, side_ram(reference) + P_LOG + 8, 4);
    atomic_fetch_add(&shared->runs, 1);
    atomic_fetch_add(&shared->whole, !ended && logged < LOG_ENTRIES);
    atomic_fetch_add(&shared->exceptions, logged);
    atomic_store(&shared->instructions, side_icount(reference));
}

/* *hangs: neither ends, and each was stopped somewhere: nothing is to be compared. */
static bool differs(bool *hangs) {
    struct x86_state a, b;
    text_len = 0;
    const char *ended_a = side_run(reference, &a), *ended_b = side_run(other, &b);
    count_run(ended_a);
    *hangs = a.activity == X86_RUNNING && b.activity == X86_RUNNING;
    if (*hangs)
        return false;
    if (!ended_a != !ended_b)
        note("#   the reference: %s; the other: %s\n", ended_a ? ended_a : "ended",
             ended_b ? ended_b : "ended");
    compare_states(&a, &b);
    compare_memory(side_ram(reference), side_ram(other));
    return text_len > 0;
}

/* ---- programs ---- */

/* Pages of data that are not there, or not writable, at first: the handler mends them. */
static void hide_pages(const struct program *p) {
    struct rng r = {p->seed};
    for (uint64_t n = 0; n < HOLE_PAGE; n++) {
        unsigned how = n < DATA_PAGE || n >= DATA_PAGE + DATA_PAGES ? 2 : rng_below(&r, 6);
        uint64_t entry = (P_WINDOW + (n << 12)) | (how == 0 ? 0x26 : how == 1 ? 0x25 : 0x27);
        memcpy(image + P_PT + n * 8, &entry, 8);
    }
}

/* The number of the first pass that differs, from 1 on; 0 when none does. */
static unsigned run_program(struct program *p) {
    program_build(p, image + P_WINDOW);
    hide_pages(p);
    bool hangs = false;
    for (unsigned pass = 0; pass < PASSES && !hangs; pass++) {
        struct x86_state s;
        machine_state(&s, &cpuid, p->user, p->smap);
        program_data(p, pass, image + P_WINDOW, &s);
        if (pass >= PASSES_COLD) /* nothing is hidden or forgotten any more */
            memcpy(image + P_PT, side_ram(reference) + P_PT, PAGE_SIZE);
        enum side_memory memory = pass == 0            ? SIDE_NEW
                                  : pass < PASSES_COLD ? SIDE_FLUSHED
                                                       : SIDE_WARM;
        side_load(reference, image, &s, memory);
        side_load(other, image, &s, memory);
        if (differs(&hangs))
            return pass + 1;
    }
    return 0;
}

/* Whether it still differs without `count` items from `first` on; puts them back when not. */
static bool try_without(struct program *p, unsigned first, unsigned count, enum item_state state) {
    static struct program before;
    bool any = false;
    before = *p;
    for (unsigned n = first; n < first + count && n < p->count; n++)
        if (!p->item[n].fixed && p->item[n].state < state) {
            p->item[n].state = (uint8_t)state;
            any = true;
        }
    if (any && run_program(p))
        return true;
    *p = before;
    return false;
}

static void reduce(struct program *p) {
    for (unsigned size = p->count; size; size /= 2)
        for (unsigned first = 0; first < p->count; first += size)
            if (!try_without(p, first, size, ITEM_GONE))
                try_without(p, first, size, ITEM_NOPS);
    for (unsigned first = 0; first < p->count; first++)
        try_without(p, first, 1, ITEM_GONE);
}

static void print_item(const struct item *it) {
    ZydisDisassembledInstruction d;
    for (unsigned at = 0; at < it->len; at += d.info.length) {
        const uint8_t *code = image + P_WINDOW + it->at + at;
        if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, WINDOW + it->at + at,
                                                code, it->len - at, &d)))
            return;
        printf("#   %08x  ", (unsigned)WINDOW + it->at + at);
        for (unsigned n = 0; n < d.info.length; n++)
            printf("%02x", code[n]);
        printf("  %s\n", d.text);
    }
}

static void print_program(struct program *p) {
    program_build(p, image + P_WINDOW);
    for (unsigned f = 0; f < p->functions; f++) {
        printf("#  function %u:\n", f);
        for (unsigned n = p->function[f]; n < p->function[f + 1]; n++)
            if (p->item[n].state == ITEM_KEPT)
                print_item(&p->item[n]);
    }
}

static void print_start(const struct program *p, unsigned pass) {
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"};
    struct x86_state s;
    machine_state(&s, &cpuid, p->user, p->smap);
    program_data(p, pass, image + P_WINDOW, &s);
    for (unsigned n = 0; n < 16; n++)
        printf("%s%s%.*d=%" PRIx64,
               n % 4 ? " "
               : n   ? "\n#   "
                     : "#   ",
               n < 8 ? names[n] : "r", n < 8 ? 0 : 1, n < 8 ? 0 : (int)n, s.gpr[n]);
    printf("\n#   rflags=%" PRIx64 " fs=%" PRIx64 " gs=%" PRIx64 "\n", s.rflags, s.seg[SEG_FS].base,
           s.seg[SEG_GS].base);
}

static void report(struct program *p) {
    unsigned pass = run_program(p);
    printf("# lockstep --program %" PRIu64 " --engine %s\n", p->seed, opt.engine->name);
    if (!pass) {
        printf("#   differs only behind the programs before it: --seed %" PRIu64 "\n%s", opt.seed,
               text);
        return;
    }
    reduce(p);
    pass = run_program(p);
    printf("#  at CPL %u%s, in pass %u of %u, at the least:\n", p->user ? 3 : 0,
           p->smap ? " with SMAP" : "", pass, PASSES);
    fputs(text, stdout);
    print_start(p, pass - 1);
    print_program(p);
}

/* ---- one process that runs them, one that watches it ---- */

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool work_left(uint64_t done, uint64_t start) {
    if (opt.single)
        return done < 1;
    return opt.programs ? done < opt.programs : now_ms() - start < opt.seconds * 1000ull;
}

static void sides_make(void) {
    reference = side_new(&engine_interp, &cpuid);
    other = side_new(opt.engine, &cpuid);
    memset(image, 0, sizeof image);
    machine_image(image);
}

static int work(void) {
    static struct program p;
    unsigned examples = 0;
    uint64_t done = 0, start = now_ms();
    sides_make();
    struct rng r = {opt.seed};
    for (; work_left(done, start); done++) {
        uint64_t seed = opt.single ? opt.one : rng_next(&r);
        atomic_store(&shared->current, seed);
        program_generate(&p, seed, &cpuid);
        if (opt.verbose) {
            print_program(&p);
            fflush(stdout);
        }
        if (run_program(&p)) {
            printf("not ok - program %" PRIu64 "\n", seed);
            report(&p);
            fflush(stdout);
            if (++examples == EXAMPLES)
                break;
        }
        atomic_fetch_add(&shared->done, 1);
    }
    fflush(stdout);
    return examples ? 1 : 0;
}

static int watch_work(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(work());
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return 2;
    if (WIFSIGNALED(status))
        printf("not ok - program %" PRIu64 ": %s\n# lockstep --program %" PRIu64 " --verbose\n",
               shared->current, strsignal(WTERMSIG(status)), shared->current);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- start ---- */

static bool parse_option(const char *name, const char *value) {
    if (!value)
        return false;
    if (strcmp(name, "--seed") == 0) {
        opt.seed = strtoull(value, NULL, 0);
    } else if (strcmp(name, "--programs") == 0) {
        opt.programs = strtoull(value, NULL, 0);
    } else if (strcmp(name, "--seconds") == 0) {
        opt.seconds = (unsigned)strtoul(value, NULL, 0);
    } else if (strcmp(name, "--program") == 0) {
        opt.one = strtoull(value, NULL, 0);
        opt.single = true;
    } else if (strcmp(name, "--engine") == 0) {
        opt.engine = strcmp(value, "interp") == 0 ? &engine_interp : &engine_bt;
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;
    if (getrandom(&opt.seed, sizeof opt.seed, 0) != sizeof opt.seed)
        opt.seed = now_ms();
    opt.seed >>= 16;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            opt.verbose = true;
        } else if (!parse_option(argv[i], argv[i + 1])) {
            fputs("usage: lockstep [--seed S] [--seconds N | --programs N] [--engine E]\n"
                  "       lockstep --program SEED [--engine E] [--verbose]\n",
                  stderr);
            return 2;
        } else {
            i++;
        }
    }
    if (opt.engine->probe(&e) < 0) {
        printf("1..0 # skip %s\n", err_msg(&e));
        return 0;
    }
    if (x86_cpuid_build(&cpuid, "host", 1, 1000000000, &e) < 0) {
        fprintf(stderr, "lockstep: %s\n", err_msg(&e));
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = watch_work();
    if (status == 0)
        printf("ok - %" PRIu64 " programs\n", shared->done);
    printf("# %" PRIu64 " runs, %" PRIu64 " of them whole; %" PRIu64 " instructions, %" PRIu64
           " exceptions; lockstep --seed %" PRIu64 "\n",
           shared->runs, shared->whole, shared->instructions, shared->exceptions, opt.seed);
    return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa: the engine's instructions against the processor's.
 *
 *   isa [--seed S] [--cases N] [--form MNEMONIC] [--workers N] [--self] [--verbose]
 *   isa --seed S --case FORM.INSTANCE
 *   isa --list
 *
 * Cases go round the forms, so every form gets the same number. Prints TAP, one point for each
 * mnemonic.
 * --self runs every case natively twice: what differs then is not the engine's doing.
 */
#include "isa.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "cpu/engine.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"

#define WORKERS_MAX 16
#define EXAMPLES 3
#define EXAMPLE_BYTES 3072
#define HANG_SECONDS 20
#define DEFAULT_CASES 2000000

static struct options {
    uint64_t seed, cases;
    const char *mnemonic;
    const struct engine_ops *engine;
    unsigned workers, only_form, only_instance;
    bool only, self, verbose, list;
} opt = {.cases = DEFAULT_CASES, .workers = 2, .engine = &engine_interp};

/* Counts and examples by mnemonic, shared with the workers. */
struct tally {
    _Atomic uint32_t cases, failures;
    _Atomic uint32_t examples;
    char example[EXAMPLES][EXAMPLE_BYTES];
};

struct progress {
    _Atomic uint64_t form, instance, cases, skipped;
};

static struct shared {
    struct tally tally[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    struct progress progress[WORKERS_MAX];
} * shared;

static struct x86_cpuid cpuid;
static struct forms forms;
static bool have_32;

static bool is_selected(const struct form *f) {
    return !opt.mnemonic || !strcasecmp(opt.mnemonic, ZydisMnemonicGetString(f->mnemonic));
}

/* -- one case -- */

static struct isa_memory background, before, native_mem, other_mem;

static void report(const struct isa_case *c, const char *diff) {
    struct tally *t = &shared->tally[c->form->mnemonic];
    atomic_fetch_add(&t->failures, 1);
    uint32_t n = atomic_load(&t->examples);
    if (n >= EXAMPLES || !atomic_compare_exchange_strong(&t->examples, &n, n + 1))
        return;
    char *p = t->example[n];
    int k = snprintf(p, EXAMPLE_BYTES, "isa --seed %" PRIu64 " --case %u.%u\n", opt.seed,
                     c->form_index, c->instance);
    compare_describe(c, &before, p + k, EXAMPLE_BYTES - (size_t)k);
    size_t len = strlen(p);
    snprintf(p + len, EXAMPLE_BYTES - len, "%s", diff);
}

/*
 * What is not announced must be #UD, unless the host has it all the same. How much of it is fetched
 * before that is left to the processor.
 */
static bool is_hidden(const struct isa_case *c, const struct isa_result *native) {
    return !c->form->announced &&
           (native->vector != EXC_UD || c->in.rip + c->len > CODE_BASE + CODE_SIZE);
}

static void run_case(struct progress *p, unsigned form, unsigned instance) {
    static struct isa_case c;
    struct isa_result native, other;
    char diff[1536];
    before = background;
    atomic_store(&p->form, form);
    atomic_store(&p->instance, instance);
    if (!gen_case(&c, &forms.list[form], opt.seed, form, instance, &before, native_fs_base())) {
        atomic_fetch_add(&p->skipped, 1);
        return;
    }
    if (opt.only && opt.verbose) {
        char text[EXAMPLE_BYTES];
        compare_describe(&c, &before, text, sizeof text);
        printf("%s", text);
    }
    native_run(&c, &before, &native, &native_mem);
    if (opt.only && opt.verbose)
        printf("  native: vector %u error %x cr2 %" PRIx64 " rip %" PRIx64 "\n", native.vector,
               native.error, native.cr2, native.s.rip);
    if (!opt.self && is_hidden(&c, &native)) {
        atomic_fetch_add(&p->skipped, 1);
        return;
    }
    if (opt.self)
        native_run(&c, &before, &other, &other_mem);
    else
        guest_run(&c, &before, &other, &other_mem);
    atomic_fetch_add(&p->cases, 1);
    atomic_fetch_add(&shared->tally[c.form->mnemonic].cases, 1);
    if (compare_results(&c, &native, &native_mem, &other, &other_mem, diff, sizeof diff))
        report(&c, diff);
}

/* -- workers -- */

static int worker_init(void) {
    if (native_init())
        return -1;
    gen_background(&background, opt.seed);
    if (!native_has_low())
        memset(background.low, 0, sizeof background.low);
    return opt.self ? 0 : guest_init(opt.engine, &cpuid, native_fs_base(), native_has_low());
}

static int work(unsigned worker) {
    struct progress *p = &shared->progress[worker];
    if (worker_init())
        return 2;
    if (opt.only) {
        run_case(p, opt.only_form, opt.only_instance);
        return 0;
    }
    uint64_t n = 0;
    for (unsigned instance = 0;; instance++) {
        uint64_t round = n;
        for (unsigned f = 0; f < forms.count; f++) {
            if (!is_selected(&forms.list[f]))
                continue;
            if (n >= opt.cases)
                return 0;
            if (n++ % opt.workers == worker)
                run_case(p, f, instance);
        }
        if (n == round)
            return 0;
    }
}

static void blame(unsigned worker, const char *what) {
    struct progress *p = &shared->progress[worker];
    unsigned form = (unsigned)atomic_load(&p->form);
    const struct form *f = &forms.list[form];
    struct tally *t = &shared->tally[f->mnemonic];
    atomic_fetch_add(&t->failures, 1);
    printf("# worker %s in %s: isa --seed %" PRIu64 " --case %u.%u\n", what,
           ZydisMnemonicGetString(f->mnemonic), opt.seed, form,
           (unsigned)atomic_load(&p->instance));
}

struct job {
    pid_t pid;
    uint64_t last;
    time_t since;
};

static void check_progress(struct job *j, unsigned worker) {
    struct progress *p = &shared->progress[worker];
    uint64_t now = atomic_load(&p->cases) + atomic_load(&p->skipped);
    if (now != j->last) {
        j->last = now;
        j->since = time(NULL);
    } else if (time(NULL) - j->since > HANG_SECONDS) {
        kill(j->pid, SIGKILL);
    }
}

static bool check_end(struct job *j, unsigned worker) {
    int status;
    if (waitpid(j->pid, &status, WNOHANG) != j->pid)
        return false;
    if (WIFSIGNALED(status))
        blame(worker, WTERMSIG(status) == SIGKILL ? "hung" : strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        exit(2);
    return true;
}

static void run_workers(void) {
    struct job jobs[WORKERS_MAX];
    unsigned running = opt.workers;
    fflush(stdout);
    for (unsigned i = 0; i < opt.workers; i++) {
        jobs[i] = (struct job){.pid = fork(), .since = time(NULL)};
        if (jobs[i].pid == 0) {
            int status = work(i);
            fflush(stdout);
            _exit(status);
        }
    }
    while (running) {
        usleep(20000);
        for (unsigned i = 0; i < opt.workers; i++) {
            if (!jobs[i].pid)
                continue;
            check_progress(&jobs[i], i);
            if (check_end(&jobs[i], i)) {
                jobs[i].pid = 0;
                running--;
            }
        }
    }
}

/* -- results -- */

static void print_examples(const struct tally *t) {
    for (unsigned i = 0; i < t->examples; i++) {
        const char *p = t->example[i];
        while (*p) {
            int n = (int)strcspn(p, "\n");
            printf("# %.*s\n", n, p);
            p += n + (p[n] == '\n');
        }
    }
}

static int print_results(void) {
    unsigned points = 0, failed = 0;
    uint64_t cases = 0, failures = 0, skipped = 0;
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct tally *t = &shared->tally[m];
        if (!t->cases && !t->failures)
            continue;
        points++;
        failed += t->failures != 0;
        cases += t->cases;
        failures += t->failures;
        printf("%sok %u - %s: %u cases, %u differ\n", t->failures ? "not " : "", points,
               ZydisMnemonicGetString((ZydisMnemonic)m), t->cases, t->failures);
        print_examples(t);
    }
    for (unsigned i = 0; i < opt.workers; i++)
        skipped += shared->progress[i].skipped;
    printf("1..%u\n", points);
    printf("# %" PRIu64 " cases of %u forms, %" PRIu64 " differ in %u of %u mnemonics; %" PRIu64
           " drawn that have no case; seed %" PRIu64 "\n",
           cases, forms.count, failures, failed, points, skipped, opt.seed);
    return failed || !points ? 1 : 0;
}

/* -- start -- */

/* In a child, because the probe takes the signal handlers and addresses. */
static bool probe_32(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(native_init() ? 2 : native_can_32());
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static void list_forms(void) {
    for (unsigned i = 0; i < forms.count; i++) {
        const struct form *f = &forms.list[i];
        printf("%5u %s %s%s%s%s width %u map %u %02x/%02x%s\n", i, f->mode32 ? "32" : "64",
               ZydisMnemonicGetString(f->mnemonic), f->mem ? " mem" : "",
               f->enc == ENC_VEX ? (f->l ? " VEX.256" : " VEX.128") : "", f->w ? " W1" : "",
               f->operand_width, f->map, f->opcode, f->modrm, f->announced ? "" : " (#UD)");
    }
}

static int usage(void) {
    fputs(
        "usage: isa [--seed S] [--cases N] [--form MNEMONIC] [--workers N] [--engine E] [--self] [--verbose]\n"
        "       isa --seed S --case FORM.INSTANCE [--verbose]\n"
        "       isa --list\n",
        stderr);
    return 2;
}

static bool parse_option(const char *name, const char *value) {
    if (!value)
        return false;
    if (!strcmp(name, "--seed"))
        opt.seed = strtoull(value, NULL, 0);
    else if (!strcmp(name, "--cases"))
        opt.cases = strtoull(value, NULL, 0);
    else if (!strcmp(name, "--form"))
        opt.mnemonic = value;
    else if (!strcmp(name, "--engine"))
        opt.engine = !strcmp(value, "bt") ? &engine_bt : &engine_interp;
    else if (!strcmp(name, "--workers"))
        opt.workers = (unsigned)strtoul(value, NULL, 0);
    else if (!strcmp(name, "--case"))
        opt.only = sscanf(value, "%u.%u", &opt.only_form, &opt.only_instance) == 2;
    else
        return false;
    return opt.workers >= 1 && opt.workers <= WORKERS_MAX;
}

static bool parse_options(int argc, char **argv) {
    if (getrandom(&opt.seed, sizeof opt.seed, 0) != sizeof opt.seed)
        return false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--self"))
            opt.self = true;
        else if (!strcmp(argv[i], "--verbose"))
            opt.verbose = true;
        else if (!strcmp(argv[i], "--list"))
            opt.list = true;
        else if (!parse_option(argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return true;
}

int main(int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;
    if (!parse_options(argc, argv))
        return usage();
    if (x86_cpuid_build(&cpuid, "host", 1, 1000000000, &e)) {
        fprintf(stderr, "isa: %s\n", err_msg(&e));
        return 2;
    }
    have_32 = probe_32();
    forms_enumerate(&forms, &cpuid, have_32);
    if (opt.list) {
        list_forms();
        return 0;
    }
    if (opt.only && opt.only_form >= forms.count)
        return usage();
    if (opt.only)
        opt.workers = 1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("isa: mmap");
        return 2;
    }
    printf("# seed %" PRIu64 ", %u forms%s\n", opt.seed, forms.count,
           have_32 ? "" : "; 64-bit only: this kernel runs no compatibility-mode code here");
    run_workers();
    return print_results();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Crash reports and statistics. */
#include "domain/report.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/util.h"
#include "base/where.h"
#include "cpu/engine.h"
#include "machine/dump.h"
#include "machine/pc.h"
#include "ui/tail.h"

#define TAIL_LINES 24

/* Where the last lines of text start. */
static size_t last_lines(const char *text, size_t len) {
    unsigned lines = 0;
    size_t at = len;

    while (at > 0 && (text[at - 1] != '\n' || at == len || ++lines < TAIL_LINES))
        at--;
    return at;
}

/* A guest's escape sequences must not reach the terminal of who reads its obituary. */
static void put_visible(FILE *f, unsigned char ch) {
    if (ch == '\r')
        return;
    if (ch == '\t' || isprint(ch))
        fputc(ch, f);
    else
        fprintf(f, "\\x%02x", ch);
}

static void report_console(FILE *f, const struct tail *console) {
    char text[TAIL_MAX];
    size_t len = tail_copy(console, text, sizeof(text));
    bool at_start = true;

    if (!len)
        return;
    fprintf(f, "The last of its console:\n");
    for (size_t i = last_lines(text, len); i < len; i++) {
        if (at_start)
            fputs("  | ", f);
        at_start = text[i] == '\n';
        if (at_start)
            fputc('\n', f);
        else
            put_visible(f, (unsigned char)text[i]);
    }
    if (!at_start)
        fputc('\n', f);
}

void report_crash(FILE *f, const char *name, struct machine *m, const struct tail *console) {
    if (m->panicked)
        fprintf(f, "rf: %s: the guest crashed: it announced a panic\n", name);
    else
        fprintf(f, "rf: %s: the guest crashed: triple fault on vCPU %u\n", name, m->stopped_vcpu);
    dump_machine(f, m);
    report_console(f, console);
}

static const struct {
    enum vcpu_reason reason;
    const char *name;
} exits[] = {{VCPU_KICKED, "kicked"}, {VCPU_HALT, "halt"},   {VCPU_IO, "io"},
             {VCPU_MMIO, "mmio"},     {VCPU_DEBUG, "debug"}, {VCPU_SHUTDOWN, "shutdown"},
             {VCPU_FAILED, "failed"}};

/* ---- where the vCPUs' time goes ---- */

static const struct {
    enum where where;
    const char *name;
} places[] = {
    {WHERE_CODE, "translated code"},
    {WHERE_SWITCH, "into and out of it, TLB refills"},
    {WHERE_FIND, "finding code to go on with"},
    {WHERE_FUNCTION, "reference engine"},
    {WHERE_WALK, "page walks"},
    {WHERE_TRANSLATE, "translating, decoding"},
    {WHERE_DEVICE, "devices"},
    {WHERE_OTHER, "other"},
};

/* Seconds of all vCPUs. */
struct spent {
    double processor, halted, waited, all;
    double share[WHERES]; /* of processor */
};

/* Of a thread that still lives. */
static double processor_seconds(const struct vcpu_thread *t) {
    struct timespec ts;
    clockid_t clock;

    if (!t->started || pthread_getcpuclockid(t->thread, &clock) != 0 ||
        clock_gettime(clock, &ts) < 0)
        return 0;
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct spent add_spent(const struct machine *m, uint64_t ran) {
    struct spent s = {.all = (double)ran / 1e9 * m->params.vcpus};
    double samples = 0;

    for (unsigned i = 0; i < m->params.vcpus; i++) {
        const struct vcpu_thread *t = &m->set.threads[i];

        s.processor += processor_seconds(t);
        s.halted += (double)t->stats.halted_ns / 1e9;
        s.waited += (double)t->stats.where.waited_ns / 1e9;
        for (unsigned w = 0; w < WHERES; w++) {
            s.share[w] += (double)t->stats.where.samples[w];
            samples += (double)t->stats.where.samples[w];
        }
    }
    for (unsigned w = 0; w < WHERES && samples > 0; w++)
        s.share[w] /= samples;
    return s;
}

/* On the host's run queues, in system calls that sleep, or before the first instruction. */
static double left_over(const struct spent *s) {
    return fmax(s->all - s->processor - s->halted - s->waited, 0);
}

/* ---- numbers ---- */

static uint64_t exits_of(const struct machine *m, unsigned vcpu) {
    uint64_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(exits); i++)
        n += m->set.threads[vcpu].stats.exits[exits[i].reason];
    return n;
}

static uint64_t total_exits(const struct machine *m, enum vcpu_reason reason) {
    uint64_t n = 0;

    for (unsigned i = 0; i < m->params.vcpus; i++)
        n += m->set.threads[i].stats.exits[reason];
    return n;
}

/* Millions of instructions for each second that a vCPU was not halted. */
static double mips(const struct machine *m, const struct spent *s) {
    const double busy = s->all - s->halted;

    return busy > 0 ? (double)machine_icount(m) / 1e6 / busy : 0;
}

/* ---- JSON ---- */

/* Names as words in text, joined by underscores in JSON. */
static char *json_key(const char *name) {
    char *key = xstrdup(name), *to = key;

    for (const char *p = name; *p; p++) {
        if (isalnum((unsigned char)*p))
            *to++ = (char)tolower((unsigned char)*p);
        else if (*p == '%')
            to = stpcpy(to, "percent");
        else if (to != key && to[-1] != '_')
            *to++ = '_';
    }
    while (to != key && to[-1] == '_')
        to--;
    *to = 0;
    return key;
}

static json_t *json_number(double v) {
    return v == floor(v) ? json_integer((json_int_t)v) : json_real(v);
}

static void add_counter(void *arg, const char *group, const char *name, double value) {
    cleanup_free char *group_key = json_key(group), *key = json_key(name);
    json_t *o = json_object_get(arg, group_key);

    if (!o) {
        o = json_object();
        json_object_set_new(arg, group_key, o);
    }
    json_object_set_new(o, key, json_number(value));
}

static json_t *engine_json(const struct machine *m) {
    json_t *o = json_object();

    if (m->params.engine->stats)
        m->params.engine->stats(m->vm, add_counter, o);
    return o;
}

static json_t *time_json(const struct spent *s) {
    json_t *o = json_object();

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        cleanup_free char *key = json_key(places[i].name);

        json_object_set_new(o, key, json_real(s->share[places[i].where] * s->processor));
    }
    json_object_set_new(o, "halted", json_real(s->halted));
    json_object_set_new(o, "waiting_for_locks", json_real(s->waited));
    json_object_set_new(o, "not_running", json_real(left_over(s)));
    return o;
}

static json_t *vcpus_json(const struct machine *m) {
    json_t *list = json_array();

    for (unsigned i = 0; i < m->params.vcpus; i++) {
        const struct vcpu_thread *t = &m->set.threads[i];

        json_array_append_new(list, json_pack("{s:f, s:f, s:f, s:I}", "processor_seconds",
                                              processor_seconds(t), "halted_seconds",
                                              (double)t->stats.halted_ns / 1e9, "waited_seconds",
                                              (double)t->stats.where.waited_ns / 1e9, "exits",
                                              (json_int_t)exits_of(m, i)));
    }
    return list;
}

static void stats_json(FILE *f, const struct machine *m, uint64_t ran, const struct spent *s) {
    json_t *o = json_object(), *x = json_object();

    json_object_set_new(o, "engine", json_string(m->params.engine->name));
    json_object_set_new(o, "vcpus", json_integer(m->params.vcpus));
    json_object_set_new(o, "instructions", json_integer((json_int_t)machine_icount(m)));
    json_object_set_new(o, "instructions_exact", json_boolean(m->params.engine->icount_exact));
    json_object_set_new(o, "mips", json_real(mips(m, s)));
    json_object_set_new(o, "host_seconds", json_real((double)ran / 1e9));
    json_object_set_new(o, "guest_seconds", json_real((double)clock_now(m->clock) / 1e9));
    json_object_set_new(o, "halted_seconds", json_real(s->halted));
    json_object_set_new(o, "restarts", json_integer(m->restarts));
    for (size_t i = 0; i < ARRAY_LEN(exits); i++)
        json_object_set_new(x, exits[i].name,
                            json_integer((json_int_t)total_exits(m, exits[i].reason)));
    json_object_set_new(o, "exits", x);
    json_object_set_new(o, "each_vcpu", vcpus_json(m));
    json_object_set_new(o, "vcpu_time", time_json(s));
    json_object_set_new(o, "counters", engine_json(m));
    json_dumpf(o, f, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    fputc('\n', f);
    json_decref(o);
}

/* ---- text ---- */

/* A heading before the first of each group. */
struct table {
    FILE *f;
    char group[64];
};

static void print_counter(void *arg, const char *group, const char *name, double value) {
    struct table *t = arg;

    if (strcmp(t->group, group) != 0) {
        snprintf(t->group, sizeof(t->group), "%s", group);
        fprintf(t->f, "\n%s\n", group);
    }
    if (value == floor(value))
        fprintf(t->f, "  %-34s %14.0f\n", name, value);
    else
        fprintf(t->f, "  %-34s %16.1f\n", name, value);
}

static void print_spent_line(FILE *f, const char *name, double seconds, const struct spent *s) {
    fprintf(f, "  %-34s %14.3f %7.1f\n", name, seconds, s->all > 0 ? 100 * seconds / s->all : 0);
}

static void print_spent(FILE *f, const struct spent *s) {
    fprintf(f, "\n%-36s %14s %7s\n", "where the vCPUs' time went", "s", "%");
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        print_spent_line(f, places[i].name, s->share[places[i].where] * s->processor, s);
    print_spent_line(f, "halted", s->halted, s);
    print_spent_line(f, "waiting for locks", s->waited, s);
    print_spent_line(f, "waiting for the host", left_over(s), s);
}

static void print_vcpus(FILE *f, const struct machine *m) {
    fprintf(f, "\n%-6s %14s %14s %14s %10s", "vCPU", "processor, s", "halted, s", "locks, s",
            "exits");
    for (size_t r = 0; r < ARRAY_LEN(exits); r++)
        fprintf(f, " %8s", exits[r].name);
    fputc('\n', f);
    for (unsigned i = 0; i < m->params.vcpus; i++) {
        const struct vcpu_thread *t = &m->set.threads[i];

        fprintf(f, "%6u %14.3f %14.3f %14.3f %10" PRIu64, i, processor_seconds(t),
                (double)t->stats.halted_ns / 1e9, (double)t->stats.where.waited_ns / 1e9,
                exits_of(m, i));
        for (size_t r = 0; r < ARRAY_LEN(exits); r++)
            fprintf(f, " %8" PRIu64, t->stats.exits[exits[r].reason]);
        fputc('\n', f);
    }
}

static void print_instructions(FILE *f, const struct machine *m, const struct spent *s) {
    if (m->params.engine->icount_exact)
        fprintf(f, "instructions  %" PRIu64 " (%.1f MIPS while not halted)\n", machine_icount(m),
                mips(m, s));
    else
        fprintf(f, "instructions  %" PRIu64 " by the reference engine; others are not counted\n",
                machine_icount(m));
}

void report_stats(FILE *f, const struct machine *m, uint64_t ran, bool json) {
    const struct spent s = add_spent(m, ran);
    struct table t = {.f = f};

    if (json) {
        stats_json(f, m, ran, &s);
        return;
    }
    fprintf(f, "engine        %s, %u vCPU%s\n", m->params.engine->name, m->params.vcpus,
            m->params.vcpus == 1 ? "" : "s");
    fprintf(f, "time          %.3f s host, %.3f s guest, %.3f s of vCPU time halted\n",
            (double)ran / 1e9, (double)clock_now(m->clock) / 1e9, s.halted);
    print_instructions(f, m, &s);
    fprintf(f, "restarts      %u\n", m->restarts);
    print_spent(f, &s);
    print_vcpus(f, m);
    if (m->params.engine->stats)
        m->params.engine->stats(m->vm, print_counter, &t);
}

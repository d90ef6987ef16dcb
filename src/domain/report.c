/* SPDX-License-Identifier: Apache-2.0 */
/* Crash reports and statistics. */
#include "domain/report.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/util.h"
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

static uint64_t total_exits(const struct machine *m, enum vcpu_reason reason) {
    uint64_t n = 0;

    for (unsigned i = 0; i < m->params.vcpus; i++)
        n += m->set.threads[i].stats.exits[reason];
    return n;
}

static uint64_t total_halted(const struct machine *m) {
    uint64_t ns = 0;

    for (unsigned i = 0; i < m->params.vcpus; i++)
        ns += m->set.threads[i].stats.halted_ns;
    return ns;
}

/* Millions of instructions for each second that a vCPU was not halted. */
static double mips(uint64_t instructions, uint64_t busy_ns) {
    return busy_ns ? (double)instructions * 1000 / (double)busy_ns : 0;
}

/* Names as words in text, joined by underscores in JSON. */
static void add_counter(void *arg, const char *name, uint64_t value) {
    cleanup_free char *key = xstrdup(name);

    for (char *p = key; *p; p++)
        *p = *p == ' ' ? '_' : *p;
    json_object_set_new(arg, key, json_integer((json_int_t)value));
}

static json_t *engine_json(const struct machine *m) {
    json_t *o = json_object();

    if (m->params.engine->stats)
        m->params.engine->stats(m->vm, add_counter, o);
    return o;
}

static void print_counter(void *arg, const char *name, uint64_t value) {
    fprintf(arg, "  %-26s %" PRIu64 "\n", name, value);
}

static void stats_json(FILE *f, const struct machine *m, uint64_t ran, uint64_t busy) {
    json_t *o = json_object(), *x = json_object();

    json_object_set_new(o, "engine", json_string(m->params.engine->name));
    json_object_set_new(o, "vcpus", json_integer(m->params.vcpus));
    json_object_set_new(o, "instructions", json_integer((json_int_t)machine_icount(m)));
    json_object_set_new(o, "mips", json_real(mips(machine_icount(m), busy)));
    json_object_set_new(o, "host_seconds", json_real((double)ran / 1e9));
    json_object_set_new(o, "guest_seconds", json_real((double)clock_now(m->clock) / 1e9));
    json_object_set_new(o, "halted_seconds", json_real((double)total_halted(m) / 1e9));
    json_object_set_new(o, "restarts", json_integer(m->restarts));
    for (size_t i = 0; i < ARRAY_LEN(exits); i++)
        json_object_set_new(x, exits[i].name,
                            json_integer((json_int_t)total_exits(m, exits[i].reason)));
    json_object_set_new(o, "exits", x);
    json_object_set_new(o, "counters", engine_json(m));
    json_dumpf(o, f, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    fputc('\n', f);
    json_decref(o);
}

void report_stats(FILE *f, const struct machine *m, uint64_t ran, bool json) {
    const uint64_t all = ran * m->params.vcpus, halted = total_halted(m);
    const uint64_t busy = all > halted ? all - halted : 0;

    if (json) {
        stats_json(f, m, ran, busy);
        return;
    }
    fprintf(f, "engine        %s, %u vCPU%s\n", m->params.engine->name, m->params.vcpus,
            m->params.vcpus == 1 ? "" : "s");
    fprintf(f, "time          %.3f s host, %.3f s guest, %.3f s of vCPU time halted\n",
            (double)ran / 1e9, (double)clock_now(m->clock) / 1e9, (double)halted / 1e9);
    fprintf(f, "instructions  %" PRIu64 " (%.1f MIPS while not halted)\n", machine_icount(m),
            mips(machine_icount(m), busy));
    fprintf(f, "exits        ");
    for (size_t i = 0; i < ARRAY_LEN(exits); i++)
        fprintf(f, " %s %" PRIu64, exits[i].name, total_exits(m, exits[i].reason));
    fprintf(f, "\nrestarts      %u\n", m->restarts);
    if (m->params.engine->stats)
        m->params.engine->stats(m->vm, print_counter, f);
}

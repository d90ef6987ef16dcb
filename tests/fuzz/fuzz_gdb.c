/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes from a debugger, against a target of two vCPUs and a page of memory. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cpu/x86/state.h"
#include "machine/gdb_stub.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
    struct gdb_stub *stub;
    struct x86_state cpu[2];
    uint8_t page[4096];
    bool running, interrupted;
    unsigned stops;
};

static void get_state(void *arg, unsigned cpu, struct x86_state *s) {
    struct target *t = arg;

    *s = t->cpu[cpu];
}

static void set_state(void *arg, unsigned cpu, const struct x86_state *s) {
    struct target *t = arg;

    t->cpu[cpu] = *s;
}

static size_t read_mem(void *arg, unsigned cpu, uint64_t va, void *buf, size_t len) {
    struct target *t = arg;

    (void)cpu;
    if (va >= sizeof(t->page))
        return 0;
    len = MIN(len, sizeof(t->page) - va);
    memcpy(buf, t->page + va, len);
    return len;
}

static size_t write_mem(void *arg, unsigned cpu, uint64_t va, const void *buf, size_t len) {
    struct target *t = arg;

    (void)cpu;
    if (va >= sizeof(t->page))
        return 0;
    len = MIN(len, sizeof(t->page) - va);
    memcpy(t->page + va, buf, len);
    return len;
}

static void resume(void *arg, const enum gdb_action *actions, const struct engine_debug *points) {
    struct target *t = arg;

    (void)actions;
    (void)points;
    t->running = true;
}

static void interrupt(void *arg) {
    struct target *t = arg;

    t->interrupted = true;
}

static void detach(void *arg) {
    (void)arg;
}

/* As if the other vCPU had stopped, too, each second time. */
static bool take_stop(void *arg, unsigned cpu, struct vcpu_exit *x) {
    struct target *t = arg;

    *x = (struct vcpu_exit){.reason = VCPU_DEBUG,
                            .debug = {DEBUG_BREAK, t->cpu[cpu].seg[SEG_CS].base + t->cpu[cpu].rip}};
    return cpu == 1 && t->stops++ & 1;
}

static char *monitor(void *arg, unsigned cpu, const char *command) {
    (void)arg;
    (void)cpu;
    return xstrdup(command);
}

static void discard(void *arg, const void *data, size_t len) {
    (void)arg;
    (void)data;
    (void)len;
}

/* A target that runs stops on its own after the next byte. */
static void stop_again(struct target *t) {
    static const struct vcpu_exit hit = {.reason = VCPU_DEBUG,
                                         .debug = {.cause = DEBUG_WATCH, .addr = 0x2000}};

    t->running = false;
    gdb_stub_stopped(t->stub, 1, t->interrupted ? NULL : &hit);
    t->interrupted = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct target *t = xcalloc(1, sizeof(*t));
    const struct gdb_target ops = {t,      2,         get_state, set_state, read_mem, write_mem,
                                   resume, take_stop, interrupt, detach,    detach,   monitor};

    t->stub = gdb_stub_new(&ops, discard, NULL);
    for (size_t i = 0; i < size; i++) {
        gdb_stub_feed(t->stub, data + i, 1);
        if (t->running)
            stop_again(t);
    }
    gdb_stub_free(t->stub);
    free(t);
    return 0;
}

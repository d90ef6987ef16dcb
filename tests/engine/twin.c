/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two machines share is time; what they do not, memory and chips, must stay the same.
 * Where the other engine stopped is not known in instructions: the reference runs to the same
 * address, as often as it takes until its registers and what it wrote are the same.
 */
#include "twin.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/interp.h"
#include "mem/mem.h"

#define SLICE_US 120u              /* the longest run of the other engine */
#define TICK_NS 60000u             /* how far time goes on in a turn */
#define FOLLOW_LIMIT (16ull << 20) /* instructions of the reference in one chunk */
#define FULL_COMPARE 2048u         /* chunks between two looks at all memory */
#define SETTLE_LIMIT 4096u
#define LONG_NS (NS_PER_S / 10)

static struct x86_cpu *cpu_of(struct vcpu *v) {
    return (struct x86_cpu *)(void *)v;
}

struct vcpu *twin_vcpu(const struct twin *t, unsigned side) {
    return t->side[side].m->vcpus[t->chunk.vcpu];
}

/* ---- console ---- */

static int console_write(void *chr, const uint8_t *buf, size_t len) {
    struct console *c = chr;
    size_t room = MIN(len, sizeof c->text - 1 - c->len);
    memcpy(c->text + c->len, buf, room);
    c->len += room;
    return (int)len;
}

static const struct chardev_ops console_ops = {.write = console_write};

void twin_type(struct twin *t, const char *text) {
    for (unsigned n = 0; n < SIDES; n++) {
        struct chardev *c = &t->side[n].console.chr;
        c->front->receive(c->front_arg, (const uint8_t *)text, strlen(text));
    }
}

/* ---- kicking out what runs ---- */

/* An event that an instruction raises on its own processor is seen behind that instruction. */
static void reference_kick(struct vcpu *v) {
    cpu_end_block(cpu_of(v));
}

static struct vcpu *_Atomic on_watch;
static timer_t watch_timer;

/* The reference looks at its events without a kick. */
static void on_alarm(int sig) {
    (void)sig;
    struct vcpu *v = atomic_load(&on_watch);
    if (!v)
        return;
    atomic_fetch_or(&v->events, VCPU_EVENT_STOP);
    if (v->ops->kick != reference_kick)
        v->ops->kick(v);
}

static void watch(struct vcpu *v, uint64_t ns) {
    struct itimerspec at = {.it_value = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)}};
    atomic_store(&on_watch, v);
    timer_settime(watch_timer, 0, &at, NULL);
}

static void run_watched(struct vcpu *v, struct vcpu_exit *x, uint64_t ns) {
    watch(v, ns);
    v->ops->run(v, x);
    watch(NULL, 0);
    atomic_fetch_and(&v->events, ~(uint32_t)VCPU_EVENT_STOP);
}

static void watch_prepare(void) {
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct sigevent se = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    sigaction(SIGALRM, &sa, NULL);
    timer_create(CLOCK_MONOTONIC, &se, &watch_timer);
}

/* ---- making both ---- */

static void on_end(void *arg) {
    (void)arg;
}

static bool side_make(struct twin_side *s, const struct twin_params *p,
                      const struct engine_ops *engine, struct err *e) {
    struct machine_params mp = {
        .engine = engine,
        .cpu = "host,-rdrand,-rdseed",
        .memory = p->memory,
        .vcpus = p->vcpus,
        .code_cache = p->code_cache,
        .kernel = p->kernel,
        .initrd = p->initrd,
        .cmdline = p->cmdline,
        .serial = &s->console.chr,
        .ended = on_end,
    };
    s->console.chr.ops = &console_ops;
    s->loop = loop_new(e);
    s->m = s->loop ? machine_new(s->loop, &mp, e) : NULL;
    if (!s->m)
        return false;
    s->ops = *engine;
    if (engine == &engine_interp)
        s->ops.kick = reference_kick;
    for (unsigned n = 0; n < p->vcpus; n++) {
        s->m->vcpus[n]->ops = &s->ops;
        s->m->vcpus[n]->wake = NULL;
        atomic_fetch_and(&s->m->vcpus[n]->events, ~(uint32_t)VCPU_EVENT_STOP);
    }
    return true;
}

static bool make(struct twin *t, const struct twin_params *p, struct err *e) {
    if (!side_make(&t->side[REFERENCE], p, &engine_interp, e) ||
        !side_make(&t->side[OTHER], p, p->engine, e))
        return false;
    struct mem *mem = t->side[REFERENCE].m->mem;
    t->ram_bytes = t->side[REFERENCE].m->layout.ram_bytes;
    t->dirty_words = (t->ram_bytes / PAGE_SIZE + 63) / 64;
    t->dirty = xcalloc(t->dirty_words, 8);
    t->ram = malloc(t->ram_bytes);
    if (!t->ram)
        return err_set(e, 0, "memory"), false;
    memcpy(t->ram, mem->ram, t->ram_bytes);
    return mem_log_start(mem, e) == 0;
}

struct twin *twin_new(const struct twin_params *p, struct err *e) {
    struct twin *t = xcalloc(1, sizeof *t);
    t->rng.s = p->seed;
    t->say = p->say;
    t->halted = xcalloc(p->vcpus, sizeof *t->halted);
    watch_prepare();
    if (make(t, p, e))
        return t;
    twin_free(t);
    return NULL;
}

void twin_free(struct twin *t) {
    for (unsigned n = 0; n < SIDES; n++) {
        machine_free(t->side[n].m);
        if (t->side[n].loop)
            loop_free(t->side[n].loop);
    }
    timer_delete(watch_timer);
    free(t->ram);
    free(t->dirty);
    free(t->halted);
    free(t);
}

/* ---- one chunk ---- */

/* Chunks that are run again have no interrupt controller (twin_reduce.c). */
static bool is_pending(const struct vcpu *v) {
    return v->irqchip && v->irqchip->pending(v->apic);
}

static bool interrupt_is_due(struct vcpu *v) {
    const struct x86_state *s = &cpu_of(v)->s;
    return (s->rflags & FLAG_IF && is_pending(v)) || s->nmi_pending || cpu_of(v)->dr6_pending;
}

/*
 * It may have stopped where the reference never does: between two elements of a repeated string
 * instruction, or before an interrupt that the reference takes before it looks for the other. One
 * step further on, and more as long as they lead nowhere else.
 */
static void settle(struct vcpu *v, struct vcpu_exit *x) {
    const struct engine_debug step = {.active = true, .step = true};
    uint64_t at = cpu_of(v)->s.rip;
    v->ops->set_debug(v, &step);
    for (unsigned n = 0; n < SETTLE_LIMIT && (cpu_of(v)->s.rip == at || interrupt_is_due(v)); n++) {
        run_watched(v, x, LONG_NS);
        if (x->reason != VCPU_DEBUG)
            break;
    }
    if (x->reason == VCPU_DEBUG)
        x->reason = VCPU_KICKED;
    v->ops->set_debug(v, NULL);
}

void twin_run_other(struct twin *t, uint64_t ns) {
    struct vcpu *v = twin_vcpu(t, OTHER);
    struct vcpu_exit x;
    run_watched(v, &x, ns);
    if (x.reason == VCPU_KICKED)
        settle(v, &x);
    t->chunk.reason = x.reason;
    v->ops->get_state(v, &t->chunk.end);
}

static bool same_registers(const struct x86_cpu *c, const struct x86_state *s) {
    return c->s.rip == s->rip && memcmp(c->s.gpr, s->gpr, sizeof s->gpr) == 0 &&
           cpu_flags(c) == s->rflags && c->s.activity == s->activity;
}

static void note_written(struct twin *t) {
    static uint64_t words[1u << 16];
    mem_log_fetch(t->side[REFERENCE].m->mem, words, t->dirty_words);
    for (uint64_t n = 0; n < t->dirty_words; n++)
        t->dirty[n] |= words[n];
}

/*
 * Registers come to be the same more than once in loops. Which of these times it was is to be seen
 * in memory: in what the reference wrote, and, where the other is ahead of it, in what it wrote
 * lately.
 */
static bool is_there(struct twin *t) {
    if (!same_registers(cpu_of(twin_vcpu(t, REFERENCE)), &t->chunk.end))
        return false;
    note_written(t);
    if (twin_compare_memory(t, false, true) == 0)
        return true;
    t->chunk.unlike++;
    return false;
}

bool twin_follow(struct twin *t, uint64_t instructions) {
    struct vcpu *v = twin_vcpu(t, REFERENCE);
    struct engine_debug until = {.active = true, .count = 1};
    const struct x86_state *end = &t->chunk.end;
    struct vcpu_exit x = {.reason = VCPU_DEBUG};
    uint64_t from = v->ops->icount(v);
    until.points[0].addr = end->rip + (end->seg[SEG_CS].attr & SEG_L ? 0 : end->seg[SEG_CS].base);
    until.points[0].len = 1;
    v->ops->set_debug(v, &until);
    bool there = is_there(t);
    while (!there && (x.reason == VCPU_DEBUG || x.reason == VCPU_KICKED) &&
           v->ops->icount(v) - from < instructions) {
        run_watched(v, &x, LONG_NS);
        there = is_there(t);
    }
    v->ops->set_debug(v, NULL);
    return there;
}

/* The ring holds a page once. */
static void note_hot(struct twin *t, uint32_t page) {
    for (unsigned n = 0; n < HOT_PAGES; n++)
        if (t->hot[n] == page)
            return;
    t->hot[t->hot_at++ % HOT_PAGES] = page;
}

/* What is equal now is what the next chunk begins with. */
static void keep(struct twin *t) {
    const uint8_t *ram = t->side[REFERENCE].m->mem->ram;
    for (uint64_t n = 0; n < t->dirty_words; n++) {
        for (uint64_t bits = t->dirty[n]; bits; bits &= bits - 1) {
            uint64_t at = (n * 64 + (uint64_t)__builtin_ctzll(bits)) * PAGE_SIZE;
            memcpy(t->ram + at, ram + at, PAGE_SIZE);
            note_hot(t, (uint32_t)(at / PAGE_SIZE));
        }
        t->dirty[n] = 0;
    }
}

static bool all_equal(struct twin *t) {
    struct vcpu *a = twin_vcpu(t, REFERENCE), *b = twin_vcpu(t, OTHER);
    struct x86_state s;
    a->ops->get_state(a, &s);
    unsigned found = twin_compare_states(t, &s, &t->chunk.end);
    if (++t->chunks % FULL_COMPARE == 0 || found)
        found += twin_compare_memory(t, true, false);
    bool x = is_pending(a), y = is_pending(b);
    if (x != y) {
        twin_say(t, "#   an interrupt: %s pending in the reference, %s", x ? "is" : "none is",
                 y ? "is" : "none is");
        found++;
    }
    return found == 0;
}

static void say_lost(const struct twin *t) {
    const struct vcpu *a = twin_vcpu(t, REFERENCE);
    twin_say(t, "#  vCPU %u ran from %llx to %llx, where the reference does not come in %llu",
             t->chunk.vcpu, (unsigned long long)t->chunk.start.rip,
             (unsigned long long)t->chunk.end.rip,
             (unsigned long long)(a->ops->icount(a) - t->chunk.icount));
    twin_say(t, "#  instructions; %u times its registers were the other's, and memory was not",
             t->chunk.unlike);
}

/* An interrupt that is due comes before the chunk: it would not come again, were that run again. */
static void deliver_first(struct twin *t) {
    const struct engine_debug step = {.active = true, .step = true};
    struct vcpu_exit x;
    for (unsigned n = 0; n < SIDES; n++) {
        struct vcpu *v = twin_vcpu(t, n);
        if (!interrupt_is_due(v))
            continue;
        v->ops->set_debug(v, &step);
        run_watched(v, &x, LONG_NS);
        v->ops->set_debug(v, NULL);
    }
}

bool twin_chunk(struct twin *t, uint64_t ns) {
    struct vcpu *a = twin_vcpu(t, REFERENCE);
    deliver_first(t);
    a->ops->get_state(a, &t->chunk.start);
    t->chunk.icount = a->ops->icount(a);
    t->chunk.unlike = 0;
    note_written(t); /* by timers and typing */
    keep(t);
    twin_run_other(t, ns);
    if (!twin_follow(t, FOLLOW_LIMIT)) {
        say_lost(t);
        return false;
    }
    return all_equal(t);
}

/* ---- turns ---- */

static void init_ipi(struct machine *m, unsigned n) {
    struct vcpu *v = m->vcpus[n];
    struct x86_state s;
    v->ops->get_state(v, &s);
    x86_state_init_ipi(&s, n == 0);
    v->ops->set_state(v, &s);
    m->set.ops->init_ipi(m->set.arg, n);
    m->set.threads[n].wait_sipi = n != 0;
}

static void startup_ipi(struct machine *m, unsigned n) {
    struct vcpu *v = m->vcpus[n];
    struct x86_state s;
    if (!m->set.threads[n].wait_sipi)
        return;
    v->ops->get_state(v, &s);
    x86_state_sipi(&s, atomic_load(&v->sipi_vector));
    v->ops->set_state(v, &s);
    m->set.threads[n].wait_sipi = false;
}

/* As machine/vcpu.c does between two calls of run(). */
static void handle_events(struct machine *m, unsigned n) {
    const uint32_t ours = VCPU_EVENT_INIT | VCPU_EVENT_SIPI | VCPU_EVENT_SMI;
    uint32_t events = atomic_fetch_and(&m->vcpus[n]->events, ~ours);
    if (events & VCPU_EVENT_INIT)
        init_ipi(m, n);
    if (events & VCPU_EVENT_SIPI)
        startup_ipi(m, n);
}

static bool can_run(struct twin *t, unsigned n) {
    struct machine *m = t->side[REFERENCE].m;
    struct vcpu *v = m->vcpus[n];
    if (m->set.threads[n].wait_sipi)
        return false;
    uint32_t wake = VCPU_EVENT_NMI | VCPU_EVENT_NMI_2 | VCPU_EVENT_INIT;
    if (cpu_of(v)->s.rflags & FLAG_IF)
        wake |= VCPU_EVENT_INTR;
    return !t->halted[n] || atomic_load(&v->events) & wake;
}

static bool ended(const struct twin *t) {
    return t->side[REFERENCE].m->requests && t->side[OTHER].m->requests;
}

static void pass_time(struct twin *t, bool idle) {
    struct clock *clock = t->side[REFERENCE].m->clock;
    uint64_t next = twin_clock_next(clock), now = clock_now(clock);
    uint64_t ns = idle && next != UINT64_MAX && next > now + TICK_NS ? next - now : TICK_NS;
    for (unsigned n = 0; n < SIDES; n++)
        twin_clock_advance(t->side[n].m->clock, ns);
}

enum twin_turn twin_turn(struct twin *t) {
    bool idle = true;
    for (unsigned n = 0; n < t->side[REFERENCE].m->params.vcpus; n++) {
        for (unsigned k = 0; k < SIDES; k++)
            handle_events(t->side[k].m, n);
        if (!can_run(t, n))
            continue;
        idle = false;
        t->chunk.vcpu = n;
        if (!twin_chunk(t, 1000 * (1ull + rng_below(&t->rng, SLICE_US))))
            return TWIN_DIFFERS;
        t->halted[n] = t->chunk.reason == VCPU_HALT;
        if (t->chunk.reason == VCPU_SHUTDOWN || ended(t))
            return TWIN_ENDED;
    }
    pass_time(t, idle);
    return TWIN_ON;
}

uint64_t twin_icount(const struct twin *t) {
    return machine_icount(t->side[REFERENCE].m);
}

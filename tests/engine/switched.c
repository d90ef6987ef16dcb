/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: the machine raises them on the vCPU that it knows. Those that an engine handles are lent
 * to the one that runs, and taken back when run() returns; a kick only makes run() return.
 *
 * Moves: a thread asks for one every now and then. It is made where the engine's run() happens to
 * return, or a few single steps further on, which leads to any instruction.
 *
 * RF_SWITCH_SEED picks the moments (as far as host threads let it), RF_SWITCH_US their mean
 * distance.
 */
#include "switched.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/engine.h"
#include "cpu/x86/state.h"
#include "rng.h"

#define ENGINES 2u
#define STEPS_MAX 24u
#define HOPS_MAX 4u
#define MEAN_US 300u

/* What the machine's loop handles stays on the vCPU that it knows. */
#define LENT (VCPU_EVENT_INTR | VCPU_EVENT_NMI | VCPU_EVENT_NMI_2 | VCPU_EVENT_SMI)

static const struct engine_ops *const kinds[ENGINES] = {&engine_interp, &engine_bt};

struct switched {
    struct vcpu v;
    struct vcpu *under[ENGINES];
    unsigned now;
    struct rng rng;
    struct engine_debug step;
    const struct engine_debug *debug;
    _Atomic bool move;
    struct x86_state state;
    uint64_t moves;
};

struct engine_vm {
    struct engine_vm *under[ENGINES];
    struct switched **cpus;
    unsigned count;
    uint64_t seed, mean_us;
    pthread_t mover;
    pthread_mutex_t lock; /* over cpus[], and what follows */
    pthread_cond_t changed;
    bool started, quit;
};

static struct switched *switched_of(struct vcpu *v) {
    return (struct switched *)(void *)v;
}

static uint64_t number_from(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

/* ---- what an engine asks of the interrupt controller ---- */

#define CHIP const struct x86_irqchip_ops *chip = ((struct switched *)arg)->v.irqchip
#define APIC (((struct switched *)arg)->v.apic)

static bool chip_pending(void *arg) {
    CHIP;
    return chip->pending(APIC);
}
static int chip_ack(void *arg) {
    CHIP;
    return chip->ack(APIC);
}
static uint8_t chip_get_cr8(void *arg) {
    CHIP;
    return chip->get_cr8(APIC);
}
static void chip_set_cr8(void *arg, uint8_t value) {
    CHIP;
    chip->set_cr8(APIC, value);
}
static bool chip_read_msr(void *arg, uint32_t msr, uint64_t *value) {
    CHIP;
    return chip->read_msr(APIC, msr, value);
}
static bool chip_write_msr(void *arg, uint32_t msr, uint64_t value) {
    CHIP;
    return chip->write_msr(APIC, msr, value);
}
static uint64_t chip_mmio_base(void *arg) {
    CHIP;
    return chip->mmio_base(APIC);
}
static uint64_t chip_mmio_read(void *arg, uint64_t off, unsigned size) {
    CHIP;
    return chip->mmio_read(APIC, off, size);
}
static void chip_mmio_write(void *arg, uint64_t off, unsigned size, uint64_t value) {
    CHIP;
    chip->mmio_write(APIC, off, size, value);
}
static void chip_ferr(void *arg, bool level) {
    CHIP;
    chip->ferr(APIC, level);
}

/* The APIC's timer looks at the vCPU that the machine knows. */
static void chip_tsc_changed(void *arg) {
    CHIP;
    struct switched *s = arg;
    atomic_store(&s->v.tsc_offset, atomic_load(&s->under[s->now]->tsc_offset));
    chip->tsc_changed(APIC);
}

static const struct x86_irqchip_ops chip_ops = {
    .pending = chip_pending,
    .ack = chip_ack,
    .get_cr8 = chip_get_cr8,
    .set_cr8 = chip_set_cr8,
    .read_msr = chip_read_msr,
    .write_msr = chip_write_msr,
    .mmio_base = chip_mmio_base,
    .mmio_read = chip_mmio_read,
    .mmio_write = chip_mmio_write,
    .ferr = chip_ferr,
    .tsc_changed = chip_tsc_changed,
};

/* ---- events ---- */

/* Takes what is lent from one to the other; of two NMIs, one is held. */
static void pass_events(struct vcpu *from, struct vcpu *to) {
    uint32_t events = atomic_fetch_and(&from->events, ~(uint32_t)LENT) & LENT;
    uint32_t was = atomic_fetch_or(&to->events, events);
    if (was & events & VCPU_EVENT_NMI)
        atomic_fetch_or(&to->events, VCPU_EVENT_NMI_2);
}

static bool loop_is_wanted(struct switched *s) {
    return atomic_load(&s->v.events) & ~(uint32_t)LENT;
}

/* The request to return goes first: who raises an event now sets it anew. */
static void lend_events(struct switched *s, struct vcpu *u) {
    atomic_fetch_and(&u->events, ~(uint32_t)VCPU_EVENT_STOP);
    pass_events(&s->v, u);
    if (loop_is_wanted(s))
        atomic_fetch_or(&u->events, VCPU_EVENT_STOP);
}

/* The machine gives a vCPU its controller when it has made both. */
static struct vcpu *current(struct switched *s) {
    for (unsigned n = 0; n < ENGINES && s->v.irqchip; n++) {
        s->under[n]->irqchip = &chip_ops;
        s->under[n]->apic = s;
    }
    return s->under[s->now];
}

static void run_once(struct switched *s, struct vcpu_exit *x) {
    struct vcpu *u = current(s);
    lend_events(s, u);
    u->ops->run(u, x);
    pass_events(u, &s->v);
}

/* ---- moving ---- */

static void move_over(struct switched *s) {
    struct vcpu *from = s->under[s->now], *to = s->under[(s->now + 1) % ENGINES];
    from->ops->get_state(from, &s->state);
    to->ops->set_state(to, &s->state);
    s->now = (s->now + 1) % ENGINES;
    s->moves++;
}

/* True when it stopped for another reason, which is in *x. */
static bool step_some(struct switched *s, struct vcpu_exit *x) {
    struct vcpu *u = s->under[s->now];
    bool other = false;
    s->step = (struct engine_debug){.active = true, .step = true};
    u->ops->set_debug(u, &s->step);
    for (unsigned n = rng_below(&s->rng, STEPS_MAX); n && !other; n--) {
        run_once(s, x);
        other = x->reason != VCPU_DEBUG && (x->reason != VCPU_KICKED || loop_is_wanted(s));
    }
    u->ops->set_debug(u, s->debug);
    return other;
}

/* Forth and back a few times, in short distances. */
static bool move_about(struct switched *s, struct vcpu_exit *x) {
    unsigned hops = 1 + rng_below(&s->rng, HOPS_MAX);
    for (unsigned n = 0; n < hops; n++) {
        if (step_some(s, x))
            return true;
        move_over(s);
    }
    return false;
}

static bool under_debugger(const struct switched *s) {
    return s->debug && s->debug->active;
}

static void switched_run(struct vcpu *v, struct vcpu_exit *x) {
    struct switched *s = switched_of(v);
    for (;;) {
        if (atomic_exchange(&s->move, false) && !under_debugger(s) && move_about(s, x))
            return;
        run_once(s, x);
        if (x->reason != VCPU_KICKED || loop_is_wanted(s))
            return;
    }
}

/* Only makes it return: whichever is running, and one that is about to. */
static void switched_kick(struct vcpu *v) {
    struct switched *s = switched_of(v);
    for (unsigned n = 0; n < ENGINES; n++) {
        atomic_fetch_or(&s->under[n]->events, VCPU_EVENT_STOP);
        s->under[n]->ops->kick(s->under[n]);
    }
}

static void wait_a_moment(struct engine_vm *vm, struct rng *rng) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + rng_below(rng, (unsigned)vm->mean_us * 2) * 1000ull;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
}

static void *mover_main(void *arg) {
    struct engine_vm *vm = arg;
    struct rng rng = {vm->seed};
    pthread_mutex_lock(&vm->lock);
    while (!vm->quit) {
        struct switched *s = vm->cpus[rng_below(&rng, vm->count)];
        if (s) {
            atomic_store(&s->move, true);
            switched_kick(&s->v);
        }
        wait_a_moment(vm, &rng);
    }
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

/* ---- the engine's contract ---- */

static int switched_probe(struct err *e) {
    for (unsigned n = 0; n < ENGINES; n++)
        if (kinds[n]->probe(e) < 0)
            return -1;
    return 0;
}

static void switched_vm_destroy(struct engine_vm *vm) {
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    pthread_cond_signal(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    if (vm->started)
        pthread_join(vm->mover, NULL);
    for (unsigned n = 0; n < ENGINES; n++)
        if (vm->under[n])
            kinds[n]->vm_destroy(vm->under[n]);
    pthread_mutex_destroy(&vm->lock);
    pthread_cond_destroy(&vm->changed);
    free(vm->cpus);
    free(vm);
}

static struct engine_vm *switched_vm_create(const struct engine_vm_params *p, struct err *e) {
    struct engine_vm *vm = xcalloc(1, sizeof *vm);
    vm->cpus = xcalloc(p->vcpus, sizeof(struct switched *));
    vm->count = p->vcpus;
    vm->seed = number_from("RF_SWITCH_SEED", 1);
    vm->mean_us = MAX(number_from("RF_SWITCH_US", MEAN_US), 1ull);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    for (unsigned n = 0; n < ENGINES; n++)
        if (!(vm->under[n] = kinds[n]->vm_create(p, e)))
            goto failed;
    vm->started = pthread_create(&vm->mover, NULL, mover_main, vm) == 0;
    if (vm->started)
        return vm;
    err_set(e, 0, "thread");
failed:
    switched_vm_destroy(vm);
    return NULL;
}

static void switched_vcpu_destroy(struct vcpu *v) {
    struct switched *s = switched_of(v);
    struct engine_vm *vm = v->vm;
    pthread_mutex_lock(&vm->lock);
    vm->cpus[v->index] = NULL;
    pthread_mutex_unlock(&vm->lock);
    for (unsigned n = 0; n < ENGINES; n++)
        if (s->under[n])
            kinds[n]->vcpu_destroy(s->under[n]);
    fprintf(stderr, "vCPU %u moved %llu times\n", v->index, (unsigned long long)s->moves);
    free(s);
}

static struct vcpu *switched_vcpu_create(struct engine_vm *vm, unsigned index, struct err *e) {
    struct switched *s = aligned_alloc(64, align_up(sizeof *s, 64));
    if (!s)
        return NULL;
    memset(s, 0, sizeof *s);
    s->v = (struct vcpu){.ops = &engine_switched, .vm = vm, .index = index};
    s->rng.s = vm->seed * 64 + index;
    for (unsigned n = 0; n < ENGINES; n++)
        if (!(s->under[n] = kinds[n]->vcpu_create(vm->under[n], index, e))) {
            switched_vcpu_destroy(&s->v);
            return NULL;
        }
    pthread_mutex_lock(&vm->lock);
    vm->cpus[index] = s;
    pthread_mutex_unlock(&vm->lock);
    return &s->v;
}

static void switched_get_state(struct vcpu *v, struct x86_state *state) {
    struct switched *s = switched_of(v);
    s->under[s->now]->ops->get_state(s->under[s->now], state);
}

static void switched_set_state(struct vcpu *v, const struct x86_state *state) {
    struct switched *s = switched_of(v);
    struct vcpu *u = current(s);
    u->ops->set_state(u, state);
    atomic_store(&v->tsc_offset, state->tsc_offset);
}

static void switched_set_debug(struct vcpu *v, const struct engine_debug *d) {
    struct switched *s = switched_of(v);
    s->debug = d;
    for (unsigned n = 0; n < ENGINES; n++)
        s->under[n]->ops->set_debug(s->under[n], d);
}

static void switched_invalidate(struct engine_vm *vm) {
    for (unsigned n = 0; n < ENGINES; n++)
        kinds[n]->invalidate(vm->under[n]);
}

static uint64_t switched_icount(const struct vcpu *v) {
    const struct switched *s = (const struct switched *)(const void *)v;
    uint64_t sum = 0;
    for (unsigned n = 0; n < ENGINES; n++)
        sum += kinds[n]->icount(s->under[n]);
    return sum;
}

const struct engine_ops engine_switched = {
    .name = "switched",
    .probe = switched_probe,
    .vm_create = switched_vm_create,
    .vm_destroy = switched_vm_destroy,
    .vcpu_create = switched_vcpu_create,
    .vcpu_destroy = switched_vcpu_destroy,
    .run = switched_run,
    .kick = switched_kick,
    .get_state = switched_get_state,
    .set_state = switched_set_state,
    .set_debug = switched_set_debug,
    .invalidate = switched_invalidate,
    .icount = switched_icount,
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop around run(). INIT and SIPI are handled here (SDM 3A 9.4), between two calls of run(),
 * because they replace the architectural state whatever the engine; SMI is dropped, for there is no
 * SMM.
 */
#include "machine/vcpu.h"

#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "base/util.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

static void wake(struct vcpu *v) {
    syscall(SYS_futex, &v->events, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Until one of `events` is raised. */
static void sleep_for(struct vcpu_thread *t, uint32_t events) {
    uint64_t since = mono_now();

    atomic_store_explicit(&t->halted, true, memory_order_relaxed);
    for (;;) {
        uint32_t now = atomic_load(&t->v->events);

        if (now & events)
            break;
        syscall(SYS_futex, &t->v->events, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
    }
    atomic_store_explicit(&t->halted, false, memory_order_relaxed);
    t->stats.halted_ns += mono_now() - since;
}

/* Waits at the gate while it is closed for this vCPU. False when the thread shall end. */
static bool pass_gate(struct vcpu_thread *t) {
    struct vcpu_set *s = t->set;
    bool quit;

    if (likely(!(atomic_load_explicit(&t->v->events, memory_order_relaxed) & VCPU_EVENT_STOP)))
        return true;
    pthread_mutex_lock(&s->lock);
    s->beyond--;
    pthread_cond_broadcast(&s->changed);
    while ((s->holds || t->hold) && !s->quit)
        pthread_cond_wait(&s->changed, &s->lock);
    s->beyond++;
    quit = s->quit;
    /* Under the lock, so that no request for the next hold is lost. */
    atomic_fetch_and(&t->v->events, ~(uint32_t)VCPU_EVENT_STOP);
    pthread_mutex_unlock(&s->lock);
    return !quit;
}

static void init_ipi(struct vcpu_thread *t) {
    struct x86_state s;
    bool bsp = t->v->index == 0;

    t->v->ops->get_state(t->v, &s);
    x86_state_init_ipi(&s, bsp);
    t->v->ops->set_state(t->v, &s);
    t->set->ops->init_ipi(t->set->arg, t->v->index);
    t->wait_sipi = !bsp;
}

static void startup_ipi(struct vcpu_thread *t) {
    struct x86_state s;

    if (!t->wait_sipi)
        return;
    t->v->ops->get_state(t->v, &s);
    x86_state_sipi(&s, atomic_load(&t->v->sipi_vector));
    t->v->ops->set_state(t->v, &s);
    t->wait_sipi = false;
}

/* INIT before SIPI: a SIPI that came before the INIT would have had no effect. */
static void handle_events(struct vcpu_thread *t) {
    const uint32_t ours = VCPU_EVENT_INIT | VCPU_EVENT_SIPI | VCPU_EVENT_SMI;
    uint32_t events;

    if (likely(!(atomic_load_explicit(&t->v->events, memory_order_relaxed) & ours)))
        return;
    events = atomic_fetch_and(&t->v->events, ~ours);
    if (events & VCPU_EVENT_INIT)
        init_ipi(t);
    if (events & VCPU_EVENT_SIPI)
        startup_ipi(t);
}

/* With IF clear an interrupt does not end HLT (SDM 2A, HLT), and run() would only come back at
 * once. */
static void halt(struct vcpu_thread *t) {
    uint32_t events = VCPU_EVENT_STOP | VCPU_EVENT_NMI | VCPU_EVENT_NMI_2 | VCPU_EVENT_INIT;
    struct x86_state s;

    t->v->ops->get_state(t->v, &s);
    if (s.rflags & FLAG_IF)
        events |= VCPU_EVENT_INTR;
    sleep_for(t, events);
}

static void do_port(struct mem *m, const struct vcpu_exit *x) {
    if (x->io.write)
        mem_port_write(m, (uint16_t)x->io.addr, x->io.size, (uint32_t)*x->io.data);
    else
        *x->io.data = mem_port_read(m, (uint16_t)x->io.addr, x->io.size);
}

static void do_mmio(struct vcpu_thread *t, const struct vcpu_exit *x) {
    const struct x86_irqchip_ops *chip = t->v->irqchip;
    uint64_t off = chip ? x->io.addr - chip->mmio_base(t->v->apic) : UINT64_MAX;

    if (off < PAGE_SIZE && x->io.write)
        chip->mmio_write(t->v->apic, off, x->io.size, *x->io.data);
    else if (off < PAGE_SIZE)
        *x->io.data = chip->mmio_read(t->v->apic, off, x->io.size);
    else if (x->io.write)
        mem_io_write(t->set->mem, GPA(x->io.addr), x->io.size, *x->io.data);
    else
        *x->io.data = mem_io_read(t->set->mem, GPA(x->io.addr), x->io.size);
}

static void handle_exit(struct vcpu_thread *t, const struct vcpu_exit *x) {
    t->stats.exits[x->reason]++;
    switch (x->reason) {
    case VCPU_KICKED:
        break;
    case VCPU_HALT:
        halt(t);
        break;
    case VCPU_IO:
        do_port(t->set->mem, x);
        break;
    case VCPU_MMIO:
        do_mmio(t, x);
        break;
    case VCPU_SHUTDOWN:
    case VCPU_DEBUG:
    case VCPU_FAILED:
        t->stop = *x;
        t->stop_news = true;
        t->set->ops->stopped(t->set->arg, t);
        break;
    }
}

static void *vcpu_main(void *arg) {
    struct vcpu_thread *t = arg;
    struct vcpu_exit x;

    if (t->set->watched && !where_watch(&t->stats.where))
        log_warn("no timers of processor time here: where vCPU %u's goes stays unknown",
                 t->v->index);
    while (pass_gate(t)) {
        handle_events(t);
        if (t->wait_sipi) {
            sleep_for(t, VCPU_EVENT_STOP | VCPU_EVENT_INIT | VCPU_EVENT_SIPI);
            continue;
        }
        t->v->ops->run(t->v, &x);
        where_go(WHERE_OTHER);
        handle_exit(t, &x);
    }
    where_unwatch();
    return NULL;
}

void vcpu_set_init(struct vcpu_set *s, struct mem *m, struct vcpu *const *vcpus, unsigned count,
                   const struct vcpu_set_ops *ops, void *arg) {
    *s = (struct vcpu_set){.ops = ops, .arg = arg, .mem = m, .count = count, .holds = 1};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->threads = xcalloc(count, sizeof(*s->threads));
    for (unsigned i = 0; i < count; i++) {
        s->threads[i].v = vcpus[i];
        s->threads[i].set = s;
        vcpus[i]->wake = wake;
        atomic_fetch_or(&vcpus[i]->events, VCPU_EVENT_STOP);
    }
}

int vcpu_set_start(struct vcpu_set *s, struct err *e) {
    for (unsigned i = 0; i < s->count; i++) {
        struct vcpu_thread *t = &s->threads[i];
        char name[16];
        int r;

        pthread_mutex_lock(&s->lock);
        s->beyond++;
        pthread_mutex_unlock(&s->lock);
        snprintf(name, sizeof(name), "vcpu%u", i);
        r = thread_start(&t->thread, name, vcpu_main, t);
        if (r != 0) {
            pthread_mutex_lock(&s->lock);
            s->beyond--;
            pthread_mutex_unlock(&s->lock);
            return err_set(e, r, "vCPU %u: thread", i);
        }
        t->started = true;
    }
    return 0;
}

void vcpu_set_free(struct vcpu_set *s) {
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->count; i++)
        vcpu_raise(s->threads[i].v, VCPU_EVENT_STOP);
    for (unsigned i = 0; i < s->count; i++)
        if (s->threads[i].started)
            pthread_join(s->threads[i].thread, NULL);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->threads);
    s->threads = NULL;
}

void vcpu_set_hold_begin(struct vcpu_set *s) {
    pthread_mutex_lock(&s->lock);
    s->holds++;
    for (unsigned i = 0; i < s->count; i++)
        vcpu_raise(s->threads[i].v, VCPU_EVENT_STOP);
    pthread_mutex_unlock(&s->lock);
}

void vcpu_set_hold_wait(struct vcpu_set *s) {
    pthread_mutex_lock(&s->lock);
    while (s->beyond)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void vcpu_set_release(struct vcpu_set *s) {
    pthread_mutex_lock(&s->lock);
    s->holds--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void vcpu_set_stay(struct vcpu_set *s, unsigned index, bool stay) {
    pthread_mutex_lock(&s->lock);
    s->threads[index].hold = stay;
    pthread_mutex_unlock(&s->lock);
}

void vcpu_set_reset(struct vcpu_set *s, const struct x86_state *bsp, const struct x86_state *ap) {
    const uint32_t forgotten = VCPU_EVENT_INTR | VCPU_EVENT_NMI | VCPU_EVENT_NMI_2 |
                               VCPU_EVENT_INIT | VCPU_EVENT_SIPI | VCPU_EVENT_SMI;

    for (unsigned i = 0; i < s->count; i++) {
        struct vcpu_thread *t = &s->threads[i];

        atomic_fetch_and(&t->v->events, ~forgotten);
        t->v->ops->set_state(t->v, i == 0 ? bsp : ap);
        t->wait_sipi = i != 0;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference engine's loop: between blocks it looks at what is pending, in the order of SDM
 * 3A 6.9; within one it only calls the instructions' functions. Faults come back through c->jmp.
 */
#include "cpu/x86/interp.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/where.h"
#include "cpu/x86/block.h"
#include "cpu/x86/debugreg.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/tlb.h"
#include "cpu/x86/trace.h"

/* An engine's own event: the map of guest-physical memory changed. */
#define EVENT_REMAP (1u << 31)
#define EVENTS_OF_LOOP (VCPU_EVENT_INIT | VCPU_EVENT_SIPI | VCPU_EVENT_STOP)

struct interp {
    struct block_cache *blocks;
    struct block *current; /* being executed */
    uint64_t start;        /* RIP at which it was entered */
    bool bus_locked;       /* this vCPU holds the vm's bus lock */
    uint64_t resumed_at;   /* RIP of a breakpoint that was reported and is not to be reported again,
                              or ~0 */
};

static struct x86_cpu *cpu_of(struct vcpu *v) {
    return (struct x86_cpu *)(void *)v;
}

/* ---- self-modifying code, bus lock ---- */

void cpu_end_block(struct x86_cpu *c) {
    if (c->interp->current)
        block_stop(c, c->interp->current);
}

void interp_code_written(struct x86_cpu *c, uint64_t backing_page) {
    const struct block *b = c->interp->current;
    bool first = b && b->page == backing_page && block_stale(b, c->mem->page_gen);
    bool second = b && b->page2 == backing_page && c->mem->page_gen[backing_page] != b->gen2;
    if (first || second)
        cpu_end_block(c);
}

void interp_bus_lock(struct x86_cpu *c) {
    pthread_mutex_lock(&c->v.vm->bus_lock);
    c->interp->bus_locked = true;
}

void interp_bus_unlock(struct x86_cpu *c) {
    c->interp->bus_locked = false;
    pthread_mutex_unlock(&c->v.vm->bus_lock);
}

/* ---- executing ---- */

/* How many instructions of the current block are done, for one that was left in its middle. */
static unsigned done_so_far(const struct x86_cpu *c) {
    const struct block *b = c->interp->current;
    uint64_t rip = c->interp->start;
    unsigned n = 0;
    while (n < b->count && rip != c->s.rip)
        rip += b->insn[n++].len;
    return n;
}

/* After a fault, wherever it came from. */
void interp_left_block(struct x86_cpu *c) {
    if (c->interp->bus_locked)
        interp_bus_unlock(c);
    if (!c->interp->current)
        return;
    c->icount += done_so_far(c);
    c->interp->current = NULL;
}

static inline void execute(struct x86_cpu *c, struct block *b, unsigned count) {
    const struct x86_insn *i = b->insn, *end = i + count;
    uint64_t rip = c->s.rip;
    c->interp->current = b;
    c->interp->start = rip;
    do {
        c->s.rip = rip;
        rip += i->len;
        c->next = rip;
        i->fn(c, i);
    } while (++i < end);
    c->s.rip = cpu_wrap(c, c->next); /* behind the last byte of 4 GiB comes the first */
    c->interp->current = NULL;
    c->icount += count;
}

/* Outside 64-bit mode every byte of an instruction must lie within the code segment (SDM 3A 5.3).
 */
static unsigned within_limit(struct x86_cpu *c, const struct block *b) {
    uint32_t limit = c->s.seg[SEG_CS].limit;
    if (likely(c->mode64 || c->s.rip + b->bytes - 1 <= limit))
        return b->count;
    if (c->s.rip + b->insn[0].len - 1 > limit)
        cpu_raise_err(c, EXC_GP, 0);
    return 1;
}

/* How much of a block to execute, now that it is its turn. */
static unsigned begin(struct x86_cpu *c, const struct block *b) {
    unsigned count = within_limit(c, b);
    if (unlikely(c->traced & TRACE_EXEC))
        cpu_trace_entry(c);
    return count;
}

void interp_run_block(struct x86_cpu *c) {
    struct block *b = block_find(c, c->interp->blocks);
    execute(c, b, begin(c, b));
}

void interp_op_crossing(struct x86_cpu *c, const struct x86_insn *i) {
    (void)i;
    const struct x86_insn *whole = block_find(c, c->interp->blocks)->insn;
    c->next = c->s.rip + whole->len;
    whole->fn(c, whole);
}

/* ---- one instruction at a time: traps, shadows, breakpoints ---- */

static uint64_t code_linear(const struct x86_cpu *c) {
    return c->mode64 ? c->s.rip : (c->s.seg[SEG_CS].base + c->s.rip) & UINT32_MAX;
}

static bool stops_here(struct x86_cpu *c, struct vcpu_exit *x) {
    uint64_t lin = code_linear(c);
    if (!debug_breaks_at(c, lin) || c->interp->resumed_at == c->s.rip)
        return false;
    c->interp->resumed_at = c->s.rip;
    *x = (struct vcpu_exit){.reason = VCPU_DEBUG, .debug = {DEBUG_BREAK, lin}};
    return true;
}

/*
 * Whether a single-step trap follows an instruction that began with `flags`. INT n and its kin
 * clear TF on the way to their handler, INTO only if it goes there; SYSCALL and SYSRET trap by the
 * flags that they load (SDM 2B); loading SS holds the trap back (SDM 3A 6.8.3).
 */
static bool traps_after(const struct x86_cpu *c, const struct x86_insn *i, uint64_t flags) {
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
        return false;
    case ZYDIS_MNEMONIC_INTO:
        return (flags & (FLAG_TF | FLAG_OF)) == FLAG_TF;
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
        return c->s.rflags & FLAG_TF;
    default:
        return flags & FLAG_TF && !c->s.shadow_movss;
    }
}

/* Returns true when run() must return. */
static bool step(struct x86_cpu *c, struct vcpu_exit *x) {
    bool after_movss = c->s.shadow_movss;
    uint64_t flags = cpu_flags(c), dr6 = 0;
    if (c->stopping && stops_here(c, x))
        return true;
    if (c->stopping && !after_movss && debugreg_exec_hit(c, code_linear(c), &dr6))
        exc_raise_debug(c, dr6);
    struct block *b = block_find(c, c->interp->blocks);
    begin(c, b);
    c->s.shadow_sti = c->s.shadow_movss = false;
    c->s.rflags &= ~(uint64_t)FLAG_RF;
    c->interp->resumed_at = UINT64_MAX;
    execute(c, b, 1);
    if (traps_after(c, &b->insn[0], flags))
        c->dr6_pending |= DR6_BS;
    if (!c->debug || !c->debug->active || !c->debug->step)
        return false;
    *x = (struct vcpu_exit){.reason = VCPU_DEBUG, .debug = {DEBUG_STEP, 0}};
    return true;
}

/*
 * Breakpoints are set somewhere: a block that holds none of them runs whole. One on its first byte
 * goes before the faults of fetching it (SDM 3A table 6-2).
 */
static bool run_guarded(struct x86_cpu *c, struct vcpu_exit *x) {
    if (debug_stop_within(c, code_linear(c), 1))
        return step(c, x);
    struct block *b = block_find(c, c->interp->blocks);
    if (debug_stop_within(c, code_linear(c), b->bytes))
        return step(c, x);
    execute(c, b, begin(c, b));
    return false;
}

/* ---- between instructions ---- */

static void wake_up(struct x86_cpu *c) {
    if (c->s.activity == X86_HALTED) {
        c->s.activity = X86_RUNNING;
        atomic_fetch_or(&c->v.events, VCPU_EVENT_INTR); /* was cleared while halted with IF = 0 */
    }
}

/* Takes the bit first and asks afterwards, so that none that is raised meanwhile is lost. */
static bool deliver_interrupt(struct x86_cpu *c) {
    atomic_fetch_and(&c->v.events, ~VCPU_EVENT_INTR);
    if (!c->v.irqchip || !c->v.irqchip->pending(c->v.apic))
        return false;
    int vector = c->v.irqchip->ack(c->v.apic);
    if (vector < 0)
        return false;
    atomic_fetch_or(&c->v.events, VCPU_EVENT_INTR);
    wake_up(c);
    exc_interrupt(c, (uint8_t)vector);
    return true;
}

static bool report_watch(struct x86_cpu *c, struct vcpu_exit *x) {
    if (!c->debug_watch_hit)
        return false;
    c->debug_watch_hit = false;
    *x = (struct vcpu_exit){.reason = VCPU_DEBUG, .debug = {DEBUG_WATCH, c->debug_watch_addr}};
    return true;
}

/* What makes run() return before anything else. */
static bool must_return(struct x86_cpu *c, uint32_t events, struct vcpu_exit *x) {
    if (c->s.activity == X86_SHUTDOWN)
        *x = (struct vcpu_exit){.reason = VCPU_SHUTDOWN};
    else if (events & EVENTS_OF_LOOP)
        *x = (struct vcpu_exit){.reason = VCPU_KICKED};
    else if (c->s.activity == X86_WAIT_SIPI)
        *x = (struct vcpu_exit){.reason = VCPU_HALT};
    else
        return report_watch(c, x);
    return true;
}

/* While one is being handled, one waits; before that, the second waits for the first. */
static void take_nmi(struct x86_cpu *c, uint32_t events) {
    uint32_t taken = events & (VCPU_EVENT_NMI | VCPU_EVENT_NMI_2);
    if (!taken || (c->s.nmi_pending && !c->s.nmi_blocked))
        return;
    if (!c->s.nmi_blocked && events & VCPU_EVENT_NMI)
        taken = VCPU_EVENT_NMI;
    atomic_fetch_and(&c->v.events, ~taken);
    c->s.nmi_pending = true;
}

static void take_events(struct x86_cpu *c, uint32_t events) {
    uint32_t mine = events & (EVENT_REMAP | VCPU_EVENT_SMI);
    take_nmi(c, events);
    if (!mine)
        return;
    atomic_fetch_and(&c->v.events, ~mine);
    if (mine & EVENT_REMAP)
        mmu_remap(c);
}

/* Traps, NMI, interrupts in the order of SDM 3A table 6-2. True when one was delivered. */
static bool deliver_pending(struct x86_cpu *c, uint32_t events) {
    bool shadow = c->s.shadow_sti || c->s.shadow_movss;
    if (c->dr6_pending && !c->s.shadow_movss) {
        wake_up(c);
        exc_debug_trap(c);
        return true;
    }
    if (c->s.nmi_pending && !c->s.nmi_blocked && !shadow) {
        c->s.nmi_pending = false;
        wake_up(c);
        exc_nmi(c);
        return true;
    }
    bool open = c->s.rflags & FLAG_IF && !shadow;
    return events & VCPU_EVENT_INTR && open && deliver_interrupt(c);
}

static bool halted(struct x86_cpu *c, uint32_t events, struct vcpu_exit *x) {
    if (c->s.activity != X86_HALTED)
        return false;
    if (events & VCPU_EVENT_INTR && !(c->s.rflags & FLAG_IF))
        atomic_fetch_and(&c->v.events, ~VCPU_EVENT_INTR);
    *x = (struct vcpu_exit){.reason = VCPU_HALT};
    return true;
}

/* Returns true when run() must return. */
bool interp_attend(struct x86_cpu *c, struct vcpu_exit *x) {
    uint32_t events = atomic_load(&c->v.events);
    take_events(c, events);
    if (must_return(c, events, x))
        return true;
    if (deliver_pending(c, events))
        return false;
    if (halted(c, events, x))
        return true;
    bool single = c->s.rflags & (FLAG_TF | FLAG_RF) || c->s.shadow_sti || c->s.shadow_movss;
    if (single)
        return step(c, x);
    if (c->stopping)
        return run_guarded(c, x);
    interp_run_block(c);
    return false;
}

bool interp_needs_attention(const struct x86_cpu *c) {
    uint32_t events = atomic_load_explicit(&c->v.events, memory_order_relaxed);
    uint64_t state;
    memcpy(&state, &c->s.activity, sizeof state);
    if (likely(!(events | state | c->dr6_pending | c->debug_watch_hit | c->stopping |
                 (c->s.rflags & (FLAG_TF | FLAG_RF)))))
        return false;
    bool only_masked_interrupt = events == VCPU_EVENT_INTR && !state && !c->dr6_pending &&
                                 !c->debug_watch_hit && !c->stopping &&
                                 !(c->s.rflags & (FLAG_TF | FLAG_RF | FLAG_IF));
    return !only_masked_interrupt;
}

static void interp_run(struct vcpu *v, struct vcpu_exit *x) {
    struct x86_cpu *c = cpu_of(v);
    int why = setjmp(c->jmp);
    where_go(WHERE_FUNCTION);
    interp_left_block(c);
    if (why == JMP_FAULT)
        exc_deliver(c);
    for (;;) {
        if (unlikely(interp_needs_attention(c))) {
            if (interp_attend(c, x))
                return;
        } else {
            interp_run_block(c);
        }
    }
}

/* ---- the engine's contract ---- */

static int interp_probe(struct err *e) {
    (void)e;
    return 0;
}

struct engine_vm *interp_vm_create(const struct engine_vm_params *p, struct err *e) {
    (void)e;
    struct engine_vm *vm = xcalloc(1, sizeof *vm);
    vm->params = *p;
    vm->cpus = xcalloc(p->vcpus, sizeof(struct x86_cpu *));
    pthread_mutex_init(&vm->bus_lock, NULL);
    pthread_mutex_init(&vm->list_lock, NULL);
    return vm;
}

void interp_vm_destroy(struct engine_vm *vm) {
    pthread_mutex_destroy(&vm->bus_lock);
    pthread_mutex_destroy(&vm->list_lock);
    free(vm->cpus);
    free(vm);
}

static void cpu_attach(struct x86_cpu *c, const struct engine_ops *ops, struct engine_vm *vm,
                       unsigned index) {
    c->v = (struct vcpu){.ops = ops, .vm = vm, .index = index};
    c->mem = vm->params.mem;
    c->ram = c->mem->ram;
    c->page_flags = c->mem->page_flags;
    c->clock = vm->params.clock;
    c->cpuid = vm->params.cpuid;
    c->apic_page = UINT64_MAX;
    c->trace = vm->params.trace;
    c->traced = trace_what(c->trace);
}

int interp_cpu_init(struct x86_cpu *c, const struct engine_ops *ops, struct engine_vm *vm,
                    unsigned index, struct err *e) {
    struct block_cache *blocks = block_cache_new(vm->params.mem);
    if (!blocks)
        return err_set(e, errno, "vCPU %u: memory for decoded code", index);
    cpu_attach(c, ops, vm, index);
    c->interp = xcalloc(1, sizeof *c->interp);
    c->interp->blocks = blocks;
    c->interp->resumed_at = UINT64_MAX;
    x86_state_reset(&c->s, index == 0);
    cpu_set_flags(c, c->s.rflags);
    tlb_init(c);
    mmu_remap(c);
    pthread_mutex_lock(&vm->list_lock);
    vm->cpus[index] = c;
    pthread_mutex_unlock(&vm->list_lock);
    return 0;
}

void interp_cpu_fini(struct x86_cpu *c) {
    pthread_mutex_lock(&c->v.vm->list_lock);
    c->v.vm->cpus[c->v.index] = NULL;
    pthread_mutex_unlock(&c->v.vm->list_lock);
    block_cache_free(c->interp->blocks);
    free(c->interp);
}

static struct vcpu *interp_vcpu_create(struct engine_vm *vm, unsigned index, struct err *e) {
    struct x86_cpu *c = aligned_alloc(64, align_up(sizeof *c, 64));
    if (!c) {
        err_set(e, errno, "vCPU %u", index);
        return NULL;
    }
    memset(c, 0, sizeof *c);
    if (interp_cpu_init(c, &engine_interp, vm, index, e) < 0) {
        free(c);
        return NULL;
    }
    return &c->v;
}

static void interp_vcpu_destroy(struct vcpu *v) {
    struct x86_cpu *c = cpu_of(v);
    interp_cpu_fini(c);
    free(c);
}

/* The loop looks at the events before every block, so raising them was enough. */
static void interp_kick(struct vcpu *v) {
    (void)v;
}

void interp_get_state(struct vcpu *v, struct x86_state *s) {
    struct x86_cpu *c = cpu_of(v);
    *s = c->s;
    s->rflags = cpu_flags(c);
    s->dr6_pending = c->dr6_pending;
}

void interp_set_state(struct vcpu *v, const struct x86_state *s) {
    struct x86_cpu *c = cpu_of(v);
    c->s = *s;
    c->s.zero = 0;
    c->dr6_pending = s->dr6_pending;
    c->exc_nested = false;
    atomic_store(&v->tsc_offset, s->tsc_offset);
    cpu_set_flags(c, s->rflags);
    mmu_remap(c);
    debug_update(c);
    atomic_fetch_or(&v->events, VCPU_EVENT_INTR);
}

void interp_set_debug(struct vcpu *v, const struct engine_debug *d) {
    struct x86_cpu *c = cpu_of(v);
    c->debug = d;
    debug_update(c);
}

void interp_invalidate(struct engine_vm *vm) {
    pthread_mutex_lock(&vm->list_lock);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            vcpu_raise(&vm->cpus[n]->v, EVENT_REMAP);
    pthread_mutex_unlock(&vm->list_lock);
}

uint64_t interp_icount(const struct vcpu *v) {
    return ((const struct x86_cpu *)(const void *)v)->icount;
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .probe = interp_probe,
    .vm_create = interp_vm_create,
    .vm_destroy = interp_vm_destroy,
    .vcpu_create = interp_vcpu_create,
    .vcpu_destroy = interp_vcpu_destroy,
    .run = interp_run,
    .kick = interp_kick,
    .get_state = interp_get_state,
    .set_state = interp_set_state,
    .set_debug = interp_set_debug,
    .invalidate = interp_invalidate,
    .icount = interp_icount,
    .icount_exact = true,
    .stats = interp_stats,
};

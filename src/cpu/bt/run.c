/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engine `bt`: the loop that enters translated code, and what it comes back for. What is not 64-bit
 * code, and whatever asks for attention (events, single steps, breakpoints), runs as under the
 * reference engine.
 */
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "cpu/bt/bt.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"

#define CACHE_BYTES (64ull << 20) /* when nobody says */
#define ALT_STACK (64u << 10)

static struct bt_cpu *bt_of(struct vcpu *v) {
    return (struct bt_cpu *)(void *)v;
}

/* ---- inline TLB and jump table ---- */

static uint64_t jump_index(uint64_t rip) {
    return rip >> 1 & (BT_JUMP_SIZE - 1);
}

/* What empties a slot: an address of another slot, not next to its own. */
static void tlb_clear(struct bt_tlb *t) {
    for (uint64_t n = 0; n < BT_TLB_SIZE; n++)
        t->rd[n] = t->wr[n] = -((n ^ 2) << PAGE_SHIFT);
}

static void jumps_clear(struct bt_cpu *b) {
    for (uint64_t n = 0; n < BT_JUMP_SIZE; n++)
        b->jump.tag[n] = -((n ^ 1) << 1);
}

/* The number that stands for a context in jump tags; contexts that were there lately keep theirs.
 */
static uint64_t context_number(struct bt_cpu *b, uint64_t context) {
    struct bt_context *known = &b->contexts[(context ^ context >> 4 ^ context >> 52) % BT_CONTEXTS];
    if (known->number && known->context == context)
        return known->number;
    if (++b->last_context >> 13) {
        jumps_clear(b);
        memset(b->contexts, 0, sizeof b->contexts);
        b->last_context = 1;
    }
    *known = (struct bt_context){context, b->last_context};
    return b->last_context;
}

/* Address space, privilege or the use of vectors changed: what was looked up by linear address is
 * another's. */
static void context_changed(struct bt_cpu *b) {
    uint64_t space = b->c.context & ~7ull;
    if (space != b->seen_space) {
        for (unsigned k = 0; k < 3; k++)
            tlb_clear(&b->tlb[k]);
        b->seen_space = space;
    }
    b->seen_context = b->c.context;
    b->seen_tlb = b->c.tlb;
    b->seen_vector = b->vector;
    uint64_t mode = (b->vector ? BT_KEY_VECTOR : 0) | bt_tlb_kind(&b->c);
    b->context_key = (context_number(b, b->c.context) << BT_KEY_SHIFT | mode) << 48;
}

static void tlb_learn(struct bt_cpu *b, uint64_t lin) {
    unsigned kind = bt_tlb_kind(&b->c);
    if (kind == TLB_OFF)
        return;
    const struct tlb_entry *e = tlb_slot(b->c.tlb, lin);
    uint64_t slot = lin >> PAGE_SHIFT & (BT_TLB_SIZE - 1), page = lin & ~PAGE_MASK;
    struct bt_tlb *t = &b->tlb[kind];
    bool rd = tlb_hit(&b->c, e, e->rd, lin), wr = tlb_hit(&b->c, e, e->wr, lin);
    if (!rd && !wr)
        return;
    uint64_t backing = (lin + e->addend - (uint64_t)(uintptr_t)b->c.ram) >> PAGE_SHIFT;
    wr = wr && !atomic_load(&b->c.page_flags[backing]);
    uint64_t none = -((slot ^ 2) << PAGE_SHIFT);
    t->addend[slot] = e->addend;
    t->rd[slot] = rd ? -page : none;
    t->wr[slot] = wr ? -page : none;
    b->stats.filled++;
}

static void forget_writes(struct bt_cpu *b, uint64_t host_page) {
    for (unsigned k = 0; k < 3; k++)
        for (uint64_t n = 0; n < BT_TLB_SIZE; n++) {
            struct bt_tlb *t = &b->tlb[k];
            if (t->addend[n] - t->wr[n] == host_page)
                t->wr[n] = -((n ^ 2) << PAGE_SHIFT);
        }
}

/* ---- all vCPUs out of translated code ---- */

/* What the vCPUs of a domain share besides the code. */
struct world {
    struct bt_cache *cache;
    pthread_mutex_t lock; /* one that stops the others at a time */
    pthread_cond_t moved; /* in_code became false, or `stopping` did */
    pthread_mutex_t move_lock;
    _Atomic bool stopping;
};

static struct world *world_of(const struct bt_cpu *b) {
    return b->c.v.vm->more;
}

static void announce(struct world *w) {
    pthread_mutex_lock(&w->move_lock);
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->move_lock);
}

static void code_left(struct bt_cpu *b) {
    atomic_store(&b->in_code, false);
    if (unlikely(atomic_load(&world_of(b)->stopping)))
        announce(world_of(b));
}

/* False when it has to be tried again, for somebody stopped the world meanwhile. */
static bool code_entered(struct bt_cpu *b) {
    struct world *w = world_of(b);
    atomic_store(&b->in_code, true);
    if (likely(!atomic_load(&w->stopping)))
        return true;
    code_left(b);
    pthread_mutex_lock(&w->move_lock);
    while (atomic_load(&w->stopping))
        pthread_cond_wait(&w->moved, &w->move_lock);
    pthread_mutex_unlock(&w->move_lock);
    return false;
}

static void wait_until_left(struct world *w, struct bt_cpu *b) {
    __atomic_store_n(&b->poll, BT_POLL_STOP, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&w->move_lock);
    while (atomic_load(&b->in_code))
        pthread_cond_wait(&w->moved, &w->move_lock);
    pthread_mutex_unlock(&w->move_lock);
}

/* The caller is in no translated code, nor holds a lock that a call out of it might take. */
static void world_stop(struct engine_vm *vm) {
    struct world *w = vm->more;
    struct bt_world_stats *stats = bt_cache_stats(w->cache);
    uint64_t start = mono_now();
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->stopping, true);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            wait_until_left(w, (struct bt_cpu *)(void *)vm->cpus[n]);
    stats->stopped++;
    stats->stop_ns += mono_now() - start;
}

static void world_go(struct engine_vm *vm) {
    struct world *w = vm->more;
    atomic_store(&w->stopping, false);
    announce(w);
    pthread_mutex_unlock(&w->lock);
}

/* ---- calls out of translated code ---- */

/*
 * Whether vector instructions may run in place: enabled, as AVX is, and with every exception
 * masked, so that they can raise nothing but what their memory operands do.
 */
static bool vector_usable(const struct x86_cpu *c) {
    const uint32_t masks = 0x1f80;
    bool sse = !(c->s.cr0 & (CR0_EM | CR0_TS)) && c->s.cr4 & CR4_OSFXSR;
    bool avx = c->s.cr4 & CR4_OSXSAVE && c->s.xcr0 & XCR0_AVX;
    return sse && (avx || !x86_has(c->cpuid, FEAT_AVX)) && (c->s.fpu.mxcsr & masks) == masks;
}

static uint64_t operand_linear(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    if (s->operand == BT_PUSH)
        return c->s.gpr[RSP] - 8;
    if (s->operand == BT_POP)
        return c->s.gpr[RSP];
    if (s->operand == BT_FRAME)
        return c->s.gpr[RBP];
    return insn_ea(c, s->insn) + c->base64[s->insn->seg];
}

bool bt_site_run(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    const struct x86_insn *i = s->insn;
    c->s.rip = b->page + s->offset;
    uint64_t next = c->s.rip + i->len;
    uint64_t lin = s->operand == BT_NONE ? 0 : operand_linear(b, s);
    c->next = next;
    b->stats.called[i->mnemonic]++;
    i->fn(c, i);
    c->s.rip = c->next;
    c->icount++;
    if (s->leaves || c->next != next || b->code_written || c->context != b->seen_context ||
        c->tlb != b->seen_tlb || (b->vector && !vector_usable(c)) || interp_needs_attention(c))
        return false;
    if (s->operand != BT_NONE)
        tlb_learn(b, lin);
    return true;
}

/* ---- the loop ---- */

static bool runs_translated(const struct x86_cpu *c) {
    return c->mode64 && c->tlb != c->tlbs[TLB_OFF] && !c->watching;
}

static void link_exit(struct bt_cpu *b, const struct bt_block *to, uint64_t page) {
    struct bt_exit *x = b->link_exit;
    if (!x || !x->jump || !x->block->alive || x->block->page != to->page || page != b->page ||
        (x->block->key ^ to->key) & BT_KEY_MODE)
        return;
    int32_t rel = (int32_t)(to->entry - (x->jump + 4));
    __atomic_store_n((int32_t *)(void *)x->jump, rel, __ATOMIC_RELAXED);
}

static void cache_empty(struct bt_cpu *b) {
    struct engine_vm *vm = b->c.v.vm;
    world_stop(vm);
    bt_cache_empty(b->cache);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n]) {
            struct bt_cpu *o = (struct bt_cpu *)(void *)vm->cpus[n];
            jumps_clear(o);
        }
    world_go(vm);
}

static struct bt_block *block_at(struct bt_cpu *b, const uint8_t *host) {
    struct bt_block *k = bt_cache_block(b, host);
    if (k)
        return k;
    cache_empty(b);
    return bt_cache_block(b, host);
}

static struct bt_block *next_block(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    uint64_t gpa, rip = c->s.rip;
    if ((uint64_t)((int64_t)(rip << 16) >> 16) != rip)
        cpu_raise_err(c, EXC_GP, 0);
    const uint8_t *host = mmu_fetch(c, rip, &gpa);
    if (!host)
        return NULL;
    struct bt_block *k = block_at(b, host);
    return k && k->entry ? k : NULL;
}

static void enter(struct bt_cpu *b, const struct bt_block *k) {
    uint64_t rip = b->c.s.rip, page = rip & ~PAGE_MASK, slot = jump_index(rip);
    if (b->link_exit && b->link_flushes == bt_cache_flushes(b->cache))
        link_exit(b, k, page);
    b->jump.tag[slot] = -(rip + b->context_key);
    b->jump.code[slot] = k->code;
    b->jump.page[slot] = page;
    b->page = page;
    b->link_exit = NULL;
    b->code_written = false;
    b->stats.entered++;
    bt_enter(b, k->code);
    /* Once it is said that the code was left, the exit's record may be gone. */
    if (b->link_exit) {
        b->c.s.rip = b->page + (uint64_t)(int64_t)b->link_exit->target;
        b->vector_wanted = b->link_exit->vector;
        b->link_flushes = bt_cache_flushes(b->cache);
    }
    code_left(b);
}

/* User code that uses vectors keeps them in the host's registers; a kernel, only as long as it
 * does. */
static void choose_vector(struct bt_cpu *b) {
    bool keep = b->vector && b->c.cpl == 3;
    b->vector = (keep || b->vector_wanted) && vector_usable(&b->c);
}

static void run_code(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    bool wanted = b->vector_wanted;
    choose_vector(b);
    b->vector_wanted = false;
    if (wanted && !b->vector) {
        b->link_exit = NULL;
        interp_run_block(c); /* raises what has to be raised */
        return;
    }
    if (c->context != b->seen_context || c->tlb != b->seen_tlb || b->vector != b->seen_vector)
        context_changed(b);
    unsigned flushes = bt_cache_flushes(b->cache);
    struct bt_block *k = next_block(b);
    if (!k) {
        b->link_exit = NULL;
        interp_run_block(c);
        return;
    }
    __atomic_store_n(&b->poll, (uint64_t)(uintptr_t)&b->poll_word, __ATOMIC_SEQ_CST);
    if (!code_entered(b))
        return; /* the cache may have been emptied */
    if (interp_needs_attention(c) || flushes != bt_cache_flushes(b->cache)) {
        code_left(b);
        return;
    }
    enter(b, k);
}

/* ---- signals ---- */

static struct sigaction previous_segv;
static pthread_once_t segv_once = PTHREAD_ONCE_INIT;
static _Thread_local struct bt_cpu *running;

/* Where a marker (translate.c) says to go on; 0 when there is none at `at`. */
static uint64_t marked(const struct bt_cache *cache, uint64_t at) {
    static const uint8_t marker[4] = {0x0f, 0x1f, 0x84, 0x00};
    const uint8_t *p = (const uint8_t *)(uintptr_t)at;
    int32_t rel;
    if (!bt_cache_holds(cache, at) || memcmp(p, marker, sizeof marker) != 0)
        return 0;
    memcpy(&rel, p + 4, sizeof rel);
    return at + 8 + (uint64_t)(int64_t)rel;
}

/* A poll's store (its marker behind it), or a guest's unaligned access (its marker before it). */
static uint64_t resume_at(const struct bt_cache *cache, uint64_t rip, uint64_t addr) {
    if (!bt_cache_holds(cache, rip))
        return 0;
    return addr == BT_POLL_STOP ? marked(cache, rip + 3) : marked(cache, rip - 8);
}

static void on_segv(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    uint64_t at =
        running ? resume_at(running->cache, (uint64_t)*rip, (uint64_t)(uintptr_t)info->si_addr) : 0;
    if (at)
        *rip = (greg_t)at;
    else /* not ours: happens again, for who was here before */
        sigaction(sig, &previous_segv, NULL);
}

static void install_handler(void) {
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGSEGV, &sa, &previous_segv);
}

static void thread_prepare(struct bt_cpu *b) {
    static _Thread_local char stack[ALT_STACK];
    if (running == b)
        return;
    pthread_once(&segv_once, install_handler);
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alt, NULL);
    running = b;
}

static void set_gs(uint64_t base) {
    syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

static uint64_t get_gs(void) {
    uint64_t base = 0;
    syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    return base;
}

static void loop(struct bt_cpu *b, struct vcpu_exit *x) {
    struct x86_cpu *c = &b->c;
    int why = setjmp(c->jmp);
    code_left(b);
    interp_left_block(c);
    b->vector_wanted = false;
    b->link_exit = NULL;
    if (why == JMP_FAULT)
        exc_deliver(c);
    for (;;) {
        if (unlikely(interp_needs_attention(c))) {
            b->link_exit = NULL;
            if (interp_attend(c, x))
                return;
        } else if (likely(runs_translated(c))) {
            run_code(b);
        } else {
            interp_run_block(c);
        }
    }
}

/* GS is the thread's own again outside. */
static void bt_run(struct vcpu *v, struct vcpu_exit *x) {
    struct bt_cpu *b = bt_of(v);
    uint64_t outer = get_gs();
    thread_prepare(b);
    set_gs((uint64_t)(uintptr_t)b);
    loop(b, x);
    set_gs(outer);
}

/* ---- the engine's contract ---- */

static int bt_probe(struct err *e) {
    unsigned eax, ebx = 0, ecx, edx;
    __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
    if (!(ebx & bit_BMI2) || !__builtin_cpu_supports("avx2"))
        return err_set(e, 0, "this processor has no AVX2 and BMI2; use --engine interp");
    return 0;
}

static void bt_vm_destroy(struct engine_vm *vm) {
    struct world *w = vm->more;
    vm->params.mem->code_ops = NULL;
    bt_cache_free(w->cache);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->move_lock);
    pthread_cond_destroy(&w->moved);
    free(w);
    interp_vm_destroy(vm);
}

/* Nobody may store to the page past the slow path any more. */
static void code_begins(void *arg, uint64_t page) {
    struct engine_vm *vm = arg;
    uint64_t host = (uint64_t)(uintptr_t)vm->params.mem->ram + (page << PAGE_SHIFT);
    world_stop(vm);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            forget_writes((struct bt_cpu *)(void *)vm->cpus[n], host);
    world_go(vm);
}

static void code_written(void *arg, uint64_t page) {
    struct engine_vm *vm = arg;
    bt_cache_kill_page(((struct world *)vm->more)->cache, page);
    if (running)
        running->code_written = true;
}

static const struct mem_code_ops code_ops = {.begins = code_begins, .written = code_written};

static int make_cache(struct world *w, const struct engine_vm_params *p, struct err *e) {
    uint64_t bytes = p->code_cache ? p->code_cache : CACHE_BYTES;
    w->cache = bt_cache_new(p->mem, bytes);
    if (!w->cache)
        return err_set(e, errno, "code cache of %llu MiB", (unsigned long long)bytes >> 20);
    return p->perf_map ? bt_cache_name_blocks(w->cache, e) : 0;
}

static struct engine_vm *bt_vm_create(const struct engine_vm_params *p, struct err *e) {
    struct engine_vm *vm = interp_vm_create(p, e);
    if (!vm)
        return NULL;
    struct world *w = xcalloc(1, sizeof *w);
    vm->more = w;
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->move_lock, NULL);
    pthread_cond_init(&w->moved, NULL);
    if (make_cache(w, p, e) < 0) {
        bt_vm_destroy(vm);
        return NULL;
    }
    p->mem->code_arg = vm;
    p->mem->code_ops = &code_ops;
    return vm;
}

static struct vcpu *bt_vcpu_create(struct engine_vm *vm, unsigned index, struct err *e) {
    struct bt_cpu *b = aligned_alloc(64, align_up(sizeof *b, 64));
    if (!b) {
        err_set(e, errno, "vCPU %u", index);
        return NULL;
    }
    memset(b, 0, sizeof *b);
    b->cache = ((struct world *)vm->more)->cache;
    b->mask_tlb = (uint64_t)(BT_TLB_SIZE - 1) << PAGE_SHIFT;
    b->mask_above = ~PAGE_MASK;
    b->mask_jump = (uint64_t)(BT_JUMP_SIZE - 1) << 1;
    b->call_out = (uint64_t)(uintptr_t)bt_call_out;
    b->leave = (uint64_t)(uintptr_t)bt_leave;
    b->seen_context = b->seen_space = UINT64_MAX;
    jumps_clear(b);
    for (unsigned k = 0; k < 3; k++)
        tlb_clear(&b->tlb[k]);
    if (interp_cpu_init(&b->c, &engine_bt, vm, index, e) < 0) {
        free(b);
        return NULL;
    }
    return &b->c.v;
}

static void bt_vcpu_destroy(struct vcpu *v) {
    struct bt_cpu *b = bt_of(v);
    interp_cpu_fini(&b->c);
    free(b);
}

/* Loops in translated code store through `poll`: from now on that faults, and the loop is left. */
static void bt_kick(struct vcpu *v) {
    __atomic_store_n(&bt_of(v)->poll, BT_POLL_STOP, __ATOMIC_SEQ_CST);
}

static void bt_stats(struct engine_vm *vm, engine_stat_fn *fn, void *arg) {
    const struct world *w = vm->more;
    const struct bt_stats **each = xcalloc(vm->params.vcpus, sizeof *each);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        each[n] = &((const struct bt_cpu *)(const void *)vm->cpus[n])->stats;
    bt_stats_report(bt_cache_stats(w->cache), each, vm->params.vcpus, fn, arg);
    free(each);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .probe = bt_probe,
    .vm_create = bt_vm_create,
    .vm_destroy = bt_vm_destroy,
    .vcpu_create = bt_vcpu_create,
    .vcpu_destroy = bt_vcpu_destroy,
    .run = bt_run,
    .kick = bt_kick,
    .get_state = interp_get_state,
    .set_state = interp_set_state,
    .set_debug = interp_set_debug,
    .invalidate = interp_invalidate,
    .icount = interp_icount,
    .stats = bt_stats,
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engine `bt`: the loop that enters translated code, and what it comes back for. Code that is
 * neither 64-bit nor flat 32-bit (real and virtual-8086 mode, 16-bit segments, segments with bases
 * or limits), and whatever asks for attention (events, single steps, breakpoints), runs as under
 * the reference engine.
 */
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/where.h"
#include "cpu/bt/bt.h"
#include "cpu/bt/fpu.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/trace.h"

#define SPINS 8                    /* PAUSE instructions until the reference engine sees one */
#define CACHE_BYTES (128ull << 20) /* when nobody says */

static struct bt_cpu *bt_of(struct vcpu *v) {
    return (struct bt_cpu *)(void *)v;
}

/* ---- calls out of translated code ---- */

/*
 * Whether vector instructions may run in place: enabled, as AVX is, and with every exception
 * masked, so that they can raise nothing but what their memory operands do.
 */
bool bt_vector_usable(const struct x86_cpu *c) {
    const uint32_t masks = 0x1f80;
    bool sse = !(c->s.cr0 & (CR0_EM | CR0_TS)) && c->s.cr4 & CR4_OSFXSR;
    bool avx = c->s.cr4 & CR4_OSXSAVE && c->s.xcr0 & XCR0_AVX;
    return sse && (avx || !x86_has(c->cpuid, FEAT_AVX)) && (c->s.fpu.mxcsr & masks) == masks;
}

static uint64_t operand_linear(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    if (s->operand == BT_PUSH)
        return cpu_wrap(c, c->s.gpr[RSP] - (c->mode64 ? 8 : 4));
    if (s->operand == BT_POP)
        return cpu_wrap(c, c->s.gpr[RSP]);
    if (s->operand == BT_FRAME)
        return cpu_wrap(c, c->s.gpr[RBP]);
    const uint64_t *base = c->mode64 ? c->base64 : b->seg_base;
    return cpu_wrap(c, insn_ea(c, s->insn) + base[s->insn->seg]);
}

/* ---- the loop ---- */

/* Code and data from 0 to 4 GiB: what 32-bit systems and their programs have. */
static bool is_flat32(const struct x86_cpu *c) {
    const uint8_t data = 1u << SEG_DS | 1u << SEG_ES | 1u << SEG_SS;
    const struct x86_seg *cs = &c->s.seg[SEG_CS];
    return c->code_size == 32 && (c->flat & data) == data && c->stack_mask == UINT32_MAX &&
           cs->base == 0 && cs->limit == UINT32_MAX && !c->vm86;
}

/* Translated code knows supervisors and users, not what is between. */
static bool runs_translated(const struct x86_cpu *c) {
    return (c->mode64 || is_flat32(c)) && c->tlb != c->tlbs[TLB_OFF] && !c->watching &&
           (c->cpl == 0 || c->cpl == 3);
}

unsigned bt_mode_key(const struct bt_cpu *b) {
    return (b->c.mode64 ? 0 : BT_KEY_32) | (b->vector ? BT_KEY_VECTOR : 0) | bt_tlb_kind(&b->c);
}

bool bt_tsc_in_place(const struct bt_cpu *b) {
    return clock_tsc_is_host(b->c.clock);
}

/* What translated code takes from here without asking. */
static void additions_update(struct bt_cpu *b) {
    const uint64_t nobodys = 1ull << 62;
    struct x86_cpu *c = &b->c;
    for (unsigned n = SEG_FS; n <= SEG_GS && !c->mode64; n++) {
        b->seg_base[n] = c->s.seg[n].base;
        b->seg_limited[n] = seg_is_unlimited(&c->s.seg[n]) ? 0 : nobodys;
    }
    b->no_user_tsc = c->s.cr4 & CR4_TSD;
    b->no_fsgsbase = !(c->s.cr4 & CR4_FSGSBASE);
    b->tsc_add = (uint64_t)(clock_tsc_offset(c->clock) + atomic_load(&c->v.tsc_offset));
}

/* User code that uses vectors keeps them in the host's registers from then on; a kernel, only as
 * long as it does. */
static void choose_vector(struct bt_cpu *b) {
    bool user = b->c.cpl == 3;
    b->user_vector |= user && b->vector_wanted;
    b->vector = (b->vector_wanted || (user && b->user_vector)) && bt_vector_usable(&b->c);
}

/* RF is about breakpoints, and gone after the next instruction. With none set nobody sees it go
 * before. */
static bool needs_attention(struct x86_cpu *c) {
    uint64_t rf = c->s.rflags & FLAG_RF;
    if (likely(!interp_needs_attention(c)))
        return false;
    c->s.rflags &= ~rf;
    bool more = interp_needs_attention(c);
    c->s.rflags |= more ? rf : 0;
    return more;
}

/* ---- going on without the loop ---- */

/* The block of the code at c.s.rip when there is one. */
static struct bt_block *block_known(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    uint64_t gpa;
    if (c->mode64 && !seg_canonical(c, c->s.rip))
        return NULL;
    const uint8_t *host = mmu_fetch(c, c->s.rip, &gpa);
    struct bt_block *k = host ? bt_cache_find(b, host) : NULL;
    if (k)
        bt_jump_learn(b, k);
    return k;
}

static uint64_t code_known(struct bt_cpu *b) {
    uint64_t code = bt_jump_known(b, b->c.s.rip, bt_mode_key(b));
    if (likely(code))
        return code;
    const struct bt_block *k = block_known(b);
    return k ? k->code : 0;
}

/* Nothing else is due before the code at c.s.rip, and it can be looked up. */
static bool may_go_on(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    if (bt_stopped(b) || needs_attention(c) || !runs_translated(c) || c->traced & TRACE_EXEC)
        return false;
    choose_vector(b);
    bt_context_update(b);
    additions_update(b);
    return true;
}

static bool goes_to(struct bt_cpu *b, uint64_t code) {
    b->code_written = false;
    b->page = b->c.s.rip & ~PAGE_MASK;
    b->jump_to = code;
    where_go(WHERE_CODE);
    return true;
}

/* After a call out that changed where or in what mode the code goes on. */
static bool goes_on(struct bt_cpu *b) {
    where_go(WHERE_FIND);
    b->link_exit = NULL;
    uint64_t code = may_go_on(b) ? code_known(b) : 0;
    return code && goes_to(b, code);
}

/* Decoding may stop the world, so the code is left for it, and may be gone afterwards. */
static bool run_crossing(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    bt_code_left(b);
    bt_x87_flush(b);
    interp_op_crossing(c, NULL);
    c->s.rip = cpu_wrap(c, c->next);
    c->icount++;
    bt_x87_check(b);
    return bt_code_entered(b) && goes_on(b);
}

bool bt_site_run(struct bt_cpu *b, const struct bt_site *s) {
    struct x86_cpu *c = &b->c;
    const struct x86_insn *i = s->insn;
    c->s.rip = b->page + s->offset;
    if (i->fn == interp_op_crossing)
        return run_crossing(b);
    uint64_t next = c->s.rip + i->len;
    uint64_t lin = s->operand == BT_NONE ? 0 : operand_linear(b, s);
    c->next = next;
    b->stats.called[i->mnemonic]++;
    where_go(WHERE_FUNCTION);
    if (s->x87 & BT_X87_FLUSH)
        bt_x87_flush(b);
    i->fn(c, i);
    bt_x87_check(b);
    c->s.rip = cpu_wrap(c, c->next);
    c->icount++;
    if (s->leaves || c->next != next || b->code_written || c->context != b->seen_context ||
        c->tlb != b->seen_tlb || (b->vector && !bt_vector_usable(c)) || bt_stopped(b) ||
        interp_needs_attention(c))
        return goes_on(b);
    if (i->flags & INSN_END)
        additions_update(b);
    if (s->x87 & BT_X87_LOAD && !bt_x87_load(b))
        return false;
    if (s->operand != BT_NONE)
        bt_tlb_learn(b, lin);
    where_go(WHERE_CODE);
    return true;
}

static enum bt_exit_kind exit_kind(const struct bt_exit *x) {
    if (!x)
        return BT_EXIT_RESUME;
    if (x->vector || x->x87)
        return x->vector ? BT_EXIT_VECTOR : BT_EXIT_X87;
    return x->single ? BT_EXIT_SINGLE : x->inner ? BT_EXIT_NEAR : BT_EXIT_FAR;
}

/* An exit that can be linked is; of a dead block, the jump table has to learn the successor. */
bool bt_exit_run(struct bt_cpu *b) {
    struct bt_exit *x = b->link_exit;
    b->stats.exits[exit_kind(x)]++;
    where_go(WHERE_FIND);
    if (!x)
        return goes_on(b);
    if (x->vector || x->single || x->x87)
        return false;
    b->c.s.rip = cpu_wrap(&b->c, b->page + (uint64_t)(int64_t)x->target);
    if (!x->inner && x->block->alive)
        return goes_on(b);
    struct bt_block *k = may_go_on(b) ? block_known(b) : NULL;
    if (!k)
        return false;
    if ((b->c.s.rip & ~PAGE_MASK) == b->page)
        bt_cache_link(b->cache, x, k, bt_cache_flushes(b->cache));
    b->link_exit = NULL;
    return goes_to(b, k->code);
}

/* ---- entering ---- */

static void cache_evict(struct bt_cpu *b) {
    struct engine_vm *vm = b->c.v.vm;
    uint64_t bytes;
    bt_world_stop(vm);
    uint64_t code = bt_cache_evict(b->cache, &bytes);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            bt_jumps_forget((struct bt_cpu *)(void *)vm->cpus[n], code, bytes);
    bt_world_go(vm);
}

/* NULL when it is to be interpreted. */
static struct bt_block *block_at(struct bt_cpu *b, const uint8_t *host) {
    struct bt_block *k;
    enum bt_made how = bt_cache_block(b, host, &k);
    if (how == BT_FULL) {
        cache_evict(b);
        how = bt_cache_block(b, host, &k);
    }
    return how == BT_MADE ? k : NULL;
}

static struct bt_block *next_block(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    uint64_t gpa, rip = c->s.rip;
    if (c->mode64 && !seg_canonical(c, rip))
        cpu_raise_err(c, EXC_GP, 0);
    const uint8_t *host = mmu_fetch(c, rip, &gpa);
    return host ? block_at(b, host) : NULL;
}

/* The next jump to it does without the loop; unless each entry is to be seen. */
static void remember(struct bt_cpu *b, struct bt_block *k, uint64_t page) {
    if (unlikely(b->c.traced & TRACE_EXEC)) {
        cpu_trace_entry(&b->c);
        return;
    }
    if (b->link_exit && page == b->page)
        bt_cache_link(b->cache, b->link_exit, k, b->link_flushes);
    bt_jump_learn(b, k);
}

static void enter(struct bt_cpu *b, struct bt_block *k) {
    uint64_t page = b->c.s.rip & ~PAGE_MASK;
    remember(b, k, page);
    b->page = page;
    b->link_exit = NULL;
    b->code_written = b->single_wanted = false;
    b->stats.entered++;
    where_go(WHERE_CODE);
    bt_enter(b, k->code);
    where_go(WHERE_FIND);
    /* Once it is said that the code was left, the exit's record may be gone. */
    if (b->link_exit) {
        b->c.s.rip = cpu_wrap(&b->c, b->page + (uint64_t)(int64_t)b->link_exit->target);
        b->vector_wanted = b->link_exit->vector;
        b->single_wanted = b->link_exit->single;
        b->x87_wanted = b->link_exit->x87;
        b->link_flushes = bt_cache_flushes(b->cache);
    }
    bt_code_left(b);
}

/* Any instruction may come. */
static void interpret(struct bt_cpu *b) {
    b->link_exit = NULL;
    b->single_wanted = false;
    b->stats.interpreted++;
    bt_x87_flush(b);
    where_go(WHERE_FUNCTION);
    interp_run_block(&b->c);
    where_go(WHERE_FIND);
}

/* What the code that comes wants in the host's registers. */
static bool load_wanted(struct bt_cpu *b) {
    bool vector = b->vector_wanted, x87 = b->x87_wanted;
    choose_vector(b);
    b->vector_wanted = b->x87_wanted = false;
    bt_x87_check(b);
    return (!vector || b->vector) && (!x87 || bt_x87_load(b));
}

static void run_code(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    if (!load_wanted(b)) {
        interpret(b); /* raises what has to be raised */
        return;
    }
    bt_context_update(b);
    additions_update(b);
    unsigned flushes = bt_cache_flushes(b->cache);
    struct bt_block *k = next_block(b);
    if (!k) {
        interpret(b);
        return;
    }
    bt_let_run(b);
    if (!bt_code_entered(b))
        return; /* the cache may have been emptied */
    if (interp_needs_attention(c) || flushes != bt_cache_flushes(b->cache)) {
        bt_code_left(b);
        return;
    }
    enter(b, k);
}

/* ---- the loop, around it all ---- */

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
    where_go(WHERE_FIND);
    bt_code_left(b);
    interp_left_block(c);
    b->vector_wanted = b->single_wanted = b->x87_wanted = false;
    b->link_exit = NULL;
    if (why == JMP_FAULT)
        exc_deliver(c);
    for (;;) {
        if (unlikely(needs_attention(c))) {
            b->link_exit = NULL;
            b->single_wanted = b->x87_wanted = false;
            bt_x87_flush(b);
            b->stats.attended++;
            where_go(WHERE_FUNCTION);
            if (interp_attend(c, x))
                return;
            where_go(WHERE_FIND);
        } else if (likely(runs_translated(c))) {
            run_code(b);
        } else {
            interpret(b);
        }
    }
}

/* GS is the thread's own again outside. */
static void bt_run(struct vcpu *v, struct vcpu_exit *x) {
    struct bt_cpu *b = bt_of(v);
    uint64_t outer = get_gs();
    bt_signals_prepare(b);
    set_gs((uint64_t)(uintptr_t)b);
    loop(b, x);
    bt_x87_flush(b);
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
    vm->params.mem->code_ops = NULL;
    bt_cache_free(bt_world_cache(vm));
    bt_world_free(vm->more);
    interp_vm_destroy(vm);
}

/* Nobody may store to the page past the slow path any more. */
static void code_begins(void *arg, uint64_t page) {
    struct engine_vm *vm = arg;
    uint64_t host = (uint64_t)(uintptr_t)vm->params.mem->ram + (page << PAGE_SHIFT);
    bt_world_stop(vm);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        if (vm->cpus[n])
            bt_tlb_forget_writes((struct bt_cpu *)(void *)vm->cpus[n], host);
    bt_world_go(vm);
}

/* A loop within a region does not pass its entry: the others leave, and come back by it. */
static void code_written(void *arg, uint64_t page, uint64_t lines) {
    struct engine_vm *vm = arg;
    bool any = bt_cache_kill(bt_world_cache(vm), page, lines);
    for (unsigned n = 0; n < vm->params.vcpus && any; n++)
        if (vm->cpus[n])
            bt_stop_code((struct bt_cpu *)(void *)vm->cpus[n]);
    if (bt_running())
        bt_running()->code_written = true;
    else
        bt_cache_stats(bt_world_cache(vm))->written_by_devices++;
}

static const struct mem_code_ops code_ops = {.begins = code_begins, .written = code_written};

static struct bt_cache *make_cache(const struct engine_vm_params *p, struct err *e) {
    uint64_t bytes = p->code_cache ? p->code_cache : CACHE_BYTES;
    struct bt_cache *cache = bt_cache_new(p->mem, bytes);
    if (!cache) {
        err_set(e, errno, "code cache of %llu MiB", (unsigned long long)bytes >> 20);
        return NULL;
    }
    if (p->perf_map && bt_cache_name_blocks(cache, e) < 0) {
        bt_cache_free(cache);
        return NULL;
    }
    return cache;
}

static struct engine_vm *bt_vm_create(const struct engine_vm_params *p, struct err *e) {
    struct bt_cache *cache = make_cache(p, e);
    if (!cache)
        return NULL;
    struct engine_vm *vm = interp_vm_create(p, e);
    if (!vm) {
        bt_cache_free(cache);
        return NULL;
    }
    vm->more = bt_world_new(cache);
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
    b->cache = bt_world_cache(vm);
    b->index = bt_cache_index(b->cache);
    b->mask_tlb = (uint64_t)(BT_TLB_SIZE - 1) << PAGE_SHIFT;
    b->mask_above = ~PAGE_MASK;
    b->mask_jump = (uint64_t)(BT_JUMP_SIZE - 1) * (sizeof(struct bt_jump) / 8);
    b->mask_arith = FLAG_ARITH;
    b->mask_not_if = ~(uint64_t)FLAG_IF;
    b->mask_spins = SPINS - 1;
    b->mask_not_df = ~(uint64_t)FLAG_DF;
    b->mask_not_ac = ~(uint64_t)FLAG_AC;
    b->mask_bit = 63;
    for (unsigned k = 0; k < TLB_OFF; k++)
        b->tlb_of[k] = b->c.tlbs[k];
    b->call_out = (uint64_t)(uintptr_t)bt_call_out;
    b->leave = (uint64_t)(uintptr_t)bt_leave;
    b->leave_linked = (uint64_t)(uintptr_t)bt_leave_linked;
    bt_tlb_init(b);
    bt_jumps_init(b);
    bt_x87_init(b);
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

static void bt_kick(struct vcpu *v) {
    bt_stop_code(bt_of(v));
}

static void bt_stats(struct engine_vm *vm, engine_stat_fn *fn, void *arg) {
    const struct bt_stats **each = xcalloc(vm->params.vcpus, sizeof *each);
    for (unsigned n = 0; n < vm->params.vcpus; n++)
        each[n] = &((const struct bt_cpu *)(const void *)vm->cpus[n])->stats;
    bt_stats_report(bt_cache_stats(bt_world_cache(vm)), each, vm->params.vcpus, fn, arg);
    interp_stats(vm, fn, arg);
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

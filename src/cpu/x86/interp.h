/* SPDX-License-Identifier: Apache-2.0 */
/* What the loop of the reference engine offers to the rest of the processor. */
#ifndef RINGFENCE_CPU_X86_INTERP_H
#define RINGFENCE_CPU_X86_INTERP_H

#include <pthread.h>

#include "cpu/x86/cpu.h"

struct err;

/* A domain as the software engines see it. */
struct engine_vm {
    struct engine_vm_params params;
    pthread_mutex_t bus_lock;
    pthread_mutex_t list_lock;
    struct x86_cpu **cpus; /* params.vcpus of them, NULL where there is none */
    void *more;            /* an engine's own part */
};

/* ---- parts of the contract of cpu/engine.h that an engine built on this one takes over ---- */

struct engine_vm *interp_vm_create(const struct engine_vm_params *p, struct err *e);
void interp_vm_destroy(struct engine_vm *vm);
int interp_cpu_init(struct x86_cpu *c, const struct engine_ops *ops, struct engine_vm *vm,
                    unsigned index, struct err *e);
void interp_cpu_fini(struct x86_cpu *c);
void interp_get_state(struct vcpu *v, struct x86_state *s);
void interp_set_state(struct vcpu *v, const struct x86_state *s);
void interp_set_debug(struct vcpu *v, const struct engine_debug *d);
void interp_invalidate(struct engine_vm *vm);
uint64_t interp_icount(const struct vcpu *v);
/* counts.c: what the parts that are shared have counted. */
void interp_stats(struct engine_vm *vm, engine_stat_fn *fn, void *arg);

/* ---- parts of the loop ---- */

/* How a loop's setjmp on c->jmp came back. */
enum { JMP_NONE, JMP_FAULT, JMP_LEFT_BLOCK };

/* Whether something is to be looked at before the next block. */
bool interp_needs_attention(const struct x86_cpu *c);
/* Looks at it, and executes something where nothing is in the way. True when run() must return. */
bool interp_attend(struct x86_cpu *c, struct vcpu_exit *x);
/* Executes the block at c->s.rip. */
void interp_run_block(struct x86_cpu *c);
/* As an instruction's function: what lies at c->s.rip, of which only the beginning is known, for it
 * goes on in the next page. */
x86_op_fn interp_op_crossing;
/* After a fault came back through c->jmp: accounts for the block that was left. */
void interp_left_block(struct x86_cpu *c);

/* This vCPU stored to a page that holds decoded code. */
void interp_code_written(struct x86_cpu *c, uint64_t backing_page);

/* The vm's lock for locked accesses that no host instruction can make atomic. */
void interp_bus_lock(struct x86_cpu *c);
void interp_bus_unlock(struct x86_cpu *c);

/*
 * Host memory of the instruction at `lin` (to the end of its page); NULL when it lies in no memory,
 * then *gpa is its guest-physical address. Raises #PF. (mmu.c)
 */
uint8_t *mmu_fetch(struct x86_cpu *c, uint64_t lin, uint64_t *gpa);

/* ---- debugger's and DR7's data breakpoints (debug.c) ---- */

/* Whether any is set in the page of `lin` (checked when a TLB entry is filled). */
bool debug_page_watched(const struct x86_cpu *c, uint64_t lin);
/* An access was made while some are set: notes what was hit. */
void debug_access(struct x86_cpu *c, uint64_t lin, unsigned size, bool write);
/* Whether an instruction breakpoint may be set in [lin, lin + len), or each instruction is stepped
 * over. */
bool debug_stop_within(const struct x86_cpu *c, uint64_t lin, uint64_t len);
/* Whether the debugger has a breakpoint on exactly this address. */
bool debug_breaks_at(const struct x86_cpu *c, uint64_t lin);
/* Recomputes c->watching and c->stopping after DR7, DR0..3 or the debugger's points changed. */
void debug_update(struct x86_cpu *c);

#endif

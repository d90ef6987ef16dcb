/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the software engines tell a trace (base/trace.h), each about the vCPU as it is at the call.
 * Callers ask first whether that is wanted: c->traced holds the set.
 */
#ifndef RINGFENCE_CPU_X86_TRACE_H
#define RINGFENCE_CPU_X86_TRACE_H

#include "base/trace.h"
#include "cpu/x86/cpu.h"

/* TRACE_INT */
void cpu_trace_event(struct x86_cpu *c, const struct x86_exception *x, uint64_t rip);
void cpu_trace_shutdown(struct x86_cpu *c);
/* TRACE_MODE: a register got a value; the operating mode may be another. */
void cpu_trace_control(struct x86_cpu *c, const char *name, uint64_t was, uint64_t is);
void cpu_trace_mode(struct x86_cpu *c);
/*
 * TRACE_BLOCK: `bytes` of guest code at the linear address `lin`, in memory at `host`, of which
 * `copy` is one. `code` is where `code_bytes` of host code were made of it; 0: it was decoded.
 */
struct cpu_trace_code {
    uint64_t lin;
    const uint8_t *host, *copy;
    uint64_t bytes, code, code_bytes;
};
void cpu_trace_block(struct x86_cpu *c, const struct cpu_trace_code *k);
/* TRACE_EXEC: the code at c->s.rip is entered. */
void cpu_trace_entry(struct x86_cpu *c);
/* TRACE_IO */
void cpu_trace_port(struct x86_cpu *c, bool write, uint16_t port, unsigned size, uint64_t value);
void cpu_trace_mmio(struct x86_cpu *c, bool write, uint64_t gpa, unsigned size, uint64_t value);

#endif

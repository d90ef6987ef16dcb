/* SPDX-License-Identifier: Apache-2.0 */
/* Model-specific registers, as RDMSR and WRMSR see them. */
#ifndef RINGFENCE_CPU_X86_MSR_H
#define RINGFENCE_CPU_X86_MSR_H

#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;

/* The calling vCPU's own thread. False for #GP(0); nothing has changed then. */
bool msr_read(struct x86_cpu *c, uint32_t index, uint64_t *value);
bool msr_write(struct x86_cpu *c, uint32_t index, uint64_t value);

/* The guest's time-stamp counter now. */
uint64_t msr_tsc(const struct x86_cpu *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Between cpumodel.c, which decides what a processor has, and cpuid.c, which puts it into leaves.
 */
#ifndef RINGFENCE_CPU_X86_CPUMODEL_H
#define RINGFENCE_CPU_X86_CPUMODEL_H

#include <stdint.h>

struct x86_cpuid;

/* Fills the leaves from the features, widths, vcpus and tsc_hz of `id`. */
void cpuid_fill(struct x86_cpuid *id, uint32_t signature, const char brand[48]);

#endif

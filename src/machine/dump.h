/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine's processors hold, for people: after a crash, and for a debugger's "monitor regs".
 */
#ifndef RINGFENCE_MACHINE_DUMP_H
#define RINGFENCE_MACHINE_DUMP_H

#include <stdio.h>

struct machine;
struct mem;
struct x86_state;

/* One vCPU: registers, segments, control registers, and the bytes around the instruction pointer.
 */
void dump_vcpu(FILE *f, unsigned index, const struct x86_state *s, const struct mem *m);

/* All vCPUs of a machine that is held. */
void dump_machine(FILE *f, struct machine *m);

#endif

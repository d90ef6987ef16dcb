/* SPDX-License-Identifier: Apache-2.0 */
/* Hardware task switches and the I/O permission map (SDM 3A chapter 7; SDM 1 19.5.2). */
#ifndef RINGFENCE_CPU_X86_TASK_H
#define RINGFENCE_CPU_X86_TASK_H

#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;

enum task_cause { TASK_JUMP, TASK_CALL, TASK_EVENT, TASK_IRET };

struct task_from {
    enum task_cause cause;
    uint64_t rip;   /* saved as EIP of the old task */
    uint64_t flags; /* saved as EFLAGS */
    bool has_error; /* events: push `error` on the new task's stack */
    uint32_t error;
};

/*
 * Switches to the task whose TSS `sel` names. Faults raised up to the point where the new task's
 * state counts leave the old task as it was; later ones find c->s.rip and c->next in the new task.
 */
void task_switch(struct x86_cpu *c, uint16_t sel, const struct task_from *from);
/* IRET with NT set: back to the task in the current TSS's link. `rip` is the address behind IRET.
 */
void task_return(struct x86_cpu *c, uint64_t rip);

/*
 * Whether the TSS's I/O map lets [port, port + size) through. May page-fault. For CPL > IOPL and
 * virtual-8086 mode; the caller has looked at those.
 */
bool task_io_allowed(struct x86_cpu *c, uint16_t port, unsigned size);
/* Virtual-8086 mode with VME: whether INT n goes to the virtual machine's own handler. #GP(0) when
 * the map lies outside the TSS. */
bool task_int_redirected(struct x86_cpu *c, uint8_t vector);

#endif

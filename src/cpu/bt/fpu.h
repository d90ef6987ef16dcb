/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's x87 state in the host's registers; by the vCPU's thread. */
#ifndef RINGFENCE_CPU_BT_FPU_H
#define RINGFENCE_CPU_BT_FPU_H

#include <stdbool.h>

struct bt_cpu;

void bt_x87_init(struct bt_cpu *b);
/* Into the host's registers. False: they cannot be used now. */
bool bt_x87_load(struct bt_cpu *b);
/* To c.s.fpu, before anybody looks there; the host's are as the ABI wants them. */
void bt_x87_flush(struct bt_cpu *b);
/* After CR0 may have changed. */
void bt_x87_check(struct bt_cpu *b);

/* What a call out does about the x87 state: before it, and to go on behind it. */
enum { BT_X87_FLUSH = 1, BT_X87_LOAD = 2 };

#endif

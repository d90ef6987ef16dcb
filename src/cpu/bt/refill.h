/* SPDX-License-Identifier: Apache-2.0 */
/* Between refill.c and refill_quick.c. */
#ifndef RINGFENCE_CPU_BT_REFILL_H
#define RINGFENCE_CPU_BT_REFILL_H

#include <stdbool.h>
#include <stdint.h>

struct bt_cpu;

enum bt_refill { REFILL_FAILED, REFILL_DONE, REFILL_WALK };

/* From the vCPU's TLB alone, with no register but the general ones and no call: vector registers
 * hold the guest's values. */
enum bt_refill bt_refill_quick(struct bt_cpu *b, uint64_t lin, bool write);
/* The code at `sum` less the mode's context key, into the jump table; likewise. */
enum bt_refill bt_find_quick(struct bt_cpu *b, uint64_t sum);
/* Anything goes. */
enum bt_refill bt_refill_walk(struct bt_cpu *b, uint64_t lin, bool write);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What is common to all engines: raising events on a vCPU. */
#include "cpu/engine.h"

void vcpu_raise(struct vcpu *v, uint32_t events) {
    atomic_fetch_or(&v->events, events);
    v->ops->kick(v);
    if (v->wake)
        v->wake(v);
}

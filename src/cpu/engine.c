/* SPDX-License-Identifier: Apache-2.0 */
/* What is common to all engines: raising events on a vCPU. */
#include "cpu/engine.h"

void vcpu_raise(struct vcpu *v, uint32_t events) {
    uint32_t was = atomic_fetch_or(&v->events, events);
    if (was & events & VCPU_EVENT_NMI)
        atomic_fetch_or(&v->events, VCPU_EVENT_NMI_2);
    v->ops->kick(v);
    if (v->wake)
        v->wake(v);
}

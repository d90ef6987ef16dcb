/* SPDX-License-Identifier: Apache-2.0 */
/* The host's time-stamp counter. */
#ifndef RINGFENCE_BASE_TSC_H
#define RINGFENCE_BASE_TSC_H

#include <stdint.h>

/* Its frequency, or 0 when it is not invariant. The first call may take 25 ms to measure. */
uint64_t tsc_host_hz(void);

uint64_t tsc_host_read(void);

#endif

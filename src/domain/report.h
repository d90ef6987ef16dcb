/* SPDX-License-Identifier: Apache-2.0 */
/* What is said about a run after its end. The machine is held. */
#ifndef RINGFENCE_DOMAIN_REPORT_H
#define RINGFENCE_DOMAIN_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct machine;
struct tail;

/* The state of all vCPUs and the last lines of the console, with control characters made visible.
 */
void report_crash(FILE *f, const char *name, struct machine *m, const struct tail *console);

/* Instructions, speed, exits; `ran` is host time in nanoseconds. */
void report_stats(FILE *f, const struct machine *m, uint64_t ran, bool json);

#endif

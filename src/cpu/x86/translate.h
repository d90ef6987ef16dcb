/* SPDX-License-Identifier: Apache-2.0 */
/* Linear to guest-physical without side effects, from architectural state alone: for debuggers and
 * dumps. */
#ifndef RINGFENCE_CPU_X86_TRANSLATE_H
#define RINGFENCE_CPU_X86_TRANSLATE_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/mem.h"

struct x86_state;

/* False when the address is not mapped. Permissions are not looked at; A and D bits are not set. */
bool x86_translate(const struct x86_state *s, const struct mem *m, uint64_t va, gpa_t *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arithmetic flags taken from the host's own instruction: LAHF and SETO behind it give all six,
 * also those that the manual leaves undefined, without the cost of PUSHF.
 */
#ifndef RINGFENCE_CPU_X86_HOSTFLAGS_H
#define RINGFENCE_CPU_X86_HOSTFLAGS_H

#include <stdint.h>

#include "cpu/x86/state.h"

/* Assembler text: flags into AX ("=&a"(uint16_t)). */
#define TAKE_FLAGS "\n\tlahf\n\tseto %%al"

static inline uint32_t flags_unpack(uint16_t ax) {
    return (ax >> 8 & (FLAG_ARITH & 0xff)) | (uint32_t)(ax & 1) << 11;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The sixteen conditions of Jcc, SETcc and CMOVcc by their encoding (SDM 1, appendix B). */
#ifndef RINGFENCE_CPU_X86_COND_H
#define RINGFENCE_CPU_X86_COND_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/state.h"

/* cc: arithmetic flags in their RFLAGS positions. */
static inline bool cond_holds(uint32_t cc, unsigned code) {
    bool less = (cc >> 7 ^ cc >> 11) & 1; /* SF != OF */
    bool yes;
    switch (code >> 1 & 7) {
    case 0:
        yes = cc & FLAG_OF;
        break;
    case 1:
        yes = cc & FLAG_CF;
        break;
    case 2:
        yes = cc & FLAG_ZF;
        break;
    case 3:
        yes = cc & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        yes = cc & FLAG_SF;
        break;
    case 5:
        yes = cc & FLAG_PF;
        break;
    case 6:
        yes = less;
        break;
    default:
        yes = less || cc & FLAG_ZF;
        break;
    }
    return yes != (code & 1);
}

#endif

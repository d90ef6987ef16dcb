/* SPDX-License-Identifier: Apache-2.0 */
/* A processor that spins with interrupts off: --timeout ends it, with status 124. */
#include "lib.h"

int main(void) {
    check(true, "spinning", " ");
    cli();
    for (;;)
        asm volatile("");
}

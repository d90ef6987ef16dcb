/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI S5: the run ends with status 0. */
#include "lib.h"

int main(void) {
    check(true, "still here before it", " ");
    outw(0x604, 0x3400); /* SLP_EN, SLP_TYP 5 */
    for (volatile unsigned i = 0; i < 1000000000; i++)
        ;
    check(false, "power off", "code after it ran");
    return 0;
}

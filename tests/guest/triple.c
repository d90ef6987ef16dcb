/* SPDX-License-Identifier: Apache-2.0 */
/* A triple fault: no IDT is left for the exception, the #GP it raises, or the #DF that makes. The
 * run ends with status 3. */
#include "lib.h"

int main(void) {
    struct table_register none = {0, 0};

    check(true, "still here before it", " ");
    asm volatile("lidt %0; ud2" ::"m"(none));
    check(false, "triple fault", "code after it ran");
    return 0;
}

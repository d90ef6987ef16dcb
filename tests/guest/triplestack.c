/* SPDX-License-Identifier: Apache-2.0 */
/* A triple fault in the middle of a loop: its stack ends, and neither the page fault nor the double
 * fault has one. The run ends with status 3. */
#include "lib.h"
#include "paging.h"

#define V 0x20000000000ul

int main(void) {
    page_map(V, 0, 1, 0);
    page_map(V + 4096, (ulong)page_alloc(1), 1, PTE_P | PTE_W);
    check(true, "still here before it", " ");
    asm volatile("mov %0, %%rsp; 1: push %%rax; inc %%rax; jmp 1b" ::"r"(V + 8192) : "memory");
    check(false, "triple fault", "code after it ran");
    return 0;
}

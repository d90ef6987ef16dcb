/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory for targets that load kernels into it. */
#ifndef RINGFENCE_TESTS_FUZZ_GUEST_H
#define RINGFENCE_TESTS_FUZZ_GUEST_H

#include <stdlib.h>

#include "boot/e820.h"
#include "mem/mem.h"

#define RAM_BYTES (4ull << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem *fuzz_guest(struct e820_layout *layout) {
    struct mem *m;

    if (e820_layout_init(layout, RAM_BYTES, NULL) < 0 || !(m = mem_new(RAM_BYTES, 0, NULL)))
        abort();
    for (unsigned i = 0; i < layout->ram_count; i++)
        if (mem_add_ram(m, GPA(layout->ram[i].gpa), layout->ram[i].size, layout->ram[i].backing,
                        NULL) < 0)
            abort();
    return m;
}

#endif

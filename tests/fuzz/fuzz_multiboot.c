/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot headers, flat and ELF images, loaded into a small guest. */
#include <stdlib.h>
#include <string.h>

#include "boot/e820.h"
#include "boot/loader.h"
#include "boot/multiboot.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

#define RAM_BYTES (4ull << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct e820_layout layout;

static struct mem *guest(void) {
    struct mem *m;

    if (e820_layout_init(&layout, RAM_BYTES, NULL) < 0 || !(m = mem_new(RAM_BYTES, 0, NULL)))
        abort();
    for (unsigned i = 0; i < layout.ram_count; i++)
        if (mem_add_ram(m, GPA(layout.ram[i].gpa), layout.ram[i].size, layout.ram[i].backing,
                        NULL) < 0)
            abort();
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct mem *m;
    struct x86_state bsp = {0};
    struct loader l = {.kernel = "fuzz", .cmdline = "", .bsp = &bsp};

    if (!m)
        m = guest();
    place_init(&l.place, m, &layout);
    multiboot_load(&l, data, size, NULL);
    return 0;
}

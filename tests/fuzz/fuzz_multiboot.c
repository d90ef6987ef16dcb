/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot headers, flat and ELF images, loaded into a small guest. */
#include <stdlib.h>
#include <string.h>

#include "boot/e820.h"
#include "boot/loader.h"
#include "boot/multiboot.h"
#include "cpu/x86/state.h"
#include "fuzz_guest.h"
#include "mem/mem.h"

static struct e820_layout layout;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct mem *m;
    struct x86_state bsp = {0};
    struct loader l = {.kernel = "fuzz", .cmdline = "", .bsp = &bsp};

    if (!m)
        m = fuzz_guest(&layout);
    place_init(&l.place, m, &layout);
    multiboot_load(&l, data, size, NULL);
    return 0;
}

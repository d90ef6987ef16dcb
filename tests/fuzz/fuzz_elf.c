/* SPDX-License-Identifier: Apache-2.0 */
/* ELF headers, notes, and loading into a small guest. */
#include <stdlib.h>
#include <string.h>

#include "boot/e820.h"
#include "boot/elf.h"
#include "boot/loader.h"
#include "boot/pvh.h"
#include "cpu/x86/state.h"
#include "dev/pc_layout.h"
#include "fuzz_guest.h"
#include "mem/mem.h"

static struct e820_layout layout;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct mem *m;
    struct x86_state bsp = {0};
    struct loader l = {.kernel = "fuzz", .cmdline = "", .bsp = &bsp};
    struct elf elf;

    if (!m)
        m = fuzz_guest(&layout);
    place_init(&l.place, m, &layout);
    if (elf_parse(&elf, data, size, NULL) == 0) {
        elf_entry_paddr(&elf);
        pvh_load(&l, &elf, PC_HOLE, 100, NULL);
    }
    return 0;
}

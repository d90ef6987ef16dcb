/* SPDX-License-Identifier: Apache-2.0 */
/* A page walk that only looks (SDM 3A chapter 4): for debuggers and dumps, whatever the engine. */
#include "cpu/x86/translate.h"

#include "cpu/x86/state.h"

#define ENTRY_ADDR 0x000ffffffffff000ull
enum { ENTRY_P = 1, ENTRY_PS = 1 << 7 };

static bool leaf(uint64_t entry, uint64_t bytes, uint64_t va, gpa_t *out) {
    *out = GPA((entry & ENTRY_ADDR & ~(bytes - 1)) | (va & (bytes - 1)));
    return true;
}

static bool translate_32(const struct x86_state *s, const struct mem *m, uint64_t va, gpa_t *out) {
    uint32_t pde, pte;
    if (mem_read(m, GPA((s->cr3 & 0xfffff000u) + (va >> 22 & 0x3ff) * 4), &pde, 4) ||
        !(pde & ENTRY_P))
        return false;
    if (pde & ENTRY_PS && s->cr4 & CR4_PSE) {
        uint64_t high = (uint64_t)(pde >> 13 & 0xff) << 32; /* PSE-36 */
        return leaf((pde & 0xffc00000u) | high, 4ull << 20, va, out);
    }
    if (mem_read(m, GPA((pde & 0xfffff000u) + (va >> 12 & 0x3ff) * 4), &pte, 4) || !(pte & ENTRY_P))
        return false;
    return leaf(pte, PAGE_SIZE, va, out);
}

/* From the table of `shift` (39, 30 or 21) down to a page. */
static bool translate_wide(const struct mem *m, uint64_t table, unsigned shift, uint64_t va,
                           gpa_t *out) {
    for (;; shift -= 9) {
        uint64_t e;
        if (mem_read(m, GPA((table & ENTRY_ADDR) + (va >> shift & 0x1ff) * 8), &e, 8) ||
            !(e & ENTRY_P))
            return false;
        if (shift == 12 || (shift < 39 && e & ENTRY_PS))
            return leaf(e, 1ull << shift, va, out);
        table = e;
    }
}

bool x86_translate(const struct x86_state *s, const struct mem *m, uint64_t va, gpa_t *out) {
    bool lma = s->efer & EFER_LMA;
    if (!lma)
        va &= UINT32_MAX;
    if (!(s->cr0 & CR0_PG)) {
        *out = GPA(va);
        return true;
    }
    if (lma)
        return translate_wide(m, s->cr3, 39, va, out);
    if (!(s->cr4 & CR4_PAE))
        return translate_32(s, m, va, out);
    uint64_t pdpte = s->pdpte[va >> 30 & 3];
    return pdpte & ENTRY_P && translate_wide(m, pdpte, 21, va, out);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What of two machines is compared, and how a difference is told. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mem/mem.h"
#include "twin.h"

#define SHOWN 12u

void twin_say(const struct twin *t, const char *format, ...) {
    char line[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    t->say(line);
}

/* The state as arrays of one size each. */
#define PART(name, field, bytes)                                                                   \
    { name, offsetof(struct x86_state, field), sizeof((struct x86_state *)0)->field, bytes }
#define SEGMENT(name, n)                                                                           \
    PART(name " base", seg[n].base, 8), PART(name " limit", seg[n].limit, 4),                      \
        PART(name " attributes", seg[n].attr, 4), PART(name, seg[n].sel, 2)
static const struct part {
    const char *name;
    size_t at, size;
    unsigned each;
} parts[] = {
    PART("register", gpr, 8),
    PART("rip", rip, 8),
    PART("rflags", rflags, 8),
    SEGMENT("es", SEG_ES),
    SEGMENT("cs", SEG_CS),
    SEGMENT("ss", SEG_SS),
    SEGMENT("ds", SEG_DS),
    SEGMENT("fs", SEG_FS),
    SEGMENT("gs", SEG_GS),
    PART("ldtr base", ldtr.base, 8),
    PART("ldtr", ldtr.sel, 2),
    PART("tr base", tr.base, 8),
    PART("tr", tr.sel, 2),
    PART("tr attributes", tr.attr, 4),
    PART("gdtr base", gdtr.base, 8),
    PART("gdtr limit", gdtr.limit, 2),
    PART("idtr base", idtr.base, 8),
    PART("idtr limit", idtr.limit, 2),
    PART("cr0", cr0, 8),
    PART("cr2", cr2, 8),
    PART("cr3", cr3, 8),
    PART("cr4", cr4, 8),
    PART("xcr0", xcr0, 8),
    PART("efer", efer, 8),
    PART("dr", dr, 8),
    PART("pdpte", pdpte, 8),
    PART("msr", msr, 8),
    PART("tsc offset", tsc_offset, 8),
    PART("pkru", pkru, 4),
    PART("fcw", fpu.fcw, 2),
    PART("fsw", fpu.fsw, 2),
    PART("ftw", fpu.ftw, 1),
    PART("fop", fpu.fop, 2),
    PART("fip", fpu.fip, 8),
    PART("fdp", fpu.fdp, 8),
    PART("mxcsr", fpu.mxcsr, 4),
    PART("st", fpu.st, 2),
    PART("zmm", fpu.zmm, 8),
    PART("k", fpu.k, 8),
    PART("pending debug conditions", dr6_pending, 8),
    PART("nmi blocked", nmi_blocked, 1),
    PART("activity", activity, 4),
    PART("shadow of sti", shadow_sti, 1),
    PART("shadow of mov ss", shadow_movss, 1),
    PART("nmi pending", nmi_pending, 1),
};

static unsigned compare_part(const struct twin *t, const struct part *p, const void *a,
                             const void *b) {
    unsigned found = 0;
    for (size_t at = 0; at < p->size; at += p->each) {
        uint64_t x = 0, y = 0;
        memcpy(&x, (const uint8_t *)a + p->at + at, p->each);
        memcpy(&y, (const uint8_t *)b + p->at + at, p->each);
        if (x == y)
            continue;
        found++;
        twin_say(t, "#   %s %zu: %llx in the reference, %llx", p->name, at / p->each,
                 (unsigned long long)x, (unsigned long long)y);
    }
    return found;
}

unsigned twin_compare_states(const struct twin *t, const struct x86_state *a,
                             const struct x86_state *b) {
    unsigned found = 0;
    for (size_t n = 0; n < ARRAY_LEN(parts); n++)
        found += compare_part(t, &parts[n], a, b);
    return found;
}

static unsigned compare_page(const struct twin *t, uint64_t page, bool quiet) {
    const uint8_t *a = t->side[REFERENCE].m->mem->ram + page * PAGE_SIZE;
    const uint8_t *b = t->side[OTHER].m->mem->ram + page * PAGE_SIZE;
    unsigned found = 0;
    if (memcmp(a, b, PAGE_SIZE) == 0)
        return 0;
    for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
        uint64_t x, y;
        memcpy(&x, a + at, 8);
        memcpy(&y, b + at, 8);
        if (x == y)
            continue;
        if (!quiet && found < SHOWN)
            twin_say(t, "#   memory %llx: %016llx in the reference, %016llx",
                     (unsigned long long)(page * PAGE_SIZE + at), (unsigned long long)x,
                     (unsigned long long)y);
        found++;
    }
    return found;
}

unsigned twin_compare_memory(const struct twin *t, bool all, bool quiet) {
    unsigned found = 0;
    for (unsigned n = 0; n < HOT_PAGES && !all; n++)
        found += compare_page(t, t->hot[n], quiet);
    for (uint64_t n = 0; n < t->dirty_words && !(found && quiet); n++)
        for (uint64_t bits = all ? UINT64_MAX : t->dirty[n]; bits; bits &= bits - 1) {
            uint64_t page = n * 64 + (uint64_t)__builtin_ctzll(bits);
            if (page < t->ram_bytes / PAGE_SIZE)
                found += compare_page(t, page, quiet);
        }
    return found;
}

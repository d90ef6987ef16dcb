/* SPDX-License-Identifier: Apache-2.0 */
/* State dumps in the order that kernel developers know from their own kernels' oopses. */
#include "machine/dump.h"

#include <inttypes.h>

#include "base/util.h"
#include "cpu/x86/state.h"
#include "cpu/x86/translate.h"
#include "machine/pc.h"
#include "mem/mem.h"

static const char *mode_name(const struct x86_state *s) {
    const struct x86_seg *cs = &s->seg[SEG_CS];

    if (!(s->cr0 & CR0_PE))
        return "real mode";
    if (s->rflags & FLAG_VM)
        return "virtual-8086 mode";
    if (s->efer & EFER_LMA)
        return cs->attr & SEG_L ? "64-bit mode" : "compatibility mode";
    return cs->attr & SEG_DB ? "32-bit protected mode" : "16-bit protected mode";
}

static void dump_gprs(FILE *f, const struct x86_state *s) {
    static const struct {
        const char *name;
        uint8_t index;
    } order[] = {{"RAX", RAX}, {"RBX", RBX}, {"RCX", RCX}, {"RDX", RDX}, {"RSI", RSI}, {"RDI", RDI},
                 {"RBP", RBP}, {"RSP", RSP}, {"R8 ", R8},  {"R9 ", R9},  {"R10", R10}, {"R11", R11},
                 {"R12", R12}, {"R13", R13}, {"R14", R14}, {"R15", R15}};

    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        fprintf(f, "%s%s=%016" PRIx64 "%s", i % 4 ? " " : "  ", order[i].name,
                s->gpr[order[i].index], i % 4 == 3 ? "\n" : "");
}

static void dump_flags(FILE *f, const struct x86_state *s) {
    static const struct {
        const char *name;
        uint32_t bit;
    } flags[] = {{"CF", FLAG_CF}, {"PF", FLAG_PF}, {"AF", FLAG_AF}, {"ZF", FLAG_ZF},
                 {"SF", FLAG_SF}, {"TF", FLAG_TF}, {"IF", FLAG_IF}, {"DF", FLAG_DF},
                 {"OF", FLAG_OF}, {"NT", FLAG_NT}, {"RF", FLAG_RF}, {"VM", FLAG_VM},
                 {"AC", FLAG_AC}, {"ID", FLAG_ID}};

    fprintf(f, "  RIP=%016" PRIx64 " RFLAGS=%08" PRIx64 " [", s->rip, s->rflags);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (s->rflags & flags[i].bit)
            fprintf(f, " %s", flags[i].name);
    fprintf(f, " ] CPL=%u\n", (s->seg[SEG_SS].attr & SEG_DPL) >> 5);
}

static void dump_segment(FILE *f, const char *name, const struct x86_seg *seg) {
    fprintf(f, "  %-4s=%04x base=%016" PRIx64 " limit=%08x attr=%05x%s\n", name, seg->sel,
            seg->base, seg->limit, seg->attr, seg->attr & SEG_UNUSABLE ? " (null)" : "");
}

static void dump_segments(FILE *f, const struct x86_state *s) {
    static const char *const names[] = {"ES", "CS", "SS", "DS", "FS", "GS"};

    for (unsigned i = 0; i < 6; i++)
        dump_segment(f, names[i], &s->seg[i]);
    dump_segment(f, "LDTR", &s->ldtr);
    dump_segment(f, "TR", &s->tr);
    fprintf(f, "  GDTR base=%016" PRIx64 " limit=%04x  IDTR base=%016" PRIx64 " limit=%04x\n",
            s->gdtr.base, s->gdtr.limit, s->idtr.base, s->idtr.limit);
}

static void dump_control(FILE *f, const struct x86_state *s) {
    fprintf(f,
            "  CR0=%08" PRIx64 " CR2=%016" PRIx64 " CR3=%016" PRIx64 " CR4=%08" PRIx64
            " EFER=%04" PRIx64 " XCR0=%" PRIx64 "\n",
            s->cr0, s->cr2, s->cr3, s->cr4, s->efer, s->xcr0);
    fprintf(f, "  DR6=%08" PRIx64 " DR7=%08" PRIx64 "\n", s->dr[6], s->dr[7]);
}

static bool read_byte(const struct x86_state *s, const struct mem *m, uint64_t va, uint8_t *byte) {
    gpa_t gpa;

    return x86_translate(s, m, va, &gpa) && mem_read(m, gpa, byte, 1) == 0;
}

/* As Linux prints it: the byte at RIP in brackets. */
static void dump_code(FILE *f, const struct x86_state *s, const struct mem *m) {
    uint64_t at = s->seg[SEG_CS].base + s->rip;

    fprintf(f, "  Code:");
    for (uint64_t va = at - 16; va != at + 16; va++) {
        uint8_t byte;

        if (!read_byte(s, m, va, &byte))
            fprintf(f, va == at ? " <\?\?>" : " \?\?");
        else
            fprintf(f, va == at ? " <%02x>" : " %02x", byte);
    }
    fputc('\n', f);
}

void dump_vcpu(FILE *f, unsigned index, const struct x86_state *s, const struct mem *m) {
    static const char *const activity[] = {"running", "halted", "waiting for SIPI", "shut down"};

    fprintf(f, "vCPU %u: %s, %s\n", index, activity[s->activity & 3], mode_name(s));
    dump_flags(f, s);
    dump_gprs(f, s);
    dump_segments(f, s);
    dump_control(f, s);
    dump_code(f, s, m);
}

void dump_machine(FILE *f, struct machine *m) {
    struct x86_state s;

    for (unsigned i = 0; i < m->params.vcpus; i++) {
        m->vcpus[i]->ops->get_state(m->vcpus[i], &s);
        dump_vcpu(f, i, &s, m->mem);
    }
}

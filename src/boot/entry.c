/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry states: Xen's PVH ABI (docs/misc/pvh.pandoc), Multiboot 0.6.96 section 3.2, and Linux's
 * Documentation/x86/boot.rst ("32-bit Boot Protocol", "64-bit Boot Protocol", "Running the
 * Kernel").
 */
#include "boot/entry.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/place.h"
#include "cpu/x86/state.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

enum {
    CODE32 = SEG_G | SEG_DB | SEG_P | SEG_S | 0xb, /* execute, read, accessed */
    CODE64 = SEG_G | SEG_L | SEG_P | SEG_S | 0xb,
    DATA32 = SEG_G | SEG_DB | SEG_P | SEG_S | 0x3, /* read, write, accessed */
    TSS_BUSY = SEG_P | 0xb,
    LDT = SEG_P | 0x2,
};

enum { PTE_P = 1 << 0, PTE_W = 1 << 1, PTE_PS = 1 << 7 };

/* Memory types and MTRR bits (SDM 3A 12.11). */
enum { MTRR_UC = 0, MTRR_WP = 5, MTRR_WB = 6 };
enum { MTRR_MASK_VALID = 1 << 11, MTRR_DEF_FIXED = 1 << 10, MTRR_DEF_ENABLE = 1 << 11 };
/* A fixed-range register's eight ranges, all alike. */
#define MTRR_ALL(type) ((uint64_t)(type)*0x0101010101010101ull)

#define GDT_ENTRIES 4
#define PT_ENTRIES 512
#define PT_DIRS 4 /* of 1 GiB each */

/* A flat descriptor with these attributes. */
static uint64_t descriptor(uint32_t attr) {
    return 0x000f00000000ffffull | (uint64_t)(attr & 0xff) << 40 | (uint64_t)(attr >> 12) << 52;
}

static struct x86_seg flat(uint16_t sel, uint32_t attr) {
    return (struct x86_seg){.base = 0, .limit = 0xffffffff, .attr = attr, .sel = sel};
}

static int write_gdt(struct place *p, struct x86_state *s, uint32_t code, struct err *e) {
    const uint64_t gdt[GDT_ENTRIES] = {0, 0, descriptor(code), descriptor(DATA32)};
    uint64_t base;
    void *host = place_low(p, sizeof(gdt), 64, 0, PC_HOLE, "descriptor table", &base);

    if (!host)
        return err_set(e, 0, "no room for a descriptor table");
    memcpy(host, gdt, sizeof(gdt));
    s->gdtr = (struct x86_dtr){base, sizeof(gdt) - 1};
    return 0;
}

static int enter_flat(struct place *p, struct x86_state *s, uint32_t code, struct err *e) {
    int r = write_gdt(p, s, code, e);

    if (r < 0)
        return r;
    memset(s->gpr, 0, sizeof(s->gpr));
    s->rflags = FLAG_FIXED;
    s->seg[SEG_CS] = flat(ENTRY_CS, code);
    for (enum x86_sreg i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS)
            s->seg[i] = flat(ENTRY_DS, DATA32);
    s->tr = (struct x86_seg){.limit = 0x67, .attr = TSS_BUSY};
    s->ldtr = (struct x86_seg){.attr = LDT | SEG_UNUSABLE};
    s->idtr = (struct x86_dtr){0, 0};
    return 0;
}

int entry_protected(struct place *p, struct x86_state *s, uint32_t eip, struct err *e) {
    int r = enter_flat(p, s, CODE32, e);

    s->rip = eip;
    s->cr0 = CR0_PE | CR0_ET;
    s->cr4 = 0;
    s->efer = 0;
    return r;
}

/* A PML4, a page-directory-pointer table, and four directories of 2 MiB pages. */
static void identity_map(uint64_t *t, uint64_t base) {
    uint64_t *pdpt = t + PT_ENTRIES, *pd = t + 2 * PT_ENTRIES;

    memset(t, 0, 2 * PAGE_SIZE);
    t[0] = (base + PAGE_SIZE) | PTE_P | PTE_W;
    for (uint64_t i = 0; i < PT_DIRS; i++)
        pdpt[i] = (base + (2 + i) * PAGE_SIZE) | PTE_P | PTE_W;
    for (uint64_t i = 0; i < PT_DIRS * PT_ENTRIES; i++)
        pd[i] = i << 21 | PTE_P | PTE_W | PTE_PS;
}

int entry_long(struct place *p, struct x86_state *s, uint64_t rip, struct err *e) {
    uint64_t base;
    uint64_t *tables =
        place_low(p, (2 + PT_DIRS) * PAGE_SIZE, PAGE_SIZE, 0, PC_HOLE, "page tables", &base);
    int r;

    if (!tables)
        return err_set(e, 0, "no room for page tables");
    r = enter_flat(p, s, CODE64, e);
    identity_map(tables, base);
    s->rip = rip;
    s->cr0 = CR0_PE | CR0_ET | CR0_PG;
    s->cr3 = base;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    return r;
}

static struct x86_seg real(uint16_t sel, uint32_t attr) {
    return (struct x86_seg){.base = (uint64_t)sel << 4, .limit = 0xffff, .attr = attr, .sel = sel};
}

void entry_real(struct x86_state *s, uint16_t cs, uint16_t ds, uint16_t sp) {
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[RSP] = sp;
    s->rip = 0;
    s->rflags = FLAG_FIXED;
    s->seg[SEG_CS] = real(cs, SEG_P | SEG_S | 0xb);
    for (enum x86_sreg i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS)
            s->seg[i] = real(ds, SEG_P | SEG_S | 0x3);
}

/* The fixed ranges are one register up to 512 KiB, two up to 768 KiB, eight up to 1 MiB. */
void entry_memory_types(struct x86_state *s, unsigned phys_bits) {
    uint64_t *fixed = s->msr.mtrr_fixed;

    fixed[0] = fixed[1] = MTRR_ALL(MTRR_WB);
    fixed[2] = MTRR_ALL(MTRR_UC);
    for (size_t i = 3; i < ARRAY_LEN(s->msr.mtrr_fixed); i++)
        fixed[i] = MTRR_ALL(MTRR_WP);
    s->msr.mtrr_base[0] = PC_HOLE | MTRR_UC;
    s->msr.mtrr_mask[0] = (((1ull << phys_bits) - 1) & ~(PC_HIGH - PC_HOLE - 1)) | MTRR_MASK_VALID;
    s->msr.mtrr_def_type = MTRR_DEF_ENABLE | MTRR_DEF_FIXED | MTRR_WB;
}

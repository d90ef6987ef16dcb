/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Register numbers follow the order of the target description below, which is that of gdb's own
 * 64bit-core, 64bit-sse, 64bit-linux, 64bit-segments and 64bit-avx descriptions; behind them come
 * system registers that gdb has no name of its own for.
 */
#include "machine/gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cpu/x86/state.h"

enum reg_kind {
    R_GPR,
    R_RIP,
    R_EFLAGS,
    R_SELECTOR,
    R_ST,
    R_X87,
    R_XMM,
    R_MXCSR,
    R_ORIG_RAX,
    R_BASE,
    R_YMMH,
    R_SYSTEM,
};

/* `count` registers of one kind: index `first`, `first` + 1, … */
struct reg_group {
    enum reg_kind kind;
    uint8_t first, count, bits;
    const char *feature; /* set where a feature starts */
    const char *type;
    const char *const *names; /* or NULL: name_format with the index */
    const char *name_format;
};

static const char *const gpr_names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const uint8_t gpr_index[] = {RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP,
                                    R8,  R9,  R10, R11, R12, R13, R14, R15};
static const char *const selector_names[] = {"cs", "ss", "ds", "es", "fs", "gs"};
static const uint8_t selector_index[] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};
static const char *const x87_names[] = {"fctrl", "fstat", "ftag",  "fiseg",
                                        "fioff", "foseg", "fooff", "fop"};
static const char *const base_names[] = {"fs_base", "gs_base"};
static const char *const system_names[] = {"cr0",     "cr2",       "cr3",       "cr4",
                                           "efer",    "k_gs_base", "gdtr_base", "idtr_base",
                                           "tr_base", "cs_base"};

static const struct reg_group groups[] = {
    {R_GPR, 0, 16, 64, "org.gnu.gdb.i386.core", "int64", gpr_names, NULL},
    {R_RIP, 0, 1, 64, NULL, "code_ptr", NULL, "rip"},
    {R_EFLAGS, 0, 1, 32, NULL, "i386_eflags", NULL, "eflags"},
    {R_SELECTOR, 0, 6, 32, NULL, "int32", selector_names, NULL},
    {R_ST, 0, 8, 80, NULL, "i387_ext", NULL, "st%u"},
    {R_X87, 0, 8, 32, NULL, "int", x87_names, NULL},
    {R_XMM, 0, 16, 128, "org.gnu.gdb.i386.sse", "vec128", NULL, "xmm%u"},
    {R_MXCSR, 0, 1, 32, NULL, "i386_mxcsr", NULL, "mxcsr"},
    {R_ORIG_RAX, 0, 1, 64, "org.gnu.gdb.i386.linux", "int", NULL, "orig_rax"},
    {R_BASE, 0, 2, 64, "org.gnu.gdb.i386.segments", "int", base_names, NULL},
    {R_YMMH, 0, 16, 128, "org.gnu.gdb.i386.avx", "uint128", NULL, "ymm%uh"},
    {R_SYSTEM, 0, ARRAY_LEN(system_names), 64, "org.ringfence.system", "int64", system_names, NULL},
};

static const struct reg_group *find(unsigned n, unsigned *index) {
    for (size_t g = 0; g < ARRAY_LEN(groups); g++) {
        if (n < groups[g].count) {
            *index = n;
            return &groups[g];
        }
        n -= groups[g].count;
    }
    return NULL;
}

unsigned gdb_reg_count(void) {
    unsigned n = 0;

    for (size_t g = 0; g < ARRAY_LEN(groups); g++)
        n += groups[g].count;
    return n;
}

unsigned gdb_reg_size(unsigned n) {
    unsigned index;
    const struct reg_group *g = find(n, &index);

    return g ? g->bits / 8 : 0;
}

/* The two bits of the full tag word for ST(i) (SDM 1, 8.1.7): 0 valid, 1 zero, 2 special, 3 empty.
 */
static unsigned tag_of(const struct x86_fpu *f, unsigned physical) {
    unsigned top = f->fsw >> 11 & 7;
    const uint8_t *st = f->st[(physical - top) & 7];
    uint64_t mantissa;
    uint16_t exponent;

    if (!(f->ftw >> physical & 1))
        return 3;
    memcpy(&mantissa, st, 8);
    memcpy(&exponent, st + 8, 2);
    exponent &= 0x7fff;
    if (exponent == 0 && mantissa == 0)
        return 1;
    return exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static uint32_t x87_read(const struct x86_fpu *f, unsigned index) {
    uint32_t tags = 0;

    switch (index) {
    case 0:
        return f->fcw;
    case 1:
        return f->fsw;
    case 2:
        for (unsigned i = 0; i < 8; i++)
            tags |= tag_of(f, i) << 2 * i;
        return tags;
    case 3:
        return f->fcs;
    case 4:
        return (uint32_t)f->fip;
    case 5:
        return f->fds;
    case 6:
        return (uint32_t)f->fdp;
    default:
        return f->fop;
    }
}

static void x87_write(struct x86_fpu *f, unsigned index, uint32_t v) {
    switch (index) {
    case 0:
        f->fcw = (uint16_t)v;
        break;
    case 1:
        f->fsw = (uint16_t)v;
        break;
    case 2:
        f->ftw = 0;
        for (unsigned i = 0; i < 8; i++)
            f->ftw |= (uint8_t)(((v >> 2 * i & 3) != 3) << i);
        break;
    case 3:
        f->fcs = (uint16_t)v;
        break;
    case 4:
        f->fip = v;
        break;
    case 5:
        f->fds = (uint16_t)v;
        break;
    case 6:
        f->fdp = v;
        break;
    default:
        f->fop = v & 0x7ff;
    }
}

static uint64_t system_read(const struct x86_state *s, unsigned index) {
    const uint64_t values[] = {s->cr0,       s->cr2,
                               s->cr3,       s->cr4,
                               s->efer,      s->msr.kernel_gs_base,
                               s->gdtr.base, s->idtr.base,
                               s->tr.base,   s->seg[SEG_CS].base};

    return values[index];
}

/* A register of at most 8 bytes. */
static uint64_t scalar_read(const struct x86_state *s, const struct reg_group *g, unsigned index) {
    switch (g->kind) {
    case R_GPR:
        return s->gpr[gpr_index[index]];
    case R_RIP:
        return s->rip;
    case R_EFLAGS:
        return s->rflags;
    case R_SELECTOR:
        return s->seg[selector_index[index]].sel;
    case R_X87:
        return x87_read(&s->fpu, index);
    case R_MXCSR:
        return s->fpu.mxcsr;
    case R_BASE:
        return s->seg[SEG_FS + index].base;
    case R_SYSTEM:
        return system_read(s, index);
    default:
        return UINT64_MAX; /* orig_rax: not in a system call, as far as gdb is concerned */
    }
}

void gdb_reg_read(const struct x86_state *s, unsigned n, uint8_t out[GDB_REG_MAX]) {
    unsigned index = 0;
    const struct reg_group *g = find(n, &index);
    uint64_t v;

    memset(out, 0, GDB_REG_MAX);
    if (!g)
        return;
    if (g->kind == R_ST) {
        memcpy(out, s->fpu.st[index], 10);
    } else if (g->kind == R_XMM) {
        memcpy(out, s->fpu.zmm[index], 16);
    } else if (g->kind == R_YMMH) {
        memcpy(out, s->fpu.zmm[index] + 16, 16);
    } else {
        v = scalar_read(s, g, index);
        memcpy(out, &v, g->bits / 8);
    }
}

/* In real mode a selector is its base; elsewhere it would need a descriptor. */
static bool selector_write(struct x86_state *s, unsigned index, uint64_t v) {
    struct x86_seg *seg = &s->seg[selector_index[index]];

    if (seg->sel == v)
        return true;
    if ((s->cr0 & CR0_PE) && !(s->rflags & FLAG_VM))
        return false;
    seg->sel = (uint16_t)v;
    seg->base = (v & 0xffff) << 4;
    return true;
}

static bool scalar_write(struct x86_state *s, const struct reg_group *g, unsigned index,
                         uint64_t v) {
    switch (g->kind) {
    case R_GPR:
        s->gpr[gpr_index[index]] = v;
        return true;
    case R_RIP:
        s->rip = v;
        return true;
    case R_EFLAGS:
        s->rflags = (v & 0x3f7fd7) | FLAG_FIXED;
        return true;
    case R_SELECTOR:
        return selector_write(s, index, v);
    case R_X87:
        x87_write(&s->fpu, index, (uint32_t)v);
        return true;
    case R_MXCSR:
        s->fpu.mxcsr = v & 0xffff;
        return true;
    case R_BASE:
        s->seg[SEG_FS + index].base = v;
        return true;
    case R_SYSTEM:
        return system_read(s, index) == v;
    default:
        return true;
    }
}

bool gdb_reg_write(struct x86_state *s, unsigned n, const uint8_t in[GDB_REG_MAX]) {
    unsigned index = 0;
    const struct reg_group *g = find(n, &index);
    uint64_t v = 0;

    if (!g)
        return false;
    if (g->kind == R_ST) {
        memcpy(s->fpu.st[index], in, 10);
    } else if (g->kind == R_XMM) {
        memcpy(s->fpu.zmm[index], in, 16);
    } else if (g->kind == R_YMMH) {
        memcpy(s->fpu.zmm[index] + 16, in, 16);
    } else {
        memcpy(&v, in, g->bits / 8);
        return scalar_write(s, g, index, v);
    }
    return true;
}

struct flag_bit {
    const char *name;
    unsigned bit;
};

static void put_flags(FILE *f, const char *id, const struct flag_bit *bits, size_t count) {
    fprintf(f, "<flags id=\"%s\" size=\"4\">", id);
    for (size_t i = 0; i < count; i++)
        fprintf(f, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", bits[i].name, bits[i].bit,
                bits[i].bit);
    fprintf(f, "</flags>");
}

static void put_core_types(FILE *f) {
    static const struct flag_bit eflags[] = {
        {"CF", 0},  {"", 1},    {"PF", 2},   {"AF", 4},   {"ZF", 6},  {"SF", 7},
        {"TF", 8},  {"IF", 9},  {"DF", 10},  {"OF", 11},  {"NT", 14}, {"RF", 16},
        {"VM", 17}, {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21}};

    put_flags(f, "i386_eflags", eflags, ARRAY_LEN(eflags));
}

static void put_sse_types(FILE *f) {
    static const struct flag_bit mxcsr[] = {
        {"IE", 0}, {"DE", 1}, {"ZE", 2}, {"OE", 3},  {"UE", 4},  {"PE", 5},  {"DAZ", 6},
        {"IM", 7}, {"DM", 8}, {"ZM", 9}, {"OM", 10}, {"UM", 11}, {"PM", 12}, {"FZ", 15}};
    static const struct {
        const char *id, *type, *field;
        unsigned count;
    } vectors[] = {
        {"v4f", "ieee_single", "v4_float", 4}, {"v2d", "ieee_double", "v2_double", 2},
        {"v16i8", "int8", "v16_int8", 16},     {"v8i16", "int16", "v8_int16", 8},
        {"v4i32", "int32", "v4_int32", 4},     {"v2i64", "int64", "v2_int64", 2},
    };

    for (size_t i = 0; i < ARRAY_LEN(vectors); i++)
        fprintf(f, "<vector id=\"%s\" type=\"%s\" count=\"%u\"/>", vectors[i].id, vectors[i].type,
                vectors[i].count);
    fprintf(f, "<union id=\"vec128\">");
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++)
        fprintf(f, "<field name=\"%s\" type=\"%s\"/>", vectors[i].field, vectors[i].id);
    fprintf(f, "<field name=\"uint128\" type=\"uint128\"/></union>");
    put_flags(f, "i386_mxcsr", mxcsr, ARRAY_LEN(mxcsr));
}

static void put_name(FILE *f, const struct reg_group *g, unsigned index) {
    unsigned at = 0;

    if (g->names) {
        fputs(g->names[index], f);
        return;
    }
    for (const char *p = g->name_format; p[at]; at++) {
        if (p[at] == '%') {
            fprintf(f, "%u", index);
            at++;
        } else {
            fputc(p[at], f);
        }
    }
}

char *gdb_regs_xml(size_t *len) {
    char *text = NULL;
    FILE *f = open_memstream(&text, len);

    if (!f)
        return NULL;
    fprintf(f, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
               "<target><architecture>i386:x86-64</architecture>");
    for (size_t g = 0; g < ARRAY_LEN(groups); g++) {
        const struct reg_group *r = &groups[g];

        if (r->feature)
            fprintf(f, "%s<feature name=\"%s\">", g ? "</feature>" : "", r->feature);
        if (r->kind == R_GPR)
            put_core_types(f);
        if (r->kind == R_XMM)
            put_sse_types(f);
        for (unsigned i = 0; i < r->count; i++) {
            fprintf(f, "<reg name=\"");
            put_name(f, r, i);
            fprintf(f, "\" bitsize=\"%u\" type=\"%s\"/>", r->bits, r->type);
        }
    }
    fprintf(f, "</feature></target>");
    fclose(f);
    return text;
}

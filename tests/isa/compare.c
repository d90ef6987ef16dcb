/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares what the processor and the engine made of a case, and prints both. Everything counts:
 * registers, flags, vector and x87 state, memory, exception, error code and fault address; but for
 * what `undefined` lists.
 */
#include "isa.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu/x86/state.h"

/*
 * Flags that the manual leaves undefined and that the engine does not take from the processor: it
 * follows the rules of the 80386 there. Rotates are listed for counts other than one.
 */
static const struct {
    ZydisMnemonic mnemonic;
    uint32_t flags;
} undefined[] = {
    {ZYDIS_MNEMONIC_AAD, FLAG_CF | FLAG_AF | FLAG_OF},
    {ZYDIS_MNEMONIC_RCL, FLAG_OF},
    {ZYDIS_MNEMONIC_RCR, FLAG_OF},
    {ZYDIS_MNEMONIC_ROL, FLAG_OF},
    {ZYDIS_MNEMONIC_ROR, FLAG_OF},
};

static bool rotates_by_one(const struct isa_case *c) {
    if (c->insn.meta.category != ZYDIS_CATEGORY_ROTATE)
        return false;
    uint64_t by =
        c->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? c->ops[1].imm.value.u : c->in.gpr[RCX];
    return (by & (c->insn.operand_width == 64 ? 63 : 31)) == 1;
}

static uint32_t undefined_flags(const struct isa_case *c) {
    if (rotates_by_one(c))
        return 0;
    for (unsigned i = 0; i < sizeof undefined / sizeof *undefined; i++)
        if (undefined[i].mnemonic == c->insn.mnemonic)
            return undefined[i].flags;
    return 0;
}

/*
 * Operands that the processor accesses in parts, in an order that the manual does not give: when
 * there is a page fault, its address is any byte of the operand, and parts that come before it may
 * have been stored.
 */
static bool in_parts(const struct isa_case *c) {
    switch (c->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FBLD:
    case ZYDIS_MNEMONIC_FBSTP:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    case ZYDIS_MNEMONIC_FLD: /* 80 bits are two accesses */
    case ZYDIS_MNEMONIC_FSTP:
        return c->ops[0].size == 80 || c->ops[1].size == 80;
    default:
        return c->insn.meta.category == ZYDIS_CATEGORY_XSAVE;
    }
}

/* The largest such operand: an XSAVE area up to the AVX component. */
#define PARTS_SIZE 832

/* Linux keeps the last page below the hole for itself. */
#define USER_END 0x7ffffffff000

struct text {
    char *p;
    size_t left;
    unsigned count;
};

static void __attribute__((format(printf, 2, 3))) say(struct text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p, t->left, fmt, ap);
    va_end(ap);
    if (n > 0) {
        size_t k = (size_t)n < t->left ? (size_t)n : t->left ? t->left - 1 : 0;
        t->p += k;
        t->left -= k;
    }
    t->count++;
}

static void number(struct text *t, const char *name, uint64_t n, uint64_t g) {
    if (n != g)
        say(t, "  %-6s native %016llx engine %016llx\n", name, (unsigned long long)n,
            (unsigned long long)g);
}

static void hex(char *out, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) /* most significant byte first, as registers are written */
        sprintf(out + i * 2, "%02x", p[n - 1 - i]);
}

static void bytes(struct text *t, const char *name, unsigned i, const uint8_t *n, const uint8_t *g,
                  size_t size) {
    char a[65], b[65];
    if (!memcmp(n, g, size))
        return;
    hex(a, n, size);
    hex(b, g, size);
    say(t, "  %s%-3u native %s\n", name, i, a);
    say(t, "  %*s engine %s\n", (int)strlen(name) + 3, "", b);
}

static void memory(struct text *t, uint64_t base, const uint8_t *n, const uint8_t *g, size_t size) {
    if (!memcmp(n, g, size))
        return;
    size_t first = 0, shown = 0;
    while (n[first] == g[first])
        first++;
    char a[33], b[33];
    shown = size - first < 16 ? size - first : 16;
    hex(a, n + first, shown);
    hex(b, g + first, shown);
    say(t, "  [%llx] native %s engine %s\n", (unsigned long long)(base + first), a, b);
}

static const char *const gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* Within one operand of another; parts wrap at the address size. */
static bool near(const struct isa_case *c, uint64_t a, uint64_t b) {
    uint64_t d = a - b;
    if (c->insn.address_width == 32)
        d = (uint64_t)(int32_t)d;
    return d + PARTS_SIZE <= 2 * PARTS_SIZE;
}

/*
 * Such an operand that goes on behind the last canonical address: one part is not mapped, another
 * is not canonical.
 */
static bool is_either_fault(const struct isa_case *c, const struct isa_result *n,
                            const struct isa_result *g) {
    return in_parts(c) && n->vector == EXC_PF && n->cr2 >> 12 == USER_END >> 12 &&
           (g->vector == EXC_GP || g->vector == EXC_SS);
}

static void exceptions(struct text *t, const struct isa_case *c, const struct isa_result *n,
                       const struct isa_result *g) {
    if (is_either_fault(c, n, g))
        return;
    number(t, "vector", n->vector, g->vector);
    if (n->vector != g->vector)
        return;
    uint64_t ne = n->error, ge = g->error;
    if (n->vector == EXC_PF) {
        if (!in_parts(c) || !near(c, n->cr2, g->cr2))
            number(t, "cr2", n->cr2, g->cr2);
        if (n->cr2 >= USER_END) /* Linux hides which of its own pages are there */
            ne |= 1, ge |= 1;
    }
    if (n->vector == EXC_PF && in_parts(c)) /* of whichever part */
        ne |= 1, ge |= 1;
    number(t, "error", ne, ge);
}

/* FIP is as wide as the processor's linear addresses, of which the guest has 48 bits. */
static uint64_t canonical(uint64_t fip) {
    return (uint64_t)((int64_t)(fip << 16) >> 16);
}

static void fpu(struct text *t, const struct isa_state *n, const struct isa_state *g) {
    number(t, "fcw", n->fcw, g->fcw);
    number(t, "fsw", n->fsw, g->fsw);
    number(t, "ftw", n->ftw, g->ftw);
    number(t, "fop", n->fop, g->fop);
    number(t, "fip", canonical(n->fip), canonical(g->fip));
    number(t, "fdp", n->fdp, g->fdp);
    number(t, "mxcsr", n->mxcsr, g->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        bytes(t, "st", i, n->st[i], g->st[i], 10);
    for (unsigned i = 0; i < 16; i++)
        bytes(t, "ymm", i, n->ymm[i], g->ymm[i], 32);
}

/* XRSTOR that finds a reserved bit (in MXCSR, say) may have loaded other components already. */
static bool loads_state_in_vain(const struct isa_case *c, const struct isa_result *native) {
    return native->vector == EXC_GP && (c->insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR ||
                                        c->insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR64);
}

unsigned compare_results(const struct isa_case *c, const struct isa_result *native,
                         const struct isa_memory *native_mem, const struct isa_result *guest,
                         const struct isa_memory *guest_mem, char *text, size_t size) {
    struct text t = {text, size, 0};
    text[0] = 0;
    if (guest->failure) {
        say(&t, "  engine: %s\n", guest->failure);
        return t.count;
    }
    /* In compatibility mode the other halves and registers are out of sight. */
    unsigned regs = c->form->mode32 ? 8 : 16;
    uint64_t mask = c->form->mode32 ? 0xffffffff : ~0ull;
    for (unsigned i = 0; i < regs; i++)
        number(&t, gpr_names[i], native->s.gpr[i] & mask, guest->s.gpr[i] & mask);
    number(&t, "rip", native->s.rip, guest->s.rip);
    uint64_t skip = undefined_flags(c);
    number(&t, "rflags", native->s.rflags & ~skip, guest->s.rflags & ~skip);
    exceptions(&t, c, native, guest);
    if (!loads_state_in_vain(c, native))
        fpu(&t, &native->s, &guest->s);
    if (in_parts(c) && native->vector == EXC_PF)
        return t.count;
    memory(&t, DATA_BASE, native_mem->data, guest_mem->data, DATA_SIZE);
    memory(&t, LOW_BASE, native_mem->low, guest_mem->low, LOW_SIZE);
    memory(&t, TOP_BASE, native_mem->top, guest_mem->top, TOP_SIZE);
    return t.count;
}

static void describe_state(struct text *t, const struct isa_state *s) {
    for (unsigned i = 0; i < 16; i++)
        say(t, "%s%s=%016llx%s", i % 4 ? " " : "    ", gpr_names[i], (unsigned long long)s->gpr[i],
            i % 4 == 3 ? "\n" : "");
    say(t, "    rip=%llx rflags=%llx fcw=%x fsw=%x ftw=%x mxcsr=%x\n", (unsigned long long)s->rip,
        (unsigned long long)s->rflags, s->fcw, s->fsw, s->ftw, s->mxcsr);
}

static void describe_operand(struct text *t, const struct isa_case *c,
                             const ZydisDecodedOperand *op) {
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return;
    unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);
    char text[65];
    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        hex(text, c->in.ymm[id & 15], 32);
        say(t, "    ymm%u=%s\n", id & 15, text);
        break;
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_X87:
        hex(text, c->in.st[id & 7], 10);
        say(t, "    st%u=%s\n", id & 7, text);
        break;
    default:
        break;
    }
}

/* The 64 bytes around what the operand addresses, where that is simple to tell. */
static void describe_memory(struct text *t, const struct isa_case *c, const ZydisDecodedOperand *op,
                            const struct isa_memory *m) {
    ZyanU64 at = 0;
    ZydisRegisterContext regs = {{0}};
    for (unsigned i = 0; i < 16; i++) {
        regs.values[ZYDIS_REGISTER_RAX + i] = c->in.gpr[i];
        regs.values[ZYDIS_REGISTER_EAX + i] = (uint32_t)c->in.gpr[i];
        regs.values[ZYDIS_REGISTER_AX + i] = (uint16_t)c->in.gpr[i];
    }
    regs.values[ZYDIS_REGISTER_RIP] = regs.values[ZYDIS_REGISTER_EIP] = c->in.rip;
    if (op->type != ZYDIS_OPERAND_TYPE_MEMORY ||
        !ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&c->insn, op, c->in.rip, &regs, &at)))
        return;
    say(t, "    memory operand at %llx", (unsigned long long)at);
    size_t n = op->size / 8 > 32 ? 32 : op->size / 8;
    if (at - DATA_BASE <= DATA_SIZE - n && n) {
        char text[65];
        hex(text, m->data + (at - DATA_BASE), n);
        say(t, ": %s", text);
    }
    say(t, "\n");
}

void compare_describe(const struct isa_case *c, const struct isa_memory *before, char *text,
                      size_t size) {
    struct text t = {text, size, 0};
    ZydisFormatter fmt;
    ZydisDecodedInstruction i;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    char line[128] = "?";
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    if (forms_decode(c->form->mode32, c->code, 15, &i, ops))
        ZydisFormatterFormatInstruction(&fmt, &i, ops, i.operand_count_visible, line, sizeof line,
                                        c->in.rip, NULL);
    say(&t, "  %s", c->form->mode32 ? "32-bit:" : "64-bit:");
    for (unsigned n = 0; n < c->len; n++)
        say(&t, " %02x", c->code[n]);
    say(&t, "  %s\n", line);
    describe_state(&t, &c->in);
    for (unsigned n = 0; n < c->insn.operand_count; n++) {
        describe_operand(&t, c, &c->ops[n]);
        describe_memory(&t, c, &c->ops[n], before);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The words of a trace. One record is one line, but for code, which is a line for each instruction.
 */
#include "cpu/x86/trace.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu/x86/exc.h"

/* ---- exceptions and interrupts ---- */

static const char *kind_of(const struct x86_exception *x) {
    if (x->soft)
        return "software interrupt";
    return x->external && x->vector != EXC_NMI ? "interrupt" : "exception";
}

void cpu_trace_event(struct x86_cpu *c, const struct x86_exception *x, uint64_t rip) {
    const char *name = !x->soft && x->vector < 32 ? exc_name(x->vector) : NULL;
    char error[32] = "", cr2[32] = "";
    if (x->has_error)
        snprintf(error, sizeof error, " error 0x%x", x->error);
    if (x->vector == EXC_PF && !x->soft && !x->external)
        snprintf(cr2, sizeof cr2, " cr2 0x%" PRIx64, c->s.cr2);
    trace_put(c->trace, c->v.index, "%s 0x%02x%s%s%s%s at %04x:0x%" PRIx64 " cpl %u sp 0x%" PRIx64,
              kind_of(x), x->vector, name && !x->external ? " " : "",
              name && !x->external ? name : "", error, cr2, c->s.seg[SEG_CS].sel, rip, c->cpl,
              c->s.gpr[RSP]);
}

void cpu_trace_shutdown(struct x86_cpu *c) {
    trace_put(c->trace, c->v.index, "triple fault at %04x:0x%" PRIx64, c->s.seg[SEG_CS].sel,
              c->s.rip);
}

/* ---- modes ---- */

void cpu_trace_control(struct x86_cpu *c, const char *name, uint64_t was, uint64_t is) {
    trace_put(c->trace, c->v.index, "%s 0x%" PRIx64 " -> 0x%" PRIx64 " at %04x:0x%" PRIx64, name,
              was, is, c->s.seg[SEG_CS].sel, c->s.rip);
}

static const char *mode_name(const struct x86_cpu *c) {
    if (!c->pe)
        return c->code_size == 16 ? "real" : "real, 32-bit code";
    if (c->vm86)
        return "virtual-8086";
    if (c->lma)
        return c->mode64            ? "64-bit"
               : c->code_size == 32 ? "compatibility, 32-bit"
                                    : "compatibility, 16-bit";
    return c->code_size == 32 ? "protected, 32-bit" : "protected, 16-bit";
}

static const char *paging_name(const struct x86_cpu *c) {
    if (!c->paging)
        return "no paging";
    return c->lma ? "4-level paging" : c->s.cr4 & CR4_PAE ? "PAE paging" : "32-bit paging";
}

/* It is asked whenever something of the mode may have changed; names are compared, which all lie
 * here. */
void cpu_trace_mode(struct x86_cpu *c) {
    const char *mode = mode_name(c), *paging = paging_name(c);
    if (c->trace_mode == mode && c->trace_paging == paging)
        return;
    c->trace_mode = mode;
    c->trace_paging = paging;
    trace_put(c->trace, c->v.index, "mode %s, %s, cpl %u", mode, paging, c->cpl);
}

/* ---- code ---- */

static void decoder_for(const struct x86_cpu *c, ZydisDecoder *z) {
    if (c->code_size == 64)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (c->code_size == 32)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
}

static void put_bytes(FILE *f, const uint8_t *p, unsigned len) {
    for (unsigned n = 0; n < 10 || n < len; n++)
        fprintf(f, n < len ? "%02x" : "  ", n < len ? p[n] : 0);
}

/* Returns the length; bytes that are no instruction go one by one. */
static unsigned put_insn(FILE *f, const struct x86_cpu *c, const struct cpu_trace_code *k,
                         uint64_t off) {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;
    ZydisDecoder z;
    char text[160] = "(bad)";
    unsigned len = 1;
    decoder_for(c, &z);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, k->copy + off, k->bytes - off, &insn, op))) {
        len = insn.length;
        ZydisFormatterFormatInstruction(&formatter, &insn, op, insn.operand_count_visible, text,
                                        sizeof text, k->lin + off, NULL);
    }
    fprintf(f, "\n  0x%08" PRIx64 "  ", k->lin + off);
    put_bytes(f, k->copy + off, len);
    fprintf(f, "  %s", text);
    return len;
}

static uint64_t physical(const struct x86_cpu *c, const uint8_t *host) {
    for (unsigned n = 0; n < ARRAY_LEN(c->ram_run); n++)
        if ((uint64_t)(host - c->ram_run[n].host) < c->ram_run[n].bytes)
            return c->ram_run[n].gpa + (uint64_t)(host - c->ram_run[n].host);
    return UINT64_MAX; /* ROM, for one */
}

void cpu_trace_block(struct x86_cpu *c, const struct cpu_trace_code *k) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return;
    uint64_t gpa = physical(c, k->host);
    fprintf(f, "block 0x%" PRIx64, k->lin);
    if (gpa != UINT64_MAX)
        fprintf(f, " physical 0x%" PRIx64, gpa);
    fprintf(f, " bytes %" PRIu64 " cpl %u", k->bytes, c->cpl);
    if (k->code)
        fprintf(f, " host 0x%" PRIx64 " bytes %" PRIu64, k->code, k->code_bytes);
    for (uint64_t off = 0; off < k->bytes;)
        off += put_insn(f, c, k, off);
    if (fclose(f) == 0)
        trace_put(c->trace, c->v.index, "%s", text);
    free(text);
}

void cpu_trace_entry(struct x86_cpu *c) {
    trace_put(c->trace, c->v.index, "exec %04x:0x%" PRIx64 " cpl %u", c->s.seg[SEG_CS].sel,
              c->s.rip, c->cpl);
}

/* ---- devices ---- */

static void put_access(struct x86_cpu *c, const char *what, uint64_t at, unsigned size,
                       uint64_t value) {
    uint64_t mask = size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
    trace_put(c->trace, c->v.index,
              "%s 0x%" PRIx64 " size %u value 0x%" PRIx64 " at %04x:0x%" PRIx64, what, at, size,
              value & mask, c->s.seg[SEG_CS].sel, c->s.rip);
}

void cpu_trace_port(struct x86_cpu *c, bool write, uint16_t port, unsigned size, uint64_t value) {
    put_access(c, write ? "port write" : "port read", port, size, value);
}

void cpu_trace_mmio(struct x86_cpu *c, bool write, uint64_t gpa, unsigned size, uint64_t value) {
    put_access(c, write ? "mmio write" : "mmio read", gpa, size, value);
}

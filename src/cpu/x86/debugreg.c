/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug registers (SDM 3B 18.2): MOV DR with aliasing of DR4 and DR5, general detect, reserved
 * bits, and the matching of breakpoints. Transactional and bus-lock debugging do not exist: their
 * bits are fixed.
 */
#include "cpu/x86/debugreg.h"

#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"

#define DR6_WRITABLE 0xe00fu
#define DR6_FIXED 0xffff0ff0u
#define DR7_WRITABLE 0xffff23ffu
#define DR7_FIXED 0x400u

enum { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };

static bool enabled(const struct x86_cpu *c, unsigned n) {
    return c->s.dr[7] >> (2 * n) & 3;
}

static unsigned type_of(const struct x86_cpu *c, unsigned n) {
    return c->s.dr[7] >> (16 + 4 * n) & 3;
}

static unsigned length_of(const struct x86_cpu *c, unsigned n) {
    static const uint8_t bytes[4] = {1, 2, 8, 4};
    return bytes[c->s.dr[7] >> (18 + 4 * n) & 3];
}

/* A breakpoint covers its length, aligned to it, whatever the low bits of the address. */
static bool overlaps(const struct x86_cpu *c, unsigned n, uint64_t addr, unsigned size) {
    uint64_t len = length_of(c, n), start = c->s.dr[n] & ~(len - 1);
    return addr - start < len || start - addr < size;
}

bool debugreg_exec_hit(struct x86_cpu *c, uint64_t linear, uint64_t *dr6) {
    uint64_t hits = 0;
    if (!debugreg_active(c) || c->s.rflags & FLAG_RF)
        return false;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(c, n) && type_of(c, n) == RW_EXEC && c->s.dr[n] == linear)
            hits |= 1u << n;
    *dr6 |= hits;
    return hits;
}

uint64_t debugreg_data_hits(const struct x86_cpu *c, uint64_t linear, unsigned size, bool write) {
    uint64_t hits = 0;
    for (unsigned n = 0; n < 4; n++) {
        unsigned type = type_of(c, n);
        if (enabled(c, n) && (type == RW_ACCESS || (type == RW_WRITE && write)) &&
            overlaps(c, n, linear, size))
            hits |= 1u << n;
    }
    return hits;
}

uint64_t debugreg_io_hits(const struct x86_cpu *c, uint16_t port, unsigned size) {
    uint64_t hits = 0;
    if (!debugreg_active(c) || !(c->s.cr4 & CR4_DE))
        return 0;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(c, n) && type_of(c, n) == RW_IO && overlaps(c, n, port, size))
            hits |= 1u << n;
    return hits;
}

/* Checks what both directions check and returns the register that is meant. */
static unsigned checked_register(struct x86_cpu *c, unsigned n) {
    if ((n == 4 || n == 5) && c->s.cr4 & CR4_DE)
        cpu_raise(c, EXC_UD);
    cpu_require_cpl0(c);
    if (c->s.dr[7] & DR7_GD)
        exc_raise_debug(c, DR6_BD);
    return n == 4 || n == 5 ? n + 2 : n & 7;
}

void op_mov_to_dr(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned n = checked_register(c, i->aux);
    uint64_t v = reg_get(c, i->src, i->osize);
    if (n >= 6 && v >> 32)
        cpu_raise_err(c, EXC_GP, 0);
    if (n == 6)
        v = (v & DR6_WRITABLE) | DR6_FIXED;
    else if (n == 7)
        v = (v & DR7_WRITABLE) | DR7_FIXED;
    c->s.dr[n] = v;
    if (n != 6)
        debug_update(c);
}

void op_mov_from_dr(struct x86_cpu *c, const struct x86_insn *i) {
    unsigned n = checked_register(c, i->aux);
    reg_set(c, i->dst, i->osize, c->s.dr[n]);
}

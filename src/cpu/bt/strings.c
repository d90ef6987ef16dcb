/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS and STOS of 64-bit code, upwards, in memory that the inline TLB knows: page by page, without
 * the loop. What remains of a repeat when a page is not known, is written code or lies in devices
 * is the reference engine's: the registers say how much that is.
 */
#include "cpu/bt/strings.h"

#include "mem/guest.h"

#define MOST_BYTES (64u << 10) /* after as many others may want to be heard */

/* The host's address of as much at `lin` as its page has, at most `bytes`; NULL where nothing is.
 */
static uint8_t *known(const struct bt_cpu *b, uint64_t lin, bool write, uint64_t *bytes) {
    const struct bt_tlb *t = &b->tlb[bt_tlb_kind(&b->c)];
    uint64_t slot = lin >> PAGE_SHIFT & (BT_TLB_SIZE - 1);
    if ((write ? t->wr : t->rd)[slot] != -(lin & ~PAGE_MASK))
        return NULL;
    *bytes = MIN(*bytes, PAGE_SIZE - (lin & PAGE_MASK));
    return (uint8_t *)(uintptr_t)(lin + t->addend[slot]);
}

/* Small counts are most: no call for them. */
static void fill(uint8_t *to, uint64_t v, unsigned size, uint64_t bytes) {
    if (size == 1 || (v == 0 && bytes > 128)) {
        guest_fill(to, (uint8_t)v, bytes);
        return;
    }
    for (uint64_t n = 0; n < bytes; n += size)
        guest_st(to + n, v, size);
}

static uint64_t count_of(const struct bt_cpu *b, const struct x86_insn *i) {
    return i->flags & (INSN_REP | INSN_REPNE) ? b->c.s.gpr[RCX] : 1;
}

/* `bytes` are done. */
static void advance(struct bt_cpu *b, const struct x86_insn *i, uint64_t bytes) {
    b->c.s.gpr[RDI] += bytes;
    if (i->flags & (INSN_REP | INSN_REPNE))
        b->c.s.gpr[RCX] -= bytes / i->osize;
}

static bool may(const struct bt_cpu *b, const struct x86_insn *i, uint64_t count) {
    return !(b->c.s.rflags & FLAG_DF) && count <= MOST_BYTES / i->osize;
}

bool strings_stos(struct bt_cpu *b, const struct bt_site *s) {
    const struct x86_insn *i = s->insn;
    uint64_t *gpr = b->c.s.gpr, count = count_of(b, i);
    if (!may(b, i, count))
        return false;
    for (uint64_t left = count * i->osize; left;) {
        uint64_t bytes = left;
        uint8_t *to = known(b, gpr[RDI], true, &bytes);
        bytes -= bytes % i->osize;
        if (!to || !bytes)
            return false;
        fill(to, gpr[RAX], i->osize, bytes);
        advance(b, i, bytes);
        left -= bytes;
    }
    return true;
}

/* What it has written it does not read again. */
bool strings_movs(struct bt_cpu *b, const struct bt_site *s) {
    const struct x86_insn *i = s->insn;
    uint64_t *gpr = b->c.s.gpr, count = count_of(b, i), base = b->c.base64[i->seg];
    if (!may(b, i, count))
        return false;
    for (uint64_t left = count * i->osize; left;) {
        uint64_t bytes = left;
        uint8_t *from = known(b, gpr[RSI] + base, false, &bytes);
        uint8_t *to = from ? known(b, gpr[RDI], true, &bytes) : NULL;
        bytes -= bytes % i->osize;
        if (!to || !bytes || (uint64_t)(to - from) < bytes)
            return false;
        guest_copy(to, from, bytes);
        gpr[RSI] += bytes;
        advance(b, i, bytes);
        left -= bytes;
    }
    return true;
}

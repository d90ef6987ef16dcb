/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the vCPU's TLB to the inline one. Compiled without vector registers, and calling nothing:
 * while this runs for translated code they are the guest's.
 */
#include "cpu/bt/bt.h"
#include "cpu/bt/refill.h"
#include "cpu/x86/mmu.h"

static void note(uint64_t *set, uint64_t slot, bool in) {
    uint64_t bit = 1ull << (slot % 64);
    set[slot / 64] = in ? set[slot / 64] | bit : set[slot / 64] & ~bit;
}

static bool page_is_plain(const struct bt_cpu *b, uint64_t host) {
    return !b->c.page_flags[(host - (uint64_t)(uintptr_t)b->c.ram) >> PAGE_SHIFT];
}

/* Whether reading and writing hit now. */
static void fill(struct bt_cpu *b, unsigned kind, const struct tlb_entry *e, uint64_t lin) {
    uint64_t slot = lin >> PAGE_SHIFT & (BT_TLB_SIZE - 1), page = lin & ~PAGE_MASK;
    uint64_t none = -((slot ^ 2) << PAGE_SHIFT);
    struct bt_tlb *t = &b->tlb[kind];
    bool wr = tlb_hit(&b->c, e, e->wr, lin) && page_is_plain(b, lin + e->addend);
    t->addend[slot] = e->addend;
    t->rd[slot] = tlb_hit(&b->c, e, e->rd, lin) ? -page : none;
    t->wr[slot] = wr ? -page : none;
    note(b->slots[kind].used, slot, true);
    note(b->slots[kind].local, slot, e->mask == UINT64_MAX);
    b->stats.filled[kind]++;
}

void bt_tlb_learn(struct bt_cpu *b, uint64_t lin) {
    unsigned kind = bt_tlb_kind(&b->c);
    const struct tlb_entry *e = tlb_slot(&b->c, b->c.tlb, lin);
    if (kind != TLB_OFF && (tlb_hit(&b->c, e, e->rd, lin) || tlb_hit(&b->c, e, e->wr, lin)))
        fill(b, kind, e, lin);
}

enum bt_refill bt_refill_quick(struct bt_cpu *b, uint64_t lin, bool write) {
    unsigned kind = bt_tlb_kind(&b->c);
    uint64_t slot = lin >> PAGE_SHIFT & (BT_TLB_SIZE - 1), page = lin & ~PAGE_MASK;
    if (kind == TLB_OFF)
        return REFILL_FAILED;
    const uint64_t *tag = write ? b->tlb[kind].wr : b->tlb[kind].rd;
    if (tag[slot] == -page)
        return REFILL_FAILED; /* is there: the access goes on in the next page */
    const struct tlb_entry *e = tlb_slot(&b->c, b->c.tlb, lin);
    if (!tlb_hit(&b->c, e, write ? e->wr : e->rd, lin))
        return REFILL_WALK;
    fill(b, kind, e, lin);
    return tag[slot] == -page ? REFILL_DONE : REFILL_FAILED;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inline TLB, filled from the vCPU's TLB (refill_quick.c). A change of address space drops what
 * is not global; INVLPG drops its page, from the jump table too.
 */
#include "cpu/bt/bt.h"

#include "cpu/x86/mmu.h"

/* ---- the inline TLB ---- */

/* What empties a slot: an address of another slot, not next to its own. */
static uint64_t no_page(uint64_t slot) {
    return -((slot ^ 2) << PAGE_SHIFT);
}

static uint64_t slot_of(uint64_t lin) {
    return lin >> PAGE_SHIFT & (BT_TLB_SIZE - 1);
}

static void slot_empty(struct bt_tlb *t, uint64_t slot) {
    t->rd[slot] = t->wr[slot] = no_page(slot);
}

/* Empties the slots of a set, and the set. */
static void slots_empty(struct bt_tlb *t, uint64_t *set) {
    for (unsigned word = 0; word < BT_TLB_SIZE / 64; word++) {
        for (uint64_t bits = set[word]; bits; bits &= bits - 1)
            slot_empty(t, word * 64 + (unsigned)__builtin_ctzll(bits));
        set[word] = 0;
    }
}

static void tlb_clear(struct bt_cpu *b) {
    for (unsigned k = 0; k < 3; k++) {
        slots_empty(&b->tlb[k], b->slots[k].used);
        memset(b->slots[k].local, 0, sizeof b->slots[k].local);
    }
}

static void tlb_clear_local(struct bt_cpu *b) {
    for (unsigned k = 0; k < 3; k++)
        slots_empty(&b->tlb[k], b->slots[k].local);
}

void bt_tlb_forget_writes(struct bt_cpu *b, uint64_t host_page) {
    for (unsigned k = 0; k < 3; k++)
        for (uint64_t n = 0; n < BT_TLB_SIZE; n++) {
            struct bt_tlb *t = &b->tlb[k];
            if (t->addend[n] - t->wr[n] == host_page)
                t->wr[n] = no_page(n);
        }
}

/* ---- what changes it, and the jump table ---- */

static void space_changed(struct bt_cpu *b) {
    if ((b->c.space ^ b->seen_space) & TLB_PAGE_BITS) {
        tlb_clear(b);
        b->local_code = false;
    } else {
        tlb_clear_local(b);
    }
    b->seen_space = b->c.space;
}

void bt_context_update(struct bt_cpu *b) {
    struct x86_cpu *c = &b->c;
    if (c->context == b->seen_context && c->tlb == b->seen_tlb && c->space == b->seen_space)
        return;
    if (c->space != b->seen_space) {
        space_changed(b);
        bt_keys_update(b);
    }
    b->seen_context = c->context;
    b->seen_tlb = c->tlb;
}

static void range_dropped(struct bt_cpu *b, uint64_t lin, uint64_t bytes) {
    for (unsigned k = 0; k < 3; k++)
        for (unsigned word = 0; word < BT_TLB_SIZE / 64; word++)
            for (uint64_t bits = b->slots[k].used[word]; bits; bits &= bits - 1) {
                uint64_t n = word * 64 + (unsigned)__builtin_ctzll(bits);
                if (-b->tlb[k].rd[n] - lin < bytes || -b->tlb[k].wr[n] - lin < bytes)
                    slot_empty(&b->tlb[k], n);
            }
}

static void page_dropped(struct bt_cpu *b, uint64_t lin) {
    uint64_t slot = slot_of(lin);
    for (unsigned k = 0; k < 3; k++) {
        struct bt_tlb *t = &b->tlb[k];
        if (t->rd[slot] == -lin || t->wr[slot] == -lin)
            slot_empty(t, slot);
    }
}

static void pages_dropped(struct x86_cpu *c, uint64_t lin, uint64_t bytes) {
    struct bt_cpu *b = (struct bt_cpu *)(void *)c;
    if (bytes > PAGE_SIZE)
        range_dropped(b, lin, bytes);
    else
        page_dropped(b, lin);
    bt_jumps_drop(b, lin, bytes);
}

void bt_tlb_init(struct bt_cpu *b) {
    for (unsigned k = 0; k < 3; k++)
        for (uint64_t n = 0; n < BT_TLB_SIZE; n++)
            slot_empty(&b->tlb[k], n);
    b->seen_context = b->seen_space = UINT64_MAX;
    b->refill_rd = (uint64_t)(uintptr_t)bt_refill_read;
    b->refill_wr = (uint64_t)(uintptr_t)bt_refill_write;
    b->c.pages_dropped = pages_dropped;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What translated code looks up by linear address: the inline TLB, filled from the vCPU's TLB, and
 * the jump table. A change of address space drops what is not global; INVLPG drops its page.
 */
#include "cpu/bt/bt.h"

#include "cpu/x86/mmu.h"

#define CONTEXT_SHIFT 4 /* a space's number stands above what bt_mode_key() says */

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

/* ---- the jump table ---- */

static uint64_t jump_index(uint64_t rip) {
    return rip >> 1 & (BT_JUMP_SIZE - 1);
}

static uint64_t no_jump(uint64_t index) {
    return -((index ^ 1) << 1);
}

/* Neighbours within 4 MiB are neighbours here. */
static unsigned page_hash(uint64_t page) {
    uint64_t n = page >> PAGE_SHIFT;
    return (unsigned)((n & 1023) | ((n >> 10 ^ n >> 19 ^ n >> 28) & 3) << 10);
}

static void jumps_clear(struct bt_cpu *b) {
    for (uint64_t n = 0; n < BT_JUMP_SIZE; n++)
        b->jump.tag[n] = no_jump(n);
    memset(b->jump_pages, 0, sizeof b->jump_pages);
}

void bt_jumps_forget(struct bt_cpu *b, uint64_t code, uint64_t bytes) {
    for (uint64_t n = 0; n < BT_JUMP_SIZE; n++)
        if (b->jump.code[n] - code < bytes)
            b->jump.tag[n] = no_jump(n);
}

static void jumps_drop_page(struct bt_cpu *b, uint64_t page) {
    uint64_t first = jump_index(page);
    for (uint64_t n = first; n < first + PAGE_SIZE / 2; n++)
        if (b->jump.page[n] == page)
            b->jump.tag[n] = no_jump(n);
}

static void jumps_drop_hashed(struct bt_cpu *b, uint64_t page) {
    unsigned hash = page_hash(page);
    if (b->jump_page[hash] != page && b->jump_page[hash] != BT_MANY_PAGES)
        return;
    jumps_drop_page(b, page);
    if (b->jump_page[hash] == page)
        b->jump_pages[hash / 64] &= ~(1ull << (hash % 64));
}

static void jumps_drop(struct bt_cpu *b, uint64_t lin, uint64_t bytes) {
    uint64_t pages = bytes >> PAGE_SHIFT;
    if (pages > 1024) {
        jumps_clear(b);
        return;
    }
    for (uint64_t n = 0; n < pages; n++) {
        unsigned hash = page_hash(lin + n * PAGE_SIZE);
        if (!b->jump_pages[hash / 64] && pages > 1)
            n |= 63;
        else if (b->jump_pages[hash / 64] >> (hash % 64) & 1)
            jumps_drop_hashed(b, lin + n * PAGE_SIZE);
    }
}

static void note_jump_page(struct bt_cpu *b, uint64_t page) {
    unsigned hash = page_hash(page);
    bool known = b->jump_pages[hash / 64] >> (hash % 64) & 1;
    b->jump_page[hash] = !known || b->jump_page[hash] == page ? page : BT_MANY_PAGES;
    b->jump_pages[hash / 64] |= 1ull << (hash % 64);
}

static struct bt_context *context_of(struct bt_cpu *b, uint64_t space) {
    return &b->contexts[(space ^ space >> TLB_ASID_SHIFT) % BT_CONTEXTS];
}

/* The number that stands for a space in jump tags; those that were there lately keep theirs. */
static uint64_t space_number(struct bt_cpu *b, uint64_t space) {
    struct bt_context *known = context_of(b, space);
    if (!known->number || known->space != space)
        *known = (struct bt_context){space, ++b->last_context};
    return known->number;
}

/* So that there are numbers for two. */
static void reserve_numbers(struct bt_cpu *b) {
    if (b->last_context + 2 < 1ull << (16 - CONTEXT_SHIFT))
        return;
    jumps_clear(b);
    memset(b->contexts, 0, sizeof b->contexts);
    b->last_context = 0;
}

/* A kernel's code is in global pages and the same in every space, until one is seen that is not. */
static void key_update(struct bt_cpu *b) {
    reserve_numbers(b);
    uint64_t shared = b->local_code ? b->c.space : b->c.space & TLB_PAGE_BITS;
    uint64_t user = space_number(b, b->c.space), supervisor = space_number(b, shared);
    for (unsigned m = 0; m < BT_MODES; m++) {
        unsigned kind = m & BT_KEY_TLB;
        uint64_t number = kind == TLB_USER ? user : supervisor;
        bool none = kind == TLB_SUPER_AC && !(b->c.s.cr4 & CR4_SMAP);
        b->key[m] = none ? 0 : (number << CONTEXT_SHIFT | m) << 48;
    }
    bt_keys_publish(b);
}

uint64_t bt_jump_known(const struct bt_cpu *b) {
    uint64_t rip = b->c.s.rip, index = jump_index(rip);
    bool known = b->jump.tag[index] + rip + b->key[bt_mode_key(b)] == 0;
    return known ? b->jump.code[index] : 0;
}

void bt_jump_learn(struct bt_cpu *b, const struct bt_block *k) {
    uint64_t rip = b->c.s.rip, page = rip & ~PAGE_MASK, index = jump_index(rip);
    bool local = tlb_slot(&b->c, b->c.tlb_fetch, rip)->mask == UINT64_MAX;
    if (unlikely(local && b->c.cpl != 3 && !b->local_code)) {
        b->local_code = true;
        key_update(b);
    }
    b->jump.tag[index] = -(rip + b->key[bt_mode_key(b)]);
    b->jump.code[index] = k->code;
    b->jump.page[index] = page;
    note_jump_page(b, page);
}

/* ---- what changes both ---- */

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
        key_update(b);
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
    jumps_drop(b, lin, bytes);
}

void bt_tlb_init(struct bt_cpu *b) {
    for (unsigned k = 0; k < 3; k++)
        for (uint64_t n = 0; n < BT_TLB_SIZE; n++)
            slot_empty(&b->tlb[k], n);
    jumps_clear(b);
    b->seen_context = b->seen_space = UINT64_MAX;
    b->refill_rd = (uint64_t)(uintptr_t)bt_refill_read;
    b->refill_wr = (uint64_t)(uintptr_t)bt_refill_write;
    b->c.pages_dropped = pages_dropped;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jump table: where the code at a linear address is, for look-ups in translated code.
 *
 * A tag is minus the sum of an address and a key of 64 bits, one for each address space and mode.
 * Keys are secret: a program that jumps to any address it likes, canonical or not, cannot choose
 * one whose sum with its key is that of another's.
 */
#include "cpu/bt/jumps.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/trace.h"
#include "cpu/x86/mmu.h"

/* ---- keys ---- */

static struct bt_context *context_of(struct bt_cpu *b, uint64_t space) {
    return &b->contexts[(space ^ space >> TLB_ASID_SHIFT) % BT_CONTEXTS];
}

/* The number that stands for a space; those that were there lately keep theirs. */
static uint64_t space_number(struct bt_cpu *b, uint64_t space) {
    struct bt_context *known = context_of(b, space);
    if (!known->number || known->space != space)
        *known = (struct bt_context){space, ++b->last_context};
    return known->number;
}

/* Another for each number, and nobody's for 0 (Steele, Lea, Flood: SplitMix). */
static uint64_t key_of(const struct bt_cpu *b, uint64_t number) {
    uint64_t z = b->secret + number * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* A kernel's code is in global pages and the same in every space, until one is seen that is not. */
void bt_keys_update(struct bt_cpu *b) {
    uint64_t shared = b->local_code ? b->c.space : b->c.space & TLB_PAGE_BITS;
    uint64_t user = space_number(b, b->c.space), supervisor = space_number(b, shared);
    for (unsigned m = 0; m < BT_MODES; m++) {
        unsigned kind = m & BT_KEY_TLB;
        bool none = (kind == TLB_SUPER_AC && !(b->c.s.cr4 & CR4_SMAP)) ||
                    b->c.traced & TRACE_EXEC; /* each entry is to be seen */
        b->key[m] =
            none ? b->no_key : key_of(b, (kind == TLB_USER ? user : supervisor) * BT_MODES + m);
    }
    bt_keys_publish(b);
}

/* ---- entries ---- */

static void jumps_clear(struct bt_cpu *b) {
    memset(b->jump, 0, sizeof b->jump);
    memset(b->jump_count, 0, sizeof b->jump_count);
}

void bt_jumps_forget(struct bt_cpu *b, uint64_t code, uint64_t bytes) {
    for (uint64_t n = 0; n < BT_JUMP_SIZE; n++)
        if (b->jump[n].code - code < bytes)
            bt_jump_clear(b, &b->jump[n]);
}

uint64_t bt_jump_known(const struct bt_cpu *b, uint64_t rip, unsigned mode) {
    const struct bt_jump *j = &b->jump[bt_jump_slot(rip)];
    uint64_t key = __atomic_load_n(&b->context_key[mode], __ATOMIC_RELAXED);
    return j->tag + rip + key == 0 ? j->code : 0;
}

void bt_jump_learn(struct bt_cpu *b, const struct bt_block *k) {
    uint64_t rip = b->c.s.rip;
    bool local = tlb_slot(&b->c, b->c.tlb_fetch, rip)->mask == UINT64_MAX;
    if (unlikely(local && b->c.cpl != 3 && !b->local_code)) {
        b->local_code = true;
        bt_keys_update(b);
    }
    bt_jump_put(b, rip, b->key[bt_mode_key(b)], k->code);
}

/* ---- pages that left the TLB ---- */

/* Where nothing was counted there is nothing to look for, in 4096 places. */
static void drop_page(struct bt_cpu *b, uint64_t page) {
    const uint16_t *left = bt_jump_count(b, page);
    for (uint64_t rip = page; *left && rip < page + PAGE_SIZE; rip++) {
        struct bt_jump *j = &b->jump[bt_jump_slot(rip)];
        if (j->page == page)
            bt_jump_clear(b, j);
    }
}

void bt_jumps_drop(struct bt_cpu *b, uint64_t lin, uint64_t bytes) {
    if (bytes >> PAGE_SHIFT > 1024) {
        jumps_clear(b);
        return;
    }
    for (uint64_t at = 0; at < bytes; at += PAGE_SIZE)
        drop_page(b, lin + at);
}

void bt_jumps_init(struct bt_cpu *b) {
    if (getrandom(&b->secret, sizeof b->secret, 0) != sizeof b->secret)
        abort();
    b->no_key = key_of(b, 0);
    bt_keys_take(b);
    b->refill_jump = (uint64_t)(uintptr_t)bt_refill_jump;
}

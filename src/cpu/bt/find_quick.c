/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the code cache's index to the jump table, by the vCPU's TLB for fetching. Compiled without
 * vector registers, and calling nothing: while this runs for translated code they are the guest's.
 */
#include "cpu/bt/index.h"
#include "cpu/bt/jumps.h"
#include "cpu/bt/refill.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"

/* Supervisor code in a page that is not global changes the keys, where it is the first. */
static bool is_first_local(const struct bt_cpu *b, const struct tlb_entry *e) {
    return e->mask == UINT64_MAX && b->c.cpl != 3 && !b->local_code;
}

enum bt_refill bt_find_quick(struct bt_cpu *b, uint64_t sum) {
    unsigned mode = b->ways->mode;
    uint64_t key = __atomic_load_n(&b->context_key[mode], __ATOMIC_RELAXED), rip = sum - key;
    const struct tlb_entry *e = tlb_slot(&b->c, b->c.tlb_fetch, rip);
    if (key == b->no_key || (b->c.mode64 && !seg_canonical(&b->c, rip)) ||
        !tlb_hit(&b->c, e, e->ex, rip) || is_first_local(b, e))
        return REFILL_FAILED;
    uint64_t backing = rip + e->addend - (uint64_t)(uintptr_t)b->c.ram;
    uint64_t code = bt_index_find(b->index, backing << BT_KEY_SHIFT | mode);
    if (!code)
        return REFILL_FAILED;
    bt_jump_put(b, rip, key, code);
    b->refill_lin = rip;
    return REFILL_DONE;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Between jumps.c, which keeps the jump table, and find_quick.c, which fills it. */
#ifndef RINGFENCE_CPU_BT_JUMPS_H
#define RINGFENCE_CPU_BT_JUMPS_H

#include "cpu/bt/bt.h"

/* As translated code does it (branch.c): targets lie a few bytes or a few megabytes apart. */
static inline unsigned bt_jump_slot(uint64_t rip) {
    uint64_t n = 0;
    __asm__("crc32q %1, %0" : "+r"(n) : "r"(rip));
    return n & (BT_JUMP_SIZE - 1);
}

/* Neighbours within 4 MiB are neighbours here. */
static inline unsigned bt_jump_page_hash(uint64_t page) {
    uint64_t n = page >> PAGE_SHIFT;
    return (unsigned)((n & 1023) | ((n >> 10 ^ n >> 19 ^ n >> 28) & 3) << 10);
}

static inline void bt_jump_put(struct bt_cpu *b, uint64_t rip, uint64_t key, uint64_t code) {
    uint64_t page = rip & ~PAGE_MASK;
    unsigned hash = bt_jump_page_hash(page);
    bool known = b->jump_pages[hash / 64] >> (hash % 64) & 1;
    b->jump[bt_jump_slot(rip)] = (struct bt_jump){.tag = -(rip + key), .code = code, .page = page};
    b->jump_page[hash] = !known || b->jump_page[hash] == page ? page : BT_MANY_PAGES;
    b->jump_pages[hash / 64] |= 1ull << (hash % 64);
}

#endif

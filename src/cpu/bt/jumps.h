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

static inline uint16_t *bt_jump_count(struct bt_cpu *b, uint64_t page) {
    uint64_t n = 0;
    __asm__("crc32q %1, %0" : "+r"(n) : "r"(page));
    return &b->jump_count[n & (BT_JUMP_COUNTS - 1)];
}

static inline void bt_jump_clear(struct bt_cpu *b, struct bt_jump *j) {
    if (j->code)
        --*bt_jump_count(b, j->page);
    *j = (struct bt_jump){0};
}

static inline void bt_jump_put(struct bt_cpu *b, uint64_t rip, uint64_t key, uint64_t code) {
    struct bt_jump *j = &b->jump[bt_jump_slot(rip)];
    bt_jump_clear(b, j);
    *j = (struct bt_jump){.tag = -(rip + key), .code = code, .page = rip & ~PAGE_MASK};
    ++*bt_jump_count(b, j->page);
}

#endif

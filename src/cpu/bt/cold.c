/* SPDX-License-Identifier: Apache-2.0 */
/* What lies behind a region: misses of the inline TLB, calls out, and ways out that are not linked.
 */
#include "cpu/bt/translate.h"

void emit_call_out(struct tr *t, const struct item *it, enum bt_operand operand, bool leaves) {
    struct bt_site *site = bt_cache_alloc(t->b->cache, sizeof *site);
    if (!site) {
        t->e.full = true;
        return;
    }
    *site = (struct bt_site){
        .insn = it->insn, .offset = it->off, .operand = (uint8_t)operand, .leaves = leaves};
    emit_gs(&t->e, OP_STORE, RSP, BT_GPR(RSP));
    emit_gs(&t->e, OP_LOAD, RSP, BT_OFF(host_rsp));
    EMIT(&t->e, 0x65, 0xff, 0x14, 0x25); /* call gs:[call_out] */
    emit32(&t->e, BT_OFF(call_out));
    emit64(&t->e, (uint64_t)(uintptr_t)site);
}

void emit_leave_stub(struct tr *t, const struct bt_exit *exit) {
    emit_gs(&t->e, OP_STORE, RAX, BT_OFF(save_rax));
    EMIT(&t->e, 0x48, 0xb8); /* mov rax, imm64 */
    emit64(&t->e, (uint64_t)(uintptr_t)exit);
    EMIT(&t->e, 0x65, 0xff, 0x24, 0x25); /* jmp gs:[leave] */
    emit32(&t->e, BT_OFF(leave));
}

/* The page of the access into the inline TLB, and once more (bt_refill_read()). Falls through when
 * that cannot be. Nothing but this access sets A and D bits here, whatever else the look-up is for.
 */
static void emit_refill(struct tr *t, const struct cold *cold) {
    const unsigned store_bytes = 9, jump_bytes = 8;
    if (cold->ahead)
        emit_lea(&t->e, t->s0, t->s0, cold->ahead);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(refill_lin));
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_R, OP_LEA, 0x05 | (t->s1 & 7) << 3); /* of RIP */
    emit32(&t->e, store_bytes + jump_bytes);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(refill_back));
    EMIT(&t->e, 0x65, 0xff, 0x24, 0x25);
    emit32(&t->e, cold->write ? BT_OFF(refill_wr) : BT_OFF(refill_rd));
    emit_jmp(&t->e, cold->retry);
}

/* By an exit that may be linked; a poll's must not be. */
static void emit_exit_cold(struct tr *t, const struct cold *cold) {
    struct bt_exit *exit = cold->exit;
    bool near = exit->inner || exit->single;
    if (near) {
        while ((uintptr_t)(t->e.p + 1) & 3)
            emit8(&t->e, 0x90);
        exit->jump = emit_jmp(&t->e, emit_rx(&t->e) + 5);
    }
    emit_leave_stub(t, exit);
}

static void emit_out_cold(struct tr *t, const struct cold *cold) {
    emit_call_out(t, cold->item, cold->operand, cold->back == 0);
    if (!cold->back)
        return;
    emit_spill(t);
    emit_kept(t, cold->kept);
    emit_jmp(&t->e, cold->back);
}

/* A marker's way in finds the scratch registers in use, but not RCX. */
static void emit_ways_in(struct tr *t, const struct cold *cold) {
    uint8_t *together = NULL;
    if (cold->poll) {
        emit_land(&t->e, cold->poll);
        if (cold->rcx_lent)
            lend_rcx(t);
        if (cold->from[0] && cold->retry)
            together = emit_jmp(&t->e, 0);
    }
    if (cold->from[0])
        emit_land(&t->e, cold->from[0]);
    if (cold->retry)
        emit_refill(t, cold);
    if (together)
        emit_land(&t->e, together);
}

void emit_cold(struct tr *t, const struct cold *cold) {
    emit_ways_in(t, cold);
    if (!cold->exit && cold->back)
        emit_keep(t, cold->kept);
    emit_unspill(t);
    if (cold->rcx_lent)
        return_rcx(t);
    if (cold->exit)
        emit_exit_cold(t, cold);
    else
        emit_out_cold(t, cold);
}

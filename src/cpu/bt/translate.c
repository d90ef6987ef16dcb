/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest instructions to host code, a region at a time. Most instructions are copied as they
 * are; memory operands go through the inline TLB. Nothing that is put around them touches the
 * flags.
 */
#include "cpu/bt/translate.h"

/* ---- templates without memory ---- */

/* When the host raises something, the reference engine does it for the guest. */
static void emit_copy_marked(struct tr *t, const struct item *it) {
    struct cold *cold = cold_new(t, it);
    cold->poll = emit_marker(t);
    emit_copy(t, it);
    cold->back = emit_rx(&t->e);
}

/* INC and DEC by their long forms. */
static void emit_long_inc(struct tr *t, const struct item *it) {
    if (it->zi.operand_width == 16)
        emit8(&t->e, 0x66);
    EMIT(&t->e, 0xff, 0xc0 | (it->zi.opcode & 15));
}

/* By one less than the count, then by one. */
static void emit_rotate(struct tr *t, const struct item *it) {
    unsigned count = it->insn->imm & (it->zi.operand_width == 64 ? 63 : 31);
    if (!count) /* a 32-bit destination is cut all the same */
        emit_copy(t, it);
    if (count > 1)
        emit_rotate_by(t, it, count - 1);
    if (count)
        emit_rotate_by(t, it, 1);
}

/* ---- by the reference engine ---- */

static void emit_out(struct tr *t, const struct item *it, bool leaves) {
    struct cold *cold = cold_new(t, it);
    cold->operand = it->insn->flags & INSN_MEM && !leaves ? BT_MEMORY : BT_NONE;
    cold->from = emit_jmp(&t->e, 0);
    cold->back = leaves ? 0 : emit_rx(&t->e);
}

/* Leaves before an instruction, to come back with the vector registers loaded. */
static void emit_want_vector(struct tr *t, const struct item *it) {
    struct bt_exit *exit = exit_new(t, it->off);
    if (!exit)
        return;
    exit->vector = true;
    exit->single = t->single;
    emit_unspill(t);
    emit_leave_stub(t, exit);
}

/* ---- regions ---- */

static void emit_item(struct tr *t, struct item *it) {
    it->at = t->e.p;
    if (it->label)
        t->x87_noted = t->rcx_saved = false;
    switch (it->kind) {
    case OUT:
        emit_out(t, it, false);
        break;
    case LAST:
        emit_out(t, it, true);
        break;
    case SKIP:
        break;
    case VECTOR:
        emit_want_vector(t, it);
        break;
    case FENCE:
        emit_exit(t, it, it->off + it->insn->len);
        break;
    case X87:
        emit_x87_item(t, it);
        break;
    case LOAD_CONTROL:
        emit_load_control(t, it);
        break;
    case ROTATE:
        emit_rotate(t, it);
        break;
    case COPY:
        emit_copy(t, it);
        break;
    case COPY_MARKED:
        emit_copy_marked(t, it);
        break;
    case RECODED:
        emit_long_inc(t, it);
        break;
    case MEM:
        emit_memory_item(t, it);
        break;
    case LEA:
        emit_lea_item(t, it);
        break;
    case BIT_STRING:
        emit_bit_string(t, it);
        break;
    case PUSH:
        emit_push(t, it);
        break;
    case PUSH_FROM:
        emit_push_from(t, it);
        break;
    case PUSH_FLAGS:
        emit_push_flags(t, it);
        break;
    case POP:
        emit_pop(t, it);
        break;
    case LEAVE:
        emit_leave(t, it);
        break;
    case CLEAR_IF:
    case SET_IF:
    case SPIN:
    case READ_TSC:
    case SWAP_GS:
    case CLEAR_DF:
    case READ_CR:
    case READ_SEGMENT:
    case READ_BASE:
    case CHANGE_AC:
        emit_system_item(t, it);
        break;
    default:
        emit_branch_item(t, it);
        break;
    }
}

/* Five bytes that a jump can replace in one aligned store. */
static uint8_t *emit_gate(struct tr *t) {
    if ((uintptr_t)t->e.p & 4)
        emit_nop(&t->e, -(uintptr_t)t->e.p & 7);
    uint8_t *at = t->e.p;
    EMIT(&t->e, 0x0f, 0x1f, 0x44, 0x00, 0x00);
    return at;
}

/* Exits to the region's own address, for when it is dead. */
static void emit_dead(struct tr *t) {
    struct bt_exit *exit = exit_new(t, t->item[0].off);
    t->block->dead = emit_rx(&t->e);
    if (exit)
        emit_leave_stub(t, exit);
    t->block->dead_inner = t->spilled ? emit_rx(&t->e) : t->block->dead;
    if (exit && t->spilled)
        emit_cold(t, &(struct cold){.exit = exit});
}

static void land_forwards(struct tr *t) {
    for (unsigned n = 0; n < t->forwards && !t->e.full; n++) {
        const struct forward *f = &t->forward[n];
        int32_t rel = (int32_t)(f->to->at - (f->from + 4));
        memcpy(f->from, &rel, sizeof rel);
    }
}

static void emit_region(struct tr *t) {
    const struct item *last = &t->item[t->count - 1];
    t->block->entry = emit_gate(t);
    t->block->code = (uint64_t)t->block->entry + (uint64_t)t->e.to_rx;
    emit_spill(t);
    t->block->inner = emit_gate(t);
    t->x87_noted = t->rcx_saved = false;
    if (t->x87)
        emit_x87_wanted(t);
    emit_held(t);
    for (unsigned n = 0; n < t->count; n++) {
        emit_item(t, &t->item[n]);
        if (t->item[n].kills >> RCX & 1)
            emit_rcx_out(t);
    }
    if (!ends_flow(last->kind))
        emit_exit(t, last, last->off + last->insn->len);
    land_forwards(t);
    emit_tails(t);
    for (unsigned n = 0; n < t->colds; n++)
        emit_cold(t, &t->cold[n]);
    emit_dead(t);
}

bool bt_translate(struct bt_cpu *b, struct bt_block *block, const uint8_t *host) {
    static _Thread_local struct tr t;
    t.b = b;
    t.block = block;
    t.colds = t.forwards = 0;
    memset(t.kept_insn, 0, sizeof t.kept_insn);
    t.tlb_kind = block->key & 3;
    t.vector = block->key & BT_KEY_VECTOR;
    t.single = block->key & BT_KEY_SINGLE;
    t.bits = b->c.mode64 ? 64 : 32;
    t.e = bt_cache_emit(b->cache);
    region_collect(&t, host);
    t.x87 = fpu_used(&t);
    const struct item *last = &t.item[t.count - 1];
    block->spilled = (uint16_t)t.spilled;
    block->bytes = last->off + last->insn->len - t.item[0].off;
    emit_region(&t);
    if (t.e.full)
        return false;
    bt_cache_emitted(b->cache, &t.e);
    keep_tails(&t);
    return true;
}

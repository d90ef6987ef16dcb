/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways out of a region and within it: jumps of the host where the target is known and near,
 * look-ups by linear address where it is not.
 */
#include "cpu/bt/translate.h"

/* Stores through gs:[poll]; when that faults, the handler goes to where the NOP behind it says. */
static uint8_t *emit_poll(struct tr *t) {
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(poll));
    /* mov [s1], s1 */
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * (REX_R | REX_B), OP_STORE,
         (t->s1 & 7) << 3 | (t->s1 & 7));
    return emit_marker(t);
}

struct bt_exit *exit_new(struct tr *t, int64_t target) {
    struct bt_exit *exit = bt_cache_alloc(t->b->cache, sizeof *exit);
    if (exit)
        *exit = (struct bt_exit){
            .block = t->block, .target = (int32_t)target, .spilled = (uint16_t)t->spilled};
    else
        t->e.full = true;
    return exit;
}

/* ---- look-ups by linear address ---- */

/* To RCX, CRC-32 of s0; no flag is touched. */
static void emit_hash(struct tr *t) {
    EMIT(&t->e, 0xb9, 0, 0, 0, 0); /* mov ecx, 0 */
    EMIT(&t->e, 0xf2, REX | REX_W | (t->s0 >> 3) * REX_B, 0x0f, 0x38, 0xf1, 0xc8 | (t->s0 & 7));
}

/* MOV reg, gs:[s0 * 8 + a member of the jump table's entry] */
static void emit_jump_entry(struct tr *t, unsigned reg, uint32_t member) {
    EMIT(&t->e, 0x65, REX | REX_W | (reg >> 3) * REX_R | (t->s0 >> 3) * REX_X, OP_LOAD,
         0x04 | (reg & 7) << 3, 0xc5 | (t->s0 & 7) << 3);
    emit32(&t->e, BT_OFF(jump) + member);
}

/* Looks up the linear address in s0 for code of a mode; s0 says what was found. A miss goes to
 * `cold`, s1 being the sum. RCX is lent. */
void emit_find(struct tr *t, struct cold *cold, unsigned mode) {
    lend_rcx(t);
    cold->rcx_lent = !t->rcx_free;
    cold->finds = true;
    cold->mode = mode;
    cold->retry = emit_rx(&t->e);
    emit_gs(&t->e, OP_LOAD, t->s1, BT_OFF(context_key) + 8u * mode);
    emit_lea_sum(&t->e, t->s1, t->s1, t->s0);
    emit_hash(t);
    emit_pdep(t, t->s0, RCX, BT_OFF(mask_jump));
    emit_jump_entry(t, RCX, offsetof(struct bt_jump, tag));
    emit_lea_sum(&t->e, RCX, RCX, t->s1);
    cold->from = jump_unless_zero(t);
}

/* Goes to what was found, which s0 says. */
void emit_go(struct tr *t) {
    emit_jump_entry(t, RCX, offsetof(struct bt_jump, code));
    emit_jump_entry(t, t->s0, offsetof(struct bt_jump, page));
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(page));
    emit_gs(&t->e, OP_STORE, RCX, BT_OFF(jump_to));
    emit_unspill(t);
    return_rcx(t);
    emit_gs_jump(t, BT_OFF(jump_to));
}

/* ---- known targets ---- */

/* The displacement of a jump is replaced while other vCPUs execute it: in one aligned store. */
static void align_displacement(struct tr *t, unsigned opcode_bytes) {
    emit_nop(&t->e, -(uintptr_t)(t->e.p + opcode_bytes) & 3);
}

uint8_t *emit_aligned_jump(struct tr *t) {
    align_displacement(t, 1);
    return emit_jmp(&t->e, 0);
}

static struct cold *exit_cold(struct tr *t, const struct item *it, int64_t target) {
    struct bt_exit *exit = exit_new(t, target);
    if (!exit)
        return NULL;
    struct cold *cold = cold_new(t, it);
    cold->exit = exit;
    return cold;
}

/* Jumps to a place in the page that is not in the region, on a condition or always. */
static void emit_exit_near(struct tr *t, const struct item *it, int64_t target, int condition) {
    struct cold *cold = exit_cold(t, it, target);
    if (!cold)
        return;
    if (condition < 0) {
        cold->from = emit_aligned_jump(t);
    } else {
        align_displacement(t, 2);
        cold->from = emit_jcc(&t->e, (unsigned)condition, 0);
    }
    cold->exit->inner = cold->from;
}

/* Elsewhere: the linear address is that of the page and a distance. */
static void emit_exit_far(struct tr *t, const struct item *it, int64_t target) {
    struct cold *cold = exit_cold(t, it, target);
    if (!cold)
        return;
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(page));
    EMIT(&t->e, REX | tr_wide(t) | (t->s0 >> 3) * (REX_R | REX_B), OP_LEA,
         0x80 | (t->s0 & 7) << 3 | (t->s0 & 7));
    emit32(&t->e, (uint32_t)target);
    emit_find(t, cold, t->block->key & BT_KEY_MODE);
    emit_go(t);
}

/* A kick leaves before the branch, which is executed again when it comes back. */
static void emit_poll_before(struct tr *t, const struct item *it) {
    struct cold *cold = exit_cold(t, it, it->off);
    if (cold)
        cold->poll = emit_poll(t);
}

void emit_exit(struct tr *t, const struct item *it, int64_t target) {
    if (in_page(target))
        emit_exit_near(t, it, target, -1);
    else
        emit_exit_far(t, it, target);
}

/* ---- jumps ---- */

static void jump_to_item(struct tr *t, const struct item *to, int condition) {
    uint64_t at = to->at ? (uint64_t)to->at + (uint64_t)t->e.to_rx : 0;
    uint8_t *from = condition < 0 ? emit_jmp(&t->e, at) : emit_jcc(&t->e, (unsigned)condition, at);
    if (!to->at)
        t->forward[t->forwards++] = (struct forward){from, to};
}

static const struct item *label_at(struct tr *t, int64_t target) {
    const struct item *to = region_at(t, target);
    return to && to->label ? to : NULL;
}

static void emit_jump(struct tr *t, const struct item *it) {
    const struct item *to = label_at(t, branch_target(it));
    if (branches_back(it))
        emit_poll_before(t, it);
    if (to)
        jump_to_item(t, to, -1);
    else
        emit_exit(t, it, branch_target(it));
}

static void emit_conditional(struct tr *t, const struct item *it) {
    int64_t target = branch_target(it);
    const struct item *to = label_at(t, target);
    int condition = it->zi.opcode & 15;
    if (branches_back(it))
        emit_poll_before(t, it);
    if (to) {
        jump_to_item(t, to, condition);
    } else if (in_page(target)) {
        emit_exit_near(t, it, target, condition);
    } else {
        uint8_t *over = emit_jcc(&t->e, (unsigned)condition ^ 1, 0);
        emit_exit_far(t, it, target);
        emit_land(&t->e, over);
        t->rcx_saved = false;
    }
}

/* JECXZ and LOOP reach 127 bytes only: around a jump. */
static void emit_count(struct tr *t, const struct item *it) {
    bool loop = it->zi.mnemonic == ZYDIS_MNEMONIC_LOOP;
    const struct item *to = label_at(t, branch_target(it));
    uint8_t *taken = NULL;
    if (branches_back(it))
        emit_poll_before(t, it);
    if (loop) /* lea rcx, [rcx - 1] */
        EMIT(&t->e, REX | tr_wide(t), OP_LEA, 0x49, 0xff);
    if (t->bits == 32)
        emit8(&t->e, 0x67);
    EMIT(&t->e, 0xe3, 5); /* when zero, over the next jump */
    if (loop)
        taken = emit_jmp(&t->e, 0);
    uint8_t *over = emit_jmp(&t->e, 0);
    if (loop)
        emit_land(&t->e, taken);
    if (to)
        jump_to_item(t, to, -1);
    else
        emit_exit(t, it, branch_target(it));
    emit_land(&t->e, over);
    t->rcx_saved = false;
}

/* ---- calls and returns ---- */

static void emit_call(struct tr *t, const struct item *it) {
    emit_return_address(t, it);
    emit_move_rsp(t, -(int32_t)t->bits / 8);
    emit_exit(t, it, branch_target(it));
}

/* A target known only now: nothing is committed before the look-up has hit. */
static void emit_ret(struct tr *t, const struct item *it) {
    emit_load_return(t, it);
    struct cold *miss = cold_new(t, it);
    miss->operand = BT_POP;
    emit_find(t, miss, t->block->key & BT_KEY_MODE);
    emit_move_rsp(t, (int32_t)(t->bits / 8 + it->insn->imm));
    emit_go(t);
}

static void emit_jump_to(struct tr *t, const struct item *it) {
    emit_load_target(t, it);
    emit_find(t, cold_new(t, it), t->block->key & BT_KEY_MODE);
    emit_go(t);
}

/* The target is looked up and the stack probed before anything changes. */
static void emit_call_to(struct tr *t, const struct item *it) {
    emit_load_target(t, it);
    emit_find(t, cold_new(t, it), t->block->key & BT_KEY_MODE);
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(jump_index));
    return_rcx(t);
    emit_return_address(t, it);
    emit_move_rsp(t, -(int32_t)t->bits / 8);
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(jump_index));
    lend_rcx(t);
    emit_go(t);
}

void emit_branch_item(struct tr *t, const struct item *it) {
    switch (it->kind) {
    case JMP:
        emit_jump(t, it);
        break;
    case JCC:
        emit_conditional(t, it);
        break;
    case COUNT:
        emit_count(t, it);
        break;
    case CALL:
        emit_call(t, it);
        break;
    case CALL_TO:
        emit_call_to(t, it);
        break;
    case JMP_TO:
        emit_jump_to(t, it);
        break;
    default:
        emit_ret(t, it);
        break;
    }
}

/* ---- linking ---- */

static void point(uint8_t *displacement, const uint8_t *to) {
    __atomic_store_n((int32_t *)(void *)displacement, (int32_t)(to - (displacement + 4)),
                     __ATOMIC_RELAXED);
}

/* From the registers that one region lends to those of another: the others change hands. */
static uint8_t *emit_bridge(struct emit *e, const struct bt_exit *exit, const struct bt_block *to) {
    uint8_t *at = e->p;
    for (unsigned r = 0; r < 16; r++)
        if (exit->spilled & ~to->spilled & 1u << r)
            emit_gs(e, OP_LOAD, r, BT_OFF(save) + 8u * r);
    for (unsigned r = 0; r < 16; r++)
        if (to->spilled & ~exit->spilled & 1u << r)
            emit_gs(e, OP_STORE, r, BT_OFF(save) + 8u * r);
    emit_jmp(e, (uint64_t)to->inner + (uint64_t)e->to_rx);
    return e->full ? NULL : at;
}

bool bt_link(struct bt_cache *cache, struct bt_exit *exit, const struct bt_block *to) {
    if (exit->spilled == to->spilled) {
        point(exit->inner, to->inner);
        return true;
    }
    struct emit e = bt_cache_emit(cache);
    uint8_t *bridge = emit_bridge(&e, exit, to);
    if (!bridge)
        return false;
    bt_cache_emitted(cache, &e);
    point(exit->inner, bridge);
    return true;
}

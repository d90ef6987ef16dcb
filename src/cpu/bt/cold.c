/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies behind a region: misses of the inline TLB, calls out, and ways out that are not linked.
 * Each is a few instructions that name a record, in s1, and go to one of the region's tails.
 */
#include "cpu/bt/translate.h"

/* ---- records ---- */

/* The instruction where it stays: the translator's own goes with the region. */
static const struct x86_insn *kept_insn(struct tr *t, const struct item *it) {
    const struct x86_insn **kept = &t->kept_insn[it - t->item];
    struct x86_insn *copy = *kept ? NULL : bt_cache_alloc(t->b->cache, sizeof *copy);
    if (copy) {
        *copy = *it->insn;
        *kept = copy;
    }
    return *kept;
}

static struct bt_site *site_new(struct tr *t, const struct cold *cold) {
    const struct x86_insn *insn = kept_insn(t, cold->item);
    bt_quick_fn *quick = bt_quick(t, cold->item);
    struct bt_site *site = insn ? bt_cache_alloc(t->b->cache, sizeof *site) : NULL;
    if (!site) {
        t->e.full = true;
        return NULL;
    }
    *site = (struct bt_site){.ways = {cold->retry, t->tail[BT_TAIL_OUT], cold->mode},
                             .insn = insn,
                             .offset = cold->item->off,
                             .operand = (uint8_t)cold->operand,
                             .x87 = (uint8_t)fpu_site(t, cold->item),
                             .leaves = cold->back == 0,
                             .back = cold->back,
                             .quick = quick,
                             .via = (uint64_t)(uintptr_t)(quick ? bt_call_quick : bt_call_engine)};
    return site;
}

static void emit_name_in(struct tr *t, unsigned reg, const void *record) { /* mov reg, imm64 */
    EMIT(&t->e, REX | REX_W | (reg >> 3) * REX_B, 0xb8 | (reg & 7));
    emit64(&t->e, (uint64_t)(uintptr_t)record);
}

static void emit_name(struct tr *t, const void *record) {
    emit_name_in(t, t->s1, record);
}

void emit_gs_jump(struct tr *t, uint32_t to) {
    EMIT(&t->e, 0x65, 0xff, 0x24, 0x25);
    emit32(&t->e, to);
}

/* What gs:[record] names to s1; jmp [s1 + member] */
static void emit_record_jump(struct tr *t, uint32_t record, unsigned member) {
    emit_gs(&t->e, OP_LOAD, t->s1, record);
    EMIT(&t->e, REX | (t->s1 >> 3) * REX_B, 0xff, 0x60 | (t->s1 & 7), member);
}

static void emit_site_jump(struct tr *t, unsigned member) {
    emit_record_jump(t, BT_OFF(site), member);
}

/* ---- tails ---- */

static void emit_call(struct tr *t) {
    emit_gs(&t->e, OP_STORE, RSP, BT_GPR(RSP));
    emit_gs(&t->e, OP_LOAD, RSP, BT_OFF(host_rsp));
    EMIT(&t->e, 0x65, 0xff, 0x14, 0x25); /* call gs:[call_out] */
    emit32(&t->e, BT_OFF(call_out));
}

static uint32_t group_registers(const struct tr *t) {
    uint32_t registers = 0;
    for (unsigned n = 0; n < t->groups; n++)
        if (t->group[n].probed)
            registers |= 1u << t->group[n].reg;
    return registers;
}

/* The reference engine executes the site's instruction. */
static void emit_tail_out(struct tr *t) {
    uint32_t kept = group_registers(t);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(site));
    emit_keep(t, kept);
    emit_unspill(t);
    return_rcx(t);
    emit_call(t);
    emit_spill(t);
    emit_held(t);
    emit_kept(t, kept);
    emit_site_jump(t, offsetof(struct bt_site, back));
}

/* Calls what refills. Returns the jump that is taken when it has; s1 is used. */
static uint8_t *emit_refill(struct tr *t, uint32_t refill) {
    const unsigned store_bytes = 9, jump_bytes = 8;
    EMIT(&t->e, REX | REX_W | (t->s1 >> 3) * REX_R, OP_LEA, 0x05 | (t->s1 & 7) << 3); /* of RIP */
    emit32(&t->e, store_bytes + jump_bytes);
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(refill_back));
    emit_gs_jump(t, refill);
    return emit_jmp(&t->e, 0);
}

/* The page of the address in s0 into the inline TLB, and once more (bt_refill_read()); or, when
 * that cannot be, out. */
static void emit_tail_miss(struct tr *t, uint32_t refill) {
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(refill_lin));
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(site));
    uint8_t *refilled = emit_refill(t, refill);
    emit_site_jump(t, offsetof(struct bt_site, ways.out));
    emit_land(&t->e, refilled);
    emit_site_jump(t, offsetof(struct bt_site, ways.retry));
}

/* The code at the address whose sum with the key is in s1 into the jump table; s0 has the ways. */
static void emit_tail_find(struct tr *t) {
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(refill_lin));
    emit_gs(&t->e, OP_STORE, t->s0, BT_OFF(ways));
    uint8_t *refilled = emit_refill(t, BT_OFF(refill_jump));
    emit_record_jump(t, BT_OFF(ways), offsetof(struct bt_ways, out));
    emit_land(&t->e, refilled);
    emit_gs(&t->e, OP_LOAD, t->s0, BT_OFF(refill_lin));
    emit_record_jump(t, BT_OFF(ways), offsetof(struct bt_ways, retry));
}

static void emit_tail_leave(struct tr *t) {
    emit_gs(&t->e, OP_STORE, t->s1, BT_OFF(link_exit));
    emit_unspill(t);
    return_rcx(t);
    emit_gs_jump(t, BT_OFF(leave_linked));
}

static void emit_tail(struct tr *t, unsigned which) {
    if (which == BT_TAIL_OUT)
        emit_tail_out(t);
    else if (which == BT_TAIL_LEAVE)
        emit_tail_leave(t);
    else if (which == BT_TAIL_FIND)
        emit_tail_find(t);
    else
        emit_tail_miss(t, which == BT_TAIL_READ ? BT_OFF(refill_rd) : BT_OFF(refill_wr));
}

/* What a tail depends on; never 0. */
static uint64_t tail_key(const struct tr *t, unsigned which) {
    uint64_t key = which | t->s0 << 3 | t->s1 << 7 | 1u << 11;
    if (which == BT_TAIL_OUT || which == BT_TAIL_LEAVE)
        key |= (uint64_t)t->spilled << 16 | (uint64_t)t->rcx_free << 12;
    if (which == BT_TAIL_OUT)
        key |= (uint64_t)group_registers(t) << 32 | (uint64_t)t->rcx_in << 48 |
               (uint64_t)t->mask_tlb << 53 | (uint64_t)t->mask_above << 58;
    return key;
}

void emit_tails(struct tr *t) {
    for (unsigned n = 0; n < BT_TAILS && t->spilled; n++) {
        uint64_t key = tail_key(t, n);
        t->tail[n] = bt_cache_tail(t->b->cache, key);
        t->tail_new[n] = t->tail[n] ? 0 : key;
        if (t->tail[n])
            continue;
        t->tail[n] = emit_rx(&t->e);
        emit_tail(t, n);
    }
}

void keep_tails(struct tr *t) {
    for (unsigned n = 0; n < BT_TAILS && t->spilled; n++)
        if (t->tail_new[n])
            bt_cache_keep_tail(t->b->cache, t->tail_new[n], t->tail[n]);
}

/* ---- calls out ---- */

/* In a region that lends no register. */
static void emit_call_plain(struct tr *t, const struct cold *cold, const struct bt_site *site) {
    emit_gs(&t->e, OP_STORE, RAX, BT_OFF(save_rax));
    EMIT(&t->e, 0x48, 0xb8); /* mov rax, imm64 */
    emit64(&t->e, (uint64_t)(uintptr_t)site);
    emit_gs(&t->e, OP_STORE, RAX, BT_OFF(site));
    emit_gs(&t->e, OP_LOAD, RAX, BT_OFF(save_rax));
    emit_call(t);
    if (cold->back)
        emit_jmp(&t->e, cold->back);
}

static void emit_find_missed(struct tr *t, const struct bt_ways *ways) {
    emit_name_in(t, t->s0, ways);
    emit_jmp(&t->e, t->tail[BT_TAIL_FIND]);
}

static void emit_out(struct tr *t, const struct cold *cold) {
    const struct bt_site *site = site_new(t, cold);
    bool both = cold->poll && cold->from;
    if (!site) /* no room for it: nobody will run this */
        return;
    if (cold->poll) { /* RCX is the guest's */
        emit_land(&t->e, cold->poll);
        if (t->spilled)
            lend_rcx(t);
    }
    if (both) {
        emit_name(t, site);
        emit_jmp(&t->e, t->tail[BT_TAIL_OUT]);
    }
    if (cold->from) {
        emit_land(&t->e, cold->from);
        if (t->spilled && !cold->rcx_lent)
            lend_rcx(t);
    }
    if (!t->spilled) {
        emit_call_plain(t, cold, site);
        return;
    }
    if (cold->finds) {
        emit_find_missed(t, &site->ways);
        return;
    }
    if (cold->at != t->s0)
        emit_mov(&t->e, t->s0, cold->at);
    emit_name(t, site);
    emit_jmp(&t->e, cold->retry && cold->from ? t->tail[cold->write ? BT_TAIL_WRITE : BT_TAIL_READ]
                                              : t->tail[BT_TAIL_OUT]);
}

/* ---- ways out ---- */

void emit_leave_stub(struct tr *t, const struct bt_exit *exit) {
    emit_gs(&t->e, OP_STORE, RAX, BT_OFF(save_rax));
    EMIT(&t->e, 0x48, 0xb8); /* mov rax, imm64 */
    emit64(&t->e, (uint64_t)(uintptr_t)exit);
    emit_gs_jump(t, BT_OFF(leave));
}

/* Not linked yet, or never. */
static void emit_unlinked(struct tr *t, const struct cold *cold) {
    if (!t->spilled) {
        emit_leave_stub(t, cold->exit);
        return;
    }
    if (!cold->rcx_lent)
        lend_rcx(t);
    if (cold->finds) {
        cold->exit->ways = (struct bt_ways){cold->retry, t->tail[BT_TAIL_LEAVE], cold->mode};
        emit_find_missed(t, &cold->exit->ways);
        return;
    }
    emit_name(t, cold->exit);
    emit_jmp(&t->e, t->tail[BT_TAIL_LEAVE]);
}

/* A group's look-up missed: its page is looked up elsewhere, or each access for itself, by an exit
 * that may be linked. Nothing but the access at hand sets A and D bits, whatever else the look-up
 * is for. */
static void emit_group_miss(struct tr *t, struct cold *cold) {
    struct bt_site *site = cold->retry ? site_new(t, cold) : NULL;
    emit_land(&t->e, cold->from);
    if (site) {
        if (cold->ahead)
            emit_lea(&t->e, t->s0, t->s0, cold->ahead);
        emit_name(t, site);
        emit_jmp(&t->e, t->tail[cold->write ? BT_TAIL_WRITE : BT_TAIL_READ]);
        if (cold->ahead) {
            site->ways.retry = emit_rx(&t->e);
            emit_lea(&t->e, t->s0, t->s0, -cold->ahead);
            emit_jmp(&t->e, cold->retry);
        }
        site->ways.out = emit_rx(&t->e);
    }
    if (cold->rcx_lent)
        return_rcx(t);
    cold->rcx_lent = false;
    cold->exit->inner = emit_aligned_jump(t);
    emit_land(&t->e, cold->exit->inner);
    emit_unlinked(t, cold);
}

void emit_cold(struct tr *t, struct cold *cold) {
    t->rcx_saved = false;
    if (!cold->exit) {
        emit_out(t, cold);
    } else if (cold->exit->single && !cold->exit->x87) {
        emit_group_miss(t, cold);
    } else {
        if (cold->poll || cold->from)
            emit_land(&t->e, cold->poll ? cold->poll : cold->from);
        emit_unlinked(t, cold);
    }
}

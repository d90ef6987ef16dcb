/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions make a region, and which registers it lends from the guest. A region goes on
 * past conditional branches, and past others where a branch in it leads to what follows.
 */
#include <errno.h>

#include "cpu/bt/translate.h"
#include "cpu/x86/interp.h"

/* ---- labels ---- */

struct item *region_at(struct tr *t, int64_t off) {
    for (unsigned n = 0; n < t->count; n++)
        if (t->item[n].off == off)
            return &t->item[n];
    return NULL;
}

static bool is_awaited(const struct tr *t, uint32_t off) {
    for (unsigned n = 0; n < t->count; n++)
        if (item_jumps(&t->item[n]) && branch_target(&t->item[n]) == off)
            return true;
    return false;
}

static void name_labels(struct tr *t) {
    for (unsigned n = 0; n < t->count; n++) {
        struct item *to = item_jumps(&t->item[n]) ? region_at(t, branch_target(&t->item[n])) : NULL;
        if (to)
            to->label = true;
    }
}

/* ---- registers ---- */

/* None that needs a special encoding as a base (RSP, RBP, R12, R13). */
static const uint8_t SCRATCH_ORDER[] = {11, 10, 9, 8, 6, 7, 2, 3, 14, 15, 0};
/* As an index any but RSP will do. */
static const uint8_t GROUP_ORDER[] = {11, 10, 9, 8, 6, 7, 2, 14, 15, 13, 12, 3, 0, 5};

/* The first unused register of an order, one of `preferred` where there is. */
static unsigned pick(const uint8_t *order, unsigned count, uint32_t used, uint32_t preferred) {
    for (unsigned n = 0; n < count; n++)
        if (preferred & ~used & 1u << order[n])
            return order[n];
    for (unsigned n = 0; n < count; n++)
        if (!(used >> order[n] & 1))
            return order[n];
    return NO_REG;
}

static unsigned unused_scratch(uint32_t used) {
    unsigned found = 0;
    for (unsigned n = 0; n < sizeof SCRATCH_ORDER; n++)
        found += !(used >> SCRATCH_ORDER[n] & 1);
    return found;
}

static uint32_t region_uses(const struct tr *t) {
    uint32_t used = 0;
    for (unsigned n = 0; n < t->count; n++)
        used |= t->item[n].uses;
    return used;
}

static bool needs_scratch(const struct item *it) {
    switch (it->kind) {
    case OUT:
    case LAST:
    case SKIP:
    case COPY:
    case COPY_MARKED:
    case RECODED:
    case ROTATE:
    case VECTOR:
        return false;
    case LEA:
        return item_memory(it)->mem.base == ZYDIS_REGISTER_RIP;
    case JCC:
    case COUNT:
    case JMP:
        return branches_back(it) || !in_page(branch_target(it));
    default:
        return true;
    }
}

static bool region_needs_scratch(const struct tr *t) {
    const struct item *last = &t->item[t->count - 1];
    for (unsigned n = 0; n < t->count; n++)
        if (needs_scratch(&t->item[n]))
            return true;
    return !in_page(last->off + last->insn->len);
}

static bool is_grouped(const struct group *g) {
    return (g->count > 1 || g->count + g->maybe > 2) && g->reg == NO_REG;
}

/* The largest first; two groups may share a register when one begins behind the other's end. */
static void pick_groups(struct tr *t, uint32_t used, uint32_t preferred) {
    for (;;) {
        struct group *best = NULL;
        for (unsigned n = 0; n < t->groups; n++)
            if (is_grouped(&t->group[n]) && (!best || t->group[n].count > best->count))
                best = &t->group[n];
        if (!best)
            return;
        uint32_t busy = used;
        for (unsigned n = 0; n < t->groups; n++) {
            const struct group *g = &t->group[n];
            if (g->reg != NO_REG && g->begin <= best->last && best->begin <= g->last)
                busy |= 1u << g->reg;
        }
        best->reg = pick(GROUP_ORDER, sizeof GROUP_ORDER, busy, preferred);
        if (best->reg == NO_REG)
            best->count = best->maybe = 0; /* each of its accesses for itself */
        else
            t->spilled |= 1u << best->reg;
    }
}

/* ---- RCX, which each look-up needs ---- */

/* Whether another register may stand for RCX in it. */
static bool takes_stand_in(const struct item *it) {
    switch (it->kind) {
    case COPY:
    case COPY_MARKED:
    case ROTATE:
    case MEM:
    case X87:
    case LOAD_CONTROL:
    case LEA:
    case PUSH:
    case PUSH_FROM:
    case POP:
    case BIT_STRING:
    case JMP_TO:
    case CALL_TO:
        break;
    default:
        return false;
    }
    for (unsigned n = 0; n < it->zi.operand_count; n++) {
        const ZydisDecodedOperand *op = &it->op[n];
        bool hidden = op->encoding == ZYDIS_OPERAND_ENCODING_NONE;
        if (is_high_byte(op) || (hidden && operand_gpr(op) == 1u << RCX &&
                                 op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return false;
    }
    return true;
}

/* Each look-up without a stand-in costs a load, and some a store. */
static bool wants_stand_in(const struct tr *t) {
    unsigned looks = 0;
    for (unsigned n = 0; n < t->count; n++) {
        const struct item *it = &t->item[n];
        if (it->uses >> RCX & 1 && !takes_stand_in(it))
            return false;
        looks += needs_scratch(it) && it->kind != JMP && it->kind != JCC;
        looks += it->kind == JCC && branches_back(it) ? 2 : 0;
    }
    return looks > 1;
}

/* The registers that the code which comes here has given up already, when this region may too. */
static uint32_t preferred_registers(const struct tr *t, uint32_t used) {
    const struct bt_exit *from = t->b->link_exit;
    return from && !(from->spilled & used) ? from->spilled : 0;
}

static bool has_loop(const struct tr *t) {
    for (unsigned n = 0; n < t->count; n++) {
        const struct item *it = &t->item[n];
        if (item_jumps(it) && branches_back(it) && branch_target(it) >= t->item[0].off)
            return true;
    }
    return false;
}

/* One more register, for all of a region. */
static unsigned pick_held(struct tr *t, uint32_t used, uint32_t preferred) {
    unsigned reg =
        pick(GROUP_ORDER, sizeof GROUP_ORDER, used | t->spilled | 1u << RSP | 1u << RCX, preferred);
    t->spilled |= reg == NO_REG ? 0 : 1u << reg;
    return reg;
}

static void choose_registers(struct tr *t) {
    uint32_t used = region_uses(t), all = used;
    t->spilled = 0;
    t->s0 = t->s1 = NO_REG;
    t->rcx_in = RCX;
    t->mask_tlb = t->mask_above = NO_REG;
    t->rcx_free = !(used >> RCX & 1);
    if (!region_needs_scratch(t))
        return;
    if (!t->rcx_free && unused_scratch(used) > 2 && wants_stand_in(t)) {
        t->rcx_free = true;
        used &= ~(1u << RCX);
    }
    uint32_t preferred = preferred_registers(t, used);
    used = all;
    t->s0 = pick(SCRATCH_ORDER, sizeof SCRATCH_ORDER, used, preferred);
    t->s1 = pick(SCRATCH_ORDER, sizeof SCRATCH_ORDER, used | 1u << t->s0, preferred);
    t->spilled = 1u << t->s0 | 1u << t->s1 | (t->rcx_free ? 1u << RCX : 0);
    if (t->rcx_free && used >> RCX & 1) {
        t->rcx_in = pick(SCRATCH_ORDER, sizeof SCRATCH_ORDER, used | t->spilled, preferred);
        t->spilled |= 1u << t->rcx_in;
    }
    pick_groups(t, used | t->spilled | 1u << RSP | 1u << RCX, preferred);
    if (has_loop(t)) {
        t->mask_tlb = pick_held(t, used, preferred);
        t->mask_above = pick_held(t, used, preferred);
    }
    if (!(t->spilled & ~preferred))
        t->spilled = preferred;
}

/* ---- collecting ---- */

/* The rest of the instruction is looked for when it is executed: the next page may be another one
 * then. */
static void add_crossing(struct item *it, struct x86_insn *i) {
    *i = (struct x86_insn){.fn = interp_op_crossing, .len = (uint8_t)(PAGE_SIZE - it->off)};
    memset(&it->zi, 0, sizeof it->zi);
    it->insn = i;
    it->kind = LAST;
    it->uses = it->kills = 0;
}

static bool add(struct tr *t, const uint8_t *page, uint32_t off, uint32_t *used) {
    struct item *it = &t->item[t->count];
    struct x86_insn *i = &t->insn[t->count];
    it->bytes = page + off;
    it->label = false;
    it->at = NULL;
    it->off = off;
    if (x86_decode_full(t->b->c.cpuid, t->bits, it->bytes, (unsigned)(PAGE_SIZE - off), i, &it->zi,
                        it->op) == -EAGAIN) {
        add_crossing(it, i);
        t->count++;
        return true;
    }
    it->insn = i;
    it->kind = bt_classify(t, it);
    item_registers(it);
    if (unused_scratch(*used | it->uses) < 2 && t->count > 0)
        return false;
    *used |= it->uses;
    t->count++;
    return true;
}

/* STI holds interrupts back for one instruction: which must be in the region too. */
static void finish_sti(struct tr *t) {
    for (unsigned n = 0; n < t->count; n++)
        if (t->item[n].kind == SET_IF && (n + 1 == t->count || t->item[n + 1].kind == VECTOR)) {
            t->item[n].kind = OUT;
            item_registers(&t->item[n]);
        }
}

void region_collect(struct tr *t, const uint8_t *host) {
    uint32_t off = t->b->c.s.rip & PAGE_MASK, used = 0;
    const uint8_t *page = host - off;
    t->count = t->groups = 0;
    while (t->count < REGION_INSNS && off < PAGE_SIZE) {
        if (!add(t, page, off, &used))
            break;
        const struct item *it = &t->item[t->count - 1];
        off += it->insn->len;
        if (t->single ? it->kind >= JCC || ends_flow(it->kind)
                      : ends_flow(it->kind) && !is_awaited(t, off))
            break;
    }
    finish_sti(t);
    if (!t->single)
        name_labels(t);
    values_group(t);
    choose_registers(t);
}

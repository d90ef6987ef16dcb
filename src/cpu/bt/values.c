/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which memory accesses of a region lie at known distances from each other. Registers hold values:
 * a copy, or a sum with a constant, is the same value at another offset. Accesses near one value
 * make a group, which one look-up in the inline TLB serves: that of the first, if all ways to the
 * others lead past it. In a region that calls the reference engine, which may change what the TLB
 * says, a group ends at the next label or call.
 */
#include "cpu/bt/translate.h"

#define GROUP_SPAN 512 /* bytes; one in eight such groups straddles two pages */
#define VALUE_PAGE 1u  /* the linear address of the page that is executed in */

struct value {
    uint16_t number;
    int32_t off;
};

/* What a sum of two values, the second of them scaled, is called. */
struct sum {
    uint16_t base, index, number;
    uint8_t scale;
};

struct values {
    struct value reg[16];
    uint16_t last;
    struct sum sum[REGION_INSNS];
    unsigned sums;
    struct flow {
        struct value reg[16]; /* what the jumps to an item, so far, agree upon */
        bool any;
        uint64_t passed; /* the items that are on every way to it */
    } flow[REGION_INSNS];
    uint32_t looped;         /* registers that a loop changes */
    unsigned loop, loop_end; /* items between which the region's loops lie */
    unsigned labels;         /* so far */
    bool calls;              /* the reference engine, on the way */
};

static void forget(struct values *v, uint32_t registers) {
    for (unsigned r = 0; r < 16; r++)
        if (registers >> r & 1)
            v->reg[r] = (struct value){++v->last, 0};
}

static struct value moved(struct value v, int64_t by) {
    int64_t off = v.off + by;
    return off == (int32_t)off ? (struct value){v.number, (int32_t)off} : (struct value){0, 0};
}

static void set(struct values *v, unsigned reg, struct value to) {
    if (to.number)
        v->reg[reg] = to;
    else
        forget(v, 1u << reg);
}

static uint16_t sum_number(struct values *v, uint16_t base, uint16_t index, unsigned scale) {
    for (unsigned n = 0; n < v->sums; n++) {
        const struct sum *s = &v->sum[n];
        if (s->base == base && s->index == index && s->scale == scale)
            return s->number;
    }
    if (v->sums == REGION_INSNS)
        return 0;
    v->sum[v->sums++] = (struct sum){base, index, ++v->last, (uint8_t)scale};
    return v->last;
}

/* ---- what an instruction accesses ---- */

static struct value indexed_value(struct values *v, const ZydisDecodedOperand *m) {
    bool based = m->mem.base != ZYDIS_REGISTER_NONE;
    struct value base = based ? v->reg[ZydisRegisterGetId(m->mem.base)] : (struct value){0, 0};
    struct value index = v->reg[ZydisRegisterGetId(m->mem.index)];
    uint16_t number = sum_number(v, base.number, index.number, m->mem.scale);
    if (!number)
        return (struct value){0, 0};
    return moved((struct value){number, base.off},
                 m->mem.disp.value + (int64_t)index.off * m->mem.scale);
}

static struct value address_value(struct values *v, const struct item *it,
                                  const ZydisDecodedOperand *m) {
    if (it->insn->seg == SEG_FS || it->insn->seg == SEG_GS)
        return (struct value){0, 0};
    if (m->mem.index != ZYDIS_REGISTER_NONE)
        return indexed_value(v, m);
    if (m->mem.base == ZYDIS_REGISTER_RIP)
        return moved((struct value){VALUE_PAGE, 0}, m->mem.disp.value + it->off + it->insn->len);
    if (m->mem.base == ZYDIS_REGISTER_NONE)
        return (struct value){0, 0};
    return moved(v->reg[ZydisRegisterGetId(m->mem.base)], m->mem.disp.value);
}

static struct access access_at(struct value at, unsigned size, bool write) {
    return (struct access){.value = at.number,
                           .off = at.off,
                           .size = (uint16_t)size,
                           .write = write,
                           .group = NO_GROUP};
}

static void stack_access(const struct values *v, struct item *it, unsigned reg, int32_t by,
                         unsigned size) {
    it->access[ON_STACK] = access_at(moved(v->reg[reg], by), size, by < 0);
}

static void find_accesses(const struct tr *t, struct values *v, struct item *it) {
    const ZydisDecodedOperand *m = item_memory(it);
    unsigned size = t->bits / 8;
    bool to_memory = it->kind == MEM || it->kind == X87 || it->kind == LOAD_CONTROL ||
                     it->kind == PUSH_FROM || it->kind == CALL_TO || it->kind == JMP_TO;
    it->access[ON_MEMORY] = it->access[ON_STACK] = access_at((struct value){0, 0}, 0, false);
    if (to_memory && m)
        it->access[ON_MEMORY] = access_at(address_value(v, it, m), m->size / 8,
                                          m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    if (it->kind == PUSH || it->kind == PUSH_FROM || it->kind == PUSH_FLAGS || it->kind == CALL ||
        it->kind == CALL_TO)
        stack_access(v, it, RSP, -(int32_t)size, size);
    else if (it->kind == POP || it->kind == RET)
        stack_access(v, it, RSP, 0, size);
    else if (it->kind == LEAVE)
        stack_access(v, it, RBP, 0, size);
}

/* ---- what it leaves in registers ---- */

static bool is_register64(const ZydisDecodedOperand *op) {
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_RAX &&
           op->reg.value <= ZYDIS_REGISTER_R15;
}

static struct value result(struct values *v, const struct item *it) {
    const ZydisDecodedOperand *m = item_memory(it);
    struct value own = v->reg[it->insn->dst / 8];
    bool immediate = it->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    switch (it->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (it->kind == COPY && is_register64(&it->op[1]))
            return v->reg[it->insn->src / 8];
        return (struct value){0, 0};
    case ZYDIS_MNEMONIC_LEA:
        return it->zi.operand_width == 64 ? address_value(v, it, m) : (struct value){0, 0};
    case ZYDIS_MNEMONIC_ADD:
        return immediate ? moved(own, it->op[1].imm.value.s) : (struct value){0, 0};
    case ZYDIS_MNEMONIC_SUB:
        return immediate ? moved(own, -it->op[1].imm.value.s) : (struct value){0, 0};
    case ZYDIS_MNEMONIC_INC:
        return moved(own, 1);
    case ZYDIS_MNEMONIC_DEC:
        return moved(own, -1);
    default:
        return (struct value){0, 0};
    }
}

static void find_results(struct values *v, const struct item *it) {
    struct value rsp = v->reg[RSP], rbp = v->reg[RBP];
    int64_t imm = it->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? it->op[1].imm.value.s : 0;
    bool known = (it->kind == COPY || it->kind == LEA) && is_register64(&it->op[0]) &&
                 it->kills >> it->insn->dst / 8 & 1 && imm == (int32_t)imm;
    struct value to = known ? result(v, it) : (struct value){0, 0};
    forget(v, it->kills);
    if (known)
        set(v, it->insn->dst / 8, to);
    if (it->kind == PUSH || it->kind == PUSH_FROM || it->kind == PUSH_FLAGS)
        set(v, RSP, moved(rsp, -8));
    else if (it->kind == POP && it->insn->dst / 8 != RSP)
        set(v, RSP, moved(rsp, 8));
    else if (it->kind == LEAVE)
        set(v, RSP, moved(rbp, 8));
}

/* ---- labels ---- */

static unsigned index_of(const struct tr *t, const struct item *it) {
    return (unsigned)(it - t->item);
}

/* The item that one jumps to, or NULL. */
static struct item *target_in(struct tr *t, const struct item *it) {
    struct item *to = item_jumps(it) ? region_at(t, branch_target(it)) : NULL;
    return to && to->label ? to : NULL;
}

/* Whether a way from one item to another changes what is on every way to that. */
static bool pass(struct values *v, unsigned from, unsigned to) {
    uint64_t before = v->flow[to].passed;
    v->flow[to].passed &= v->flow[from].passed | 1ull << to;
    return v->flow[to].passed != before;
}

static void find_passed(struct tr *t, struct values *v) {
    for (unsigned n = 0; n < t->count; n++)
        v->flow[n].passed = n ? UINT64_MAX : 1;
    for (bool changed = true; changed;) {
        changed = false;
        for (unsigned n = 0; n < t->count; n++) {
            const struct item *to = target_in(t, &t->item[n]);
            if (!ends_flow(t->item[n].kind) && n + 1 < t->count)
                changed |= pass(v, n, n + 1);
            if (to)
                changed |= pass(v, n, index_of(t, to));
        }
    }
}

/* Only from the first label that is jumped back to anything is executed twice. */
static void find_looped(struct tr *t, struct values *v) {
    v->loop = t->count;
    for (unsigned n = 0; n < t->count; n++) {
        const struct item *to = target_in(t, &t->item[n]);
        if (to && index_of(t, to) <= n) {
            v->loop = MIN(v->loop, index_of(t, to));
            v->loop_end = n;
        }
        v->calls |= t->item[n].kind == OUT;
    }
    for (unsigned n = v->loop; n < t->count; n++)
        v->looped |= t->item[n].kills;
}

static bool same(struct value a, struct value b) {
    return a.number == b.number && a.off == b.off;
}

/* What is behind an item reaches a later one. */
static void flow_on(struct values *v, unsigned to) {
    struct flow *f = &v->flow[to];
    for (unsigned r = 0; r < 16; r++)
        f->reg[r] = !f->any || same(f->reg[r], v->reg[r]) ? v->reg[r] : (struct value){0, 0};
    f->any = true;
}

static bool jumped_back_to(struct tr *t, unsigned label) {
    for (unsigned n = label; n < t->count; n++)
        if (target_in(t, &t->item[n]) == &t->item[label])
            return true;
    return false;
}

static void at_label(struct tr *t, struct values *v, unsigned n) {
    if (n && !ends_flow(t->item[n - 1].kind))
        flow_on(v, n);
    for (unsigned r = 0; r < 16; r++)
        if (n && v->flow[n].any)
            set(v, r, v->flow[n].reg[r]);
    forget(v, jumped_back_to(t, n) ? v->looped : 0);
}

/* ---- groups ---- */

static bool fits(const struct group *g, const struct access *a) {
    int32_t min = a->off < g->min ? a->off : g->min;
    int64_t end = (int64_t)a->off + a->size, max = end > g->max ? end : g->max;
    return g->value == a->value && max - min <= GROUP_SPAN;
}

/* A look-up for writing sets D: only where the write comes for certain. */
static bool writes_late(const struct tr *t, const struct group *g, const struct access *a,
                        unsigned item) {
    for (unsigned n = g->first; a->write && !g->write && n < item; n++)
        if (item_jumps(&t->item[n]))
            return true;
    return false;
}

/* Behind another label, and in no loop, an access may be one that is rarely come to. */
static void join(const struct values *v, struct group *g, const struct access *a, unsigned item) {
    int32_t end = a->off + a->size;
    g->min = a->off < g->min ? a->off : g->min;
    g->max = end > g->max ? end : g->max;
    g->write |= a->write;
    bool likely_too = g->labels == v->labels || (item >= v->loop && item <= v->loop_end);
    g->count += likely_too;
    g->maybe += !likely_too;
    g->last = (uint8_t)item;
}

/* Groups before `open` have ended. */
static void group_access(struct tr *t, const struct values *v, struct access *a, unsigned item,
                         unsigned open) {
    if (!a->value || (int32_t)(a->off + a->size) < a->off)
        return;
    for (unsigned n = open; n < t->groups; n++)
        if (v->flow[item].passed >> t->group[n].first & 1 && fits(&t->group[n], a) &&
            !writes_late(t, &t->group[n], a, item)) {
            join(v, &t->group[n], a, item);
            a->group = (uint8_t)n;
            return;
        }
    /* A miss of PUSH's source goes on behind the instruction: nothing may be first looked up in it.
     */
    bool first_may_be_missed = t->item[item].kind == PUSH_FROM && a != t->item[item].access;
    if (t->groups == REGION_GROUPS || first_may_be_missed)
        return;
    a->group = (uint8_t)t->groups;
    t->group[t->groups++] = (struct group){.value = a->value,
                                           .write = a->write,
                                           .count = 1,
                                           .labels = (uint8_t)v->labels,
                                           .first = (uint8_t)item,
                                           .begin = (uint8_t)item,
                                           .last = (uint8_t)item,
                                           .reg = NO_REG,
                                           .min = a->off,
                                           .max = a->off + a->size};
}

/* A group that is used behind a loop's label, and was looked up before on every way to it, keeps
 * its register throughout the loop. True: it did not yet. */
static bool keep_in_loop(const struct values *v, struct group *g, unsigned label, unsigned jump) {
    if (!(v->flow[label].passed >> g->first & 1) || g->last < label || g->first == label ||
        (g->begin <= label && jump <= g->last))
        return false;
    g->begin = MIN(g->begin, (uint8_t)label);
    g->last = MAX(g->last, (uint8_t)jump);
    return true;
}

static void keep_in_loops(struct tr *t, const struct values *v) {
    for (bool changed = true; changed;) {
        changed = false;
        for (unsigned n = 0; n < t->count; n++) {
            const struct item *to = target_in(t, &t->item[n]);
            for (unsigned g = 0; g < t->groups && to && index_of(t, to) <= n; g++)
                changed |= keep_in_loop(v, &t->group[g], index_of(t, to), n);
        }
    }
}

void values_group(struct tr *t) {
    static _Thread_local struct values v;
    unsigned open = 0;
    memset(&v, 0, sizeof v);
    v.last = VALUE_PAGE;
    forget(&v, 0xffff);
    find_passed(t, &v);
    find_looped(t, &v);
    for (unsigned n = 0; n < t->count; n++) {
        struct item *it = &t->item[n];
        const struct item *to = target_in(t, it);
        v.labels += it->label;
        if (it->label && v.calls) {
            forget(&v, 0xffff);
            open = t->groups;
        } else if (it->label) {
            at_label(t, &v, n);
        }
        find_accesses(t, &v, it);
        for (unsigned a = 0; a < 2 && !t->single && t->bits == 64; a++)
            group_access(t, &v, &it->access[a], n, open);
        find_results(&v, it);
        if (to && index_of(t, to) > n)
            flow_on(&v, index_of(t, to));
        if (it->kind == OUT) /* finds all registers as the guest has them */
            open = t->groups;
    }
    keep_in_loops(t, &v);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a chunk in which two engines came apart to the fewest instructions that still show it: the
 * chunk is run again in short slices, then from later and later instructions. What depends on chips
 * or on what an engine remembers may not come again; then the chunk as a whole is all that is told.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/cpu.h"
#include "cpu/x86/walk.h"
#include "mem/mem.h"
#include "twin.h"

#define TRIES 12u
#define SHORT_NS 4000u
#define REACH 200000u /* instructions within which the reference must arrive */
#define STEPS_MAX 65536u
#define SHOWN 24u
#define SLICES 100u

static struct x86_cpu *cpu_of(struct vcpu *v) {
    return (struct x86_cpu *)(void *)v;
}

/* ---- putting a state back ---- */

static void load_ram(struct mem *m, const uint8_t *image, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += PAGE_SIZE) {
        if (memcmp(m->ram + at, image + at, PAGE_SIZE) == 0)
            continue;
        memcpy(m->ram + at, image + at, PAGE_SIZE);
        mem_wrote(m, m->ram + at, PAGE_SIZE);
    }
}

static void load(struct twin *t, unsigned side, const struct x86_state *s, const uint8_t *ram) {
    struct vcpu *v = twin_vcpu(t, side);
    load_ram(t->side[side].m->mem, ram, t->ram_bytes);
    v->ops->set_state(v, s);
    atomic_store(&v->events, 0);
}

static bool step(struct vcpu *v) {
    const struct engine_debug one = {.active = true, .step = true};
    struct vcpu_exit x;
    v->ops->set_debug(v, &one);
    v->ops->run(v, &x);
    v->ops->set_debug(v, NULL);
    return x.reason == VCPU_DEBUG;
}

/* Both, `steps` instructions behind the chunk's start. */
static bool start_at(struct twin *t, unsigned steps) {
    struct vcpu *a = twin_vcpu(t, REFERENCE);
    struct x86_state s;
    load(t, REFERENCE, &t->chunk.start, t->ram);
    for (unsigned n = 0; n < steps; n++)
        if (!step(a))
            return false;
    a->ops->get_state(a, &s);
    load(t, OTHER, &s, t->side[REFERENCE].m->mem->ram);
    return true;
}

static bool shows_from(struct twin *t, unsigned steps) {
    for (unsigned n = 0; n < TRIES; n++) {
        if (!start_at(t, steps))
            return false;
        twin_run_other(t, (uint64_t)SHORT_NS << n / 2);
        if (!twin_follow(t, REACH))
            return true;
    }
    return false;
}

/* ---- looking for it ---- */

/*
 * The chunk again, in slices as short as still show it: the one that differs is the chunk now. Very
 * short ones end before translated code is entered.
 */
static bool shorten(struct twin *t) {
    const struct x86_state start = t->chunk.start;
    uint8_t *ram = malloc(t->ram_bytes);
    bool same = true;
    if (!ram)
        return false;
    memcpy(ram, t->ram, t->ram_bytes);
    for (unsigned n = 0; n < TRIES && same; n++) {
        load(t, REFERENCE, &start, ram);
        load(t, OTHER, &start, ram);
        for (unsigned k = 0; k < SLICES && same; k++)
            same = twin_chunk(t, (uint64_t)SHORT_NS << n / 2);
    }
    free(ram);
    return !same;
}

static unsigned last_start(struct twin *t) {
    unsigned good = 0;
    for (unsigned by = STEPS_MAX; by; by /= 2)
        if (shows_from(t, good + by))
            good += by;
    return good;
}

/* ---- telling it ---- */

static unsigned code_at(struct twin *t, struct x86_cpu *c, uint8_t code[15]) {
    struct walk w = {.gpa = c->s.rip};
    uint64_t lin = c->s.rip + (c->mode64 ? 0 : c->s.seg[SEG_CS].base);
    if (c->paging && walk(c, c->cpl == 3 ? TLB_USER : TLB_SUPER, lin, WALK_FETCH, &w) & WALK_FAULT)
        return 0;
    uint64_t gpa = c->paging ? w.gpa : lin, len = MIN(15ull, PAGE_SIZE - (gpa & PAGE_MASK));
    return mem_read(t->side[REFERENCE].m->mem, GPA(gpa), code, len) == 0 ? (unsigned)len : 0;
}

static void say_instruction(struct twin *t) {
    struct x86_cpu *c = cpu_of(twin_vcpu(t, REFERENCE));
    ZydisMachineMode mode = c->mode64            ? ZYDIS_MACHINE_MODE_LONG_64
                            : c->code_size == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                 : ZYDIS_MACHINE_MODE_LEGACY_16;
    ZydisDisassembledInstruction d;
    uint8_t code[15];
    unsigned len = code_at(t, c, code);
    char bytes[31] = "";
    if (!len || !ZYAN_SUCCESS(ZydisDisassembleIntel(mode, c->s.rip, code, len, &d))) {
        twin_say(t, "#   %016llx  ?", (unsigned long long)c->s.rip);
        return;
    }
    for (unsigned n = 0; n < d.info.length; n++)
        snprintf(bytes + n * 2, 3, "%02x", code[n]);
    twin_say(t, "#   %016llx  %-22s %s", (unsigned long long)c->s.rip, bytes, d.text);
}

static void say_registers(const struct twin *t, const struct x86_state *s) {
    for (unsigned n = 0; n < 16; n += 4)
        twin_say(t, "#   r%-2u %016llx %016llx %016llx %016llx", n, (unsigned long long)s->gpr[n],
                 (unsigned long long)s->gpr[n + 1], (unsigned long long)s->gpr[n + 2],
                 (unsigned long long)s->gpr[n + 3]);
    twin_say(t, "#   rip %llx rflags %llx cr0 %llx cr3 %llx cr4 %llx", (unsigned long long)s->rip,
             (unsigned long long)s->rflags, (unsigned long long)s->cr0, (unsigned long long)s->cr3,
             (unsigned long long)s->cr4);
}

static void say_trace(struct twin *t) {
    for (unsigned n = 0; n < SHOWN; n++) {
        say_instruction(t);
        if (!step(twin_vcpu(t, REFERENCE)))
            return;
    }
}

/* The other engine's end beside the first place where the reference is at the same instruction.
 */
static void say_end(struct twin *t, unsigned from) {
    struct vcpu *a = twin_vcpu(t, REFERENCE);
    struct x86_state s;
    unsigned n = 0;
    start_at(t, from);
    do
        a->ops->get_state(a, &s);
    while (s.rip != t->chunk.end.rip && n++ < STEPS_MAX && step(a));
    if (s.rip != t->chunk.end.rip) {
        twin_say(t, "#  the other then is at %llx, where the reference does not come",
                 (unsigned long long)t->chunk.end.rip);
        return;
    }
    twin_say(t, "#  the other then is, beside the reference %u instructions on:", n);
    if (!twin_compare_states(t, &s, &t->chunk.end))
        twin_say(t, "#   equal but for memory, or there again later");
}

static void say_from(struct twin *t, const struct x86_state *s) {
    say_registers(t, s);
    say_trace(t);
}

void twin_reduce(struct twin *t) {
    struct x86_state start = t->chunk.start;
    for (unsigned n = 0; n < SIDES; n++)
        twin_vcpu(t, n)->irqchip = NULL;
    load(t, REFERENCE, &start, t->ram);
    twin_say(t, "#  it begins with");
    say_from(t, &start);
    if (!shorten(t) || !shows_from(t, 0)) {
        twin_say(t, "#  and does not come again");
        return;
    }
    unsigned from = last_start(t);
    shows_from(t, from);
    start_at(t, from);
    twin_vcpu(t, REFERENCE)->ops->get_state(twin_vcpu(t, REFERENCE), &start);
    twin_say(t, "#  it comes again, also from where it goes on with");
    say_from(t, &start);
    say_end(t, from);
}

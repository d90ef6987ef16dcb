/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two whole PCs in lockstep, the one's processors under the reference engine, the other's under
 * another. All on one thread, with a clock that stands still while instructions are executed: so
 * both see the same time, the same interrupts and the same answers from their chips.
 *
 * One vCPU at a time, the other engine runs for some microseconds and is kicked out, wherever it
 * is; then the reference runs until it is there too, and everything is compared.
 */
#ifndef RINGFENCE_TESTS_ENGINE_TWIN_H
#define RINGFENCE_TESTS_ENGINE_TWIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "cpu/x86/state.h"
#include "machine/pc.h"
#include "rng.h"
#include "ui/chardev.h"

struct clock;

#define CONSOLE_BYTES (256u << 10)
#define HOT_PAGES 512u

enum { REFERENCE, OTHER, SIDES };

/* What a guest writes to its serial port. */
struct console {
    struct chardev chr;
    char text[CONSOLE_BYTES];
    size_t len;
};

struct twin_side {
    struct loop *loop;
    struct console console;
    struct machine *m;
    struct engine_ops ops;
};

/* Where the two were equal last, and how the other one went on. */
struct twin_chunk {
    unsigned vcpu;
    enum vcpu_reason reason;
    struct x86_state start, end;
    uint64_t icount; /* the reference's, at the start */
    unsigned unlike; /* how often registers were the same and memory was not */
};

struct twin {
    struct twin_side side[SIDES];
    struct rng rng;
    struct twin_chunk chunk;
    uint8_t *ram;                            /* a copy of what was equal last */
    uint64_t ram_bytes, *dirty, dirty_words; /* by page: written by the reference since then */
    uint32_t hot[HOT_PAGES];                 /* pages that it wrote lately, a ring */
    unsigned hot_at;
    uint64_t chunks;
    bool *halted;
    void (*say)(const char *line); /* a difference, line by line */
};

struct twin_params {
    const struct engine_ops *engine;
    const char *kernel, *initrd, *cmdline;
    uint64_t memory, seed, code_cache;
    unsigned vcpus;
    void (*say)(const char *line);
};

struct twin *twin_new(const struct twin_params *p, struct err *e);
void twin_free(struct twin *t);

enum twin_turn {
    TWIN_ON,      /* they go on, and are equal */
    TWIN_ENDED,   /* both machines have ended, the same way */
    TWIN_DIFFERS, /* told by `say` */
};

/* Every vCPU that can runs a little; then time goes on. */
enum twin_turn twin_turn(struct twin *t);

/* Types to both. */
void twin_type(struct twin *t, const char *text);

uint64_t twin_icount(const struct twin *t);

/* twin_clock.c */
void twin_clock_advance(struct clock *c, uint64_t ns);
/* When the next timer is due; UINT64_MAX: none is armed. */
uint64_t twin_clock_next(const struct clock *c);

/* twin_compare.c: says what differs; how many things did. */
unsigned twin_compare_states(const struct twin *t, const struct x86_state *a,
                             const struct x86_state *b);
/* What the reference wrote since the last time, and lately; or everything. */
unsigned twin_compare_memory(const struct twin *t, bool all, bool quiet);
__attribute__((format(printf, 2, 3))) void twin_say(const struct twin *t, const char *format, ...);

/* twin_reduce.c: from the last chunk, finds and says how little of it is needed. */
void twin_reduce(struct twin *t);

/* twin.c, for twin_reduce.c. */
bool twin_chunk(struct twin *t, uint64_t ns);
struct vcpu *twin_vcpu(const struct twin *t, unsigned side);
/* Runs the other engine for about `ns`; its state is in t->chunk.end. */
void twin_run_other(struct twin *t, uint64_t ns);
/* Runs the reference to where the other is. */
bool twin_follow(struct twin *t, uint64_t instructions);

#endif

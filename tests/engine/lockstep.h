/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two engines run the same program on the same machine: what the parts of the test program share.
 *
 * A program is a list of items, each a few instructions that belong together; items refer to each
 * other by number, so that a program still makes sense when some are taken out. It depends on
 * nothing but its seed.
 */
#ifndef RINGFENCE_TESTS_ENGINE_LOCKSTEP_H
#define RINGFENCE_TESTS_ENGINE_LOCKSTEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/x86/state.h"
#include "layout.h"
#include "rng.h"

struct engine_ops;
struct x86_cpuid;

#define ITEMS_MAX 320u
#define FUNCTIONS_MAX 6u

/* What a 32-bit displacement in an item's bytes is to lead to. */
enum fix_kind {
    FIX_ITEM,     /* the first byte of an item */
    FIX_IMM,      /* an item's last four bytes, which are an immediate */
    FIX_MODRM,    /* the byte before those */
    FIX_FUNCTION, /* the first byte of a function */
    FIX_WINDOW,   /* an offset in the window */
};

struct fix {
    uint8_t kind, at, tail; /* where in the bytes; how many follow it in the instruction */
    uint32_t arg;
};

/* In a program that is being reduced, an item may be gone, or be NOPs so that the rest stays where
 * it is. */
enum item_state { ITEM_KEPT, ITEM_NOPS, ITEM_GONE };

struct item {
    uint8_t bytes[64], len, fixes, state;
    bool fixed;     /* cannot be taken out */
    bool patchable; /* ends with modrm, imm32 of an operation that may be any of its group */
    uint16_t gap;   /* INT3s before it */
    struct fix fix[4];
    uint32_t at; /* offset in the window, from program_build */
};

struct program {
    uint64_t seed;
    struct item item[ITEMS_MAX];
    unsigned count;
    unsigned function[FUNCTIONS_MAX + 1]; /* number of the first item */
    unsigned functions;
    bool user; /* CPL 3 */
    bool smap; /* CPL 0 with SMAP, and AC set */
    uint64_t gpr[16];
    uint64_t fs_base, gs_base;
};

/* generate.c */
void program_generate(struct program *p, uint64_t seed, const struct x86_cpuid *id);
/* Writes the code to `window`, and the tables that it uses. */
void program_build(struct program *p, uint8_t *window);
/* The data, page tables' windows and registers of one pass; `pass` 0 is the first. */
void program_data(const struct program *p, unsigned pass, uint8_t *window, struct x86_state *s);

/* machine.c */
struct machine_side;
struct machine_side *side_new(const struct engine_ops *engine, const struct x86_cpuid *id);
uint8_t *side_ram(struct machine_side *m);
/* Puts an image of RAM and a state in place, keeping what the engine knows of pages that are the
 * same. */
enum side_memory { SIDE_NEW, SIDE_FLUSHED, SIDE_WARM }; /* all, the TLB, nothing is forgotten */
void side_load(struct machine_side *m, const uint8_t *image, const struct x86_state *s,
               enum side_memory how);
/* Runs to the program's end and returns how it ended; NULL when it ended as it should. */
const char *side_run(struct machine_side *m, struct x86_state *s);
uint64_t side_icount(const struct machine_side *m);
/* Tables and kernel of a machine. */
void machine_image(uint8_t *ram);
void machine_state(struct x86_state *s, const struct x86_cpuid *id, bool user, bool smap);

#endif

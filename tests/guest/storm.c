/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More code than a translator has room for: tens of thousands of functions that are all different,
 * written, called, called again in another order, and written anew, by two processors at once. With
 * "forever" on the command line it goes on, for who wants to look at the monitor meanwhile.
 */
#include "apic.h"

enum { PAGES = 256, PAGES_LONG = 3072, EACH = 64, ROUNDS = 2 };

extern uint32_t multiboot_info;

/* A processor's share. */
struct share {
    uint8_t *area;
    unsigned count;
    uint32_t seed;
    volatile unsigned bad;
};
static struct share shares[2];
static unsigned rounds;

static uint32_t next_random(struct share *s) {
    return s->seed = s->seed * 1664525 + 1013904223;
}

static bool forever(void) {
    const uint32_t *info = (const uint32_t *)(ulong)multiboot_info;
    const char *line = (const char *)(ulong)info[4];

    for (; info[0] & 4 && *line; line++)
        if (memcmp(line, "forever", 7) == 0)
            return true;
    return false;
}

/* mov $a, %eax; loop 3 times: rol $1, %eax; xor $b, %eax; then ret */
static void write_function(uint8_t *at, uint32_t a, uint32_t b) {
    static const uint8_t code[] = {0xb8, 0,    0, 0, 0, 0xb9, 3,    0,    0,    0,    0xd1,
                                   0xc0, 0x35, 0, 0, 0, 0,    0xff, 0xc9, 0x75, 0xf5, 0xc3};

    memcpy(at, code, sizeof(code));
    memcpy(at + 1, &a, 4);
    memcpy(at + 13, &b, 4);
}

static bool is_right(const uint8_t *at) {
    uint32_t v, b, got;

    memcpy(&v, at + 1, 4);
    memcpy(&b, at + 13, 4);
    for (unsigned i = 0; i < 3; i++)
        v = (v << 1 | v >> 31) ^ b;
    asm volatile("call *%1" : "=a"(got) : "r"(at) : "rcx", "memory", "cc");
    return got == v;
}

static void one_round(struct share *s) {
    for (unsigned i = 0; i < s->count; i++) {
        uint32_t a = next_random(s);

        write_function(s->area + i * EACH, a, next_random(s));
    }
    for (unsigned i = 0; i < s->count; i++)
        s->bad += !is_right(s->area + i * EACH);
    for (unsigned i = 0; i < s->count / 2; i++)
        s->bad += !is_right(s->area + next_random(s) % s->count * EACH);
    for (unsigned i = 0; i < s->count / 8; i++) {
        uint8_t *at = s->area + next_random(s) % s->count * EACH;

        write_function(at, next_random(s), i);
        s->bad += !is_right(at);
    }
}

static void all_rounds(struct share *s) {
    for (unsigned i = 0; i < rounds; i++) {
        one_round(s);
        if (s == shares && rounds > ROUNDS)
            print("round %u, %u and %u wrong\n", i, shares[0].bad, shares[1].bad);
    }
}

static void other(void) {
    all_rounds(&shares[1]);
}

int main(void) {
    bool always = forever();
    unsigned pages = always ? PAGES_LONG : PAGES;

    rounds = always ? -1u : ROUNDS;
    for (unsigned i = 0; i < 2; i++)
        shares[i] = (struct share){page_alloc(pages), pages * (4096 / EACH), i + 1, 0};
    check(smp_start(1), "second processor", "%u started", smp_started);
    smp_run(1, other);
    all_rounds(&shares[0]);
    check(smp_wait(1, 60000), "both end", "the second does not");
    check_eq("16384 functions, twice", shares[0].bad, 0);
    check_eq("as many on the other processor", shares[1].bad, 0);
    return 0;
}

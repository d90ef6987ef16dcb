/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More code than a translator has room for: tens of thousands of functions that are all different,
 * written, called, called again in another order, and written anew. With "forever" on the command
 * line it goes on, for who wants to look at the monitor meanwhile.
 */
#include "lib.h"

enum { PAGES = 512, PAGES_LONG = 3072, EACH = 64, ROUNDS = 2 };

extern uint32_t multiboot_info;

static uint8_t *area;
static uint32_t seed = 1;

static uint32_t next_random(void) {
    return seed = seed * 1664525 + 1013904223;
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

static unsigned one_round(unsigned count) {
    unsigned bad = 0;

    for (unsigned i = 0; i < count; i++)
        write_function(area + i * EACH, next_random(), next_random());
    for (unsigned i = 0; i < count; i++)
        bad += !is_right(area + i * EACH);
    for (unsigned i = 0; i < count / 2; i++)
        bad += !is_right(area + next_random() % count * EACH);
    for (unsigned i = 0; i < count / 8; i++) {
        uint8_t *at = area + next_random() % count * EACH;

        write_function(at, next_random(), i);
        bad += !is_right(at);
    }
    return bad;
}

int main(void) {
    bool always = forever();
    unsigned pages = always ? PAGES_LONG : PAGES, bad = 0;

    area = page_alloc(pages);
    for (unsigned i = 0; i < ROUNDS || always; i++) {
        bad += one_round(pages * (4096 / EACH));
        if (always)
            print("round %u, %u wrong\n", i, bad);
    }
    check_eq("32768 functions, twice", bad, 0);
    return 0;
}

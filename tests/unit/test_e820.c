/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map, and the allocator that loaders place things with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot_guest.h"

#include "base/util.h"
#include "boot/place.h"
#include "dev/pc_layout.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static bool backed(const struct e820_layout *l, const struct e820_entry *en) {
    for (unsigned i = 0; i < l->ram_count; i++)
        if (en->base >= l->ram[i].gpa &&
            range_within(en->base - l->ram[i].gpa, en->size, l->ram[i].size))
            return true;
    return false;
}

/* What holds for every size: order, no overlaps, RAM behind what is called RAM, backing used once.
 */
static void check(uint64_t bytes) {
    struct e820_layout l;
    uint64_t end = 0, backing = 0;

    assert_int_equal(e820_layout_init(&l, bytes, NULL), 0);
    for (unsigned i = 0; i < l.map_count; i++) {
        assert_true(l.map[i].base >= end);
        assert_true(l.map[i].size > 0);
        end = l.map[i].base + l.map[i].size;
        if (l.map[i].type == E820_RAM)
            assert_true(backed(&l, &l.map[i]));
    }
    for (unsigned i = 0; i < l.ram_count; i++) {
        assert_true(l.ram[i].backing >= backing);
        backing = l.ram[i].backing + l.ram[i].size;
        assert_int_equal((l.ram[i].gpa | l.ram[i].size | l.ram[i].backing) & PAGE_MASK, 0);
    }
    assert_int_equal(backing, bytes);
    assert_int_equal(l.low_bytes + l.high_bytes, bytes);
    assert_true(l.low_bytes <= PC_HOLE);
}

static void test_sizes(void **state) {
    (void)state;
    const uint64_t sizes[] = {2 * MIB, 2 * MIB + 4096, 512 * MIB, 3 * GIB - 4096,
                              3 * GIB, 3 * GIB + 4096, 4 * GIB,   64 * GIB};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        check(sizes[i]);
}

static void test_512m(void **state) {
    (void)state;
    static const struct e820_entry WANT[] = {
        {0, 0x9fc00, E820_RAM},
        {0x9fc00, 0x400, E820_RESERVED},
        {0xe0000, 0x20000, E820_RESERVED},
        {0x100000, 0x1ff00000, E820_RAM},
        {0xfec00000, 0x1400000, E820_RESERVED},
    };
    struct e820_layout l;

    assert_int_equal(e820_layout_init(&l, 512 * MIB, NULL), 0);
    assert_int_equal(l.map_count, ARRAY_LEN(WANT));
    for (unsigned i = 0; i < l.map_count; i++) {
        assert_int_equal(l.map[i].base, WANT[i].base);
        assert_int_equal(l.map[i].size, WANT[i].size);
        assert_int_equal(l.map[i].type, WANT[i].type);
    }
}

static void test_above_the_hole(void **state) {
    (void)state;
    struct e820_layout l;

    assert_int_equal(e820_layout_init(&l, 5 * GIB, NULL), 0);
    assert_int_equal(l.low_bytes, 3 * GIB);
    assert_int_equal(l.ram[2].gpa, 4 * GIB);
    assert_int_equal(l.ram[2].size, 2 * GIB);
    assert_int_equal(l.ram[2].backing, 3 * GIB);
    assert_int_equal(l.map[5].base, 4 * GIB);
    assert_int_equal(l.map[5].size, 2 * GIB);
}

static void test_bad_sizes(void **state) {
    (void)state;
    struct e820_layout l;
    struct err e = ERR_INIT;

    assert_true(e820_layout_init(&l, 0, &e) < 0);
    assert_true(e820_layout_init(&l, 2 * MIB - 4096, &e) < 0);
    assert_non_null(strstr(err_msg(&e), "at least 2 MiB"));
    assert_true(e820_layout_init(&l, 512 * MIB + 1, &e) < 0);
    assert_non_null(strstr(err_msg(&e), "4 KiB"));
    assert_true(e820_layout_init(&l, UINT64_MAX & ~PAGE_MASK, &e) < 0);
    assert_non_null(strstr(err_msg(&e), "too much"));
    err_clear(&e);
}

static void test_place(void **state) {
    (void)state;
    struct guest g;
    struct place p;
    uint64_t a, b, c;

    guest_init(&g, 16 * MIB);
    place_init(&p, g.m, &g.layout);
    assert_non_null(place_at(&p, 0x100000, 0x100000, "kernel", &g.err));
    assert_null(place_at(&p, 0x1fffff, 0x1000, "table", &g.err));
    assert_string_equal(err_msg(&g.err), "table at 0x1fffff-0x200ffe overlaps kernel");
    /* Page 0 is never given out; the low ranges come first, the high ones last. */
    assert_non_null(place_low(&p, 100, 64, 0, PC_HOLE, "a", &a));
    assert_int_equal(a, 0x1000);
    assert_non_null(place_low(&p, 100, 64, 0, PC_HOLE, "b", &b));
    assert_int_equal(b, 0x1080);
    assert_non_null(place_low(&p, 0xa0000, 0x1000, 0, PC_HOLE, "big", &b));
    assert_int_equal(b, 0x200000);
    assert_non_null(place_high(&p, 0x1800, 0x1000, 0x100000, PC_HOLE, "c", &c));
    assert_int_equal(c, 0xffe000);
    assert_non_null(place_high(&p, 0x1000, 0x1000, 0x100000, PC_HOLE, "d", &c));
    assert_int_equal(c, 0xffd000);
    assert_null(place_high(&p, 15 * MIB, 0x1000, 0x100000, PC_HOLE, "e", &c));
    assert_null(place_low(&p, UINT64_MAX, 1, 0, PC_HOLE, "f", &c));
    guest_free(&g);
}

static void test_place_outside(void **state) {
    (void)state;
    struct guest g;
    struct place p;

    guest_init(&g, 16 * MIB);
    place_init(&p, g.m, &g.layout);
    assert_null(place_at(&p, 0x9f000, 0x1000, "kernel", &g.err));
    assert_string_equal(err_msg(&g.err), "kernel at 0x9f000-0x9ffff is not in usable memory");
    assert_null(place_at(&p, UINT64_MAX - 10, 100, "kernel", &g.err));
    assert_null(place_at(&p, 0x100000, 0, "kernel", &g.err));
    assert_null(place_at(&p, 0xf00000, 0x200000, "kernel", &g.err));
    assert_non_null(strstr(err_msg(&g.err), "try --memory 128M"));
    guest_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),          cmocka_unit_test(test_512m),
        cmocka_unit_test(test_above_the_hole), cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_place),          cmocka_unit_test(test_place_outside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The translator's index of living blocks: what is found, what is not, and what a way keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "cpu/bt/index.h"

static struct bt_index_set sets[64];
static const struct bt_index index_ = {ARRAY_LEN(sets), sets};

/* The n-th key that lies in one and the same set. */
static uint64_t neighbour(unsigned n) {
    for (uint64_t key = 0;; key++)
        if (bt_index_set(&index_, key) == &sets[5] && n-- == 0)
            return key;
}

static int clear(void **state) {
    (void)state;
    memset(sets, 0, sizeof sets);
    return 0;
}

static void blocks_are_found_by_their_keys(void **state) {
    (void)state;
    for (uint64_t key = 0; key < 16; key++)
        bt_index_put(&index_, key, 0x1000 + key);
    for (uint64_t key = 0; key < 16; key++)
        assert_int_equal(bt_index_find(&index_, key), 0x1000 + key);
    assert_int_equal(bt_index_find(&index_, 16), 0);
}

static void a_full_set_takes_no_more(void **state) {
    (void)state;
    for (unsigned n = 0; n <= BT_INDEX_WAYS; n++)
        bt_index_put(&index_, neighbour(n), 0x1000 + n);
    for (unsigned n = 0; n < BT_INDEX_WAYS; n++)
        assert_int_equal(bt_index_find(&index_, neighbour(n)), 0x1000 + n);
    assert_int_equal(bt_index_find(&index_, neighbour(BT_INDEX_WAYS)), 0);
}

/* A reader that has seen the key may be about to read the code. */
static void a_dead_block_keeps_its_way(void **state) {
    (void)state;
    for (unsigned n = 0; n < BT_INDEX_WAYS; n++)
        bt_index_put(&index_, neighbour(n), 0x1000 + n);
    bt_index_put(&index_, neighbour(1), 0);
    assert_int_equal(bt_index_find(&index_, neighbour(1)), 0);
    bt_index_put(&index_, neighbour(BT_INDEX_WAYS), 0x2000);
    assert_int_equal(bt_index_find(&index_, neighbour(BT_INDEX_WAYS)), 0);
    bt_index_put(&index_, neighbour(1), 0x3000);
    assert_int_equal(bt_index_find(&index_, neighbour(1)), 0x3000);
}

static void a_sweep_frees_the_dead_and_a_range(void **state) {
    (void)state;
    for (unsigned n = 0; n < BT_INDEX_WAYS; n++)
        bt_index_put(&index_, neighbour(n), 0x1000 * (n + 1));
    bt_index_put(&index_, neighbour(0), 0);
    bt_index_sweep(&index_, 0x2000, 0x1000);
    assert_int_equal(bt_index_find(&index_, neighbour(1)), 0);
    assert_int_equal(bt_index_find(&index_, neighbour(2)), 0x3000);
    assert_int_equal(bt_index_find(&index_, neighbour(3)), 0x4000);
    bt_index_put(&index_, neighbour(BT_INDEX_WAYS), 0x5000);
    bt_index_put(&index_, neighbour(BT_INDEX_WAYS + 1), 0x6000);
    assert_int_equal(bt_index_find(&index_, neighbour(BT_INDEX_WAYS)), 0x5000);
    assert_int_equal(bt_index_find(&index_, neighbour(BT_INDEX_WAYS + 1)), 0x6000);
}

/* A block whose key had a way before another's code was swept. */
static void a_sweep_spares_what_was_made_anew(void **state) {
    (void)state;
    bt_index_put(&index_, 7, 0x1000);
    bt_index_put(&index_, 7, 0);
    bt_index_put(&index_, 7, 0x9000);
    bt_index_sweep(&index_, 0x1000, 0x1000);
    assert_int_equal(bt_index_find(&index_, 7), 0x9000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(blocks_are_found_by_their_keys, clear),
        cmocka_unit_test_setup(a_full_set_takes_no_more, clear),
        cmocka_unit_test_setup(a_dead_block_keeps_its_way, clear),
        cmocka_unit_test_setup(a_sweep_frees_the_dead_and_a_range, clear),
        cmocka_unit_test_setup(a_sweep_spares_what_was_made_anew, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The living blocks of a cache by their keys, once more, for look-ups that take no lock: sets of a
 * line of the host's cache each. Where a set is full, a block is not here.
 *
 * Written under the cache's lock, read in translated code. While the world runs a way keeps its
 * key, whatever becomes of the block, so that a reader never takes one block's code for another's.
 */
#ifndef RINGFENCE_CPU_BT_INDEX_H
#define RINGFENCE_CPU_BT_INDEX_H

#include <stdint.h>

#define BT_INDEX_WAYS 4u

struct bt_index {
    uint64_t sets; /* a power of two */
    struct bt_index_set {
        uint64_t key[BT_INDEX_WAYS];  /* a block's, plus 1; 0: never used */
        uint64_t code[BT_INDEX_WAYS]; /* 0: dead */
    } * set;
};

static inline struct bt_index_set *bt_index_set(const struct bt_index *x, uint64_t key) {
    const uint64_t golden = 0x9e3779b97f4a7c15;
    return &x->set[key * golden >> 32 & (x->sets - 1)];
}

/* Its code, or 0. */
static inline uint64_t bt_index_find(const struct bt_index *x, uint64_t key) {
    struct bt_index_set *s = bt_index_set(x, key);
    for (unsigned n = 0; n < BT_INDEX_WAYS; n++)
        if (__atomic_load_n(&s->key[n], __ATOMIC_ACQUIRE) == key + 1)
            return __atomic_load_n(&s->code[n], __ATOMIC_RELAXED);
    return 0;
}

/* 0: a block died. */
static inline void bt_index_put(const struct bt_index *x, uint64_t key, uint64_t code) {
    struct bt_index_set *s = bt_index_set(x, key);
    unsigned n = 0;
    while (n < BT_INDEX_WAYS && s->key[n] && s->key[n] != key + 1)
        n++;
    if (n == BT_INDEX_WAYS)
        return;
    __atomic_store_n(&s->code[n], code, __ATOMIC_RELAXED);
    __atomic_store_n(&s->key[n], key + 1, __ATOMIC_RELEASE);
}

/* While the world stands: ways of dead code, and of code in [code, code + bytes), are free. */
static inline void bt_index_sweep(const struct bt_index *x, uint64_t code, uint64_t bytes) {
    for (uint64_t at = 0; at < x->sets; at++)
        for (unsigned n = 0; n < BT_INDEX_WAYS; n++)
            if (x->set[at].code[n] == 0 || x->set[at].code[n] - code < bytes)
                x->set[at].key[n] = x->set[at].code[n] = 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page flags: which pages hold code that an engine has decoded, and which the dirty log has yet to
 * see. Writers store, then look at the flags without any barrier; who sets flags pays for it with
 * fence_all_threads().
 */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/fence.h"
#include "base/util.h"
#include "mem/guest.h"
#include "mem/map.h"

/*
 * Beside MEM_PAGE_CODE: the fence after it was set is over, so whoever finds this bit needs none.
 * It is only set under flags_lock, so a code flag that is cleared and set again during a fence is
 * not taken for fenced.
 */
#define PAGE_FENCED 0x80

static void log_page(struct mem *m, uint64_t page) {
    atomic_fetch_or(&m->priv->dirty[page / 64], 1ull << (page % 64));
}

/*
 * A page whose code is gone, and that is now data, would be slow to write for ever: after some
 * writes without a hit its code is given up. When it was alive after all, more are borne next time.
 */
#define PATIENCE_FIRST 16u
#define PATIENCE_MOST 1024u

static void code_lost(struct mem *m, uint64_t page, uint64_t lines) {
    atomic_fetch_add(&m->page_gen[page], 1);
    if (m->code_ops)
        m->code_ops->written(m->code_arg, page, lines);
}

/* Lines that are claimed after the flag has gone, by who saw it just before, are lost too. */
static void code_flag_clear(struct mem *m, uint64_t page) {
    struct code_page *code = &m->priv->code[page];
    atomic_fetch_and(&m->page_flags[page], (uint8_t) ~(MEM_PAGE_CODE | PAGE_FENCED));
    atomic_store(&code->missed, 0);
    uint64_t lines = atomic_exchange(&code->lines, 0);
    if (lines)
        code_lost(m, page, lines);
}

static void code_missed(struct mem *m, uint64_t page, uint64_t claimed) {
    struct code_page *code = &m->priv->code[page];
    unsigned patience = MAX(atomic_load(&code->patience), PATIENCE_FIRST);
    bool lost_patience = atomic_fetch_add(&code->missed, 1) >= patience;
    if (!claimed || lost_patience)
        code_flag_clear(m, page);
    if (lost_patience)
        atomic_store(&code->patience, (uint16_t)MIN(2 * patience, PATIENCE_MOST));
}

/* Pages that are written and executed in turns keep the flag when their last line is hit: setting
 * it is dear. */
static void code_written(struct mem *m, uint64_t page, uint64_t off, uint64_t len) {
    uint64_t lines = mem_code_lines(off, len);
    atomic_thread_fence(memory_order_seq_cst); /* between the store and the look */
    uint64_t claimed = atomic_load(&m->priv->code[page].lines);
    if (!(claimed & lines)) {
        code_missed(m, page, claimed);
        return;
    }
    atomic_fetch_and(&m->priv->code[page].lines, ~lines);
    code_lost(m, page, lines);
}

static void page_written(struct mem *m, uint64_t page, uint64_t off, uint64_t len) {
    uint8_t flags = atomic_load(&m->page_flags[page]);

    /* The flag goes before the bit: a fetch in between may only see the page again, never lose it.
     */
    if (flags & MEM_PAGE_LOG) {
        atomic_fetch_and(&m->page_flags[page], (uint8_t)~MEM_PAGE_LOG);
        log_page(m, page);
    }
    if (flags & MEM_PAGE_CODE)
        code_written(m, page, off, len);
}

void mem_wrote(struct mem *m, const void *host, uint64_t len) {
    uint64_t off = (uint64_t)((uintptr_t)host - (uintptr_t)m->ram);

    /* Light half of the fence: the compiler must not look before it stores. */
    atomic_signal_fence(memory_order_seq_cst);
    if (!len || !range_within(off, len, m->ram_bytes))
        return;
    while (len) {
        uint64_t page = off >> PAGE_SHIFT, n = MIN(len, PAGE_SIZE - (off & PAGE_MASK));
        if (atomic_load_explicit(&m->page_flags[page], memory_order_relaxed))
            page_written(m, page, off & PAGE_MASK, n);
        off += n;
        len -= n;
    }
}

static void set_code_flag(struct mem *m, _Atomic uint8_t *flags) {
    pthread_mutex_lock(&m->priv->flags_lock);
    uint8_t old = atomic_fetch_or(flags, MEM_PAGE_CODE);
    if (!(old & PAGE_FENCED)) {
        if (m->code_ops)
            m->code_ops->begins(m->code_arg, (uint64_t)(flags - m->page_flags));
        fence_all_threads();
        old = atomic_load(flags);
        while ((old & MEM_PAGE_CODE) &&
               !atomic_compare_exchange_weak(flags, &old, (uint8_t)(old | PAGE_FENCED)))
            ;
    }
    pthread_mutex_unlock(&m->priv->flags_lock);
}

uint32_t mem_code_begin(struct mem *m, uint64_t backing_page) {
    _Atomic uint8_t *flags = &m->page_flags[backing_page];

    if (!(atomic_load(flags) & PAGE_FENCED))
        set_code_flag(m, flags);
    return atomic_load(&m->page_gen[backing_page]);
}

bool mem_code_commit(struct mem *m, uint64_t backing_page, uint64_t off, const void *copy,
                     uint64_t len) {
    uint8_t now[PAGE_SIZE];
    atomic_fetch_or(&m->priv->code[backing_page].lines, mem_code_lines(off, len));
    if (!(atomic_load(&m->page_flags[backing_page]) & MEM_PAGE_CODE))
        return false;
    guest_copy(now, m->ram + (backing_page << PAGE_SHIFT) + off, len);
    return memcmp(now, copy, len) == 0;
}

static uint64_t page_count(const struct mem *m) {
    return m->ram_bytes >> PAGE_SHIFT;
}

int mem_log_start(struct mem *m, struct err *e) {
    pthread_mutex_lock(&m->priv->flags_lock);
    bool was = m->priv->logging;
    if (!was) {
        m->priv->logging = true;
        for (uint64_t i = 0; i < (page_count(m) + 63) / 64; i++)
            atomic_store(&m->priv->dirty[i], 0);
        for (uint64_t page = 0; page < page_count(m); page++)
            atomic_fetch_or(&m->page_flags[page], MEM_PAGE_LOG);
        fence_all_threads();
    }
    pthread_mutex_unlock(&m->priv->flags_lock);
    return was ? err_set(e, EBUSY, "dirty log") : 0;
}

void mem_log_stop(struct mem *m) {
    pthread_mutex_lock(&m->priv->flags_lock);
    m->priv->logging = false;
    for (uint64_t page = 0; page < page_count(m); page++)
        atomic_fetch_and(&m->page_flags[page], (uint8_t)~MEM_PAGE_LOG);
    pthread_mutex_unlock(&m->priv->flags_lock);
}

static void watch_again(struct mem *m, uint64_t word, uint64_t bits) {
    for (; bits; bits &= bits - 1)
        atomic_fetch_or(&m->page_flags[word * 64 + (unsigned)__builtin_ctzll(bits)], MEM_PAGE_LOG);
}

void mem_log_fetch(struct mem *m, uint64_t *bitmap, uint64_t words) {
    uint64_t have = (page_count(m) + 63) / 64;

    pthread_mutex_lock(&m->priv->flags_lock);
    for (uint64_t i = 0; i < words; i++) {
        bitmap[i] = i < have ? atomic_exchange(&m->priv->dirty[i], 0) : 0;
        if (m->priv->logging)
            watch_again(m, i, bitmap[i]);
    }
    /* Stores that have not seen the flag yet are visible to the caller, who copies pages next. */
    fence_all_threads();
    pthread_mutex_unlock(&m->priv->flags_lock);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code cache of a domain: one arena of host code in a memfd that is mapped twice (writable,
 * executable; never both), one of records, and the blocks by where their code lies in guest memory.
 * Filled from one end; when full, emptied.
 */
#include "cpu/bt/bt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/loop.h"
#include "cpu/bt/perfmap.h"
#include "cpu/x86/interp.h"

#define HASH_SIZE 65536u
#define TAIL_BITS 12
#define CODE_MARGIN (64u << 10) /* more than any block takes */

struct bt_cache {
    struct mem *mem;
    uint8_t *rw, *rx;
    uint64_t bytes, used;
    uint8_t *records;
    uint64_t records_bytes, records_used;
    pthread_mutex_t lock; /* over blocks and both arenas */
    _Atomic unsigned flushes;
    struct bt_block *hash[HASH_SIZE];
    struct bt_block *page[HASH_SIZE]; /* by backing page */
    struct tail {
        uint64_t key, code;
    } tail[1u << TAIL_BITS];
    struct bt_perfmap *names; /* NULL: nobody asked for them */
    struct bt_world_stats stats;
};

static bool map_code(struct bt_cache *cache) {
    int fd = memfd_create("ringfence-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)cache->bytes) < 0) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    cache->rw = mmap(NULL, cache->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cache->rx = mmap(NULL, cache->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    close(fd);
    return cache->rw != MAP_FAILED && cache->rx != MAP_FAILED;
}

struct bt_cache *bt_cache_new(struct mem *mem, uint64_t bytes) {
    struct bt_cache *cache = xcalloc(1, sizeof *cache);
    cache->mem = mem;
    pthread_mutex_init(&cache->lock, NULL);
    cache->bytes = bytes;
    cache->records_bytes = bytes;
    cache->rw = cache->rx = MAP_FAILED;
    cache->records = mmap(NULL, cache->records_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->records == MAP_FAILED || !map_code(cache)) {
        bt_cache_free(cache);
        return NULL;
    }
    return cache;
}

void bt_cache_free(struct bt_cache *cache) {
    if (!cache)
        return;
    if (cache->rw != MAP_FAILED)
        munmap(cache->rw, cache->bytes);
    if (cache->rx != MAP_FAILED)
        munmap(cache->rx, cache->bytes);
    if (cache->records != MAP_FAILED)
        munmap(cache->records, cache->records_bytes);
    pthread_mutex_destroy(&cache->lock);
    bt_perfmap_free(cache->names);
    free(cache);
}

int bt_cache_name_blocks(struct bt_cache *cache, struct err *e) {
    cache->names = bt_perfmap_new(e);
    return cache->names ? 0 : -1;
}

struct bt_world_stats *bt_cache_stats(struct bt_cache *cache) {
    return &cache->stats;
}

void bt_cache_empty(struct bt_cache *cache) {
    pthread_mutex_lock(&cache->lock);
    cache->stats.emptied++;
    memset(cache->hash, 0, sizeof cache->hash);
    memset(cache->page, 0, sizeof cache->page);
    memset(cache->records, 0, cache->records_used);
    memset(cache->tail, 0, sizeof cache->tail);
    cache->used = cache->records_used = 0;
    atomic_fetch_add(&cache->flushes, 1);
    pthread_mutex_unlock(&cache->lock);
}

unsigned bt_cache_flushes(const struct bt_cache *cache) {
    return atomic_load(&cache->flushes);
}

struct emit bt_cache_emit(struct bt_cache *cache) {
    return (struct emit){.p = cache->rw + cache->used,
                         .end = cache->rw + cache->bytes,
                         .to_rx = cache->rx - cache->rw};
}

void bt_cache_emitted(struct bt_cache *cache, const struct emit *e) {
    cache->used = align_up((uint64_t)(e->p - cache->rw), 16);
}

struct emit bt_cache_lock_emit(struct bt_cache *cache) {
    pthread_mutex_lock(&cache->lock);
    return bt_cache_emit(cache);
}

void bt_cache_unlock_emitted(struct bt_cache *cache, const struct emit *e) {
    if (e)
        bt_cache_emitted(cache, e);
    pthread_mutex_unlock(&cache->lock);
}

static struct tail *tail_slot(struct bt_cache *cache, uint64_t key) {
    const uint64_t golden = 0x9e3779b97f4a7c15;
    return &cache->tail[key * golden >> (64 - TAIL_BITS)];
}

uint64_t bt_cache_tail(struct bt_cache *cache, uint64_t key) {
    const struct tail *t = tail_slot(cache, key);
    return t->key == key ? t->code : 0;
}

void bt_cache_keep_tail(struct bt_cache *cache, uint64_t key, uint64_t code) {
    *tail_slot(cache, key) = (struct tail){key, code};
}

void *bt_cache_alloc(struct bt_cache *cache, size_t bytes) {
    uint64_t at = cache->records_used;
    if (bytes > cache->records_bytes - at)
        return NULL;
    cache->records_used += align_up(bytes, 16);
    return cache->records + at;
}

bool bt_cache_holds(const struct bt_cache *cache, uint64_t code) {
    return code - (uint64_t)(uintptr_t)cache->rx < cache->bytes;
}

static struct bt_block **bucket(struct bt_cache *cache, uint64_t key) {
    return &cache->hash[(key ^ key >> 16) % HASH_SIZE];
}

static struct bt_block *find(struct bt_cpu *b, uint64_t key) {
    for (struct bt_block *k = *bucket(b->cache, key); k; k = k->hash_next)
        if (k->key == key && k->alive && b->c.mem->page_gen[k->page] == k->gen)
            return k;
    return NULL;
}

static struct bt_block *block_alloc(struct bt_cache *cache) {
    if (cache->used + CODE_MARGIN > cache->bytes)
        return NULL;
    return bt_cache_alloc(cache, sizeof(struct bt_block));
}

static void block_keep(struct bt_cache *cache, struct bt_block *k) {
    k->alive = true;
    k->hash_next = *bucket(cache, k->key);
    *bucket(cache, k->key) = k;
    k->page_next = cache->page[k->page % HASH_SIZE];
    cache->page[k->page % HASH_SIZE] = k;
}

static void count_translated(struct bt_cpu *b, const struct bt_block *k, uint64_t start) {
    struct bt_cache *cache = b->cache;
    cache->stats.translated++;
    cache->stats.code_bytes = cache->used;
    cache->stats.record_bytes = cache->records_used;
    cache->stats.translate_ns += mono_now() - start;
    if (cache->names && k->entry)
        bt_perfmap_add(cache->names, k->code, (uint64_t)(cache->rw + cache->used - k->entry),
                       b->c.s.rip);
}

/* Under the lock. *again: the page was written meanwhile. */
static struct bt_block *block_make(struct bt_cpu *b, const uint8_t *host, uint64_t key,
                                   uint32_t gen, bool *again) {
    struct bt_block *k = block_alloc(b->cache);
    if (!k)
        return NULL;
    *k = (struct bt_block){
        .key = key, .page = (uint32_t)(key >> BT_KEY_SHIFT >> PAGE_SHIFT), .gen = gen};
    uint64_t start = mono_now();
    if (!bt_translate(b, k, host))
        return NULL;
    count_translated(b, k, start);
    *again = !mem_code_commit(b->c.mem, k->page);
    if (!*again)
        block_keep(b->cache, k);
    return k;
}

struct bt_block *bt_cache_block(struct bt_cpu *b, const uint8_t *host) {
    struct bt_cache *cache = b->cache;
    uint64_t key = (uint64_t)(host - b->c.ram) << BT_KEY_SHIFT | bt_mode_key(b) |
                   (b->single_wanted ? BT_KEY_SINGLE : 0);
    struct bt_block *k;
    bool again;
    do {
        again = false;
        pthread_mutex_lock(&cache->lock);
        k = find(b, key);
        pthread_mutex_unlock(&cache->lock);
        if (k)
            return k;
        /* May stop the other vCPUs, who may want the lock first. */
        uint32_t gen = mem_code_begin(b->c.mem, key >> BT_KEY_SHIFT >> PAGE_SHIFT);
        pthread_mutex_lock(&cache->lock);
        k = block_make(b, host, key, gen, &again);
        pthread_mutex_unlock(&cache->lock);
    } while (again);
    return k;
}

/* The jump replaces a NOP in one aligned store. */
static void gate_close(const struct bt_cache *cache, uint8_t *gate, uint64_t to) {
    uint64_t *at = (uint64_t *)(void *)(gate - ((uintptr_t)gate & 7));
    unsigned shift = 8 * ((uintptr_t)gate & 7);
    uint64_t rx = (uint64_t)(gate + (cache->rx - cache->rw));
    uint64_t jump = 0xe9 | (uint64_t)(uint32_t)(to - (rx + 5)) << 8;
    uint64_t word = (*at & ~(0xffffffffffull << shift)) | jump << shift;
    __atomic_store_n(at, word, __ATOMIC_SEQ_CST);
}

/* Whoever enters it from now on leaves again at once. */
static void block_kill(struct bt_cache *cache, struct bt_block *k) {
    k->alive = false;
    cache->stats.killed_blocks++;
    if (!k->entry)
        return;
    gate_close(cache, k->entry, k->dead);
    gate_close(cache, k->inner, k->dead_inner);
}

static void kill_page(struct bt_cache *cache, uint64_t backing_page) {
    struct bt_block **link = &cache->page[backing_page % HASH_SIZE];
    while (*link) {
        struct bt_block *k = *link;
        if (k->page == backing_page) {
            block_kill(cache, k);
            *link = k->page_next;
        } else {
            link = &k->page_next;
        }
    }
}

void bt_cache_kill_page(struct bt_cache *cache, uint64_t backing_page) {
    pthread_mutex_lock(&cache->lock);
    cache->stats.killed_pages++;
    kill_page(cache, backing_page);
    pthread_mutex_unlock(&cache->lock);
}

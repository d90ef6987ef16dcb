/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code cache of a domain: one arena of host code in a memfd that is mapped twice (writable,
 * executable; never both), one of records, and the blocks by where their code lies in guest memory.
 * Regions are filled in turns; when the last is full, the first is emptied.
 */
#include "cpu/bt/bt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/where.h"
#include "cpu/bt/index.h"
#include "cpu/bt/perfmap.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/trace.h"
#include "mem/guest.h"

#define HASH_SIZE 65536u
#define TAILS 4096u
#define REGIONS 8u
#define HOT_PAGES 4096u
#define CODE_MARGIN (32u << 10) /* more than any block takes */

/*
 * Pages whose code is written all the time are not worth translating: blocks were killed so often
 * within such a time, and then for such a time without.
 */
#define HOT_KILLS 32u
#define HOT_NS 20000000u

/* A part of the arenas that is emptied at once, and the blocks that live there, dead or alive. */
struct region {
    uint64_t used, records_used;
    struct bt_block *blocks;
};

struct hot_page {
    uint64_t page, since, until; /* times in ns */
    unsigned kills;
};

struct bt_cache {
    struct mem *mem;
    uint8_t *rw, *rx, *records;
    uint64_t bytes, region_bytes; /* of code, and of records too */
    pthread_mutex_t lock;         /* over blocks and both arenas */
    struct region region[REGIONS];
    unsigned current; /* region that is being filled */
    _Atomic unsigned flushes;
    struct bt_block *hash[HASH_SIZE];
    struct bt_block *page[HASH_SIZE]; /* by backing page */
    struct bt_index index;
    struct tail {
        uint64_t key, code;
    } tail[TAILS];
    struct hot_page hot[HOT_PAGES];
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

/* A set for each KiB of code: three blocks on average. */
static bool make_index(struct bt_cache *cache) {
    cache->index.sets = 1;
    while (cache->index.sets < cache->bytes / 1024)
        cache->index.sets *= 2;
    cache->index.set =
        mmap(NULL, cache->index.sets * sizeof *cache->index.set, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return cache->index.set != MAP_FAILED;
}

struct bt_cache *bt_cache_new(struct mem *mem, uint64_t bytes) {
    struct bt_cache *cache = xcalloc(1, sizeof *cache);
    cache->mem = mem;
    pthread_mutex_init(&cache->lock, NULL);
    cache->bytes = bytes;
    cache->region_bytes = bytes / REGIONS;
    cache->rw = cache->rx = MAP_FAILED;
    cache->records = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->records == MAP_FAILED || !map_code(cache) || !make_index(cache)) {
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
        munmap(cache->records, cache->bytes);
    if (cache->index.set && cache->index.set != MAP_FAILED)
        munmap(cache->index.set, cache->index.sets * sizeof *cache->index.set);
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

const struct bt_index *bt_cache_index(const struct bt_cache *cache) {
    return &cache->index;
}

unsigned bt_cache_flushes(const struct bt_cache *cache) {
    return atomic_load(&cache->flushes);
}

static struct region *filling(struct bt_cache *cache) {
    return &cache->region[cache->current];
}

struct emit bt_cache_emit(struct bt_cache *cache) {
    uint8_t *start = cache->rw + cache->current * cache->region_bytes;
    return (struct emit){.p = start + filling(cache)->used,
                         .end = start + cache->region_bytes,
                         .to_rx = cache->rx - cache->rw};
}

void bt_cache_emitted(struct bt_cache *cache, const struct emit *e) {
    uint8_t *start = cache->rw + cache->current * cache->region_bytes;
    filling(cache)->used = MIN(align_up((uint64_t)(e->p - start), 16), cache->region_bytes);
}

static uint64_t hashed(uint64_t key) {
    const uint64_t golden = 0x9e3779b97f4a7c15;
    return key * golden >> 32;
}

static struct tail *tail_slot(struct bt_cache *cache, uint64_t key) {
    return &cache->tail[hashed(key) % TAILS];
}

uint64_t bt_cache_tail(struct bt_cache *cache, uint64_t key) {
    const struct tail *t = tail_slot(cache, key);
    return t->key == key ? t->code : 0;
}

void bt_cache_keep_tail(struct bt_cache *cache, uint64_t key, uint64_t code) {
    *tail_slot(cache, key) = (struct tail){key, code};
}

void *bt_cache_alloc(struct bt_cache *cache, size_t bytes) {
    struct region *r = filling(cache);
    uint64_t at = r->records_used;
    if (align_up(bytes, 16) > cache->region_bytes - at)
        return NULL;
    r->records_used += align_up(bytes, 16);
    return cache->records + cache->current * cache->region_bytes + at;
}

bool bt_cache_holds(const struct bt_cache *cache, uint64_t code) {
    return code - (uint64_t)(uintptr_t)cache->rx < cache->bytes;
}

void bt_cache_lies(const struct bt_cache *cache) {
    where_code_lies((uint64_t)(uintptr_t)cache->rx, cache->bytes);
}

static struct bt_block **bucket(struct bt_cache *cache, uint64_t key) {
    return &cache->hash[hashed(key) % HASH_SIZE];
}

static struct bt_block *find(struct bt_cache *cache, uint64_t key) {
    for (struct bt_block *k = *bucket(cache, key); k; k = k->hash_next)
        if (k->key == key)
            return k;
    return NULL;
}

static void block_keep(struct bt_cache *cache, struct bt_block *k) {
    k->alive = true;
    bt_index_put(&cache->index, k->key, k->code);
    k->hash_next = *bucket(cache, k->key);
    *bucket(cache, k->key) = k;
    k->page_next = cache->page[k->page % HASH_SIZE];
    cache->page[k->page % HASH_SIZE] = k;
    k->region_next = filling(cache)->blocks;
    filling(cache)->blocks = k;
}

static void count_bytes(struct bt_cache *cache) {
    uint64_t code = 0, records = 0;
    for (unsigned n = 0; n < REGIONS; n++) {
        code += cache->region[n].used;
        records += cache->region[n].records_used;
    }
    cache->stats.code_bytes = code;
    cache->stats.record_bytes = records;
}

static void count_translated(struct bt_cpu *b, const struct bt_block *k, uint64_t start) {
    struct bt_cache *cache = b->cache;
    cache->stats.translated++;
    cache->stats.guest_bytes += k->bytes;
    cache->stats.host_bytes += (uint64_t)(bt_cache_emit(cache).p - k->entry);
    count_bytes(cache);
    cache->stats.translate_ns += mono_now() - start;
    if (cache->names)
        bt_perfmap_add(cache->names, k->code, (uint64_t)(bt_cache_emit(cache).p - k->entry),
                       b->c.s.rip);
}

static void trace_block(struct bt_cpu *b, const struct bt_block *k, const uint8_t *host,
                        const uint8_t *copy) {
    struct cpu_trace_code code = {.lin = b->c.s.rip,
                                  .host = host,
                                  .copy = copy,
                                  .bytes = k->bytes,
                                  .code = k->code,
                                  .code_bytes = (uint64_t)(bt_cache_emit(b->cache).p - k->entry)};
    cpu_trace_block(&b->c, &code);
}

/* Under the lock, from a copy of the code: others may be writing it. */
static enum bt_made block_make(struct bt_cpu *b, const uint8_t *host, uint64_t key,
                               struct bt_block **made) {
    uint8_t copy[PAGE_SIZE];
    uint64_t off = key >> BT_KEY_SHIFT & PAGE_MASK, start = mono_now();
    if (filling(b->cache)->used + CODE_MARGIN > b->cache->region_bytes)
        return BT_FULL;
    struct bt_block *k = bt_cache_alloc(b->cache, sizeof *k);
    if (!k)
        return BT_FULL;
    *k = (struct bt_block){.key = key, .page = (uint32_t)(key >> BT_KEY_SHIFT >> PAGE_SHIFT)};
    guest_copy(copy + off, host, PAGE_SIZE - off);
    if (!bt_translate(b, k, copy + off))
        return BT_FULL;
    count_translated(b, k, start);
    if (!mem_code_commit(b->c.mem, k->page, off, copy + off, k->bytes))
        return BT_AGAIN;
    k->lines = mem_code_lines(off, k->bytes);
    block_keep(b->cache, k);
    if (unlikely(b->c.traced & TRACE_BLOCK))
        trace_block(b, k, host, copy + off);
    *made = k;
    return BT_MADE;
}

static struct hot_page *hot_page(struct bt_cache *cache, uint64_t page) {
    return &cache->hot[page % HOT_PAGES];
}

static bool page_is_hot(struct bt_cache *cache, uint64_t page) {
    const struct hot_page *h = hot_page(cache, page);
    return h->until && h->page == page && mono_now() < h->until;
}

static void page_killed(struct bt_cache *cache, uint64_t page) {
    struct hot_page *h = hot_page(cache, page);
    uint64_t now = mono_now();
    if (h->page != page || now - h->since > HOT_NS)
        *h = (struct hot_page){.page = page, .since = now};
    if (++h->kills == HOT_KILLS) {
        h->until = now + HOT_NS;
        cache->stats.hot_pages++;
    }
}

static uint64_t key_at(const struct bt_cpu *b, const uint8_t *host) {
    return (uint64_t)(host - b->c.ram) << BT_KEY_SHIFT | bt_mode_key(b) |
           (b->single_wanted ? BT_KEY_SINGLE : 0);
}

struct bt_block *bt_cache_find(struct bt_cpu *b, const uint8_t *host) {
    where_lock(&b->cache->lock);
    struct bt_block *k = find(b->cache, key_at(b, host));
    pthread_mutex_unlock(&b->cache->lock);
    return k;
}

enum bt_made bt_cache_block(struct bt_cpu *b, const uint8_t *host, struct bt_block **made) {
    struct bt_cache *cache = b->cache;
    uint64_t key = key_at(b, host);
    uint64_t page = key >> BT_KEY_SHIFT >> PAGE_SHIFT;
    where_lock(&cache->lock);
    *made = find(cache, key);
    bool interpret = !*made && page_is_hot(cache, page);
    pthread_mutex_unlock(&cache->lock);
    if (*made || interpret)
        return interpret ? BT_INTERPRET : BT_MADE;
    /* May stop the other vCPUs, who may want the lock first. */
    mem_code_begin(b->c.mem, page);
    where_lock(&cache->lock);
    if (b->link_exit && b->link_flushes != bt_cache_flushes(cache))
        b->link_exit = NULL;  /* the translator looks at it */
    *made = find(cache, key); /* another vCPU was faster */
    enum where from = where_go(WHERE_TRANSLATE);
    enum bt_made how = *made ? BT_MADE : block_make(b, host, key, made);
    where_go(from);
    pthread_mutex_unlock(&cache->lock);
    return how;
}

/* ---- jumps from block to block ---- */

static bool may_link(const struct bt_exit *x, const struct bt_block *to) {
    const struct bt_block *from = x->block;
    return x->inner && !x->to && from->alive && to->alive && from->page == to->page &&
           !((from->key ^ to->key) & BT_KEY_MODE) && x->single == !!(to->key & BT_KEY_SINGLE);
}

static void exit_link(struct bt_cache *cache, struct bt_exit *x, struct bt_block *to) {
    memcpy(&x->unlinked, x->inner, sizeof x->unlinked);
    if (!bt_link(cache, x, to))
        return;
    cache->stats.linked++;
    x->to = to;
    x->next = to->incoming;
    to->incoming = x;
}

void bt_cache_link(struct bt_cache *cache, struct bt_exit *x, struct bt_block *to,
                   unsigned flushes) {
    pthread_mutex_lock(&cache->lock);
    if (flushes == bt_cache_flushes(cache) && may_link(x, to))
        exit_link(cache, x, to);
    pthread_mutex_unlock(&cache->lock);
}

/* It leaves translated code again. */
static void exit_unlink(struct bt_exit *x) {
    __atomic_store_n((int32_t *)(void *)x->inner, x->unlinked, __ATOMIC_RELAXED);
    x->to = NULL;
}

static void unlink_incoming(struct bt_block *k) {
    while (k->incoming) {
        struct bt_exit *x = k->incoming;
        k->incoming = x->next;
        exit_unlink(x);
    }
}

/* ---- killing ---- */

static void hash_remove(struct bt_cache *cache, const struct bt_block *k) {
    struct bt_block **link = bucket(cache, k->key);
    while (*link && *link != k)
        link = &(*link)->hash_next;
    if (*link)
        *link = k->hash_next;
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
    hash_remove(cache, k);
    bt_index_put(&cache->index, k->key, 0);
    unlink_incoming(k);
    gate_close(cache, k->entry, k->dead);
    gate_close(cache, k->inner, k->dead_inner);
}

static bool kill_lines(struct bt_cache *cache, uint64_t backing_page, uint64_t lines) {
    bool any = false;
    struct bt_block **link = &cache->page[backing_page % HASH_SIZE];
    while (*link) {
        struct bt_block *k = *link;
        if (k->page == backing_page && k->lines & lines) {
            block_kill(cache, k);
            any = true;
            *link = k->page_next;
        } else {
            link = &k->page_next;
        }
    }
    return any;
}

bool bt_cache_kill(struct bt_cache *cache, uint64_t backing_page, uint64_t lines) {
    pthread_mutex_lock(&cache->lock);
    cache->stats.killed_pages++;
    bool any = kill_lines(cache, backing_page, lines);
    if (any)
        page_killed(cache, backing_page);
    pthread_mutex_unlock(&cache->lock);
    return any;
}

/* ---- room for more ---- */

static bool within(const uint8_t *start, uint64_t bytes, const void *p) {
    return (uint64_t)((const uint8_t *)p - start) < bytes;
}

static const uint8_t *jumps_to(const struct bt_exit *x) {
    int32_t rel;
    memcpy(&rel, x->inner, sizeof rel);
    return x->inner + 4 + rel;
}

/* Takes the exits of one region out of a block's list, and those that come by way of it. */
static void forget_exits(const struct bt_cache *cache, struct bt_block *k, uint64_t region) {
    struct bt_exit **link = &k->incoming;
    while (*link) {
        struct bt_exit *x = *link;
        bool lies_there = within(cache->records + region, cache->region_bytes, x);
        if (!lies_there && !within(cache->rw + region, cache->region_bytes, jumps_to(x))) {
            link = &x->next;
            continue;
        }
        *link = x->next;
        if (!lies_there)
            exit_unlink(x);
    }
}

static void page_remove(struct bt_cache *cache, const struct bt_block *k) {
    struct bt_block **link = &cache->page[k->page % HASH_SIZE];
    while (*link && *link != k)
        link = &(*link)->page_next;
    if (*link)
        *link = k->page_next;
}

static void region_empty(struct bt_cache *cache, unsigned n) {
    struct region *r = &cache->region[n];
    uint64_t at = n * cache->region_bytes;
    for (unsigned other = 0; other < REGIONS; other++)
        for (struct bt_block *k = cache->region[other].blocks; k; k = k->region_next)
            forget_exits(cache, k, at);
    for (struct bt_block *k = r->blocks; k; k = k->region_next) {
        unlink_incoming(k);
        if (!k->alive)
            continue;
        cache->stats.evicted_blocks++;
        hash_remove(cache, k);
        page_remove(cache, k);
    }
    bt_index_sweep(&cache->index, (uint64_t)(uintptr_t)cache->rx + at, cache->region_bytes);
    memset(cache->records + at, 0, r->records_used);
    *r = (struct region){0};
}

uint64_t bt_cache_evict(struct bt_cache *cache, uint64_t *bytes) {
    pthread_mutex_lock(&cache->lock);
    cache->stats.evicted += cache->region[(cache->current + 1) % REGIONS].used > 0;
    cache->current = (cache->current + 1) % REGIONS;
    region_empty(cache, cache->current);
    memset(cache->tail, 0, sizeof cache->tail); /* shared within a region only */
    atomic_fetch_add(&cache->flushes, 1);
    *bytes = cache->region_bytes;
    pthread_mutex_unlock(&cache->lock);
    return (uint64_t)(uintptr_t)cache->rx + cache->current * cache->region_bytes;
}

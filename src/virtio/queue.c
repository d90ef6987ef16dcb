/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues (virtio 1.2, 2.7), packed ones (2.8), and what they share: descriptors become
 * vectors of host memory in one function, for direct and indirect ones of both kinds.
 */
#include "virtio/queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/notifier.h"
#include "base/record.h"
#include "base/util.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

/* Descriptor flags (2.7.5, 2.8.1). */
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_AVAIL = 1 << 7, DESC_USED = 1 << 15 };
#define DESC_BYTES 16u

/* Split: available ring { flags, idx, ring[], used_event }, used ring { flags, idx, ring[],
 * avail_event }. */
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ENTRIES = 4, USED_ENTRY = 8 };
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u

/* Packed: event suppression { desc, flags } (2.8.10). */
enum { EVENT_DESC = 0, EVENT_FLAGS = 2, EVENT_BYTES = 4 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_AT_DESC = 2 };
#define WRAP_BIT 0x8000u

/* A buffer of more pieces than this is not kept for reuse. */
#define SPARE_ROOM 32u
/* One descriptor may lie in several regions of memory. */
#define SCRATCH (VIRTQ_MAX_CHAIN + 8u)

/* --- the guest's memory, each field in one access --- */

static uint16_t load16(const uint8_t *p) {
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *p, uint16_t v) {
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static void store32(uint8_t *p, uint32_t v) {
    __atomic_store_n((uint32_t *)(void *)p, v, __ATOMIC_RELAXED);
}

static uint64_t load64(const uint8_t *p) {
    return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
}

/* What the other side wrote before must be seen after what we wrote before. */
static void full_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void wrote(const struct virtq *q, const uint8_t *host, uint64_t len) {
    mem_wrote(q->dev->mem, host, len);
}

/* --- locks and life --- */

void virtq_lock(struct virtq *q) {
    pthread_mutex_lock(&q->lock);
}

void virtq_unlock(struct virtq *q) {
    pthread_mutex_unlock(&q->lock);
}

/* A legacy driver may use its queues before it says DRIVER_OK (3.1.2). */
bool virtq_usable(const struct virtq *q) {
    const struct virtio_device *d = q->dev;
    uint8_t status = atomic_load(&d->status);

    if (!q->enabled || status & VIRTIO_NEEDS_RESET || atomic_load(&d->held))
        return false;
    return status & VIRTIO_DRIVER_OK || d->legacy;
}

static void answer(void *arg) {
    struct virtq *q = arg;

    virtq_lock(q);
    if (virtq_usable(q))
        q->dev->ops->notify(q->dev, q);
    virtq_unlock(q);
}

void virtq_kick(struct virtq *q) {
    notifier_ring(q->kick);
}

int virtq_init(struct virtq *q, struct virtio_device *d, unsigned index, uint16_t max_size,
               size_t request_size, struct loop *l, struct err *e) {
    q->dev = d;
    q->index = index;
    q->max_size = max_size;
    q->request_size = align_up(request_size, _Alignof(struct iovec));
    q->scratch = xcalloc(SCRATCH, sizeof(*q->scratch));
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->idle, NULL);
    virtq_reset(q);
    q->kick = notifier_new(l, answer, q, e);
    return q->kick ? 0 : -1;
}

void virtq_destroy(struct virtq *q) {
    notifier_free(q->kick);
    while (q->spare) {
        struct virtq_buf *b = q->spare;

        q->spare = b->next;
        free(b);
    }
    free(q->scratch);
    pthread_cond_destroy(&q->idle);
    pthread_mutex_destroy(&q->lock);
}

void virtq_reset(struct virtq *q) {
    q->size = q->max_size;
    q->enabled = false;
    q->desc = q->driver = q->device = 0;
    q->desc_host = q->driver_host = q->device_host = NULL;
    q->packed = q->event_idx = q->indirect = false;
    q->next_avail = q->next_used = q->staged = 0;
    q->avail_wrap = q->used_wrap = true;
    q->signalled = 0;
    q->signalled_valid = false;
    q->stale += q->popped;
    q->popped = q->popped_descs = 0;
    q->generation++;
}

/* --- the areas --- */

static uint64_t driver_bytes(unsigned size, bool packed) {
    return packed ? EVENT_BYTES : 6 + 2ull * size;
}

static uint64_t device_bytes(unsigned size, bool packed) {
    return packed ? EVENT_BYTES : 6 + 8ull * size;
}

static bool size_ok(const struct virtq *q, unsigned size, bool packed) {
    return size && size <= q->max_size && (packed || !(size & (size - 1)));
}

static uint8_t *area(struct mem *m, uint64_t gpa, uint64_t bytes, uint64_t align) {
    return gpa & (align - 1) ? NULL : mem_ptr_w(m, GPA(gpa), bytes);
}

bool virtq_enable(struct virtq *q) {
    struct mem *m = q->dev->mem;
    uint64_t align = q->packed ? 4 : 2;

    if (!size_ok(q, q->size, q->packed))
        return false;
    q->desc_host = area(m, q->desc, (uint64_t)q->size * DESC_BYTES, DESC_BYTES);
    q->driver_host = area(m, q->driver, driver_bytes(q->size, q->packed), align);
    q->device_host = area(m, q->device, device_bytes(q->size, q->packed), 4);
    q->enabled = q->desc_host && q->driver_host && q->device_host;
    return q->enabled;
}

/* --- buffers --- */

static struct virtq_buf *take_spare(struct virtq *q, size_t room) {
    struct virtq_buf *b = q->spare;

    if (room <= SPARE_ROOM && b) {
        q->spare = b->next;
        memset(b, 0, q->request_size);
        b->room = SPARE_ROOM;
        return b;
    }
    room = MAX(room, SPARE_ROOM);
    b = xcalloc(1, q->request_size + room * sizeof(struct iovec));
    b->room = room;
    return b;
}

/* Vectors stand behind the device's request. */
static struct virtq_buf *new_buf(struct virtq *q, unsigned out, unsigned in) {
    struct virtq_buf *b = take_spare(q, (size_t)out + in);

    b->out = (struct iovec *)(void *)((uint8_t *)b + q->request_size);
    b->in = b->out + out;
    b->out_count = out;
    b->in_count = in;
    memcpy(b->out, q->scratch, ((size_t)out + in) * sizeof(struct iovec));
    b->out_len = iov_size(b->out, out);
    b->in_len = iov_size(b->in, in);
    b->generation = q->generation;
    return b;
}

static void free_buf(struct virtq *q, struct virtq_buf *b) {
    if (b->room > SPARE_ROOM) {
        free(b);
        return;
    }
    b->next = q->spare;
    q->spare = b;
}

/* A buffer is no longer out there. False when a reset has overtaken it. */
static bool account(struct virtq *q, const struct virtq_buf *b) {
    bool current = b->generation == q->generation;
    unsigned left = current ? --q->popped : --q->stale;

    if (current)
        q->popped_descs -= b->descs;
    if (!left)
        pthread_cond_broadcast(&q->idle);
    return current;
}

void virtq_drop(struct virtq *q, struct virtq_buf *b) {
    account(q, b);
    free_buf(q, b);
}

size_t virtq_read(const struct virtq_buf *b, size_t off, void *buf, size_t len) {
    return iov_read(b->out, b->out_count, off, buf, len);
}

size_t virtq_write(const struct virtq_buf *b, size_t off, const void *buf, size_t len) {
    return iov_write(b->in, b->in_count, off, buf, len);
}

/* --- descriptors --- */

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next; /* packed: `next` is the buffer's id and comes first */
};

/* What one walk has gathered in q->scratch: first `out` readable pieces, then `in` writable ones.
 */
struct walk {
    unsigned out, in, descs;
    uint64_t bytes;
    const char *bad; /* why the guest's buffer is none */
};

static struct desc load_desc(const uint8_t *p, bool packed) {
    uint64_t tail = load64(p + 8);
    uint16_t third = (uint16_t)(tail >> 32), fourth = (uint16_t)(tail >> 48);

    return (struct desc){load64(p), (uint32_t)tail, packed ? fourth : third,
                         packed ? third : fourth};
}

static bool fail(struct walk *w, const char *why) {
    w->bad = why;
    return false;
}

/* One run of host memory; it goes on where the last one ended if it can. */
static bool add_piece(struct virtq *q, struct walk *w, bool write, uint8_t *host, uint64_t len) {
    unsigned n = w->out + w->in;
    struct iovec *last = n ? &q->scratch[n - 1] : NULL;

    if (last && (write ? w->in : w->out) && (uint8_t *)last->iov_base + last->iov_len == host) {
        last->iov_len += len;
        return true;
    }
    if (n == SCRATCH)
        return fail(w, "too many pieces");
    q->scratch[n] = (struct iovec){host, len};
    w->out += !write;
    w->in += write;
    return true;
}

static bool add_desc(struct virtq *q, struct walk *w, const struct desc *d) {
    bool write = d->flags & DESC_WRITE;
    uint64_t addr = d->addr, len = d->len;
    struct mem_hit hit;

    if (!write && w->in)
        return fail(w, "a readable descriptor behind a writable one");
    w->bytes += len;
    if (w->bytes > UINT32_MAX)
        return fail(w, "4 GiB or more in one buffer");
    for (; len; addr += hit.bytes, len -= hit.bytes) {
        mem_lookup(q->dev->mem, GPA(addr), &hit);
        if (hit.kind != MEM_RAM && (write || hit.kind != MEM_ROM))
            return fail(w, "an address that is not memory");
        hit.bytes = MIN(hit.bytes, len);
        if (!add_piece(q, w, write, hit.host, hit.bytes))
            return false;
    }
    return true;
}

/* In a packed ring's tables only the order counts; in a split ring's they are chained. */
static bool add_table(struct virtq *q, struct walk *w, const uint8_t *table, unsigned count) {
    unsigned i = 0;

    for (unsigned seen = 0; seen < count; seen++) {
        struct desc d = load_desc(table + (size_t)i * DESC_BYTES, q->packed);

        if (!q->packed && d.flags & DESC_INDIRECT)
            return fail(w, "an indirect table within another");
        if (!add_desc(q, w, &d))
            return false;
        if (!q->packed && !(d.flags & DESC_NEXT))
            return true;
        i = q->packed ? seen + 1 : d.next;
        if (!q->packed && i >= count)
            return fail(w, "a chain that leaves its indirect table");
    }
    return q->packed || fail(w, "a chain without an end");
}

static bool add_indirect(struct virtq *q, struct walk *w, const struct desc *d) {
    unsigned count = d->len / DESC_BYTES;

    if (!q->indirect)
        return fail(w, "an indirect descriptor, which was not negotiated");
    if (d->flags & DESC_NEXT)
        return fail(w, "an indirect descriptor that goes on");
    if (!d->len || d->len % DESC_BYTES || count > VIRTQ_MAX_CHAIN)
        return fail(w, "an indirect table of impossible length");
    /* Tables need no alignment by the specification; drivers align them. */
    const uint8_t *table = mem_ptr_r(q->dev->mem, GPA(d->addr), d->len);
    if (!table || d->addr & 7)
        return fail(w, "an indirect table that is not in memory");
    return add_table(q, w, table, count);
}

/* --- split rings --- */

static unsigned split_ready(struct virtq *q) {
    uint16_t n = (uint16_t)(load16(q->driver_host + RING_IDX) - q->next_avail);

    if (n > q->size) {
        virtio_broken(q->dev, "queue %u: available index is %u ahead", q->index, n);
        return 0;
    }
    return n;
}

static bool walk_split(struct virtq *q, struct walk *w, unsigned i) {
    for (;;) {
        if (i >= q->size)
            return fail(w, "a descriptor beyond the ring");
        if (++w->descs > q->size)
            return fail(w, "a chain without an end");
        struct desc d = load_desc(q->desc_host + (size_t)i * DESC_BYTES, false);
        if (d.flags & DESC_INDIRECT)
            return add_indirect(q, w, &d);
        if (!add_desc(q, w, &d))
            return false;
        if (!(d.flags & DESC_NEXT))
            return true;
        i = d.next;
    }
}

static bool pop_split(struct virtq *q, struct walk *w, uint16_t *id) {
    size_t slot = q->next_avail & (q->size - 1u);

    *id = load16(q->driver_host + RING_ENTRIES + 2 * slot);
    if (!walk_split(q, w, *id))
        return false;
    /* However long it is, it takes one entry of the available ring. */
    w->descs = 1;
    q->next_avail++;
    return true;
}

static void put_split(struct virtq *q, uint16_t id, uint32_t written) {
    uint8_t *used =
        q->device_host + RING_ENTRIES + (size_t)(q->next_used & (q->size - 1u)) * USED_ENTRY;

    store32(used, id);
    store32(used + 4, written);
    wrote(q, used, USED_ENTRY);
    q->next_used++;
}

static void publish_split(struct virtq *q) {
    store16(q->device_host + RING_IDX, q->next_used);
    wrote(q, q->device_host + RING_IDX, 2);
}

/* Whether `event` lies in (old, new], in 16-bit arithmetic (2.7.7.2). */
static bool passed(uint16_t event, uint16_t new, uint16_t old) {
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static bool wants_interrupt_split(struct virtq *q, uint16_t old, bool old_valid) {
    if (!q->event_idx)
        return !(load16(q->driver_host + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    uint16_t event = load16(q->driver_host + RING_ENTRIES + 2u * q->size);
    return !old_valid || passed(event, q->next_used, old);
}

static void set_notify_split(struct virtq *q, bool on) {
    uint8_t *event = q->device_host + RING_ENTRIES + (size_t)q->size * USED_ENTRY;

    if (!q->event_idx) {
        store16(q->device_host + RING_FLAGS, on ? 0 : USED_NO_NOTIFY);
        wrote(q, q->device_host, 2);
    } else if (on) {
        store16(event, q->next_avail);
        wrote(q, event, 2);
    }
}

/* --- packed rings --- */

static uint8_t *packed_desc(const struct virtq *q, unsigned slot) {
    return q->desc_host + (size_t)slot * DESC_BYTES;
}

static bool packed_ready(const struct virtq *q) {
    uint16_t flags = load16(packed_desc(q, q->next_avail) + 14);
    bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;

    return avail == q->avail_wrap && used != q->avail_wrap;
}

/* Moves a slot on; says whether it wrapped. */
static bool advance(const struct virtq *q, uint16_t *slot, unsigned by) {
    unsigned next = *slot + by;
    bool wraps = next >= q->size;

    *slot = (uint16_t)(wraps ? next - q->size : next);
    return wraps;
}

static bool pop_packed(struct virtq *q, struct walk *w, uint16_t *id) {
    uint16_t slot = q->next_avail;
    struct desc d;

    do {
        if (++w->descs > q->size)
            return fail(w, "a chain without an end");
        d = load_desc(packed_desc(q, slot), true);
        if (d.flags & DESC_INDIRECT && w->descs > 1)
            return fail(w, "an indirect descriptor in a chain");
        if (!(d.flags & DESC_INDIRECT ? add_indirect(q, w, &d) : add_desc(q, w, &d)))
            return false;
        advance(q, &slot, 1);
    } while (d.flags & DESC_NEXT);
    *id = d.next;
    q->avail_wrap ^= advance(q, &q->next_avail, w->descs);
    return true;
}

/* The first one's flags come last: that is what the driver looks at (2.8.9). */
static void put_packed(struct virtq *q, const struct virtq_buf *b, uint32_t written) {
    uint8_t *p = packed_desc(q, q->next_used);
    uint16_t flags =
        (uint16_t)((q->used_wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0));

    store32(p + 8, written);
    store16(p + 12, b->id);
    if (q->staged)
        store16(p + 14, flags);
    else
        q->first_slot = q->next_used, q->first_flags = flags;
    wrote(q, p, DESC_BYTES);
    if (advance(q, &q->next_used, b->descs)) {
        q->used_wrap ^= true;
        q->signalled_valid = false;
    }
}

static void publish_packed(struct virtq *q) {
    uint8_t *p = packed_desc(q, q->first_slot) + 14;

    store16(p, q->first_flags);
    wrote(q, p, 2);
}

static bool wants_interrupt_packed(struct virtq *q, uint16_t old, bool old_valid) {
    uint16_t flags = load16(q->driver_host + EVENT_FLAGS) & 3;

    if (flags != EVENT_AT_DESC)
        return flags != EVENT_DISABLE;
    uint16_t at = load16(q->driver_host + EVENT_DESC);
    uint16_t event = at & (uint16_t)~WRAP_BIT;
    if (!!(at & WRAP_BIT) != q->used_wrap)
        event = (uint16_t)(event - q->size);
    return !old_valid || passed(event, q->next_used, old);
}

static void set_notify_packed(struct virtq *q, bool on) {
    uint16_t flags = EVENT_DISABLE;

    if (on && q->event_idx) {
        store16(q->device_host + EVENT_DESC,
                (uint16_t)(q->next_avail | (q->avail_wrap ? WRAP_BIT : 0)));
        flags = EVENT_AT_DESC;
    } else if (on) {
        flags = EVENT_ENABLE;
    }
    store16(q->device_host + EVENT_FLAGS, flags);
    wrote(q, q->device_host, EVENT_BYTES);
}

/* --- both --- */

bool virtq_ready(struct virtq *q) {
    if (!virtq_usable(q))
        return false;
    return q->packed ? packed_ready(q) : split_ready(q) != 0;
}

struct virtq_buf *virtq_pop(struct virtq *q) {
    struct walk w = {0};
    uint16_t id;

    if (!virtq_ready(q))
        return NULL;
    bool ok = q->packed ? pop_packed(q, &w, &id) : pop_split(q, &w, &id);
    if (ok && q->popped_descs + w.descs > q->size)
        ok = fail(&w, "more buffers than the ring has entries");
    if (!ok) {
        virtio_broken(q->dev, "queue %u: %s", q->index, w.bad);
        return NULL;
    }
    struct virtq_buf *b = new_buf(q, w.out, w.in);
    b->id = id;
    b->descs = (uint16_t)w.descs;
    q->popped++;
    q->popped_descs += w.descs;
    return b;
}

static void note_writes(const struct virtq *q, const struct virtq_buf *b) {
    for (unsigned i = 0; i < b->in_count; i++)
        wrote(q, b->in[i].iov_base, b->in[i].iov_len);
}

void virtq_put(struct virtq *q, struct virtq_buf *b, uint32_t written) {
    note_writes(q, b);
    if (account(q, b) && q->enabled) {
        if (q->packed)
            put_packed(q, b, written);
        else
            put_split(q, b->id, written);
        q->staged++;
    }
    free_buf(q, b);
}

void virtq_flush(struct virtq *q) {
    uint16_t old = q->signalled;
    bool old_valid = q->signalled_valid;

    if (!q->staged || !q->enabled)
        return;
    q->staged = 0;
    if (q->packed)
        publish_packed(q);
    else
        publish_split(q);
    full_fence();
    q->signalled = q->next_used;
    q->signalled_valid = true;
    if (q->packed ? wants_interrupt_packed(q, old, old_valid)
                  : wants_interrupt_split(q, old, old_valid))
        q->dev->transport->interrupt(q->dev->transport_arg, q);
}

void virtq_unpop(struct virtq *q, struct virtq_buf *b) {
    if (account(q, b) && q->packed) {
        unsigned slot = (unsigned)q->next_avail + q->size - b->descs;

        q->avail_wrap ^= slot < q->size;
        q->next_avail = (uint16_t)(slot % q->size);
    } else if (b->generation == q->generation) {
        q->next_avail--;
    }
    free_buf(q, b);
}

void virtq_notify_off(struct virtq *q) {
    if (!q->enabled)
        return;
    if (q->packed)
        set_notify_packed(q, false);
    else
        set_notify_split(q, false);
}

bool virtq_notify_on(struct virtq *q) {
    if (!q->enabled)
        return false;
    if (q->packed)
        set_notify_packed(q, true);
    else
        set_notify_split(q, true);
    full_fence();
    return virtq_ready(q);
}

/* --- state --- */

void virtq_save(const struct virtq *q, struct record_writer *w) {
    rec_put_u16(w, q->size);
    rec_put_u8(w, q->enabled);
    rec_put_u64(w, q->desc);
    rec_put_u64(w, q->driver);
    rec_put_u64(w, q->device);
    rec_put_u16(w, q->next_avail);
    rec_put_u16(w, q->next_used);
    rec_put_u8(w, q->avail_wrap);
    rec_put_u8(w, q->used_wrap);
}

static void get(struct virtq *q, struct record_reader *r) {
    q->size = rec_get_u16(r);
    q->enabled = rec_get_u8(r);
    q->desc = rec_get_u64(r);
    q->driver = rec_get_u64(r);
    q->device = rec_get_u64(r);
    q->next_avail = rec_get_u16(r);
    q->next_used = rec_get_u16(r);
    q->avail_wrap = rec_get_u8(r);
    q->used_wrap = rec_get_u8(r);
}

int virtq_check(const struct virtq *q, struct record_reader *r, uint64_t features, struct err *e) {
    struct virtq c = {.dev = q->dev, .max_size = q->max_size};

    get(&c, r);
    c.packed = features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    if (c.size > c.max_size || (c.packed && (c.next_avail >= c.size || c.next_used >= c.size)))
        return err_set(e, 0, "%s: queue %u: size %u, positions %u and %u", q->dev->ops->name,
                       q->index, c.size, c.next_avail, c.next_used);
    if (c.enabled && !virtq_enable(&c))
        return err_set(e, 0, "%s: queue %u is not in memory", q->dev->ops->name, q->index);
    return 0;
}

void virtq_load(struct virtq *q, struct record_reader *r) {
    virtq_reset(q);
    get(q, r);
    virtq_negotiated(q);
    if (q->enabled)
        virtq_enable(q);
}

void virtq_negotiated(struct virtq *q) {
    q->packed = virtio_has(q->dev, VIRTIO_F_RING_PACKED);
    q->event_idx = virtio_has(q->dev, VIRTIO_F_EVENT_IDX);
    q->indirect = virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal snapshots: L1 tables that are kept, and references to all that they lead to (spec,
 * "Snapshots"). The steps are not atomic; in version 3 the dirty bit is set meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define ENTRY_BYTES 40u
#define EXTRA_BYTES 16u /* what we write: size of the state, size of the disk */
#define EXTRA_MAX 1024u

/* --- the table --- */

static void free_one(struct qcow2_snapshot *s) {
    free(s->s.id);
    free(s->s.name);
    free(s->extra);
}

void qcow2_snapshots_unload(struct qcow2 *q) {
    for (uint32_t i = 0; q->snapshots && i < q->h.snapshot_count; i++)
        free_one(&q->snapshots[i]);
    free(q->snapshots);
    q->snapshots = NULL;
}

static void get_extra(const struct qcow2 *q, struct qcow2_snapshot *s, const uint8_t *p) {
    s->extra = xcalloc(1, s->extra_bytes);
    memcpy(s->extra, p, s->extra_bytes);
    if (s->extra_bytes >= 8)
        s->s.vm_state_size = be64_get(p);
    s->s.disk_size = s->extra_bytes >= 16 ? be64_get(p + 8) : q->h.size;
}

/* One entry at `p`, within `room` bytes. Returns its length; 0 when it makes no sense. */
static uint64_t get_one(const struct qcow2 *q, struct qcow2_snapshot *s, const uint8_t *p,
                        uint64_t room) {
    uint64_t id, name, bytes;

    if (room < ENTRY_BYTES)
        return 0;
    id = be16_get(p + 12);
    name = be16_get(p + 14);
    s->extra_bytes = be32_get(p + 36);
    if (s->extra_bytes > EXTRA_MAX)
        return 0;
    bytes = ENTRY_BYTES + s->extra_bytes + id + name;
    if (bytes > room)
        return 0;
    s->l1_offset = be64_get(p);
    s->l1_size = be32_get(p + 8);
    s->s.seconds = be32_get(p + 16);
    s->s.nanoseconds = be32_get(p + 20);
    s->s.vm_clock_ns = be64_get(p + 24);
    s->s.vm_state_size = be32_get(p + 32);
    get_extra(q, s, p + ENTRY_BYTES);
    p += ENTRY_BYTES + s->extra_bytes;
    s->s.id = xasprintf("%.*s", (int)id, (const char *)p);
    s->s.name = xasprintf("%.*s", (int)name, (const char *)p + id);
    return align_up(bytes, 8);
}

int qcow2_snapshots_load(struct qcow2 *q, struct err *e) {
    uint64_t file = 0, room, at = 0;
    int r;

    if (!q->h.snapshot_count)
        return 0;
    r = hostfile_size(q->file, &file);
    if (r < 0 || q->h.snapshots_offset < q->cluster_size ||
        q->h.snapshots_offset & (q->cluster_size - 1) || q->h.snapshots_offset >= file)
        return err_set(e, 0, "a snapshot table at offset %#" PRIx64, q->h.snapshots_offset);
    room = MIN(file - q->h.snapshots_offset, (uint64_t)QCOW2_SNAPTABLE_MAX);
    cleanup_free uint8_t *raw = xcalloc(1, room);
    r = hostfile_read(q->file, q->h.snapshots_offset, raw, room);
    if (r < 0)
        return err_set(e, -r, "snapshot table");
    q->snapshots = xcalloc(q->h.snapshot_count, sizeof(*q->snapshots));
    for (uint32_t i = 0; i < q->h.snapshot_count; i++) {
        struct qcow2_snapshot *s = &q->snapshots[i];
        uint64_t bytes = get_one(q, s, raw + at, room - at);

        if (!bytes || s->l1_size > QCOW2_L1_MAX / 8 || s->l1_offset & (q->cluster_size - 1) ||
            s->l1_offset > INT64_MAX / 2)
            return err_set(e, 0, "snapshot %" PRIu32 " makes no sense", i);
        at = MIN(at + bytes, room);
    }
    q->snapshot_bytes = at;
    return 0;
}

static void put_one(uint8_t *p, const struct qcow2_snapshot *s) {
    size_t id = strlen(s->s.id), name = strlen(s->s.name);

    be64_put(p, s->l1_offset);
    be32_put(p + 8, s->l1_size);
    be16_put(p + 12, (uint16_t)id);
    be16_put(p + 14, (uint16_t)name);
    be32_put(p + 16, s->s.seconds);
    be32_put(p + 20, s->s.nanoseconds);
    be64_put(p + 24, s->s.vm_clock_ns);
    be32_put(p + 32, s->s.vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->s.vm_state_size);
    be32_put(p + 36, s->extra_bytes);
    memcpy(p + ENTRY_BYTES, s->extra, s->extra_bytes);
    memcpy(p + ENTRY_BYTES + s->extra_bytes, s->s.id, id);
    memcpy(p + ENTRY_BYTES + s->extra_bytes + id, s->s.name, name);
}

static uint64_t bytes_of(const struct qcow2_snapshot *s) {
    return align_up(ENTRY_BYTES + s->extra_bytes + strlen(s->s.id) + strlen(s->s.name), 8);
}

/* Writes a table elsewhere, and lets the header name it. */
static int write_table(struct qcow2 *q, const struct qcow2_snapshot *list, uint32_t count) {
    const struct qcow2_header before = q->h;
    uint64_t bytes = 0, at = 0, off = 0;
    int r = 0;

    for (uint32_t i = 0; i < count; i++)
        bytes += bytes_of(&list[i]);
    if (bytes > QCOW2_SNAPTABLE_MAX)
        return -EFBIG;
    cleanup_free uint8_t *raw = xcalloc(1, align_up(bytes, q->cluster_size));
    for (uint32_t i = 0; i < count; at += bytes_of(&list[i++]))
        put_one(raw + at, &list[i]);
    if (bytes) {
        r = qcow2_take(q, qcow2_clusters(q, bytes), &off);
        if (r == 0)
            r = hostfile_write(q->file, off, raw, align_up(bytes, q->cluster_size));
    }
    if (r == 0)
        r = qcow2_sync(q);
    if (r < 0)
        return r;
    q->h.snapshots_offset = off;
    q->h.snapshot_count = count;
    r = qcow2_header_switch(q, &before);
    if (r < 0)
        return r;
    qcow2_drop_later(q, before.snapshots_offset >> q->cluster_bits,
                     qcow2_clusters(q, q->snapshot_bytes));
    q->snapshot_bytes = bytes;
    return 0;
}

/* --- all that an L1 table leads to --- */

enum walk { WALK_LOOK, WALK_ADD, WALK_DROP, WALK_FLAGS };

/* Whether as many references can be added as there are at most: half way there is no way back. */
static int look(struct qcow2 *q, uint64_t first, uint64_t count) {
    uint64_t most = q->ref_bits == 64 ? UINT64_MAX : (1ull << q->ref_bits) - 1, n = 0;
    int r = 0;

    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = qcow2_ref_get(q, first + i, &n);
        if (r == 0 && !n)
            return qcow2_corrupt(q, "cluster %" PRIu64 " is used but not counted", first + i);
        if (r == 0 && n > most / 2)
            r = -EOVERFLOW;
    }
    return r;
}

static int walk_clusters(struct qcow2 *q, enum walk how, uint64_t first, uint64_t count) {
    switch (how) {
    case WALK_LOOK:
        return look(q, first, count);
    case WALK_ADD:
        return qcow2_ref_add(q, first, count, 1);
    case WALK_DROP:
        qcow2_drop_later(q, first, count);
        return 0;
    default:
        return 0;
    }
}

/* Bit 63 of an entry, from the refcount. 1: it has changed. */
static int set_flag(struct qcow2 *q, uint64_t *entry) {
    uint64_t old = *entry, count = 0;
    int r = 0;

    if (old & QCOW2_COMPRESSED || !(old & QCOW2_OFFSET))
        return 0;
    r = qcow2_ref_get(q, (old & QCOW2_OFFSET) >> q->cluster_bits, &count);
    if (r < 0)
        return r;
    *entry = count == 1 ? old | QCOW2_COPIED : old & ~QCOW2_COPIED;
    return *entry != old;
}

static int walk_l2(struct qcow2 *q, enum walk how, uint64_t off) {
    uint8_t *l2 = NULL;
    int r = qcow2_place_ok(q, off, q->cluster_size) ? table_cache_get(q->l2s, off, &l2)
                                                    : qcow2_corrupt(q, "an L2 table");

    for (uint32_t i = 0; i < q->entries && r >= 0; i++) {
        struct qcow2_entry entry = qcow2_entry_get(q, l2, i);
        uint64_t first, count = qcow2_entry_clusters(q, entry.cluster, &first);

        if (how != WALK_FLAGS) {
            r = walk_clusters(q, how, first, count);
            continue;
        }
        r = set_flag(q, &entry.cluster);
        if (r > 0) {
            qcow2_entry_put(q, l2, i, entry);
            table_cache_changed(q->l2s, off, i * q->entry_size, q->entry_size);
        }
    }
    return MIN(r, 0);
}

static int walk_l1(struct qcow2 *q, enum walk how, uint64_t *l1, uint32_t size) {
    int r = 0;

    for (uint32_t i = 0; i < size && r >= 0; i++) {
        uint64_t off = l1[i] & QCOW2_OFFSET;

        if (!off)
            continue;
        r = walk_l2(q, how, off);
        if (r >= 0 && how == WALK_FLAGS)
            r = set_flag(q, &l1[i]);
        else if (r >= 0)
            r = walk_clusters(q, how, off >> q->cluster_bits, 1);
    }
    return MIN(r, 0);
}

/* The flags of the active tables as the refcounts are now. */
static int refresh_flags(struct qcow2 *q) {
    int r = walk_l1(q, WALK_FLAGS, q->l1, q->h.l1_size);

    q->l1_from = 0;
    q->l1_to = q->h.l1_size;
    return r;
}

static int drop_all(struct qcow2 *q) {
    int r = qcow2_sync(q);

    return r < 0 ? r : qcow2_drop_ripe(q);
}

/* --- operations --- */

static int begin(struct qcow2 *q) {
    pthread_rwlock_wrlock(&q->gate);
    pthread_mutex_lock(&q->lock);
    int r = q->v.read_only ? -EROFS : drop_all(q);
    return r < 0 ? r : qcow2_set_dirty(q, true);
}

/* An image whose change ended half way stays dirty, and is repaired when it is opened next. */
static int end(struct qcow2 *q, int r, const char *what, const char *name, struct err *e) {
    bool lazy = q->h.compatible & QCOW2_LAZY_REFCOUNTS;

    if (r == 0)
        r = drop_all(q);
    if (r == 0 && !lazy)
        r = qcow2_settle(q);
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    if (r == -EOVERFLOW)
        return err_set(e, 0, "%s snapshot '%s': refcounts of %" PRIu32 " bits are too narrow", what,
                       name, q->ref_bits);
    return r < 0 ? err_set(e, -r, "%s snapshot '%s'", what, name) : 0;
}

static struct qcow2_snapshot *find(struct qcow2 *q, const char *name) {
    for (uint32_t i = 0; i < q->h.snapshot_count; i++)
        if (strcmp(q->snapshots[i].s.name, name) == 0)
            return &q->snapshots[i];
    for (uint32_t i = 0; i < q->h.snapshot_count; i++)
        if (strcmp(q->snapshots[i].s.id, name) == 0)
            return &q->snapshots[i];
    return NULL;
}

static struct qcow2_snapshot *need(struct qcow2 *q, const char *name, struct err *e) {
    struct qcow2_snapshot *s = find(q, name);

    if (!s)
        err_set(e, 0, "there is no snapshot '%s'", name);
    return s;
}

static int list_snapshots(struct volume *v, struct volume_snapshot **list, size_t *count,
                          struct err *e) {
    struct qcow2 *q = qcow2_of(v);

    (void)e;
    *count = q->h.snapshot_count;
    *list = xcalloc(*count, sizeof(**list));
    for (size_t i = 0; i < *count; i++) {
        (*list)[i] = q->snapshots[i].s;
        (*list)[i].id = xstrdup(q->snapshots[i].s.id);
        (*list)[i].name = xstrdup(q->snapshots[i].s.name);
    }
    return 0;
}

static struct qcow2_snapshot describe(const struct qcow2 *q, const char *name) {
    struct qcow2_snapshot s = {.l1_size = q->h.l1_size, .extra_bytes = EXTRA_BYTES};
    struct timespec now;
    uint64_t id = 0;

    for (uint32_t i = 0; i < q->h.snapshot_count; i++)
        id = MAX(id, (uint64_t)strtoull(q->snapshots[i].s.id, NULL, 10));
    clock_gettime(CLOCK_REALTIME, &now);
    s.s = (struct volume_snapshot){
        .id = xasprintf("%" PRIu64, id + 1),
        .name = xstrdup(name),
        .disk_size = q->h.size,
        .seconds = (uint32_t)now.tv_sec,
        .nanoseconds = (uint32_t)now.tv_nsec,
    };
    s.extra = xcalloc(1, EXTRA_BYTES);
    be64_put(s.extra + 8, q->h.size);
    return s;
}

/* The L1 table as it is now, elsewhere. */
static int copy_l1(struct qcow2 *q, uint64_t *off) {
    uint64_t clusters = qcow2_clusters(q, q->h.l1_size * 8ull);
    cleanup_free uint8_t *raw = xcalloc(clusters, q->cluster_size);
    int r = qcow2_take(q, clusters, off);

    for (uint32_t i = 0; i < q->h.l1_size; i++)
        be64_put(raw + i * 8ull, q->l1[i] & ~QCOW2_COPIED);
    return r < 0 ? r : hostfile_write(q->file, *off, raw, clusters << q->cluster_bits);
}

static int add(struct qcow2 *q, struct qcow2_snapshot *s) {
    uint32_t n = q->h.snapshot_count;
    struct qcow2_snapshot *list = xcalloc(n + 1, sizeof(*list));
    int r = walk_l1(q, WALK_LOOK, q->l1, q->h.l1_size);

    if (r == 0)
        r = copy_l1(q, &s->l1_offset);
    if (r == 0)
        r = walk_l1(q, WALK_ADD, q->l1, q->h.l1_size);
    if (r == 0)
        r = refresh_flags(q);
    if (n)
        memcpy(list, q->snapshots, n * sizeof(*list));
    list[n] = *s;
    if (r == 0)
        r = write_table(q, list, n + 1);
    if (r < 0) {
        free(list);
        return r;
    }
    free(q->snapshots);
    q->snapshots = list;
    return 0;
}

static int create_snapshot(struct volume *v, const char *name, struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    struct qcow2_snapshot s;
    int r;

    if (!*name || strlen(name) > UINT16_MAX)
        return err_set(e, 0, "a snapshot's name has 1 to 65535 bytes");
    if (find(q, name))
        return err_set(e, 0, "there is a snapshot '%s' already", name);
    if (q->h.snapshot_count == QCOW2_SNAPSHOTS_MAX)
        return err_set(e, 0, "there are %u snapshots, which is the most", QCOW2_SNAPSHOTS_MAX);
    s = describe(q, name);
    r = begin(q);
    if (r == 0)
        r = add(q, &s);
    if (r < 0)
        free_one(&s);
    return end(q, r, "create", name, e);
}

/* The active table becomes a copy of a snapshot's. What the guest sees must be large enough. */
static int take_over(struct qcow2 *q, const struct qcow2_snapshot *s) {
    uint32_t n = MIN(s->l1_size, q->h.l1_size);
    cleanup_free uint64_t *l1 = xcalloc(q->h.l1_size, 8);
    cleanup_free uint64_t *old = xcalloc(q->h.l1_size, 8);
    int r = qcow2_l1_read(q, s->l1_offset, n, l1);

    if (r == 0)
        r = walk_l1(q, WALK_LOOK, l1, n);
    if (r == 0)
        r = walk_l1(q, WALK_ADD, l1, n);
    if (r < 0)
        return r;
    memcpy(old, q->l1, q->h.l1_size * 8ull);
    memcpy(q->l1, l1, q->h.l1_size * 8ull);
    for (uint32_t i = 0; i < q->h.l1_size; i++)
        q->l1[i] &= ~QCOW2_COPIED;
    q->l1_from = 0;
    q->l1_to = q->h.l1_size;
    r = qcow2_sync(q);
    if (r == 0)
        r = walk_l1(q, WALK_DROP, old, q->h.l1_size);
    if (r == 0)
        r = drop_all(q);
    return r < 0 ? r : refresh_flags(q);
}

static int apply_snapshot(struct volume *v, const char *name, struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    struct qcow2_snapshot *s = need(q, name, e);
    int r;

    if (!s)
        return -1;
    if (s->s.disk_size != q->h.size)
        return err_set(e, 0, "snapshot '%s' is of a disk of %" PRIu64 " bytes; resize it first",
                       name, s->s.disk_size);
    r = begin(q);
    if (r == 0)
        r = take_over(q, s);
    return end(q, r, "apply", name, e);
}

static int take_out(struct qcow2 *q, uint32_t i) {
    struct qcow2_snapshot s = q->snapshots[i];
    uint32_t n = q->h.snapshot_count;
    struct qcow2_snapshot *list = xcalloc(n, sizeof(*list));
    cleanup_free uint64_t *l1 = xcalloc(s.l1_size, 8);
    int r = qcow2_l1_read(q, s.l1_offset, s.l1_size, l1);

    memcpy(list, q->snapshots, i * sizeof(*list));
    memcpy(list + i, q->snapshots + i + 1, (n - 1 - i) * sizeof(*list));
    if (r == 0)
        r = write_table(q, list, n - 1);
    if (r < 0) {
        free(list);
        return r;
    }
    free(q->snapshots);
    q->snapshots = list;
    free_one(&s);
    r = walk_l1(q, WALK_DROP, l1, s.l1_size);
    qcow2_drop_later(q, s.l1_offset >> q->cluster_bits, qcow2_clusters(q, s.l1_size * 8ull));
    if (r == 0)
        r = drop_all(q);
    return r < 0 ? r : refresh_flags(q);
}

static int remove_snapshot(struct volume *v, const char *name, struct err *e) {
    struct qcow2 *q = qcow2_of(v);
    struct qcow2_snapshot *s = need(q, name, e);
    int r;

    if (!s)
        return -1;
    r = begin(q);
    if (r == 0)
        r = take_out(q, (uint32_t)(s - q->snapshots));
    return end(q, r, "delete", name, e);
}

const struct volume_snapshot_ops qcow2_snapshot_ops = {
    .list = list_snapshots,
    .create = create_snapshot,
    .apply = apply_snapshot,
    .remove = remove_snapshot,
};

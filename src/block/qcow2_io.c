/* SPDX-License-Identifier: Apache-2.0 */
/* Reading, writing, zeroes and discards, with tables looked at and changed under the lock and data
 * moved without it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/util.h"
#include "block/qcow2.h"
#include "block/table_cache.h"

#define FREED_MANY 1024u /* references to be dropped before it is done without a flush */

/* --- reading --- */

static int read_run(struct qcow2 *q, const struct qcow2_run *run, uint64_t off, struct span s) {
    switch (run->state) {
    case QCOW2_ABSENT:
        return volume_readv_padded(q->v.backing, off, s, run->len);
    case QCOW2_ZEROES:
        iov_fill(s.iov, s.count, s.skip, 0, run->len);
        return 0;
    case QCOW2_DATA:
        return hostfile_readv(q->file, run->host, s, run->len);
    case QCOW2_PACKED:
        return qcow2_unpack(q, run->entry, (uint32_t)(off & (q->cluster_size - 1)), s, run->len);
    }
    return -EINVAL;
}

/* With `gate` held. */
static int read_all(struct qcow2 *q, uint64_t off, struct span s, uint64_t len) {
    int r = 0;

    for (uint64_t done = 0; done < len && r == 0;) {
        struct qcow2_run run = {0};

        pthread_mutex_lock(&q->lock);
        r = qcow2_lookup(q, off + done, len - done, &run);
        pthread_mutex_unlock(&q->lock);
        if (r == 0)
            r = read_run(q, &run, off + done, span_from(s, done));
        done += run.len;
    }
    return r;
}

int qcow2_readv(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    struct qcow2 *q = qcow2_of(v);
    int r;

    pthread_rwlock_rdlock(&q->gate);
    r = read_all(q, off, s, len);
    pthread_rwlock_unlock(&q->gate);
    return r;
}

/* --- allocating --- */

static const struct qcow2_alloc *allocating_at(const struct qcow2 *q, uint64_t first,
                                               uint64_t count) {
    const struct qcow2_alloc *a = q->allocating;

    while (a && (first >= a->first + a->count || a->first >= first + count))
        a = a->next;
    return a;
}

void qcow2_wait_allocating(struct qcow2 *q, uint64_t first, uint64_t count) {
    while (allocating_at(q, first, count))
        pthread_cond_wait(&q->allocated, &q->lock);
}

static void end_alloc(struct qcow2 *q, struct qcow2_alloc *a) {
    struct qcow2_alloc **at = &q->allocating;

    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    pthread_cond_broadcast(&q->allocated);
}

/* Whether an entry's host cluster is this image's alone, to be written to as it is. */
static bool owned(struct qcow2_entry entry) {
    return entry.cluster & QCOW2_COPIED && !(entry.cluster & QCOW2_COMPRESSED) &&
           entry.cluster & QCOW2_OFFSET;
}

/* Whether there is data in it that a new host cluster must be given. */
static bool has_data(const struct qcow2 *q, struct qcow2_entry entry) {
    return entry.cluster & (QCOW2_COMPRESSED | QCOW2_OFFSET) &&
           (q->subs > 1 || !(entry.cluster & QCOW2_ZERO));
}

static struct qcow2_entry entry_of(const struct qcow2 *q, const uint8_t *l2, uint64_t cluster) {
    return l2 ? qcow2_entry_get(q, l2, qcow2_l2_index(q, cluster)) : (struct qcow2_entry){0};
}

/* How many clusters from `first` on, up to `max`, of one L2 table, want a new host cluster. */
static uint64_t count_new(struct qcow2 *q, const uint8_t *l2, uint64_t first, uint64_t max) {
    uint64_t n = 1;

    max = MIN(max, q->entries - first % q->entries);
    while (n < max && !owned(entry_of(q, l2, first + n)) && !allocating_at(q, first + n, 1))
        n++;
    return n;
}

/* The bytes that are going to be data: the request's, made up to what is allocated at a time. */
static void set_range(const struct qcow2 *q, struct qcow2_alloc *a, uint64_t off, uint64_t end) {
    a->off = align_down(off, a->moved_first ? q->cluster_size : q->sub_size);
    a->end = align_up(end, a->moved_last ? q->cluster_size : q->sub_size);
}

/*
 * Starts writing to clusters that have no host cluster to write to. `*len` becomes what this
 * covers of the request.
 */
static int begin_new(struct qcow2 *q, const uint8_t *l2, uint64_t off, uint64_t *len,
                     struct qcow2_alloc *a) {
    uint64_t first = qcow2_cluster_of(q, off), last = qcow2_cluster_of(q, off + *len - 1);
    uint64_t want = count_new(q, l2, first, last - first + 1), host, end;
    struct qcow2_entry head = entry_of(q, l2, first), tail;
    int r;

    r = qcow2_find_free(q, want, 1, &host, &a->count, &a->fresh);
    if (r < 0)
        return r;
    a->first = first;
    a->host = host << q->cluster_bits;
    tail = entry_of(q, l2, first + a->count - 1);
    a->moved_first = has_data(q, head);
    a->moved_last = has_data(q, tail);
    end = MIN(off + *len, (first + a->count) << q->cluster_bits);
    set_range(q, a, off, end);
    *len = end - off;
    return 0;
}

/* The same in a host cluster that is there, but does not hold the subclusters yet. */
static void begin_reuse(const struct qcow2 *q, struct qcow2_entry entry, uint64_t off,
                        uint64_t *len, struct qcow2_alloc *a) {
    uint64_t end = MIN(off + *len, align_down(off, q->cluster_size) + q->cluster_size);

    a->first = qcow2_cluster_of(q, off);
    a->count = 1;
    a->host = entry.cluster & QCOW2_OFFSET;
    a->reuse = true;
    *len = end - off;
    set_range(q, a, off, end);
}

/* What has to be there besides what is written: [from, to) of the guest's. */
static int fill(struct qcow2 *q, const struct qcow2_alloc *a, uint64_t from, uint64_t to) {
    uint64_t host = a->host + (from - (a->first << q->cluster_bits));
    cleanup_free uint8_t *buf = NULL;
    struct qcow2_run run = {0};
    bool zero;
    int r;

    if (from >= to)
        return 0;
    pthread_mutex_lock(&q->lock);
    r = qcow2_lookup(q, from, to - from, &run);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    /* In a cluster of our own, what is data is in place. */
    if (a->reuse && run.state == QCOW2_DATA && run.host == host)
        return fill(q, a, from + run.len, to);
    zero = run.state == QCOW2_ZEROES ||
           (run.state == QCOW2_ABSENT && (!q->v.backing || from >= q->v.backing->size));
    if (zero) {
        r = a->fresh ? 0 : hostfile_zero(q->file, host, run.len, false);
    } else {
        buf = xcalloc(1, run.len);
        r = read_run(q, &run, from, SPAN(buf, run.len));
        if (r == 0)
            r = hostfile_write(q->file, host, buf, run.len);
    }
    return r < 0 ? r : fill(q, a, from + run.len, to);
}

static uint64_t sub_mask(const struct qcow2 *q, const struct qcow2_alloc *a, uint64_t cluster) {
    uint64_t start = cluster << q->cluster_bits, end = start + q->cluster_size;
    uint64_t from = (MAX(a->off, start) - start) / q->sub_size;
    uint64_t to = (MIN(a->end, end) - start) / q->sub_size;

    return (1ull << to) - (1ull << from);
}

static void link_one(struct qcow2 *q, const struct qcow2_alloc *a, uint8_t *l2, uint64_t cluster) {
    uint32_t i = qcow2_l2_index(q, cluster);
    struct qcow2_entry old = qcow2_entry_get(q, l2, i), new;
    uint64_t host = a->host + ((cluster - a->first) << q->cluster_bits), first;

    new = (struct qcow2_entry){host | QCOW2_COPIED, 0};
    if (q->subs > 1) {
        uint64_t mask = sub_mask(q, a, cluster);

        new.subs = old.cluster &QCOW2_COMPRESSED ? 0 : old.subs;
        new.subs = (new.subs | mask) & ~(mask << 32);
    }
    qcow2_entry_put(q, l2, i, new);
    if (!a->reuse) {
        uint64_t count = qcow2_entry_clusters(q, old.cluster, &first);

        qcow2_drop_later(q, first, count);
    }
}

/* The data is in place: lets the tables lead to it. */
static int link(struct qcow2 *q, const struct qcow2_alloc *a) {
    uint64_t host = a->host >> q->cluster_bits, l2_off;
    uint8_t *l2;
    int r = qcow2_l2_for_write(q, a->first, &l2, &l2_off);

    if (r == 0 && !a->reuse)
        r = qcow2_ref_add(q, host, a->count, 1);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < a->count; i++)
        link_one(q, a, l2, a->first + i);
    table_cache_changed(q->l2s, l2_off, qcow2_l2_index(q, a->first) * q->entry_size,
                        (uint32_t)a->count * q->entry_size);
    return 0;
}

static int write_allocated(struct qcow2 *q, struct qcow2_alloc *a, uint64_t off, struct span s,
                           uint64_t len) {
    uint64_t within = off - (a->first << q->cluster_bits);
    int r = fill(q, a, a->off, off);

    if (r == 0)
        r = fill(q, a, off + len, a->end);
    if (r == 0)
        r = hostfile_writev(q->file, a->host + within, s, len);
    pthread_mutex_lock(&q->lock);
    if (a->moved_first || a->moved_last || a->off < off || off + len < a->end)
        q->barrier = true;
    if (r == 0)
        r = link(q, a);
    end_alloc(q, a);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* --- writing --- */

/* What is known of a cluster that nobody is allocating; with `lock` held. */
static int entry_to_change(struct qcow2 *q, uint64_t cluster, uint8_t **l2,
                           struct qcow2_entry *entry) {
    int r;

    if (q->broken)
        return -EIO;
    qcow2_wait_allocating(q, cluster, 1);
    r = qcow2_l2_get(q, cluster, l2);
    if (r < 0)
        return r;
    *entry = entry_of(q, *l2, cluster);
    return 0;
}

/* Where to write; with `lock` held. `a->count` stays 0 when it is in place at `*host`. */
static int plan(struct qcow2 *q, uint64_t off, uint64_t *len, uint64_t *host,
                struct qcow2_alloc *a) {
    uint64_t cluster = qcow2_cluster_of(q, off);
    struct qcow2_entry entry;
    struct qcow2_run run;
    uint8_t *l2;
    int r;

    r = entry_to_change(q, cluster, &l2, &entry);
    if (r < 0)
        return r;
    if (!l2 || !(q->l1[cluster / q->entries] & QCOW2_COPIED) || !owned(entry)) {
        r = begin_new(q, l2, off, len, a);
    } else {
        r = qcow2_lookup(q, off, *len, &run);
        if (r == 0 && run.state == QCOW2_DATA) {
            uint64_t in_cluster = q->cluster_size - (off & (q->cluster_size - 1));

            /* The clusters behind this one may have a snapshot's data. */
            while (in_cluster < run.len &&
                   owned(entry_of(q, l2, qcow2_cluster_of(q, off + in_cluster))) &&
                   !allocating_at(q, qcow2_cluster_of(q, off + in_cluster), 1))
                in_cluster += q->cluster_size;
            *len = MIN(run.len, in_cluster);
            *host = run.host;
            return 0;
        }
        begin_reuse(q, entry, off, len, a);
    }
    if (r == 0) {
        a->next = q->allocating;
        q->allocating = a;
    }
    return r;
}

static int write_some(struct qcow2 *q, uint64_t off, struct span s, uint64_t *len) {
    struct qcow2_alloc a = {0};
    uint64_t host = 0;
    int r;

    pthread_mutex_lock(&q->lock);
    r = plan(q, off, len, &host, &a);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    return a.count ? write_allocated(q, &a, off, s, *len) : hostfile_writev(q->file, host, s, *len);
}

static int write_all(struct qcow2 *q, uint64_t off, struct span s, uint64_t len) {
    int r = 0;

    for (uint64_t done = 0, n; done < len && r == 0; done += n) {
        n = len - done;
        r = write_some(q, off + done, span_from(s, done), &n);
    }
    return r;
}

/* Alone, drops references; `gate` is not held. */
static int drop_freed(struct qcow2 *q, bool sync) {
    int r = 0;

    pthread_rwlock_wrlock(&q->gate);
    pthread_mutex_lock(&q->lock);
    if (sync)
        r = qcow2_sync(q);
    if (r == 0)
        r = qcow2_drop_ripe(q);
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    return r;
}

static int end_change(struct qcow2 *q, int r) {
    bool many;

    pthread_mutex_lock(&q->lock);
    many = q->freed_count > FREED_MANY;
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    /* When that fails they stay where they are, and the next flush says so. */
    if (many)
        drop_freed(q, true);
    return r;
}

int qcow2_writev(struct volume *v, uint64_t off, struct span s, uint64_t len) {
    struct qcow2 *q = qcow2_of(v);

    pthread_rwlock_rdlock(&q->gate);
    return end_change(q, write_all(q, off, s, len));
}

int qcow2_flush(struct volume *v) {
    struct qcow2 *q = qcow2_of(v);
    bool ripe;
    int r;

    pthread_rwlock_rdlock(&q->gate);
    pthread_mutex_lock(&q->lock);
    r = qcow2_sync(q);
    ripe = q->freed_ripe;
    pthread_mutex_unlock(&q->lock);
    pthread_rwlock_unlock(&q->gate);
    return r == 0 && ripe ? drop_freed(q, false) : r;
}

/* --- zeroes and discards --- */

enum clear { DISCARD, ZERO, ZERO_UNMAP };

/* What a cleared cluster's entry becomes; false where version 2 cannot say it. */
static bool cleared(const struct qcow2 *q, struct qcow2_entry old, enum clear how,
                    struct qcow2_entry *new) {
    bool keep = how == ZERO && owned(old), absent_is_zero = !q->v.backing_name;

    *new = (struct qcow2_entry){0};
    if (absent_is_zero && !keep)
        return true;
    if (q->h.version < 3)
        return false;
    if (keep)
        new->cluster = old.cluster &(QCOW2_OFFSET | QCOW2_COPIED);
    if (q->subs > 1)
        new->subs = ~0ull << 32;
    else
        new->cluster |= QCOW2_ZERO;
    return true;
}

/* One whole cluster, with `lock` held. 1: it has to be written. */
static int clear_cluster(struct qcow2 *q, uint64_t cluster, enum clear how) {
    uint32_t i = qcow2_l2_index(q, cluster);
    struct qcow2_entry old, new;
    uint64_t first, count, l2_off;
    uint8_t *l2;
    int r;

    r = entry_to_change(q, cluster, &l2, &old);
    if (r < 0)
        return r;
    if (!cleared(q, old, how, &new))
        return 1;
    if (old.cluster == new.cluster && old.subs == new.subs)
        return 0;
    r = qcow2_l2_for_write(q, cluster, &l2, &l2_off);
    if (r < 0)
        return r;
    qcow2_entry_put(q, l2, i, new);
    table_cache_changed(q->l2s, l2_off, i * q->entry_size, q->entry_size);
    count = qcow2_entry_clusters(q, old.cluster, &first);
    if (!(new.cluster &QCOW2_OFFSET))
        qcow2_drop_later(q, first, count);
    return 0;
}

/* A part that is no whole cluster: zeroes where there is something else. */
static int write_zeroes(struct qcow2 *q, uint64_t off, uint64_t len) {
    struct qcow2_run run;
    int r;

    pthread_mutex_lock(&q->lock);
    qcow2_wait_allocating(q, qcow2_cluster_of(q, off), 1);
    r = qcow2_lookup(q, off, len, &run);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    if (run.len == len &&
        (run.state == QCOW2_ZEROES || (run.state == QCOW2_ABSENT && !q->v.backing_name)))
        return 0;
    cleanup_free uint8_t *zeroes = xcalloc(1, len);
    return write_all(q, off, SPAN(zeroes, len), len);
}

static int clear_all(struct qcow2 *q, uint64_t off, uint64_t len, enum clear how) {
    uint64_t end = off + len;
    int r = 0;

    while (off < end && r >= 0) {
        uint64_t cluster = qcow2_cluster_of(q, off), start = cluster << q->cluster_bits;
        uint64_t stop = MIN(end, start + q->cluster_size);
        /* The disk's last cluster may be larger than the disk. */
        bool whole = off == start && (stop == start + q->cluster_size || stop == q->v.size);

        r = 1;
        if (whole) {
            pthread_mutex_lock(&q->lock);
            r = clear_cluster(q, cluster, how);
            pthread_mutex_unlock(&q->lock);
        }
        if (r == 1)
            r = how == DISCARD ? 0 : write_zeroes(q, off, stop - off);
        off = stop;
    }
    return r;
}

int qcow2_zero(struct volume *v, uint64_t off, uint64_t len, bool unmap) {
    struct qcow2 *q = qcow2_of(v);

    pthread_rwlock_rdlock(&q->gate);
    return end_change(q, clear_all(q, off, len, unmap ? ZERO_UNMAP : ZERO));
}

int qcow2_discard(struct volume *v, uint64_t off, uint64_t len) {
    struct qcow2 *q = qcow2_of(v);

    pthread_rwlock_rdlock(&q->gate);
    return end_change(q, clear_all(q, off, len, DISCARD));
}

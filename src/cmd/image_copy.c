/* SPDX-License-Identifier: Apache-2.0 */
/* rf image's verbs that move data: convert, compare, measure, commit, rebase. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/thread.h"
#include "base/util.h"
#include "block/hostfile.h"
#include "cmd/image.h"
#include "domain/domain.h"

#define CHUNK (2u << 20) /* moved at a time; a multiple of each cluster size */
#define ZERO_BLOCK 4096u /* zeroes that are left out of a raw file */
#define THREADS 4u

static bool all_zero(const uint8_t *p, size_t len) {
    return !len || (!p[0] && memcmp(p, p + 1, len - 1) == 0);
}

/* --- convert --- */

struct copy {
    struct volume *from, *to;
    bool compress;
    uint32_t block; /* all of it zeroes: left out */
    atomic_uint_fast64_t next, done;
    atomic_int result;
};

static int write_stretch(const struct copy *c, uint64_t off, const uint8_t *p, size_t len) {
    return volume_write(c->to, off, p, len);
}

/* Blocks of zeroes are left out; what is between them is written at once. */
static int write_sparse(const struct copy *c, uint64_t off, const uint8_t *p, size_t len) {
    size_t start = 0;
    int r = 0;

    for (size_t at = 0; at < len && r == 0; at += c->block) {
        size_t n = MIN((size_t)c->block, len - at);

        if (!all_zero(p + at, n))
            continue;
        if (at > start)
            r = write_stretch(c, off + start, p + start, at - start);
        start = at + n;
    }
    return r == 0 && start < len ? write_stretch(c, off + start, p + start, len - start) : r;
}

/* `p` has room up to the end of the last cluster. */
static int write_packed(const struct copy *c, uint64_t off, uint8_t *p, size_t len) {
    int r = 0;

    memset(p + len, 0, align_up(len, c->block) - len);
    for (size_t at = 0; at < len && r == 0; at += c->block)
        if (!all_zero(p + at, c->block))
            r = c->to->ops->write_compressed(c->to, off + at, p + at);
    return r;
}

/* Whether there is nothing but zeroes in a range, as far as the tables say. */
static int known_zero(struct volume *v, uint64_t off, uint64_t len, bool *zero) {
    struct volume_extent x = {0};
    int r = 0;

    *zero = true;
    for (uint64_t at = off; at < off + len && *zero && r == 0; at += x.len) {
        r = volume_chain_extent(v, at, off + len - at, &x, NULL);
        *zero = x.kind == VOLUME_ZERO;
    }
    return r;
}

static int copy_chunk(const struct copy *c, uint64_t off, uint8_t *buf) {
    uint64_t len = MIN((uint64_t)CHUNK, c->from->size - off);
    bool zero = false;
    int r = known_zero(c->from, off, len, &zero);

    if (r < 0 || zero)
        return r;
    r = volume_read(c->from, off, buf, len);
    if (r < 0)
        return r;
    return c->compress ? write_packed(c, off, buf, len) : write_sparse(c, off, buf, len);
}

static void *copier(void *arg) {
    struct copy *c = arg;
    cleanup_free uint8_t *buf = xcalloc(1, CHUNK);
    uint64_t off;

    while (c->result == 0 && (off = atomic_fetch_add(&c->next, CHUNK)) < c->from->size) {
        int r = copy_chunk(c, off, buf);

        if (r < 0)
            c->result = r;
        c->done += CHUNK;
    }
    return NULL;
}

static int run_copy(struct copy *c, const char *what) {
    pthread_t threads[THREADS];
    unsigned n = 0;
    const struct timespec tick = {.tv_nsec = 20000000};

    while (n < (c->to->sequential ? 1 : THREADS) &&
           thread_start(&threads[n], "copy", copier, c) == 0)
        n++;
    if (!n)
        copier(c);
    while (isatty(STDERR_FILENO) && c->result == 0 && c->done < c->from->size) {
        imgcmd_progress(what, c->done, c->from->size);
        nanosleep(&tick, NULL);
    }
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    imgcmd_progress_end();
    return c->result;
}

/* A device may hold anything; a file of ours is all zeroes. */
static int blank(struct volume *v) {
    return v->file->is_device ? v->ops->zero(v, 0, v->size, true) : 0;
}

static int convert(const struct imgcmd_args *a, struct volume *from, struct volume *to,
                   struct err *e) {
    struct copy c = {
        .from = from,
        .to = to,
        .compress = a->compress,
        .block = to->cluster ? to->cluster : ZERO_BLOCK,
    };
    int r = blank(to);

    if (a->compress && !to->ops->write_compressed)
        return err_set(e, 0, "a %s image cannot be compressed", to->format->name);
    if (r == 0)
        r = run_copy(&c, "converting");
    if (r == 0 && !to->format->probe)
        r = to->ops->flush(to);
    return r < 0 ? err_set(e, -r, "%s to %s", a->files[0], a->files[1]) : 0;
}

/* Converts to a file that may be overwritten. */
static int convert_to(const struct imgcmd_args *a, const char *path, struct volume *from,
                      struct err *e) {
    const struct volume_options o = {.format = a->output ? a->output : &volume_qcow2};
    struct volume_create c = a->create;
    struct volume *to;
    int r, closed;

    c.size = from->size;
    c.force = true;
    c.name = a->files[1];
    c.keep_others = !a->force;
    if (volume_create(path, o.format, &c, e) < 0)
        return -1;
    to = volume_open(path, &o, e);
    r = to ? convert(a, from, to, e) : -1;
    if (to && r < 0 && to->ops->remove_others)
        to->ops->remove_others(to);
    closed = volume_close(to);
    if (r == 0 && closed < 0)
        r = err_set(e, -closed, "%s", path);
    return r;
}

/* Whether what is there may be replaced: the user says so, and nobody uses it. */
static int may_replace(const struct imgcmd_args *a, const char *path, struct err *e) {
    const struct hostfile_options o = {.read_only = false};
    struct hostfile *file;

    if (access(path, F_OK) < 0)
        return 0;
    if (!a->force)
        return err_set(e, 0, "%s: is there already; --force overwrites it", path);
    file = hostfile_open(path, &o, e);
    hostfile_close(file);
    return file ? 0 : -1;
}

static bool is_device(const char *path) {
    struct stat st;

    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

/* A file takes its name when it is whole: until then, what had the name stays. */
int imgcmd_convert(const struct imgcmd_args *a, struct err *e) {
    cleanup_free char *real = realpath(a->files[1], NULL); /* where a link leads to */
    const char *path = real ? real : a->files[1];
    cleanup_free char *part = xasprintf("%s.%ld.part", path, (long)getpid());
    struct volume *from = imgcmd_open(a, 0, true, e);
    int r = from ? may_replace(a, path, e) : -1;

    if (r == 0 && is_device(path)) {
        r = convert_to(a, path, from, e);
    } else if (r == 0) {
        r = convert_to(a, part, from, e);
        if (r == 0 && rename(part, path) < 0)
            r = err_set(e, errno, "rename %s to %s", part, path);
        if (r < 0)
            unlink(part);
    }
    volume_close(from);
    return r;
}

/* --- compare --- */

static int compare_at(struct volume *x, struct volume *y, uint64_t off, uint8_t *buf, size_t len,
                      uint64_t *differs) {
    bool zero_x = false, zero_y = false;
    int r = off < x->size ? known_zero(x, off, MIN(len, x->size - off), &zero_x) : 0;

    if (r == 0 && off < y->size)
        r = known_zero(y, off, MIN(len, y->size - off), &zero_y);
    if (r < 0 || (zero_x && zero_y))
        return r;
    r = volume_readv_padded(x, off, SPAN(buf, len), len);
    if (r == 0)
        r = volume_readv_padded(y, off, SPAN(buf + CHUNK, len), len);
    for (size_t i = 0; r == 0 && memcmp(buf, buf + CHUNK, len) != 0 && i < len; i++)
        if (buf[i] != buf[CHUNK + i]) {
            *differs = off + i;
            return 1;
        }
    return r;
}

int imgcmd_compare(const struct imgcmd_args *a, struct err *e) {
    struct volume *x = imgcmd_open(a, 0, true, e), *y = NULL;
    cleanup_free uint8_t *buf = xcalloc(2, CHUNK);
    uint64_t size, differs = 0;
    int r = 0;

    if (x) {
        struct imgcmd_args second = *a;

        second.format = a->output;
        y = imgcmd_open(&second, 1, true, e);
    }
    size = x && y ? MAX(x->size, y->size) : 0;
    for (uint64_t off = 0; off < size && r == 0; off += CHUNK) {
        imgcmd_progress("comparing", off, size);
        r = compare_at(x, y, off, buf, MIN((uint64_t)CHUNK, size - off), &differs);
    }
    imgcmd_progress_end();
    if (r < 0)
        err_set(e, -r, "compare");
    else if (r > 0)
        printf("the contents differ at offset %" PRIu64 "\n", differs);
    else if (y)
        printf("the contents are the same%s\n",
               x->size == y->size ? "" : "; the larger disk ends with zeroes");
    r = !x || !y ? -1 : r;
    volume_close(x);
    volume_close(y);
    return r > 0 ? STATUS_FAILED : r;
}

/* --- measure --- */

static int data_bytes(struct volume *v, uint64_t *data) {
    struct volume_extent x = {0};
    int r = 0;

    for (uint64_t off = 0; off < v->size && r == 0; off += x.len) {
        r = volume_chain_extent(v, off, v->size - off, &x, NULL);
        *data += x.kind == VOLUME_ZERO ? 0 : x.len;
    }
    return r;
}

int imgcmd_measure(const struct imgcmd_args *a, struct err *e) {
    const struct volume_format *f = a->output ? a->output : &volume_qcow2;
    struct volume_create c = a->create;
    struct volume *v = a->count ? imgcmd_open(a, 0, true, e) : NULL;
    uint64_t data = 0, required = 0, full = 0;
    int r = 0;

    if (a->count && !v)
        return -1;
    if (!v && !c.size)
        return err_set(e, 0, "measure: FILE or --size SIZE");
    if (v) {
        c.size = v->size;
        r = data_bytes(v, &data);
        if (r < 0)
            err_set(e, -r, "%s", a->files[0]);
    }
    volume_close(v);
    if (r == 0 && !f->measure)
        r = err_set(e, 0, "how large a %s image gets is not known", f->name);
    if (r < 0 || !f->measure || f->measure(&c, data, &required, &full, e) < 0)
        return -1;
    if (a->json)
        printf("{\"required\": %" PRIu64 ", \"fully_allocated\": %" PRIu64 "}\n", required, full);
    else
        printf("required         %" PRIu64 "\nfully allocated  %" PRIu64 "\n", required, full);
    return 0;
}

/* --- commit --- */

static int commit_extent(struct volume *v, struct volume *base, uint64_t off,
                         const struct volume_extent *x, uint8_t *buf) {
    int r;

    if (x->kind == VOLUME_ABSENT)
        return 0;
    if (x->kind == VOLUME_ZERO)
        return base->ops->zero(base, off, x->len, true);
    r = volume_read(v, off, buf, x->len);
    return r < 0 ? r : volume_write(base, off, buf, x->len);
}

static int commit_all(struct volume *v, struct volume *base, struct err *e) {
    cleanup_free uint8_t *buf = xcalloc(1, CHUNK);
    struct volume_extent x = {0};
    int r = 0;

    if (base->size < v->size && !base->ops->resize)
        return err_set(e, 0, "a %s image cannot change its size", base->format->name);
    if (base->size < v->size && base->ops->resize(base, v->size, e) < 0)
        return -1;
    for (uint64_t off = 0; off < v->size && r == 0; off += x.len) {
        imgcmd_progress("committing", off, v->size);
        r = v->ops->extent(v, off, MIN((uint64_t)CHUNK, v->size - off), &x);
        if (r == 0)
            r = commit_extent(v, base, off, &x, buf);
    }
    imgcmd_progress_end();
    if (r == 0)
        r = base->ops->flush(base);
    return r < 0 ? err_set(e, -r, "commit") : 0;
}

int imgcmd_commit(const struct imgcmd_args *a, struct err *e) {
    const struct volume_options top = {.format = a->format, .read_only = true, .no_backing = true};
    struct volume *v = volume_open(a->files[0], &top, e), *base = NULL;
    struct volume_options below = {0};
    cleanup_free char *path = NULL;
    int r = -1, closed;

    if (v && !v->backing_name)
        err_set(e, 0, "%s: there is no backing file", a->files[0]);
    else if (v && !v->backing_format)
        err_set(e, 0, "%s: the backing file's format is not recorded", a->files[0]);
    else if (v)
        below.format = volume_format_find(v->backing_format, e);
    if (below.format) {
        path = volume_relative(a->files[0], v->backing_name);
        base = volume_open(path, &below, e);
    }
    if (base)
        r = commit_all(v, base, e);
    closed = volume_close(base);
    volume_close(v);
    return r == 0 && closed < 0 ? err_set(e, -closed, "%s", path) : r;
}

/* --- rebase --- */

/* What the image does not have itself, and the new backing file has not or otherwise, it gets. */
static int rebase_chunk(struct volume *v, struct volume *base, uint64_t off, uint64_t len,
                        uint8_t *buf) {
    int r = volume_readv_padded(v->backing, off, SPAN(buf, len), len);

    if (r == 0)
        r = volume_readv_padded(base, off, SPAN(buf + CHUNK, len), len);
    if (r < 0 || memcmp(buf, buf + CHUNK, len) == 0)
        return r;
    return volume_write(v, off, buf, len);
}

static int rebase_all(struct volume *v, struct volume *base, struct err *e) {
    cleanup_free uint8_t *buf = xcalloc(2, CHUNK);
    struct volume_extent x = {0};
    int r = 0;

    for (uint64_t off = 0; off < v->size && r == 0; off += x.len) {
        uint64_t room = v->cluster ? v->cluster - off % v->cluster : CHUNK;

        imgcmd_progress("rebasing", off, v->size);
        r = v->ops->extent(v, off, MIN(room, v->size - off), &x);
        if (r == 0 && x.kind == VOLUME_ABSENT)
            r = rebase_chunk(v, base, off, x.len, buf);
    }
    imgcmd_progress_end();
    if (r == 0)
        r = v->ops->flush(v);
    return r < 0 ? err_set(e, -r, "rebase") : 0;
}

/* A chain that would come back to the image itself must not be made. */
static struct volume *open_new_base(const struct imgcmd_args *a, struct err *e) {
    cleanup_free char *path = volume_relative(a->files[0], a->backing);
    const struct volume_options o = {.format = a->backing_format, .read_only = true};

    if (!a->backing_format) {
        err_set(e, 0, "the backing file's format must be given: --backing-format");
        return NULL;
    }
    return volume_open(path, &o, e);
}

int imgcmd_rebase(const struct imgcmd_args *a, struct err *e) {
    const struct volume_options o = {.format = a->format, .no_backing = a->unsafe};
    struct volume *v = volume_open(a->files[0], &o, e), *base = NULL;
    bool named = a->backing && *a->backing;
    int r = v ? 0 : -1, closed;

    if (r == 0 && !v->ops->set_backing)
        r = err_set(e, 0, "%s: a %s image has no backing file", a->files[0], v->format->name);
    if (r == 0 && named) {
        base = open_new_base(a, e);
        r = base ? 0 : -1;
    }
    if (r == 0 && !a->unsafe && v->backing)
        r = rebase_all(v, base, e);
    if (r == 0 && v->ops->set_backing)
        r = v->ops->set_backing(v, named ? a->backing : NULL,
                                named ? a->backing_format->name : NULL, e);
    if (r < 0)
        err_wrap(e, "%s", a->files[0]);
    volume_close(base);
    closed = volume_close(v);
    return r == 0 && closed < 0 ? err_set(e, -closed, "%s", a->files[0]) : r;
}

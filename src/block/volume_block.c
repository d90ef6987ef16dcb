/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's disk on a volume: each request is one call, on a thread of a pool. */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "block/pool.h"
#include "block/volume.h"

#define THREADS 4

struct volume_block {
    struct block b;
    struct volume *v;
    struct block_pool *pool;
    struct log_limit limit;
};

static struct volume_block *of_block(struct block *b) {
    return container_of(b, struct volume_block, b);
}

static int do_request(struct volume *v, const struct block_req *r) {
    const struct span s = {r->iov, r->iov_count, 0};

    switch (r->op) {
    case BLOCK_READ:
        return v->ops->readv(v, r->off, s, r->len);
    case BLOCK_WRITE:
        return v->ops->writev(v, r->off, s, r->len);
    case BLOCK_FLUSH:
        return v->read_only ? 0 : v->ops->flush(v);
    case BLOCK_DISCARD:
        return v->ops->discard(v, r->off, r->len);
    case BLOCK_WRITE_ZEROES:
        return v->ops->zero(v, r->off, r->len, r->unmap);
    }
    return -EINVAL;
}

static int work(struct block_req *r) {
    struct volume_block *vb = of_block(r->block);
    int result = do_request(vb->v, r);

    if (result < 0)
        log_guest(&vb->limit, "%s: error %d at %#llx", vb->v->file->path, -result,
                  (unsigned long long)r->off);
    return result;
}

static void submit(struct block *b, struct block_req *r) {
    block_pool_add(of_block(b)->pool, r);
}

static void close_block(struct block *b) {
    struct volume_block *vb = of_block(b);
    cleanup_free char *path = xstrdup(vb->v->file->path);
    int r;

    block_pool_free(vb->pool);
    r = volume_close(vb->v);
    if (r < 0)
        log_error("%s: the last writes failed: error %d", path, -r);
    free(vb);
}

static const struct block_ops ops = {.name = "volume", .submit = submit, .close = close_block};

struct block *block_volume_new(struct volume *v, struct loop *l, struct err *e) {
    struct volume_block *vb = xcalloc(1, sizeof(*vb));

    vb->v = v;
    vb->b = (struct block){
        .ops = &ops,
        .loop = l,
        .info = {.size = v->size,
                 .logical_block = 512,
                 .physical_block = 4096,
                 .optimal_io = v->cluster,
                 .discard_align = v->cluster ? v->cluster : 512,
                 .read_only = v->read_only,
                 .write_cache = true},
    };
    vb->pool = block_pool_new(l, THREADS, work, e);
    if (vb->pool)
        return &vb->b;
    volume_close(v);
    free(vb);
    return NULL;
}

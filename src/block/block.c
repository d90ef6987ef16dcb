/* SPDX-License-Identifier: Apache-2.0 */
/* What every disk checks before its back end sees a request. */
#include "block/block.h"

#include <errno.h>

#include "base/util.h"

static int judge(const struct block *b, const struct block_req *r) {
    uint64_t mask = b->info.logical_block - 1;

    if (r->op == BLOCK_FLUSH)
        return 0;
    if ((r->off | r->len) & mask || !range_within(r->off, r->len, b->info.size))
        return -EINVAL;
    return r->op != BLOCK_READ && b->info.read_only ? -EROFS : 0;
}

void block_submit(struct block *b, struct block_req *r) {
    int result = judge(b, r);

    r->block = b;
    r->next = NULL;
    if (result < 0 || (r->op != BLOCK_FLUSH && !r->len))
        r->done(r, result);
    else
        b->ops->submit(b, r);
}

void block_close(struct block *b) {
    if (b)
        b->ops->close(b);
}

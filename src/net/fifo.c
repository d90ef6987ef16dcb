/* SPDX-License-Identifier: Apache-2.0 */
/* A list of frames. */
#include "net/fifo.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

struct net_fifo_entry {
    struct net_fifo_entry *next;
    struct net_offload offload;
    size_t len;
    uint8_t data[];
};

void net_fifo_put(struct net_fifo *q, const uint8_t *frame, size_t len,
                  const struct net_offload *o) {
    struct net_fifo_entry *n = xcalloc(1, sizeof(*n) + len);

    n->offload = *o;
    n->len = len;
    memcpy(n->data, frame, len);
    if (q->tail)
        q->tail->next = n;
    else
        q->head = n;
    q->tail = n;
    q->bytes += len;
}

bool net_fifo_peek(const struct net_fifo *q, struct net_frame *f, struct iovec *iov) {
    struct net_fifo_entry *n = q->head;

    if (!n)
        return false;
    *iov = (struct iovec){n->data, n->len};
    *f = (struct net_frame){.iov = iov, .iov_count = 1, .len = n->len, .offload = n->offload};
    return true;
}

void net_fifo_drop(struct net_fifo *q) {
    struct net_fifo_entry *n = q->head;

    q->head = n->next;
    if (!q->head)
        q->tail = NULL;
    q->bytes -= n->len;
    free(n);
}

void net_fifo_clear(struct net_fifo *q) {
    while (q->head)
        net_fifo_drop(q);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that do what would wait, for back ends whose host calls do. Threads are started when they
 * are needed first; requests are taken in order, and done with on the loop's thread.
 */
#ifndef RINGFENCE_BLOCK_POOL_H
#define RINGFENCE_BLOCK_POOL_H

struct block_pool;
struct block_req;
struct err;
struct loop;

/* Does a request, on a thread of the pool; returns what done() is to be told. */
typedef int block_work_fn(struct block_req *r);

struct block_pool *block_pool_new(struct loop *l, unsigned max_threads, block_work_fn *work,
                                  struct err *e);
/* On the loop's thread. */
void block_pool_add(struct block_pool *p, struct block_req *r);
/* Waits for everything, and calls what done() is left to call. The loop does not run. */
void block_pool_free(struct block_pool *p);

#endif

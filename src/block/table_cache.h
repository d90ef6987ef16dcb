/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded number of equally large tables of a file, least recently used out first, written back
 * when their owner says so. Not locked: the owner's lock covers it.
 */
#ifndef RINGFENCE_BLOCK_TABLE_CACHE_H
#define RINGFENCE_BLOCK_TABLE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hostfile;
struct table_cache;

/* Called before a table that was changed makes room for another; it must have been written (by
 * table_cache_write) when this returns 0. */
typedef int table_cache_fn(void *arg);
/* Called with each table that was read from the file, before anybody sees it; 0 or -errno. */
typedef int table_check_fn(void *arg, uint64_t off, const uint8_t *table);

struct table_cache *table_cache_new(const struct hostfile *f, uint32_t table_bytes, unsigned max,
                                    table_cache_fn *make_room, table_check_fn *check, void *arg);
void table_cache_free(struct table_cache *c); /* what is not written is lost; NULL is allowed */

/* The table at `off` of the file. Valid until the next get or make. 0 or -errno. */
int table_cache_get(struct table_cache *c, uint64_t off, uint8_t **table);
/* The same, zeroed instead of read, and changed as a whole. */
int table_cache_make(struct table_cache *c, uint64_t off, uint8_t **table);
/* Bytes [at, at + len) of the table that was got last for `off` were changed. */
void table_cache_changed(struct table_cache *c, uint64_t off, uint32_t at, uint32_t len);
bool table_cache_dirty(const struct table_cache *c);
/* Writes what was changed. What could not be written stays changed. */
int table_cache_write(struct table_cache *c);
/* Drops the table at `off`, changed or not: its place is going to be something else's. */
void table_cache_forget(struct table_cache *c, uint64_t off);
/* Drops all. */
void table_cache_empty(struct table_cache *c);

#endif

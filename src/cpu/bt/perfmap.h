/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /tmp/perf-PID.map: the file in which perf(1) looks for the names of code that is in no binary.
 * Not thread-safe; the code cache's lock is held around all of it.
 */
#ifndef RINGFENCE_CPU_BT_PERFMAP_H
#define RINGFENCE_CPU_BT_PERFMAP_H

#include <stdint.h>

struct err;
struct bt_perfmap;

struct bt_perfmap *bt_perfmap_new(struct err *e);
void bt_perfmap_free(struct bt_perfmap *map);
/* A block's code, `bytes` of it at `code`, is from `rip` in the guest. */
void bt_perfmap_add(struct bt_perfmap *map, uint64_t code, uint64_t bytes, uint64_t rip);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One line for each block: start, size, name. Of code that was replaced, perf takes the last line.
 */
#include "cpu/bt/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

struct bt_perfmap {
    FILE *file;
};

/* In a directory that everybody may write to: never through what somebody else has put there. */
struct bt_perfmap *bt_perfmap_new(struct err *e) {
    cleanup_free char *path = xasprintf("/tmp/perf-%d.map", (int)getpid());
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file) {
        err_set(e, errno, "perf map %s", path);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct bt_perfmap *map = xcalloc(1, sizeof *map);
    map->file = file;
    return map;
}

void bt_perfmap_free(struct bt_perfmap *map) {
    if (!map)
        return;
    fclose(map->file);
    free(map);
}

void bt_perfmap_add(struct bt_perfmap *map, uint64_t code, uint64_t bytes, uint64_t rip) {
    fprintf(map->file, "%" PRIx64 " %" PRIx64 " guest:%" PRIx64 "\n", code, bytes, rip);
}

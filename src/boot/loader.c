/* SPDX-License-Identifier: Apache-2.0 */
/* The steps that loaders share. */
#include "boot/loader.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/e820.h"
#include "boot/image.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

/*
 * An initrd stays where it is until it is unpacked, so it needs room for what is in it as well;
 * twice its size again is a guess that fits compressed ones.
 */
static int no_room(const struct loader *l, uint64_t size, uint64_t limit, struct err *e) {
    unsigned long long mib = 1 << 20, top = MIN(l->place.layout->low_bytes, limit);

    if (top >= PC_HOLE || limit < l->place.layout->low_bytes)
        return err_set(e, 0,
                       "%llu MiB does not fit between the kernel (which ends at 0x%llx) and 0x%llx",
                       (size + mib - 1) / mib, (unsigned long long)l->kernel_end, top);
    return err_set(
        e, 0, "%llu MiB does not fit beside the kernel in %llu MiB of memory; try --memory %lluM",
        (size + mib - 1) / mib, (unsigned long long)l->place.layout->ram_bytes / mib,
        place_advise_mib(l->kernel_end + 3 * size));
}

static int fill_initrd(struct loader *l, int fd, uint64_t size, enum loader_where where,
                       uint64_t limit, struct err *e) {
    uint64_t lo = MAX(l->kernel_end, E820_EXTENDED);
    void *host;

    limit = MIN(limit, PC_HOLE);
    /* Checked first, so that no arithmetic on the size can overflow. */
    if (size > l->place.layout->ram_bytes)
        return no_room(l, size, limit, e);
    host = where == LOADER_HIGH
               ? place_high(&l->place, size, PAGE_SIZE, lo, limit, "initrd", &l->initrd_base)
               : place_low(&l->place, size, PAGE_SIZE, lo, limit, "initrd", &l->initrd_base);
    if (!host)
        return no_room(l, size, limit, e);
    l->initrd_size = size;
    return image_fill(fd, host, size, e);
}

int loader_initrd(struct loader *l, enum loader_where where, uint64_t limit, struct err *e) {
    uint64_t size = 0;
    int r;

    if (!l->initrd)
        return 0;
    cleanup_close int fd = image_open(l->initrd, &size, e);
    r = fd < 0 ? fd : fill_initrd(l, fd, size, where, limit, e);
    l->initrd_failed = r < 0;
    return r < 0 ? err_wrap(e, "initrd %s", l->initrd) : 0;
}

int loader_cmdline(struct loader *l, const char *cmdline, uint64_t max, struct err *e) {
    size_t len = strlen(cmdline);
    char *host;

    if (len > max)
        return err_set(e, 0, "the command line has %zu bytes, this kernel takes at most %llu", len,
                       (unsigned long long)max);
    host = loader_table(l, len + 1, "command line", &l->cmdline_base, e);
    if (!host)
        return -1;
    memcpy(host, cmdline, len + 1);
    return 0;
}

void *loader_table(struct loader *l, uint64_t size, const char *what, uint64_t *base,
                   struct err *e) {
    void *host = place_low(&l->place, size, 64, 0, PC_HOLE, what, base);

    if (!host)
        err_set(e, 0, "no room for the %s", what);
    else
        memset(host, 0, size);
    return host;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's memory: the memfd behind it, the bounded accessors and the copies that cross regions.
 * The map is in map.c, guest accesses to devices in io.c, page flags in track.c.
 */
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fence.h"
#include "base/util.h"
#include "base/where.h"
#include "mem/map.h"

/* Physical memory of the host in bytes; UINT64_MAX when it does not say. */
static uint64_t host_memory(void) {
    uint64_t kib = UINT64_MAX / 1024;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");

    if (!f)
        return UINT64_MAX;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}

/* Memory is committed when it is touched, so more than what is free now is no error. */
static int check_size(uint64_t ram_bytes, uint64_t rom_bytes, struct err *e) {
    uint64_t host = host_memory();
    struct rlimit limit;

    if (!ram_bytes)
        return err_set(e, EINVAL, "a machine cannot do without memory: try --memory 512M");
    if ((ram_bytes | rom_bytes) & PAGE_MASK)
        return err_set(e, EINVAL, "memory of %" PRIu64 " bytes is not a multiple of 4 KiB",
                       ram_bytes & PAGE_MASK ? ram_bytes : rom_bytes);
    if (ram_bytes > host || rom_bytes > host - ram_bytes)
        return err_set(e, ENOMEM,
                       "%" PRIu64 " MiB of memory are more than this host has (%" PRIu64
                       " MiB): try a smaller --memory",
                       ram_bytes >> 20, host >> 20);
    /* The kernel answers a file that is too large with a signal. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        ram_bytes + rom_bytes > limit.rlim_cur)
        return err_set(e, EFBIG,
                       "%" PRIu64 " MiB of memory are more than the file size limit (ulimit -f) "
                       "allows: raise it or try a smaller --memory",
                       ram_bytes >> 20);
    return 0;
}

static int make_backing(struct mem *m, struct err *e) {
    m->memfd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->memfd < 0)
        return err_set(e, errno, "guest memory: memfd_create");
    if (ftruncate(m->memfd, (off_t)m->ram_bytes) < 0)
        return err_set(e, errno, "guest memory of %" PRIu64 " MiB (try a smaller --memory)",
                       m->ram_bytes >> 20);
    if (fcntl(m->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_set(e, errno, "guest memory: seal");

    void *p =
        mmap(NULL, m->ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->memfd, 0);
    if (p == MAP_FAILED)
        return err_set(e, errno, "guest memory of %" PRIu64 " MiB (try a smaller --memory)",
                       m->ram_bytes >> 20);
    m->ram = p;
    return 0;
}

static void init_io_lock(struct mem *m) {
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&m->priv->io_lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

struct mem *mem_new(uint64_t ram_bytes, uint64_t rom_bytes, struct err *e) {
    if (check_size(ram_bytes, rom_bytes, e) < 0)
        return NULL;

    struct mem *m = xcalloc(1, sizeof(*m));
    uint64_t pages = (ram_bytes + rom_bytes) >> PAGE_SHIFT;

    m->ram_bytes = ram_bytes + rom_bytes;
    m->page_flags = xcalloc(pages, sizeof(*m->page_flags));
    m->page_gen = xcalloc(pages, sizeof(*m->page_gen));
    m->priv = xcalloc(1, sizeof(*m->priv));
    m->priv->rom_next = ram_bytes;
    m->priv->code = xcalloc(pages, sizeof(*m->priv->code));
    m->priv->dirty = xcalloc((pages + 63) / 64, sizeof(*m->priv->dirty));
    init_io_lock(m);
    pthread_mutex_init(&m->priv->map_lock, NULL);
    pthread_mutex_init(&m->priv->flags_lock, NULL);
    atomic_init(&m->map, map_new_empty());
    atomic_init(&m->priv->ports, map_new_empty());
    fence_init();
    if (make_backing(m, e) < 0) {
        mem_free(m);
        return NULL;
    }
    return m;
}

void mem_free(struct mem *m) {
    if (!m)
        return;
    if (m->ram)
        munmap(m->ram, m->ram_bytes);
    cleanup_close_fn(&m->memfd);
    map_free(atomic_load(&m->map));
    map_free(atomic_load(&m->priv->ports));
    epoch_reclaim();
    pthread_mutex_destroy(&m->priv->io_lock);
    pthread_mutex_destroy(&m->priv->map_lock);
    pthread_mutex_destroy(&m->priv->flags_lock);
    free(m->priv->dirty);
    free(m->priv->code);
    free(m->priv);
    free(m->page_flags);
    free(m->page_gen);
    free(m);
}

uint64_t mem_alloc_rom(struct mem *m, uint64_t size) {
    uint64_t at = UINT64_MAX;

    pthread_mutex_lock(&m->priv->map_lock);
    uint64_t left = m->ram_bytes - m->priv->rom_next;
    if (size && size <= left) {
        at = m->priv->rom_next;
        m->priv->rom_next += align_up(size, PAGE_SIZE);
    }
    pthread_mutex_unlock(&m->priv->map_lock);
    return at;
}

void mem_io_lock(struct mem *m) {
    where_lock(&m->priv->io_lock);
}

void mem_io_unlock(struct mem *m) {
    pthread_mutex_unlock(&m->priv->io_lock);
}

const void *mem_ptr_r(const struct mem *m, gpa_t gpa, uint64_t len) {
    struct mem_hit hit;

    mem_lookup(m, gpa, &hit);
    return len <= hit.bytes ? hit.host : NULL;
}

void *mem_ptr_w(struct mem *m, gpa_t gpa, uint64_t len) {
    struct mem_hit hit;

    mem_lookup(m, gpa, &hit);
    return hit.kind == MEM_RAM && len <= hit.bytes ? hit.host : NULL;
}

/* Whether every byte of the range is RAM or ROM. */
static bool all_backed(const struct mem *m, uint64_t gpa, uint64_t len) {
    struct mem_hit hit;

    if (len > UINT64_MAX - gpa)
        return false;
    for (; len; gpa += hit.bytes, len -= hit.bytes) {
        mem_lookup(m, GPA(gpa), &hit);
        if (!hit.host)
            return false;
        hit.bytes = MIN(hit.bytes, len);
    }
    return true;
}

/* RAM and ROM stay once they are shown, so that the lookups of both passes agree. */
int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len) {
    uint8_t *to = buf;
    struct mem_hit hit;

    if (!all_backed(m, gpa.v, len))
        return -EFAULT;
    for (; len; gpa.v += hit.bytes, to += hit.bytes, len -= hit.bytes) {
        mem_lookup(m, gpa, &hit);
        hit.bytes = MIN(hit.bytes, len);
        memcpy(to, hit.host, hit.bytes);
    }
    return 0;
}

static int write_backed(struct mem *m, gpa_t gpa, const void *buf, uint64_t len, bool rom) {
    const uint8_t *from = buf;
    struct mem_hit hit;

    if (!all_backed(m, gpa.v, len))
        return -EFAULT;
    for (; len; gpa.v += hit.bytes, from += hit.bytes, len -= hit.bytes) {
        mem_lookup(m, gpa, &hit);
        hit.bytes = MIN(hit.bytes, len);
        if (hit.kind == MEM_ROM && !rom)
            continue;
        memcpy(hit.host, from, hit.bytes);
        mem_wrote(m, hit.host, hit.bytes);
    }
    return 0;
}

int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len) {
    return write_backed(m, gpa, buf, len, false);
}

int mem_write_rom(struct mem *m, gpa_t gpa, const void *buf, uint64_t len) {
    return write_backed(m, gpa, buf, len, true);
}

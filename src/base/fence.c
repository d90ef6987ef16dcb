/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Barriers on behalf of all threads: membarrier(2), MEMBARRIER_CMD_PRIVATE_EXPEDITED. Sandboxes
 * without it get the interrupt that the kernel sends to every processor of the process when a page
 * that was just written loses its write permission.
 */
#include "base/fence.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t page_lock = PTHREAD_MUTEX_INITIALIZER;
static bool have_membarrier;
static volatile uint8_t *page;

static bool membarrier(int cmd) {
    return syscall(SYS_membarrier, cmd, 0, 0) == 0;
}

static void init(void) {
    have_membarrier = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) &&
                      membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);

    void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = p == MAP_FAILED ? NULL : p;
}

void fence_init(void) {
    pthread_once(&once, init);
}

static bool fence_by_mprotect(void) {
    pthread_mutex_lock(&page_lock);
    void *p = (void *)(uintptr_t)page;
    bool ok = p && mprotect(p, 4096, PROT_READ | PROT_WRITE) == 0;
    if (ok) {
        page[0]++;
        ok = mprotect(p, 4096, PROT_READ) == 0;
    }
    pthread_mutex_unlock(&page_lock);
    return ok;
}

void fence_all_threads(void) {
    static struct log_limit limit;

    fence_init();
    if (have_membarrier && membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        return;
    if (!fence_by_mprotect())
        log_guest(&limit, "neither membarrier nor mprotect works: a memory barrier was lost");
}

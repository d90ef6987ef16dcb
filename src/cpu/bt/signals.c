/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults of translated code that mean something: a poll that was told to stop, and a guest's access
 * that is not aligned as it has to be. Markers beside them say where to go on.
 */
#include <signal.h>
#include <ucontext.h>

#include "cpu/bt/bt.h"

#define ALT_STACK (64u << 10)

static struct sigaction previous_segv;
static pthread_once_t segv_once = PTHREAD_ONCE_INIT;
static _Thread_local struct bt_cpu *running;

/* Where a marker (translate.c) says to go on; 0 when there is none at `at`. */
static uint64_t marked(const struct bt_cache *cache, uint64_t at) {
    static const uint8_t marker[4] = {0x0f, 0x1f, 0x84, 0x00};
    const uint8_t *p = (const uint8_t *)(uintptr_t)at;
    int32_t rel;
    if (!bt_cache_holds(cache, at) || memcmp(p, marker, sizeof marker) != 0)
        return 0;
    memcpy(&rel, p + 4, sizeof rel);
    return at + 8 + (uint64_t)(int64_t)rel;
}

/* A poll's store (its marker behind it), or a guest's unaligned access (its marker before it). */
static uint64_t resume_at(const struct bt_cache *cache, uint64_t rip, uint64_t addr) {
    if (!bt_cache_holds(cache, rip))
        return 0;
    return addr == BT_POLL_STOP ? marked(cache, rip + 3) : marked(cache, rip - 8);
}

static void on_segv(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    uint64_t at =
        running ? resume_at(running->cache, (uint64_t)*rip, (uint64_t)(uintptr_t)info->si_addr) : 0;
    if (at)
        *rip = (greg_t)at;
    else /* not ours: happens again, for who was here before */
        sigaction(sig, &previous_segv, NULL);
}

static void install_handler(void) {
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGSEGV, &sa, &previous_segv);
}

void bt_signals_prepare(struct bt_cpu *b) {
    static _Thread_local char stack[ALT_STACK];
    if (running == b)
        return;
    pthread_once(&segv_once, install_handler);
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alt, NULL);
    running = b;
}

struct bt_cpu *bt_running(void) {
    return running;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults of translated code that mean something: a poll that was told to stop, a guest's access
 * that is not aligned as it has to be, a division that has no result. Markers beside them say where
 * to go on.
 */
#include <signal.h>
#include <ucontext.h>

#include "cpu/bt/bt.h"

#define ALT_STACK (64u << 10)

/* linux/signal.h; glibc's headers lack it. */
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static struct sigaction previous_segv, previous_fpe;
static pthread_once_t handlers_once = PTHREAD_ONCE_INIT;
static pthread_key_t stack_key;
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

/* A poll's store (its marker behind it), or a guest's instruction (its marker before it). */
static uint64_t resume_at(const struct bt_cache *cache, uint64_t rip, bool poll) {
    if (!bt_cache_holds(cache, rip))
        return 0;
    return poll ? marked(cache, rip + 3) : marked(cache, rip - 8);
}

/* Not ours: for who was here before. */
static void pass_on(int sig, siginfo_t *info, void *context) {
    const struct sigaction *before = sig == SIGSEGV ? &previous_segv : &previous_fpe;
    if (before->sa_flags & SA_SIGINFO) {
        before->sa_sigaction(sig, info, context);
    } else { /* somebody may have sent it, so that it would not happen again */
        sigaction(sig, before, NULL);
        raise(sig);
    }
}

static void on_fault(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    bool poll = sig == SIGSEGV && (uint64_t)(uintptr_t)info->si_addr == BT_POLL_STOP;
    uint64_t at = running ? resume_at(running->cache, (uint64_t)*rip, poll) : 0;
    if (at)
        *rip = (greg_t)at;
    else
        pass_on(sig, info, context);
}

/* The thread ends: who gave it its signal stack before us (ASan) frees the one that it finds. */
static void restore_stack(void *previous) {
    sigaltstack(previous, NULL);
}

static void install_handlers(void) {
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGSEGV, &sa, &previous_segv);
    sigaction(SIGFPE, &sa, &previous_fpe);
    pthread_key_create(&stack_key, restore_stack);
}

/* The stack pointer is a guest's, which may lie within this very stack: without SS_AUTODISARM the
 * kernel would take that for a signal that is being handled, and go on there. */
static void give_stack(void) {
    static _Thread_local char stack[ALT_STACK];
    static _Thread_local stack_t previous;
    const stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack, .ss_flags = (int)SS_AUTODISARM};
    sigaltstack(&alt, &previous);
    pthread_setspecific(stack_key, &previous);
}

void bt_signals_prepare(struct bt_cpu *b) {
    if (running == b)
        return;
    pthread_once(&handlers_once, install_handlers);
    if (!running)
        give_stack();
    bt_cache_lies(b->cache);
    running = b;
}

struct bt_cpu *bt_running(void) {
    return running;
}
